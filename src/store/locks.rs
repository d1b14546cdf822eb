//! One lock per object: several processes (two `serve`, a unit's `run`, a clean-up) change things at once.
//!
//! A lock is an flock(2) on a file named after the object, so it goes with its holder however that ends. The last holder
//! removes the file; whoever then holds a lock on a file that is no longer the one of that name tries again.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::StoreError;

/// Holds the right to change one object; gives it back when dropped.
#[derive(Debug)]
#[must_use]
pub struct ObjectLock {
    path: PathBuf,
    _file: File,
}

impl Drop for ObjectLock {
    fn drop(&mut self) {
        // Still locked here, so nobody else can hold a lock on this very file; those who wait for it find it unlinked.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = ?self.path, %error, "cannot remove lock file, ignoring");
        }
    }
}

/// Waits until the object `name` (an id) is ours to change. Blocks the thread.
///
/// # Errors
/// [`StoreError::Lock`] where the lock file can't be made.
pub fn lock_object(dir: &Path, name: &str) -> Result<ObjectLock, StoreError> {
    loop {
        if let Some(lock) = attempt(dir, name, FlockOperation::LockExclusive)? {
            return Ok(lock);
        }
    }
}

/// As [`lock_object`], but gives `None` at once where another holds the lock.
///
/// # Errors
/// As [`lock_object`].
pub fn try_lock_object(dir: &Path, name: &str) -> Result<Option<ObjectLock>, StoreError> {
    attempt(dir, name, FlockOperation::NonBlockingLockExclusive)
}

fn attempt(dir: &Path, name: &str, operation: FlockOperation) -> Result<Option<ObjectLock>, StoreError> {
    let path = dir.join(name);
    let error = |source: std::io::Error| StoreError::Lock { path: path.clone(), source };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&path)
        .map_err(error)?;
    match rustix::fs::flock(&file, operation) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => return Ok(None),
        Err(errno) => return Err(error(errno.into())),
    }
    let ours = file.metadata().map_err(error)?;
    let named = match std::fs::symlink_metadata(&path) {
        Ok(named) => named,
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(other) => return Err(error(other)),
    };
    if (ours.dev(), ours.ino()) != (named.dev(), named.ino()) {
        return Ok(None);
    }
    Ok(Some(ObjectLock { path, _file: file }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn only_one_holder_at_a_time_even_while_the_file_is_removed_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let lock = lock_object(dir.path(), "web").unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::hint::spin_loop();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the lock file is gone");
    }

    #[test]
    fn a_held_lock_is_refused_to_who_does_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_object(dir.path(), "web").unwrap();
        assert!(try_lock_object(dir.path(), "web").unwrap().is_none());
        assert!(try_lock_object(dir.path(), "other").unwrap().is_some());
        drop(held);
        assert!(try_lock_object(dir.path(), "web").unwrap().is_some());
    }
}
