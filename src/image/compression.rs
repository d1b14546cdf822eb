//! Undoing the compression of an archive, whichever it is.

use std::{
    io::{self, BufRead, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::ImageError;

const BUFFER_BYTES: usize = 128 << 10;
/// Enough to tell all formats apart.
const MAGIC_BYTES: usize = 6;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The error that a failed read of the archive itself is wrapped in, to tell it from what a decompressor says.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the archive")]
struct ReadFailed(#[source] io::Error);

/// The archive as it comes, with a look ahead, and counted.
pub(super) struct Input<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    bytes_read: Arc<AtomicU64>,
}

impl<R: Read> Input<R> {
    fn new(reader: R, bytes_read: Arc<AtomicU64>) -> Self {
        Self { reader, buffer: vec![0; BUFFER_BYTES].into(), start: 0, end: 0, bytes_read }
    }

    /// Returns the next `wanted` bytes (at most [`MAGIC_BYTES`]), or fewer at the end, without consuming them.
    fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        if self.end - self.start < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            while self.end < wanted && self.fill()? > 0 {}
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + wanted)])
    }

    /// Reads once behind what is there.
    fn fill(&mut self) -> io::Result<usize> {
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    self.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io::Error::other(ReadFailed(error))),
            }
        }
    }

    /// Reads and forgets the rest.
    fn drain(&mut self) -> io::Result<()> {
        loop {
            (self.start, self.end) = (0, 0);
            if self.fill()? == 0 {
                return Ok(());
            }
        }
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.fill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }
}

type Gzip<R> = flate2::bufread::GzDecoder<Input<R>>;
type Zstd<R> = zstd::stream::read::Decoder<'static, Input<R>>;

/// The uncompressed archive.
///
/// Gzip members and zstd frames may follow one another. What follows the last one and is neither is passed over, as
/// gzip(1) does.
pub(super) struct Uncompressed<R: Read>(State<R>);

enum State<R: Read> {
    Plain(Input<R>),
    Gzip(Box<Gzip<R>>),
    Zstd(Box<Zstd<R>>),
    Ended,
}

impl<R: Read> Uncompressed<R> {
    /// Looks at the first bytes; `bytes_read` is kept at the number of bytes that were read.
    pub(super) fn open(reader: R, bytes_read: Arc<AtomicU64>) -> Result<Self, ImageError> {
        let mut input = Input::new(reader, bytes_read);
        let magic = input.peek(MAGIC_BYTES).map_err(classify)?;
        let unsupported = |compression| Err(ImageError::UnsupportedCompression { compression });
        if magic.is_empty() {
            return Err(ImageError::NotAnArchive { reason: "it is empty".to_owned() });
        } else if magic.starts_with(GZIP) {
            return Ok(Self(State::Gzip(Box::new(Gzip::new(input)))));
        } else if is_zstd(magic) {
            return Ok(Self(State::Zstd(Box::new(zstd_frame(input).map_err(classify)?))));
        } else if magic.starts_with(b"\xfd7zXZ\0") {
            return unsupported("xz");
        } else if magic.starts_with(b"BZh") {
            return unsupported("bzip2");
        } else if magic.starts_with(b"LZIP") {
            return unsupported("lzip");
        } else if magic.starts_with(&[0x04, 0x22, 0x4d, 0x18]) {
            return unsupported("lz4");
        }
        Ok(Self(State::Plain(input)))
    }

    /// Whether these first bytes (at least four, or all there are) are of something compressed.
    pub(super) fn is_compressed(magic: &[u8]) -> bool {
        magic.starts_with(GZIP)
            || is_zstd(magic)
            || [&b"\xfd7zX"[..], b"BZh", b"LZIP", &[0x04, 0x22, 0x4d, 0x18]]
                .iter()
                .any(|other| magic.starts_with(other))
    }

    /// Fills `buffer` as far as the stream lasts.
    pub(super) fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) => return Err(classify(error)),
            }
        }
        Ok(filled)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = match &mut self.0 {
                State::Plain(input) => return input.read(buffer),
                State::Gzip(decoder) => decoder.read(buffer)?,
                State::Zstd(decoder) => decoder.read(buffer)?,
                State::Ended => return Ok(0),
            };
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            // The end of a member or frame; its checksum was right.
            self.0 = match std::mem::replace(&mut self.0, State::Ended) {
                State::Gzip(decoder) => {
                    let mut input = decoder.into_inner();
                    if input.peek(GZIP.len())? == GZIP {
                        State::Gzip(Box::new(Gzip::new(input)))
                    } else {
                        input.drain()?;
                        State::Ended
                    }
                }
                State::Zstd(decoder) => {
                    let mut input = decoder.finish();
                    if is_zstd(input.peek(ZSTD.len())?) {
                        State::Zstd(Box::new(zstd_frame(input)?))
                    } else {
                        input.drain()?;
                        State::Ended
                    }
                }
                state => state,
            };
        }
    }
}

