//! Reading the entries of a tar stream: v7, ustar, PAX and GNU, with their long names and sparse files.
//!
//! The `tar` crate knows the layout of a header; the stream is read here, because what an archive can make a reader
//! keep in memory must be bounded, and because a stream that ends too early must be told from one that ends.
//!
//! Sources: POSIX pax(1) "EXTENDED DESCRIPTION", GNU tar manual "Tar Internals", star(5) for SCHILY keys.

mod field;
mod pax;
mod sparse;

use tar::Header;

use self::field::{checksum_holds, number, until_nul};
use self::pax::Pax;
use super::{ImageError, layer::Limits, record::Place};

const BLOCK_BYTES: usize = 512;
/// Room for a long name, or the extended attributes and the sparse map, of one entry.
const EXTENDED_BYTES_MAX: u64 = 4 << 20;
/// Bound for what may follow the end of the archive.
const TRAILING_BYTES_MAX: u64 = 1 << 30;

/// Where the bytes come from.
pub(super) trait Chunks {
    /// Returns what is there, waiting if nothing is; empty at the end only.
    fn available(&mut self) -> Result<&[u8], ImageError>;
    /// Forgets the first `count` bytes of [`Chunks::available`].
    fn consume(&mut self, count: usize);
    /// Fails if nobody wants the bytes any more.
    fn check_cancelled(&self) -> Result<(), ImageError>;
    /// Tells that the next `length` bytes will be found again at `offset` of a file of the tree.
    fn content(&mut self, _place: &Place, _offset: u64, _length: u64) {}
    /// Forgets `count` bytes, or as many as there are, and says how many those were.
    fn skip(&mut self, count: u64) -> Result<u64, ImageError> {
        let mut skipped = 0;
        while skipped < count {
            let available = self.available()?.len();
            if available == 0 {
                break;
            }
            let step = usize::try_from(count - skipped).map_or(available, |left| left.min(available));
            self.consume(step);
            skipped += step as u64;
        }
        Ok(skipped)
    }
}

/// The kinds of entries that make something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry, with everything that its extended headers say about it.
#[derive(Debug)]
pub(super) struct Entry {
    /// As in the archive: not checked in any way.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Permission bits, at most 07777.
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime_sec: i64,
    pub(super) mtime_nsec: u32,
    /// Bytes of data that follow in the stream.
    pub(super) size: u64,
    /// As in the archive; empty for what is no link.
    pub(super) link: Vec<u8>,
    /// Major and minor number.
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<Sparse>,
}

/// How the data of a sparse file is spread.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sparse {
    /// Offset and length of each piece, in the order of the data.
    pub(super) map: Vec<(u64, u64)>,
    /// The file's length.
    pub(super) real_size: u64,
}

/// The text that errors show for a name: no control characters, at most 256 characters.
pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(256).collect()
}

/// A tar stream.
pub(super) struct TarStream<C> {
    chunks: C,
    offset: u64,
    /// Data of the current entry that was not consumed yet, and its padding behind it.
    data_left: u64,
    padding: u64,
    current: Vec<u8>,
    global: Pax,
    end_marker_required: bool,
    ended: bool,
    lone_zero_block: bool,
}

impl<C: Chunks> TarStream<C> {
    pub(super) fn new(chunks: C, limits: &Limits) -> Self {
        Self {
            chunks,
            offset: 0,
            data_left: 0,
            padding: 0,
            current: Vec::new(),
            global: Pax::default(),
            end_marker_required: limits.end_marker_required,
            ended: false,
            lone_zero_block: false,
        }
    }

