//! A client of the systemd that manages this host, or of an ordinary user's own instance of it.
//!
//! Both listen at a private socket, where they speak D-Bus peer to peer: no message bus is needed, so it works early at
//! boot and late at shutdown too. Everything here blocks, and must not be called from a task.

mod machine;
mod scope;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use zbus::{DynamicType, OwnedObjectPath, OwnedVariant, export::serde::Serialize};

use crate::identity;

use super::bus::{Bus, BusError, Incoming};
use super::inside::{MANAGER, MANAGER_PATH, PROPERTIES};

pub use self::machine::{Machine, register, registers_machines};
pub use self::scope::{
    IoLimit, Limits, NamedScope, ScopeRequest, set_limits, start_named_scope, start_scope,
};

/// How long an answer, or a job that only makes a cgroup, may take. A host that boots has much to do.
const TIMEOUT: Duration = Duration::from_secs(30);
const SERVICE: &str = "org.freedesktop.systemd1.Service";

/// What goes wrong with the host's systemd.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Its socket.
    #[error("cannot reach the host's systemd at {path:?}; is it about to restart?")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It says no.
    #[error("the host's systemd refuses to {attempted}: {text} ({name})")]
    Refused {
        /// What it was asked to do.
        attempted: String,
        /// The error's name, as `org.freedesktop.systemd1.UnitExists`.
        name: String,
        /// Its own words.
        text: String,
    },
    /// A job did not end well.
    #[error("the host's systemd could not {attempted}: the job ended as {result:?}")]
    JobFailed {
        /// What it was asked to do.
        attempted: String,
        /// systemd's word for the result.
        result: String,
    },
    /// No answer in time.
    #[error("the host's systemd did not {attempted} within {} s", TIMEOUT.as_secs())]
    Late {
        /// What it was asked to do.
        attempted: String,
    },
    /// An answer that nobody understands.
    #[error("the host's systemd answers something else than expected: {what}")]
    Nonsense {
        /// What is wrong with it.
        what: String,
    },
}

/// Whether systemd manages this host, for this user. Source: sd_booted(3).
pub fn manages() -> bool {
    Path::new("/run/systemd/system").is_dir() && socket().is_some_and(|socket| socket.exists())
}

/// The service manager's own socket: root's is PID 1, every other user has an instance.
fn socket() -> Option<PathBuf> {
    if identity::is_root() {
        return Some(PathBuf::from("/run/systemd/private"));
    }
    Some(identity::runtime_directory().join("systemd/private"))
}

/// Runs what waits, on this thread, for at most [`TIMEOUT`].
fn blocking<T>(attempted: &str, work: impl Future<Output = Result<T, HostError>>) -> Result<T, HostError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| HostError::Nonsense { what: error.to_string() })?;
    runtime
        .block_on(async { tokio::time::timeout(TIMEOUT, work).await })
        .unwrap_or_else(|_| Err(HostError::Late { attempted: attempted.to_owned() }))
}

/// A connection to the service manager.
struct Manager {
    bus: Bus,
    path: PathBuf,
}

impl Manager {
    async fn connect() -> Result<Self, HostError> {
        let path = socket().unwrap_or_default();
        let unreachable = |source| HostError::Unreachable { path: path.clone(), source };
        let stream = UnixStream::connect(&path).await.map_err(unreachable)?;
        let bus = Bus::greet(stream, identity::user()).await.map_err(|error| from_bus(&path, error))?;
        Ok(Self { bus, path })
    }

    /// Calls a method of the manager object; signals that come before the answer go to `passing`.
    async fn call<B>(
        &mut self,
        attempted: &str,
        method: &str,
        body: &B,
        passing: impl FnMut(&Incoming),
    ) -> Result<Incoming, HostError>
    where
        B: Serialize + DynamicType,
    {
        self.call_of(attempted, (MANAGER_PATH, MANAGER), method, body, passing).await
    }

    /// As [`Self::call`], of an object with an interface.
    async fn call_of<B>(
        &mut self,
        attempted: &str,
        (object, interface): (&str, &str),
        method: &str,
        body: &B,
        mut passing: impl FnMut(&Incoming),
    ) -> Result<Incoming, HostError>
    where
        B: Serialize + DynamicType,
    {
        let failed = |error| from_bus(&self.path, error);
        let serial = self.bus.send(object, interface, method, body).await.map_err(failed)?;
        loop {
            let message = self.bus.next().await.map_err(failed)?;
            if !message.answers(serial) {
                passing(&message);
                continue;
            }
            return match message.error() {
                Some((name, text)) => {
                    Err(HostError::Refused { attempted: attempted.to_owned(), name: name.to_owned(), text })
                }
                None => Ok(message),
            };
        }
    }

    /// Calls a method that answers with a job, and waits for the job's end.
    async fn run_job<B>(&mut self, attempted: &str, method: &str, body: &B) -> Result<(), HostError>
    where
        B: Serialize + DynamicType,
    {
        // A job can end before its order's answer is here.
        let mut early = Vec::new();
        let answer = self
            .call(attempted, method, body, |message| early.extend(job_end(message).ok().flatten()))
            .await?;
        let failed = |error| from_bus(&self.path, error);
        let (job,): (OwnedObjectPath,) = answer.body().map_err(failed)?;
        let result = match early.into_iter().find(|(ended, _)| *ended == job) {
            Some((_, result)) => result,
            None => loop {
                let message = self.bus.next().await.map_err(failed)?;
                match job_end(&message) {
                    Ok(Some((ended, result))) if ended == job => break result,
                    _ => {}
                }
            },
        };
        if result == "done" {
            return Ok(());
        }
        Err(HostError::JobFailed { attempted: attempted.to_owned(), result })
    }
}

/// Whether the cgroup of a service is delegated to it (Delegate=yes).
///
/// # Errors
/// A [`HostError`]; [`HostError::Refused`] if there is no such unit.
pub fn delegates(unit: &str) -> Result<bool, HostError> {
    let attempted = format!("tell of {unit}");
    blocking(&attempted, async {
        let mut manager = Manager::connect().await?;
        let answer = manager.call(&attempted, "GetUnit", &(unit,), |_| {}).await?;
        let (object,): (OwnedObjectPath,) = answer.body().map_err(|error| from_bus(&manager.path, error))?;
        let asked = (SERVICE, "Delegate");
        let answer =
            manager.call_of(&attempted, (object.as_str(), PROPERTIES), "Get", &asked, |_| {}).await?;
        let (value,): (OwnedVariant,) = answer.body().map_err(|error| from_bus(&manager.path, error))?;
        bool::try_from(value)
            .map_err(|_| HostError::Nonsense { what: "Delegate is no truth value".to_owned() })
    })
}

/// Starts a unit that is installed, and returns when it runs.
fn start_unit(unit: &str) -> Result<(), HostError> {
    let attempted = format!("start {unit}");
    blocking(&attempted, async {
        Manager::connect().await?.run_job(&attempted, "StartUnit", &(unit, "replace")).await
    })
}

/// Reads the signal JobRemoved: id, job, unit, result; `None` for any other message.
fn job_end(message: &Incoming) -> Result<Option<(OwnedObjectPath, String)>, BusError> {
    if !message.is_signal("JobRemoved") {
        return Ok(None);
    }
    let (_, job, _, result): (u32, OwnedObjectPath, String, String) = message.body()?;
    Ok(Some((job, result)))
}

fn from_bus(path: &Path, error: BusError) -> HostError {
    match error {
        BusError::Broken(source) => HostError::Unreachable { path: path.to_owned(), source },
        BusError::Nonsense(what) => HostError::Nonsense { what },
    }
}
