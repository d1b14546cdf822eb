//! What the words mean: containers, images, units, logs and events, over the store, the runtime and the monitors.
//!
//! The engine keeps nothing in memory that matters. Every operation reads what it needs, changes it under the lock of
//! the one object that it is about, and leaves something that the next wake completes or removes ([`sweep`]) if it is
//! cut short. It knows no varlink: `serve` puts that in front, and a unit's `run` calls the engine in process.
//!
//! Methods are async where they wait for something to happen; those can be dropped at any time without harm, unless
//! their text says that they must run to their end.

mod attach;
mod boot;
pub mod build;
mod capabilities;
mod changes;
mod container;
mod copy;
mod create;
mod definition;
mod error;
mod events;
mod exec;
mod filter;
mod generate;
mod health;
mod images;
mod kube;
mod launch;
mod logs;
mod mount;
mod mounts;
mod names;
mod network;
mod oci;
mod passwd;
mod place;
mod pod;
mod query;
mod read_log;
mod remove;
mod secrets;
mod sessions;
pub mod signals;
pub mod spec;
mod stats;
mod stop;
mod sweep;
mod top;
mod units;
mod update;
mod users;
mod volumes;
mod wait;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

pub use attach::{Attachment, Streams};
pub use boot::Handled;
pub use changes::{Change, ChangeKind, CommitRequest};
pub use container::{Container, Live, Phase};
pub use copy::{PathKind, PathStat};
pub use create::Created;
pub use definition::Definition;
pub use error::EngineError;
pub use events::{Cursor, Event, EventFollower, EventKind, Since, Whose};
pub use exec::{ExecControl, ExecOutput, ExecRequest, ExecSession};
pub use filter::{is_label, keep_named};
pub use generate::{GeneratedUnit, GeneratedUnits, UnitRequest};
pub use health::HealthCheck;
pub use images::{
    Archive, DiskUse, HistoryEntry, Image, ImportProgress, Imported, LayerProgress, LayerState, Loaded,
    Pruned, PullRequest, PullWhen, Pulled, Pushed, SaveFormat, SaveTo,
};
pub use kube::{
    GeneratedKube, KubeKind, KubePlan, KubePlay, KubeRequest, PlayedKube, PlayedPod, RemovedKube,
};
pub use launch::Launched;
pub use logs::{LogEntry, LogFilter, LogFollower, LogStream};
pub use mounts::MountPoint;
pub use network::{Attached, Member, Network, NetworkState, NewNetwork, NewSubnet, Published};
pub use place::{PassedSocket, UNIT_SOCKET, UnitFrame};
pub use pod::{Pod, PodMember, PodPhase, PodSpec, PodSummary, Share};
pub use query::{ContainerFilter, ContainerSummary};
pub use read_log::{LogLine, LogReader, LogRequest, LogSource};
pub use secrets::{NewSecret, Secret, SecretDefinition};
pub use sessions::ExecStatus;
pub use stats::{ContainerStats, InterfaceStats, StatsFollower};
pub use stop::Stopped;
pub use top::Process;
pub use units::{JournalReader, UnitSession};
pub use volumes::{NewVolume, PrunedVolumes, Volume, VolumeDefinition};
pub use wait::{Condition, Ended};

use crate::image::LayerStore;
use crate::runtime::overlay::{self, Driver};
use crate::store::{ObjectLock, Paths, Store, lock_object, try_lock_object};

/// The engine over one pair of directories. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    paths: Paths,
    /// The program that plays `monitor`, `exec-session` and `cleanup`: this one.
    program: PathBuf,
    /// What `program` leads to, as long as it is open.
    _read_only_program: Option<OwnedFd>,
    /// Opened by the first call that needs it: a call for the version does not pay for it.
    store: OnceLock<Store>,
    anchors: network::Anchors,
    starts: launch::Queue,
    unit: Option<UnitFrame>,
}

/// In the environment of the service: auto, kernel or fuse.
const OVERLAY_VARIABLE: &str = "DORMOUSE_OVERLAY";

