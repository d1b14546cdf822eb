//! Images: names, configurations, and layers as directories.
//!
//! A layer is one extracted directory, named by the digest of its uncompressed tar ([`LayerStore`]); an image is
//! a configuration ([`ImageConfig`]) that lists its layers by these digests, and its id is the digest of that
//! configuration. Which images exist, and under which names, is the store's business, not this module's.
//!
//! Everything that is read here is foreign and taken to be hostile: archives, configurations and names. The
//! invariant that every change must keep: unpacking touches nothing outside its own directory, and what is at
//! [`LayerStore::path`] is complete and verified, always.

pub mod archive;
pub mod build;
mod compression;
mod config;
mod digest;
mod error;
mod layer;
pub mod manifest;
mod owners;
mod record;
mod reference;
pub mod registry;
mod remove;
mod source;
mod tar_stream;
mod tree_tar;
mod unpack;
mod verified;

pub use config::{Empty, Healthcheck, HistoryStep, ImageConfig, Process, RootFs};
pub use digest::{Digest, Hasher};
pub use error::ImageError;
pub use layer::{ImportedLayer, LayerStore, Limits, Progress, Whiteouts};
pub use owners::Owners;
pub use record::LayerTar;
pub use reference::Reference;
pub use remove::remove_tree;
pub use source::DescriptorReader;
pub use tree_tar::{LayerTree, Rewrite, TreeKind, part_tar, part_tar_as, tree_tar, tree_tar_as};
pub use unpack::{copy_in, is_tar};

/// Whether a name in an upper directory is none of a file's, but says that the directory hides what lower ones have: so
/// fuse-overlayfs has it, beside the attribute.
pub fn is_opaque_mark(name: &[u8]) -> bool {
    name == b".wh..wh..opq" || name == b".wh..opq"
}

/// The name of an attribute of overlayfs, as an overlay has it that this user mounts (`userxattr`; overlayfs.rst).
pub fn overlay_attribute(name: &str) -> String {
    let space = if crate::identity::in_user_namespace() { "user" } else { "trusted" };
    format!("{space}.overlay.{name}")
}

pub(crate) use config::{architecture, parse_rfc3339, rfc3339};
