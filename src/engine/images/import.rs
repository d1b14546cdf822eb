//! Images of root file systems.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::{Engine, EngineError, EventKind, from_image_error, reference};
use crate::engine::now_usec;
use crate::image::{DescriptorReader, HistoryStep, ImageConfig, Limits, Process};
use crate::store::ImageRow;

/// Where an archive comes from.
#[derive(Debug)]
pub enum Archive {
    /// A file, pipe or socket of the caller.
    Descriptor(OwnedFd),
    /// A path of the host.
    Path(PathBuf),
}

impl Archive {
    /// Opens what it is, without waiting for a writer if it is a FIFO.
    ///
    /// # Errors
    /// [`EngineError::InvalidSpec`] for a path that is not absolute, or where nothing can be opened.
    pub fn open(self) -> Result<OwnedFd, EngineError> {
        let path = match self {
            Self::Descriptor(fd) => return Ok(fd),
            Self::Path(path) => path,
        };
        if !path.is_absolute() {
            let reason = format!("{path:?} is not absolute");
            return Err(EngineError::InvalidSpec { field: "path".into(), reason });
        }
        File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
            .open(&path)
            .map(OwnedFd::from)
            .map_err(|error| EngineError::InvalidSpec {
                field: "path".into(),
                reason: format!("cannot open {path:?}: {error}"),
            })
    }
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

impl Engine {
    /// Makes an image of one layer from a tar archive of a root file system; `comment` is said of it in its history. Blocks the thread; leaves nothing behind if
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
        comment: Option<String>,
        cancelled: &AtomicBool,
        progress: &mut dyn FnMut(ImportProgress),
    ) -> Result<Imported, EngineError> {
        let name = name.map(reference).transpose()?;
        let source = DescriptorReader::new(archive.open()?, cancelled);
        let _layers = self.hold_layers(cancelled)?;
        // A layer has one tree, whatever images it is part of: whiteouts are kept here too.
        let limits = Limits::default();
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
        if let Some(comment) = comment {
            let created = image.created.clone();
            image.history.push(HistoryStep { created, comment: Some(comment), ..HistoryStep::default() });
        }
        let size_bytes = i64::try_from(layer.size_bytes).unwrap_or(i64::MAX);
        self.store()?.record_layer(layer.diff_id.as_str(), size_bytes, created_usec)?;
        let id = image.id().to_string();
        self.store()?.insert_image(&ImageRow {
            id: id.clone(),
            names: name.iter().map(ToString::to_string).collect(),
            layers: vec![layer.diff_id.to_string()],
            config: String::from_utf8_lossy(&image.to_json()).into_owned(),
            created_usec,
            size_bytes,
            containers: 0,
            manifest: None,
            digests: Vec::new(),
        })?;
        let shown = name.map_or_else(|| id.clone(), |name| name.to_string());
        self.record_event(EventKind::Image, "import", &id, &shown);
        let progress = ImportProgress { bytes_read: layer.compressed_bytes, entries: layer.entries };
        Ok(Imported { id, progress })
    }
}
