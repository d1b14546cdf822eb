//! Archives of images, as other engines make and take them.
//!
//! - docker-archive: a tar with `manifest.json`, which names configurations and layers (Docker's `save`).
//! - oci-archive: a tar of an OCI layout.
//! - an OCI layout: a directory with `index.json` and `blobs/` (OCI image-spec, image-layout.md).

mod files;
mod read;
mod write;

pub use read::{ArchivedImage, ArchivedLayer, ImageArchive};
pub use write::{SavedImage, docker_archive, oci_archive, oci_directory};
