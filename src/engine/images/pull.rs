//! Images from registries.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::layers::WantedLayer;
use super::load::NewImage;
use super::{Engine, EngineError, LayerProgress, Loaded, from_image_error, name_of};
use crate::image::manifest::{
    Descriptor, MANIFEST_BYTES_MAX, Manifest, ManifestOrIndex, OCI_MANIFEST, Platform,
};
use crate::image::registry::{Access, AuthFiles, Credentials, Endpoint, Registries, RegistryError, Session};
use crate::image::{Digest, ImageConfig, ImageError, Reference};
use crate::store::BlobRow;

const INDEX_DEPTH_MAX: usize = 4;

/// What is to be pulled, and how.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// As the user says it.
    pub name: String,
    /// Default: that of this machine.
    pub platform: Option<Platform>,
    /// Default: those of the user's files.
    pub credentials: Option<Credentials>,
    /// Whether an image that is here already is enough.
    pub when: PullWhen,
}

/// When registries are asked for an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullWhen {
    /// If the image is not here.
    #[default]
    Missing,
    /// In any case.
    Always,
    /// In any case; an image that is here is enough where none can be had.
    Newer,
    /// Not at all.
    Never,
}

/// An image that was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// `sha256:` and 64 hexadecimal digits.
    pub id: String,
    /// In full; the id of one that is here, and was asked for by it.
    pub name: String,
    /// Of its manifest or index, as the registry has it under this name; `None` if nothing was asked of a registry.
    pub digest: Option<String>,
}

/// What a registry has under a name.
struct Remote {
    session: Arc<Session>,
    manifest: Manifest,
    json: Vec<u8>,
    kind: String,
    /// Of the manifest, and of the index that it is from.
    digests: Vec<Digest>,
}

impl Engine {
    /// Gets an image, if it has to be, from a registry: only the layers that are not here, several at a time, each verified and unpacked
    /// while it comes. Blocks the thread. If it fails, or `cancelled` is set, no image is recorded; layers that are whole
    /// are kept for a day.
    ///
    /// # Errors
    /// [`EngineError::ImageNotFound`], [`EngineError::ImageAmbiguous`], [`EngineError::NotInRegistry`],
    /// [`EngineError::Unauthorized`], [`EngineError::RegistryUnavailable`], [`EngineError::InvalidImage`], [`EngineError::InvalidSpec`], [`EngineError::Unsupported`],
    /// [`EngineError::StorageFull`], [`EngineError::Cancelled`].
    pub fn pull(
        &self,
        request: &PullRequest,
        cancelled: &Arc<AtomicBool>,
        progress: &(dyn Fn(LayerProgress) + Sync),
    ) -> Result<Pulled, EngineError> {
        let registries = Registries::load().map_err(|error| from_registry_error(&request.name, error))?;
        let candidates = registries.resolve(&request.name).map_err(invalid_name)?;
        let here = match request.when {
            PullWhen::Always => None,
            _ => self.image_here(request, &candidates)?,
        };
        match (request.when, here) {
            (PullWhen::Missing | PullWhen::Never, Some(here)) => Ok(here),
            (PullWhen::Never, None) => Err(EngineError::ImageNotFound { image: request.name.clone() }),
            // Of what was made on this machine no registry has another.
            (PullWhen::Newer, Some(here)) if here.name.starts_with("localhost/") => Ok(here),
            (_, here) => {
                let pulled = self.pull_first(&candidates, request, &registries, cancelled, progress);
                match (pulled, here) {
                    (Err(error), Some(here)) if !matches!(error, EngineError::Cancelled) => {
                        tracing::warn!(
                            image = here.name,
                            error = error.full_text(),
                            "no registry has a newer one, using the one that is here"
                        );
                        Ok(here)
                    }
                    (pulled, _) => pulled,
                }
            }
        }
    }

