//! A container as it is now: its record, what its monitor tells, and the state that follows from both.
//!
//! ```text
//! created ──► starting ──► running ◄──► paused
//!                │            │            │
//!                ▼            ▼            ▼
//!              failed      stopping ──► exited ──► (started again, or removed)
//! ```
//!
//! Nothing here is remembered between calls: the record says that the container exists, the monitor's state file what it
//! last saw, and the kernel whether that is still so. A monitor that was killed can't be believed beyond its death.

use std::cell::LazyCell;
use std::fmt;

use crate::monitor::config::STOP_REQUESTED;
use crate::monitor::state::{Health, Phase as Told, RunState};
use crate::runtime::cgroup::{Cgroup, Mounted};
use crate::store::ContainerRow;

use super::definition::Definition;
use super::{Engine, EngineError};

/// Where a container is in its life. The `State` of io.dormouse.Container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // told once, in the IDL
pub enum Phase {
    Created,
    Starting,
    Running,
    Paused,
    Stopping,
    Exited,
    Failed,
}

impl Phase {
    /// It has a process.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Paused | Self::Stopping)
    }

    /// The word that the interfaces use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is true of a container only while the machine is up.
#[derive(Debug, Clone)]
pub struct Live {
    /// Where it is in its life.
    pub phase: Phase,
    /// What its monitor last told; `None` if it was not started since the machine booted.
    pub told: Option<RunState>,
    /// Its monitor is there.
    pub supervised: bool,
}

impl Live {
    /// Of a container that was not started since the machine booted.
    pub(super) const NOT_STARTED: Self = Self { phase: Phase::Created, told: None, supervised: false };

    /// The pid of the first process, as the host sees it.
    pub fn pid(&self) -> Option<i32> {
        self.told.as_ref().filter(|_| self.phase.is_alive()).and_then(|told| told.init).map(|init| init.pid)
    }

    /// It runs and has said that it is ready.
    pub fn is_ready(&self) -> bool {
        self.phase.is_alive() && self.told.as_ref().is_some_and(|told| told.ready)
    }

    /// What its checks have found, while it runs.
    pub fn health(&self) -> Option<Health> {
        self.told.as_ref().filter(|_| self.phase.is_alive()).and_then(|told| told.health)
    }

    /// How its process ended, if one has.
    pub fn exit_code(&self) -> Option<i32> {
        self.told.as_ref().filter(|_| !self.phase.is_alive()).and_then(|told| told.exit_code)
    }

    /// Why it failed.
    pub fn error(&self) -> Option<String> {
        let told = self.told.as_ref()?;
        if !self.phase.is_alive() && matches!(told.phase, Told::Starting | Told::Running) {
            return Some("its monitor was killed, and how it ended is unknown".to_owned());
        }
        told.error.clone()
    }
}

/// A container with its record read.
#[derive(Debug, Clone)]
pub struct Container {
    /// As recorded.
    pub row: ContainerRow,
    /// What the record says.
    pub definition: Definition,
}

impl Engine {
    /// Finds a container by name, id, or a prefix of the id that is its alone.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Ambiguous`].
    pub fn find_row(&self, name: &str) -> Result<ContainerRow, EngineError> {
        self.store()?.find_container(name)?.one(
            || EngineError::Ambiguous { name: name.to_owned() },
            || EngineError::NotFound { name: name.to_owned() },
        )
    }

    /// As [`Self::find_row`], with the definition.
    ///
    /// # Errors
    /// Those of [`Self::find_row`]; a damaged record.
    pub fn find(&self, name: &str) -> Result<Container, EngineError> {
        let row = self.find_row(name)?;
        let definition =
            serde_json::from_str(&row.definition).map_err(|source| damaged(&row.name, source))?;
        Ok(Container { row, definition })
    }

    /// What is true of the container of this id now.
    ///
    /// # Errors
    /// [`EngineError::Failed`] where its state file can't be read.
    pub fn live(&self, id: &str) -> Result<Live, EngineError> {
        self.live_on(id, &LazyCell::new(|| Mounted::read().ok()))
    }

    /// As [`Self::live`], for one of many: the hierarchies are read once, when the first one runs.
    pub(super) fn live_on(&self, id: &str, mounted: &LazyCell<Option<Mounted>>) -> Result<Live, EngineError> {
        let run_dir = self.paths().run_container(id);
        let load = || {
            RunState::load(&run_dir).map_err(|error| EngineError::Failed {
                attempted: "read the state of the container".to_owned(),
                reason: error.to_string(),
            })
        };
        let mut told = load()?;
        let (told, supervised) = loop {
            let Some(state) = told else {
                return Ok(Live::NOT_STARTED);
            };
            let supervised = state.monitor.is_alive();
            if supervised || matches!(state.phase, Told::Exited | Told::Failed) {
                break (state, supervised);
            }
            // It may have told of the end after the look at what it had told, and gone before the look at it.
            told = load()?;
            if told.as_ref() == Some(&state) {
                break (state, supervised);
            }
        };
        let phase = match told.phase {
            Told::Exited => Phase::Exited,
            Told::Failed => Phase::Failed,
            // While its monitor lives, a process that is not there is about to be reaped, or started again.
            Told::Starting if supervised => Phase::Starting,
            Told::Running if told.init.is_some_and(|init| init.is_alive()) || supervised => {
                if run_dir.join(STOP_REQUESTED).exists() {
                    Phase::Stopping
                } else if is_frozen(mounted.as_ref(), &told.cgroup) {
                    Phase::Paused
                } else {
                    Phase::Running
                }
            }
            Told::Running => Phase::Exited,
            Told::Starting => Phase::Failed,
        };
        Ok(Live { phase, told: Some(told), supervised })
    }
}

fn is_frozen(mounted: Option<&Mounted>, path: &str) -> bool {
    let cgroup = mounted.and_then(|mounted| Cgroup::open_on(mounted, path).ok());
    cgroup.is_some_and(|cgroup| cgroup.frozen().unwrap_or(false))
}

pub(super) fn damaged(name: &str, source: serde_json::Error) -> EngineError {
    crate::store::StoreError::Damaged { what: format!("container {name:?}"), source }.into()
}
