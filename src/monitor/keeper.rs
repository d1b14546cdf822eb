//! Keeps a payload's terminal open should the monitor die.
//!
//! When the last master of a pty is closed, the kernel hangs the terminal up: the payload gets SIGHUP and ends. A pipe
//! can be its own reader (see [`super::launch`]), a terminal cannot be its own master. So a container with a terminal has a
//! second process: a bare fork of the monitor that sleeps on the payload's pidfd with the master in its hand, and
//! ends with the payload. It reads nothing, so output that nobody takes waits in the terminal. A new monitor finds the
//! master as its descriptor 0.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::event::{PollFd, PollFlags};

use super::state::ProcessRef;
use super::sys::{self, Fork};

/// Starts a keeper for the terminal whose master this is.
///
/// # Errors
/// What fork(2) says.
pub fn start(master: BorrowedFd<'_>, payload: BorrowedFd<'_>) -> io::Result<Option<ProcessRef>> {
    match sys::fork()? {
        Fork::Parent(pid) => Ok(ProcessRef::of(pid)),
        Fork::Child => {
            if sys::become_standard_fd(master, 0).is_err() {
                sys::exit_now(1);
            }
            sys::close_all_but(&[payload.as_raw_fd()]);
            // The name is for people only.
            let _ = rustix::thread::set_name(c"dormouse-keeper");
            let mut poll = [PollFd::from_borrowed_fd(payload, PollFlags::IN)];
            while rustix::event::poll(&mut poll, None) == Err(rustix::io::Errno::INTR) {}
            sys::exit_now(0)
        }
    }
}
