//! Images: what they are called and who uses them. The bytes are [`crate::image`]'s.
//!
//! A layer is unpacked before any record refers to it, and removed after the last has gone. Whoever unpacks holds the
//! lock on layers shared with nobody who removes: else a layer could go between its unpacking and its record.

mod import;
mod layers;
mod load;
mod prune;
mod pull;
mod push;
mod save;

pub use import::{Archive, ImportProgress, Imported};
pub use layers::{LayerProgress, LayerState};
pub use load::Loaded;
pub(super) use load::NewImage;
pub(super) use prune::blocks_below;
pub use prune::{DiskUse, Pruned};
pub use pull::{PullRequest, PullWhen, Pulled};
pub use push::Pushed;
pub(super) use save::{PatientWriter, sink};
pub use save::{SaveFormat, SaveTo};

use crate::image::registry::Registries;
use crate::image::{HistoryStep, ImageConfig, ImageError, Reference};
use crate::store::{ImageRow, StoreError};

use super::error::is_too_long;
use super::{Engine, EngineError, EventKind};

/// An image with its configuration read.
#[derive(Debug, Clone)]
pub struct Image {
    /// As recorded.
    pub row: ImageRow,
    /// What containers made from it get.
    pub config: ImageConfig,
}

/// A step of an image's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// As the configuration tells it.
    pub step: HistoryStep,
    /// The diff id of what it added, if it added files.
    pub layer: Option<String>,
    /// The bytes of these files.
    pub size_bytes: i64,
}

impl HistoryEntry {
    /// When, in microseconds of CLOCK_REALTIME, if the image tells.
    pub fn created_usec(&self) -> Option<i64> {
        self.step.created.as_deref().and_then(crate::image::parse_rfc3339)
    }
}

impl Engine {
    /// All images, newest first.
    ///
    /// # Errors
    /// Those of the store.
    pub fn images(&self) -> Result<Vec<Image>, EngineError> {
        self.store()?.images()?.into_iter().map(read_config).collect()
    }

    /// Finds an image by name, id, or a prefix of the id that is its alone. A short name is first one of this machine, then
    /// what it would be pulled as.
    ///
    /// # Errors
    /// [`EngineError::ImageNotFound`], [`EngineError::ImageAmbiguous`].
    pub fn find_image(&self, name: &str) -> Result<Image, EngineError> {
        self.image_among(name, || pulled_as(name))
    }

    /// As [`Self::find_image`]; a name that is none of this machine is one of `others`.
    fn image_among(&self, name: &str, others: impl FnOnce() -> Vec<Reference>) -> Result<Image, EngineError> {
        let store = self.store()?;
        if let Some(row) = store.image(name)? {
            return read_config(row);
        }
        let named = |reference: &Reference| match (store.image(&reference.to_string())?, reference.digest()) {
            (None, Some(digest)) => store.image_by_digest(&reference.name(), digest.as_str()),
            (found, _) => Ok(found),
        };
        if let Ok(reference) = reference(name)
            && let Some(row) = named(&reference)?
        {
            return read_config(row);
        }
        if Reference::is_short(name) {
            for reference in others() {
                if let Some(row) = named(&reference)? {
                    return read_config(row);
                }
            }
        }
        read_config(store.image_by_prefix(name.strip_prefix("sha256:").unwrap_or(name))?.one(
            || EngineError::ImageAmbiguous { image: name.to_owned() },
            || EngineError::ImageNotFound { image: name.to_owned() },
        )?)
    }

    /// Gives an image one more name, which another image may lose by it. Returns the name in full.
    ///
    /// # Errors
    /// [`EngineError::ImageNotFound`]; [`EngineError::InvalidSpec`] for what is no name, or one by digest.
    pub fn tag_image(&self, name: &str, new_name: &str) -> Result<String, EngineError> {
        let image = self.find_image(name)?;
        let full = reference(new_name).map_err(|error| match error {
            EngineError::InvalidSpec { reason, .. } => {
                EngineError::InvalidSpec { field: "newName".into(), reason }
            }
            other => other,
        })?;
        if full.digest().is_some() {
            let reason = format!("{new_name:?} has a digest, which no name can promise; give a tag");
            return Err(EngineError::InvalidSpec { field: "newName".into(), reason });
        }
        let full = full.to_string();
        if !self.store()?.name_image(&image.row.id, &full)? {
            return Err(EngineError::ImageNotFound { image: name.to_owned() });
        }
        self.record_event(EventKind::Image, "tag", &image.row.id, &full);
        Ok(full)
    }

