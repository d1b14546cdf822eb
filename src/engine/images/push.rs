//! Images to registries, and what else registries are asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::pull::{blob_row, from_registry_error, invalid_name};
use super::{Engine, EngineError, EventKind, LayerProgress, LayerState};
use crate::image::manifest::{
    DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, Manifest, ManifestOrIndex, OCI_CONFIG, OCI_LAYER_GZIP,
    OCI_MANIFEST,
};
use crate::image::registry::{
    Access, AuthFiles, Credentials, Endpoint, Found, Registries, RegistryError, Session, Upload,
};
use crate::image::{Digest, LayerStore, Reference};

const AT_ONCE: usize = 3;
const TICK: Duration = Duration::from_millis(50);

/// An image that a registry has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// In full.
    pub name: String,
    /// Of its manifest.
    pub digest: String,
}

impl Engine {
    /// Sends an image to a registry: only the layers that are not there. A layer that was pulled or pushed before is sent
    /// as the same blob if the registry has it anywhere. `destination` is the name there; default is the image's own.
    /// Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::ImageNotFound`], and those of [`Engine::pull`].
    pub fn push(
        &self,
        name: &str,
        destination: Option<&str>,
        credentials: Option<Credentials>,
        cancelled: &Arc<AtomicBool>,
        progress: &(dyn Fn(LayerProgress) + Sync),
    ) -> Result<Pushed, EngineError> {
        let image = self.find_image(name)?;
        let reference: Reference = match destination {
            Some(destination) => Reference::of_docker(destination).map_err(invalid_name)?,
            None => super::name_of(&image, name)
                .or_else(|| image.row.names.first().cloned())
                .ok_or_else(|| EngineError::InvalidSpec {
                    field: "destination".into(),
                    reason: format!("{name:?} has no name that says where to push it"),
                })?
                .parse()
                .map_err(invalid_name)?,
        };
        if reference.registry() == "localhost" {
            return Err(EngineError::InvalidSpec {
                field: "destination".into(),
                reason: format!("{reference} is of this machine; name a registry, or tag the image with one"),
            });
        }
        let full = reference.to_string();
        let failed = |error| from_registry_error(&full, error);
        let endpoint =
            Registries::load().and_then(|registries| registries.primary(&reference)).map_err(failed)?;
        let session = open(&endpoint, Access::Push, credentials, cancelled).map_err(failed)?;
        let _layers = self.hold_layers(cancelled)?;
        let store = self.layers()?;
        let mut layers: Vec<Digest> = Vec::new();
        for layer in &image.row.layers {
            layers.push(layer.parse().map_err(super::from_image_error)?);
        }
        let blobs = self.push_layers(&session, &endpoint, &store, &layers, &full, cancelled, progress)?;
        let config = image.row.config.as_bytes();
        let config_digest = Digest::of(config);
        if !session.has_blob(&config_digest).map_err(failed)? {
            session.upload(OCI_CONFIG, &|| Ok(Upload::Bytes(config)), &|_| {}).map_err(failed)?;
        }
        // The manifest that it came with, if that still fits, so that its digest stays.
        let kept = image.row.manifest.as_ref().filter(|(kind, json)| {
            match ManifestOrIndex::from_json(json.as_bytes(), Some(kind)) {
                Ok(ManifestOrIndex::Manifest(manifest)) => {
                    manifest.config.digest == config_digest
                        && manifest
                            .layers
                            .iter()
                            .map(|layer| &layer.digest)
                            .eq(blobs.iter().map(|blob| &blob.digest))
                }
                _ => false,
            }
        });
        let (kind, json) = match kept {
            Some((kind, json)) => (kind.clone(), json.clone().into_bytes()),
            // Or else one of the same kind.
            None if image.row.manifest.as_ref().is_some_and(|(kind, _)| kind == DOCKER_MANIFEST) => {
                let config = Descriptor::new(DOCKER_CONFIG, config_digest, config.len() as u64);
                (DOCKER_MANIFEST.to_owned(), Manifest::of_docker(config, blobs).to_json())
            }
            None => {
                let config = Descriptor::new(OCI_CONFIG, config_digest, config.len() as u64);
                (OCI_MANIFEST.to_owned(), Manifest::new(config, blobs).to_json())
            }
        };
        let digest = Digest::of(&json);
        if let Some(expected) = reference.digest()
            && *expected != digest
        {
            return Err(EngineError::InvalidSpec {
                field: "destination".into(),
                reason: format!("the manifest's digest is {digest}; push to a tag"),
            });
        }
        session.put_manifest(reference.version(), &kind, &json).map_err(failed)?;
        self.store()?.record_digest(&image.row.id, &reference.name(), digest.as_str())?;
        self.record_event(EventKind::Image, "push", &image.row.id, &full);
        Ok(Pushed { name: full, digest: digest.to_string() })
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, just above")]
    fn push_layers(
        &self,
        session: &Session,
        endpoint: &Endpoint,
        store: &LayerStore,
        layers: &[Digest],
        full: &str,
        cancelled: &AtomicBool,
        progress: &(dyn Fn(LayerProgress) + Sync),
    ) -> Result<Vec<Descriptor>, EngineError> {
        let next = AtomicUsize::new(0);
        let running = AtomicUsize::new(AT_ONCE.min(layers.len()));
        let stop = AtomicBool::new(false);
        let results: Mutex<Vec<Option<Result<Descriptor, EngineError>>>> =
            Mutex::new(layers.iter().map(|_| None).collect());
        std::thread::scope(|scope| {
            let here = std::thread::current();
            for _ in 0..AT_ONCE.min(layers.len()) {
                let (next, running, stop, results, here) = (&next, &running, &stop, &results, here.clone());
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(layer) = layers.get(number) else { break };
                        let result = self.push_layer(session, endpoint, store, layer, full, progress);
                        // What fails once others are stopped has failed because of that, and would hide the reason.
                        if result.is_err() && stop.swap(true, Ordering::Relaxed) {
                            break;
                        }
                        results.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(result);
                    }
                    running.fetch_sub(1, Ordering::AcqRel);
                    here.unpark();
                });
            }
            while running.load(Ordering::Acquire) > 0 {
                if cancelled.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed) {
                    stop.store(true, Ordering::Relaxed);
                    session.shut_down();
                }
                std::thread::park_timeout(TICK);
            }
        });
        if cancelled.load(Ordering::Relaxed) {
            return Err(EngineError::Cancelled);
        }
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut blobs = Vec::new();
        let mut cut_short = false;
        for result in results {
            match result {
                Some(result) => blobs.push(result?),
                None => cut_short = true,
            }
        }
        if cut_short { Err(EngineError::Cancelled) } else { Ok(blobs) }
    }

    /// Sees to it that the repository has a layer, and tells as what.
    fn push_layer(
        &self,
        session: &Session,
        endpoint: &Endpoint,
        store: &LayerStore,
        layer: &Digest,
        full: &str,
        progress: &(dyn Fn(LayerProgress) + Sync),
    ) -> Result<Descriptor, EngineError> {
        let failed = |error| from_registry_error(full, error);
        let size = store.tar(layer).map_err(super::from_image_error)?.length();
        let told = |state, bytes_done: u64| {
            progress(LayerProgress {
                digest: layer.to_string(),
                state,
                bytes_done: bytes_done.min(size),
                bytes_total: size,
            });
        };
        told(LayerState::Waiting, 0);
        let here = endpoint.reference.name();
        let registry = format!("{}/", endpoint.reference.registry());
        let mut known = self.store()?.blobs_of_layer(layer.as_str())?;
        // First as what it is in this very repository.
        known.sort_by_key(|blob| blob.repository != here);
        for blob in known {
            let Ok(digest) = blob.digest.parse::<Digest>() else { continue };
            let there = session.has_blob(&digest).map_err(failed)?
                || match blob.repository.strip_prefix(&registry) {
                    Some(from) if blob.repository != here => session.mount(&digest, from).map_err(failed)?,
                    _ => false,
                };
            if there {
                let size_bytes = u64::try_from(blob.size_bytes).unwrap_or(0);
                let descriptor = Descriptor::new(&blob.media_type, digest, size_bytes);
                self.store()?.record_blob(layer.as_str(), &blob_row(&endpoint.reference, &descriptor))?;
                told(LayerState::Present, size);
                return Ok(descriptor);
            }
        }
        let descriptor = session
            .upload(
                OCI_LAYER_GZIP,
                &|| {
                    store.tar(layer).map(Box::new).map(Upload::Layer).map_err(|error| {
                        RegistryError::Refused {
                            registry: endpoint.reference.registry().to_owned(),
                            what: format!("layer {layer}"),
                            reason: error.to_string(),
                        }
                    })
                },
                &|sent| told(LayerState::Transferring, sent),
            )
            .map_err(failed)?;
        self.store()?.record_blob(layer.as_str(), &blob_row(&endpoint.reference, &descriptor))?;
        told(LayerState::Done, size);
        Ok(descriptor)
    }

    /// Finds out whether a registry takes these credentials, and keeps them where podman, skopeo and buildah look for them
    /// too. Returns the file. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::Unauthorized`], [`EngineError::RegistryUnavailable`], [`EngineError::InvalidSpec`].
    pub fn login(&self, registry: &str, username: &str, password: &str) -> Result<PathBuf, EngineError> {
        let failed = |error| from_registry_error(registry, error);
        let endpoint = registry_endpoint(registry)?;
        let credentials =
            Credentials::Password { username: username.to_owned(), password: password.to_owned() };
        Session::open(&endpoint, Access::Login, Some(credentials), Arc::default()).map_err(failed)?;
        AuthFiles::of_user().store(endpoint.reference.registry(), username, password).map_err(failed)
    }

    /// Forgets credentials. False if there were none.
    ///
    /// # Errors
    /// [`EngineError::InvalidSpec`]; [`EngineError::Failed`] for a file that can't be changed.
    pub fn logout(&self, registry: &str) -> Result<bool, EngineError> {
        let endpoint = registry_endpoint(registry)?;
        AuthFiles::of_user()
            .forget(endpoint.reference.registry())
            .map_err(|error| from_registry_error(registry, error))
    }

    /// Looks for images in a registry, by default the first that short names are looked for in. Blocks the thread.
    ///
    /// # Errors
    /// Those of [`Engine::pull`]; [`EngineError::Unsupported`] where the registry has no search.
    pub fn search(
        &self,
        term: &str,
        registry: Option<&str>,
        limit: usize,
        cancelled: &Arc<AtomicBool>,
    ) -> Result<Vec<Found>, EngineError> {
        let registries = Registries::load().map_err(|error| from_registry_error(term, error))?;
        let registry = match registry {
            Some(registry) => registry,
            None => registries.search_registries().first().map_or("docker.io", String::as_str),
        };
        let endpoint = registry_endpoint(registry)?;
        open(&endpoint, Access::Login, None, cancelled)
            .and_then(|session| session.search(term, limit))
            .map_err(|error| from_registry_error(term, error))
    }
}

fn open(
    endpoint: &Endpoint,
    access: Access,
    credentials: Option<Credentials>,
    cancelled: &Arc<AtomicBool>,
) -> Result<Session, RegistryError> {
    let credentials = match credentials {
        Some(credentials) => Some(credentials),
        None => AuthFiles::of_user().find(&endpoint.reference)?,
    };
    Session::open(endpoint, access, credentials, Arc::clone(cancelled))
}

/// Where a registry as such is; a name of an image in it is needed to look it up in the configuration.
fn registry_endpoint(registry: &str) -> Result<Endpoint, EngineError> {
    let invalid = |reason: String| EngineError::InvalidSpec { field: "registry".into(), reason };
    let host = registry.trim_start_matches("https://").trim_end_matches('/');
    let name = format!("{host}/any");
    if Reference::is_short(&name) {
        return Err(invalid(format!(
            "{registry:?} is no registry: expected a host name with a dot or a port"
        )));
    }
    let reference: Reference =
        name.parse().map_err(|error: crate::image::ImageError| invalid(error.to_string()))?;
    Registries::load()
        .and_then(|registries| registries.primary(&reference))
        .map_err(|error| from_registry_error(registry, error))
}
