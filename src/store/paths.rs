//! Where everything lies.

use std::path::{Path, PathBuf};

use super::StoreError;

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
