//! The way to the socket of the systemd inside.

use std::{
    fs, io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use zbus::{
    connection::socket::{ReadHalf, Socket, Split, WriteHalf},
    export::async_trait::async_trait,
};

use super::InsideError;

const SOCKET_PATH: &str = "run/systemd/private";
/// Bound for one message: systemd's own list of 10,000 units takes a few MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Bound for everything that is read over one connection.
const TOTAL_BYTES_MAX: usize = 256 << 20;

/// Connects to the socket of the container whose PID 1 is `leader`, and to nobody else's.
pub(super) fn connect(leader: i32, leader_pidfd: BorrowedFd<'_>) -> Result<UnixStream, InsideError> {
    let unreachable = |errno: Errno| InsideError::Unreachable { source: errno.into() };
    check_user_namespace(leader)?;
    // The root of the process, as a place to look names up in: also mounts that only the container has.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = match rustix::fs::open(format!("/proc/{leader}/root"), flags, Mode::empty()) {
        Ok(root) => root,
        Err(Errno::NOENT | Errno::SRCH) => return Err(InsideError::NotRunning),
        Err(errno) => return Err(unreachable(errno)),
    };
    // Only now: as long as the process lives, its number is nobody else's, so what was opened is its own.
    check_alive(leader_pidfd)?;
    let socket = open_socket(&root)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(unreachable)?;
    // By the descriptor, so that it is the socket that was looked at. Not blocking: a full queue is EAGAIN.
    let address =
        SocketAddrUnix::new(format!("/proc/self/fd/{}", socket.as_raw_fd())).map_err(unreachable)?;
    match rustix::net::connect(&stream, &address) {
        Ok(()) => {}
        Err(Errno::CONNREFUSED) => {
            return Err(InsideError::NotSystemd { reason: "nobody listens".to_owned() });
        }
        Err(errno) => return Err(unreachable(errno)),
    }
    // Who has called listen(2): nobody but PID 1 may answer, whatever was put at that path.
    let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(unreachable)?;
    if peer.pid.as_raw_nonzero().get() != leader {
        return Err(InsideError::NotSystemd { reason: "another process than PID 1 listens".to_owned() });
    }
    std::os::unix::net::UnixStream::from(stream)
        .try_into()
        .map_err(|source| InsideError::Unreachable { source })
}

/// systemd takes orders from uid 0 of its own user namespace only, and we are not that one's.
fn check_user_namespace(leader: i32) -> Result<(), InsideError> {
    let theirs = match fs::read_link(format!("/proc/{leader}/ns/user")) {
        Ok(theirs) => theirs,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(InsideError::NotRunning),
        Err(source) => return Err(InsideError::Unreachable { source }),
    };
    let ours = fs::read_link("/proc/self/ns/user").map_err(|source| InsideError::Unreachable { source })?;
    if theirs == ours { Ok(()) } else { Err(InsideError::UserNamespace) }
}

fn check_alive(pidfd: BorrowedFd<'_>) -> Result<(), InsideError> {
    match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&Timespec::default())) {
        Ok(0) => Ok(()),
        Ok(_) => Err(InsideError::NotRunning),
        Err(errno) => Err(InsideError::Unreachable { source: errno.into() }),
    }
}

/// Opens the socket's name, without connecting; links lead where they do inside.
fn open_socket(root: &OwnedFd) -> Result<OwnedFd, InsideError> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The kernel gives up with EAGAIN when something is renamed during a lookup that needs care; the payload can
    // make that happen at will, so not forever.
    for _ in 0..32 {
        match rustix::fs::openat2(root, SOCKET_PATH, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Err(InsideError::NotSystemd { reason: "it does not exist".to_owned() });
            }
            Err(errno) => return Err(InsideError::Unreachable { source: errno.into() }),
            Ok(socket) => {
                let stat = rustix::fs::fstat(&socket)
                    .map_err(|errno| InsideError::Unreachable { source: errno.into() })?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
                    return Err(InsideError::NotSystemd { reason: "it is not a socket".to_owned() });
                }
                return Ok(socket);
            }
        }
    }
    Err(InsideError::Unreachable { source: Errno::AGAIN.into() })
}

/// A socket that takes no message over 16 MiB, no more than 256 MiB in all, and no descriptors.
#[derive(Debug)]
pub(super) struct Bounded(UnixStream);

impl Bounded {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }
}

/// The receiving half of [`Bounded`].
#[derive(Debug)]
pub(super) struct BoundedRead {
    half: OwnedReadHalf,
    total: usize,
}

/// The sending half of [`Bounded`].
#[derive(Debug)]
pub(super) struct BoundedWrite(OwnedWriteHalf);

impl Socket for Bounded {
    type ReadHalf = BoundedRead;
    type WriteHalf = BoundedWrite;

    fn split(self) -> Split<BoundedRead, BoundedWrite> {
        let (read, write) = self.0.into_split();
        Split::new(BoundedRead { half: read, total: 0 }, BoundedWrite(write))
    }
}

#[async_trait]
impl ReadHalf for BoundedRead {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        // zbus asks for exactly what is missing of a message.
        if buffer.len() > MESSAGE_BYTES_MAX || self.total > TOTAL_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it sends more than is allowed"));
        }
        // read(2) instead of recvmsg(2): the kernel then drops descriptors that come along.
        let count = self.half.read(buffer).await?;
        self.total += count;
        Ok((count, Vec::new()))
    }
}

#[async_trait]
impl WriteHalf for BoundedWrite {
    async fn sendmsg(&mut self, buffer: &[u8], _descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.0.write(buffer).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}
