//! Reading an archive from a descriptor that may never deliver.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a cancelled read may go on waiting, in nanoseconds.
const TICK_NSEC: i64 = 100_000_000;

/// Reads a file, pipe or socket, and notices within 100 ms that the import was cancelled.
///
/// A plain blocking read of a pipe that its writer keeps open, and silent, could never be cancelled.
#[derive(Debug)]
pub struct DescriptorReader<'a> {
    file: File,
    cancelled: &'a AtomicBool,
}

impl<'a> DescriptorReader<'a> {
    /// Takes over `descriptor`; the file offset is where it stands.
    pub fn new(descriptor: OwnedFd, cancelled: &'a AtomicBool) -> Self {
        Self { file: File::from(descriptor), cancelled }
    }
}

impl Read for DescriptorReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK_NSEC };
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(io::Error::other("cancelled"));
            }
            match poll(&mut [PollFd::new(&self.file.as_fd(), PollFlags::IN)], Some(&tick)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => match self.file.read(buffer) {
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    }
                    result => return result,
                },
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
