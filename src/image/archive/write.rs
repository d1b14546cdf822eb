//! Archives of images for other engines.
//!
//! What is written depends on the images alone, not on time or order of their making: the same images give the same
//! bytes. Layers are not compressed, so that each has the digest that the configuration knows it by.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{DirBuilder, File},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::json;

use crate::image::{
    Digest, ImageError, LayerStore, Reference,
    manifest::{Descriptor, Index, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST},
};

const COPY_BYTES: usize = 256 << 10;
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image to be saved.
#[derive(Debug, Clone)]
pub struct SavedImage {
    /// Under these names.
    pub names: Vec<Reference>,
    /// To the byte.
    pub config: Vec<u8>,
    /// Diff ids, lowest first.
    pub layers: Vec<Digest>,
}

/// Writes what a caller may cancel, and counts.
struct Writer<'a, W> {
    store: &'a LayerStore,
    sink: W,
    cancelled: &'a AtomicBool,
    written: u64,
    progress: &'a mut dyn FnMut(u64),
}

/// Where files go.
trait Sink {
    fn begin(&mut self, path: &str, size: u64) -> io::Result<()>;
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn end(&mut self) -> io::Result<()>;
    fn finish(&mut self) -> io::Result<()>;
}

/// Writes a docker-archive. Returns how many bytes of content are in it; `progress` is told how many are written.
/// # Errors
/// [`ImageError::Write`], [`ImageError::Cancelled`], and those of reading layers.
pub fn docker_archive(
    store: &LayerStore,
    images: &[SavedImage],
    out: impl Write,
    cancelled: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, ImageError> {
    let mut writer = Writer { store, sink: TarSink::new(out), cancelled, written: 0, progress };
    let mut done = BTreeSet::new();
    let mut described = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<&str, &str>> = BTreeMap::new();
    for image in images {
        let id = Digest::of(&image.config);
        for layer in &image.layers {
            if done.insert(layer.clone()) {
                writer.layer(layer, &format!("{}.tar", layer.hex()))?;
            }
        }
        let config = format!("{}.json", id.hex());
        if done.insert(id) {
            writer.file(&config, &image.config)?;
        }
        // Docker's tags have no digests.
        let tagged = || image.names.iter().filter_map(|name| Some((name, name.tag()?)));
        if let Some(top) = image.layers.last() {
            for (name, tag) in tagged() {
                repositories.entry(name.name()).or_default().insert(tag, top.hex());
            }
        }
        let layers: Vec<String> = image.layers.iter().map(|layer| format!("{}.tar", layer.hex())).collect();
        let names: Vec<String> = tagged().map(|(name, _)| name.to_string()).collect();
        described.push(json!({"Config": config, "RepoTags": names, "Layers": layers}));
    }
    writer.file("manifest.json", json!(described).to_string().as_bytes())?;
    writer.file("repositories", json!(repositories).to_string().as_bytes())?;
    writer.finish()
}

/// Writes an oci-archive. As [`docker_archive`] otherwise.
/// # Errors
/// As [`docker_archive`].
pub fn oci_archive(
    store: &LayerStore,
    images: &[SavedImage],
    out: impl Write,
    cancelled: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, ImageError> {
    let sink = TarSink::new(out);
    oci_layout(Writer { store, sink, cancelled, written: 0, progress }, images)
}

/// Writes an OCI layout into a directory, which is made, or must be empty. As [`docker_archive`] otherwise. What is
/// written is removed again if it fails.
/// # Errors
/// As [`docker_archive`].
pub fn oci_directory(
    store: &LayerStore,
    images: &[SavedImage],
    directory: &Path,
    cancelled: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, ImageError> {
    let write_failed = |source| ImageError::Write { source };
    let made = match DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if directory.read_dir().map_err(write_failed)?.next().is_some() {
                return Err(write_failed(io::ErrorKind::DirectoryNotEmpty.into()));
            }
            false
        }
        Err(error) => return Err(write_failed(error)),
    };
    let sink = DirectorySink { directory, file: None };
    let result = oci_layout(Writer { store, sink, cancelled, written: 0, progress }, images);
    if result.is_err() {
        for name in ["blobs", "index.json", "oci-layout"] {
            let path = directory.join(name);
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(?path, %error, "cannot remove what was written of an image, ignoring");
            }
        }
        if made {
            let _ = std::fs::remove_dir(directory);
        }
    }
    result
}