    /// The image that is here under a name, and for the platform that is wanted.
    fn image_here(
        &self,
        request: &PullRequest,
        candidates: &[Reference],
    ) -> Result<Option<Pulled>, EngineError> {
        let image = match self.image_among(&request.name, || candidates.to_vec()) {
            Ok(image) => image,
            Err(EngineError::ImageNotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let fits = request.platform.as_ref().is_none_or(|wanted| {
            (&wanted.os, &wanted.architecture) == (&image.config.os, &image.config.architecture)
        });
        let name = name_of(&image, &request.name).unwrap_or_else(|| image.row.id.clone());
        Ok(fits.then_some(Pulled { id: image.row.id, name, digest: None }))
    }

    /// Tries one name after the other.
    fn pull_first(
        &self,
        candidates: &[Reference],
        request: &PullRequest,
        registries: &Registries,
        cancelled: &Arc<AtomicBool>,
        progress: &(dyn Fn(LayerProgress) + Sync),
    ) -> Result<Pulled, EngineError> {
        let mut failure = None;
        for reference in candidates {
            match self.pull_reference(reference, request, registries, cancelled, progress) {
                Ok(pulled) => return Ok(pulled),
                // A short name is looked for in the next registry.
                Err(
                    error @ (EngineError::NotInRegistry { .. }
                    | EngineError::Unauthorized { .. }
                    | EngineError::RegistryUnavailable { .. }),
                ) => {
                    failure.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| EngineError::ImageNotFound { image: request.name.clone() }))
    }

    fn pull_reference(
        &self,
        reference: &Reference,
        request: &PullRequest,
        registries: &Registries,
        cancelled: &Arc<AtomicBool>,
        progress: &(dyn Fn(LayerProgress) + Sync),
    ) -> Result<Pulled, EngineError> {
        let name = reference.to_string();
        let endpoints = registries.endpoints(reference).map_err(|error| from_registry_error(&name, error))?;
        let last = endpoints.len().saturating_sub(1);
        for (number, endpoint) in endpoints.iter().enumerate() {
            let is_mirror = number < last;
            // The credentials of a call are for the registry that it names, not for its mirrors.
            let credentials = request.credentials.clone().filter(|_| !is_mirror);
            let pulled = self.pull_from(endpoint, reference, credentials, request, cancelled, progress);
            match pulled {
                Err(error)
                    if is_mirror
                        && !matches!(error, EngineError::Cancelled | EngineError::StorageFull { .. }) =>
                {
                    tracing::warn!(mirror = %endpoint.reference, error = error.full_text(), "the mirror does not help");
                }
                result => return result,
            }
        }
        Err(EngineError::ImageNotFound { image: name })
    }

    fn pull_from(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        credentials: Option<Credentials>,
        request: &PullRequest,
        cancelled: &Arc<AtomicBool>,
        progress: &(dyn Fn(LayerProgress) + Sync),
    ) -> Result<Pulled, EngineError> {
        let name = reference.to_string();
        let platform = request.platform.clone().unwrap_or_else(Platform::host);
        let remote = remote(endpoint, credentials, &platform, cancelled)
            .map_err(|error| from_remote_error(&name, error))?;
        let failed = |error| from_remote_error(&name, error);
        let config =
            remote.session.small_blob(&remote.manifest.config, MANIFEST_BYTES_MAX as u64).map_err(failed)?;
        let parsed = ImageConfig::from_json(&config).map_err(failed)?;
        let diff_ids = parsed.rootfs.diff_ids;
        if diff_ids.len() != remote.manifest.layers.len() {
            let reason = format!(
                "the configuration has {} layers, the manifest {}",
                diff_ids.len(),
                remote.manifest.layers.len()
            );
            return Err(failed(ImageError::BadManifest { reason }));
        }
        let _layers = self.hold_layers(cancelled)?;
        let wanted = wanted(&remote, &diff_ids, &endpoint.reference, &name);
        let session = &remote.session;
        self.obtain_layers(&wanted, cancelled, &|| session.shut_down(), progress).map_err(
            |error| match error {
                EngineError::InvalidArchive { reason } => {
                    EngineError::InvalidImage { image: name.clone(), reason }
                }
                error => error,
            },
        )?;
        drop(wanted);
        let digests = remote.digests.iter().map(|digest| (reference.name(), digest.to_string())).collect();
        let Loaded { id, .. } = self.record_image(
            "pull",
            NewImage {
                names: vec![name.clone()],
                config,
                layers: diff_ids,
                manifest: Some((remote.kind, remote.json)),
                digests,
            },
        )?;
        let digest = remote.digests.last().map(ToString::to_string);
        Ok(Pulled { id, name, digest })
    }
}

/// Asks a registry, or a mirror, for what an image consists of.
fn remote(
    endpoint: &Endpoint,
    credentials: Option<Credentials>,
    platform: &Platform,
    cancelled: &Arc<AtomicBool>,
) -> Result<Remote, ImageError> {
    let credentials = match credentials {
        Some(credentials) => Some(credentials),
        None => AuthFiles::of_user().find(&endpoint.reference)?,
    };
    let session = Session::open(endpoint, Access::Pull, credentials, Arc::clone(cancelled))?;
    let mut version = endpoint.reference.version().to_owned();
    let mut expected = endpoint.reference.digest().cloned();
    let mut digests = Vec::new();
    for _ in 0..=INDEX_DEPTH_MAX {
        let (json, kind) = session.manifest(&version)?;
        let found = Digest::of(&json);
        if let Some(expected) = expected
            && expected != found
        {
            let what = format!("the manifest of {}", endpoint.reference);
            return Err(ImageError::WrongDigest { what, expected, found });
        }
        digests.insert(0, found);
        match ManifestOrIndex::from_json(&json, kind.as_deref())? {
            ManifestOrIndex::Manifest(manifest) => {
                let kind = manifest.media_type.clone().or(kind).unwrap_or_else(|| OCI_MANIFEST.to_owned());
                return Ok(Remote { session: Arc::new(session), manifest, json, kind, digests });
            }
            ManifestOrIndex::Index(index) => {
                let chosen = index.select(platform)?;
                version = chosen.digest.to_string();
                expected = Some(chosen.digest.clone());
            }
        }
    }
    Err(ImageError::BadManifest { reason: "indexes are nested too deeply".to_owned() })
}

fn wanted<'a>(
    remote: &'a Remote,
    diff_ids: &[Digest],
    at: &Reference,
    name: &'a str,
) -> Vec<WantedLayer<'a>> {
    let mut wanted: Vec<WantedLayer<'_>> = Vec::new();
    for (diff_id, layer) in diff_ids.iter().zip(&remote.manifest.layers) {
        if wanted.iter().any(|known| known.diff_id == *diff_id) {
            continue;
        }
        wanted.push(WantedLayer {
            diff_id: diff_id.clone(),
            digest: layer.digest.to_string(),
            size_bytes: layer.size,
            blob: Some(blob_row(at, layer)),
            open: Box::new(move || {
                let blob = remote.session.blob(layer).map_err(|error| from_registry_error(name, error))?;
                Ok(Box::new(Typed { reader: blob, name: name.to_owned() }) as Box<dyn Read + Send>)
            }),
        });
    }
    wanted
}

pub(super) fn blob_row(at: &Reference, layer: &Descriptor) -> BlobRow {
    BlobRow {
        repository: at.name(),
        digest: layer.digest.to_string(),
        media_type: layer.media_type.clone(),
        size_bytes: i64::try_from(layer.size).unwrap_or(i64::MAX),
    }
}

/// Turns the errors of a registry, on the way through a reader, into the engine's.
struct Typed<R> {
    reader: R,
    name: String,
}

impl<R: Read> Read for Typed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| match error.downcast::<RegistryError>() {
            Ok(error) => io::Error::other(from_registry_error(&self.name, error)),
            Err(error) => error,
        })
    }
}

