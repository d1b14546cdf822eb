//! What images and containers take on the disk, and the end of those that nobody uses.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Engine, EngineError, EventKind};
use crate::image::{Digest, ImageError};
use crate::store::StoreError;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ids of images.
    pub images: Vec<String>,
    /// What that gave back of the disk.
    pub freed_bytes: u64,
}

/// What a kind of thing takes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// How many there are.
    pub count: u64,
    /// Those that something uses: images with containers, containers that run.
    pub in_use: u64,
    /// Blocks of the disk, whatever is shared counted once.
    pub bytes: u64,
    /// What would be free without those that nothing uses.
    pub reclaimable_bytes: u64,
}

impl Engine {
    /// Removes images without a name that no container is made from, or with `all` also those that have one; layers of
    /// interrupted pulls; and what builds have kept for later ones. Blocks the thread.
    ///
    /// # Errors
    /// Those of the store.
    pub fn prune_images(&self, all: bool) -> Result<Pruned, EngineError> {
        let before = self.layers_on_disk()?;
        let store = self.store()?;
        let mut images = Vec::new();
        for id in store.unused_images(all)? {
            match store.delete_image(&id) {
                Ok(true) => {
                    self.record_event(EventKind::Image, "remove", &id, &id);
                    images.push(id);
                }
                // Someone was faster, or has just made a container of it.
                Ok(false) | Err(StoreError::InUse { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        store.forget_build_steps(i64::MAX)?;
        self.remove_build_caches();
        self.sweep_all_layers()?;
        let after: HashSet<PathBuf> = self.layers_on_disk()?.into_iter().map(|(path, _)| path).collect();
        let freed = before.iter().filter(|(path, _)| !after.contains(path)).map(|(_, bytes)| bytes).sum();
        Ok(Pruned { images, freed_bytes: freed })
    }

    /// What the images take. Walks their layers, and blocks the thread for it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn image_disk_use(&self) -> Result<DiskUse, EngineError> {
        let images = self.store()?.images()?;
        let used: HashSet<&str> = images
            .iter()
            .filter(|image| image.containers > 0)
            .flat_map(|image| image.layers.iter().map(String::as_str))
            .collect();
        let mut disk = DiskUse {
            count: images.len() as u64,
            in_use: images.iter().filter(|image| image.containers > 0).count() as u64,
            ..DiskUse::default()
        };
        for (path, bytes) in self.layers_on_disk()? {
            disk.bytes += bytes;
            let hex = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !used.contains(format!("sha256:{hex}").as_str()) {
                disk.reclaimable_bytes += bytes;
            }
        }
        Ok(disk)
    }

    /// What the containers have written. Blocks the thread.
    ///
    /// # Errors
    /// Those of the store.
    pub fn container_disk_use(&self) -> Result<DiskUse, EngineError> {
        let mut disk = DiskUse::default();
        for row in self.store()?.containers()? {
            let bytes = blocks_below(&self.paths().container(&row.id));
            disk.count += 1;
            disk.bytes += bytes;
            if self.live(&row.id)?.phase.is_alive() {
                disk.in_use += 1;
            } else {
                disk.reclaimable_bytes += bytes;
            }
        }
        Ok(disk)
    }

    /// Each layer's directory, and what it takes with its record.
    fn layers_on_disk(&self) -> Result<Vec<(PathBuf, u64)>, EngineError> {
        let directory = self.paths().state_dir.join("layers");
        let records = self.paths().state_dir.join("records");
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(EngineError::io("list", directory, source)),
        };
        Ok(entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                Digest::from_hex(name).map_err(|_: ImageError| ()).is_ok()
            })
            .map(|path| {
                let name = path.file_name().unwrap_or_default().to_owned();
                let bytes = blocks_below(&path) + blocks_below(&records.join(name));
                (path, bytes)
            })
            .collect())
    }
}

/// The bytes of disk that a tree takes; files with several names count once. What can't be read counts nothing.
pub(in crate::engine) fn blocks_below(root: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        bytes += metadata.blocks() * 512;
        if metadata.is_dir()
            && let Ok(entries) = path.read_dir()
        {
            waiting.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
    }
    bytes
}
