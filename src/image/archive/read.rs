//! What an archive of images holds.

use std::{io::Read, os::fd::OwnedFd, path::Path, sync::atomic::AtomicBool};

use serde::Deserialize;

use super::files::Files;
use crate::image::{
    Digest, ImageConfig, ImageError, Reference,
    manifest::{Descriptor, MANIFEST_BYTES_MAX, ManifestOrIndex, OCI_MANIFEST, Platform},
    verified::Verified,
};

/// Containers' and Docker's tools put the whole name into one of these annotations.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
const IMAGES_MAX: usize = 1000;
const INDEX_DEPTH_MAX: usize = 4;

/// An opened archive or layout.
#[derive(Debug)]
pub struct ImageArchive {
    files: Files,
    images: Vec<ArchivedImage>,
}

/// An image of an archive.
#[derive(Debug, Clone)]
pub struct ArchivedImage {
    /// The digest of its configuration.
    pub id: Digest,
    /// Its names; what is no name is left out.
    pub names: Vec<Reference>,
    /// Its configuration, to the byte.
    pub config: Vec<u8>,
    /// Media type and bytes, if it has one.
    pub manifest: Option<(String, Vec<u8>)>,
    /// Lowest first.
    pub layers: Vec<ArchivedLayer>,
}

/// A layer of an archive.
#[derive(Debug, Clone)]
pub struct ArchivedLayer {
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// The digest that the file must have; `None` for docker-archive, where the diff id alone decides.
    pub blob: Option<Digest>,
    /// Bytes of the file.
    pub size_bytes: u64,
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default, deserialize_with = "crate::image::config::null_is_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "crate::image::config::null_is_default")]
    layers: Vec<String>,
}

impl ImageArchive {
    /// Opens an archive (plain, gzip or zstd; also a pipe) or the directory of an OCI layout, and reads what it holds.
    /// Of images for several platforms, that for `platform` is taken. `scratch` is a directory for a copy, where one is
    /// needed; `copied` is told how many bytes of the archive have been read for it.
    /// # Errors
    /// [`ImageError::MissingPart`] and whatever is wrong with the archive, its manifests and configurations.
    pub fn open(
        source: OwnedFd,
        scratch: &Path,
        platform: &Platform,
        cancelled: &AtomicBool,
        copied: &mut dyn FnMut(u64),
    ) -> Result<Self, ImageError> {
        let files = Files::open(source, scratch, cancelled, copied)?;
        let images = if files.file("manifest.json")?.is_some() {
            docker_images(&files)?
        } else {
            oci_images(&files, platform)?
        };
        Ok(Self { files, images })
    }

    /// The images.
    pub fn images(&self) -> &[ArchivedImage] {
        &self.images
    }

    /// A layer as it lies in the archive. Reading it ends with an error if its digest is wrong.
    /// # Errors
    /// [`ImageError::MissingPart`].
    pub fn layer(&self, layer: &ArchivedLayer) -> Result<Box<dyn Read + Send>, ImageError> {
        let Some(section) = self.files.file(&layer.path)? else {
            return Err(ImageError::MissingPart { path: layer.path.clone(), owner: "an image".to_owned() });
        };
        Ok(match &layer.blob {
            Some(digest) => Box::new(Verified::new(section, digest.clone(), Some(layer.size_bytes))),
            None => Box::new(section),
        })
    }
}

fn docker_images(files: &Files) -> Result<Vec<ArchivedImage>, ImageError> {
    let json = files.small("manifest.json", "every docker-archive", MANIFEST_BYTES_MAX)?;
    let described: Vec<DockerImage> = serde_json::from_slice(&json)
        .map_err(|error| ImageError::BadManifest { reason: error.to_string() })?;
    check_count(described.len())?;
    let mut images = Vec::new();
    for image in described {
        let config = files.small(&image.config, "manifest.json", MANIFEST_BYTES_MAX)?;
        let diff_ids = ImageConfig::from_json(&config)?.rootfs.diff_ids;
        check_layers(diff_ids.len(), image.layers.len())?;
        let mut layers = Vec::new();
        for (diff_id, path) in diff_ids.into_iter().zip(image.layers) {
            let Some(section) = files.file(&path)? else {
                return Err(ImageError::MissingPart { path, owner: "manifest.json".to_owned() });
            };
            layers.push(ArchivedLayer { diff_id, blob: None, size_bytes: section.size(), path });
        }
        let names = image.repo_tags.iter().filter_map(|name| Reference::of_docker(name).ok()).collect();
        images.push(ArchivedImage { id: Digest::of(&config), names, config, manifest: None, layers });
    }
    Ok(images)
}

