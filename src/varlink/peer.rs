//! Who is at the other end. Read once per connection, when it is accepted; what it may do is decided elsewhere.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt};

/// The process that has connected, as the kernel knew it at that time (unix(7), SO_PEERCRED).
#[derive(Debug)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process id; another process may have it by now.
    pub pid: i32,
    /// The process itself; `None` where the kernel does not tell (before Linux 6.5).
    pub pidfd: Option<OwnedFd>,
}

impl Peer {
    pub(super) fn of(socket: BorrowedFd<'_>) -> Result<Self, rustix::io::Errno> {
        let credentials = rustix::net::sockopt::socket_peercred(socket)?;
        let pidfd = getsockopt(&socket, sockopt::PeerPidfd).ok();
        Ok(Self {
            uid: credentials.uid.as_raw(),
            gid: credentials.gid.as_raw(),
            pid: credentials.pid.as_raw_nonzero().get(),
            pidfd,
        })
    }
}