pub(super) fn invalid_name(error: ImageError) -> EngineError {
    EngineError::InvalidSpec { field: "name".into(), reason: error.to_string() }
}

/// What is wrong with an image of a registry.
pub(super) fn from_remote_error(image: &str, error: ImageError) -> EngineError {
    match error {
        ImageError::Registry(error) => from_registry_error(image, error),
        error => match from_image_error(error) {
            EngineError::InvalidArchive { reason } => {
                EngineError::InvalidImage { image: image.to_owned(), reason }
            }
            error => error,
        },
    }
}

pub(super) fn from_registry_error(image: &str, error: RegistryError) -> EngineError {
    let reason = error.to_string();
    let image = image.to_owned();
    match error {
        RegistryError::NotFound { registry, .. } => EngineError::NotInRegistry { image, registry, reason },
        RegistryError::Unauthorized { registry, .. } => EngineError::Unauthorized { registry, reason },
        RegistryError::Unreachable { registry, .. }
        | RegistryError::Refused { registry, .. }
        | RegistryError::BadAnswer { registry, .. } => EngineError::RegistryUnavailable { registry, reason },
        RegistryError::NotOffered { what, .. } => {
            EngineError::Unsupported { feature: what.to_owned(), reason }
        }
        RegistryError::Blocked { .. } => {
            EngineError::Unsupported { feature: format!("pulling {image}"), reason }
        }
        RegistryError::Config { .. } => {
            EngineError::Failed { attempted: "read the configuration of registries".to_owned(), reason }
        }
        RegistryError::Cancelled => EngineError::Cancelled,
    }
}
