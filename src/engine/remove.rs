//! The end of a container.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::runtime::cgroup::{Cgroup, CgroupError};

use super::{Engine, EngineError, Event, EventKind, blocking, wait::Condition};

impl Engine {
    /// Removes a container with all that it has written; with `volumes` also those of its volumes that have no name and that
    /// no other container uses. Its record goes first, so that it is gone for everyone at once;
    /// what is left on the disk if this is cut short goes at the next wake. Must run to its end once begun.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; [`EngineError::StillRunning`] unless `force`.
    pub async fn remove(&self, name: &str, force: bool, volumes: bool) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let row = container.row.clone();
        loop {
            let lock = self.lock(&row.id).await?;
            let live = self.live(&row.id)?;
            if live.phase.is_alive() {
                if !force {
                    return Err(EngineError::StillRunning { name: row.name, state: live.phase });
                }
                // Its monitor needs no lock, but a clean-up that it starts at the end does.
                drop(lock);
                self.end_at_once(&row.id).await?;
                continue;
            }
            let used = self.store()?.volumes_of_container(&row.id)?;
            let gone = match volumes && used.iter().any(|volume| volume.anonymous) {
                true => self.store()?.delete_container_with_volumes(&row.id)?,
                false => self.store()?.delete_container(&row.id)?.then(Vec::new),
            };
            let Some(gone) = gone else {
                return Err(EngineError::NotFound { name: name.to_owned() });
            };
            let (engine, id) = (self.clone(), row.id.clone());
            blocking(move || {
                // Before what it had: after a loss of power it must not be back without that.
                engine.store()?.flush()?;
                engine.remove_volumes_of_container(&gone);
                // Mounted still only if its monitor was killed.
                if let Err(error) = engine.release_these_volumes(&id, &used) {
                    tracing::warn!(id, error = error.full_text(), "cannot release its volumes, ignoring");
                }
                // Up still only if its monitor was killed. What fails here is tried again at the next wake.
                if let Err(error) = engine.tear_down_network(&id, None) {
                    tracing::warn!(
                        id,
                        error = error.full_text(),
                        "cannot take the network down, left for the next wake"
                    );
                }
                engine.remove_remains(&id);
                Ok(())
            })
            .await?;
            drop(lock);
            self.settle_pod_of(&container).await?;
            self.record_event(EventKind::Container, "remove", &row.id, &row.name);
            return Ok(());
        }
    }

    /// Gives a container another name. Must run to its end once begun.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::AlreadyExists`], [`EngineError::InvalidSpec`].
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<(), EngineError> {
        super::names::check("newName", new_name)?;
        let row = self.find_row(name)?;
        let _lock = self.lock(&row.id).await?;
        if !self.store()?.rename_container(&row.id, new_name)? {
            return Err(EngineError::NotFound { name: name.to_owned() });
        }
        let event = Event::new(EventKind::Container, "rename", &row.id, new_name);
        self.record(&Event { old_name: Some(row.name), ..event });
        Ok(())
    }

    /// Kills a container, and waits until it has ended. What does not run has.
    pub(super) async fn end_at_once(&self, id: &str) -> Result<(), EngineError> {
        let live = self.live(id)?;
        if !live.phase.is_alive() {
            return Ok(());
        }
        self.kill_for_good(id, &live).await?;
        self.wait_for_end(id).await
    }

    async fn wait_for_end(&self, id: &str) -> Result<(), EngineError> {
        match self.wait_id(id, id, Condition::Exited).await {
            // Removed by someone else meanwhile: the caller finds out by itself.
            Ok(_) | Err(EngineError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what is left of a container, or of a pod, that has no record any more. The directories go last, and stay where the
    /// cgroup does: by them the next wake finds it.
    pub(super) fn remove_remains(&self, id: &str) {
        if self.remove_cgroup(id) {
            self.remove_directories(id);
        }
    }

    /// Removes the directories of a container that has no record (any more). What can't be removed stays for the next
    /// sweep.
    pub(super) fn remove_directories(&self, id: &str) {
        self.detach_root(id);
        for dir in [self.paths().run_container(id), self.paths().container(id)] {
            remove_tree(&dir);
        }
        if let Err(error) = self.free_ranges(Some(id)) {
            tracing::warn!(
                id,
                error = error.full_text(),
                "cannot give user ids back, left for the next wake"
            );
        }
    }

    /// Removes the cgroup of a container that does not run, and returns whether there is none any more. Whoever is in it is killed:
    /// a payload whose monitor died before it could tell that it runs.
    pub(super) fn remove_cgroup(&self, id: &str) -> bool {
        let path = self.cgroup_path(id);
        match Cgroup::open(&path).and_then(|cgroup| cgroup.kill_and_remove()) {
            Ok(()) => true,
            // Of a host without cgroups, and of what was never a cgroup's path.
            Err(CgroupError::NotMounted | CgroupError::Path { .. }) => true,
            Err(error) => {
                tracing::warn!(cgroup = path, %error, "cannot remove the cgroup, left for the next wake");
                false
            }
        }
    }
}

/// So long a monitor whose payload was killed may take to write its last state.
const WRITERS_PATIENCE: Duration = Duration::from_secs(2);

/// Removes a directory with all that is below, however deep a container has made that. Blocks the thread while a monitor on its
/// way out still writes there.
pub(super) fn remove_tree(dir: &Path) {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return };
    let deadline = Instant::now() + WRITERS_PATIENCE;
    loop {
        match File::open(parent).and_then(|parent| crate::image::remove_tree(parent.as_fd(), name)) {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => {
                tracing::warn!(?dir, %error, "cannot remove the directory, left for the next wake");
                return;
            }
        }
    }
}
