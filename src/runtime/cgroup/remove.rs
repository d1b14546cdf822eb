//! The end of a cgroup, and of all below it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::create::MADE;
use super::{Cgroup, CgroupError, PATIENCE, is_gone, keyed, read};

impl Cgroup {
    /// Removes it and everything below it, waiting up to two seconds for the last processes to go.
    ///
    /// A cgroup that does not exist counts as removed.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when processes stay; what could be removed is gone then.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(50);
        let mut left: Vec<PathBuf> =
            self.hierarchies().iter().map(|hierarchy| self.directory(hierarchy)).collect();
        loop {
            let mut failure = None;
            left.retain(|directory| match remove_tree(directory) {
                Ok(()) => false,
                Err(error) => {
                    failure = Some(error);
                    true
                }
            });
            match failure {
                None => return Ok(()),
                Some(CgroupError::Busy { .. }) if Instant::now() < deadline => {}
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
    subtree(directory).unwrap_or_default().iter().any(|directory| {
        read(&directory.join("cgroup.procs")).is_ok_and(|processes| !processes.trim().is_empty())
    })
}

/// How many cgroups a payload may have made before nobody looks at more of them.
const SUBTREE_MAX: usize = 1 << 16;

/// A cgroup and all below it, parents before children; empty when it does not exist.
pub(super) fn subtree(directory: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let mut found = vec![directory.to_path_buf()];
    let mut next = 0;
    while let Some(current) = found.get(next).cloned() {
        next += 1;
        let entries = match std::fs::read_dir(&current) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => continue,
            Err(source) => return Err(CgroupError::File { what: "read", path: current, source }),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && found.len() < SUBTREE_MAX {
                found.push(entry.path());
            }
        }
    }
    if !directory.exists() {
        found.clear();
    }
    Ok(found)
}

fn remove_tree(directory: &Path) -> Result<(), CgroupError> {
    // Most have no children, and the first call does it.
    match std::fs::remove_dir(directory) {
        Ok(()) => return Ok(()),
        Err(error) if is_gone(&error) => return Ok(()),
        Err(_) => {}
    }
    for directory in subtree(directory)?.into_iter().rev() {
        match std::fs::remove_dir(&directory) {
            Ok(()) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Err(CgroupError::Busy { path: directory });
            }
            Err(source) => return Err(CgroupError::File { what: "remove", path: directory, source }),
        }
    }
    Ok(())
}
