//! One connection: reads calls, has them answered one after the other, and notices when the client leaves.

use std::sync::Arc;

use rustix::io::Errno;
use tokio::sync::{oneshot, watch};

use super::activity::Activity;
use super::call::{Call, CallError};
use super::decoder::{DecodeError, Decoder, Message, decode_request};
use super::socket::Socket;
use super::{Peer, Service};

use std::os::fd::OwnedFd;

/// How much is read ahead while a call is being answered. A client that sends more waits, as it should.
const AHEAD_MAX_BYTES: usize = 64 << 10;
const READ_BYTES: usize = 16 << 10;

/// Why a connection came to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("reading or writing failed: {0}")]
    Socket(#[from] Errno),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Serves a connection until the client leaves, the service stops, or something comes that is no call.
pub(super) async fn run(
    fd: OwnedFd,
    service: Arc<Service>,
    activity: Activity,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    let socket = Arc::new(Socket::new(fd).map_err(|error| super::socket::errno_of(&error))?);
    let peer = Arc::new(Peer::of(socket.as_fd())?);
    let mut input = Input { socket: socket.clone(), decoder: Decoder::default(), ended: false };
    loop {
        let message = tokio::select! {
            message = input.next_message() => message?,
            _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
        };
        let Some(message) = message else { return Ok(()) };
        let request = decode_request(&message.bytes)?;
        let _running = activity.busy();
        let (hand_over, mut wanted) = oneshot::channel();
        let mut call = Call::new(
            request,
            message.descriptors,
            peer.clone(),
            socket.clone(),
            activity.clone(),
            hand_over,
        );
        let outcome = answer(&service, &mut call, &mut input, &mut wanted, &mut stopping).await;
        match outcome {
            Outcome::Answered if call.is_upgraded() => return Ok(()),
            Outcome::Answered => {}
            Outcome::Left | Outcome::Stopped => return Ok(()),
            Outcome::Broken(error) => return Err(error),
        }
    }
}

enum Outcome {
    Answered,
    Left,
    Stopped,
    Broken(ConnectionError),
}

type HandOver = oneshot::Receiver<oneshot::Sender<Vec<u8>>>;

/// Has one call answered. The method is dropped when the client leaves, or when the service stops and nothing was ordered
/// that must be told of.
async fn answer(
    service: &Service,
    call: &mut Call,
    input: &mut Input,
    wanted: &mut HandOver,
    stopping: &mut watch::Receiver<bool>,
) -> Outcome {
    // The method has the call for itself; whether it has ordered something is told by this.
    let ordered = call.order_flag();
    let method = async {
        let result = service.dispatch(call).await;
        call.finish(result).await
    };
    tokio::pin!(method);
    let mut handed_over = false;
    loop {
        tokio::select! {
            biased;
            result = &mut method => return match result {
                Ok(()) => Outcome::Answered,
                Err(CallError::Disconnected) => Outcome::Left,
                Err(error) => {
                    tracing::error!(%error, "a reply could not be sent");
                    Outcome::Left
                }
            },
            Ok(give) = &mut *wanted, if !handed_over => {
                handed_over = true;
                // Nothing is lost if the method is not there to take it any more.
                let _ = give.send(std::mem::take(&mut input.decoder).into_rest());
            }
            result = input.watch(), if !handed_over => match result {
                Ok(()) => return Outcome::Left,
                Err(error) => return Outcome::Broken(error),
            },
            _ = stopping.wait_for(|stopping| *stopping), if !ordered.load(std::sync::atomic::Ordering::Relaxed) => {
                return Outcome::Stopped;
            }
        }
    }
}

struct Input {
    socket: Arc<Socket>,
    decoder: Decoder<OwnedFd>,
    /// The client sends no more; it may still read.
    ended: bool,
}

impl Input {
    /// The next whole message; `None` when no more comes. A message that is cut off by the end is passed over.
    async fn next_message(&mut self) -> Result<Option<Message<OwnedFd>>, ConnectionError> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), ConnectionError> {
        let mut buffer = [0; READ_BYTES];
        let received = self.socket.receive(&mut buffer).await?;
        if received.length == 0 {
            self.ended = true;
        }
        self.decoder.push(&buffer[..received.length], received.descriptors)?;
        Ok(())
    }

    /// Reads ahead while a call is answered, and returns when the client has left. One that has only shut its sending
    /// side (`nc -N`) still wants its answer.
    async fn watch(&mut self) -> Result<(), ConnectionError> {
        loop {
            if self.ended || self.decoder.len() >= AHEAD_MAX_BYTES {
                return Ok(self.socket.hung_up().await?);
            }
            self.read().await?;
            if self.ended && self.socket.is_hung_up() {
                return Ok(());
            }
        }
    }
}
