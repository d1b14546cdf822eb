//! The end of a cgroup, and of all below it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::create::MADE;
use super::{Cgroup, CgroupError, PATIENCE, keyed, read, tree};

impl Cgroup {
    /// Removes it and everything below it, waiting up to two seconds for the last processes to go.
    ///
    /// A cgroup that does not exist counts as removed.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when processes stay; what could be removed is gone then.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.remove_with(|| Ok(()))
    }

    /// As [`Self::remove`], of a cgroup whose processes nobody wants any more: they are killed, and so is who comes meanwhile.
    ///
    /// # Errors
    /// As [`Self::remove`], and as [`Self::kill_all`].
    pub fn kill_and_remove(&self) -> Result<(), CgroupError> {
        self.remove_with(|| self.kill_all(libc::SIGKILL))
    }

    /// `when_busy` is done before each further try.
    fn remove_with(&self, when_busy: impl Fn() -> Result<(), CgroupError>) -> Result<(), CgroupError> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(50);
        let mut left: Vec<PathBuf> =
            self.hierarchies().iter().map(|hierarchy| self.directory(hierarchy)).collect();
        loop {
            let mut failure = None;
            left.retain(|directory| match tree::remove(directory) {
                Ok(()) => false,
                Err(error) => {
                    failure = Some(error);
                    true
                }
            });
            match failure {
                None => return Ok(()),
                Some(CgroupError::Busy { .. }) if Instant::now() < deadline => when_busy()?,
                Some(error) => return Err(error),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Removes the cgroups above it that were made for one below them and hold nothing any more, up to `kept` or to one that
    /// is somebody else's or in use.
    pub fn remove_made_parents(&self, kept: &str) {
        for hierarchy in self.hierarchies() {
            let kept = hierarchy.mount.join(kept.trim_start_matches('/'));
            let mut directory = self.directory(hierarchy);
            while directory.pop() && directory != hierarchy.mount && directory != kept && was_made(&directory)
            {
                // The kernel decides: it may be in use again.
                if std::fs::remove_dir(&directory).is_err() {
                    break;
                }
            }
        }
    }
}

/// Whether it was made for one below it.
fn was_made(directory: &Path) -> bool {
    let mut mark = [0; 8];
    rustix::fs::getxattr(directory, MADE, &mut mark[..]).is_ok()
}

/// Whether processes are in a cgroup or below it.
pub(super) fn is_populated(directory: &Path) -> bool {
    if let Ok(events) = read(&directory.join("cgroup.events")) {
        return keyed(&events, "populated") == Some(1);
    }
    tree::processes(directory).is_ok_and(|processes| !processes.is_empty())
}
