//! What a cgroup tells of its use: memory, processor time, processes, and who was killed for want of memory.

use std::io;

use super::{Cgroup, CgroupError, keyed, read, subtree};

impl Cgroup {
    /// How many processes the kernel killed here because memory ran out.
    ///
    /// # Errors
    /// [`CgroupError::ControllerMissing`] without the memory controller.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let Some(directory) = self.v1("memory") else {
            return Ok(self.stat("memory", "memory.events", "oom_kill")?.unwrap_or(0));
        };
        // v1 counts per cgroup, so those that the payload made are added.
        let mut kills = 0;
        for directory in subtree(&directory)? {
            kills += keyed(&read(&directory.join("memory.oom_control"))?, "oom_kill").unwrap_or(0);
        }
        Ok(kills)
    }

    /// Memory in use, in bytes, page cache included.
    ///
    /// # Errors
    /// [`CgroupError::ControllerMissing`] without the memory controller.
    pub fn memory_current_bytes(&self) -> Result<u64, CgroupError> {
        let text = self.controller_file("memory", "memory.usage_in_bytes", "memory.current")?;
        Ok(text.trim().parse().unwrap_or(0))
    }

    /// The memory limit in bytes, `None` for no limit.
    ///
    /// # Errors
    /// [`CgroupError::ControllerMissing`] without the memory controller.
    pub fn memory_max_bytes(&self) -> Result<Option<u64>, CgroupError> {
        let text = self.controller_file("memory", "memory.limit_in_bytes", "memory.max")?;
        // v1 writes "no limit" as the largest multiple of a page that fits.
        Ok(text.trim().parse().ok().filter(|limit: &u64| *limit < (i64::MAX as u64) & !0xffff))
    }

    /// Processor time used so far, in microseconds.
    ///
    /// # Errors
    /// [`CgroupError::File`] when it does not exist.
    pub fn cpu_usage_usec(&self) -> Result<u64, CgroupError> {
        match self.v1("cpuacct") {
            Some(directory) => {
                let text = read(&directory.join("cpuacct.usage"))?;
                Ok(text.trim().parse::<u64>().unwrap_or(0) / 1000)
            }
            None => Ok(self.stat("cpu", "cpu.stat", "usage_usec")?.unwrap_or(0)),
        }
    }

    /// How many processes and threads there are.
    ///
    /// # Errors
    /// [`CgroupError::ControllerMissing`] without the pids controller.
    pub fn pids_current(&self) -> Result<u64, CgroupError> {
        let text = self.controller_file("pids", "pids.current", "pids.current")?;
        Ok(text.trim().parse().unwrap_or(0))
    }

    /// Reads a controller's file, under its name of the version that has the controller.
    fn controller_file(
        &self,
        controller: &'static str,
        v1_name: &str,
        v2_name: &str,
    ) -> Result<String, CgroupError> {
        let missing = || CgroupError::ControllerMissing { controller, setting: v2_name.to_owned() };
        match self.v1(controller) {
            Some(directory) => read(&directory.join(v1_name)),
            None => match read(&self.unified().ok_or_else(missing)?.join(v2_name)) {
                Err(CgroupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    Err(missing())
                }
                other => other,
            },
        }
    }

    fn stat(&self, controller: &'static str, file: &str, key: &str) -> Result<Option<u64>, CgroupError> {
        Ok(keyed(&self.controller_file(controller, file, file)?, key))
    }
}
