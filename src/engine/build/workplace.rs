//! Where a build works: a directory on the disk and one in memory, both gone with it.
//!
//! ```text
//! STATE/builds/ID/         context/: an archive that came as the context; N/: upper, work and mount of a step
//! RUN/builds/ID/           secrets
//! ```
//!
//! Whoever builds holds the lock `build-ID`. What has no holder any more is swept at the next wake, and so are containers
//! of its steps, which are called `_build-ID-N`: no user can give such a name.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mount::UnmountFlags;

use crate::engine::remove::remove_tree;
use crate::engine::sweep::entries;
use crate::engine::{Engine, EngineError, names};
use crate::store::{ObjectLock, try_lock_object};

const STEP_PREFIX: &str = "_build-";
const ID_DIGITS: usize = 16;

/// Whether a container is the step of a build.
pub(in crate::engine) fn is_step(name: &str) -> bool {
    name.starts_with(STEP_PREFIX)
}

/// The build that a step belongs to.
fn build_of(name: &str) -> Option<&str> {
    name.strip_prefix(STEP_PREFIX)?.get(..ID_DIGITS)
}

fn lock_name(id: &str) -> String {
    format!("build-{id}")
}

/// The directories of a build, removed when this is dropped.
#[derive(Debug)]
pub(super) struct Workplace {
    id: String,
    disk: PathBuf,
    memory: PathBuf,
    next: AtomicUsize,
    _lock: ObjectLock,
}

impl Workplace {
    pub fn make(engine: &Engine) -> Result<Self, EngineError> {
        engine.paths().prepare_builds()?;
        let id = names::new_id()?[..ID_DIGITS].to_owned();
        // A name that nobody else has: the lock is free.
        let lock = crate::store::lock_object(&engine.paths().locks(), &lock_name(&id))?;
        let place = Self {
            disk: engine.paths().builds().join(&id),
            memory: engine.paths().run_builds().join(&id),
            next: AtomicUsize::new(1),
            id,
            _lock: lock,
        };
        for dir in [&place.disk, &place.memory] {
            make_directory(dir, 0o700)?;
        }
        Ok(place)
    }

    /// The name of the next container.
    pub fn container_name(&self) -> String {
        format!("{STEP_PREFIX}{}-{}", self.id, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A new directory on the disk.
    pub fn directory(&self) -> Result<StepDirectory, EngineError> {
        let path = self.disk.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        make_directory(&path, 0o700)?;
        Ok(StepDirectory { path })
    }

    /// The place of the context, if it comes as an archive.
    pub fn context(&self) -> Result<PathBuf, EngineError> {
        let path = self.disk.join("context");
        make_directory(&path, 0o755)?;
        Ok(path)
    }

    /// A new file in memory, for whoever runs in a container to read.
    pub fn secret(&self, content: &[u8], mode: u32, owner: (u32, u32)) -> Result<SecretFile, EngineError> {
        use std::io::Write as _;
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        let path = self.memory.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let failed = |source| EngineError::io("write", &path, source);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let secret = SecretFile { path: path.clone() };
        file.write_all(content).map_err(failed)?;
        std::os::unix::fs::fchown(&file, Some(owner.0), Some(owner.1)).map_err(failed)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        Ok(secret)
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        remove(&self.disk);
        remove(&self.memory);
    }
}

/// A secret in memory, as long as the step lasts.
#[derive(Debug)]
pub(super) struct SecretFile {
    pub path: PathBuf,
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = ?self.path, %error, "cannot remove a secret, left for the end of the build");
        }
    }
}

/// A directory of one step; removed when this is dropped, with what is mounted in it.
#[derive(Debug)]
pub(super) struct StepDirectory {
    pub path: PathBuf,
}

impl StepDirectory {
    /// A directory in it.
    pub fn make(&self, name: &str, mode: u32) -> Result<PathBuf, EngineError> {
        let path = self.path.join(name);
        make_directory(&path, mode)?;
        Ok(path)
    }
}

impl Drop for StepDirectory {
    fn drop(&mut self) {
        unmount_in(&self.path);
        remove_tree(&self.path);
    }
}

/// In a step's directory: where something is mounted.
pub(super) const MOUNT: &str = "mount";

fn make_directory(path: &Path, mode: u32) -> Result<(), EngineError> {
    std::fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .map_err(|source| EngineError::io("make directory", path, source))
}

/// Nothing that is mounted may be taken for files to be removed.
fn unmount_in(step: &Path) {
    let mount = step.join(MOUNT);
    if mount.exists() {
        // EINVAL: nothing is mounted there.
        let _ = rustix::mount::unmount(&mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
}

fn remove(dir: &Path) {
    if dir.exists() {
        for name in entries(dir) {
            unmount_in(&dir.join(name));
        }
        remove_tree(dir);
    }
}

impl Engine {
    /// Removes what builds have left whose process is gone. Of their containers only the records: the rest has none then.
    pub(in crate::engine) fn sweep_builds(&self) -> Result<(), EngineError> {
        let locks = self.paths().locks();
        for row in self.store()?.containers()? {
            let Some(build) = build_of(&row.name) else { continue };
            let Some(_build_lock) = try_lock_object(&locks, &lock_name(build))? else { continue };
            let Some(_lock) = try_lock_object(&locks, &row.id)? else { continue };
            self.store()?.delete_container(&row.id)?;
        }
        for parent in [self.paths().builds(), self.paths().run_builds()] {
            if !parent.exists() {
                continue;
            }
            for id in entries(&parent) {
                if let Some(_lock) = try_lock_object(&locks, &lock_name(&id))? {
                    tracing::info!(id, "removing what an interrupted build left");
                    remove(&parent.join(id));
                }
            }
        }
        Ok(())
    }

    /// Removes what `RUN --mount=type=cache` keeps, unless a build is at work.
    pub(in crate::engine) fn remove_build_caches(&self) {
        let (caches, builds) = (self.paths().build_caches(), self.paths().builds());
        if !caches.exists() || !entries(&builds).is_empty() {
            return;
        }
        for name in entries(&caches) {
            remove_tree(&caches.join(name));
        }
    }
}
