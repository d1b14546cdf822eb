//! What is known of containers between two calls: a directory for each.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::{OciError, on_file};
use super::process::ProcessRef;
use crate::runtime::Cgroup;
use crate::runtime::hooks::Identity;

const STATE: &str = "state.json";
const SPEC: &str = "config.json";
/// The gate at which a first process waits for its order.
pub const GATE: &str = "start.sock";
const ID_LENGTH_MAX: usize = 200;
/// Whoever changes a container is done with it after this, unless a hook of it does not come to an end.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The directory of all containers.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
}

/// What `state.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The version of the specification that this state complies with.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Its bundle, absolute.
    pub bundle: PathBuf,
    /// The root file system on the host.
    pub rootfs: PathBuf,
    /// Its first process; none before there is one.
    #[serde(default)]
    pub init: Option<ProcessRef>,
    /// When it was made.
    pub created: String,
    /// The user who made it.
    pub owner: u32,
    /// Its cgroup; none for those who may not make any.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// Whether that was there before, and stays.
    #[serde(default)]
    pub cgroup_was_there: bool,
    /// The scope that systemd made.
    #[serde(default)]
    pub scope: Option<String>,
    /// The socket of a service manager that wants to know when the program is ready.
    #[serde(default)]
    pub notify: Option<String>,
    /// As the specification has them.
    #[serde(default)]
    pub annotations: Option<HashMap<String, String>>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is being made, or its making was cut short.
    Creating,
    /// Its first process waits for the order to start.
    Created,
    /// It runs.
    Running,
    /// It stands still.
    Paused,
    /// It has ended.
    Stopped,
}

impl Status {
    /// As the specification has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// One container: its directory, and what is written there.
#[derive(Debug)]
pub struct Container {
    dir: PathBuf,
    /// As last read or written.
    pub record: Record,
    /// Held as long as this is, where it was asked for.
    _lock: Option<OwnedFd>,
}

/// A directory that is removed again, unless a container came of it.
#[derive(Debug)]
pub struct Reservation {
    dir: PathBuf,
    lock: OwnedFd,
    armed: bool,
}

impl Root {
    /// At a place, or at this user's own.
    pub fn new(path: Option<PathBuf>) -> Self {
        let own = || {
            // An engine without root calls from a namespace in which its user is root, and the host's directory is not its own.
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !crate::identity::is_root());
            runtime.map_or_else(|| PathBuf::from("/run"), PathBuf::from).join("dormouse-runtime")
        };
        Self { path: path.unwrap_or_else(own) }
    }

    /// Makes a place for a new container, which nobody else can take.
    ///
    /// # Errors
    /// [`OciError::Exists`], [`OciError::BadId`], [`OciError::File`].
    pub fn reserve(&self, id: &str) -> Result<Reservation, OciError> {
        check_id(id)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(on_file("make the state directory", &self.path))?;
        let dir = self.path.join(id);
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(OciError::Exists { id: id.to_owned() });
            }
            Err(source) => {
                return Err(OciError::File {
                    what: "make a place for the container's state",
                    path: dir,
                    source,
                });
            }
        }
        let lock = lock(&dir).map_err(on_file("lock", &dir))?;
        Ok(Reservation { dir, lock, armed: true })
    }

    /// A container, to be looked at.
    ///
    /// # Errors
    /// [`OciError::NotFound`], [`OciError::BadId`], [`OciError::Json`].
    pub fn container(&self, id: &str) -> Result<Container, OciError> {
        check_id(id)?;
        Container::read(self.path.join(id), id, None)
    }

    /// A container, to be changed: nobody else changes it as long as the answer lives.
    ///
    /// # Errors
    /// [`OciError::NotFound`], [`OciError::BadId`], [`OciError::Json`].
    pub fn container_to_change(&self, id: &str) -> Result<Container, OciError> {
        check_id(id)?;
        let dir = self.path.join(id);
        let lock = match lock(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OciError::NotFound { id: id.to_owned() });
            }
            other => other.map_err(on_file("lock", &dir))?,
        };
        Container::read(dir, id, Some(lock))
    }

    /// Removes what is left of a container whose making was cut short before there was anything to know of it; whether
    /// there was such a thing.
    ///
    /// # Errors
    /// [`OciError::File`].
    pub fn sweep(&self, id: &str) -> Result<bool, OciError> {
        check_id(id)?;
        let dir = self.path.join(id);
        if !dir.is_dir() {
            return Ok(false);
        }
        let _lock = lock(&dir).map_err(on_file("lock", &dir))?;
        if dir.join(STATE).exists() {
            return Ok(false);
        }
        fs::remove_dir_all(&dir).map_err(on_file("remove", &dir))?;
        Ok(true)
    }

    /// All containers, by their ids. What can't be read is left out.
    ///
    /// # Errors
    /// [`OciError::File`].
    pub fn containers(&self) -> Result<Vec<Container>, OciError> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(on_file("list", &self.path))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut containers: Vec<_> = names.filter_map(|id| self.container(&id).ok()).collect();
        containers.sort_by(|one, other| one.record.id.cmp(&other.record.id));
        Ok(containers)
    }
}

impl Reservation {
    /// The container's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps the specification, byte for byte.
    ///
    /// # Errors
    /// [`OciError::File`].
    pub fn keep_spec(&self, text: &[u8]) -> Result<(), OciError> {
        write(&self.dir.join(SPEC), text)
    }

