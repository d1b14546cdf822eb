//! A tar stream in, a directory tree out.
//!
//! One thread reads, decompresses and hashes; the caller's thread parses and writes. They are joined by a bounded
//! queue of chunks, so a stream of any length takes a few MiB of memory.

mod direct;
mod metadata;
mod tree;

use std::{
    fs::File,
    io::{self, Read},
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    },
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

pub use self::direct::{copy_in, is_tar};
pub(super) use self::metadata::is_kept_xattr;
use self::{metadata::Metadata, tree::Tree};
use super::{
    Digest, ImageError, Owners,
    compression::Uncompressed,
    layer::{Limits, Progress, Whiteouts},
    record::{Place, RecordWriter, unnamed},
    tar_stream::{Chunks, Entry, Kind, TarStream, shown},
};

const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_QUEUED: usize = 8;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
const CANCEL_INTERVAL: Duration = Duration::from_millis(100);
const WARNINGS_MAX: usize = 16;
/// So many zeros in a row become a hole; data is written in pieces of this size.
const HOLE_BYTES: usize = 64 << 10;
const WHITEOUT_PREFIX: &[u8] = b".wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// What was unpacked.
pub(super) struct Unpacked {
    pub(super) diff_id: Digest,
    pub(super) size_bytes: u64,
    pub(super) compressed_bytes: u64,
    pub(super) entries: u64,
    pub(super) warnings: Vec<String>,
    /// The record of the tar, and the contents of replaced files; both have no name yet.
    pub(super) record: (File, Option<File>),
}

/// Unpacks `reader` into the empty directory `root`, which stays as it is after an error: the caller removes it. The
/// record is made in the directory `records`.
pub(super) fn unpack(
    reader: impl Read + Send,
    root: BorrowedFd<'_>,
    records: BorrowedFd<'_>,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
    cancelled: &AtomicBool,
) -> Result<Unpacked, ImageError> {
    let bytes_read = Arc::new(AtomicU64::new(0));
    let record = unnamed(records).and_then(RecordWriter::new).map_err(record_failed)?;
    let (filled_sender, filled) = sync_channel(CHUNKS_QUEUED);
    let (emptied, emptied_receiver) = channel();
    std::thread::scope(|scope| {
        let counter = Arc::clone(&bytes_read);
        let producer = scope.spawn(move || produce(reader, counter, &filled_sender, &emptied_receiver));
        let queue = Queue {
            filled,
            emptied,
            chunk: Vec::new(),
            start: 0,
            record,
            content_left: 0,
            record_error: None,
            cancelled,
        };
        let mut unpacker = Unpacker {
            tree: Tree::new(root, records),
            place: Vec::new(),
            limits,
            size_bytes: 0,
            entries: 0,
            warnings: Vec::new(),
            bytes_read: &bytes_read,
            progress,
            reported: Instant::now(),
        };
        let result = unpacker.run(TarStream::new(queue, limits));
        let hash = producer.join();
        let record = result?;
        // The error of a producer that failed has come through the queue; this is for one that panicked.
        let Ok(Some(diff_id)) = hash else {
            return Err(ImageError::DamagedCompression { reason: "the decompressor gave up".to_owned() });
        };
        unpacker.report();
        let saved = unpacker.tree.into_saver().finish().map_err(record_failed)?;
        Ok(Unpacked {
            diff_id,
            size_bytes: unpacker.size_bytes,
            compressed_bytes: bytes_read.load(Ordering::Relaxed),
            entries: unpacker.entries,
            warnings: unpacker.warnings,
            record: (record, saved),
        })
    })
}

/// Reads, decompresses and hashes until the end, an error (sent through the queue), or until nobody listens.
fn produce(
    reader: impl Read,
    bytes_read: Arc<AtomicU64>,
    filled: &SyncSender<Result<Vec<u8>, ImageError>>,
    emptied: &Receiver<Vec<u8>>,
) -> Option<Digest> {
    let mut hasher = Sha256::new();
    let mut stream = match Uncompressed::open(reader, bytes_read) {
        Ok(stream) => stream,
        Err(error) => {
            // If the other side has gone, it has its own error to tell.
            let _ = filled.send(Err(error));
            return None;
        }
    };
    loop {
        let mut chunk = emptied.try_recv().unwrap_or_default();
        chunk.resize(CHUNK_BYTES, 0);
        match stream.read_full(&mut chunk) {
            Ok(0) => return Some(Digest::from_hash(&hasher.finalize())),
            Ok(count) => {
                chunk.truncate(count);
                hasher.update(&chunk);
                filled.send(Ok(chunk)).ok()?;
            }
            Err(error) => {
                let _ = filled.send(Err(error));
                return None;
            }
        }
    }
}

/// The receiving end of the queue of chunks.
struct Queue<'a> {
    filled: Receiver<Result<Vec<u8>, ImageError>>,
    emptied: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    start: usize,
    record: RecordWriter,
    /// Bytes to come that the record refers to elsewhere.
    content_left: u64,
    record_error: Option<io::Error>,
    cancelled: &'a AtomicBool,
}

