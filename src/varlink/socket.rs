//! Messages and descriptors through a unix stream socket: the part that client and server have in common.
//!
//! Reading looks first (`MSG_PEEK`) and then takes exactly the bytes up to the NUL. That costs a system call per
//! message, and buys two things. Descriptors belong to the right message: the kernel glues the bytes before a
//! `SCM_RIGHTS` packet to it, so a reader who takes what comes can't tell whose they are (`unix(7)`, "Ancillary
//! messages"). And nothing is ever read that belongs to an upgraded stream or to a later call.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};

use super::wire::{Framer, MESSAGE_FDS_MAX, WireError};

/// How much is looked at in one go: most messages are shorter, and it lives on the stack.
const WINDOW: usize = 8 * 1024;

/// A message with what came along.
#[derive(Debug)]
pub(super) struct Message {
    /// The text, without its NUL.
    pub(super) text: Vec<u8>,
    /// The descriptors that came with any of its bytes, close-on-exec.
    pub(super) fds: Vec<OwnedFd>,
}

/// Why no message could be received.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    /// The bytes are no varlink message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The kernel could not deliver all descriptors; most likely we have too many open.
    #[error("descriptors of a message were lost on the way, most likely because too many are open here")]
    DescriptorsLost,
    /// The peer left in the middle of a message.
    #[error("the peer left in the middle of a message")]
    CutOff,
    /// The socket failed; `WouldBlock` where it has nothing to read at the moment.
    #[error(transparent)]
    Socket(#[from] io::Error),
}

impl ReceiveError {
    /// Whether there is only nothing to read at the moment.
    pub(super) fn would_block(&self) -> bool {
        matches!(self, Self::Socket(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A message on its way in.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    framer: Framer,
    fds: Vec<OwnedFd>,
}

impl Incoming {
    /// Whether part of a message has come.
    pub(super) fn is_partial(&self) -> bool {
        !self.framer.is_empty()
    }

    /// Reads from `socket` until a message is complete; `None` at the orderly end of the stream.
    ///
    /// On `WouldBlock` what has been read is kept, and the next call goes on from there.
    pub(super) fn read(&mut self, socket: BorrowedFd<'_>) -> Result<Option<Message>, ReceiveError> {
        let mut window = [0; WINDOW];
        loop {
            let (_, seen) = retry(|| recv(socket, &mut window[..], RecvFlags::PEEK))?;
            if seen == 0 {
                return if self.framer.is_empty() { Ok(None) } else { Err(ReceiveError::CutOff) };
            }
            let wanted = self.framer.measure(&window[..seen])?;
            let taken = self.take(socket, &mut window[..wanted])?;
            let (_, message) = self.framer.push(&window[..taken])?;
            if let Some(text) = message {
                return Ok(Some(Message { text, fds: std::mem::take(&mut self.fds) }));
            }
        }
    }

    /// Receives at most `window` bytes, and the descriptors that come with them.
    fn take(&mut self, socket: BorrowedFd<'_>, window: &mut [u8]) -> Result<usize, ReceiveError> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MESSAGE_FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            retry(|| recvmsg(socket, &mut [IoSliceMut::new(window)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                let room = MESSAGE_FDS_MAX - self.fds.len();
                // The surplus is closed by being dropped.
                self.fds.extend(fds.enumerate().filter_map(|(index, fd)| (index < room).then_some(fd)));
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ReceiveError::DescriptorsLost);
        }
        Ok(received.bytes)
    }
}

/// A message on its way out: text with its NUL, and descriptors that go with the first byte.
#[derive(Debug)]
pub(super) struct Outgoing {
    text: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl Outgoing {
    /// `text` ends with its NUL; at most [`MESSAGE_FDS_MAX`] descriptors.
    pub(super) fn new(text: Vec<u8>, fds: Vec<OwnedFd>) -> Self {
        debug_assert!(text.last() == Some(&0) && fds.len() <= MESSAGE_FDS_MAX);
        Self { text, sent: 0, fds }
    }

    /// Writes to `socket` until all is sent, or an error such as `WouldBlock`; the next call goes on from there.
    pub(super) fn write(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while self.sent < self.text.len() {
            let borrowed: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
            self.sent += send(socket, &self.text[self.sent..], &borrowed)?;
            self.fds.clear();
        }
        Ok(())
    }
}

/// Sends some of `bytes`, at least one, with all of `fds` (at most [`MESSAGE_FDS_MAX`]); never raises SIGPIPE.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MESSAGE_FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    retry(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))
}

/// Repeats a system call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}