fn oci_layout<S: Sink>(mut writer: Writer<'_, S>, images: &[SavedImage]) -> Result<u64, ImageError> {
    let mut done = BTreeSet::new();
    let mut index = Index::new(Vec::new());
    // First, as image-layout.md has it: a reader may then know what comes.
    writer.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    for image in images {
        let mut layers = Vec::new();
        for layer in &image.layers {
            let size = writer.store.tar(layer)?.length();
            if done.insert(layer.clone()) {
                writer.layer(layer, &blob_path(layer))?;
            }
            layers.push(Descriptor::new(OCI_LAYER, layer.clone(), size));
        }
        let config = Descriptor::of(OCI_CONFIG, &image.config);
        let manifest = Manifest::new(config.clone(), layers).to_json();
        let described = Descriptor::of(OCI_MANIFEST, &manifest);
        for (digest, bytes) in [(&config.digest, &image.config), (&described.digest, &manifest)] {
            if done.insert(digest.clone()) {
                writer.file(&blob_path(digest), bytes)?;
            }
        }
        let tagged = image.names.iter().filter(|name| name.tag().is_some());
        let mut entries: Vec<Descriptor> = tagged
            .map(|name| Descriptor {
                annotations: BTreeMap::from([(REF_NAME.to_owned(), name.to_string())]),
                ..described.clone()
            })
            .collect();
        if entries.is_empty() {
            entries.push(described);
        }
        index.manifests.extend(entries);
    }
    writer.file("index.json", &index.to_json())?;
    writer.finish()
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl<S: Sink> Writer<'_, S> {
    fn layer(&mut self, layer: &Digest, path: &str) -> Result<(), ImageError> {
        let mut tar = self.store.tar(layer)?;
        self.sink.begin(path, tar.length()).map_err(write_failed)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(ImageError::Cancelled);
            }
            let count = tar.read(&mut buffer).map_err(|source| ImageError::Read { source })?;
            if count == 0 {
                break;
            }
            self.sink.data(&buffer[..count]).map_err(write_failed)?;
            self.written += count as u64;
            (self.progress)(self.written);
        }
        self.sink.end().map_err(write_failed)
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), ImageError> {
        self.sink
            .begin(path, bytes.len() as u64)
            .and_then(|()| self.sink.data(bytes))
            .and_then(|()| self.sink.end())
            .map_err(write_failed)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<u64, ImageError> {
        self.sink.finish().map_err(write_failed)?;
        Ok(self.written)
    }
}

fn write_failed(source: io::Error) -> ImageError {
    ImageError::Write { source }
}

/// A tar; its files have no owner and no time worth mentioning.
struct TarSink<W: Write> {
    out: BufWriter<W>,
    padding: usize,
}

impl<W: Write> TarSink<W> {
    fn new(out: W) -> Self {
        Self { out: BufWriter::with_capacity(COPY_BYTES, out), padding: 0 }
    }
}

impl<W: Write> Sink for TarSink<W> {
    fn begin(&mut self, path: &str, size: u64) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_path(path)?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0);
        self.out.write_all(header.as_bytes())
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    fn end(&mut self) -> io::Result<()> {
        self.out.write_all(&[0; 512][..self.padding])
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.write_all(&[0; 1024])?;
        self.out.flush()
    }
}

/// A directory.
struct DirectorySink<'a> {
    directory: &'a Path,
    file: Option<File>,
}

impl Sink for DirectorySink<'_> {
    fn begin(&mut self, path: &str, _size: u64) -> io::Result<()> {
        let path = self.directory.join(path);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        self.file = Some(File::create_new(path)?);
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    fn end(&mut self) -> io::Result<()> {
        self.file = None;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
