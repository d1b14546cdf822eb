//! One connection of the server: its calls, one after the other.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::Shutdown;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use super::activity::Activity;
use super::call::Progress;
use super::introspection::Registry;
use super::socket::{Incoming, Message, Outgoing, ReceiveError};
use super::wire::{Decoded, Request, decode_call};
use super::{Call, CallError, Peer};
use crate::readiness::watch;

/// What the server is up to, as its connections see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Calls are welcome.
    Serving,
    /// The service is idle and about to exit: connections take no further calls, but serve what has come.
    Closing,
    /// The service was told to stop: streams end, calls get [`Terms::stop_grace`], ordered work is finished.
    Stopping,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) registry: Registry,
    pub(super) activity: Arc<Activity>,
    pub(super) stop_grace: Duration,
}

/// The socket of a connection, shared by its driver, the running call, and what the call became by an upgrade.
#[derive(Debug)]
pub(super) struct Link {
    socket: AsyncFd<OwnedFd>,
    peer: Peer,
    outgoing: Mutex<VecDeque<Outgoing>>,
    upgraded: AtomicBool,
    stream_left: Notify,
}

impl Link {
    /// `socket` is connected and non-blocking.
    pub(super) fn new(socket: OwnedFd, peer: Peer) -> io::Result<Self> {
        Ok(Self {
            socket: watch(socket, Interest::READABLE | Interest::WRITABLE)?,
            peer,
            outgoing: Mutex::new(VecDeque::new()),
            upgraded: AtomicBool::new(false),
            stream_left: Notify::new(),
        })
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn socket(&self) -> &AsyncFd<OwnedFd> {
        &self.socket
    }

    pub(super) fn set_upgraded(&self, upgraded: bool) {
        self.upgraded.store(upgraded, Ordering::Relaxed);
    }

    /// Who hears the frames of a [`super::stream`] says that the client has left.
    pub(super) fn stream_left(&self) {
        self.stream_left.notify_one();
    }

    /// Sends a message after those that are still waiting. Cancelled halfway, the rest leaves with the next one.
    pub(super) async fn send(&self, message: Outgoing) -> io::Result<()> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner).push_back(message);
        loop {
            match self.flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            let mut writable = self.socket.writable().await?;
            if let Ok(result) = writable.try_io(|_| self.flush()) {
                return result;
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(message) = outgoing.front_mut() {
            match message.write(self.socket.as_fd()) {
                Ok(()) => outgoing.pop_front(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) => {
                    // Nobody will ever read the rest.
                    outgoing.clear();
                    return Err(error);
                }
            };
        }
        Ok(())
    }

    /// Receives the next message, `None` at the end of the stream. Cancelled, it loses nothing.
    ///
    /// `at_once` tries before tokio has said that there is something to read.
    async fn receive(
        &self,
        incoming: &mut Incoming,
        activity: &Activity,
        at_once: bool,
    ) -> Result<Option<Message>, ReceiveError> {
        if at_once {
            match incoming.read(self.socket.as_fd()) {
                Err(error) if error.would_block() => {}
                result => return result,
            }
        }
        loop {
            let mut readable = self.socket.readable().await?;
            match incoming.read(self.socket.as_fd()) {
                Err(error) if error.would_block() => readable.clear_ready(),
                result => return result,
            }
            if incoming.is_partial() {
                // A message is coming: not the moment to exit as idle.
                activity.touch();
            }
        }
    }

    /// Waits until the client has left for good.
    ///
    /// That is `EPOLLHUP`: both directions are shut. A client that has only shut its writing side (`EPOLLRDHUP`, as
    /// `echo … | nc -N` does) still waits for its replies, and gets them. An upgraded connection never counts as
    /// left: its last bytes are still to be read. That of a stream of frames does when its frames end.
    async fn left(&self) -> io::Result<()> {
        tokio::select! {
            left = self.hung_up() => left,
            () = self.stream_left.notified() => Ok(()),
        }
    }

    async fn hung_up(&self) -> io::Result<()> {
        // A second registration of the same socket, without EPOLLIN: unread calls and a half-closed client leave
        // the first one readable for ever. Only calls that do not end at once come here.
        let hangup = watch(self.socket.as_fd().try_clone_to_owned()?, Interest::PRIORITY)?;
        loop {
            let mut event = hangup.ready(Interest::PRIORITY).await?;
            if event.ready().is_read_closed() {
                break;
            }
            event.clear_ready();
        }
        if self.upgraded.load(Ordering::Relaxed) { pending().await } else { Ok(()) }
    }
}

/// Serves a connection until its client leaves, it breaks the protocol, or the server stops.
pub(super) async fn run(link: Link, terms: Arc<Terms>, mut phase: watch::Receiver<Phase>) {
    let link = Arc::new(link);
    let mut incoming = Incoming::default();
    let mut closing = false;
    // The first call has mostly arrived together with its connection.
    let mut at_once = true;
    loop {
        let received = tokio::select! {
            biased;
            received = link.receive(&mut incoming, &terms.activity, at_once) => received,
            () = phase_after_serving(&mut phase), if !closing => {
                if *phase.borrow_and_update() == Phase::Stopping {
                    return;
                }
                // From here on the client's writes fail instead of being lost; what it wrote before is served.
                closing = true;
                // Nobody tells us of what we shut ourselves.
                at_once = true;
                let _ = rustix::net::shutdown(link.socket(), Shutdown::Read);
                continue;
            }
        };
        at_once = closing;
        let message = match received {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(ReceiveError::Socket(error)) => {
                tracing::debug!(peer = link.peer.pid, %error, "connection failed");
                return;
            }
            Err(error) => {
                tracing::warn!(peer = link.peer.pid, %error, "closing a connection");
                return;
            }
        };
        if !answer(&link, &terms, &mut phase, message).await {
            return;
        }
        // A client with many calls in flight must not keep the others waiting.
        tokio::task::consume_budget().await;
    }
}

/// Waits until the server is about to exit.
async fn phase_after_serving(phase: &mut watch::Receiver<Phase>) {
    if phase.wait_for(|phase| *phase != Phase::Serving).await.is_err() {
        pending::<()>().await;
    }
}

/// Carries out one message; says whether the connection can go on.
async fn answer(
    link: &Arc<Link>,
    terms: &Arc<Terms>,
    phase: &mut watch::Receiver<Phase>,
    Message { text, fds }: Message,
) -> bool {
    let decoded = decode_call(&text);
    // A long message's text is of no use while its call runs.
    drop(text);
    let (request, invalid) = match decoded {
        Ok(Decoded::Call(request)) => (request, None),
        Ok(Decoded::Invalid { field, oneway }) => {
            (Request { oneway: Some(oneway), ..Request::default() }, Some(field))
        }
        Err(error) => {
            tracing::warn!(peer = link.peer.pid, %error, "closing a connection");
            return false;
        }
    };
    let _running = terms.activity.begin_call();
    let mut call = Call::new(link, &terms.activity, request, fds);
    let (oneway, streaming) = (call.is_oneway(), call.wants_more() || call.wants_upgrade());
    let guards = call.guards();
    tokio::select! {
        biased;
        usable = carry_out(&mut call, terms, invalid) => usable,
        // A client need not wait for what it wants no reply to.
        left = link.left(), if !oneway => {
            if let Err(error) = left {
                tracing::warn!(peer = link.peer.pid, %error, "cannot watch a connection, closing it");
                return false;
            }
            // What it ordered in advance is still read, until the end of the stream.
            !link.upgraded.load(Ordering::Relaxed)
        }
        () = out_of_time(phase, terms, streaming, &guards) => false,
    }
}

/// Runs the call to its reply; says whether the connection can go on.
async fn carry_out(call: &mut Call, terms: &Terms, invalid: Option<&'static str>) -> bool {
    let result = match invalid {
        Some(field) => Err(CallError::invalid_parameter(field)),
        None => terms.registry.dispatch(call).await,
    };
    let result = match (result, call.progress()) {
        (Ok(()), Progress::Open { .. }) => call.reply(serde_json::Map::new()).await,
        (Ok(()), Progress::Replied) => Ok(()),
        (Ok(()), Progress::Upgraded) => return false,
        (Err(error @ CallError::Disconnected { .. }), _) => Err(error),
        (Err(error), Progress::Open { .. }) => {
            let described = error.to_string();
            match error.into_wire(call.full_method()) {
                Some((name, parameters)) => {
                    let sent = call.reply_error(&name, parameters).await;
                    if sent.is_ok() {
                        // Nothing was upgraded, unless the error came as the last frame of a stream.
                        return call.progress() != Progress::Upgraded;
                    }
                    sent
                }
                None => {
                    tracing::warn!(method = call.full_method(), error = described, "closing a connection");
                    return false;
                }
            }
        }
        (Err(error), Progress::Replied | Progress::Upgraded) => {
            tracing::debug!(method = call.full_method(), %error, "failed after its reply, ignoring");
            return call.progress() == Progress::Replied;
        }
    };
    match result {
        // A client that asked for an upgrade takes a reply for one, so nothing sensible can follow it (but see `keep_open`).
        Ok(()) => call.goes_on(),
        // It left without waiting for replies; what it ordered in advance is still read.
        Err(CallError::Disconnected { source }) => {
            matches!(source.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
        }
        Err(_) => false,
    }
}

/// Waits until the server is stopping and this call has had its time: a stream none, another call the grace, and
/// both as long as ordered work of theirs is under way.
async fn out_of_time(
    phase: &mut watch::Receiver<Phase>,
    terms: &Terms,
    streaming: bool,
    guards: &AtomicUsize,
) {
    if phase.wait_for(|phase| *phase == Phase::Stopping).await.is_err() {
        pending::<()>().await;
    }
    if !streaming {
        tokio::time::sleep(terms.stop_grace).await;
    }
    while guards.load(Ordering::Relaxed) > 0 {
        terms.activity.wait_until(|_| guards.load(Ordering::Relaxed) == 0).await;
        // The call learns of the end of its work only now, and may have a reply to send.
        tokio::time::sleep(terms.stop_grace).await;
    }
}
