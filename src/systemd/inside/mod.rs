//! A client of the systemd that is PID 1 of a container.
//!
//! systemd listens at `/run/systemd/private`, without any help of the image, and speaks D-Bus there, peer to peer
//! (`bus`). The path is the payload's to change, so it is looked up below the container's root, and whoever answers
//! must be the container's PID 1 (`socket`); that in turn only answers to whom it sees (`enter`). What it says is
//! still a stranger's: everything has a time-out and a size.
//!
//! Works with the interface as systemd 252 has it (Debian 12); checked with 257 (Debian 13).

mod enter;
mod error;
mod jobs;
mod names;
mod socket;
mod units;

use std::{os::fd::BorrowedFd, time::Duration};

use tokio::sync::Mutex;
use zbus::{DynamicType, export::serde::Serialize};

use self::error::CallError;
pub use self::{
    error::InsideError,
    jobs::JobKind,
    names::normalise_unit_name,
    units::{SystemState, UnitDetails, UnitFilter, UnitInfo},
};
use super::bus::{self, Bus, Incoming};

/// How long an answer may take.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
pub(super) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
pub(super) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// A connection to the systemd inside a container. Dropping it closes it.
///
/// Calls on one connection wait for one another, a job's end included; who wants them side by side makes several.
/// A call whose future is dropped is forgotten, but a job that was already ordered goes on.
#[derive(Debug)]
pub struct Manager {
    bus: Mutex<Bus>,
}

impl Manager {
    /// Connects to the systemd whose host process id is `leader`. Needs a tokio runtime.
    ///
    /// `leader_pidfd` is a descriptor of the same process: it is what makes sure that the number was not given to
    /// another process meanwhile.
    /// # Errors
    /// [`InsideError::NotRunning`] if the process has ended; [`InsideError::NotSystemd`] if there is no socket (also in
    /// the first moments of a boot).
    pub async fn connect(leader: i32, leader_pidfd: BorrowedFd<'_>) -> Result<Self, InsideError> {
        let stream = socket::connect(leader, leader_pidfd).await?;
        let bus = within("the greeting", Bus::greet(stream, 0)).await?.map_err(InsideError::from_bus)?;
        Ok(Self { bus: Mutex::new(bus) })
    }

    /// Calls a method of the manager object.
    async fn call<B>(&self, method: &'static str, body: &B) -> Result<Incoming, CallError>
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
    ) -> Result<Incoming, CallError>
    where
        B: Serialize + DynamicType,
    {
        let mut bus = self.bus.lock().await;
        call(&mut bus, path, interface, method, body, |_| Ok(())).await
    }
}

/// Calls a method and waits for its answer; what comes before that goes to `passing`.
async fn call<B>(
    bus: &mut Bus,
    path: &str,
    interface: &str,
    method: &'static str,
    body: &B,
    mut passing: impl FnMut(Incoming) -> Result<(), bus::BusError>,
) -> Result<Incoming, CallError>
where
    B: Serialize + DynamicType,
{
    let answer = async {
        let serial = bus.send(path, interface, method, body).await?;
        loop {
            let message = bus.next().await?;
            if message.answers(serial) {
                return Ok(message);
            }
            passing(message)?;
        }
    };
    let answer = match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(CallError::Bus)?,
        Err(_) => return Err(CallError::Late(method)),
    };
    match answer.error() {
        Some((name, text)) => Err(CallError::Refused { name: name.to_owned(), text }),
        None => Ok(answer),
    }
}

/// Waits for something at most as long as an answer may take.
async fn within<T>(what: &'static str, future: impl Future<Output = T>) -> Result<T, InsideError> {
    tokio::time::timeout(CALL_TIMEOUT, future).await.map_err(|_| InsideError::Timeout { what })
}
