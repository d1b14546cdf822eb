//! A tar stream into a place of a tree that is in use: the root of a container that may run, and may be hostile.

use std::{
    io::Read,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    CHUNK_BYTES, Chunks, ImageError, Limits, Owners, TarStream, Tree, Uncompressed, Unpacker, Whiteouts,
    normalise,
};

/// Unpacks `reader` below `directory` of `root`. Links on the way are followed inside `root`, and never out of it; a name
/// that is there is replaced (with owners as `owners` has them outside), unless a directory would be replaced by something else or the other way round. After an error,
/// what was unpacked before stays. `progress` is told of the bytes that were read; returns how many those were, and warnings.
/// # Errors
/// Those of unpacking a layer; [`ImageError::Cancelled`].
pub fn copy_in(
    reader: impl Read,
    root: BorrowedFd<'_>,
    directory: &[u8],
    owners: &Owners,
    cancelled: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<(u64, Vec<String>), ImageError> {
    let limits = Limits { whiteouts: Whiteouts::Keep, owners: owners.clone(), ..Limits::default() };
    let place = normalise(directory)?;
    let bytes_read = Arc::new(AtomicU64::new(0));
    let opened = Uncompressed::open(reader, Arc::clone(&bytes_read));
    let stream = opened.map_err(|error| cancelled_or(error, cancelled))?;
    let mut unpacker = Unpacker {
        tree: Tree::in_use(root),
        place,
        limits: &limits,
        size_bytes: 0,
        entries: 0,
        warnings: Vec::new(),
        bytes_read: &bytes_read,
        progress: &mut |now| progress(now.bytes_read),
        reported: Instant::now(),
    };
    let chunks = Direct { stream, chunk: vec![0; CHUNK_BYTES], start: 0, end: 0, cancelled };
    unpacker.all(&mut TarStream::new(chunks, &limits))?;
    let warnings = unpacker.warnings;
    Ok((bytes_read.load(Ordering::Relaxed), warnings))
}

/// Whether a stream looks like a tar, plain or compressed: its first header has the right sum. One that is compressed in a
/// way that is not supported counts as one, so that unpacking it tells why it can't be.
pub fn is_tar(reader: impl Read) -> bool {
    let mut stream = match Uncompressed::open(reader, Arc::default()) {
        Ok(stream) => stream,
        Err(error) => return matches!(error, ImageError::UnsupportedCompression { .. }),
    };
    let mut header = tar::Header::new_old();
    if !matches!(stream.read_full(&mut header.as_mut_bytes()[..]), Ok(512)) {
        return false;
    }
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let bytes = header.as_bytes();
    // The sum counts its own eight bytes as spaces.
    let found = sum(&bytes[..148]) + 8 * 32 + sum(&bytes[156..]);
    header.cksum().is_ok_and(|told| told == found && bytes[0] != 0)
}

/// Reads in the thread that unpacks.
struct Direct<'a, R: Read> {
    stream: Uncompressed<R>,
    chunk: Vec<u8>,
    start: usize,
    end: usize,
    cancelled: &'a AtomicBool,
}

impl<R: Read> Chunks for Direct<'_, R> {
    fn available(&mut self) -> Result<&[u8], ImageError> {
        if self.start == self.end {
            let count = self.stream.read_full(&mut self.chunk);
            (self.start, self.end) = (0, count.map_err(|error| cancelled_or(error, self.cancelled))?);
        }
        Ok(&self.chunk[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    fn check_cancelled(&self) -> Result<(), ImageError> {
        if self.cancelled.load(Ordering::Relaxed) { Err(ImageError::Cancelled) } else { Ok(()) }
    }
}

/// A read that was given up fails as any other does.
fn cancelled_or(error: ImageError, cancelled: &AtomicBool) -> ImageError {
    if cancelled.load(Ordering::Relaxed) { ImageError::Cancelled } else { error }
}