impl Chunks for Queue<'_> {
    fn available(&mut self) -> Result<&[u8], ImageError> {
        if let Some(error) = self.record_error.take() {
            return Err(record_failed(error));
        }
        if self.start == self.chunk.len() {
            self.start = 0;
            // A producer that has ended needs no buffers back.
            let _ = self.emptied.send(std::mem::take(&mut self.chunk));
            self.chunk = loop {
                if self.cancelled.load(Ordering::Relaxed) {
                    return Err(ImageError::Cancelled);
                }
                match self.filled.recv_timeout(CANCEL_INTERVAL) {
                    Ok(Ok(chunk)) => break chunk,
                    Ok(Err(_)) if self.cancelled.load(Ordering::Relaxed) => {
                        return Err(ImageError::Cancelled);
                    }
                    Ok(Err(error)) => return Err(error),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break Vec::new(),
                }
            };
        }
        Ok(&self.chunk[self.start..])
    }

    fn consume(&mut self, count: usize) {
        let end = (self.start + count).min(self.chunk.len());
        let elsewhere =
            usize::try_from(self.content_left).map_or(end - self.start, |left| left.min(end - self.start));
        self.content_left -= elsewhere as u64;
        if let Err(error) = self.record.raw(&self.chunk[self.start + elsewhere..end]) {
            self.record_error = Some(error);
        }
        self.start = end;
    }

    fn content(&mut self, place: &Place, offset: u64, length: u64) {
        self.content_left = length;
        if let Err(error) = self.record.content(place, offset, length) {
            self.record_error = Some(error);
        }
    }

    fn check_cancelled(&self) -> Result<(), ImageError> {
        if self.cancelled.load(Ordering::Relaxed) { Err(ImageError::Cancelled) } else { Ok(()) }
    }
}

struct Unpacker<'a> {
    tree: Tree<'a>,
    /// Where in the tree everything goes, normalised; empty for its root.
    place: Vec<u8>,
    limits: &'a Limits,
    size_bytes: u64,
    entries: u64,
    warnings: Vec<String>,
    bytes_read: &'a AtomicU64,
    progress: &'a mut dyn FnMut(Progress),
    reported: Instant,
}