    /// Takes a name away, and leaves the image, even if it has no other.
    ///
    /// # Errors
    /// [`EngineError::ImageNotFound`]; [`EngineError::InvalidSpec`] if the image is known by an id alone.
    pub fn untag_image(&self, name: &str) -> Result<(), EngineError> {
        let image = self.find_image(name)?;
        let Some(full) = name_of(&image, name) else {
            let reason =
                format!("{name:?} is an id, not a name; the image's names are {:?}", image.row.names);
            return Err(EngineError::InvalidSpec { field: "name".into(), reason });
        };
        self.store()?.delete_image_name(&full)?;
        self.record_event(EventKind::Image, "untag", &image.row.id, &full);
        Ok(())
    }

    /// How an image came about, newest step first; with the layer of each step that has one, and the bytes of its files.
    ///
    /// # Errors
    /// [`EngineError::ImageNotFound`].
    pub fn image_history(&self, name: &str) -> Result<Vec<HistoryEntry>, EngineError> {
        let image = self.find_image(name)?;
        let store = self.store()?;
        let mut layers = image.row.layers.iter();
        let mut entries = Vec::new();
        let mut steps = image.config.history.clone();
        // Some tools write no history, or less than there is.
        let with_layers = steps.iter().filter(|step| !step.empty_layer).count();
        steps.extend((with_layers..image.row.layers.len()).map(|_| HistoryStep::default()));
        for step in steps {
            let layer = if step.empty_layer { None } else { layers.next().cloned() };
            let size_bytes = match &layer {
                Some(layer) => store.layer_size(layer)?.unwrap_or(0),
                None => 0,
            };
            entries.push(HistoryEntry { step, layer, size_bytes });
        }
        entries.reverse();
        Ok(entries)
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
        let by_name = name_of(&image, name);
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
}

/// Which of an image's names is meant; `None` if it was found by its id or a digest.
fn name_of(image: &Image, name: &str) -> Option<String> {
    let others = if Reference::is_short(name) { pulled_as(name) } else { Vec::new() };
    let meant = reference(name).into_iter().chain(others).map(|reference| reference.to_string());
    meant.into_iter().find(|full| image.row.names.contains(full))
}

/// What a short name may have been pulled as: what registries.conf(5) says, and Docker's before there was such a file.
fn pulled_as(name: &str) -> Vec<Reference> {
    let configured = Registries::load().map(|registries| registries.resolve(name).unwrap_or_default());
    let mut references = configured.unwrap_or_else(|error| {
        tracing::warn!(name, error = text_of(&error), "cannot tell what a short name stands for, ignoring");
        Vec::new()
    });
    references.extend(Reference::of_docker(name).ok().filter(|docker| !references.contains(docker)));
    references
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

/// With all its causes, in one line.
fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

pub(super) fn from_image_error(error: ImageError) -> EngineError {
    match error {
        ImageError::NoSpace { directory, .. } => EngineError::StorageFull { path: directory },
        ImageError::Cancelled => EngineError::Cancelled,
        ImageError::Registry(error) => pull::from_registry_error("the image", error),
        ImageError::Store { action, path, source } => EngineError::io(action, path, source),
        ImageError::NoPlatform { ref wanted, .. } => {
            EngineError::Unsupported { feature: format!("an image for {wanted}"), reason: text_of(&error) }
        }
        ImageError::ForeignLayer { .. } => EngineError::Unsupported {
            feature: "an image with foreign layers".to_owned(),
            reason: text_of(&error),
        },
        ImageError::Write { ref source }
            if matches!(
                source.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            ) =>
        {
            EngineError::Failed {
                attempted: "write the archive".to_owned(),
                reason: "no space left".to_owned(),
            }
        }
        ImageError::Write { source } => {
            EngineError::Failed { attempted: "write the archive".to_owned(), reason: source.to_string() }
        }
        ImageError::Layer { digest, source } => match *source {
            inner @ (ImageError::NoSpace { .. } | ImageError::Cancelled | ImageError::Store { .. }) => {
                from_image_error(inner)
            }
            inner => EngineError::InvalidArchive {
                reason: text_of(&ImageError::Layer { digest, source: Box::new(inner) }),
            },
        },
        ImageError::Entry { action, entry, source } if is_too_long(&source) => {
            EngineError::PathTooLong { attempted: action.to_owned(), path: entry }
        }
        ImageError::Entry { action, entry, source } => EngineError::Failed {
            attempted: format!("{action} entry {entry:?} of the archive"),
            reason: source.to_string(),
        },
        other => EngineError::InvalidArchive { reason: text_of(&other) },
    }
}
