//! The server: accepts connections, watches the idle clock and the signals, and ends in good order.
//!
//! ```text
//!   Serving ──idle for the limit──► Closing ──a call came after all──► Serving
//!      │                               └──nothing came──► (STOPPING=1, exit)
//!      └──SIGTERM, SIGINT──► Stopping ──ordered work done──► (exit)
//! ```
//!
//! No call is lost at an idle exit. A connection that waits in an inherited socket's queue wakes the next service;
//! a socket of our own refuses connections before its queue is looked at for the last time; an old idle connection
//! is shut for reading, so its client's next write fails instead of vanishing, and what it wrote before is served.

use std::future::{pending, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags};
use sd_notify::NotifyState;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::activity::Activity;
use super::connection::{self, Link, Phase, Terms};
use super::introspection::Registry;
use super::listen::{Endpoint, OwnSocket};
use super::{Listener, Peer, Service};
use crate::readiness::watch;

/// How often systemd is asked for more time while ordered work keeps a stop waiting, and how much is asked for.
const EXTEND_INTERVAL: Duration = Duration::from_secs(5);
const EXTEND_USEC: u32 = 20_000_000;

/// How long accepting pauses when no descriptor is free.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How long old connections may take to notice that they are being closed.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// How to serve.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// How long to stay without work before exiting; `None` for ever.
    pub idle_timeout: Option<Duration>,
    /// How many connections may be open; further ones are closed at once.
    pub connections_max: usize,
    /// How many of them may belong to one user.
    pub connections_per_uid_max: usize,
    /// How long a plain call without ordered work ([`super::BusyGuard`]) may go on after SIGTERM.
    pub stop_grace: Duration,
    /// Whether the service manager is told of readiness and the end, by sd_notify(3).
    pub notifies: bool,
}

impl Default for ServeOptions {
    /// 10 s until idle, 256 connections, 192 per user (they fit the usual 1,024 descriptors), 3 s of grace.
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_secs(10)),
            connections_max: 256,
            connections_per_uid_max: 192,
            stop_grace: Duration::from_secs(3),
            notifies: true,
        }
    }
}

/// Why serving was not possible.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is nothing to accept from.
    #[error(
        "cannot serve: no socket was passed; start by socket activation, or name an address to listen on"
    )]
    NoListener,
    /// The runtime does not take a socket or a signal.
    #[error("cannot watch {what}")]
    Watch {
        /// What was to be watched.
        what: &'static str,
        /// What the kernel or the runtime said.
        #[source]
        source: io::Error,
    },
    /// Accepting failed for a reason that will not pass.
    #[error("cannot accept connections")]
    Accept {
        /// What `accept4(2)` said.
        #[source]
        source: io::Error,
    },
}

