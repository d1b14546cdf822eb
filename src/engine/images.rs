//! Images: what they are called and who uses them. The bytes are [`crate::image`]'s.
//!
//! A layer is unpacked before any record refers to it, and removed after the last has gone. Whoever unpacks holds the
//! lock on layers shared with nobody who removes: else a layer could go between its unpacking and its record.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use rustix::fs::FlockOperation;

use crate::image::{
    DescriptorReader, Digest, ImageConfig, ImageError, Limits, Process, Reference, Whiteouts,
};
use crate::store::{ImageRow, StoreError};

use super::{Engine, EngineError, EventKind, now_usec};

/// Where an archive comes from.
#[derive(Debug)]
pub enum Archive {
    /// A file, pipe or socket of the caller.
    Descriptor(OwnedFd),
    /// A path of the host.
    Path(PathBuf),
}

/// How far an import is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportProgress {
    /// Of the archive, as it comes.
    pub bytes_read: u64,
    /// Files, directories and so on.
    pub entries: u64,
}

/// An image that is here now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// `sha256:` and 64 hexadecimal digits.
    pub id: String,
    /// All of the archive.
    pub progress: ImportProgress,
}

/// An image with its configuration read.
#[derive(Debug, Clone)]
pub struct Image {
    /// As recorded.
    pub row: ImageRow,
    /// What containers made from it get.
    pub config: ImageConfig,
}

