//! A reading position in bytes that may end anywhere.

use super::error::GgufError;

/// Reads little-endian fields from the front of a byte slice; every read is checked.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    fn left(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }

    fn truncated(&self, field: &'static str, needed: u128) -> GgufError {
        GgufError::Truncated {
            field,
            position: self.position,
            needed,
            left: self.left().len(),
        }
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], GgufError> {
        let bytes = self
            .left()
            .first_chunk::<N>()
            .ok_or_else(|| self.truncated(field, N as u128))?;
        self.position += N;
        Ok(*bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, GgufError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, GgufError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// Reads a count of entries that take at least `entry_bytes` each, and refuses one that the
    /// bytes left cannot hold. So a `Vec` of that many numbers is at most as large as the file.
    pub(super) fn count(
        &mut self,
        field: &'static str,
        entry_bytes: usize,
    ) -> Result<usize, GgufError> {
        let count = self.u64(field)?;
        let needed = u128::from(count) * entry_bytes as u128;
        if needed > self.left().len() as u128 {
            return Err(self.truncated(field, needed));
        }
        usize::try_from(count).map_err(|_| self.truncated(field, needed))
    }

    /// As [`Self::count`], and refuses one above `limit`, so that what is made of the entries has a fixed
    /// size at most.
    pub(super) fn limited_count(
        &mut self,
        field: &'static str,
        entry_bytes: usize,
        limit: usize,
    ) -> Result<usize, GgufError> {
        let found = self.count(field, entry_bytes)?;
        if found > limit {
            return Err(GgufError::TooMany {
                field,
                limit,
                found,
            });
        }
        Ok(found)
    }

    pub(super) fn string(&mut self, field: &'static str) -> Result<&'a str, GgufError> {
        let n_bytes = self.count(field, 1)?;
        let position = self.position;
        let bytes = &self.left()[..n_bytes];
        self.position += n_bytes;
        std::str::from_utf8(bytes).map_err(|_| GgufError::Utf8 { field, position })
    }
}
