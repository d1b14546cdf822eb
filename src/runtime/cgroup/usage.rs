//! What a cgroup tells of its use: memory, processor time, processes, and who was killed for want of memory.

use std::io;

use super::remove::subtree;
use super::{Cgroup, CgroupError, keyed, read};

/// What a cgroup has used since it was made, and uses now. `None` where the host does not count it: without the
/// controller, or by an older kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub struct Usage {
    pub cpu_usec: Option<u64>,
    pub cpu_user_usec: Option<u64>,
    pub cpu_system_usec: Option<u64>,
    pub cpu_throttled_usec: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub memory_cache_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    pub memory_max_bytes: Option<u64>,
    pub swap_bytes: Option<u64>,
    pub oom_kills: Option<u64>,
    pub pids: Option<u64>,
    pub pids_max: Option<u64>,
    pub io: Option<IoUsage>,
}

/// Traffic with block devices, all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub struct IoUsage {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub read_operations: u64,
    pub write_operations: u64,
}

impl Cgroup {
    /// Everything that this host counts of it, cgroups below included.
    ///
    /// # Errors
    /// [`CgroupError::File`] for a file that is there and can't be read; what does not exist is `None`.
    pub fn usage(&self) -> Result<Usage, CgroupError> {
        let mut usage = Usage::default();
        self.cpu_usage(&mut usage)?;
        self.memory_usage(&mut usage)?;
        let number = |text: Option<String>| text.and_then(|text| text.trim().parse().ok());
        usage.pids = number(self.counter("pids", "pids.current", "pids.current")?);
        usage.pids_max = number(self.counter("pids", "pids.max", "pids.max")?);
        usage.io = self.io_usage()?;
        Ok(usage)
    }

    fn cpu_usage(&self, usage: &mut Usage) -> Result<(), CgroupError> {
        if self.v1("cpuacct").is_some() {
            let usec = |text: Option<String>| Some(text?.trim().parse::<u64>().ok()? / 1000);
            usage.cpu_usec = usec(self.counter("cpuacct", "cpuacct.usage", "")?);
            usage.cpu_user_usec = usec(self.counter("cpuacct", "cpuacct.usage_user", "")?);
            usage.cpu_system_usec = usec(self.counter("cpuacct", "cpuacct.usage_sys", "")?);
            let stat = self.counter("cpu", "cpu.stat", "")?;
            usage.cpu_throttled_usec =
                stat.and_then(|stat| keyed(&stat, "throttled_time")).map(|nsec| nsec / 1000);
        } else if let Some(stat) = self.counter("cpu", "", "cpu.stat")? {
            usage.cpu_usec = keyed(&stat, "usage_usec");
            usage.cpu_user_usec = keyed(&stat, "user_usec");
            usage.cpu_system_usec = keyed(&stat, "system_usec");
            usage.cpu_throttled_usec = keyed(&stat, "throttled_usec");
        }
        Ok(())
    }

    fn memory_usage(&self, usage: &mut Usage) -> Result<(), CgroupError> {
        let number = |text: Option<String>| -> Option<u64> { text?.trim().parse().ok() };
        let is_v1 = self.v1("memory").is_some();
        let Some(current) = number(self.counter("memory", "memory.usage_in_bytes", "memory.current")?) else {
            return Ok(());
        };
        let stat = self.counter("memory", "memory.stat", "memory.stat")?.unwrap_or_default();
        let of = |v1: &str, v2: &str| keyed(&stat, if is_v1 { v1 } else { v2 });
        // What can be dropped at any time without cost is not in use, as every tool of this kind counts.
        let inactive = of("total_inactive_file", "inactive_file").unwrap_or(0);
        usage.memory_bytes = Some(current.saturating_sub(inactive));
        usage.memory_cache_bytes = of("total_cache", "file");
        usage.memory_peak_bytes =
            number(self.counter("memory", "memory.max_usage_in_bytes", "memory.peak")?);
        usage.memory_max_bytes = self.memory_max_bytes()?;
        usage.swap_bytes = if is_v1 {
            keyed(&stat, "total_swap")
        } else {
            number(self.counter("memory", "", "memory.swap.current")?)
        };
        usage.oom_kills = Some(self.oom_kills()?);
        Ok(())
    }

    fn io_usage(&self) -> Result<Option<IoUsage>, CgroupError> {
        if self.v1("blkio").is_none() {
            return Ok(self.counter("io", "", "io.stat")?.as_deref().map(io_of_v2));
        }
        // The scheduler BFQ counts, and newer kernels' throttling only where something is throttled. Where neither does, there
        // is no device in the files, and zeros would be a lie.
        for (bytes, operations) in [
            ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
            ("blkio.bfq.io_service_bytes_recursive", "blkio.bfq.io_serviced_recursive"),
        ] {
            if let (Some(bytes), Some(operations)) =
                (self.counter("blkio", bytes, "")?, self.counter("blkio", operations, "")?)
                && bytes.lines().any(|line| !line.starts_with("Total"))
            {
                return Ok(Some(io_of_v1(&bytes, &operations)));
            }
        }
        Ok(None)
    }

    /// As [`Self::controller_file`]; `None` for a controller, or a file of it, that is not there.
    fn counter(&self, controller: &'static str, v1: &str, v2: &str) -> Result<Option<String>, CgroupError> {
        match self.controller_file(controller, v1, v2) {
            Ok(text) => Ok(Some(text)),
            Err(CgroupError::ControllerMissing { .. }) => Ok(None),
            Err(CgroupError::File { source, .. }) if super::is_gone(&source) => Ok(None),
            Err(error) => Err(error),
        }
    }

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

/// `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`, a line for each device.
fn io_of_v2(text: &str) -> IoUsage {
    let mut usage = IoUsage::default();
    for (key, value) in text.split_whitespace().filter_map(|word| word.split_once('=')) {
        let value = value.parse::<u64>().unwrap_or(0);
        match key {
            "rbytes" => usage.read_bytes += value,
            "wbytes" => usage.written_bytes += value,
            "rios" => usage.read_operations += value,
            "wios" => usage.write_operations += value,
            _ => {}
        }
    }
    usage
}

/// `8:0 Read 512`, a line for each device and kind of operation.
fn io_of_v1(bytes: &str, operations: &str) -> IoUsage {
    let sum = |text: &str, kind: &str| {
        let values = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            (words.next()? == kind).then(|| words.next()?.parse::<u64>().ok())?
        });
        values.sum()
    };
    IoUsage {
        read_bytes: sum(bytes, "Read"),
        written_bytes: sum(bytes, "Write"),
        read_operations: sum(operations, "Read"),
        write_operations: sum(operations, "Write"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_of_all_devices_is_added_up() {
        let v2 = "8:0 rbytes=512 wbytes=4096 rios=1 wios=2 dbytes=9 dios=9\n254:0 rbytes=8 wbytes=0 rios=1 wios=0\n7:0 \n";
        let expected =
            IoUsage { read_bytes: 520, written_bytes: 4096, read_operations: 2, write_operations: 2 };
        assert_eq!(io_of_v2(v2), expected);
        let bytes = "8:0 Read 512\n8:0 Write 4096\n8:0 Sync 1\n254:0 Read 8\nTotal 4616\n";
        let operations = "8:0 Read 1\n8:0 Write 2\n254:0 Read 1\nTotal 4\n";
        assert_eq!(io_of_v1(bytes, operations), expected);
    }
}
