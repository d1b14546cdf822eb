//! Waiting for a container, without polling: its monitor tells by renaming its state file, the kernel by a pidfd that the
//! monitor itself is gone.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::monitor::state::Health;

use super::{Engine, EngineError, Phase};

/// What can be waited for. The `Condition` of io.dormouse.Container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub enum Condition {
    Started,
    Ready,
    Healthy,
    Exited,
}

/// What was found when the condition held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Where it is in its life.
    pub phase: Phase,
    /// `None` while it runs, or if unknown.
    pub exit_code: Option<i32>,
}

impl Engine {
    /// Waits for a condition. May be dropped at any time.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; [`EngineError::WrongState`] where it can't happen any more;
    /// [`EngineError::Timeout`].
    pub async fn wait(
        &self,
        name: &str,
        condition: Condition,
        timeout: Option<Duration>,
    ) -> Result<Ended, EngineError> {
        let row = self.find_row(name)?;
        self.wait_known(&row.id, &row.name, condition, timeout).await
    }

    /// As [`Self::wait`], for a container that was there a moment ago, by its id: that it has ended and removed itself
    /// meanwhile counts as its end. `name` is for the errors.
    ///
    /// # Errors
    /// Those of [`Self::wait`].
    pub async fn wait_known(
        &self,
        id: &str,
        name: &str,
        condition: Condition,
        timeout: Option<Duration>,
    ) -> Result<Ended, EngineError> {
        let wait = self.wait_id(id, name, condition);
        let Some(timeout) = timeout else { return wait.await };
        match tokio::time::timeout(timeout, wait).await {
            Ok(result) => result,
            Err(_) => {
                let what = match condition {
                    Condition::Started => "to start",
                    Condition::Ready => "to become ready",
                    Condition::Healthy => "to become healthy",
                    Condition::Exited => "to end",
                };
                Err(EngineError::Timeout { name: name.to_owned(), what: what.to_owned() })
            }
        }
    }

    pub(super) async fn wait_id(
        &self,
        id: &str,
        name: &str,
        condition: Condition,
    ) -> Result<Ended, EngineError> {
        if condition == Condition::Healthy && self.find(id)?.definition.health.is_none() {
            return Err(EngineError::NoHealthCheck { name: name.to_owned() });
        }
        let run_dir = self.paths().run_container(id);
        // Watched before the first look, so that nothing happens unseen in between.
        let watch = StateWatch::new(&run_dir)?;
        loop {
            let live = self.live(id)?;
            if live.told.is_none() && !run_dir.exists() && !self.store()?.has_container(id)? {
                return self.ended_and_removed(id, name, condition);
            }
            let ended = Ended { phase: live.phase, exit_code: live.exit_code() };
            let over = matches!(live.phase, Phase::Exited | Phase::Failed);
            let held = match condition {
                Condition::Started => live.phase.is_alive() && live.phase != Phase::Starting,
                Condition::Ready => live.is_ready(),
                Condition::Healthy => live.health() == Some(Health::Healthy),
                Condition::Exited => over,
            };
            if held {
                return Ok(ended);
            }
            if over && matches!(condition, Condition::Ready | Condition::Healthy) {
                return Err(EngineError::WrongState {
                    attempted: if condition == Condition::Ready {
                        "wait for readiness of"
                    } else {
                        "wait for the health of"
                    },
                    name: name.to_owned(),
                    state: live.phase,
                    wanted: "running",
                });
            }
            if over && condition == Condition::Started {
                return Ok(ended);
            }
            let monitor = live.told.filter(|_| live.supervised).map(|told| told.monitor);
            let lone_init =
                if live.supervised { None } else { self.live(id)?.told.and_then(|told| told.init) };
            let process = match monitor.or(lone_init).map(|process| pidfd(process.pid)) {
                // It has ended since the look at it, and nothing else may ever change.
                Some(Err(Errno::SRCH)) => continue,
                process => process.and_then(Result::ok),
            };
            watch.changed(process).await?;
        }
    }

