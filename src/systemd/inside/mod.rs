//! A client of the systemd that is PID 1 of a container.
//!
//! systemd listens at `/run/systemd/private`, without any help of the image, and speaks D-Bus there, peer to peer.
//! The path is the payload's to change, so it is looked up below the container's root, and whoever answers must be
//! the container's PID 1 ([`socket`]). What it says is still a stranger's: everything has a time-out and a size.
//!
//! Works with the interface as systemd 252 has it (Debian 12); checked with 257 (Debian 13).

mod enter;
mod error;
mod jobs;
mod names;
mod socket;
mod units;

use std::{os::fd::BorrowedFd, time::Duration};

use zbus::{DynamicType, export::serde::Serialize, message::Message};

pub use self::{
    error::InsideError,
    jobs::JobKind,
    names::normalise_unit_name,
    units::{SystemState, UnitDetails, UnitFilter, UnitInfo},
};

/// How long an answer may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// A connection to the systemd inside a container. Dropping it closes it; a dropped call is forgotten, but a job that
/// was already ordered goes on.
#[derive(Debug)]
pub struct Manager {
    connection: zbus::Connection,
}

impl Manager {
    /// Connects to the systemd whose host process id is `leader`. Needs a tokio runtime.
    ///
    /// `leader_pidfd` is a descriptor of the same process: it is what makes sure that the number was not given to
    /// another process meanwhile.
    /// # Errors
    /// [`InsideError::NotRunning`] if the process has ended; [`InsideError::NotSystemd`] if there is no socket (also in
    /// the first moments of a boot); [`InsideError::UserNamespace`] for containers with a user namespace of their own.
    pub async fn connect(leader: i32, leader_pidfd: BorrowedFd<'_>) -> Result<Self, InsideError> {
        let stream = socket::connect(leader, leader_pidfd).await?;
        let build = zbus::connection::Builder::socket(socket::Bounded::new(stream)).p2p().build();
        let connection = within("the greeting", build).await?.map_err(InsideError::from_connection)?;
        Ok(Self { connection })
    }

    /// Calls a method of the manager object.
    async fn call<B>(&self, method: &'static str, body: &B) -> Result<Message, zbus_or_late::Error>
    where
        B: Serialize + DynamicType,
    {
        self.call_on(MANAGER_PATH, MANAGER, method, body).await
    }

    async fn call_on<B>(
        &self,
        path: &str,
        interface: &str,
        method: &'static str,
        body: &B,
    ) -> Result<Message, zbus_or_late::Error>
    where
        B: Serialize + DynamicType,
    {
        // A peer to peer connection has no bus to route by destination.
        let call = self.connection.call_method(None::<&str>, path, Some(interface), method, body);
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(reply) => reply.map_err(zbus_or_late::Error::Bus),
            Err(_) => Err(zbus_or_late::Error::Late(method)),
        }
    }
}

/// Waits for something at most as long as an answer may take.
async fn within<T>(what: &'static str, future: impl Future<Output = T>) -> Result<T, InsideError> {
    tokio::time::timeout(CALL_TIMEOUT, future).await.map_err(|_| InsideError::Timeout { what })
}

/// The two ways in which a call fails before anybody has looked at what the error means.
mod zbus_or_late {
    /// See the module.
    #[derive(Debug)]
    pub(in super::super) enum Error {
        /// zbus's error: a refusal, a broken connection or a broken message.
        Bus(zbus::Error),
        /// No answer to this method in time.
        Late(&'static str),
    }
}
