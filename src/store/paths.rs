//! Where everything lies.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::StoreError;

/// Two services that take a run directory over from each other, and nothing runs, come to an end soon.
const PAIRING_TRIES: usize = 16;

/// The two directories that the service uses, and the places in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What survives a reboot.
    pub state_dir: PathBuf,
    /// What does not.
    pub run_dir: PathBuf,
}

impl Paths {
    /// Makes both directories, for their owner alone (0700).
    ///
    /// # Errors
    /// [`StoreError::Directory`] where one can't be made or belongs to someone else.
    pub fn prepare(&self) -> Result<(), StoreError> {
        for dir in [&self.state_dir, &self.run_dir] {
            private_directory(dir)?;
        }
        for dir in [
            self.containers(),
            self.volumes(),
            self.secrets(),
            self.run_containers(),
            self.locks(),
            self.namespaces(),
            self.names(),
            self.mounts(),
        ] {
            private_directory(&dir)?;
        }
        Ok(())
    }

    /// Makes sure that the two directories are used with each other alone, as long as there are containers: for a service with
    /// another state directory what runs would be left over, and with another run directory what is recorded would not run. A
    /// link in each, `state-dir` and `run-dir`, leads to the other.
    ///
    /// # Errors
    /// [`StoreError::OtherState`], [`StoreError::OtherRun`]; [`StoreError::Directory`] where a link can't be made or read.
    pub fn pair(&self) -> Result<(), StoreError> {
        let (state_dir, run_dir) = (self.state_dir.clone(), self.run_dir.clone());
        let is_used = |other: &Path| other.exists() && has_entries(&self.run_containers());
        if let Some(other) = bind(&run_dir.join("state-dir"), &state_dir, is_used)? {
            return Err(StoreError::OtherState { run_dir, other });
        }
        let is_used =
            |other: &Path| has_entries(&Self { run_dir: other.to_owned(), ..self.clone() }.run_containers());
        match bind(&state_dir.join("run-dir"), &run_dir, is_used)? {
            Some(other) => Err(StoreError::OtherRun { state_dir, other }),
            None => Ok(()),
        }
    }

    /// A directory that holds what the database tells of, if one does.
    pub(super) fn not_empty(&self) -> Option<PathBuf> {
        let layers = self.state_dir.join("layers");
        let all = [self.containers(), self.volumes(), self.secrets(), layers, self.run_containers()];
        all.into_iter().find(|dir| has_entries(dir))
    }

    /// Makes the directories that builds alone need.
    ///
    /// # Errors
    /// As for [`Self::prepare`].
    pub fn prepare_builds(&self) -> Result<(), StoreError> {
        [self.builds(), self.run_builds(), self.build_caches()]
            .iter()
            .try_for_each(|dir| private_directory(dir))
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.state_dir.join("dormouse.db")
    }

    /// The parent of the containers' durable directories.
    pub fn containers(&self) -> PathBuf {
        self.state_dir.join("containers")
    }

    /// What a container has written.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// The parent of the volumes' directories.
    pub fn volumes(&self) -> PathBuf {
        self.state_dir.join("volumes")
    }

    /// A volume's directory. What it holds is in `data` there, unless it lies elsewhere.
    pub fn volume(&self, id: &str) -> PathBuf {
        self.volumes().join(id)
    }

    /// The parent of the secrets' files.
    pub fn secrets(&self) -> PathBuf {
        self.state_dir.join("secrets")
    }

    /// The file that holds a secret.
    pub fn secret(&self, id: &str) -> PathBuf {
        self.secrets().join(id)
    }

    /// Where roots of containers, and volumes with a file system of their own, are mounted on the host.
    pub fn mounts(&self) -> PathBuf {
        self.run_dir.join("mounts")
    }

    /// The place of one such mount: of a container or a volume.
    pub fn mount(&self, id: &str) -> PathBuf {
        self.mounts().join(id)
    }

    /// The parent of the containers' run directories.
    pub fn run_containers(&self) -> PathBuf {
        self.run_dir.join("containers")
    }

    /// The directory in which a container's monitor works.
    pub fn run_container(&self, id: &str) -> PathBuf {
        self.run_containers().join(id)
    }

    /// The network namespaces that have a name, which is the container's id.
    pub fn namespaces(&self) -> PathBuf {
        self.run_dir.join("netns")
    }

    /// What aardvark-dns serves.
    pub fn names(&self) -> PathBuf {
        self.run_dir.join("names")
    }

    /// What builds work with: layers to be, and contexts.
    pub fn builds(&self) -> PathBuf {
        self.state_dir.join("builds")
    }

    /// What builds must not leave on a disk.
    pub fn run_builds(&self) -> PathBuf {
        self.run_dir.join("builds")
    }

    /// What builds keep for later builds, as by `RUN --mount=type=cache`.
    pub fn build_caches(&self) -> PathBuf {
        self.state_dir.join("build-caches")
    }

    /// The lock files.
    pub fn locks(&self) -> PathBuf {
        self.run_dir.join("locks")
    }

    /// The record of what has happened since boot.
    pub fn events(&self) -> PathBuf {
        self.run_dir.join("events.log")
    }
}

/// Makes a link lead to a directory. Where it leads to another one, and `is_used` says that this counts, that is what comes
/// back.
fn bind(
    link: &Path,
    directory: &Path,
    is_used: impl Fn(&Path) -> bool,
) -> Result<Option<PathBuf>, StoreError> {
    let failed = |source| StoreError::Directory { path: link.to_owned(), source };
    let own = std::path::absolute(directory).map_err(failed)?;
    for _ in 0..PAIRING_TRIES {
        match std::fs::read_link(link) {
            Ok(other) if other == own || is_same(&other, &own) => return Ok(None),
            Ok(other) if is_used(&other) => return Ok(Some(other)),
            Ok(_) => match std::fs::remove_file(link) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        match std::os::unix::fs::symlink(&own, link) {
            // On a full disk what is there is to be used all the same.
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                return Ok(None);
            }
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
            // Read back: another may have been quicker.
            _ => {}
        }
    }
    Err(failed(ErrorKind::ResourceBusy.into()))
}

fn has_entries(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// Whether two paths lead to the same directory.
fn is_same(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::metadata(one), std::fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Makes `dir` with mode 0700 and checks that it is ours: a directory that another user made could be swapped.
fn private_directory(dir: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let error = |source| StoreError::Directory { path: dir.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error)?;
    let metadata = std::fs::symlink_metadata(dir).map_err(error)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() || !metadata.is_dir() {
        return Err(StoreError::NotOurs { path: dir.to_owned() });
    }
    Ok(())
}
