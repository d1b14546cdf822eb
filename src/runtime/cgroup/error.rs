//! What can go wrong with a cgroup.

use std::io;
use std::path::PathBuf;

/// A cgroup that could not be made, read, changed or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// The host has no cgroup file system mounted.
    #[error("no cgroup file system is mounted; mount cgroup2 on /sys/fs/cgroup")]
    NotMounted,
    /// The path is empty, the root, or leaves the hierarchy.
    #[error("{path:?} is not the path of a cgroup")]
    Path {
        /// The path.
        path: String,
    },
    /// A limit needs a controller that the host has not.
    #[error(
        "cannot set {setting}: the controller {controller:?} is not available here; enable it, or drop the limit"
    )]
    ControllerMissing {
        /// The controller.
        controller: &'static str,
        /// The file that would have been written.
        setting: String,
    },
    /// `resources.unified` was given on a host whose controllers are v1's.
    #[error("cannot set {key:?}: this host's controllers are cgroup v1")]
    UnifiedOnV1 {
        /// The key.
        key: String,
    },
    /// A key of `resources.unified` is no file of a controller.
    #[error("{key:?} is not a file of a cgroup v2 controller")]
    UnifiedKey {
        /// The key.
        key: String,
    },
    /// A limit of memory and swap together without, or below, one of memory alone.
    #[error("a limit of {swap} bytes for memory and swap needs a memory limit that is not larger")]
    SwapWithoutMemory {
        /// The limit of both together in bytes.
        swap: i64,
    },
    /// Realtime scheduling cannot be limited on cgroup v2.
    #[error("realtime scheduling limits do not exist on cgroup v2")]
    RealtimeOnV2,
    /// The device rules could not be put into force.
    #[error("cannot restrict the devices of {path:?}")]
    Devices {
        /// The cgroup's directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Something runs in it already, or still.
    #[error("the cgroup {path:?} is in use by other processes")]
    Busy {
        /// The cgroup's directory.
        path: PathBuf,
    },
}

impl CgroupError {
    /// The kernel's answer, where there was one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::File { source, .. } | Self::Devices { source, .. } => source.raw_os_error(),
            Self::Busy { .. } => Some(libc::EBUSY),
            Self::NotMounted
            | Self::Path { .. }
            | Self::ControllerMissing { .. }
            | Self::UnifiedOnV1 { .. }
            | Self::UnifiedKey { .. }
            | Self::SwapWithoutMemory { .. }
            | Self::RealtimeOnV2 => None,
        }
    }
}
