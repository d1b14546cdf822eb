//! The way to the socket of the systemd inside.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType},
};
use tokio::net::UnixStream;

use super::{InsideError, enter, within};

const SOCKET_DIRECTORY: &str = "run/systemd";
const SOCKET_NAME: &str = "private";
/// Connects to the socket of the container whose PID 1 is `leader`, and to nobody else's.
///
/// A payload with a file system of its own making can hold a lookup up for as long as it likes: all of it happens
/// in a thread that is left behind, in the worst case until the container ends.
pub(super) async fn connect(leader: i32, pidfd: BorrowedFd<'_>) -> Result<UnixStream, InsideError> {
    let pidfd = pidfd.try_clone_to_owned().map_err(|source| InsideError::Unreachable { source })?;
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("inside".to_owned())
        // If nobody waits any more, the socket is closed with the value that comes back.
        .spawn(move || drop(sender.send(connect_now(leader, pidfd.as_fd()))))
        .map_err(|source| InsideError::Unreachable { source })?;
    let stream = match within("connecting", receiver).await? {
        Ok(stream) => stream?,
        Err(_) => return Err(InsideError::Unreachable { source: io::Error::other("the thread has failed") }),
    };
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.try_into().map_err(|source| InsideError::Unreachable { source })
}

fn connect_now(leader: i32, pidfd: BorrowedFd<'_>) -> Result<OwnedFd, InsideError> {
    let unreachable = |errno: Errno| InsideError::Unreachable { source: errno.into() };
    let own_users = has_own_users(leader)?;
    // The root of the process, as a place to look names up in: also mounts that only the container has.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = match rustix::fs::open(format!("/proc/{leader}/root"), flags, Mode::empty()) {
        Ok(root) => root,
        Err(Errno::NOENT | Errno::SRCH) => return Err(InsideError::NotRunning),
        Err(errno) => return Err(unreachable(errno)),
    };
    // Only now: as long as the process lives, its number is nobody else's, so what was opened is its own.
    check_alive(pidfd)?;
    let directory = open_in_root(root.as_fd(), SOCKET_DIRECTORY, OFlags::PATH | OFlags::DIRECTORY)?;
    let socket = open_in_root(directory.as_fd(), SOCKET_NAME, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = rustix::fs::fstat(&socket).map_err(unreachable)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(InsideError::NotSystemd { reason: "it is not a socket".to_owned() });
    }
    // Not blocking: a queue of connections that is full is EAGAIN.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(unreachable)?;
    enter::connect(pidfd, stream.as_fd(), directory.as_fd(), SOCKET_NAME, own_users)?;
    // Who has called listen(2): nobody but PID 1 may answer, whatever is, or by now was put, at that path.
    let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(unreachable)?;
    if peer.pid.as_raw_nonzero().get() != leader {
        return Err(InsideError::NotSystemd { reason: "another process than PID 1 listens".to_owned() });
    }
    Ok(stream)
}

/// Whether the process has another user namespace than this one: systemd takes orders from uid 0 of its own only.
fn has_own_users(leader: i32) -> Result<bool, InsideError> {
    let theirs = match fs::read_link(format!("/proc/{leader}/ns/user")) {
        Ok(theirs) => theirs,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(InsideError::NotRunning),
        Err(source) => return Err(InsideError::Unreachable { source }),
    };
    let ours = fs::read_link("/proc/self/ns/user").map_err(|source| InsideError::Unreachable { source })?;
    Ok(theirs != ours)
}

fn check_alive(pidfd: BorrowedFd<'_>) -> Result<(), InsideError> {
    match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&Timespec::default())) {
        Ok(0) => Ok(()),
        Ok(_) => Err(InsideError::NotRunning),
        Err(errno) => Err(InsideError::Unreachable { source: errno.into() }),
    }
}

/// Opens a name below the container's root; links lead where they do inside.
fn open_in_root(root: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, InsideError> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // The kernel gives up with EAGAIN when something is renamed during a lookup that needs care; the payload can
    // make that happen at will, so not forever.
    for _ in 0..32 {
        match rustix::fs::openat2(root, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Err(InsideError::NotSystemd { reason: "it does not exist".to_owned() });
            }
            result => return result.map_err(|errno| InsideError::Unreachable { source: errno.into() }),
        }
    }
    Err(InsideError::Unreachable { source: Errno::AGAIN.into() })
}
