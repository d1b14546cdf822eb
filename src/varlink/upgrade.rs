//! A connection after its upgrade: a plain stream of bytes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Link;

/// The byte stream that an upgraded call became; see [`super::Call::upgrade`].
///
/// Shutting the writing side down tells the client that nothing more comes; dropping the stream does not close the
/// connection, the end of the call does.
#[derive(Debug)]
pub struct UpgradedStream {
    link: Arc<Link>,
}

impl UpgradedStream {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    /// Another descriptor of the socket, for a process or thread of its own. Nothing has been read ahead.
    ///
    /// The socket is non-blocking, and that is a property which all descriptors of it share.
    ///
    /// # Errors
    /// What `fcntl(2)` says when no descriptor is free.
    pub fn to_std(&self) -> io::Result<UnixStream> {
        let copy: OwnedFd = self.link.socket().as_fd().try_clone_to_owned()?;
        Ok(copy.into())
    }
}

impl AsyncRead for UpgradedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.link.socket();
        loop {
            let mut readable = ready!(socket.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match readable.try_io(|socket| Ok(rustix::io::read(socket, space)?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for UpgradedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.link.socket();
        loop {
            let mut writable = ready!(socket.poll_write_ready(context))?;
            match writable.try_io(|socket| Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(self.link.socket(), Shutdown::Write) {
            Ok(()) | Err(Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(errno) => Poll::Ready(Err(errno.into())),
        }
    }
}
