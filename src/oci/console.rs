//! Terminals: handed to whoever listens at the console socket, or shown at this process's own.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::termios::{OptionalActions, Termios};

use super::error::OciError;
use crate::runtime::peer;

/// A connection to a console socket.
#[derive(Debug)]
pub struct ConsoleSocket {
    stream: UnixStream,
}

impl ConsoleSocket {
    /// Connects, before anything is made that would have to be undone.
    ///
    /// # Errors
    /// [`OciError::Console`].
    pub fn connect(path: &Path) -> Result<Self, OciError> {
        let stream = peer::connect(path).map_err(|errno| OciError::Console {
            what: format!("connect to the console socket {path:?}"),
            source: errno.into(),
        })?;
        Ok(Self { stream })
    }

    /// Hands a terminal over.
    ///
    /// # Errors
    /// [`OciError::Console`].
    pub fn send(self, master: &OwnedFd) -> Result<(), OciError> {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [master.as_fd()];
        let room = control.push(SendAncillaryMessage::ScmRights(&descriptors));
        debug_assert!(room, "there is room for one");
        // Something has to be sent along; others send the master's name.
        let parts = [io::IoSlice::new(b"/dev/ptmx")];
        rustix::net::sendmsg(&self.stream, &parts, &mut control, SendFlags::NOSIGNAL).map(drop).map_err(
            |errno| OciError::Console {
                what: "hand the terminal over".to_owned(),
                source: peer::late(errno).into(),
            },
        )
    }
}

/// Whether the terminal and its socket are there together, or neither is needed.
///
/// # Errors
/// [`OciError::Argument`].
pub fn check(terminal: bool, socket: Option<&Path>, detached: bool) -> Result<(), OciError> {
    let wrong =
        |reason: &str| Err(OciError::Argument { argument: "--console-socket", reason: reason.to_owned() });
    match (terminal, socket) {
        (true, None) if detached => wrong("a container with a terminal that outlives this process needs one"),
        (false, Some(_)) => wrong("the process has no terminal (process.terminal)"),
        _ => Ok(()),
    }
}

/// This process's own terminal, without its own ideas of keys, until this is dropped.
#[derive(Debug)]
pub struct Raw {
    before: Option<Termios>,
}

impl Raw {
    /// Where standard input is a terminal; else nothing is changed.
    pub fn enter() -> Self {
        let input = io::stdin();
        let Ok(before) = rustix::termios::tcgetattr(&input) else { return Self { before: None } };
        let mut raw = before.clone();
        raw.make_raw();
        // If it can't be, keys act here; the container's terminal works all the same.
        let _ = rustix::termios::tcsetattr(&input, OptionalActions::Now, &raw);
        Self { before: Some(before) }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// The size of this process's own terminal, as rows and columns.
pub fn own_size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(io::stdin()).ok()?;
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}
