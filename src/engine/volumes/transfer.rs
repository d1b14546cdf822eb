//! What a volume holds, out of it and into it, as a tar.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};

use crate::image::{DescriptorReader, ImageError, Owners, copy_in, part_tar};

use super::super::images::{PatientWriter, from_image_error, sink};
use super::super::{Archive, Engine, EngineError, EventKind, SaveTo};

impl Engine {
    /// Writes what a volume holds as a tar. Containers may use it meanwhile. Blocks the thread. Returns the bytes written.
    ///
    /// # Errors
    /// [`EngineError::VolumeNotFound`], [`EngineError::VolumeUnusable`], [`EngineError::InvalidSpec`],
    /// [`EngineError::Cancelled`].
    pub fn export_volume(
        &self,
        name: &str,
        to: SaveTo,
        cancelled: &AtomicBool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, EngineError> {
        let volume = self.find_volume(name)?;
        let ready = self.ready_volume(&volume)?;
        let root = open(ready.path())?;
        let (file, made) = sink(to)?;
        let out = PatientWriter::new(file, cancelled);
        let written = part_tar(root.as_fd(), b".", &Owners::default(), out, cancelled, progress);
        made.finish(written.is_ok());
        written.map_err(|error| match error {
            ImageError::Write { .. } if cancelled.load(Ordering::Relaxed) => EngineError::Cancelled,
            error => from_image_error(error),
        })
    }

    /// Unpacks a tar in a volume. Blocks the thread. Returns the bytes read, and warnings; what was unpacked before an error
    /// stays.
    ///
    /// # Errors
    /// [`EngineError::VolumeNotFound`], [`EngineError::VolumeUnusable`], [`EngineError::InvalidSpec`],
    /// [`EngineError::InvalidArchive`], [`EngineError::StorageFull`], [`EngineError::Cancelled`].
    pub fn import_volume(
        &self,
        name: &str,
        from: Archive,
        cancelled: &AtomicBool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(u64, Vec<String>), EngineError> {
        let volume = self.find_volume(name)?;
        let ready = self.ready_volume(&volume)?;
        let root = open(ready.path())?;
        let reader = DescriptorReader::new(from.open()?, cancelled);
        let unpacked =
            copy_in(reader, root.as_fd(), b"", &Owners::default(), cancelled, progress).map_err(|error| {
                match error {
                    ImageError::Entry { entry, source, .. }
                        if source.kind() == std::io::ErrorKind::StorageFull =>
                    {
                        EngineError::StorageFull { path: entry.into() }
                    }
                    error => from_image_error(error),
                }
            })?;
        self.record_event(EventKind::Volume, "import", &volume.row.id, &volume.row.name);
        Ok(unpacked)
    }
}

fn open(path: &std::path::Path) -> Result<OwnedFd, EngineError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| EngineError::io("open the volume at", path, errno.into()))
}
