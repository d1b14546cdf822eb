//! Images out of archives.

use std::sync::atomic::AtomicBool;

use super::layers::WantedLayer;
use super::{Archive, Engine, EngineError, EventKind, LayerProgress, from_image_error, reference};
use crate::engine::now_usec;
use crate::image::archive::{ArchivedImage, ImageArchive};
use crate::image::manifest::Platform;
use crate::image::{Digest, ImageConfig};
use crate::store::ImageRow;

/// An image that was in the archive, and is here now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// `sha256:` and 64 hexadecimal digits.
    pub id: String,
    /// The names that it got.
    pub names: Vec<String>,
}

/// What is known of an image whose layers are here.
pub(in crate::engine) struct NewImage {
    pub names: Vec<String>,
    pub config: Vec<u8>,
    pub layers: Vec<Digest>,
    pub manifest: Option<(String, Vec<u8>)>,
    pub digests: Vec<(String, String)>,
}

impl Engine {
    /// Takes the images out of a docker-archive, an oci-archive (each plain, gzip or zstd) or the directory of an OCI
    /// layout. `name` is one more name for the image, if there is only one. Blocks the thread. If it fails, or
    /// `cancelled` is set, no image is recorded; layers that are whole are kept for a day.
    ///
    /// # Errors
    /// [`EngineError::InvalidArchive`], [`EngineError::InvalidSpec`], [`EngineError::Unsupported`],
    /// [`EngineError::StorageFull`], [`EngineError::Cancelled`].
    pub fn load(
        &self,
        archive: Archive,
        name: Option<&str>,
        cancelled: &AtomicBool,
        progress: &(dyn Fn(LayerProgress) + Sync),
    ) -> Result<Vec<Loaded>, EngineError> {
        let name = name.map(reference).transpose()?;
        let source = archive.open()?;
        let archive =
            ImageArchive::open(source, &self.paths().state_dir, &Platform::host(), cancelled, &mut |_| {})
                .map_err(from_image_error)?;
        if archive.images().is_empty() {
            return Err(EngineError::InvalidArchive { reason: "there is no image in it".to_owned() });
        }
        if name.is_some() && archive.images().len() > 1 {
            let reason = "the archive has several images, which can't have one name".to_owned();
            return Err(EngineError::InvalidSpec { field: "name".into(), reason });
        }
        let _layers = self.hold_layers(cancelled)?;
        let wanted = self.wanted_of_archive(&archive);
        self.obtain_layers(&wanted, cancelled, &|| {}, progress)?;
        let mut loaded = Vec::new();
        for image in archive.images() {
            let names = image.names.iter().chain(&name).map(ToString::to_string).collect();
            loaded.push(self.record_image("load", new_image(image, names))?);
        }
        Ok(loaded)
    }

    fn wanted_of_archive<'a>(&self, archive: &'a ImageArchive) -> Vec<WantedLayer<'a>> {
        let mut wanted: Vec<WantedLayer<'_>> = Vec::new();
        for layer in archive.images().iter().flat_map(|image| &image.layers) {
            if wanted.iter().any(|known| known.diff_id == layer.diff_id) {
                continue;
            }
            wanted.push(WantedLayer {
                diff_id: layer.diff_id.clone(),
                digest: layer.blob.as_ref().unwrap_or(&layer.diff_id).to_string(),
                size_bytes: layer.size_bytes,
                blob: None,
                open: Box::new(|| archive.layer(layer).map_err(from_image_error)),
            });
        }
        wanted
    }

    /// Records an image whose layers are here.
    pub(in crate::engine) fn record_image(
        &self,
        action: &'static str,
        image: NewImage,
    ) -> Result<Loaded, EngineError> {
        let not_text =
            |what: &str| EngineError::InvalidArchive { reason: format!("the {what} is not UTF-8") };
        let id = Digest::of(&image.config).to_string();
        let config = String::from_utf8(image.config).map_err(|_| not_text("configuration"))?;
        let parsed = ImageConfig::from_json(config.as_bytes()).map_err(from_image_error)?;
        let manifest = match image.manifest {
            Some((kind, json)) => Some((kind, String::from_utf8(json).map_err(|_| not_text("manifest"))?)),
            None => None,
        };
        let created_usec =
            parsed.created.as_deref().and_then(crate::image::parse_rfc3339).unwrap_or_else(now_usec);
        self.store()?.insert_image(&ImageRow {
            id: id.clone(),
            names: image.names.clone(),
            layers: image.layers.iter().map(ToString::to_string).collect(),
            config,
            created_usec,
            size_bytes: self.size_of_layers(&image.layers)?,
            containers: 0,
            manifest,
            digests: image.digests,
        })?;
        self.record_event(EventKind::Image, action, &id, image.names.first().unwrap_or(&id));
        Ok(Loaded { id, names: image.names })
    }
}

fn new_image(image: &ArchivedImage, names: Vec<String>) -> NewImage {
    NewImage {
        names,
        config: image.config.clone(),
        layers: image.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
        manifest: image.manifest.clone(),
        digests: Vec::new(),
    }
}