    /// A container that removes itself may be gone before its end was seen here; the events still tell of it.
    fn ended_and_removed(&self, id: &str, name: &str, condition: Condition) -> Result<Ended, EngineError> {
        match self.last_exit(id)? {
            Some(exit_code) if !matches!(condition, Condition::Ready | Condition::Healthy) => {
                Ok(Ended { phase: Phase::Exited, exit_code })
            }
            _ => Err(EngineError::NotFound { name: name.to_owned() }),
        }
    }
}

pub(super) fn pidfd(pid: i32) -> Result<OwnedFd, Errno> {
    rustix::process::pidfd_open(Pid::from_raw(pid).ok_or(Errno::SRCH)?, PidfdFlags::empty())
}

/// Tells when something in a container's run directory has changed.
#[derive(Debug)]
pub(super) struct StateWatch {
    /// Only taken by [`Drop`].
    inotify: Option<AsyncFd<OwnedFd>>,
}

impl Drop for StateWatch {
    /// The kernel closes a watch only when nobody can look at it any more, which takes milliseconds that a reply should
    /// not wait for.
    fn drop(&mut self) {
        let inotify = self.inotify.take().map(AsyncFd::into_inner);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(inotify));
        }
    }
}

impl StateWatch {
    /// # Errors
    /// [`EngineError::Failed`] where the host has no more watches.
    pub(super) fn new(run_dir: &Path) -> Result<Self, EngineError> {
        let failed = |source: std::io::Error| EngineError::io("watch", run_dir, source);
        let inotify =
            Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(|e| failed(e.into()))?;
        // A container that was made before the host booted has no run directory yet.
        let flags = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_DELETE_SELF;
        if let Err(errno) = inotify.add_watch(run_dir, flags) {
            if errno != nix::errno::Errno::ENOENT {
                return Err(failed(errno.into()));
            }
            let parent = run_dir.parent().unwrap_or(run_dir);
            inotify.add_watch(parent, AddWatchFlags::IN_CREATE).map_err(|e| failed(e.into()))?;
        }
        Self::over(inotify).map_err(failed)
    }

    /// Tells when a file in `dir` has grown or was renamed.
    ///
    /// # Errors
    /// [`EngineError::Io`] where it can't be watched.
    pub(super) fn written(dir: &Path) -> Result<Self, EngineError> {
        let failed = |source: std::io::Error| EngineError::io("watch", dir, source);
        let inotify =
            Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(|e| failed(e.into()))?;
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        inotify.add_watch(dir, flags).map_err(|e| failed(e.into()))?;
        Self::over(inotify).map_err(failed)
    }

    fn over(inotify: Inotify) -> std::io::Result<Self> {
        Ok(Self { inotify: Some(crate::readiness::watch(inotify.into(), Interest::READABLE)?) })
    }

    /// Returns when something has changed, or the process of `pidfd` has ended.
    pub(super) async fn changed(&self, pidfd: Option<OwnedFd>) -> Result<(), EngineError> {
        let failed = |source: std::io::Error| EngineError::io("watch", "/proc", source);
        let ended = async {
            match pidfd {
                Some(pidfd) => {
                    let watched = crate::readiness::watch(pidfd, Interest::READABLE).map_err(failed)?;
                    watched.readable().await.map_err(failed)?.retain_ready();
                    Ok(())
                }
                None => std::future::pending().await,
            }
        };
        let told = async {
            let Some(inotify) = &self.inotify else { return Ok(()) };
            let mut guard = inotify.readable().await.map_err(failed)?;
            // Drained unread: several changes are one reason to look.
            let mut drain = [0; 4096];
            while rustix::io::read(guard.get_inner(), &mut drain).is_ok_and(|length| length > 0) {}
            guard.clear_ready();
            Ok(())
        };
        tokio::select! {
            result = told => result,
            result = ended => result,
        }
    }
}
