//! Who is at the other end of a connection, as the kernel says it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The process that connected: read from the socket once, when the connection is accepted.
///
/// Source: `socket(7)`, `SO_PEERCRED`; `SO_PEERPIDFD` (Linux 6.5).
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its user at the time of `connect(2)`.
    pub uid: u32,
    /// Its group at that time.
    pub gid: u32,
    /// Its process id at that time, 0 if it lives outside our pid namespace; not to be trusted without [`Peer::pidfd`], for pids are used again.
    pub pid: i32,
    pidfd: Option<Arc<OwnedFd>>,
}

impl Peer {
    /// Asks the kernel who is at the other end of `socket`.
    ///
    /// # Errors
    /// What `getsockopt(2)` says, where `socket` is no connected unix socket. A kernel without `SO_PEERPIDFD` is no
    /// error.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        use nix::sys::socket::{getsockopt, sockopt};

        // Not rustix's wrapper: its pid can't be 0, which is what the kernel reports across pid namespaces.
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
        // ENOPROTOOPT before Linux 6.5, ESRCH or EINVAL for a peer that was reaped before we asked: none of them
        // makes the credentials wrong, so the connection is served without a pidfd.
        let pidfd = getsockopt(&socket, sockopt::PeerPidfd).ok();
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid: credentials.pid(),
            pidfd: pidfd.map(Arc::new),
        })
    }

    /// A descriptor for exactly the process that connected; `None` where the kernel is older than 6.5.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(|fd| fd.as_fd())
    }
}