/// A zstd frame, or one of those to be skipped, with which some tools begin.
fn is_zstd(magic: &[u8]) -> bool {
    magic.starts_with(ZSTD) || matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

fn zstd_frame<R: Read>(input: Input<R>) -> io::Result<Zstd<R>> {
    Ok(Zstd::with_buffer(input)?.single_frame())
}

/// Tells a failed read from damaged and from missing data.
fn classify(error: io::Error) -> ImageError {
    let truncated = error.kind() == io::ErrorKind::UnexpectedEof;
    match error.downcast::<ReadFailed>() {
        Ok(ReadFailed(source)) => ImageError::Read { source },
        Err(_) if truncated => {
            ImageError::DamagedCompression { reason: "it is cut off before its end".to_owned() }
        }
        Err(error) => ImageError::DamagedCompression { reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Gives one byte at a time, as the slowest pipe would.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(1);
            self.0.read(&mut buffer[..count])
        }
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 1).unwrap()
    }

    fn undo(data: &[u8]) -> Result<(Vec<u8>, u64), ImageError> {
        let bytes_read = Arc::new(AtomicU64::new(0));
        let mut uncompressed = Uncompressed::open(Slow(data), Arc::clone(&bytes_read))?;
        let mut all = vec![0; 10_000];
        let count = uncompressed.read_full(&mut all)?;
        all.truncate(count);
        Ok((all, bytes_read.load(Ordering::Relaxed)))
    }

    #[test]
    fn each_supported_compression_is_told_by_its_first_bytes_and_undone() {
        let skippable = [&[0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(b"hello")].concat();
        for data in [b"hello".to_vec(), gzip(b"hello"), zstd(b"hello"), skippable] {
            let (content, bytes_read) = undo(&data).unwrap();
            assert_eq!(content, b"hello");
            assert_eq!(bytes_read, data.len() as u64);
        }
    }

    #[test]
    fn members_and_frames_are_joined_and_garbage_behind_them_is_passed_over() {
        for encode in [gzip, zstd] {
            for garbage in [&b""[..], b"\0\0\0\0\0\0\0\0", b"x"] {
                let data = [&encode(b"hel")[..], &encode(b""), &encode(b"lo"), garbage].concat();
                let (content, bytes_read) = undo(&data).unwrap();
                assert_eq!(content, b"hello");
                assert_eq!(bytes_read, data.len() as u64);
            }
        }
    }

    #[test]
    fn damaged_and_missing_data_is_told() {
        for encode in [gzip, zstd] {
            let data = encode(&b"hello".repeat(100));
            for cut in [data.len() - 1, data.len() / 2, 8] {
                let error = undo(&data[..cut]).unwrap_err();
                assert!(matches!(error, ImageError::DamagedCompression { .. }), "{error}");
            }
        }
        let mut data = gzip(b"hello");
        let checksum = data.len() - 8;
        data[checksum] ^= 1;
        assert!(matches!(undo(&data), Err(ImageError::DamagedCompression { .. })));
    }

    #[test]
    fn compressions_that_are_not_supported_are_named() {
        for (magic, name) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh91AY", "bzip2"), (b"LZIP\x01", "lzip")] {
            match undo(magic) {
                Err(ImageError::UnsupportedCompression { compression }) => assert_eq!(compression, name),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(undo(b""), Err(ImageError::NotAnArchive { .. })));
    }

    #[test]
    fn an_error_of_the_reader_is_not_blamed_on_the_compression() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::ConnectionReset))
            }
        }
        let mut data = gzip(&b"hello".repeat(100));
        data.truncate(20);
        let mut stream =
            Uncompressed::open(io::Cursor::new(data).chain(Broken), Arc::new(AtomicU64::new(0))).unwrap();
        match stream.read_full(&mut [0; 1000]) {
            Err(ImageError::Read { source }) => assert_eq!(source.kind(), io::ErrorKind::ConnectionReset),
            other => panic!("{other:?}"),
        }
    }
}