impl Engine {
    /// Makes an image of one layer from a tar archive of a root file system. Blocks the thread; leaves nothing behind if
    /// it fails or `cancelled` is set.
    ///
    /// # Errors
    /// [`EngineError::InvalidArchive`], [`EngineError::InvalidSpec`], [`EngineError::StorageFull`],
    /// [`EngineError::Cancelled`].
    pub fn import(
        &self,
        name: Option<&str>,
        archive: Archive,
        config: Process,
        cancelled: &AtomicBool,
        progress: &mut dyn FnMut(ImportProgress),
    ) -> Result<Imported, EngineError> {
        let name = name.map(reference).transpose()?;
        let source: Box<dyn Read + Send + '_> = match archive {
            Archive::Descriptor(fd) => Box::new(DescriptorReader::new(fd, cancelled)),
            Archive::Path(path) => {
                if !path.is_absolute() {
                    let reason = format!("{path:?} is not absolute");
                    return Err(EngineError::InvalidSpec { field: "path".into(), reason });
                }
                // Not waiting for a writer if it is a FIFO.
                let file = File::options()
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
                    .open(&path)
                    .map_err(|error| EngineError::InvalidSpec {
                        field: "path".into(),
                        reason: format!("cannot open {path:?}: {error}"),
                    })?;
                Box::new(DescriptorReader::new(file.into(), cancelled))
            }
        };
        let _layers = self.lock_layers(FlockOperation::LockShared)?;
        // The only layer: there is nothing below it to be hidden.
        let limits = Limits { whiteouts: Whiteouts::Drop, ..Limits::default() };
        let layer = self
            .layers()?
            .import(
                source,
                &limits,
                &mut |now| progress(ImportProgress { bytes_read: now.bytes_read, entries: now.entries }),
                cancelled,
            )
            .map_err(from_image_error)?;
        let created_usec = now_usec();
        let mut image =
            ImageConfig::for_tree(layer.diff_id.clone(), u64::try_from(created_usec).unwrap_or_default());
        image.config = config;
        let id = image.id().to_string();
        self.store()?.insert_image(&ImageRow {
            id: id.clone(),
            names: name.iter().map(ToString::to_string).collect(),
            layers: vec![layer.diff_id.to_string()],
            config: String::from_utf8_lossy(&image.to_json()).into_owned(),
            created_usec,
            size_bytes: i64::try_from(layer.size_bytes).unwrap_or(i64::MAX),
            containers: 0,
        })?;
        let shown = name.map_or_else(|| id.clone(), |name| name.to_string());
        self.record_event(EventKind::Image, "import", &id, &shown);
        let progress = ImportProgress { bytes_read: layer.compressed_bytes, entries: layer.entries };
        Ok(Imported { id, progress })
    }

    /// All images, newest first.
    ///
    /// # Errors
    /// Those of the store.
    pub fn images(&self) -> Result<Vec<Image>, EngineError> {
        self.store()?.images()?.into_iter().map(read_config).collect()
    }

    /// Finds an image by name, id, or a prefix of the id that is its alone.
    ///
    /// # Errors
    /// [`EngineError::ImageNotFound`], [`EngineError::ImageAmbiguous`].
    pub fn find_image(&self, name: &str) -> Result<Image, EngineError> {
        let store = self.store()?;
        if let Some(row) = store.image(name)? {
            return read_config(row);
        }
        if let Ok(reference) = reference(name)
            && let Some(row) = store.image(&reference.to_string())?
        {
            return read_config(row);
        }
        let mut rows = store.images_by_prefix(name.strip_prefix("sha256:").unwrap_or(name))?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => read_config(row),
            (Some(_), false) => Err(EngineError::ImageAmbiguous { image: name.to_owned() }),
            (None, _) => Err(EngineError::ImageNotFound { image: name.to_owned() }),
        }
    }

    /// Removes a name of an image; with its last name, or if asked for by id, the image itself, and the layers that only
    /// it had. Returns the id if the image itself is gone. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::ImageNotFound`], [`EngineError::ImageInUse`].
    pub fn remove_image(&self, name: &str) -> Result<Option<String>, EngineError> {
        let store = self.store()?;
        let image = self.find_image(name)?;
        let id = &image.row.id;
        let full_name = reference(name).ok().map(|reference| reference.to_string());
        let by_name = full_name.filter(|full| image.row.names.contains(full));
        if let Some(full_name) = &by_name
            && image.row.names.len() > 1
        {
            store.delete_image_name(full_name)?;
            self.record_event(EventKind::Image, "untag", id, full_name);
            return Ok(None);
        }
        match store.delete_image(id) {
            Ok(true) => {}
            Ok(false) => return Err(EngineError::ImageNotFound { image: name.to_owned() }),
            Err(StoreError::InUse { .. }) => {
                let containers = store.containers_of_image(id)?;
                return Err(EngineError::ImageInUse { image: name.to_owned(), containers });
            }
            Err(error) => return Err(error.into()),
        }
        self.record_event(EventKind::Image, "remove", id, by_name.as_deref().unwrap_or(id));
        self.sweep_layers()?;
        Ok(Some(id.clone()))
    }

    /// Removes layers that no image has. Left for another time while an import is under way.
    pub(super) fn sweep_layers(&self) -> Result<(), EngineError> {
        let Ok(_layers) = self.lock_layers(FlockOperation::NonBlockingLockExclusive) else { return Ok(()) };
        let store = self.store()?;
        // What can't be looked up counts as known: nothing goes by mistake.
        let is_known = |digest: &Digest| store.has_layer(digest.as_str()).unwrap_or(true);
        match self.layers()?.sweep(is_known) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed layers that no image has"),
            Err(error) => {
                tracing::warn!(%error, "cannot remove a layer that no image has, left for the next wake")
            }
        }
        Ok(())
    }

    fn lock_layers(&self, operation: FlockOperation) -> Result<File, EngineError> {
        // Not in the run directory's locks: that one is per boot and object, this one per store.
        let path = self.paths().state_dir.join("layers.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| EngineError::io("open", &path, source))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation))
            .map_err(|errno| EngineError::io("lock", &path, errno.into()))?;
        Ok(file)
    }
}

fn reference(name: &str) -> Result<Reference, EngineError> {
    name.parse().map_err(|error: ImageError| EngineError::InvalidSpec {
        field: "name".into(),
        reason: error.to_string(),
    })
}

fn read_config(row: ImageRow) -> Result<Image, EngineError> {
    let config = ImageConfig::from_json(row.config.as_bytes()).map_err(|error| EngineError::Failed {
        attempted: format!("read the configuration of image {}", row.id),
        reason: error.to_string(),
    })?;
    Ok(Image { row, config })
}

pub(super) fn from_image_error(error: ImageError) -> EngineError {
    use std::error::Error;
    match error {
        ImageError::NoSpace { directory, .. } => EngineError::StorageFull { path: directory },
        ImageError::Cancelled => EngineError::Cancelled,
        ImageError::Store { action, path, source } => EngineError::io(action, path, source),
        ImageError::Entry { .. } => EngineError::Failed {
            attempted: "unpack the archive".to_owned(),
            reason: match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        },
        other => EngineError::InvalidArchive {
            reason: match other.source() {
                Some(source) => format!("{other}: {source}"),
                None => other.to_string(),
            },
        },
    }
}
