//! Volumes on their way to a container that starts: filled at their first use, with their file systems mounted; and the
//! way back when the last container that runs with one has ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::runtime::visible;
use crate::store::{ObjectLock, VolumeRow, lock_object};

use super::super::spec::MountKind;
use super::super::{Container, Engine, EngineError};
use super::{Backing, DATA, Volume, make, read};

/// Where a volume is, and how it is to be mounted.
#[derive(Debug, Clone)]
pub(in super::super) struct Source {
    pub path: PathBuf,
    pub flags: Vec<String>,
    /// Nobody but containers puts anything there.
    pub is_ours: bool,
}

/// The volumes of a container, ready to be mounted. What was mounted on the host for them alone is unmounted again unless
/// they are kept.
#[must_use]
pub(in super::super) struct ReadyVolumes<'a> {
    engine: &'a Engine,
    sources: BTreeMap<String, Source>,
    mounted: Vec<String>,
    /// Until the container is known to run, nobody else may take it for one that does not.
    locks: Vec<ObjectLock>,
}

impl ReadyVolumes<'_> {
    /// By the volume's id.
    pub fn source(&self, id: &str) -> Option<&Source> {
        self.sources.get(id)
    }

    /// The container runs.
    pub fn keep(mut self) {
        self.mounted.clear();
    }
}

impl Drop for ReadyVolumes<'_> {
    fn drop(&mut self) {
        for id in std::mem::take(&mut self.mounted) {
            self.engine.detach_unless_used(&id, None);
        }
        self.locks.clear();
    }
}

