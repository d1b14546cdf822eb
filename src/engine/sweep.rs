//! What a wake completes or removes: whatever has no record was half-made or half-removed when its process ended.

use std::path::Path;

use crate::runtime::cgroup::Cgroup;
use crate::store::try_lock_object;

use super::{Engine, EngineError, oci};

impl Engine {
    /// Removes directories, cgroups and layers that nothing refers to. What another process works on is locked and left
    /// alone. Blocks the thread.
    ///
    /// # Errors
    /// Those of the store; what can't be removed is only logged.
    pub fn sweep(&self) -> Result<(), EngineError> {
        // First: who starts next may want the addresses and ports.
        self.sweep_networks()?;
        for parent in [self.paths().run_containers(), self.paths().containers()] {
            for id in entries(&parent) {
                self.sweep_container(&id)?;
            }
        }
        // Who was killed has left the file of its lock, which goes with the next holder.
        for id in entries(&self.paths().locks()).iter().filter(|id| is_id(id)) {
            drop(try_lock_object(&self.paths().locks(), id)?);
        }
        self.sweep_layers()
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
        let path = oci::cgroup_path(id);
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
