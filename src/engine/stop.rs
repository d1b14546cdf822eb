//! Signals: kill, stop, restart, pause and resume.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags};

use crate::monitor::config::STOP_REQUESTED;
use crate::monitor::state::ProcessRef;
use crate::runtime::cgroup::Cgroup;

use super::container::Live;
use super::{Condition, Container, Engine, EngineError, Event, EventKind, Phase, Streams};

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// `None` if unknown.
    pub exit_code: Option<i32>,
    /// It did not end by itself in time.
    pub killed: bool,
}

impl Engine {
    /// Sends a signal to the first process.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`].
    pub fn kill(&self, name: &str, signal: i32) -> Result<(), EngineError> {
        let row = self.find_row(name)?;
        let live = self.live(&row.id)?;
        let wrong = || EngineError::WrongState {
            attempted: "signal",
            name: row.name.clone(),
            state: live.phase,
            wanted: "running",
        };
        if !live.phase.is_alive() {
            return Err(wrong());
        }
        let init = live.told.as_ref().and_then(|told| told.init).ok_or_else(wrong)?;
        if !send_signal(init, signal)? {
            return Err(wrong());
        }
        let event = Event::new(EventKind::Container, "kill", &row.id, &row.name);
        self.record(&Event { signal: Some(super::signals::name(signal)), ..event });
        Ok(())
    }

    /// Sends the stop signal, after `timeout_usec` (or the container's own time) SIGKILL, and returns when the container
    /// has ended. Must run to its end once begun.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn stop(&self, name: &str, timeout_usec: Option<u64>) -> Result<Stopped, EngineError> {
        let container = self.find(name)?;
        self.remember_stopped(&container)?;
        self.stop_container(&container, name, timeout_usec).await
    }

    /// As [`Self::stop`], for a stop that says nothing about what is wanted after the next boot.
    pub(super) async fn stop_container(
        &self,
        container: &Container,
        name: &str,
        timeout_usec: Option<u64>,
    ) -> Result<Stopped, EngineError> {
        let id = &container.row.id;
        let live = self.live(id)?;
        if !live.phase.is_alive() {
            return Ok(Stopped { exit_code: live.exit_code(), killed: false });
        }
        self.request_stop(id)?;
        self.record_event(EventKind::Container, "stop", id, &container.row.name);
        let timeout = Duration::from_micros(timeout_usec.unwrap_or(container.definition.stop_timeout_usec));
        if !timeout.is_zero()
            && let Some(init) = live.told.as_ref().and_then(|told| told.init)
            && send_signal(init, container.definition.stop_signal)?
        {
            // A frozen process gets its signal only when it goes on.
            thaw(&live);
            if let Ok(ended) = tokio::time::timeout(timeout, self.wait_id(id, name, Condition::Exited)).await
            {
                let exit_code = ended?.exit_code;
                self.settle_network(id).await?;
                return Ok(Stopped { exit_code, killed: false });
            }
        }
        let live = self.live(id)?;
        self.kill_for_good(id, &live).await?;
        let ended = self.wait_id(id, name, Condition::Exited).await?;
        self.settle_network(id).await?;
        Ok(Stopped { exit_code: ended.exit_code, killed: true })
    }

    /// Stops a container if it runs, and starts it. Must run to its end once begun.
    ///
    /// # Errors
    /// Those of [`Self::stop`] and [`Self::start`].
    pub async fn restart(&self, name: &str, timeout_usec: Option<u64>) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let _held = self.lock(&super::read_log::restart_lock(&container.row.id)).await?;
        self.stop_container(&container, name, timeout_usec).await?;
        self.start(name, Streams::default()).await?;
        self.record_event(EventKind::Container, "restart", &container.row.id, &container.row.name);
        Ok(())
    }

    /// Freezes all processes of a container.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`].
    pub async fn pause(&self, name: &str) -> Result<(), EngineError> {
        self.set_frozen(name, true).await
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`].
    pub async fn resume(&self, name: &str) -> Result<(), EngineError> {
        self.set_frozen(name, false).await
    }

    async fn set_frozen(&self, name: &str, frozen: bool) -> Result<(), EngineError> {
        let row = self.find_row(name)?;
        let _lock = self.lock(&row.id).await?;
        let live = self.live(&row.id)?;
        let (attempted, action, wanted, wanted_text) = if frozen {
            ("pause", "pause", Phase::Running, "running")
        } else {
            ("resume", "resume", Phase::Paused, "paused")
        };
        if live.phase != wanted {
            return Err(EngineError::WrongState {
                attempted,
                name: row.name,
                state: live.phase,
                wanted: wanted_text,
            });
        }
        let cgroup = live.told.as_ref().map_or("", |told| told.cgroup.as_str());
        let failed =
            |reason: String| EngineError::Failed { attempted: format!("{attempted} {name:?}"), reason };
        let cgroup = Cgroup::open(cgroup).map_err(|error| failed(error.to_string()))?;
        if cgroup.is_none() {
            return Err(EngineError::Unsupported {
                feature: format!("{attempted} of {name:?}"),
                reason: "it has no cgroup of its own: none is delegated to this user".to_owned(),
            });
        }
        if frozen { cgroup.freeze() } else { cgroup.thaw() }.map_err(|error| failed(error.to_string()))?;
        self.record_event(EventKind::Container, action, &row.id, &row.name);
        Ok(())
    }

    /// Ends every process of the container at once; its restart policy does not count any more.
    pub(super) async fn kill_for_good(&self, id: &str, live: &Live) -> Result<(), EngineError> {
        self.request_stop(id)?;
        let Some(told) = &live.told else { return Ok(()) };
        if let Some(init) = told.init {
            // The kernel ends a pid namespace with its first process.
            send_signal(init, libc::SIGKILL)?;
        }
        if let Ok(cgroup) = Cgroup::open(&told.cgroup) {
            // Without a pid namespace of its own, the others would stay.
            if let Err(error) = cgroup.kill_all(libc::SIGKILL) {
                tracing::warn!(id, %error, "cannot kill all processes of the cgroup, ignoring");
            }
        }
        thaw(live);
        Ok(())
    }

    /// Tells the monitor, whenever it looks, that an end now is wanted.
    fn request_stop(&self, id: &str) -> Result<(), EngineError> {
        let path = self.paths().run_container(id).join(STOP_REQUESTED);
        match std::fs::write(&path, b"") {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(EngineError::io("write", path, error))
            }
            _ => Ok(()),
        }
    }
}

fn thaw(live: &Live) {
    if let Some(told) = &live.told
        && let Ok(cgroup) = Cgroup::open(&told.cgroup)
        && cgroup.frozen().unwrap_or(false)
        && let Err(error) = cgroup.thaw()
    {
        tracing::warn!(cgroup = told.cgroup, %error, "cannot thaw, ignoring");
    }
}

/// Opens the process if it is still the one that was meant.
pub(super) fn open_process(process: ProcessRef) -> Option<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    // After the open: a pid that was given to another before would show its start time now.
    process.is_alive().then_some(pidfd)
}

/// False if the process has ended.
fn send_signal(process: ProcessRef, signal: i32) -> Result<bool, EngineError> {
    let Some(pidfd) = open_process(process) else { return Ok(false) };
    let failed = |reason: String| EngineError::Failed { attempted: format!("send signal {signal}"), reason };
    match crate::runtime::pidfd_send_signal(pidfd.as_fd(), signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(errno) => Err(failed(errno.to_string())),
    }
}
