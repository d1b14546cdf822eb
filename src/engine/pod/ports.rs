//! The published ports of a pod are held by the monitors of all its containers: whichever of them ends first, the others go
//! on holding the same sockets.
//!
//! `RUN_DIR/containers/ID/ports` tells which sockets these are, by their inodes. A start in a pod that is up takes copies of
//! them from a monitor that has them.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::process::{ForeignRawFd, PidfdGetfdFlags};

use crate::monitor::state::{ProcessRef, RunState};

use super::super::stop::open_process;
use super::super::{Engine, EngineError, launch};

const PORTS: &str = "ports";

impl Engine {
    pub(super) fn ports_path(&self, id: &str) -> PathBuf {
        self.paths().run_container(id).join(PORTS)
    }

    /// Records which sockets hold the pod's ports.
    pub(super) fn note_ports(&self, id: &str, held: &[OwnedFd]) -> Result<(), EngineError> {
        let inodes = held.iter().filter_map(|socket| rustix::fs::fstat(socket).ok());
        let lines: String = inodes.map(|stat| format!("{}\n", stat.st_ino)).collect();
        launch::write(&self.ports_path(id), lines.as_bytes())
    }

    /// Copies of the sockets that hold the ports of a pod which is up; anew where all who held them were killed.
    pub(in super::super) fn ports_of_pod(&self, id: &str) -> Result<Vec<OwnedFd>, EngineError> {
        let text = std::fs::read_to_string(self.ports_path(id)).unwrap_or_default();
        let wanted: BTreeSet<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        for member in self.store()?.pod_members(id)? {
            let told = RunState::load(&self.paths().run_container(&member.id)).ok().flatten();
            let found = told.map(|told| copies(told.monitor, &wanted)).unwrap_or_default();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let held = self.reserve_again(id)?;
        self.note_ports(id, &held)?;
        Ok(held)
    }
}

/// Those of a process's sockets that are wanted.
fn copies(process: ProcessRef, wanted: &BTreeSet<u64>) -> Vec<OwnedFd> {
    let Some(pidfd) = open_process(process) else { return Vec::new() };
    let entries = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten();
    let copy = |entry: std::fs::DirEntry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        let number: ForeignRawFd = entry.file_name().to_str()?.parse().ok()?;
        if !wanted.contains(&inode) {
            return None;
        }
        let copy = rustix::process::pidfd_getfd(pidfd.as_fd(), number, PidfdGetfdFlags::empty()).ok()?;
        // The number may have become another's meanwhile.
        (rustix::fs::fstat(&copy).ok()?.st_ino == inode).then_some(copy)
    };
    entries.filter_map(copy).collect()
}
