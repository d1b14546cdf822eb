//! How a new process gets into a cgroup.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::{Cgroup, CgroupError, Version};

/// The open doors of a cgroup, for a process that is about to be made.
#[derive(Debug)]
pub(in super::super) struct Entrance {
    /// The cgroup2 directory, for `CLONE_INTO_CGROUP`.
    pub unified: Option<OwnedFd>,
    /// The `tasks` file of each v1 hierarchy, to which the new process writes `0`.
    pub tasks: Vec<(PathBuf, OwnedFd)>,
}

impl Cgroup {
    /// Opens what a new process needs to enter.
    pub(in super::super) fn entrance(&self) -> Result<Entrance, CgroupError> {
        let mut entrance = Entrance { unified: None, tasks: Vec::new() };
        for hierarchy in self.hierarchies() {
            let directory = self.directory(hierarchy);
            let (path, flags, write) = match hierarchy.version {
                Version::V2 => (directory, libc::O_DIRECTORY, false),
                Version::V1 => (directory.join("tasks"), 0, true),
            };
            let file = OpenOptions::new()
                .read(!write)
                .write(write)
                .custom_flags(flags)
                .open(&path)
                .map_err(|source| CgroupError::File { what: "open", path: path.clone(), source })?;
            match hierarchy.version {
                Version::V2 => entrance.unified = Some(file.into()),
                Version::V1 => entrance.tasks.push((path, file.into())),
            }
        }
        Ok(entrance)
    }

    /// As [`Self::entrance`], for a process that joins one that runs already. On v2 it goes where that one is: a systemd
    /// inside moves itself below, and a cgroup that has children with controllers takes no processes.
    pub(in super::super) fn entrance_beside(&self, leader: i32) -> Result<Entrance, CgroupError> {
        let mut entrance = self.entrance()?;
        let path = PathBuf::from(format!("/proc/{leader}/cgroup"));
        let table = std::fs::read_to_string(&path).map_err(|source| CgroupError::File {
            what: "read",
            path,
            source,
        })?;
        let own = table.lines().find_map(|line| line.strip_prefix("0::/"));
        if let (Some(own), Some(hierarchy)) =
            (own, self.hierarchies().iter().find(|hierarchy| hierarchy.version == Version::V2))
        {
            let path = hierarchy.mount.join(own);
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY)
                .open(&path)
                .map_err(|source| CgroupError::File { what: "open", path, source })?;
            entrance.unified = Some(file.into());
        }
        Ok(entrance)
    }
}