impl Unpacker<'_> {
    /// Returns the record.
    fn run(&mut self, mut tar: TarStream<Queue<'_>>) -> Result<File, ImageError> {
        self.all(&mut tar)?;
        tar.into_chunks().record.finish().map_err(record_failed)
    }

    fn all<C: Chunks>(&mut self, tar: &mut TarStream<C>) -> Result<(), ImageError> {
        while let Some(entry) = tar.next()? {
            self.entries += 1;
            if self.entries > self.limits.entries_max {
                return Err(ImageError::TooLarge { what: "entries", limit: self.limits.entries_max });
            }
            if self.entries.is_multiple_of(64) {
                self.tick();
                tar.check_cancelled()?;
            }
            self.entry(entry, tar)?;
        }
        self.warnings.extend(tar.warning());
        tar.drain()?;
        self.tree.finish(&mut self.warnings)
    }

    fn entry<C: Chunks>(&mut self, entry: Entry, tar: &mut TarStream<C>) -> Result<(), ImageError> {
        let mut path = normalise(&entry.path)?;
        if path.len() > self.limits.path_bytes_max || entry.link.len() > self.limits.path_bytes_max {
            return Err(ImageError::TooLarge {
                what: "path length",
                limit: self.limits.path_bytes_max as u64,
            });
        }
        if path.is_empty() && entry.kind != Kind::Directory {
            return Err(bad(&entry.path, "it would replace the root directory"));
        }
        let whiteouts = self.limits.whiteouts != Whiteouts::Keep;
        if path.is_empty() && !whiteouts {
            // The directory that things are copied to stays what it is.
            return Ok(());
        }
        path = self.placed(path);
        let (parent, name) = split(&path);
        if whiteouts && name.starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(parent, name, &entry.path);
        }
        let meta = Metadata::of(&entry, &self.limits.owners, &mut self.warnings)?;
        match entry.kind {
            Kind::Directory => self.tree.directory(&path, meta, &entry.path),
            Kind::File => {
                let size = entry.sparse.as_ref().map_or(entry.size, |sparse| sparse.real_size);
                self.size_bytes = self.size_bytes.saturating_add(size);
                if let Some(limit) = self.limits.size_bytes_max
                    && self.size_bytes > limit
                {
                    return Err(ImageError::TooLarge { what: "bytes", limit });
                }
                let (mut file, place) = self.tree.file(parent, name, entry.size > 0, &entry.path)?;
                match &entry.sparse {
                    None => {
                        if let Some(place) = &place {
                            tar.content(place, 0, entry.size);
                        }
                        let (mut at, mut has_hole) = (0_u64, false);
                        while let Some(data) = tar.data()? {
                            let count = data.len().min(HOLE_BYTES);
                            // What an archive fills with zeros was a hole, or may become one: a container's sparse file
                            // that was committed must not take the whole of its length.
                            if count == HOLE_BYTES && data[..count].iter().all(|&byte| byte == 0) {
                                has_hole = true;
                                file.seek(at + count as u64)?;
                            } else {
                                file.write(&data[..count])?;
                            }
                            at += count as u64;
                            tar.consumed(count);
                            self.tick();
                        }
                        if has_hole {
                            file.set_length(size)?;
                        }
                    }
                    Some(sparse) => {
                        for &(offset, length) in &sparse.map {
                            file.seek(offset)?;
                            let mut left = length;
                            if let Some(place) = place.as_ref().filter(|_| length > 0) {
                                tar.content(place, offset, length);
                            }
                            while left > 0 {
                                let Some(data) = tar.data()? else {
                                    return Err(bad(&entry.path, "its sparse map is longer than its data"));
                                };
                                let count =
                                    usize::try_from(left).map_or(data.len(), |left| data.len().min(left));
                                file.write(&data[..count])?;
                                tar.consumed(count);
                                left -= count as u64;
                                self.tick();
                            }
                        }
                        file.set_length(sparse.real_size)?;
                    }
                }
                file.finish(&meta, &mut self.warnings)
            }
            Kind::HardLink => {
                let target = normalise(&entry.link).map_err(|error| match error {
                    ImageError::Escapes { .. } => ImageError::Escapes {
                        entry: shown(&entry.path),
                        reason: "it is a hard link to something outside",
                    },
                    error => error,
                })?;
                let target = self.placed(target);
                self.tree.hard_link(parent, name, &target, &entry.path)
            }
            Kind::Symlink if entry.link.is_empty() || entry.link.contains(&0) => {
                Err(bad(&entry.path, "it is a symbolic link to nothing"))
            }
            Kind::Symlink => {
                self.tree.symlink(parent, name, &entry.link, &meta, &entry.path, &mut self.warnings)
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.tree.node(parent, name, entry.kind, entry.device, &meta, &entry.path, &mut self.warnings)
            }
        }
    }

    fn placed(&self, path: Vec<u8>) -> Vec<u8> {
        match (self.place.as_slice(), path.as_slice()) {
            (b"", _) => path,
            (place, b"") => place.to_vec(),
            (place, path) => [place, b"/", path].concat(),
        }
    }

    fn whiteout(&mut self, parent: &[u8], name: &[u8], entry: &[u8]) -> Result<(), ImageError> {
        let hidden = &name[WHITEOUT_PREFIX.len()..];
        if self.limits.whiteouts == Whiteouts::Drop {
            Ok(())
        } else if name == WHITEOUT_OPAQUE {
            self.tree.opaque(parent, entry)
        } else if hidden.starts_with(WHITEOUT_PREFIX) {
            // AUFS kept its own records under such names; no other tool knows them.
            Ok(())
        } else if matches!(hidden, b"" | b"." | b"..") {
            Err(bad(entry, "it is a whiteout of no name"))
        } else {
            self.tree.whiteout(parent, hidden, entry)
        }
    }

    /// Reports progress if it is time to.
    fn tick(&mut self) {
        if self.reported.elapsed() >= PROGRESS_INTERVAL {
            self.report();
        }
    }

    fn report(&mut self) {
        self.reported = Instant::now();
        (self.progress)(Progress {
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            entries: self.entries,
        });
    }
}

/// Returns the path relative to the root, without empty and `.` components; the root itself is empty.
///
/// A leading slash is dropped, as tar(1) does. No honest archive has `..`.
fn normalise(name: &[u8]) -> Result<Vec<u8>, ImageError> {
    if name.contains(&0) {
        return Err(bad(name, "its name has a NUL byte"));
    }
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => {
                return Err(ImageError::Escapes {
                    entry: shown(name),
                    reason: "its name has a .. component",
                });
            }
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    Ok(path)
}

/// Splits a normalised path into its directory and its last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn bad(entry: &[u8], reason: &str) -> ImageError {
    ImageError::BadEntry { entry: shown(entry), reason: reason.to_owned() }
}

fn record_failed(source: io::Error) -> ImageError {
    ImageError::Entry { action: "record", entry: String::new(), source }
}

/// Keeps a warning, unless there are many already.
fn warn(warnings: &mut Vec<String>, text: impl FnOnce() -> String) {
    if warnings.len() < WARNINGS_MAX {
        warnings.push(text());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_relative_to_the_root() {
        for (name, path) in [
            (&b"./"[..], &b""[..]),
            (b"/", b""),
            (b"./etc//passwd", b"etc/passwd"),
            (b"/etc/./x/", b"etc/x"),
            (b"...", b"..."),
        ] {
            assert_eq!(normalise(name).unwrap(), path);
        }
    }

    #[test]
    fn names_that_go_up_are_refused_wherever_they_do() {
        for name in [&b".."[..], b"../x", b"a/../b", b"/../etc", b"a/.."] {
            assert!(matches!(normalise(name), Err(ImageError::Escapes { .. })));
        }
        assert!(matches!(normalise(b"a\0b"), Err(ImageError::BadEntry { .. })));
    }
}
