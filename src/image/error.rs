//! What can go wrong with images and layers.

use std::{io, path::PathBuf};

/// Errors of [`crate::image`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A name that is no image reference.
    #[error("{name:?} is not an image name: {reason}")]
    BadReference {
        /// The name as it was given.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A text that is no digest.
    #[error("{text:?} is not a digest: expected sha256: and 64 lower-case hexadecimal digits")]
    BadDigest {
        /// The text as it was given, cut to 128 bytes.
        text: String,
    },
    /// A configuration that is not JSON of the expected form.
    #[error("the image's configuration cannot be used: {reason}")]
    BadConfig {
        /// What the parser said.
        reason: String,
    },
    /// The stream is neither a tar nor a compressed one.
    #[error("the stream is not a tar archive: {reason}")]
    NotAnArchive {
        /// What was found instead.
        reason: String,
    },
    /// The archive is not one of images.
    #[error(
        "there is no image in the archive, neither a manifest.json (docker-archive) nor an index.json (OCI layout); \
         a root file system is imported, not loaded"
    )]
    NoImages,
    /// The stream is compressed in a way that is not supported.
    #[error(
        "the archive is compressed with {compression}, which is not supported; recompress it with gzip or zstd"
    )]
    UnsupportedCompression {
        /// `xz`, `bzip2`, `lzip` or `lz4`.
        compression: &'static str,
    },
    /// The archive ends before its end.
    #[error(
        "the archive is cut off after {offset_bytes} bytes, inside {inside}; the transfer or the file is incomplete"
    )]
    Truncated {
        /// Where the (uncompressed) stream ended, in bytes.
        offset_bytes: u64,
        /// What the end cut apart: `the header of an entry`, or the entry's name, quoted.
        inside: String,
    },
    /// The compressed stream is damaged.
    #[error("the archive's compressed data is damaged: {reason}")]
    DamagedCompression {
        /// What the decompressor said.
        reason: String,
    },
    /// The archive breaks the format.
    #[error("the archive is damaged at byte {offset_bytes}: {reason}")]
    Damaged {
        /// Where, in the uncompressed stream.
        offset_bytes: u64,
        /// What was found.
        reason: String,
    },
    /// A name, or the target of a hard link, that tries to leave the layer.
    #[error("entry {entry:?} leaves the image's root: {reason}")]
    Escapes {
        /// The entry's name, cut to 256 bytes.
        entry: String,
        /// How.
        reason: &'static str,
    },
    /// An entry that cannot be used.
    #[error("entry {entry:?} cannot be unpacked: {reason}")]
    BadEntry {
        /// The entry's name, cut to 256 bytes.
        entry: String,
        /// Why.
        reason: String,
    },
    /// A limit of [`crate::image::Limits`] is exceeded.
    #[error("the archive exceeds the limit for {what} ({limit})")]
    TooLarge {
        /// `entries`, `bytes`, `path length`, `extended headers` or `directories`.
        what: &'static str,
        /// The limit, in the unit of `what`.
        limit: u64,
    },
    /// The file system of the state directory has no room (or no quota, or no inodes) left.
    #[error(
        "no space left below {directory:?} for entry {entry:?}; free some space or use another state directory"
    )]
    NoSpace {
        /// The directory that layers are kept in.
        directory: PathBuf,
        /// The entry at which it happened, cut to 256 bytes.
        entry: String,
        /// The kernel's error: ENOSPC or EDQUOT.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a step for one entry.
    #[error("cannot {action} entry {entry:?}")]
    Entry {
        /// A verb: `create`, `write`, `chown`, …
        action: &'static str,
        /// The entry's name, cut to 256 bytes.
        entry: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a step in the layer store itself.
    #[error("cannot {action} {path:?}")]
    Store {
        /// A verb with what follows: `create`, `open`, `lock`, …
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The stream could not be read.
    #[error("cannot read the archive")]
    Read {
        /// The reader's error.
        #[source]
        source: io::Error,
    },
    /// A manifest or an index that is not JSON of the expected form.
    #[error("the manifest cannot be used: {reason}")]
    BadManifest {
        /// What is wrong.
        reason: String,
    },
    /// A layer that only its maker may give away.
    #[error(
        "layer {digest} is a foreign one, which is not kept with the image but at {urls:?}; such images are not supported"
    )]
    ForeignLayer {
        /// Which layer.
        digest: crate::image::Digest,
        /// Where it would be.
        urls: Vec<String>,
    },
    /// None of several images is for the machine that is asked for.
    #[error("the image is not there for {wanted}, only for {}", offered.join(", "))]
    NoPlatform {
        /// As `os/architecture[/variant]`.
        wanted: String,
        /// All that there are.
        offered: Vec<String>,
    },
    /// An archive of images lacks a part.
    #[error(
        "the archive has no {path:?}, which belongs to {owner}; it is incomplete or no archive of images"
    )]
    MissingPart {
        /// The member's name.
        path: String,
        /// What refers to it.
        owner: String,
    },
    /// What is wrong with one layer of several.
    #[error("layer {digest}: {source}")]
    Layer {
        /// As the manifest calls it.
        digest: String,
        /// What is wrong.
        source: Box<ImageError>,
    },
    /// Bytes that are not those that their digest promises.
    #[error("{what} is not what it should be: its digest is {found}, expected {expected}")]
    WrongDigest {
        /// In words: `the manifest of …`, `layer …`.
        what: String,
        /// As promised.
        expected: crate::image::Digest,
        /// As found.
        found: crate::image::Digest,
    },
    /// An archive could not be written.
    #[error("cannot write the archive")]
    Write {
        /// The writer's error.
        #[source]
        source: io::Error,
    },
    /// A registry could not be used.
    #[error(transparent)]
    Registry(#[from] crate::image::registry::RegistryError),
    /// The caller has asked to stop.
    #[error("the import was cancelled")]
    Cancelled,
}
