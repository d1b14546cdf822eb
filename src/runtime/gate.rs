//! Where an init waits that was made by one process and is started by another: at a socket that listens.
//!
//! The socket's name lies in a directory that only its owner may enter. Whoever connects says Go, and hears over the same
//! connection what went wrong; the connection closes as the program is executed, which is how it hears that nothing did.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::report::{Message, Report};

/// Returns the connection of whoever has said Go. Others come and go.
///
/// # Errors
/// PIPE if its maker has gone before it said that the container is to wait, so that nobody will ever come.
pub(super) fn wait(gate: &OwnedFd, maker: &Report) -> Result<Report, Errno> {
    match maker.receive() {
        Ok(Message::Go) => {}
        _ => return Err(Errno::PIPE),
    }
    loop {
        match rustix::net::accept_with(gate, SocketFlags::CLOEXEC) {
            Ok(connection) => {
                let report = Report::over(connection);
                if matches!(report.receive(), Ok(Message::Go)) {
                    return Ok(report);
                }
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => return Err(errno),
        }
    }
}