/// Serves until idle for [`ServeOptions::idle_timeout`], or until SIGTERM or SIGINT.
///
/// Tells systemd `READY=1` and `STOPPING=1`. Needs a tokio runtime with I/O and time; a current-thread one will do.
///
/// # Errors
/// See [`ServeError`]; nothing that a client does ends the service.
pub async fn serve(
    service: Service,
    listeners: Vec<Listener>,
    options: ServeOptions,
) -> Result<(), ServeError> {
    let wanted = |kind| signal(kind).map_err(|source| ServeError::Watch { what: "signals", source });
    let (mut terminate, mut interrupt) = (wanted(SignalKind::terminate())?, wanted(SignalKind::interrupt())?);
    let either = poll_fn(move |context| {
        let came = |signal: &mut Signal, context: &mut Context<'_>| signal.poll_recv(context).is_ready();
        if came(&mut terminate, context) || came(&mut interrupt, context) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    serve_until(service, listeners, options, either).await
}

/// As [`serve`], but `stop` takes the place of the signals.
///
/// # Errors
/// As [`serve`].
pub async fn serve_until(
    service: Service,
    listeners: Vec<Listener>,
    options: ServeOptions,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    if listeners.is_empty() {
        return Err(ServeError::NoListener);
    }
    let server = Server::new(service, listeners, options)?;
    server.notify(&[NotifyState::Ready]);
    tokio::pin!(stop);
    loop {
        match server.work(stop.as_mut()).await? {
            End::Stop => return server.stop().await,
            End::Idle => match server.close().await? {
                Closed::BackToWork => {}
                Closed::Exit => return Ok(()),
            },
        }
    }
}

/// Why [`Server::work`] came to an end.
enum End {
    Stop,
    Idle,
}

/// What became of closing.
enum Closed {
    BackToWork,
    Exit,
}

struct Server {
    terms: Arc<Terms>,
    options: ServeOptions,
    phase: watch::Sender<Phase>,
    listening: Vec<Listening>,
}

struct Listening {
    socket: AsyncFd<OwnedFd>,
    /// For a socket that we bound ourselves: its path, unlinked when this is dropped.
    own: Option<OwnSocket>,
}

impl Server {
    fn new(service: Service, listeners: Vec<Listener>, options: ServeOptions) -> Result<Self, ServeError> {
        let activity = Activity::new();
        let terms =
            Arc::new(Terms { registry: Registry::new(service), activity, stop_grace: options.stop_grace });
        let mut server =
            Self { terms, options, phase: watch::Sender::new(Phase::Serving), listening: Vec::new() };
        for listener in listeners {
            let failed = |source| ServeError::Watch { what: "a socket", source };
            let (endpoint, own) = listener.into_parts();
            match endpoint {
                Endpoint::Listening(socket) => {
                    socket.set_nonblocking(true).map_err(failed)?;
                    let socket = watch(socket.into(), Interest::READABLE).map_err(failed)?;
                    server.listening.push(Listening { socket, own });
                }
                Endpoint::Connected(socket) => {
                    socket.set_nonblocking(true).map_err(failed)?;
                    server.welcome(socket.into());
                }
            }
        }
        Ok(server)
    }

    /// Serves until the idle clock runs out or `stop` says so.
    async fn work(&self, mut stop: std::pin::Pin<&mut impl Future<Output = ()>>) -> Result<End, ServeError> {
        let activity = &self.terms.activity;
        loop {
            // Before the look at the clock: a guard may be dropped on another thread in between.
            let changed = activity.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let idle_at = match self.options.idle_timeout {
                // Connections handed over by `Accept=yes` are all there will ever be.
                _ if self.listening.is_empty() => activity.at_rest().then(Instant::now),
                Some(limit) => activity.idle_at(limit),
                None => None,
            };
            let idle = async {
                match idle_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.as_mut() => return Ok(End::Stop),
                accepted = poll_fn(|context| self.poll_accept(context)) => self.take(accepted).await?,
                () = changed => {}
                // Whoever touched the clock since then need not have woken us.
                () = idle => if self.is_idle() { return Ok(End::Idle) },
            }
        }
    }

    fn is_idle(&self) -> bool {
        let activity = &self.terms.activity;
        match self.options.idle_timeout {
            _ if self.listening.is_empty() => activity.at_rest(),
            Some(limit) => activity.idle_at(limit).is_some_and(|at| at <= Instant::now()),
            None => false,
        }
    }

    /// Ends an idle service, unless something comes up on the way.
    async fn close(&self) -> Result<Closed, ServeError> {
        let activity = &self.terms.activity;
        if self.accept_waiting()? {
            return Ok(Closed::BackToWork);
        }
        self.phase.send_replace(Phase::Closing);
        let rest = activity.wait_until(|activity| activity.at_work() || activity.at_rest());
        let in_time = timeout(CLOSING_TIME, rest).await.is_ok();
        if !in_time || activity.at_work() || self.accept_waiting()? {
            self.phase.send_replace(Phase::Serving);
            return Ok(Closed::BackToWork);
        }
        self.notify(&[NotifyState::Stopping]);
        // From here on systemd starts nothing for us until we have exited, so whoever comes now is better served by
        // our successor than by us. Sockets of our own have no successor: they are emptied.
        let mut emptied = false;
        for listening in &self.listening {
            if listening.own.is_some() {
                refuse_connections(listening);
                emptied |= self.accept_all(listening)?;
            }
        }
        if emptied {
            self.phase.send_replace(Phase::Serving);
            // Nobody may keep us by a connection that stays silent: each gets its time to send its calls.
            sleep(CLOSING_TIME).await;
            self.phase.send_replace(Phase::Closing);
            self.finish().await;
        }
        Ok(Closed::Exit)
    }

    /// Ends the service in good order: accepts no more, ends streams, finishes what was ordered.
    async fn stop(&self) -> Result<(), ServeError> {
        self.notify(&[NotifyState::Stopping]);
        if self.terms.activity.at_work() {
            self.notify(&[NotifyState::ExtendTimeoutUsec(EXTEND_USEC)]);
        }
        for listening in self.listening.iter().filter(|listening| listening.own.is_some()) {
            refuse_connections(listening);
        }
        self.phase.send_replace(Phase::Stopping);
        self.finish().await;
        Ok(())
    }

    fn notify(&self, state: &[NotifyState<'_>]) {
        if self.options.notifies
            && let Err(error) = sd_notify::notify(state)
        {
            tracing::warn!(%error, "cannot notify the service manager, ignoring");
        }
    }

    /// Waits until all is done, and asks systemd for the time it takes.
    async fn finish(&self) {
        while timeout(EXTEND_INTERVAL, self.terms.activity.wait_until(Activity::at_rest)).await.is_err() {
            self.notify(&[NotifyState::ExtendTimeoutUsec(EXTEND_USEC)]);
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        for listening in &self.listening {
            while let Poll::Ready(ready) = listening.socket.poll_read_ready(context) {
                let mut guard = match ready {
                    Ok(guard) => guard,
                    Err(error) => return Poll::Ready(Err(error)),
                };
                if let Ok(accepted) = guard.try_io(|socket| accept(socket.as_fd())) {
                    return Poll::Ready(accepted);
                }
            }
        }
        Poll::Pending
    }

    async fn take(&self, accepted: io::Result<OwnedFd>) -> Result<(), ServeError> {
        match accepted {
            Ok(socket) => self.welcome(socket),
            Err(error) => match passes(&error) {
                Some(pause) => {
                    tracing::warn!(%error, "cannot accept a connection, trying again");
                    sleep(pause).await;
                }
                None => return Err(ServeError::Accept { source: error }),
            },
        }
        Ok(())
    }

    /// Takes what waits in any queue, without waiting; says whether there was anything.
    fn accept_waiting(&self) -> Result<bool, ServeError> {
        let mut any = false;
        for listening in &self.listening {
            any |= self.accept_all(listening)?;
        }
        Ok(any)
    }

    fn accept_all(&self, listening: &Listening) -> Result<bool, ServeError> {
        let mut any = false;
        // Bounded, for others may connect as fast as we accept.
        for _ in 0..self.options.connections_max {
            match accept(listening.socket.as_fd()) {
                Ok(socket) => {
                    any = true;
                    self.welcome(socket);
                }
                // EINVAL is an emptied queue that refuses connections.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => break,
                Err(error) if passes(&error).is_some() => {
                    // Something waits that we can't take at the moment: no time to go.
                    any = true;
                    break;
                }
                Err(source) => return Err(ServeError::Accept { source }),
            }
        }
        Ok(any)
    }

    /// Begins to serve a connection, if it is within the bounds.
    fn welcome(&self, socket: OwnedFd) {
        let peer = match Peer::of(socket.as_fd()) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(%error, "cannot tell who connects, closing the connection");
                return;
            }
        };
        let (uid, pid) = (peer.uid, peer.pid);
        let (all, of_uid) = (self.options.connections_max, self.options.connections_per_uid_max);
        let Some(guard) = self.terms.activity.open_connection(uid, all, of_uid) else {
            tracing::warn!(uid, pid, "too many connections, closing this one");
            return;
        };
        let link = match Link::new(socket, peer) {
            Ok(link) => link,
            Err(error) => {
                tracing::warn!(uid, pid, %error, "cannot watch a connection, closing it");
                return;
            }
        };
        let (terms, phase) = (Arc::clone(&self.terms), self.phase.subscribe());
        tokio::spawn(async move {
            connection::run(link, terms, phase).await;
            drop(guard);
        });
    }
}

/// Accepts one connection, non-blocking and close-on-exec.
fn accept(socket: std::os::fd::BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
}

/// How long to wait before accepting again; `None` for an error that will not pass.
fn passes(error: &io::Error) -> Option<Duration> {
    match Errno::from_io_error(error)? {
        Errno::CONNABORTED | Errno::INTR | Errno::PERM => Some(Duration::ZERO),
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Some(EXHAUSTED_PAUSE),
        _ => None,
    }
}

/// Makes a listening socket refuse connections, while those in its queue stay (`unix(7)` has it not; seen in
/// `unix_stream_connect` and `unix_accept` of Linux 6.18).
fn refuse_connections(listening: &Listening) {
    if let Err(error) = rustix::net::shutdown(&listening.socket, Shutdown::Read) {
        tracing::warn!(%error, "cannot close a listening socket, ignoring");
    }
}
