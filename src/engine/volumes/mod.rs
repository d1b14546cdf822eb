//! Volumes: directories that outlive containers, and are shared by them.
//!
//! ```text
//! STATE_DIR/volumes/ID/        0700
//!   data/                      what it holds, unless its options say that it lies elsewhere
//!   new/                       what its first use is about to make of it; renamed to data when it is whole
//! RUN_DIR/mounts/ID            its file system, if it has one of its own, while a container that uses it runs
//! ```
//!
//! The record says that a volume exists, and which containers use it ([`crate::store::Uses`]): one that is used can't be
//! removed, whatever comes at the same time. A directory without a record is swept at the next wake. What happens to a
//! volume's directory happens under the lock of its id; who needs several takes them in the order of their ids, and after
//! that of the container.

mod options;
mod populate;
mod ready;
mod transfer;

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::store::{ObjectLock, StoreError, User, VolumeRow, lock_object, try_lock_object};

use super::images::{DiskUse, blocks_below};
use super::remove::remove_tree;
use super::sweep::{entries, is_id};
use super::{Engine, EngineError, EventKind, names, now_usec};
use crate::runtime::visible;

pub use options::Backing;
pub(super) use ready::{ReadyVolumes, Source};

const DATA: &str = "data";
const NEW: &str = "new";

/// What a volume is, as recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeDefinition {
    /// As given; see [`Backing`].
    pub options: BTreeMap<String, String>,
    /// Words of its owner.
    pub labels: BTreeMap<String, String>,
}

impl VolumeDefinition {
    /// What is wrong with the options.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        match Backing::of(&self.options)? {
            Backing::FileSystem { kind, .. } => check_known(&kind),
            Backing::Directory { .. } | Backing::Bind { .. } => Ok(()),
        }
    }
}

/// A volume that exists.
#[derive(Debug, Clone)]
pub struct Volume {
    /// As recorded.
    pub row: VolumeRow,
    /// What the record says.
    pub definition: VolumeDefinition,
}

impl Volume {
    /// What it holds goes with its mount.
    pub(super) fn is_in_memory(&self) -> bool {
        match Backing::of(&self.definition.options) {
            Ok(Backing::FileSystem { kind, .. }) => matches!(kind.as_str(), "tmpfs" | "ramfs"),
            _ => false,
        }
    }
}

/// A volume as asked for.
#[derive(Debug, Clone, Default)]
pub struct NewVolume {
    /// `None` for one without a name, which counts as made for a container.
    pub name: Option<String>,
    /// What it is to be.
    pub definition: VolumeDefinition,
}

/// What [`Engine::prune_volumes`] has removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedVolumes {
    /// Names.
    pub removed: Vec<String>,
    /// What that gave back of the disk.
    pub freed_bytes: u64,
}

/// A volume that has a directory and no record; the directory goes again unless it gets one.
#[must_use]
pub(super) struct PendingVolume<'a> {
    engine: &'a Engine,
    pub row: VolumeRow,
    armed: bool,
    _lock: ObjectLock,
}

impl PendingVolume<'_> {
    /// It has a record.
    pub fn keep(mut self) -> VolumeRow {
        self.armed = false;
        self.row.clone()
    }
}

impl Drop for PendingVolume<'_> {
    fn drop(&mut self) {
        if self.armed {
            remove_tree(&self.engine.paths().volume(&self.row.id));
        }
    }
}

impl Engine {
    /// Makes a volume. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::VolumeExists`], [`EngineError::InvalidSpec`], [`EngineError::Unsupported`],
    /// [`EngineError::StorageFull`].
    pub fn create_volume(&self, new: NewVolume) -> Result<Volume, EngineError> {
        if let Some(name) = &new.name {
            check_name("name", name)?;
            if self.volume_named(name)?.is_some() {
                return Err(EngineError::VolumeExists { volume: name.clone() });
            }
        }
        new.definition.check()?;
        let pending = self.pending_volume(new.name, &new.definition)?;
        self.store()?.insert_volume(&pending.row).map_err(|error| match error {
            StoreError::NameTaken { name } => EngineError::VolumeExists { volume: name },
            other => other.into(),
        })?;
        let row = pending.keep();
        self.record_event(EventKind::Volume, "create", &row.id, &row.name);
        Ok(Volume { row, definition: new.definition })
    }

