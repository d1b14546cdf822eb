//! A connected socket: bytes and descriptors, in and out, without blocking the thread.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::DESCRIPTORS_MAX;

/// What one read has brought. No bytes: the other end sends no more.
#[derive(Debug)]
pub(super) struct Received {
    pub length: usize,
    pub descriptors: Vec<OwnedFd>,
}

/// A connected stream socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: AsyncFd<OwnedFd>,
}

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd: crate::readiness::watch(fd, tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE)?,
        })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }

    /// Reads what is there, or waits for it. Dropped, nothing is lost.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> Result<Received, Errno> {
        loop {
            // First the attempt: what is asked for has often come already.
            match receive_now(self.as_fd(), buffer) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
            let mut guard = self.fd.readable().await.map_err(|error| errno_of(&error))?;
            match receive_now(self.as_fd(), buffer) {
                Err(Errno::AGAIN) => guard.clear_ready(),
                other => return other,
            }
        }
    }

    /// Writes all, as fast as the other end reads. The descriptors go with the first byte.
    pub(super) async fn send(&self, mut bytes: &[u8], descriptors: &[OwnedFd]) -> Result<(), Errno> {
        let mut descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        while !bytes.is_empty() {
            match send_now(self.as_fd(), bytes, &descriptors) {
                Ok(length) => {
                    bytes = &bytes[length..];
                    descriptors.clear();
                }
                Err(Errno::AGAIN) => {
                    let mut guard = self.fd.writable().await.map_err(|error| errno_of(&error))?;
                    match send_now(self.as_fd(), bytes, &descriptors) {
                        Ok(length) => {
                            bytes = &bytes[length..];
                            descriptors.clear();
                        }
                        Err(Errno::AGAIN) => guard.clear_ready(),
                        Err(errno) => return Err(errno),
                    }
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// The other end is closed altogether, not only for sending.
    pub(super) fn is_hung_up(&self) -> bool {
        is_hung_up(self.as_fd())
    }

    /// Returns when the other end is closed altogether. Watches by a descriptor of its own, so that the readiness which
    /// readers and writers wait for is not disturbed.
    pub(super) async fn hung_up(&self) -> Result<(), Errno> {
        let watched = self.as_fd().try_clone_to_owned().map_err(|error| errno_of(&error))?;
        let watched = crate::readiness::watch(watched, tokio::io::Interest::WRITABLE)
            .map_err(|error| errno_of(&error))?;
        loop {
            if is_hung_up(self.as_fd()) {
                return Ok(());
            }
            let mut guard = watched.writable().await.map_err(|error| errno_of(&error))?;
            if !is_hung_up(self.as_fd()) {
                guard.clear_ready();
            }
        }
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd.into_inner()
    }
}

fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&fd, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|_| fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR))
}

pub(super) fn receive_now(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(fd, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let descriptors = ancillary
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
            _ => Vec::new(),
        })
        .collect();
    Ok(Received { length: message.bytes, descriptors })
}

pub(super) fn send_now(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOMANYREFS);
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(fd, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
    })
}

pub(super) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// The bytes of a connection after an upgrade, from the first that was not part of the call.
#[derive(Debug)]
pub struct UpgradedStream {
    rest: Vec<u8>,
    stream: tokio::net::UnixStream,
}

impl UpgradedStream {
    pub(super) fn new(rest: Vec<u8>, fd: OwnedFd) -> std::io::Result<Self> {
        let stream = tokio::net::UnixStream::from_std(fd.into())?;
        Ok(Self { rest, stream })
    }
}

impl AsyncRead for UpgradedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.rest.is_empty() {
            let length = self.rest.len().min(buffer.remaining());
            buffer.put_slice(&self.rest[..length]);
            self.rest.drain(..length);
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for UpgradedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