    /// Returns the next entry, passing over what is left of the last one's data; `None` at the archive's end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ImageError> {
        self.skip_data()?;
        let mut long_name = None;
        let mut long_link = None;
        let mut pax = Pax::default();
        loop {
            let Some(block) = self.header_block()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            let size = self.number(&header.as_old().size, "size")?;
            match header.as_old().linkflag[0] {
                b'L' => long_name = Some(self.extended(size, "a long name")?),
                b'K' => long_link = Some(self.extended(size, "a long link name")?),
                b'x' | b'X' => {
                    let records = self.extended(size, "an extended header")?;
                    pax.read(&records).map_err(|reason| self.damaged(reason))?;
                }
                b'g' => {
                    let records = self.extended(size, "a global extended header")?;
                    let mut global = std::mem::take(&mut self.global);
                    global.read(&records).map_err(|reason| self.damaged(reason))?;
                    self.global = global;
                }
                // The label of the volume.
                b'V' => {
                    self.begin_data(size)?;
                    self.skip_data()?;
                }
                _ => return self.entry(header, size, pax, long_name, long_link).map(Some),
            }
        }
    }

    /// Returns data of the current entry that is there, waiting if none is; `None` at the entry's end.
    pub(super) fn data(&mut self) -> Result<Option<&[u8]>, ImageError> {
        if self.data_left == 0 {
            return Ok(None);
        }
        // Twice, because the borrow of a returned slice would last too long.
        if self.chunks.available()?.is_empty() {
            return Err(self.truncated(&format!("{:?}", shown(&self.current))));
        }
        let available = self.chunks.available()?;
        let count = usize::try_from(self.data_left).map_or(available.len(), |left| available.len().min(left));
        Ok(Some(&available[..count]))
    }

    /// Forgets the first `count` bytes of [`Self::data`].
    pub(super) fn consumed(&mut self, count: usize) {
        self.chunks.consume(count);
        self.offset += count as u64;
        self.data_left -= count as u64;
    }

    /// Where the stream stands, in bytes from its beginning.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Tells that the next `length` bytes of data are written to `offset` of a file.
    pub(super) fn content(&mut self, place: &Place, offset: u64, length: u64) {
        self.chunks.content(place, offset, length.min(self.data_left));
    }

    /// Gives back where the bytes come from.
    pub(super) fn into_chunks(self) -> C {
        self.chunks
    }

    /// Fails if the import was cancelled; the chunks know.
    pub(super) fn check_cancelled(&self) -> Result<(), ImageError> {
        self.chunks.check_cancelled()
    }

    /// Passes over what follows the archive's end, for the digest's sake.
    pub(super) fn drain(&mut self) -> Result<(), ImageError> {
        let end = self.offset;
        loop {
            let count = self.chunks.available()?.len();
            if count == 0 {
                return Ok(());
            }
            self.chunks.consume(count);
            self.offset += count as u64;
            if self.offset - end > TRAILING_BYTES_MAX {
                return Err(ImageError::TooLarge { what: "bytes behind its end", limit: TRAILING_BYTES_MAX });
            }
        }
    }

    /// What a person should know about a stream that was read to its end.
    pub(super) fn warning(&self) -> Option<String> {
        self.lone_zero_block.then(|| {
            format!(
                "the archive ends at a lone zero block at byte {}; what follows is passed over",
                self.offset
            )
        })
    }

    /// Reads the next header and checks its sum; `None` at the archive's end.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, ImageError> {
        if self.ended {
            return Ok(None);
        }
        let first = self.offset == 0;
        let mut block = [0; BLOCK_BYTES];
        match self.read_full(&mut block)? {
            0 if self.end_marker_required => return Err(self.truncated("the end marker")),
            0 => return Ok(None),
            BLOCK_BYTES => {}
            _ if first => {
                return Err(ImageError::NotAnArchive { reason: "it is shorter than one header".to_owned() });
            }
            _ => return Err(self.truncated("the header of an entry")),
        }
        if block == [0; BLOCK_BYTES] {
            self.ended = true;
            // Two zero blocks end an archive; tar(1) takes one for the end as well, with a warning.
            let count = self.read_full(&mut block)?;
            self.lone_zero_block = count > 0 && block[..count].iter().any(|&byte| byte != 0);
            return Ok(None);
        }
        if !checksum_holds(&block) {
            return Err(if first {
                ImageError::NotAnArchive { reason: "its first header's checksum is wrong".to_owned() }
            } else {
                self.damaged("a header's checksum is wrong")
            });
        }
        Ok(Some(block))
    }

    fn entry(
        &mut self,
        header: &Header,
        header_size: u64,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, ImageError> {
        let old = header.as_old();
        let flag = old.linkflag[0];
        let mut path = pax
            .path
            .or_else(|| long_name.map(until_nul))
            .or_else(|| self.global.path.clone())
            .unwrap_or_else(|| header.path_bytes().into_owned());
        self.current = path.clone();
        let mut kind = match flag {
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => {
                let reason = format!("type {:?} of its header is not known", char::from(flag));
                return Err(ImageError::BadEntry { entry: shown(&path), reason });
            }
        };
        if kind == Kind::File && flag != b'S' && path.ends_with(b"/") {
            kind = Kind::Directory;
        }
        // What has no data has no data, whatever its header says: hard links and directories with a size exist. The
        // exceptions are a directory's listing in an incremental archive, and the old way to write a directory.
        let size = pax.size.or(self.global.size).unwrap_or(header_size);
        let size = if kind == Kind::File || matches!(flag, b'D' | b'0' | 0) { size } else { 0 };
        let mut sparse = None;
        if flag == b'S' {
            let real_size = header.as_gnu().map(|gnu| self.number(&gnu.realsize, "real size")).transpose()?;
            sparse = Some(Sparse { map: self.old_gnu_map(header)?, real_size: real_size.unwrap_or(0) });
        }
        self.begin_data(size)?;
        if kind == Kind::File
            && let Some(found) = pax.sparse
        {
            if let Some(name) = found.name {
                path = name;
            }
            let Some(real_size) = found.real_size else {
                return Err(self.damaged("a sparse file has no real size"));
            };
            let map = if found.map_in_data { self.map_in_data()? } else { found.map };
            sparse = Some(Sparse { map, real_size });
        }
        if let Some(sparse) = &sparse {
            self.check_sparse(sparse)?;
        }
        let mode = self.number(&old.mode, "mode")? & 0o7777;
        let (mtime_sec, mtime_nsec) = match pax.mtime.or(self.global.mtime) {
            Some(mtime) => mtime,
            // Base 256 numbers may be negative, in two's complement.
            None => (self.number(&old.mtime, "mtime")?.cast_signed(), 0),
        };
        let link = match kind {
            Kind::HardLink | Kind::Symlink => pax
                .link
                .or_else(|| long_link.map(until_nul))
                .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => self.device(header)?,
            _ => (0, 0),
        };
        let uid = match pax.uid.or(self.global.uid) {
            Some(uid) => uid,
            None => self.number(&old.uid, "uid")?,
        };
        let gid = match pax.gid.or(self.global.gid) {
            Some(gid) => gid,
            None => self.number(&old.gid, "gid")?,
        };
        let mode = u32::try_from(mode).unwrap_or(0);
        let (path, xattrs) = (path, pax.xattrs);
        Ok(Entry {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime_sec,
            mtime_nsec,
            size: self.data_left,
            link,
            device,
            xattrs,
            sparse,
        })
    }

    fn device(&self, header: &Header) -> Result<(u32, u32), ImageError> {
        let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
            (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
            (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
            (None, None) => return Err(self.damaged("a device has no number")),
        };
        let part = |field: &[u8], what| {
            u32::try_from(self.number(field, what)?).map_err(|_| self.damaged("a device number is too large"))
        };
        Ok((part(major, "major number")?, part(minor, "minor number")?))
    }

    /// Reads the whole content of an extended header.
    fn extended(&mut self, size: u64, what: &str) -> Result<Vec<u8>, ImageError> {
        if size > EXTENDED_BYTES_MAX {
            return Err(ImageError::TooLarge { what: "extended headers", limit: EXTENDED_BYTES_MAX });
        }
        self.current = what.as_bytes().to_vec();
        self.begin_data(size)?;
        let mut content = Vec::new();
        while let Some(data) = self.data()? {
            content.extend_from_slice(data);
            let count = data.len();
            self.consumed(count);
        }
        self.skip_data()?;
        Ok(content)
    }

    fn begin_data(&mut self, size: u64) -> Result<(), ImageError> {
        if size > i64::MAX.cast_unsigned() {
            return Err(self.damaged("a size is too large"));
        }
        self.data_left = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), ImageError> {
        for _ in 0..2 {
            let skipped = self.chunks.skip(self.data_left)?;
            self.offset += skipped;
            if skipped < self.data_left {
                return Err(self.truncated(&format!("{:?}", shown(&self.current))));
            }
            self.data_left = std::mem::take(&mut self.padding);
        }
        Ok(())
    }

    /// Fills the buffer as far as the stream lasts.
    fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let available = self.chunks.available()?;
            if available.is_empty() {
                break;
            }
            let count = available.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&available[..count]);
            self.chunks.consume(count);
            filled += count;
            self.offset += count as u64;
        }
        Ok(filled)
    }

    fn number(&self, field: &[u8], what: &str) -> Result<u64, ImageError> {
        number(field).ok_or_else(|| self.damaged(&format!("the {what} in a header is not a number")))
    }

    fn truncated(&self, inside: &str) -> ImageError {
        ImageError::Truncated { offset_bytes: self.offset, inside: inside.to_owned() }
    }

    fn damaged(&self, reason: &str) -> ImageError {
        ImageError::Damaged { offset_bytes: self.offset, reason: reason.to_owned() }
    }
}
