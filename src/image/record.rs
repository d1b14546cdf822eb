//! How the tar of a layer is made again from its tree, to the byte.
//!
//! A layer is kept once, as an extracted tree; but its digest is that of the tar it came as, and no tar can be made
//! of a tree alone that is sure to be the same: order, formats of headers, padding and repeated entries are lost. So
//! everything of the tar that is no content of a file is kept beside the tree, compressed:
//!
//! ```text
//! STATE/records/HEX         length of the tar in bytes (u64), then a zstd stream of pieces:
//!                             0, length (u32), bytes                             as they are
//!                             1, number, offset, length (u64), path (u16, bytes)  from a file of the tree
//! STATE/records/HEX.saved   contents of files that later entries of the same tar have replaced; rare
//! ```
//!
//! All numbers are little endian. Both files are made without a name, and get it when the layer is complete. What is
//! read back is trusted to be ours, and nevertheless bounded; whether it is right is told by the digest in the end.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::Path,
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, SeekFrom};
use sha2::{Digest as _, Sha256};

use super::{Digest, ImageError};

const HEADER_BYTES: u64 = 8;
const RAW: u8 = 0;
const CONTENT: u8 = 1;
const RAW_BYTES_MAX: usize = 64 << 10;
const COPY_BYTES: usize = 64 << 10;
/// Fast: headers of tars are mostly zeros, and shrink to a tenth at any level.
const LEVEL: i32 = 1;
/// Number, offset and length of one saved file in the table at the end of the file of saved contents.
const SAVED_ENTRY_BYTES: usize = 24;

/// A file of the tree, as the record will refer to it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Its number among the files with content.
    pub(super) number: u64,
    /// Its path below the root, without links on the way.
    pub(super) path: Vec<u8>,
}

/// Keeps what unpacking passes by.
pub(super) struct RecordWriter {
    out: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    raw: Vec<u8>,
    length: u64,
}

impl RecordWriter {
    pub(super) fn new(mut file: File) -> io::Result<Self> {
        file.write_all(&[0; 8])?;
        let out = zstd::stream::write::Encoder::new(BufWriter::new(file), LEVEL)?;
        Ok(Self { out, raw: Vec::with_capacity(RAW_BYTES_MAX), length: 0 })
    }

    /// Bytes that are kept as they are.
    pub(super) fn raw(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            let count = bytes.len().min(RAW_BYTES_MAX - self.raw.len());
            self.raw.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.raw.len() == RAW_BYTES_MAX {
                self.flush_raw()?;
            }
        }
        Ok(())
    }

    /// Bytes that are found in a file of the tree.
    pub(super) fn content(&mut self, place: &Place, offset: u64, length: u64) -> io::Result<()> {
        self.flush_raw()?;
        self.length += length;
        self.out.write_all(&[CONTENT])?;
        for number in [place.number, offset, length] {
            self.out.write_all(&number.to_le_bytes())?;
        }
        let path_length =
            u16::try_from(place.path.len()).map_err(|_| io::Error::other("the path is too long"))?;
        self.out.write_all(&path_length.to_le_bytes())?;
        self.out.write_all(&place.path)
    }

    /// Returns the file, complete.
    pub(super) fn finish(mut self) -> io::Result<File> {
        self.flush_raw()?;
        let file = self.out.finish()?.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
        file.write_all_at(&self.length.to_le_bytes(), 0)?;
        Ok(file)
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.raw.len()).expect("a piece is at most 64 KiB");
        self.out.write_all(&[RAW])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&self.raw)?;
        self.raw.clear();
        Ok(())
    }
}

/// Keeps the contents of files that are about to be replaced by later entries.
pub(super) struct Saver<'a> {
    directory: BorrowedFd<'a>,
    numbers: HashMap<u64, u64>,
    file: Option<File>,
    table: Vec<[u64; 3]>,
    end: u64,
}

impl<'a> Saver<'a> {
    /// `directory` is where the file of saved contents is to be made.
    pub(super) fn new(directory: BorrowedFd<'a>) -> Self {
        Self { directory, numbers: HashMap::new(), file: None, table: Vec::new(), end: 0 }
    }

    /// Remembers which file of the tree has which number.
    pub(super) fn remember(&mut self, file: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        self.numbers.insert(rustix::fs::fstat(file)?.st_ino, number);
        Ok(())
    }

