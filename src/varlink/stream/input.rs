//! A channel from the client to a descriptor. What was received and not written yet is bounded by the credit that was given.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::frame::{self, FrameError, Kind, WINDOW_BYTES};
use super::server::{Writer, watched};

/// Credit is given back in pieces of at least this.
const CREDIT_BYTES_MIN: usize = WINDOW_BYTES / 4;

/// The end of a channel that is received on.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) channel: u8,
    /// `None` after the end.
    queue: Option<UnboundedSender<Vec<u8>>>,
    /// Bytes that were received and for which no credit was given back.
    held: Arc<AtomicUsize>,
}

impl Input {
    /// Begins to carry what comes to `sink`.
    pub(super) fn start(
        channel: u8,
        sink: OwnedFd,
        writer: &Writer,
        tasks: &mut JoinSet<()>,
    ) -> io::Result<Self> {
        let sink = watched(sink, Interest::WRITABLE)?;
        let (queue, queued) = unbounded_channel();
        let held = Arc::new(AtomicUsize::new(0));
        tasks.spawn(carry(channel, sink, queued, Arc::clone(&held), writer.clone()));
        Ok(Self { channel, queue: Some(queue), held })
    }

    /// Takes data; none is the end.
    pub(super) fn take(&mut self, bytes: Vec<u8>) -> Result<(), FrameError> {
        let Some(queue) = &self.queue else { return Ok(()) };
        if bytes.is_empty() {
            self.queue = None;
            return Ok(());
        }
        let held = self.held.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        if held > WINDOW_BYTES && !queue.is_closed() {
            return Err(FrameError::Overrun { channel: self.channel });
        }
        // Where nobody reads any more, the client has been told.
        let _ = queue.send(bytes);
        Ok(())
    }
}

async fn carry(
    channel: u8,
    sink: AsyncFd<OwnedFd>,
    mut queued: UnboundedReceiver<Vec<u8>>,
    held: Arc<AtomicUsize>,
    writer: Writer,
) {
    let credit = |bytes: usize| {
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        frame::encode(Kind::Credit, channel, &count.to_be_bytes())
    };
    if writer.send(&credit(WINDOW_BYTES)).await.is_err() {
        return;
    }
    let mut owed = 0;
    while let Some(bytes) = queued.recv().await {
        if write_fully(&sink, &bytes).await.is_err() {
            // Whoever is to read has closed it. The client may have left too.
            let _ = writer.send(&frame::encode(Kind::Closed, channel, &[])).await;
            return;
        }
        owed += bytes.len();
        if owed >= CREDIT_BYTES_MIN {
            held.fetch_sub(owed, Ordering::Relaxed);
            if writer.send(&credit(owed)).await.is_err() {
                return;
            }
            owed = 0;
        }
    }
}

async fn write_fully(sink: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut writable = sink.writable().await?;
        match writable.try_io(|sink| Ok(rustix::io::write(sink, bytes)?)) {
            Ok(Ok(length)) => bytes = &bytes[length..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}
