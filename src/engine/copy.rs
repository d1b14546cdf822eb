//! Files into containers and out of them, as tar streams. Everything in a container is hostile, and may change while it is
//! looked at: paths are looked up below its root only, and what was found is held by descriptors.
//!
//! A container that runs is seen through its first process (`/proc/PID/root`), with all that is mounted in it. Of one that
//! does not run, the same layers are mounted where nobody else sees them, with its volumes, binds and images
//! ([`crate::runtime::furnished`]); what would be mounted in memory is not there then.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::image::{DescriptorReader, ImageError, Owners, copy_in, part_tar};
use crate::runtime::furnished::{self, Base, Furnished};
use crate::runtime::{view, with_file_ids};

use super::definition::normal_path;
use super::images::{PatientWriter, from_image_error};
use super::spec::{Mount, MountKind};
use super::volumes::ReadyVolumes;
use super::{Container, Engine, EngineError, users};

/// How often a path is looked up again because something was renamed meanwhile: a container can go on with that for ever.
pub(super) const TRIES: usize = 64;

/// What is at a path of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub struct PathStat {
    pub kind: PathKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size_bytes: i64,
    pub modified_usec: i64,
}

/// What kind of thing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names tell
pub enum PathKind {
    File,
    Directory,
    Link,
    CharacterDevice,
    BlockDevice,
    Fifo,
    Socket,
}