    /// Keeps the content of a file, if the record refers to it. Holes stay holes.
    pub(super) fn save(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let Some(&number) = self.numbers.get(&stat.st_ino) else { return Ok(()) };
        if stat.st_nlink == 1 {
            // The next file may get the same inode.
            self.numbers.remove(&stat.st_ino);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
        if self.file.is_none() {
            self.file = Some(unnamed(self.directory)?);
        }
        let Some(into) = &self.file else { return Ok(()) };
        let length = from.metadata()?.len();
        copy_data(&from, into, self.end, length)?;
        self.table.push([number, self.end, length]);
        self.end += length;
        Ok(())
    }

    /// Returns the file of saved contents with its table, if there are any.
    pub(super) fn finish(self) -> io::Result<Option<File>> {
        let Some(file) = self.file else { return Ok(None) };
        let mut tail = Vec::with_capacity(self.table.len() * SAVED_ENTRY_BYTES + 8);
        for number in self.table.iter().flatten().chain([&(self.table.len() as u64)]) {
            tail.extend_from_slice(&number.to_le_bytes());
        }
        file.write_all_at(&tail, self.end)?;
        Ok(Some(file))
    }
}

/// Copies what is no hole.
fn copy_data(from: &File, into: &File, base: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < length {
        at = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(at))?.min(length);
        while at < end {
            let wanted = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            let count = from.read_at(&mut buffer[..wanted], at)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            into.write_all_at(&buffer[..count], base + at)?;
            at += count as u64;
        }
    }
    Ok(())
}

/// Makes a file that has no name yet, in the file system of `directory`.
pub(super) fn unnamed(directory: BorrowedFd<'_>) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(directory, ".", flags, Mode::from_raw_mode(0o600))?))
}

/// Gives a file its name; one of that name is as good.
pub(super) fn give_name(file: &File, directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::linkat(rustix::fs::CWD, from.as_str(), directory, name, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The tar of a layer, made again. Ends with an error if its digest is not the layer's.
#[derive(Debug)]
pub struct LayerTar {
    diff_id: Digest,
    length: u64,
    pieces: Pieces,
    current: Current,
    hasher: Sha256,
    produced: u64,
    ended: bool,
}

struct Pieces {
    stream: zstd::stream::read::Decoder<'static, BufReader<File>>,
    tree: OwnedFd,
    saved: HashMap<u64, (u64, u64)>,
    saved_file: Option<File>,
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pieces").field("saved", &self.saved.len()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Current {
    Nothing,
    Raw(u64),
    File { file: Source, at: u64, left: u64 },
}

#[derive(Debug)]
enum Source {
    Tree(File),
    Saved,
}

impl LayerTar {
    /// Opens the record of the layer at `tree`; `record` and `saved` are the two files.
    pub(super) fn open(
        diff_id: &Digest,
        tree: OwnedFd,
        record: &Path,
        saved: &Path,
    ) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Store { action: "read", path: record.to_owned(), source };
        let mut file = File::open(record).map_err(failed)?;
        let mut header = [0; 8];
        file.read_exact(&mut header).map_err(failed)?;
        debug_assert_eq!(header.len() as u64, HEADER_BYTES);
        let stream = zstd::stream::read::Decoder::new(file).map_err(failed)?;
        let saved_file = match File::open(saved) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let saved = saved_file.as_ref().map(table).transpose().map_err(failed)?.unwrap_or_default();
        Ok(Self {
            diff_id: diff_id.clone(),
            length: u64::from_le_bytes(header),
            pieces: Pieces { stream, tree, saved, saved_file },
            current: Current::Nothing,
            hasher: Sha256::new(),
            produced: 0,
            ended: false,
        })
    }

    /// How many bytes there will be in all.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn next_piece(&mut self) -> io::Result<Current> {
        let mut tag = [0];
        if self.pieces.stream.read(&mut tag)? == 0 {
            return Ok(Current::Nothing);
        }
        if tag[0] == RAW {
            let mut length = [0; 4];
            self.pieces.stream.read_exact(&mut length)?;
            return Ok(Current::Raw(u64::from(u32::from_le_bytes(length))));
        }
        let mut numbers = [0; 24];
        self.pieces.stream.read_exact(&mut numbers)?;
        let number = |index: usize| u64::from_le_bytes(std::array::from_fn(|byte| numbers[index * 8 + byte]));
        let (number, offset, length) = (number(0), number(1), number(2));
        let mut path_length = [0; 2];
        self.pieces.stream.read_exact(&mut path_length)?;
        let mut path = vec![0; usize::from(u16::from_le_bytes(path_length))];
        self.pieces.stream.read_exact(&mut path)?;
        if let Some(&(start, saved_length)) = self.pieces.saved.get(&number) {
            if offset.checked_add(length).is_none_or(|end| end > saved_length) {
                return Err(io::Error::other("the layer's record is damaged"));
            }
            return Ok(Current::File { file: Source::Saved, at: start + offset, left: length });
        }
        // Without access times: reading an image is no use of its files.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let open =
            |flags| rustix::fs::openat2(&self.pieces.tree, path.as_slice(), flags, Mode::empty(), resolve);
        let file = open(flags | OFlags::NOATIME).or_else(|_| open(flags)).map_err(|errno| {
            let path = String::from_utf8_lossy(&path).into_owned();
            io::Error::new(
                io::Error::from(errno).kind(),
                format!("cannot open {path:?} of the layer: {errno}"),
            )
        })?;
        Ok(Current::File { file: Source::Tree(File::from(file)), at: offset, left: length })
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.current {
                Current::Raw(left) if *left > 0 => {
                    let wanted = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    let count = self.pieces.stream.read(&mut buffer[..wanted])?;
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    *left -= count as u64;
                    return Ok(count);
                }
                Current::File { file, at, left } if *left > 0 => {
                    let wanted = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    let file = match file {
                        Source::Tree(file) => file,
                        Source::Saved => self.pieces.saved_file.as_ref().ok_or(io::ErrorKind::NotFound)?,
                    };
                    let count = file.read_at(&mut buffer[..wanted], *at)?;
                    if count == 0 {
                        return Err(io::Error::other("a file of the layer is shorter than it was"));
                    }
                    (*at, *left) = (*at + count as u64, *left - count as u64);
                    return Ok(count);
                }
                _ => {}
            }
            self.current = self.next_piece()?;
            if matches!(self.current, Current::Nothing) {
                return Ok(0);
            }
        }
    }
}

