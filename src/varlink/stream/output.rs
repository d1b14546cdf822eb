//! A channel from a descriptor to the client.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::frame::{DATA_BYTES_MAX, HEADER_BYTES, Header, Kind};
use super::server::{Writer, watched};

/// No pipe of ours holds more; what is written while the last of it is taken is not waited for.
const REST_BYTES_MAX: usize = 1024 * 1024;

/// What is wanted of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// All that is written.
    Open,
    /// What is there, and no more.
    Finishing,
    /// Nothing.
    Closed,
}

/// Begins to carry what comes from `source`.
pub(super) fn start(
    channel: u8,
    source: OwnedFd,
    state: watch::Receiver<State>,
    writer: &Writer,
    tasks: &mut JoinSet<()>,
) -> io::Result<()> {
    let source = watched(source, Interest::READABLE)?;
    let writer = writer.clone();
    tasks.spawn(async move {
        // A client that takes no more has left, which who reads from it notices too.
        let _ = carry(channel, &source, state, &writer).await;
    });
    Ok(())
}

async fn carry(
    channel: u8,
    source: &AsyncFd<OwnedFd>,
    mut state: watch::Receiver<State>,
    writer: &Writer,
) -> io::Result<()> {
    let mut frame = vec![0; HEADER_BYTES + DATA_BYTES_MAX];
    let mut rest = REST_BYTES_MAX;
    loop {
        let now = *state.borrow_and_update();
        let read = match now {
            State::Closed => return Ok(()),
            State::Finishing => rustix::io::read(source, &mut frame[HEADER_BYTES..]),
            State::Open => {
                let mut readable = tokio::select! {
                    readable = source.readable() => readable?,
                    changed = state.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return Ok(()),
                    },
                };
                match readable.try_io(|source| Ok(rustix::io::read(source, &mut frame[HEADER_BYTES..])?)) {
                    Ok(read) => read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)),
                    Err(_would_block) => continue,
                }
            }
        };
        match read {
            Err(Errno::INTR) => continue,
            // EIO: the last user of a terminal has left. EAGAIN, at the end: nothing more is there.
            Ok(0) | Err(_) => break,
            Ok(length) => {
                send(channel, &mut frame, length, writer).await?;
                if now == State::Finishing {
                    rest = rest.saturating_sub(length);
                    if rest == 0 {
                        break;
                    }
                }
            }
        }
    }
    send(channel, &mut frame, 0, writer).await
}

async fn send(channel: u8, frame: &mut [u8], length: usize, writer: &Writer) -> io::Result<()> {
    frame[..HEADER_BYTES].copy_from_slice(&Header { kind: Kind::Data, channel, length }.encode());
    writer.send(&frame[..HEADER_BYTES + length]).await
}
