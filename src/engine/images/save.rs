//! Images into archives.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Engine, EngineError, Image, from_image_error, name_of};
use crate::image::archive::{SavedImage, docker_archive, oci_archive, oci_directory};
use crate::image::{Digest, ImageError, Reference};
use crate::monitor::Endpoint;

const TICK_NSEC: i64 = 100_000_000;

/// What kind of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveFormat {
    /// Docker's `save`.
    DockerArchive,
    /// A tar of an OCI layout.
    OciArchive,
    /// An OCI layout.
    OciDirectory,
}

/// Where an archive goes.
#[derive(Debug)]
pub enum SaveTo {
    /// A file, pipe or socket of the caller.
    Descriptor(OwnedFd),
    /// A path of the host.
    Path(PathBuf),
}

impl Engine {
    /// Writes images into one archive. An image that is named by its id is saved with all its names, else with the name
    /// given. Blocks the thread. What was written to a path is removed again if it fails or `cancelled` is set. Returns
    /// the bytes of content.
    ///
    /// # Errors
    /// [`EngineError::ImageNotFound`], [`EngineError::InvalidSpec`], [`EngineError::Cancelled`],
    /// [`EngineError::Failed`] where it can't be written.
    pub fn save(
        &self,
        names: &[String],
        format: SaveFormat,
        to: SaveTo,
        cancelled: &AtomicBool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, EngineError> {
        if names.is_empty() {
            let reason = "at least one image is wanted".to_owned();
            return Err(EngineError::InvalidSpec { field: "names".into(), reason });
        }
        let _layers = self.hold_layers(cancelled)?;
        let mut images: Vec<SavedImage> = Vec::new();
        for name in names {
            let image = self.find_image(name)?;
            let saved = saved(&image, name)?;
            match images.iter_mut().find(|known| known.config == saved.config) {
                Some(known) => known.names.extend(saved.names),
                None => images.push(saved),
            }
        }
        let store = self.layers()?;
        let to = match to {
            SaveTo::Path(path) if format == SaveFormat::OciDirectory => {
                check_absolute(&path)?;
                return oci_directory(&store, &images, &path, cancelled, progress).map_err(from_image_error);
            }
            SaveTo::Descriptor(_) if format == SaveFormat::OciDirectory => {
                let reason = "a directory is saved to a path".to_owned();
                return Err(EngineError::InvalidSpec { field: "archive".into(), reason });
            }
            to => to,
        };
        let (file, made) = sink(to)?;
        let out = PatientWriter::new(file, cancelled);
        let written = match format {
            SaveFormat::DockerArchive => docker_archive(&store, &images, out, cancelled, progress),
            _ => oci_archive(&store, &images, out, cancelled, progress),
        };
        made.finish(written.is_ok());
        written.map_err(|error| match error {
            ImageError::Write { .. } if cancelled.load(Ordering::Relaxed) => EngineError::Cancelled,
            error => from_image_error(error),
        })
    }
}

/// A file that was made for the caller, if one was.
pub(in crate::engine) struct Made(Option<PathBuf>);

impl Made {
    /// Half an archive is worse than none.
    pub(in crate::engine) fn finish(self, whole: bool) {
        if !whole
            && let Some(path) = self.0
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(?path, %error, "cannot remove the unfinished archive, ignoring");
        }
    }
}

/// Opens what is to be written to.
pub(in crate::engine) fn sink(to: SaveTo) -> Result<(File, Made), EngineError> {
    match to {
        SaveTo::Descriptor(fd) => Ok((File::from(fd), Made(None))),
        SaveTo::Path(path) => {
            check_absolute(&path)?;
            // Never instead of something that is there.
            let file = File::create_new(&path).map_err(|error| EngineError::InvalidSpec {
                field: "path".into(),
                reason: format!("cannot make {path:?}: {error}"),
            })?;
            Ok((file, Made(Some(path))))
        }
    }
}

fn check_absolute(path: &Path) -> Result<(), EngineError> {
    if path.is_absolute() {
        return Ok(());
    }
    let reason = format!("{path:?} is not absolute");
    Err(EngineError::InvalidSpec { field: "path".into(), reason })
}

fn saved(image: &Image, name: &str) -> Result<SavedImage, EngineError> {
    let names = name_of(image, name).map_or_else(|| image.row.names.clone(), |name| vec![name]);
    let parsed = |error: ImageError| EngineError::Failed {
        attempted: format!("read the record of image {}", image.row.id),
        reason: error.to_string(),
    };
    Ok(SavedImage {
        names: names
            .iter()
            .map(|name| name.parse::<Reference>())
            .collect::<Result<_, _>>()
            .map_err(parsed)?,
        config: image.row.config.clone().into_bytes(),
        layers: image
            .row
            .layers
            .iter()
            .map(|layer| layer.parse::<Digest>())
            .collect::<Result<_, _>>()
            .map_err(parsed)?,
    })
}

/// Writes to what may take its time, and notices within 100 ms that nobody wants it any more.
pub(in crate::engine) struct PatientWriter<'a> {
    to: Endpoint,
    cancelled: &'a AtomicBool,
}

impl<'a> PatientWriter<'a> {
    pub(in crate::engine) fn new(file: File, cancelled: &'a AtomicBool) -> Self {
        Self { to: Endpoint::output(file.into()), cancelled }
    }
}

impl Write for PatientWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK_NSEC };
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(io::Error::other("cancelled"));
            }
            match poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], Some(&tick)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            // Never waits, whoever else may have filled the pipe or terminal since: a thread that waits in there could not
            // be told that nobody wants it any more.
            match self.to.write(bytes) {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
