//! The files of an archive of images: of a tar, looked up by an index of it, or of a directory.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::image::{
    ImageError, Limits,
    compression::Uncompressed,
    record::unnamed,
    source::DescriptorReader,
    tar_stream::{Chunks, Kind, TarStream, shown},
};

/// An archive has a handful of files for each layer.
const FILES_MAX: usize = 100_000;
const LINKS_MAX: usize = 16;
const COPY_BYTES: usize = 256 << 10;
const INDEX_BUFFER_BYTES: usize = 64 << 10;

/// The files of an archive.
#[derive(Debug)]
pub(super) enum Files {
    Tar { file: Arc<File>, index: HashMap<Vec<u8>, Member> },
    Directory(OwnedFd),
}

#[derive(Debug)]
pub(super) enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// The path that it stands for.
    Link(Vec<u8>),
}

/// A part of a file; reads of several do not disturb one another.
#[derive(Debug)]
pub(super) struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Section {
    pub(super) fn size(&self) -> u64 {
        self.end - self.at
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.end - self.at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Files {
    /// Opens a directory, or the tar that begins where a descriptor stands. What is compressed, or can't be read twice
    /// (a pipe), is first copied to a file without a name in `scratch`.
    pub(super) fn open(
        source: OwnedFd,
        scratch: &Path,
        cancelled: &AtomicBool,
        copied: &mut dyn FnMut(u64),
    ) -> Result<Self, ImageError> {
        let read_failed = |source| ImageError::Read { source };
        let metadata = rustix::fs::fstat(&source).map_err(|errno| read_failed(errno.into()))?;
        let kind = rustix::fs::FileType::from_raw_mode(metadata.st_mode);
        if kind == rustix::fs::FileType::Directory {
            return Ok(Self::Directory(source));
        }
        let mut file = File::from(source);
        if kind == rustix::fs::FileType::RegularFile {
            let start = file.stream_position().map_err(read_failed)?;
            let mut magic = [0; 4];
            let count = file.read_at(&mut magic, start).map_err(read_failed)?;
            if !Uncompressed::<io::Empty>::is_compressed(&magic[..count]) {
                return Self::of_tar(file, start, cancelled);
            }
        }
        let file = spool(file.into(), scratch, cancelled, copied)?;
        Self::of_tar(file, 0, cancelled)
    }

    fn of_tar(file: File, start: u64, cancelled: &AtomicBool) -> Result<Self, ImageError> {
        let file = Arc::new(file);
        let chunks = FileChunks {
            file: &file,
            at: start,
            buffer: vec![0; INDEX_BUFFER_BYTES],
            start: 0,
            end: 0,
            cancelled,
        };
        let mut tar = TarStream::new(chunks, &Limits { end_marker_required: false, ..Limits::default() });
        let mut index = HashMap::new();
        while let Some(entry) = tar.next()? {
            if index.len() >= FILES_MAX {
                return Err(ImageError::TooLarge {
                    what: "files in an archive of images",
                    limit: FILES_MAX as u64,
                });
            }
            tar.check_cancelled()?;
            let Some(path) = normalised(&entry.path, b"") else {
                return Err(ImageError::Escapes {
                    entry: shown(&entry.path),
                    reason: "its name has a .. component",
                });
            };
            let member = match entry.kind {
                Kind::File if entry.sparse.is_some() => {
                    let reason = "it is sparse, which no archive of images is".to_owned();
                    return Err(ImageError::BadEntry { entry: shown(&entry.path), reason });
                }
                Kind::File => Member::File { offset: start + tar.offset(), size: entry.size },
                Kind::HardLink => Member::Link(normalised(&entry.link, b"").unwrap_or_default()),
                Kind::Symlink => {
                    let parent =
                        path.iter().rposition(|&byte| byte == b'/').map_or(&b""[..], |slash| &path[..slash]);
                    Member::Link(normalised(&entry.link, parent).unwrap_or_default())
                }
                _ => continue,
            };
            index.insert(path, member);
        }
        Ok(Self::Tar { file, index })
    }

    /// Opens a file; `None` if there is none of this name.
    pub(super) fn file(&self, path: &str) -> Result<Option<Section>, ImageError> {
        match self {
            Self::Tar { file, index } => {
                let mut path = normalised(path.as_bytes(), b"").unwrap_or_default();
                for _ in 0..LINKS_MAX {
                    match index.get(&path) {
                        Some(Member::File { offset, size }) => {
                            let (file, at) = (Arc::clone(file), *offset);
                            return Ok(Some(Section { file, at, end: at.saturating_add(*size) }));
                        }
                        Some(Member::Link(target)) => path.clone_from(target),
                        None => return Ok(None),
                    }
                }
                Ok(None)
            }
            Self::Directory(directory) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                match rustix::fs::openat2(directory.as_fd(), path, flags, Mode::empty(), resolve) {
                    Ok(fd) => {
                        let file = File::from(fd);
                        let metadata = file.metadata().map_err(|source| ImageError::Read { source })?;
                        if !metadata.is_file() {
                            return Ok(None);
                        }
                        Ok(Some(Section { file: Arc::new(file), at: 0, end: metadata.len() }))
                    }
                    Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
                    Err(errno) => Err(ImageError::Read { source: errno.into() }),
                }
            }
        }
    }

    /// Reads a whole file that must be there, and not be large.
    pub(super) fn small(&self, path: &str, owner: &str, bytes_max: usize) -> Result<Vec<u8>, ImageError> {
        let Some(section) = self.file(path)? else {
            return Err(ImageError::MissingPart {
                path: path.chars().take(256).collect(),
                owner: owner.to_owned(),
            });
        };
        if section.size() > bytes_max as u64 {
            return Err(ImageError::TooLarge { what: "bytes of a description", limit: bytes_max as u64 });
        }
        let mut bytes = Vec::new();
        let mut section = section;
        section.read_to_end(&mut bytes).map_err(|source| ImageError::Read { source })?;
        Ok(bytes)
    }
}

/// Copies a stream to a file without a name, uncompressed.
fn spool(
    source: OwnedFd,
    scratch: &Path,
    cancelled: &AtomicBool,
    copied: &mut dyn FnMut(u64),
) -> Result<File, ImageError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ImageError::NoSpace { directory: scratch.to_owned(), entry: String::new(), source }
        }
        _ => ImageError::Store { action: "write a copy of the archive in", path: scratch.to_owned(), source },
    };
    let directory = File::open(scratch).map_err(failed)?;
    let mut file = unnamed(directory.as_fd()).map_err(failed)?;
    let bytes_read = Arc::new(AtomicU64::new(0));
    let mut stream = Uncompressed::open(DescriptorReader::new(source, cancelled), Arc::clone(&bytes_read))?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = stream
            .read_full(&mut buffer)
            .map_err(|error| if cancelled.load(Ordering::Relaxed) { ImageError::Cancelled } else { error })?;
        if count == 0 {
            break;
        }
        file.write_all(&buffer[..count]).map_err(failed)?;
        copied(bytes_read.load(Ordering::Relaxed));
    }
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(file)
}