impl Engine {
    /// Makes the volumes of a container ready. The caller has the container's lock. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::VolumeUnusable`], [`EngineError::StorageFull`].
    pub(in super::super) fn ready_volumes(
        &self,
        container: &Container,
    ) -> Result<ReadyVolumes<'_>, EngineError> {
        let mut ready =
            ReadyVolumes { engine: self, sources: BTreeMap::new(), mounted: Vec::new(), locks: Vec::new() };
        if container.definition.volumes.is_empty() {
            return Ok(ready);
        }
        // In the order of their ids, so that two containers with the same volumes don't wait for each other.
        for row in self.store()?.volumes_of_container(&container.row.id)? {
            let volume = read(row)?;
            let id = volume.row.id.clone();
            let backing = Backing::of(&volume.definition.options)?;
            let mut flags = Vec::new();
            match &backing {
                Backing::Directory { .. } if volume.row.fresh => {
                    let _lock = lock_object(&self.paths().locks(), &id)?;
                    self.first_use(container, &volume.row, &backing)?;
                }
                Backing::Directory { .. } => {}
                Backing::Bind { path, flags: given } => {
                    flags.clone_from(given);
                    if let Err(error) = std::fs::metadata(path) {
                        let reason =
                            format!("its device {path:?} is not there ({error}); make it on the host");
                        return Err(EngineError::VolumeUnusable { volume: volume.row.name, reason });
                    }
                }
                Backing::FileSystem { .. } => {
                    ready.locks.push(lock_object(&self.paths().locks(), &id)?);
                    ready.mounted.push(id.clone());
                    self.mount_volume(&volume, &backing)?;
                }
            }
            let is_ours = !matches!(backing, Backing::Bind { .. });
            ready.sources.insert(id, Source { path: self.volume_path(&volume), flags, is_ours });
        }
        Ok(ready)
    }

    /// Where the volumes of a container are, for who only wants to know: none is filled or mounted.
    ///
    /// # Errors
    /// Those of the store.
    pub(in super::super) fn places_of_volumes(
        &self,
        container: &Container,
    ) -> Result<ReadyVolumes<'_>, EngineError> {
        let mut places =
            ReadyVolumes { engine: self, sources: BTreeMap::new(), mounted: Vec::new(), locks: Vec::new() };
        for row in self.store()?.volumes_of_container(&container.row.id)? {
            let volume = read(row)?;
            let (flags, is_ours) = match Backing::of(&volume.definition.options)? {
                Backing::Bind { flags, .. } => (flags, false),
                Backing::Directory { .. } | Backing::FileSystem { .. } => (Vec::new(), true),
            };
            let source = Source { path: self.volume_path(&volume), flags, is_ours };
            places.sources.insert(volume.row.id, source);
        }
        Ok(places)
    }

    fn first_use(
        &self,
        container: &Container,
        row: &VolumeRow,
        backing: &Backing,
    ) -> Result<(), EngineError> {
        // Again under the lock: somebody else's may have been the first.
        if self.volume_named(&row.id)?.is_none_or(|row| !row.fresh) {
            return Ok(());
        }
        // A power cut may have taken it along.
        let data = self.paths().volume(&row.id).join(DATA);
        if !data.exists() {
            make(&data, 0o755)?;
        }
        let definition = &container.definition;
        let target = definition.mounts().into_iter().find(|mount| {
            definition.volumes.get(&mount.target) == Some(&row.id)
                && matches!(mount.kind, MountKind::Volume { copy: true, .. })
        });
        if let (Backing::Directory { uid, gid, copy: true }, Some(mount)) = (backing, target) {
            self.populate(container, row, &mount.target, uid.is_some() || gid.is_some())?;
        }
        Ok(self.store()?.volume_was_used(&row.id)?)
    }

    /// Mounts the file system of a volume, unless it is; the caller has the volume's lock.
    fn mount_volume(&self, volume: &Volume, backing: &Backing) -> Result<(), EngineError> {
        let Backing::FileSystem { kind, device, options } = backing else { return Ok(()) };
        let place = self.paths().mount(&volume.row.id);
        if visible::is_mounted(&place) {
            return Ok(());
        }
        visible::mount_file_system(kind, device, options, &place).map_err(|error| {
            let _ = std::fs::remove_dir(&place);
            EngineError::VolumeUnusable { volume: volume.row.name.clone(), reason: error.to_string() }
        })
    }

    /// Whether a container that runs, but for one, uses a volume.
    pub(super) fn is_volume_mounted_for_anybody(
        &self,
        id: &str,
        except: Option<&str>,
    ) -> Result<bool, EngineError> {
        for user in self.users_of_volume(id)? {
            if Some(user.id.as_str()) != except && self.live(&user.id)?.phase.is_alive() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The end of a container: file systems of volumes that no other container runs with are unmounted. Blocks the thread.
    ///
    /// # Errors
    /// Those of the store. What can't be unmounted is left for the next wake.
    pub fn release_volumes(&self, container_id: &str) -> Result<(), EngineError> {
        let rows = self.store()?.volumes_of_container(container_id)?;
        self.release_these_volumes(container_id, &rows)
    }

    /// As [`Self::release_volumes`], for a container whose record may be gone.
    pub(in super::super) fn release_these_volumes(
        &self,
        container_id: &str,
        rows: &[VolumeRow],
    ) -> Result<(), EngineError> {
        for row in rows {
            if self.paths().mount(&row.id).exists() {
                let _lock = lock_object(&self.paths().locks(), &row.id)?;
                self.detach_unless_used(&row.id, Some(container_id));
            }
        }
        Ok(())
    }

    fn detach_unless_used(&self, id: &str, except: Option<&str>) {
        match self.is_volume_mounted_for_anybody(id, except) {
            Ok(true) => {}
            Ok(false) => self.detach_mount(id),
            Err(error) => tracing::warn!(id, error = error.full_text(), "cannot tell who uses the volume"),
        }
    }

    /// Unmounts what is mounted on the host for a volume or a container.
    pub(in super::super) fn detach_mount(&self, id: &str) {
        if let Err(errno) = visible::detach(&self.paths().mount(id), true) {
            tracing::warn!(id, %errno, "cannot unmount it, left for the next wake");
        }
    }

    /// Whether a container has a volume with a file system of its own, which wants to be unmounted at its end.
    pub(in super::super) fn has_mounted_volumes(&self, container: &Container) -> bool {
        container.definition.volumes.values().any(|id| self.paths().mount(id).exists())
    }

    /// Makes one volume ready for who works with what it holds.
    pub(super) fn ready_volume(&self, volume: &Volume) -> Result<ReadyVolume<'_>, EngineError> {
        let lock = lock_object(&self.paths().locks(), &volume.row.id)?;
        // It may be gone meanwhile.
        if !self.store()?.has_volume(&volume.row.id)? {
            return Err(EngineError::VolumeNotFound { volume: volume.row.name.clone() });
        }
        self.mount_volume(volume, &Backing::of(&volume.definition.options)?)?;
        let path = self.volume_path(volume);
        Ok(ReadyVolume { engine: self, id: volume.row.id.clone(), path, _lock: lock })
    }
}

/// A volume that is held for as long as somebody works with it.
#[must_use]
pub(super) struct ReadyVolume<'a> {
    engine: &'a Engine,
    id: String,
    path: PathBuf,
    _lock: ObjectLock,
}

impl ReadyVolume<'_> {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ReadyVolume<'_> {
    fn drop(&mut self) {
        self.engine.detach_unless_used(&self.id, None);
    }
}
