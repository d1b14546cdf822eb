//! Programs of others that are told something at a socket. They have seconds for it, and not for ever: one that takes no
//! connections, or reads nothing, must not hold a container's start.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects. Whatever is sent is sent in time as well, or fails with EAGAIN.
///
/// # Errors
/// What connect(2) says; ETIMEDOUT for one that takes no connections.
pub fn connect(path: &Path) -> Result<UnixStream, Errno> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?).map_err(late)?;
    Ok(socket.into())
}

/// What an error of a socket with a time limit means.
pub fn late(errno: Errno) -> Errno {
    if errno == Errno::AGAIN { Errno::TIMEDOUT } else { errno }
}