/// A path of the archive without `.` and empty components, `..` resolved below `base`; `None` if it leads out.
fn normalised(path: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in base.split(|&byte| byte == b'/').chain(path.split(|&byte| byte == b'/')) {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop()?;
            }
            component => components.push(component),
        }
    }
    Some(components.join(&b'/'))
}

/// A tar in a file, whose contents are passed over without being read.
struct FileChunks<'a> {
    file: &'a File,
    /// Where the buffer ends in the file.
    at: u64,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    cancelled: &'a AtomicBool,
}

impl Chunks for FileChunks<'_> {
    fn available(&mut self) -> Result<&[u8], ImageError> {
        if self.start == self.end {
            let count =
                self.file.read_at(&mut self.buffer, self.at).map_err(|source| ImageError::Read { source })?;
            (self.start, self.end) = (0, count);
            self.at += count as u64;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    fn skip(&mut self, count: u64) -> Result<u64, ImageError> {
        let buffered = (self.end - self.start) as u64;
        if count <= buffered {
            self.start += usize::try_from(count).unwrap_or(0);
            return Ok(count);
        }
        (self.start, self.end) = (0, 0);
        let size = self.file.metadata().map_err(|source| ImageError::Read { source })?.len();
        let step = (count - buffered).min(size.saturating_sub(self.at));
        self.at += step;
        Ok(buffered + step)
    }

    fn check_cancelled(&self) -> Result<(), ImageError> {
        if self.cancelled.load(Ordering::Relaxed) { Err(ImageError::Cancelled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_an_archive_stay_in_it() {
        for (path, base, expected) in [
            (&b"./a//b"[..], &b""[..], Some(&b"a/b"[..])),
            (b"../b/layer.tar", b"a", Some(b"b/layer.tar")),
            (b"..", b"", None),
            (b"../../x", b"a", None),
        ] {
            assert_eq!(normalised(path, base).as_deref(), expected);
        }
    }
}