fn oci_images(files: &Files, platform: &Platform) -> Result<Vec<ArchivedImage>, ImageError> {
    let json = match files.small("index.json", "every archive of images", MANIFEST_BYTES_MAX) {
        Err(ImageError::MissingPart { .. }) => {
            return Err(ImageError::NoImages);
        }
        json => json?,
    };
    let ManifestOrIndex::Index(index) =
        ManifestOrIndex::from_json(&json, Some(crate::image::manifest::OCI_INDEX))?
    else {
        return Err(ImageError::BadManifest { reason: "index.json is no index".to_owned() });
    };
    check_count(index.manifests.len())?;
    let mut images: Vec<ArchivedImage> = Vec::new();
    for described in &index.manifests {
        let name = NAME_ANNOTATIONS
            .iter()
            .find_map(|key| described.annotations.get(*key)?.parse::<Reference>().ok());
        let image = oci_image(files, described, platform, 0)?;
        // The same image under another name.
        if let Some(known) = images.iter_mut().find(|known| known.id == image.id) {
            known.names.extend(name);
            continue;
        }
        images.push(ArchivedImage { names: name.into_iter().collect(), ..image });
    }
    Ok(images)
}

fn oci_image(
    files: &Files,
    described: &Descriptor,
    platform: &Platform,
    depth: usize,
) -> Result<ArchivedImage, ImageError> {
    let bytes = blob(files, described, "index.json", "manifest")?;
    let manifest = match ManifestOrIndex::from_json(&bytes, Some(&described.media_type))? {
        ManifestOrIndex::Manifest(manifest) => manifest,
        ManifestOrIndex::Index(_) if depth == INDEX_DEPTH_MAX => {
            return Err(ImageError::BadManifest { reason: "indexes are nested too deeply".to_owned() });
        }
        ManifestOrIndex::Index(index) => {
            return oci_image(files, index.select(platform)?, platform, depth + 1);
        }
    };
    let config = blob(files, &manifest.config, "the manifest", "configuration")?;
    let diff_ids = ImageConfig::from_json(&config)?.rootfs.diff_ids;
    check_layers(diff_ids.len(), manifest.layers.len())?;
    let mut layers = Vec::new();
    for (diff_id, layer) in diff_ids.into_iter().zip(manifest.layers) {
        let path = blob_path(&layer.digest);
        if files.file(&path)?.is_none() {
            return Err(ImageError::MissingPart { path, owner: "the manifest".to_owned() });
        }
        layers.push(ArchivedLayer { diff_id, blob: Some(layer.digest), size_bytes: layer.size, path });
    }
    let media_type = manifest.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned());
    Ok(ArchivedImage {
        id: manifest.config.digest,
        names: Vec::new(),
        config,
        manifest: Some((media_type, bytes)),
        layers,
    })
}

fn blob(files: &Files, described: &Descriptor, owner: &str, what: &str) -> Result<Vec<u8>, ImageError> {
    let bytes = files.small(&blob_path(&described.digest), owner, MANIFEST_BYTES_MAX)?;
    let found = Digest::of(&bytes);
    if found == described.digest {
        return Ok(bytes);
    }
    Err(ImageError::WrongDigest { what: format!("the {what}"), expected: described.digest.clone(), found })
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn check_count(count: usize) -> Result<(), ImageError> {
    if count > IMAGES_MAX {
        return Err(ImageError::TooLarge { what: "images in an archive", limit: IMAGES_MAX as u64 });
    }
    Ok(())
}

/// A manifest and its configuration must agree.
pub(in crate::image) fn check_layers(in_config: usize, in_manifest: usize) -> Result<(), ImageError> {
    if in_config == in_manifest {
        return Ok(());
    }
    let reason = format!("the configuration has {in_config} layers, the manifest {in_manifest}");
    Err(ImageError::BadManifest { reason })
}
