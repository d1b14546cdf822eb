//! Takes over a payload whose monitor has died.
//!
//! Output that has waited since then is read first, so nothing is lost: the pipes are found by their inode
//! numbers among the descriptors of the container's processes, the terminal in the keeper's hand. What cannot be had back
//! is the writing end of a payload's stdin.
//!
//! The payload is no child of the new monitor, so wait(2) does not tell how it ends: its pidfd does (Linux 6.15), or
//! `/proc/PID/stat` as long as nobody has reaped it. Failing both, the exit code is unknown.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use super::launch::{Launched, Streams};
use super::restart::Outcome;
use super::state::{ProcessRef, RunState, read_exit_status};
use super::sys;
use crate::runtime::Cgroup;

/// How long a payload may stay unreaped before its exit code is given up.
const REAPING: Duration = Duration::from_secs(1);

/// Finds the payload that the state tells of; `None` if it has ended.
///
/// # Errors
/// What the kernel says to making a pipe.
pub fn find(state: &RunState) -> io::Result<Option<Launched>> {
    let Some(init) = state.init else { return Ok(None) };
    let Some(pidfd) = open(init) else { return Ok(None) };
    let streams = match state.keeper {
        Some(keeper) => open(keeper)
            .and_then(|keeper| rustix::process::pidfd_getfd(keeper, 0, PidfdGetfdFlags::empty()).ok())
            .map(Streams::Terminal),
        None => None,
    };
    let streams = match streams {
        Some(terminal) => terminal,
        None => {
            let processes = Cgroup::open(&state.cgroup).and_then(|cgroup| cgroup.processes());
            let mut processes = processes.unwrap_or_default();
            processes.insert(0, init.pid);
            let [stdout, stderr] = state.pipes.unwrap_or_default();
            Streams::Pipes {
                stdin: None,
                stdout: find_pipe(&processes, stdout)?,
                stderr: find_pipe(&processes, stderr)?,
            }
        }
    };
    Ok(Some(Launched { init, pidfd, streams, warnings: state.warnings.clone() }))
}

/// Opens a process, and makes sure that it is the one that was meant.
fn open(process: ProcessRef) -> Option<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    process.is_alive().then_some(pidfd)
}

/// Opens the pipe with that inode number for reading; one that is at its end if nobody has it any more.
fn find_pipe(processes: &[i32], inode: u64) -> io::Result<OwnedFd> {
    let (ended, writer) = io::pipe()?;
    let pipes_device = rustix::fs::fstat(&ended)?.st_dev;
    drop(writer);
    let wanted = format!("pipe:[{inode}]");
    for pid in processes {
        let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for path in fds.flatten().map(|fd| fd.path()) {
            if !std::fs::read_link(&path).is_ok_and(|target| target.as_os_str() == wanted.as_str()) {
                continue;
            }
            // The payload may put another file in its place at any moment: nothing is opened that was not looked at.
            let Ok(handle) = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
                continue;
            };
            let stat = rustix::fs::fstat(&handle)?;
            let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
            if !is_pipe || stat.st_ino != inode || stat.st_dev != pipes_device {
                continue;
            }
            let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            return Ok(rustix::fs::open(path, flags, Mode::empty())?);
        }
    }
    Ok(ended.into())
}

/// How a payload that is no child of ours ended, after its pidfd became readable.
pub fn outcome(init: ProcessRef, pidfd: &OwnedFd, systemd_mode: bool) -> Outcome {
    let deadline = Instant::now() + REAPING;
    let status = loop {
        if let Some(status) = read_exit_status(init).or_else(|| sys::pidfd_exit_status(pidfd)) {
            break Some(status);
        }
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { break None };
        // The hang-up comes with the reaping.
        let mut poll = [PollFd::new(pidfd, PollFlags::empty())];
        let left = Timespec::try_from(left.min(Duration::from_millis(20))).unwrap_or_default();
        if rustix::event::poll(&mut poll, Some(&left)).is_ok_and(|ready| ready > 0) {
            break sys::pidfd_exit_status(pidfd);
        }
    };
    match status {
        Some(status) if status & 0x7f == 0 => Outcome::exited((status >> 8) & 0xff),
        Some(status) => Outcome::signaled(status & 0x7f, systemd_mode),
        None => Outcome::unknown(),
    }
}
