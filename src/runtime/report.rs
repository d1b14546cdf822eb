//! What the process that is being made tells the one that makes it, over a SOCK_SEQPACKET socket that closes at exec:
//! warnings, the terminal's master, that it is ready, or the first failure. The end of the connection after the order to
//! start means that the program runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::{RuntimeError, Step};

const PACKET_MAX_BYTES: usize = 8 << 10;

/// One packet.
#[derive(Debug)]
pub(super) enum Message {
    Warning(String),
    Console(OwnedFd),
    /// The process that goes on in place of the one that tells, by a pidfd.
    Successor(OwnedFd),
    /// The notification descriptor of the seccomp filter that is in force now.
    Notify(OwnedFd),
    /// All is there but the root's change: now is the time for hooks of the runtime's side. Go answers it.
    Hooks,
    Ready,
    /// To the child: it is known, or the program may run.
    Go,
    Failed {
        step: Step,
        errno: i32,
        what: String,
    },
    End,
}

/// One end of the connection.
#[derive(Debug)]
pub(super) struct Report {
    socket: OwnedFd,
}

impl Report {
    pub fn pair() -> Result<(Self, Self), Errno> {
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: one }, Self { socket: other }))
    }

    /// Over a connection that was made elsewhere.
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The same connection under a number that is out of the way of a payload's descriptors.
    pub fn moved(report: &Self) -> Result<Self, Errno> {
        Ok(Self { socket: out_of_the_way(report.socket.as_fd())? })
    }

    /// For who closes all others.
    pub fn as_raw_fd(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.socket)
    }

    pub fn send(&self, message: &Message) -> Result<(), Errno> {
        let mut bytes = Vec::new();
        let mut fds: Vec<BorrowedFd<'_>> = Vec::new();
        match message {
            Message::Warning(text) => {
                bytes.push(b'W');
                bytes.extend_from_slice(text.as_bytes());
            }
            Message::Console(master) => {
                bytes.push(b'C');
                fds.push(master.as_fd());
            }
            Message::Successor(process) => {
                bytes.push(b'S');
                fds.push(process.as_fd());
            }
            Message::Notify(listener) => {
                bytes.push(b'N');
                fds.push(listener.as_fd());
            }
            Message::Hooks => bytes.push(b'H'),
            Message::Ready => bytes.push(b'R'),
            Message::Go => bytes.push(b'G'),
            Message::Failed { step, errno, what } => {
                bytes.extend_from_slice(&[b'F', *step as u8]);
                bytes.extend_from_slice(&errno.to_le_bytes());
                bytes.extend_from_slice(what.as_bytes());
            }
            Message::End => return Ok(()),
        }
        bytes.truncate(PACKET_MAX_BYTES);
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::INVAL);
        }
        rustix::net::sendmsg(
            &self.socket,
            &[std::io::IoSlice::new(&bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    pub fn receive(&self) -> Result<Message, Errno> {
        let mut buffer = [0; PACKET_MAX_BYTES];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
            rustix::net::recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let length = match received {
            Ok(message) => message.bytes,
            Err(Errno::CONNRESET) => 0,
            Err(errno) => return Err(errno),
        };
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let text = |from: usize| String::from_utf8_lossy(&buffer[from.min(length)..length]).into_owned();
        match (&buffer[..length], fd) {
            ([], _) => Ok(Message::End),
            ([b'W', ..], _) => Ok(Message::Warning(text(1))),
            ([b'C'], Some(master)) => Ok(Message::Console(master)),
            ([b'S'], Some(process)) => Ok(Message::Successor(process)),
            ([b'N'], Some(listener)) => Ok(Message::Notify(listener)),
            ([b'H'], _) => Ok(Message::Hooks),
            ([b'R'], _) => Ok(Message::Ready),
            ([b'G'], _) => Ok(Message::Go),
            ([b'F', step, a, b, c, d, ..], _) => Ok(Message::Failed {
                step: Step::from_number(*step).ok_or(Errno::PROTO)?,
                errno: i32::from_le_bytes([*a, *b, *c, *d]),
                what: text(6),
            }),
            _ => Err(Errno::PROTO),
        }
    }
}

/// The same descriptor under a number that a payload's descriptors do not take.
pub(super) fn out_of_the_way(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const OUT_OF_THE_WAY: i32 = 512;
    // The payload's own limit may be in force already, and no number may reach it.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let highest =
        limit.and_then(|limit| i32::try_from(limit).ok()).map_or(i32::MAX, |limit| limit.saturating_sub(8));
    super::syscall::duplicate_above(fd, OUT_OF_THE_WAY.min(highest))
}

/// A reported failure, as callers get it.
pub(super) fn to_error(step: Step, errno: i32, what: String, program: &str) -> RuntimeError {
    if step == Step::Exec {
        let program = program.to_owned();
        return match errno {
            libc::ENOENT | libc::ENOTDIR => RuntimeError::CommandNotFound { program, errno },
            _ => RuntimeError::CommandNotExecutable { program, errno },
        };
    }
    if step == Step::Hooks {
        return RuntimeError::Hook { reason: what };
    }
    RuntimeError::Init { step, what, errno }
}
