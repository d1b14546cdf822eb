//! What a wake completes or removes: whatever has no record was half-made or half-removed when its process ended, and
//! what runs without a monitor gets one again.

use std::path::Path;

use crate::monitor::state::Phase;
use crate::runtime::cgroup::Cgroup;
use crate::store::try_lock_object;

use super::place::UNIT_SOCKET;
use super::{Engine, EngineError};

impl Engine {
    /// Removes directories, cgroups, locks and layers that nothing refers to. What another process works on is locked and left
    /// alone. Blocks the thread.
    ///
    /// # Errors
    /// Those of the store; what can't be removed is only logged.
    pub fn sweep(&self) -> Result<(), EngineError> {
        // First: who starts next may want the addresses and ports.
        self.sweep_networks()?;
        // Their containers lose their records here, and the rest with those of others below.
        self.sweep_builds()?;
        for parent in [self.paths().run_containers(), self.paths().containers()] {
            for id in entries(&parent) {
                self.sweep_container(&id)?;
            }
        }
        for container in self.store()?.containers()? {
            if let Err(error) = self.adopt_unsupervised(&container.id, &container.name) {
                tracing::warn!(container = container.name, %error, "cannot supervise it again, ignoring");
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

    /// Its monitor logs again what has waited in the pipes, learns how it ends, and does what follows an end.
    fn adopt_unsupervised(&self, id: &str, name: &str) -> Result<(), EngineError> {
        let is_alone = || -> Result<bool, EngineError> {
            let live = self.live(id)?;
            Ok(!live.supervised && live.told.is_some_and(|told| told.phase == Phase::Running))
        };
        if !is_alone()? {
            return Ok(());
        }
        let Some(_lock) = try_lock_object(&self.paths().locks(), id)? else { return Ok(()) };
        // Again under the lock: somebody may just have stopped it, or started it anew.
        if !is_alone()? || !self.store()?.has_container(id)? {
            return Ok(());
        }
        tracing::info!(container = name, "its monitor is gone, starting another one");
        self.adopt(name, id)
    }

    fn sweep_container(&self, id: &str) -> Result<(), EngineError> {
        if !is_id(id) || self.store()?.has_container(id)? {
            return Ok(());
        }
        let Some(_lock) = try_lock_object(&self.paths().locks(), id)? else { return Ok(()) };
        // Again under the lock: it may just have been created.
        if self.store()?.has_container(id)? {
            return Ok(());
        }
        tracing::info!(id, "removing what an interrupted change left");
        let path = self.cgroup_path(id);
        if let Ok(cgroup) = Cgroup::open(&path)
            && let Err(error) = cgroup.kill_all(libc::SIGKILL)
        {
            tracing::warn!(id, %error, "cannot kill the processes in the cgroup, ignoring");
        }
        self.remove_cgroup(id);
        self.tear_down_network(id, None)?;
        self.remove_directories(id);
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