    /// Makes a container of it, which from now on is there.
    ///
    /// # Errors
    /// [`OciError::File`].
    pub fn fill(mut self, record: Record) -> Result<Container, OciError> {
        let lock = self.lock.try_clone().map_err(on_file("lock", &self.dir))?;
        let container = Container { dir: self.dir.clone(), record, _lock: Some(lock) };
        container.save()?;
        self.armed = false;
        Ok(container)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.armed {
            // Half a container is none for anybody, and `delete --force` removes what stays.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Container {
    fn read(dir: PathBuf, id: &str, lock: Option<OwnedFd>) -> Result<Self, OciError> {
        let path = dir.join(STATE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OciError::NotFound { id: id.to_owned() });
            }
            other => other.map_err(on_file("read", &path))?,
        };
        let record = serde_json::from_slice(&text).map_err(|error| OciError::Json {
            path,
            what: "state of a container",
            reason: error.to_string(),
        })?;
        Ok(Self { dir, record, _lock: lock })
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes the record.
    ///
    /// # Errors
    /// [`OciError::File`].
    pub fn save(&self) -> Result<(), OciError> {
        let text = serde_json::to_vec(&self.record).unwrap_or_default();
        write(&self.dir.join(STATE), &text)
    }

    /// The specification that it was made of.
    ///
    /// # Errors
    /// [`OciError::File`], [`OciError::Json`].
    pub fn spec(&self) -> Result<Spec, OciError> {
        super::bundle::read(&self.dir.join(SPEC)).map(|(_, spec, _)| spec)
    }

    /// Its cgroup, if it has one.
    ///
    /// # Errors
    /// [`OciError::Cgroup`].
    pub fn cgroup(&self) -> Result<Option<Cgroup>, OciError> {
        Ok(self.record.cgroup.as_deref().map(Cgroup::open).transpose()?)
    }

    /// Where it is in its life, as the kernel has it.
    pub fn status(&self) -> Status {
        let Some(init) = self.record.init else { return Status::Creating };
        if !init.is_alive() {
            return Status::Stopped;
        }
        if self.dir.join(GATE).exists() {
            return Status::Created;
        }
        let frozen = self.cgroup().ok().flatten().is_some_and(|cgroup| cgroup.frozen().unwrap_or(false));
        if frozen { Status::Paused } else { Status::Running }
    }

    /// What its state tells.
    pub fn identity(&self) -> Identity<'_> {
        Identity {
            id: &self.record.id,
            bundle: &self.record.bundle,
            annotations: self.record.annotations.as_ref(),
        }
    }

    /// Its state, as the specification has it.
    pub fn state(&self, status: Status) -> serde_json::Value {
        let pid = self.record.init.filter(|_| status != Status::Stopped).map(|init| init.pid);
        self.identity().state(status.as_str(), pid)
    }

    /// The error of somebody who wanted it to be something else.
    pub fn wrong(&self, what: &'static str, status: Status, wanted: &'static str) -> OciError {
        OciError::WrongStatus { what, id: self.record.id.clone(), status: status.as_str(), wanted }
    }

    /// Removes what is known of it.
    ///
    /// # Errors
    /// [`OciError::File`].
    pub fn forget(&self) -> Result<(), OciError> {
        // The state first: from then on it is not there, whatever stays.
        for name in [STATE, SPEC, GATE] {
            match fs::remove_file(self.dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(on_file("remove", self.dir.join(name))(error));
                }
                _ => {}
            }
        }
        fs::remove_dir_all(&self.dir).map_err(on_file("remove", &self.dir))
    }
}

/// Ids become names of directories and cgroups.
///
/// # Errors
/// [`OciError::BadId`].
pub fn check_id(id: &str) -> Result<(), OciError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    let good =
        !id.is_empty() && id.len() <= ID_LENGTH_MAX && id.bytes().all(plain) && id != "." && id != "..";
    if good { Ok(()) } else { Err(OciError::BadId { id: id.to_owned() }) }
}

fn lock(dir: &Path) -> io::Result<OwnedFd> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(dir, flags, Mode::empty())?;
        while let Err(errno) = rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            if Instant::now() > deadline || !matches!(errno, Errno::WOULDBLOCK | Errno::INTR) {
                return Err(errno.into());
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        // Whoever had it before may have removed the directory, and another one may have its name now.
        let (ours, named) = (rustix::fs::fstat(&opened)?, rustix::fs::stat(dir)?);
        if (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino) {
            return Ok(opened);
        }
    }
}

/// Replaces a file as a whole.
pub fn write(path: &Path, text: &[u8]) -> Result<(), OciError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    let put = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&new)?;
        file.write_all(text)?;
        fs::rename(&new, path)
    };
    put().map_err(|error| {
        let _ = fs::remove_file(&new);
        on_file("write", path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_names() {
        for good in ["a", "web-1.2_x+y", "..."] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "\u{fc}", "a\0b", &"x".repeat(201)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reservation_that_comes_to_nothing_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::new(Some(place.path().join("root")));
        let reservation = root.reserve("x").unwrap();
        reservation.keep_spec(b"{}").unwrap();
        assert!(matches!(root.reserve("x"), Err(OciError::Exists { .. })));
        assert!(matches!(root.container("x"), Err(OciError::NotFound { .. })));
        drop(reservation);
        assert!(fs::read_dir(place.path().join("root")).unwrap().next().is_none());
    }
}
