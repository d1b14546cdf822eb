//! Sockets in a run directory, and messages with descriptors over them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// No message carries more descriptors.
pub const FDS_MAX: usize = 8;

/// A way to name what is in `directory` that fits into a socket address, whose limit is 107 bytes.
#[derive(Debug)]
pub struct ShortPath {
    directory: OwnedFd,
}

/// Opens `directory` so that its sockets can be bound and connected to, however long its name is.
///
/// # Errors
/// What open(2) says.
pub fn short_path(directory: &Path) -> io::Result<ShortPath> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(ShortPath { directory: rustix::fs::open(directory, flags, Mode::empty())? })
}

impl ShortPath {
    /// The descriptor's number, for a name that another process can use (`/proc/PID/fd/NUMBER/…`).
    pub fn as_raw_fd(&self) -> i32 {
        self.directory.as_raw_fd()
    }

    /// The short name of `name`, for as long as this lives and in this process only.
    pub fn join(&self, name: &str) -> Named<'_> {
        Named { path: format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()).into(), _of: self }
    }
}

/// A short name; borrowed from the directory that it leads through.
#[derive(Debug)]
pub struct Named<'a> {
    path: PathBuf,
    _of: &'a ShortPath,
}

impl AsRef<Path> for Named<'_> {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl std::ops::Deref for Named<'_> {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.path
    }
}

/// Sends one message with descriptors.
///
/// # Errors
/// What sendmsg(2) says; EINVAL for more than [`FDS_MAX`] descriptors.
pub fn send_with_fds(
    socket: impl AsFd,
    message: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, flags | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message with its descriptors, which are close-on-exec; 0 bytes mean the end of the connection.
///
/// # Errors
/// What recvmsg(2) says.
pub fn receive_with_fds(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        flags | RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes, fds))
}
