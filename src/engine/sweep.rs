//! What a wake completes or removes: whatever has no record was half-made or half-removed when its process ended, and
//! what runs without a monitor gets one again.

use std::path::Path;

use crate::monitor::state::Phase;
use crate::runtime::cgroup::Cgroup;
use crate::store::try_lock_object;

use super::place::UNIT_SOCKET;
use super::{Engine, EngineError};

/// What is left of a container whose monitor is gone.
enum Orphan {
    /// It runs. A new monitor logs again what has waited in the pipes, learns how it ends, and does what follows an end.
    Running,
    /// Its monitor died before it could tell that it runs: whoever asked for the start was told that it had failed.
    FailedStart,
}

impl Engine {
    /// Removes directories, cgroups, locks and layers that nothing refers to. What another process works on is locked and left
    /// alone. Blocks the thread.
    ///
    /// # Errors
    /// Those of the store; what can't be removed is only logged.
    pub fn sweep(&self) -> Result<(), EngineError> {
        // First: who starts next may want the addresses and ports.
        self.sweep_networks()?;
        self.sweep_pods()?;
        // Their containers lose their records here, and the rest with those of others below.
        self.sweep_builds()?;
        for parent in [self.paths().run_containers(), self.paths().containers()] {
            for id in entries(&parent) {
                self.sweep_container(&id)?;
            }
        }
        for container in self.store()?.containers()? {
            if let Err(error) = self.look_after_orphan(&container.id, &container.name) {
                tracing::warn!(container = container.name, %error, "cannot look after what runs without a monitor, ignoring");
            }
        }
        self.sweep_volumes()?;
        self.sweep_secrets()?;
        self.free_ranges(None)?;
        // A lock goes with its holder, its file with the next holder.
        for name in entries(&self.paths().locks()) {
            drop(try_lock_object(&self.paths().locks(), &name)?);
        }
        self.sweep_unit_sockets();
        self.sweep_layers()
    }

    /// The sockets of units whose main process was killed: `unit-PID`, and a lock file.
    fn sweep_unit_sockets(&self) {
        for name in entries(&self.paths().run_dir) {
            let pid =
                name.strip_prefix(UNIT_SOCKET).and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
            if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                // Whoever else wakes now may have done it.
                let _ = std::fs::remove_file(self.paths().run_dir.join(name));
            }
        }
    }

    /// What runs without a monitor, if anything does.
    fn orphan(&self, id: &str) -> Result<Option<Orphan>, EngineError> {
        let live = self.live(id)?;
        let Some(told) = live.told.filter(|_| !live.supervised) else { return Ok(None) };
        let has_cgroup = || Cgroup::open(&told.cgroup).is_ok_and(|cgroup| cgroup.exists());
        Ok(match told.phase {
            Phase::Running => Some(Orphan::Running),
            Phase::Starting if has_cgroup() => Some(Orphan::FailedStart),
            Phase::Starting | Phase::Exited | Phase::Failed => None,
        })
    }

    /// Gives an orphan another monitor, or ends it.
    fn look_after_orphan(&self, id: &str, name: &str) -> Result<(), EngineError> {
        if self.orphan(id)?.is_none() {
            return Ok(());
        }
        let Some(_lock) = try_lock_object(&self.paths().locks(), id)? else { return Ok(()) };
        if !self.store()?.has_container(id)? {
            return Ok(());
        }
        // Again under the lock: somebody may just have stopped it, or started it anew.
        match self.orphan(id)? {
            Some(Orphan::Running) => {
                tracing::info!(container = name, "its monitor is gone, starting another one");
                self.adopt(name, id)
            }
            Some(Orphan::FailedStart) => {
                tracing::info!(
                    container = name,
                    "its monitor died while it started it, ending what it started"
                );
                self.remove_cgroup(id);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn has_record(&self, id: &str) -> Result<bool, EngineError> {
        Ok(self.store()?.has_container(id)? || self.store()?.has_pod(id)?)
    }

    fn sweep_container(&self, id: &str) -> Result<(), EngineError> {
        if !is_id(id) || self.has_record(id)? {
            return Ok(());
        }
        let Some(_lock) = try_lock_object(&self.paths().locks(), id)? else { return Ok(()) };
        // Again under the lock: it may just have been created.
        if self.has_record(id)? {
            return Ok(());
        }
        tracing::info!(id, "removing what an interrupted change left");
        // With what it shares, if it was a pod.
        self.lower_pod(id)?;
        self.remove_remains(id);
        Ok(())
    }
}

pub(super) fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(super) fn entries(dir: &Path) -> Vec<String> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect(),
        Err(error) => {
            tracing::warn!(?dir, %error, "cannot read the directory, nothing is swept there");
            Vec::new()
        }
    }
}
