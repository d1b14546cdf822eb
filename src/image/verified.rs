//! Bytes whose digest is known beforehand.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::{Digest, ImageError};

/// Reads to the end, and fails there if the digest is wrong, or as soon as there are too many bytes.
///
/// The error is an [`io::Error`] that holds an [`ImageError`].
pub(super) struct Verified<R> {
    reader: R,
    expected: Digest,
    size: Option<u64>,
    hasher: Sha256,
    read: u64,
    ended: bool,
}

impl<R: Read> Verified<R> {
    pub(super) fn new(reader: R, expected: Digest, size: Option<u64>) -> Self {
        Self { reader, expected, size, hasher: Sha256::new(), read: 0, ended: false }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.read += count as u64;
        self.ended = count == 0;
        let too_many = self.size.is_some_and(|size| self.read > size);
        if self.ended || too_many {
            let found = Digest::from_hash(&self.hasher.clone().finalize());
            if found != self.expected || too_many {
                self.ended = true;
                let (what, expected) = ("the blob".to_owned(), self.expected.clone());
                return Err(io::Error::other(ImageError::WrongDigest { what, expected, found }));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_too_few_and_too_many_are_told() {
        let read = |bytes: &[u8], size| {
            Verified::new(bytes, Digest::of(b"hello"), size).read_to_end(&mut Vec::new())
        };
        assert_eq!(read(b"hello", Some(5)).unwrap(), 5);
        assert_eq!(read(b"hello", None).unwrap(), 5);
        for wrong in [&b"hellp"[..], b"hell", b"hello!", b""] {
            assert!(read(wrong, Some(5)).is_err());
            assert!(read(wrong, None).is_err());
        }
    }
}