impl Engine {
    /// Tells what is at a path; links are followed inside the container. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::PathNotFound`], [`EngineError::InvalidSpec`].
    pub fn stat_path(&self, name: &str, path: &str) -> Result<PathStat, EngineError> {
        let container = self.find(name)?;
        let seen = self.root_to_read(&container, path)?;
        let found = open(&container, seen.root(), path, OFlags::PATH)?;
        let owners = &seen.owners;
        let stat = rustix::fs::fstat(&found).map_err(|errno| io("look at", path, errno))?;
        let (uid, gid) = owners.inside(stat.st_uid, stat.st_gid);
        Ok(PathStat {
            kind: match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => PathKind::Directory,
                FileType::Symlink => PathKind::Link,
                FileType::CharacterDevice => PathKind::CharacterDevice,
                FileType::BlockDevice => PathKind::BlockDevice,
                FileType::Fifo => PathKind::Fifo,
                FileType::Socket => PathKind::Socket,
                _ => PathKind::File,
            },
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            size_bytes: stat.st_size,
            modified_usec: stat.st_mtime.saturating_mul(1_000_000),
        })
    }

    /// Writes what is at a path as a tar, whose first entry is called `top`, or as the path's last part. Blocks the thread.
    /// Returns the bytes written.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::PathNotFound`], [`EngineError::InvalidSpec`], [`EngineError::Cancelled`],
    /// [`EngineError::Failed`].
    pub fn copy_out(
        &self,
        name: &str,
        path: &str,
        top: Option<&str>,
        to: OwnedFd,
        cancelled: &AtomicBool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, EngineError> {
        let container = self.find(name)?;
        let seen = self.root_to_read(&container, path)?;
        let found = open(&container, seen.root(), path, OFlags::PATH)?;
        let last = Path::new(path).file_name().map_or(".", |name| name.to_str().unwrap_or("."));
        let top = top.unwrap_or(last);
        let has_part_up = Path::new(top).components().any(|part| part == Component::ParentDir);
        if top.is_empty() || top.starts_with('/') || has_part_up || top.contains('\0') {
            return Err(invalid("topName", format!("{top:?} is no name of a thing in an archive")));
        }
        let out = PatientWriter::new(to.into(), cancelled);
        part_tar(found.as_fd(), top.as_bytes(), &seen.owners, out, cancelled, progress).map_err(|error| {
            match error {
                ImageError::Write { .. } if cancelled.load(Ordering::Relaxed) => EngineError::Cancelled,
                error => from_image_error(error),
            }
        })
    }

    /// Unpacks a tar in a directory of a container. Blocks the thread. Returns the bytes read, and warnings.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::PathNotFound`], [`EngineError::InvalidSpec`],
    /// [`EngineError::InvalidArchive`], [`EngineError::Cancelled`]; what was unpacked before an error stays.
    pub fn copy_in(
        &self,
        name: &str,
        directory: &str,
        from: OwnedFd,
        cancelled: &AtomicBool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(u64, Vec<String>), EngineError> {
        let container = self.find(name)?;
        let id = &container.row.id;
        // Held until the end: a start would mount the same layers once more.
        let (seen, _lock) = match self.root_of_running(&container)? {
            Some(root) => (root, None),
            None => {
                let lock = crate::store::lock_object(&self.paths().locks(), id)?;
                match self.root_of_running(&container)? {
                    Some(root) => (root, None),
                    None => (self.root_to_write(&container, directory)?, Some(lock)),
                }
            }
        };
        let (root, owners) = (seen.root(), &seen.owners);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        drop(open(&container, root, directory, flags)?);
        let place = directory.trim_start_matches('/').as_bytes();
        let reader = DescriptorReader::new(from, cancelled);
        let copy = || copy_in(reader, root.as_fd(), place, owners, cancelled, progress);
        let copied = match (owners.user_outside(0), owners.group_outside(0)) {
            // Nobody makes files there who is unknown in its user namespace.
            (Some(uid), Some(gid)) if owners.is_mapped() => {
                with_file_ids(uid, gid, copy).map_err(|errno| io("write to", "/", errno))?
            }
            _ => copy(),
        };
        copied.map_err(|error| match error {
            // Of a full or a read-only file system the caller is told as such.
            ImageError::Entry { entry, source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                EngineError::StorageFull { path: entry.into() }
            }
            error => from_image_error(error),
        })
    }

    fn root_to_read(&self, container: &Container, path: &str) -> Result<Seen<'_>, EngineError> {
        if let Some(seen) = self.root_of_running(container)? {
            return Ok(seen);
        }
        let furniture = self.furniture(container, path)?;
        let own = self.paths().container(&container.row.id);
        let layers = match &container.definition.spec.rootfs {
            Some(rootfs) => vec![rootfs.clone()],
            None => {
                let mut layers = vec![own.join("upper")];
                layers.extend(self.layer_directories(&container.definition)?);
                layers
            }
        };
        if furniture.mounts.is_empty() {
            let root = view::merged(&layers).map_err(|errno| io("look into", "/", errno))?;
            return Ok(Seen::alone(root, Owners::default()));
        }
        let base = match self.mounted_root(container) {
            Some(mounted) => Base::Directory(mounted),
            None => Base::Layers { lower: layers, place: own.join("log") },
        };
        self.furnished(container, &base, furniture)
    }

    fn root_to_write(&self, container: &Container, path: &str) -> Result<Seen<'_>, EngineError> {
        let furniture = self.furniture(container, path)?;
        let own = self.paths().container(&container.row.id);
        let (upper, work) = (own.join("upper"), own.join("work"));
        let base = match (&container.definition.spec.rootfs, self.mounted_root(container)) {
            (Some(rootfs), _) => Base::Directory(rootfs.clone()),
            // Two overlays with the same directory to write to would not see each other's changes.
            (None, Some(mounted)) => Base::Directory(mounted),
            (None, None) => {
                let lower = self.layer_directories(&container.definition)?;
                if furniture.mounts.is_empty() {
                    let root =
                        view::writable(&lower, &upper, &work).map_err(|errno| io("write to", "/", errno))?;
                    return Ok(Seen::alone(root, Owners::default()));
                }
                Base::Writable { lower, upper, work }
            }
        };
        self.furnished(container, &base, furniture)
    }

    /// What would be mounted in a container that does not run, as far as it lies on the host.
    fn furniture(&self, container: &Container, path: &str) -> Result<Furniture<'_>, EngineError> {
        let definition = &container.definition;
        let mounts = definition.mounts();
        let normal = normal_path(path);
        // The last one that covers it is the deepest.
        let covering = mounts.iter().copied().rfind(|mount| normal.starts_with(normal_path(&mount.target)));
        let refused = |target: &str, what: &str| EngineError::Unsupported {
            feature: format!("copying at {path:?} of a container that does not run"),
            reason: format!("{what} is mounted at {target:?} when it does; start it first"),
        };
        let in_memory = |mount: &Mount| -> Result<bool, EngineError> {
            match &mount.kind {
                // What is written there is emptied when it starts.
                _ if mount.overlay => Ok(true),
                MountKind::Tmpfs { .. } => Ok(true),
                MountKind::Volume { .. } => match definition.volumes.get(&mount.target) {
                    Some(id) => Ok(self.find_volume(id)?.is_in_memory()),
                    None => Ok(true),
                },
                MountKind::Bind { .. } | MountKind::Image { .. } => Ok(false),
            }
        };
        if let Some(mount) = covering
            && in_memory(mount)?
        {
            return Err(refused(&mount.target, "a file system in memory, or an overlay,"));
        }
        let mut wanted = Vec::new();
        for mount in mounts {
            let missing =
                matches!(&mount.kind, MountKind::Bind { source, .. } if !Path::new(source).exists());
            if missing && covering.is_some_and(|covering| std::ptr::eq(covering, mount)) {
                return Err(refused(&mount.target, "what is not on the host"));
            }
            if !missing && !in_memory(mount)? {
                wanted.push(mount.target.clone());
            }
        }
        if wanted.is_empty() {
            return Ok(Furniture::default());
        }
        let volumes = self.ready_volumes(container)?;
        let mounts = self.mounts_on_disk(container, &volumes, &wanted)?;
        Ok(Furniture { mounts, volumes: Some(volumes) })
    }

    fn furnished<'a>(
        &self,
        container: &Container,
        base: &Base,
        furniture: Furniture<'a>,
    ) -> Result<Seen<'a>, EngineError> {
        let furnished =
            furnished::furnished(base, &furniture.mounts).map_err(|error| EngineError::Failed {
                attempted: format!("look into {:?}", container.row.name),
                reason: error.to_string(),
            })?;
        // On the disk owners are those inside.
        let owners = Owners::default();
        Ok(Seen { root: Root::Furnished(furnished), owners, _volumes: furniture.volumes })
    }

    /// The root as the first process has it, and who owners there are inside; `None` if none runs.
    fn root_of_running(&self, container: &Container) -> Result<Option<Seen<'_>>, EngineError> {
        let live = self.live(&container.row.id)?;
        let Some(init) = live.told.as_ref().filter(|_| live.phase.is_alive()).and_then(|told| told.init)
        else {
            return Ok(None);
        };
        let path = PathBuf::from(format!("/proc/{}/root", init.pid));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let owners = users::owners(init.pid);
        match rustix::fs::open(&path, flags, Mode::empty()) {
            // After the open: the pid of one that has ended may be another's by now.
            Ok(root) if init.is_alive() => Ok(Some(Seen::alone(root, owners))),
            Ok(_) | Err(Errno::NOENT | Errno::SRCH) => Ok(None),
            Err(errno) => Err(EngineError::io("open", path, errno.into())),
        }
    }
}