impl Read for LayerTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let mut filled = 0;
        // Large pieces for those who compress or hash them.
        while filled < buffer.len() {
            match self.fill(&mut buffer[filled..])? {
                0 => {
                    self.ended = true;
                    break;
                }
                count => filled += count,
            }
        }
        self.hasher.update(&buffer[..filled]);
        self.produced += filled as u64;
        if self.ended {
            let found = Digest::from_hash(&self.hasher.clone().finalize());
            if found != self.diff_id || self.produced != self.length {
                return Err(io::Error::other(format!(
                    "layer {} has changed on the disk: it now is {found}; remove its images and get them again",
                    self.diff_id
                )));
            }
        }
        Ok(filled)
    }
}

/// Reads the table at the end of a file of saved contents.
fn table(file: &File) -> io::Result<HashMap<u64, (u64, u64)>> {
    let damaged = || io::Error::other("the table of saved contents is damaged");
    let size = file.metadata()?.size();
    let mut word = [0; 8];
    let mut at = size.checked_sub(8).ok_or_else(damaged)?;
    file.read_exact_at(&mut word, at)?;
    let bytes = u64::from_le_bytes(word).checked_mul(SAVED_ENTRY_BYTES as u64).ok_or_else(damaged)?;
    at = at.checked_sub(bytes).ok_or_else(damaged)?;
    let mut rows = vec![0; usize::try_from(bytes).map_err(|_| damaged())?];
    file.read_exact_at(&mut rows, at)?;
    let mut table = HashMap::new();
    for row in rows.chunks_exact(SAVED_ENTRY_BYTES) {
        let number = |index: usize| u64::from_le_bytes(std::array::from_fn(|byte| row[index * 8 + byte]));
        // A file with several names is saved once for each; the content is the same.
        table.insert(number(0), (number(1), number(2)));
    }
    Ok(table)
}

/// The path of an open directory below `root`; `None` if it can't be told or is too long to be of use.
pub(super) fn place_of(directory: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let read = |fd: BorrowedFd<'_>| {
        use std::os::fd::AsRawFd;
        rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())
            .ok()
            .map(|link| link.into_bytes())
    };
    let (root, directory) = (read(root.as_fd())?, read(directory.as_fd())?);
    let below = directory.strip_prefix(root.as_slice())?;
    match below {
        [] => Some(Vec::new()),
        [b'/', rest @ ..] if rest.len() < 3500 => Some(rest.to_vec()),
        _ => None,
    }
}
