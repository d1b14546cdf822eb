//! What is done to all processes of a cgroup at once.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Cgroup, CgroupError, PATIENCE, keyed, read, tree, write};
use crate::runtime::syscall;

impl Cgroup {
    /// Sends a signal to every process in it and below it. SIGKILL also reaches those that appear meanwhile.
    ///
    /// # Errors
    /// [`CgroupError::File`] when the kernel refuses; a cgroup that does not exist has no processes.
    pub fn kill_all(&self, signal: i32) -> Result<(), CgroupError> {
        if signal == libc::SIGKILL
            && let Some(directory) = self.unified()
        {
            match write(&directory.join("cgroup.kill"), "1") {
                // Without the file (before Linux 5.14) processes are killed one by one.
                Err(CgroupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        // Frozen processes cannot fork away from the list.
        let frozen_before = self.frozen().unwrap_or(false);
        let freezes = signal == libc::SIGKILL && !frozen_before && self.freeze().is_ok();
        let outcome = self.processes().map(|processes| {
            for pid in processes {
                // A process that has gone meanwhile is no failure.
                let _ = syscall::kill(pid, signal);
            }
        });
        if freezes || (frozen_before && signal == libc::SIGKILL) {
            self.thaw()?;
        }
        outcome
    }

    /// Stops every process in it, and waits until they stand still, for two seconds at most.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when they do not stop in time (the request stays), [`CgroupError::File`] otherwise.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + PATIENCE;
        if let Some(directory) = self.unified() {
            write(&directory.join("cgroup.freeze"), "1")?;
        }
        loop {
            if self.unified().is_none() {
                // Processes that were forked meanwhile are caught by writing again.
                write(&self.freezer_state()?, "FROZEN")?;
            }
            if self.frozen()? {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(CgroupError::Busy { path: self.primary() });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    /// [`CgroupError::File`] when the kernel refuses.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        match self.unified() {
            Some(directory) => write(&directory.join("cgroup.freeze"), "0"),
            None => write(&self.freezer_state()?, "THAWED"),
        }
    }

    fn freezer_state(&self) -> Result<PathBuf, CgroupError> {
        self.v1("freezer").map(|directory| directory.join("freezer.state")).ok_or_else(|| {
            CgroupError::ControllerMissing { controller: "freezer", setting: "freezer.state".into() }
        })
    }

    /// Whether every process in it stands still.
    ///
    /// # Errors
    /// [`CgroupError::File`] when it does not exist.
    pub fn frozen(&self) -> Result<bool, CgroupError> {
        match self.unified() {
            Some(directory) => Ok(keyed(&read(&directory.join("cgroup.events"))?, "frozen") == Some(1)),
            None => Ok(read(&self.freezer_state()?)?.trim() == "FROZEN"),
        }
    }

    /// The processes in it and below it, as pids of the caller's pid namespace.
    ///
    /// # Errors
    /// [`CgroupError::File`] when it cannot be read; one that does not exist has no processes.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        if self.hierarchies().is_empty() {
            return Ok(Vec::new());
        }
        tree::processes(&self.primary())
    }
}