/// The root of a container, seen from outside, for as long as this is there.
struct Seen<'a> {
    root: Root,
    /// Who owners there are inside.
    owners: Owners,
    _volumes: Option<ReadyVolumes<'a>>,
}

enum Root {
    Alone(OwnedFd),
    Furnished(Furnished),
}

impl Seen<'_> {
    fn alone(root: OwnedFd, owners: Owners) -> Self {
        Self { root: Root::Alone(root), owners, _volumes: None }
    }

    fn root(&self) -> &OwnedFd {
        match &self.root {
            Root::Alone(root) => root,
            Root::Furnished(furnished) => &furnished.root,
        }
    }
}

/// What is mounted in a container.
#[derive(Default)]
struct Furniture<'a> {
    mounts: Vec<oci_spec::runtime::Mount>,
    volumes: Option<ReadyVolumes<'a>>,
}

fn open(container: &Container, root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, EngineError> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(invalid("path", format!("{path:?} is no absolute path of the container")));
    }
    if Path::new(path).components().any(|part| part == Component::ParentDir) {
        return Err(invalid("path", "a path with '..' is refused; write it without".to_owned()));
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(found) => return Ok(found),
            // Something was renamed anywhere on the machine while `..` of a link was looked up.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOENT) => {
                return Err(EngineError::PathNotFound {
                    name: container.row.name.clone(),
                    path: path.to_owned(),
                });
            }
            Err(Errno::NOTDIR) => {
                return Err(invalid("path", format!("{path:?}, or what is on the way, is no directory")));
            }
            Err(Errno::LOOP) => {
                let reason = format!("links on the way to {path:?} lead in a circle, or through /proc");
                return Err(invalid("path", reason));
            }
            Err(errno) => return Err(io("open", path, errno)),
        }
    }
    Err(EngineError::Failed {
        attempted: format!("open {path:?} in {:?}", container.row.name),
        reason: "files are renamed all the time on the way there; try again".to_owned(),
    })
}

fn invalid(field: &str, reason: String) -> EngineError {
    EngineError::InvalidSpec { field: field.to_owned(), reason }
}

fn io(attempted: &'static str, path: &str, errno: Errno) -> EngineError {
    EngineError::io(attempted, path, errno.into())
}
