//! The other end of the attach socket, for the engine.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::super::config::ATTACH_SOCKET;
use super::super::socket;
use super::{ATTACH, DETACH, EXITED, FLAG_STDIN, RESIZE};

/// A connection to a monitor. Dropping it detaches.
#[derive(Debug)]
pub struct AttachConnection {
    socket: OwnedFd,
}

impl AttachConnection {
    /// Connects to the monitor of the container whose run directory this is.
    ///
    /// # Errors
    /// ENOENT or ECONNREFUSED when no monitor runs there.
    pub fn connect(run_dir: &Path) -> io::Result<Self> {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let directory = socket::short_path(run_dir)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(directory.join(ATTACH_SOCKET).as_ref())?)?;
        Ok(Self { socket })
    }

    /// Hands the client's stdin, stdout and stderr over. Without `with_stdin` the first is not used.
    ///
    /// # Errors
    /// EPIPE when the monitor has gone.
    pub fn attach(&self, fds: [BorrowedFd<'_>; 3], with_stdin: bool) -> io::Result<()> {
        let flags = if with_stdin { FLAG_STDIN } else { 0 };
        socket::send_with_fds(&self.socket, &[ATTACH, flags], &fds, SendFlags::empty())
    }

    /// Tells the size of the terminal.
    ///
    /// # Errors
    /// EPIPE when the monitor has gone.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let ([r0, r1], [c0, c1]) = (rows.to_le_bytes(), columns.to_le_bytes());
        socket::send_with_fds(&self.socket, &[RESIZE, r0, r1, c0, c1], &[], SendFlags::empty())
    }

    /// Leaves; the payload goes on.
    ///
    /// # Errors
    /// EPIPE when the monitor has gone.
    pub fn detach(self) -> io::Result<()> {
        socket::send_with_fds(&self.socket, &[DETACH], &[], SendFlags::empty())
    }

    /// Waits until the payload has ended and all of its output was delivered; returns its exit code, or `None` if the
    /// monitor went away before.
    ///
    /// To wait among other things, poll the descriptor for input first.
    ///
    /// # Errors
    /// What recvmsg(2) says.
    pub fn wait(&self) -> io::Result<Option<i32>> {
        let mut packet = [0; 16];
        let (length, _) = socket::receive_with_fds(&self.socket, &mut packet, RecvFlags::empty())?;
        Ok(match packet.get(..length) {
            Some(&[EXITED, a, b, c, d]) => Some(i32::from_le_bytes([a, b, c, d])),
            _ => None,
        })
    }
}

impl AsFd for AttachConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
