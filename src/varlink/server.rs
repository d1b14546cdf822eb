//! The service as a whole: takes connections, sleeps when there is nothing to do, and ends in good order.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::activity::Activity;
use super::listen::Listener;
use super::{Service, connection};

/// How many connections there may be at once; the same as systemd's.
const CONNECTIONS_MAX: usize = 4096;
/// How many of one user other than root and ourselves.
const CONNECTIONS_PER_USER_MAX: usize = 128;
/// While something is finished after the call to end: how long systemd is asked to wait, and how often.
const EXTEND: Duration = Duration::from_secs(30);

/// How a service runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServeOptions {
    /// After this time without work it ends by itself; `None`: never.
    pub idle_timeout: Option<Duration>,
}

/// Why a service can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is nothing to listen on.
    #[error(
        "no socket was passed and none was given; start it by its socket unit, or with --listen unix:PATH"
    )]
    NoListener,
    /// The kernel refused what a service can't do without.
    #[error("cannot {attempted}")]
    Refused {
        /// What was attempted.
        attempted: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Serves until nothing has gone on for the idle time-out, or SIGTERM or SIGINT comes. What was ordered is finished
/// first; a connection that comes later waits in the queue of a socket that systemd holds, and starts the service again.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(
    service: Service,
    listeners: Vec<Listener>,
    options: ServeOptions,
) -> Result<(), ServeError> {
    if listeners.is_empty() {
        return Err(ServeError::NoListener);
    }
    let refused = |attempted| move |source| ServeError::Refused { attempted, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(refused("wait for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused("wait for SIGINT"))?;
    let mut server = Server::new(service);
    let mut listeners = watch_all(listeners).map_err(refused("watch the socket"))?;
    notify(&[sd_notify::NotifyState::Ready]);
    loop {
        let limit = options.idle_timeout;
        let activity = server.activity.clone();
        let idle = async {
            match limit {
                Some(limit) => activity.idle_for(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accept(&listeners) => server.start(accepted.map_err(|errno| {
                refused("take connections")(errno.into())
            })?),
            Some(_) = server.connections.join_next() => {}
            () = idle => {
                if !server.accept_the_last(&mut listeners) {
                    break;
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    notify(&[sd_notify::NotifyState::Stopping]);
    drop(listeners);
    server.finish().await;
    Ok(())
}

/// A socket, and the watch on it.
type Watched = (Listener, AsyncFd<OwnedFd>);

fn watch_all(listeners: Vec<Listener>) -> std::io::Result<Vec<Watched>> {
    listeners
        .into_iter()
        .map(|listener| {
            rustix::io::ioctl_fionbio(&listener.fd, true)?;
            let watched = crate::readiness::watch(listener.fd.try_clone()?, Interest::READABLE)?;
            Ok((listener, watched))
        })
        .collect()
}

/// Waits for a connection on any of the sockets. Dropped, none is lost.
async fn accept(listeners: &[Watched]) -> Result<OwnedFd, Errno> {
    let mut each: Vec<_> =
        listeners.iter().map(|(listener, watched)| Box::pin(accept_one(listener, watched))).collect();
    std::future::poll_fn(move |cx| {
        for accept in &mut each {
            if let std::task::Poll::Ready(result) = accept.as_mut().poll(cx) {
                return std::task::Poll::Ready(result);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

struct Server {
    service: Arc<Service>,
    connections: JoinSet<()>,
    activity: Activity,
    stopping: watch::Sender<bool>,
    users: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Server {
    fn new(service: Service) -> Self {
        Self {
            service: Arc::new(service),
            connections: JoinSet::new(),
            activity: Activity::new(),
            stopping: watch::Sender::new(false),
            users: Arc::default(),
        }
    }

    fn start(&mut self, fd: OwnedFd) {
        self.activity.touch();
        let uid = match rustix::net::sockopt::socket_peercred(fd.as_fd()) {
            Ok(credentials) => credentials.uid.as_raw(),
            Err(errno) => return tracing::warn!(%errno, "a connection without a peer, closing it"),
        };
        let Some(place) = Place::take(&self.users, uid, self.connections.len()) else {
            return tracing::warn!(uid, "too many connections, closing the new one");
        };
        let (service, activity, stopping) =
            (self.service.clone(), self.activity.clone(), self.stopping.subscribe());
        self.connections.spawn(async move {
            if let Err(error) = connection::run(fd, service, activity, stopping).await {
                tracing::info!(uid, %error, "closing a connection");
            }
            drop(place);
        });
    }

    /// Looks a last time whether somebody came while the service went to sleep. On a socket of our own making nobody can
    /// come any more after this.
    fn accept_the_last(&mut self, listeners: &mut [Watched]) -> bool {
        let mut found = Vec::new();
        for (listener, _) in &*listeners {
            while let Ok(Some(fd)) = listener.accept_now() {
                found.push(fd);
            }
        }
        if !found.is_empty() {
            found.into_iter().for_each(|fd| self.start(fd));
            return true;
        }
        for (listener, _) in listeners {
            listener.unlink();
            while let Ok(Some(fd)) = listener.accept_now() {
                found.push(fd);
            }
        }
        let someone = !found.is_empty();
        found.into_iter().for_each(|fd| self.start(fd));
        // They came at the very last moment, over a path that is gone now; they are served, and then it ends.
        someone
    }

    /// Has running calls that ordered something answered and everything else dropped, and waits for what was ordered.
    async fn finish(mut self) {
        self.stopping.send_replace(true);
        let mut connections = std::mem::take(&mut self.connections);
        let all = async {
            while connections.join_next().await.is_some() {}
            self.activity.at_rest().await;
        };
        tokio::pin!(all);
        loop {
            tokio::select! {
                () = &mut all => return,
                () = tokio::time::sleep(EXTEND / 3) => {
                    let usec = u32::try_from(EXTEND.as_micros()).unwrap_or(u32::MAX);
                    notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(usec)]);
                }
            }
        }
    }
}

async fn accept_one(listener: &Listener, watched: &AsyncFd<OwnedFd>) -> Result<OwnedFd, Errno> {
    loop {
        if let Some(fd) = listener.accept_now()? {
            return Ok(fd);
        }
        let mut guard = watched.readable().await.map_err(|error| super::socket::errno_of(&error))?;
        match listener.accept_now()? {
            Some(fd) => return Ok(fd),
            None => guard.clear_ready(),
        }
    }
}

/// One of the places that a user's connections may take.
struct Place {
    users: Arc<Mutex<HashMap<u32, usize>>>,
    uid: u32,
}

impl Place {
    fn take(users: &Arc<Mutex<HashMap<u32, usize>>>, uid: u32, connections: usize) -> Option<Self> {
        let mut counts = users.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(uid).or_default();
        let trusted = uid == 0 || uid == rustix::process::geteuid().as_raw();
        if connections >= CONNECTIONS_MAX || (!trusted && *count >= CONNECTIONS_PER_USER_MAX) {
            return None;
        }
        *count += 1;
        Some(Self { users: users.clone(), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager, ignoring");
    }
}
