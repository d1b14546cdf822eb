//! Bytes between a client's frames and a payload, and keys that detach.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use crate::varlink::UpgradedStream;

use super::frames::{self, FromClient};

/// What a client sends to be rid of a terminal.
const DETACH_KEYS: &str = "ctrl-p,ctrl-q";
const CHUNK_BYTES: usize = 32 << 10;

/// Where the client's bytes go.
pub(super) enum Input {
    Pipe(pipe::Sender),
    Terminal(Arc<Terminal>),
    /// The payload wants none.
    None,
}

/// Where the payload's bytes come from.
pub(super) enum Output {
    Pipe(pipe::Receiver),
    Terminal(Arc<Terminal>),
}

/// The master side of a terminal.
pub(super) struct Terminal(AsyncFd<OwnedFd>);

/// How a session came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The payload writes no more.
    Output,
    /// By the keys for it.
    Detached,
    /// The client has gone.
    Left,
}

/// Keys that end a session and not the payload.
pub(super) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q`, or single characters; nothing is the usual.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = if text.is_empty() { DETACH_KEYS } else { text };
        let key = |word: &str| match word.strip_prefix("ctrl-") {
            Some(letter) => match letter.as_bytes() {
                [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
                [letter @ (b'@' | b'['..=b'_')] => Some(letter - b'@'),
                _ => None,
            },
            None => match word.as_bytes() {
                [letter] if letter.is_ascii_graphic() => Some(*letter),
                _ => None,
            },
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        let keys = keys.ok_or_else(|| {
            format!("{text:?} are no keys; characters and ctrl-CHARACTER are, separated by commas")
        })?;
        Ok(Self { keys, matched: 0 })
    }

    /// What of the bytes is for the payload, and whether the keys were among them.
    fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut kept = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (kept, true);
                }
                continue;
            }
            // The beginning of the keys was something else.
            kept.extend(&self.keys[..self.matched]);
            self.matched = usize::from(*byte == self.keys[0]);
            if self.matched == 0 {
                kept.push(*byte);
            } else if self.keys.len() == 1 {
                return (kept, true);
            }
        }
        (kept, false)
    }
}

impl Terminal {
    pub(super) fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Self(crate::readiness::watch(master, Interest::READABLE | Interest::WRITABLE)?))
    }

    /// Sets its size, in characters.
    pub(super) fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // Refused only when the other side has gone.
        let _ = rustix::termios::tcsetwinsize(self.0.get_ref().as_fd(), size);
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(written) => bytes = &bytes[written?..],
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

impl Output {
    /// Empty at the end.
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.read(buffer).await,
            Self::Terminal(terminal) => loop {
                let mut ready = terminal.0.readable().await?;
                match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut *buffer)?)) {
                    // How the master of a terminal says that nobody has its other side any more.
                    Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(0),
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(result) => return result,
                    Err(_would_block) => {}
                }
            },
        }
    }
}

impl Input {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(bytes).await,
            Self::Terminal(terminal) => terminal.write(bytes).await,
            Self::None => Ok(()),
        }
    }
}

/// A session's two ways.
pub(super) struct Session<'a> {
    pub(super) stream: &'a mut UpgradedStream,
    pub(super) input: Input,
    pub(super) output: Output,
    /// Only a terminal has them.
    pub(super) keys: Option<DetachKeys>,
}

impl Session<'_> {
    /// Carries bytes both ways, until one side ends. `resize` is told rows and columns.
    pub(super) async fn run(self, mut resize: impl FnMut(u16, u16)) -> io::Result<End> {
        let Self { stream, input, mut output, keys } = self;
        // Another descriptor of the same socket, so that neither way waits for the other.
        let mut from_client = tokio::net::UnixStream::from_std(stream.to_std()?)?;
        let (mut input, mut keys) = (Some(input), keys);
        let inward = async {
            loop {
                match frames::read(&mut from_client).await {
                    Ok(Some(FromClient::Input(bytes))) => {
                        let (bytes, detached) = match &mut keys {
                            Some(keys) => keys.filter(&bytes),
                            None => (bytes, false),
                        };
                        if let Some(open) = &mut input
                            && open.write(&bytes).await.is_err()
                        {
                            // The payload reads no more.
                            input = None;
                        }
                        if detached {
                            return End::Detached;
                        }
                    }
                    Ok(Some(FromClient::Resize(rows, columns))) => resize(rows, columns),
                    Ok(Some(FromClient::EndOfInput)) => match &mut input {
                        // Hanging up would end the payload; what the end of input is there is a key.
                        Some(Input::Terminal(_)) => {}
                        _ => input = None,
                    },
                    Ok(None) | Err(_) => return End::Left,
                }
            }
        };
        let outward = async {
            let mut buffer = vec![0; CHUNK_BYTES];
            loop {
                match output.read(&mut buffer).await? {
                    0 => return Ok(End::Output),
                    count => frames::output(stream, &buffer[..count]).await?,
                }
            }
        };
        tokio::select! {
            end = outward => end,
            end = inward => Ok(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_found_wherever_the_bytes_are_cut() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.filter(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.filter(b"b\x10"), (b"\x10b".to_vec(), false));
        assert_eq!(keys.filter(b"\x11rest"), (Vec::new(), true));
        let mut one = DetachKeys::parse("x").unwrap();
        assert_eq!(one.filter(b"abx"), (b"ab".to_vec(), true));
        assert_eq!(DetachKeys::parse("ctrl-@,ctrl-[,a").unwrap().keys, [0, 27, b'a']);
        for wrong in ["ctrl-", "ctrl-1", "ab", "a,,b", "ä"] {
            assert!(DetachKeys::parse(wrong).is_err(), "{wrong}");
        }
    }
}