/// What is to put layers together, as the administrator or the user of this service says; `None`: what the kernel allows.
fn wanted_overlay() -> Result<Option<Driver>, EngineError> {
    match std::env::var(OVERLAY_VARIABLE).as_deref() {
        Err(_) | Ok("" | "auto") => Ok(None),
        Ok("kernel") => Ok(Some(Driver::Kernel)),
        Ok("fuse") => Ok(Some(Driver::Fuse)),
        Ok(other) => Err(EngineError::Failed {
            attempted: "choose what puts layers together".to_owned(),
            reason: format!("{OVERLAY_VARIABLE} is {other:?}; it may be auto, kernel or fuse"),
        }),
    }
}

impl Engine {
    /// An engine over these directories, which are made. The store is opened when it is first needed.
    ///
    /// # Errors
    /// [`EngineError::Io`] where a directory can't be made, or is not ours; [`EngineError::Store`] where the two don't belong
    /// together.
    pub fn new(paths: Paths) -> Result<Self, EngineError> {
        Self::open(paths, None)
    }

    fn open(paths: Paths, unit: Option<UnitFrame>) -> Result<Self, EngineError> {
        paths.prepare()?;
        paths.pair()?;
        overlay::prefer(wanted_overlay()?, &paths.state_dir);
        // Both lead to the running binary also after an upgrade. Without the right to mount there is no container of
        // another user that could be kept from writing to it.
        let (program, read_only_program) = match crate::runtime::read_only_program() {
            Ok(fd) => (PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())), Some(fd)),
            Err(errno) => {
                tracing::debug!(%errno, "this program is run as it is, without a read-only copy of its mount");
                (PathBuf::from("/proc/self/exe"), None)
            }
        };
        let store = OnceLock::new();
        Ok(Self {
            inner: Arc::new(Inner {
                paths,
                program,
                _read_only_program: read_only_program,
                store,
                anchors: network::Anchors::default(),
                starts: launch::Queue::default(),
                unit,
            }),
        })
    }

    /// As [`Self::new`], for the main process of a unit: the containers that it starts are part of that unit.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn in_unit(paths: Paths, unit: UnitFrame) -> Result<Self, EngineError> {
        Self::open(paths, Some(unit))
    }

    /// Whose service this is, as the host knows that user.
    pub fn user(&self) -> u32 {
        crate::identity::user()
    }

    fn unit(&self) -> Option<&UnitFrame> {
        self.inner.unit.as_ref()
    }

    /// Where everything lies.
    pub fn paths(&self) -> &Paths {
        &self.inner.paths
    }

    fn program(&self) -> &Path {
        &self.inner.program
    }

    fn store(&self) -> Result<&Store, EngineError> {
        if let Some(store) = self.inner.store.get() {
            return Ok(store);
        }
        let store = Store::open(self.paths())?;
        // Two that come at once both open it; the second one's is closed again.
        Ok(self.inner.store.get_or_init(|| store))
    }

    fn layers(&self) -> Result<LayerStore, EngineError> {
        // What is put there before there is a database would look as if that had been lost.
        self.store()?;
        LayerStore::open(&self.paths().state_dir).map_err(images::from_image_error)
    }

    /// Waits, without holding up other calls, until the object is ours to change.
    async fn lock(&self, id: &str) -> Result<ObjectLock, EngineError> {
        let dir = self.paths().locks();
        if let Some(lock) = try_lock_object(&dir, id)? {
            return Ok(lock);
        }
        let id = id.to_owned();
        blocking(move || Ok(lock_object(&dir, &id)?)).await
    }
}

/// Runs what blocks on a thread of its own. It goes on to its end even if the caller does not wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(EngineError::Failed { attempted: "finish the work".to_owned(), reason: error.to_string() })
        }
    }
}

/// A thread of ours has panicked, which it has told on its own.
fn blocking_failed(attempted: &str) -> EngineError {
    EngineError::Failed {
        attempted: attempted.to_owned(),
        reason: "one of its threads has failed".to_owned(),
    }
}

/// Microseconds of CLOCK_REALTIME.
fn now_usec() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