    /// The directory of a volume that is about to be recorded.
    pub(super) fn pending_volume(
        &self,
        name: Option<String>,
        definition: &VolumeDefinition,
    ) -> Result<PendingVolume<'_>, EngineError> {
        // What is made before there is a database would look as if that had been lost.
        self.store()?;
        let id = names::new_id()?;
        let lock = lock_object(&self.paths().locks(), &id)?;
        let row = VolumeRow {
            anonymous: name.is_none(),
            name: name.unwrap_or_else(|| id.clone()),
            created_usec: now_usec(),
            fresh: true,
            definition: serde_json::to_string(definition).map_err(|error| EngineError::Failed {
                attempted: "record the volume".to_owned(),
                reason: error.to_string(),
            })?,
            id,
        };
        let pending = PendingVolume { engine: self, row, armed: true, _lock: lock };
        let directory = self.paths().volume(&pending.row.id);
        make(&directory, 0o700)?;
        if let Backing::Directory { uid, gid, .. } = Backing::of(&definition.options)? {
            let data = directory.join(DATA);
            make(&data, 0o755)?;
            std::os::unix::fs::chown(&data, uid, gid)
                .map_err(|source| EngineError::io("give away", &data, source))?;
        }
        Ok(pending)
    }

    /// All volumes, oldest first, with the containers that use them.
    ///
    /// # Errors
    /// Those of the store.
    pub fn volumes(&self) -> Result<Vec<(Volume, Vec<User>)>, EngineError> {
        let mut users = self.store()?.volume_users()?;
        let volumes = self.store()?.volumes()?.into_iter();
        volumes.map(|row| Ok((users.remove(&row.id).unwrap_or_default(), read(row)?))).map(flip).collect()
    }

    /// Finds a volume by name, id, or at least twelve digits that only its id begins with.
    ///
    /// # Errors
    /// [`EngineError::VolumeNotFound`], [`EngineError::VolumeAmbiguous`].
    pub fn find_volume(&self, name: &str) -> Result<Volume, EngineError> {
        read(self.store()?.find_volume(name)?.one(
            || EngineError::VolumeAmbiguous { volume: name.to_owned() },
            || EngineError::VolumeNotFound { volume: name.to_owned() },
        )?)
    }

    /// The volume of this very name or whole id.
    pub(super) fn volume_named(&self, name: &str) -> Result<Option<VolumeRow>, EngineError> {
        let found = self.store()?.find_volume(name)?.ok();
        Ok(found.filter(|row| row.name == name || row.id == name))
    }

    /// The containers that use a volume.
    ///
    /// # Errors
    /// Those of the store.
    pub fn users_of_volume(&self, id: &str) -> Result<Vec<User>, EngineError> {
        Ok(self.store()?.volume_users()?.remove(id).unwrap_or_default())
    }

    /// Where on the host what a volume holds is seen; of one with a file system of its own only while that is mounted.
    pub fn volume_path(&self, volume: &Volume) -> PathBuf {
        match Backing::of(&volume.definition.options) {
            Ok(Backing::Bind { path, .. }) => path.into(),
            Ok(Backing::FileSystem { .. }) => self.paths().mount(&volume.row.id),
            _ => self.paths().volume(&volume.row.id).join(DATA),
        }
    }

    /// Removes a volume; with `force` also the containers that use it. Must run to its end once begun.
    ///
    /// # Errors
    /// [`EngineError::VolumeNotFound`], [`EngineError::VolumeInUse`].
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), EngineError> {
        let row = self.find_volume(name)?.row;
        loop {
            let users = self.users_of_volume(&row.id)?;
            if !users.is_empty() && !force {
                let containers = users.into_iter().map(|user| user.name).collect();
                return Err(EngineError::VolumeInUse { volume: row.name, containers });
            }
            for user in users {
                // Not with its volumes: this one is removed here, the others are not meant.
                match Box::pin(self.remove(&user.id, true, false)).await {
                    Ok(()) | Err(EngineError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            let (engine, volume) = (self.clone(), row.clone());
            let lock = self.lock(&row.id).await?;
            let removed = super::blocking(move || engine.delete_volume(&volume)).await;
            drop(lock);
            match removed {
                // Somebody has just made a container that uses it.
                Err(EngineError::VolumeInUse { .. }) if force => {}
                Ok(false) => return Err(EngineError::VolumeNotFound { volume: name.to_owned() }),
                Ok(true) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes a volume of which nobody else knows. Blocks the thread.
    pub(super) fn remove_unused_volume(&self, id: &str) -> Result<(), EngineError> {
        let row = self.find_volume(id)?.row;
        let _lock = lock_object(&self.paths().locks(), &row.id)?;
        self.delete_volume(&row).map(drop)
    }

    /// Removes a volume that nothing uses; the caller has its lock. False if it is gone already.
    fn delete_volume(&self, row: &VolumeRow) -> Result<bool, EngineError> {
        match self.store()?.delete_volume(&row.id) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(StoreError::InUse { .. }) => {
                let containers = self.users_of_volume(&row.id)?.into_iter().map(|user| user.name).collect();
                return Err(EngineError::VolumeInUse { volume: row.name.clone(), containers });
            }
            Err(error) => return Err(error.into()),
        }
        self.remove_volume_directory(&row.id);
        self.record_event(EventKind::Volume, "remove", &row.id, &row.name);
        Ok(true)
    }

    /// What is left of volumes whose records went with that of their container. What can't be removed goes at the next wake.
    pub(super) fn remove_volumes_of_container(&self, rows: &[VolumeRow]) {
        for row in rows {
            match lock_object(&self.paths().locks(), &row.id) {
                Ok(_lock) => self.remove_volume_directory(&row.id),
                Err(error) => {
                    tracing::warn!(volume = row.name, %error, "cannot remove it, left for the next wake")
                }
            }
            self.record_event(EventKind::Volume, "remove", &row.id, &row.name);
        }
    }

    fn remove_volume_directory(&self, id: &str) {
        self.detach_mount(id);
        remove_tree(&self.paths().volume(id));
    }

    /// Removes the volumes that no container uses and that have all these labels; with `anonymous` only those without a name.
    ///
    /// # Errors
    /// Those of the store.
    pub fn prune_volumes(
        &self,
        anonymous: bool,
        labels: &BTreeMap<String, String>,
    ) -> Result<PrunedVolumes, EngineError> {
        let mut pruned = PrunedVolumes::default();
        for (volume, users) in self.volumes()? {
            let wanted = labels.iter().all(|(key, value)| {
                volume.definition.labels.get(key).is_some_and(|have| value.is_empty() || have == value)
            });
            if !users.is_empty() || !wanted || (anonymous && !volume.row.anonymous) {
                continue;
            }
            let bytes = blocks_below(&self.paths().volume(&volume.row.id));
            let Some(_lock) = try_lock_object(&self.paths().locks(), &volume.row.id)? else { continue };
            match self.delete_volume(&volume.row) {
                Ok(true) => {
                    pruned.freed_bytes += bytes;
                    pruned.removed.push(volume.row.name);
                }
                // Somebody was quicker.
                Ok(false) | Err(EngineError::VolumeInUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }

    /// What the volumes hold, as far as that lies with us. Blocks the thread.
    ///
    /// # Errors
    /// Those of the store.
    pub fn volume_disk_use(&self) -> Result<DiskUse, EngineError> {
        let mut disk = DiskUse::default();
        for (volume, users) in self.volumes()? {
            let bytes = blocks_below(&self.paths().volume(&volume.row.id));
            disk.count += 1;
            disk.bytes += bytes;
            if users.is_empty() {
                disk.reclaimable_bytes += bytes;
            } else {
                disk.in_use += 1;
            }
        }
        Ok(disk)
    }

    /// Removes directories of volumes that have no record, and unmounts file systems of those that no container runs with.
    pub(super) fn sweep_volumes(&self) -> Result<(), EngineError> {
        for id in entries(&self.paths().volumes()) {
            if !is_id(&id) || self.store()?.has_volume(&id)? {
                continue;
            }
            let Some(_lock) = try_lock_object(&self.paths().locks(), &id)? else { continue };
            // Again under the lock: it may just have been created.
            if !self.store()?.has_volume(&id)? {
                tracing::info!(id, "removing what an interrupted change of a volume left");
                self.remove_volume_directory(&id);
            }
        }
        for id in entries(&self.paths().mounts()) {
            if !is_id(&id) || self.store()?.has_container(&id)? {
                continue;
            }
            let Some(_lock) = try_lock_object(&self.paths().locks(), &id)? else { continue };
            if !self.store()?.has_container(&id)? && !self.is_volume_mounted_for_anybody(&id, None)? {
                self.detach_mount(&id);
            }
        }
        Ok(())
    }
}

fn flip(pair: Result<(Vec<User>, Volume), EngineError>) -> Result<(Volume, Vec<User>), EngineError> {
    pair.map(|(users, volume)| (volume, users))
}

fn read(row: VolumeRow) -> Result<Volume, EngineError> {
    let definition = serde_json::from_str(&row.definition)
        .map_err(|source| StoreError::Damaged { what: format!("volume {:?}", row.name), source })?;
    Ok(Volume { row, definition })
}

/// A name that a volume can be given.
pub(super) fn check_name(field: &str, name: &str) -> Result<(), EngineError> {
    names::check(field, name).map_err(|error| match error {
        EngineError::InvalidSpec { field, reason } => {
            EngineError::InvalidSpec { field, reason: reason.replace("container name", "name of a volume") }
        }
        other => other,
    })
}

fn check_known(kind: &str) -> Result<(), EngineError> {
    match visible::knows_file_system(kind) {
        Ok(true) => Ok(()),
        Ok(false) => Err(EngineError::Unsupported {
            feature: format!("a volume of type {kind}"),
            reason: "the kernel of this host has no such file system".into(),
        }),
        Err(errno) => Err(EngineError::Unsupported {
            feature: format!("a volume of type {kind}"),
            reason: format!("the kernel refuses it: {errno}"),
        }),
    }
}

fn make(directory: &std::path::Path, mode: u32) -> Result<(), EngineError> {
    match std::fs::DirBuilder::new().mode(mode).create(directory) {
        Err(source) => Err(EngineError::io("make directory", directory, source)),
        // Whatever the umask takes away.
        Ok(()) => std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .map_err(|source| EngineError::io("make directory", directory, source)),
    }
}
