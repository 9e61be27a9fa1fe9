//! Thrift's compact protocol, as far as it takes to look at sizes in a Parquet file without making anything
//! of them: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>.
//!
//! The `parquet` crate has a reader of its own, which is not public and allocates as it goes.

/// Structs in structs; Parquet has five.
const MAX_DEPTH: usize = 16;

/// A reading position; every method gives `None` where the bytes end or make no sense.
pub(super) struct Compact<'b> {
    bytes: &'b [u8],
    position: usize,
}

/// Type of a field or of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(u8);

impl Kind {
    pub(super) const STRUCT: Self = Self(12);
    const LISTS: [Self; 2] = [Self(9), Self(10)];

    pub(super) fn is_list(self) -> bool {
        Self::LISTS.contains(&self)
    }

    /// i16, i32 or i64.
    pub(super) fn is_integer(self) -> bool {
        (4..=6).contains(&self.0)
    }
}

impl<'b> Compact<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.position)?;
        self.position += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A signed number.
    pub(super) fn integer(&mut self) -> Option<i64> {
        let zigzag = self.varint()?;
        Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// Reads the fields of a struct: `field` is given the number and type of each, and either reads it and
    /// returns `Some(true)`, or leaves it with `Some(false)`.
    pub(super) fn fields(
        &mut self,
        mut field: impl FnMut(&mut Self, i64, Kind) -> Option<bool>,
    ) -> Option<()> {
        let mut id = 0_i64;
        loop {
            let header = self.byte()?;
            if header == 0 {
                return Some(());
            }
            id = match header >> 4 {
                0 => self.integer()?,
                delta => id.checked_add(delta.into())?,
            };
            let kind = Kind(header & 0x0f);
            if !field(self, id, kind)? {
                self.skip(kind, MAX_DEPTH)?;
            }
        }
    }

    /// Type and number of a list's elements.
    pub(super) fn list(&mut self) -> Option<(Kind, u64)> {
        let header = self.byte()?;
        let len = match header >> 4 {
            15 => self.varint()?,
            len => len.into(),
        };
        Some((Kind(header & 0x0f), len))
    }

    fn skip(&mut self, kind: Kind, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind.0 {
            // The type says it.
            1 | 2 => Some(()),
            3 => self.advance(1),
            4..=6 => self.varint().map(drop),
            7 => self.advance(8),
            8 => {
                let len = self.varint()?;
                self.advance(len)
            }
            9 | 10 => {
                let (kind, len) = self.list()?;
                (0..len).try_for_each(|_| self.skip_element(kind, depth))
            }
            11 => {
                let len = self.varint()?;
                if len == 0 {
                    return Some(());
                }
                let kinds = self.byte()?;
                (0..len).try_for_each(|_| {
                    self.skip_element(Kind(kinds >> 4), depth)?;
                    self.skip_element(Kind(kinds & 0x0f), depth)
                })
            }
            12 => {
                while let header @ 1.. = self.byte()? {
                    if header >> 4 == 0 {
                        self.integer()?;
                    }
                    self.skip(Kind(header & 0x0f), depth)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    /// A boolean in a list takes a byte; in a field its type says it.
    fn skip_element(&mut self, kind: Kind, depth: usize) -> Option<()> {
        match kind.0 {
            1 | 2 => self.advance(1),
            _ => self.skip(kind, depth),
        }
    }

    fn advance(&mut self, n_bytes: u64) -> Option<()> {
        let position = self.position.checked_add(usize::try_from(n_bytes).ok()?)?;
        self.position = position;
        (position <= self.bytes.len()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_or_skipped_by_their_type() {
        // 1: i32 -3, 2: list of 2 strings, 3: struct {1: true}, 6: double, 7: i64 300, stop.
        let mut bytes = vec![
            0x15, 0x05, 0x19, 0x28, 1, b'a', 2, b'b', b'c', 0x1c, 0x11, 0,
        ];
        bytes.extend([0x37, 0, 0, 0, 0, 0, 0, 0, 0, 0x16, 0xd8, 0x04, 0]);
        let mut found = Vec::new();
        let mut compact = Compact::new(&bytes);
        compact
            .fields(|compact, id, kind| {
                if !kind.is_integer() {
                    return Some(false);
                }
                found.push((id, compact.integer()?));
                Some(true)
            })
            .unwrap();
        assert_eq!(found, [(1, -3), (7, 300)]);
        assert_eq!(compact.position(), bytes.len());
        for cut in 0..bytes.len() {
            let cut = Compact::new(&bytes[..cut]).fields(|_, _, _| Some(false));
            assert_eq!(cut, None);
        }
    }

    #[test]
    fn structs_nested_without_end_are_refused() {
        let nested = [0x1c].repeat(1 << 20);
        assert_eq!(Compact::new(&nested).fields(|_, _, _| Some(false)), None);
    }
}
