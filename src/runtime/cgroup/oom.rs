//! The kernel's word that memory has run out in a cgroup, as a descriptor to wait on.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::event::{EventfdFlags, PollFlags};

use super::Cgroup;

/// Ready when memory has run out in the cgroup. Where a cgroup below has a limit of its own, v1 says nothing.
#[derive(Debug)]
pub enum OomSignal {
    /// `memory.events`, which changes. It counts what happens below it too.
    V2(File),
    /// An eventfd, at which the kernel counts.
    V1(OwnedFd),
}

impl OomSignal {
    fn new(cgroup: &Cgroup) -> io::Result<Self> {
        let Some(directory) = cgroup.v1("memory") else {
            let directory = cgroup.unified().ok_or(io::ErrorKind::Unsupported)?;
            let signal = Self::V2(File::open(directory.join("memory.events"))?);
            signal.take()?;
            return Ok(signal);
        };
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = File::open(directory.join("memory.oom_control"))?;
        let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        std::fs::write(directory.join("cgroup.event_control"), line)?;
        Ok(Self::V1(event))
    }

    /// What to poll(2), and for what.
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match self {
            Self::V2(file) => (file.as_fd(), PollFlags::PRI),
            Self::V1(event) => (event.as_fd(), PollFlags::IN),
        }
    }

    /// Makes it wait for the next time.
    ///
    /// # Errors
    /// If the cgroup is gone, and there will be no next time.
    pub fn take(&self) -> io::Result<()> {
        match self {
            // Only what was read can change.
            Self::V2(file) => file.read_at(&mut [0; 512], 0).map(drop),
            Self::V1(event) => match rustix::io::read(event, &mut [0; 8]) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
        }
    }
}

impl Cgroup {
    /// A descriptor that tells when memory has run out.
    ///
    /// # Errors
    /// If the host does not count it for this cgroup.
    pub fn oom_signal(&self) -> io::Result<OomSignal> {
        OomSignal::new(self)
    }
}
