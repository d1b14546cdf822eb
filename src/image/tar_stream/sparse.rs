//! The maps of sparse files, as GNU tar and PAX write them.

use tar::Header;

use super::{BLOCK_BYTES, Chunks, ImageError, Sparse, TarStream};

/// Bound for the number of pieces of a sparse file.
const SPARSE_PIECES_MAX: usize = 1 << 20;

impl<C: Chunks> TarStream<C> {
    /// The map of GNU tar's old format: four pieces in the header, more in blocks behind it.
    pub(super) fn old_gnu_map(&mut self, header: &Header) -> Result<Vec<(u64, u64)>, ImageError> {
        let Some(gnu) = header.as_gnu() else {
            return Err(self.damaged("a sparse file has no GNU header"));
        };
        let mut map = Vec::new();
        for piece in &gnu.sparse {
            self.old_gnu_piece(&piece.offset, &piece.numbytes, &mut map)?;
        }
        let mut extended = gnu.isextended[0] != 0;
        while extended {
            let mut block = [0; BLOCK_BYTES];
            if self.read_full(&mut block)? < BLOCK_BYTES {
                return Err(self.truncated("a sparse map"));
            }
            for piece in block[..504].chunks_exact(24) {
                self.old_gnu_piece(&piece[..12], &piece[12..], &mut map)?;
            }
            extended = block[504] != 0;
        }
        Ok(map)
    }

    fn old_gnu_piece(
        &self,
        offset: &[u8],
        length: &[u8],
        map: &mut Vec<(u64, u64)>,
    ) -> Result<(), ImageError> {
        if offset[0] == 0 || length[0] == 0 {
            return Ok(());
        }
        if map.len() >= SPARSE_PIECES_MAX {
            return Err(ImageError::TooLarge { what: "sparse pieces", limit: SPARSE_PIECES_MAX as u64 });
        }
        map.push((self.number(offset, "sparse offset")?, self.number(length, "sparse length")?));
        Ok(())
    }

    /// The map of PAX sparse format 1.0: decimal lines at the beginning of the data, padded to a block.
    pub(super) fn map_in_data(&mut self) -> Result<Vec<(u64, u64)>, ImageError> {
        let begin = self.offset;
        let count = self.decimal_line()?;
        if count > SPARSE_PIECES_MAX as u64 {
            return Err(ImageError::TooLarge { what: "sparse pieces", limit: SPARSE_PIECES_MAX as u64 });
        }
        let mut map = Vec::new();
        for _ in 0..count {
            map.push((self.decimal_line()?, self.decimal_line()?));
        }
        let mut padding = (self.offset - begin).next_multiple_of(BLOCK_BYTES as u64) - (self.offset - begin);
        while padding > 0 {
            let Some(data) = self.data()? else {
                return Err(self.damaged("a sparse map is not padded"));
            };
            let count = usize::try_from(padding).map_or(data.len(), |padding| data.len().min(padding));
            self.consumed(count);
            padding -= count as u64;
        }
        Ok(map)
    }

    fn decimal_line(&mut self) -> Result<u64, ImageError> {
        let mut value = 0_u64;
        loop {
            let Some(&byte) = self.data()?.and_then(|data| data.first()) else {
                return Err(self.damaged("a sparse map ends early"));
            };
            self.consumed(1);
            match byte {
                b'\n' => return Ok(value),
                b'0'..=b'9' => {
                    let next =
                        value.checked_mul(10).and_then(|value| value.checked_add(u64::from(byte - b'0')));
                    value = next.ok_or_else(|| self.damaged("a number of a sparse map is too large"))?;
                }
                _ => return Err(self.damaged("a sparse map has something else than numbers")),
            }
        }
    }

    /// The pieces must be ascending, inside the file, and take exactly the data that is there.
    pub(super) fn check_sparse(&self, sparse: &Sparse) -> Result<(), ImageError> {
        let mut at = 0;
        let mut total = 0_u64;
        for &(offset, length) in &sparse.map {
            let end = offset.checked_add(length).filter(|&end| offset >= at && end <= sparse.real_size);
            at = end.ok_or_else(|| self.damaged("a sparse map is not in order"))?;
            total += length;
        }
        if total == self.data_left {
            Ok(())
        } else {
            Err(self.damaged("a sparse map does not match its data"))
        }
    }
}
