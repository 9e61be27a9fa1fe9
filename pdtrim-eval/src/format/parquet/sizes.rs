//! What a Parquet file says of its sizes, checked before the `parquet` crate believes it.
//!
//! The crate makes room for as many columns, values and bytes as a footer or a page header names, and goes
//! down the schema by recursion. Snappy, the only compression that is read, packs 64 bytes into 3 at best; a
//! page that says more is broken.

use std::fmt::Display;

use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};

use super::thrift::{Compact, Kind};

/// Bytes of the footer; the crate makes at most 130 of one. Published files have up to a few hundred kB.
const MAX_FOOTER: usize = 2 << 20;
/// Columns, and groups of columns, of a schema.
const MAX_COLUMNS: u64 = 4096;
/// Columns in columns.
const MAX_DEPTH: usize = 32;
/// Pages and dictionaries that are in memory at once: one of each for every column.
const MAX_OPEN_BYTES: u64 = 256 << 20;
/// What a dictionary's entry takes beside its text.
const ENTRY_BYTES: u64 = 48;

/// What a file may say, and what it does.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) what: &'static str,
    pub(super) expected: String,
    pub(super) found: String,
}

fn refused<T>(
    what: &'static str,
    expected: impl Into<String>,
    found: &dyn Display,
) -> Result<T, Refusal> {
    Err(Refusal {
        what,
        expected: expected.into(),
        found: format!("{found}"),
    })
}

/// Checks the footer's size and its schema. What is no footer at all is left to the crate's own words.
pub(super) fn check_footer(file: &[u8]) -> Result<(), Refusal> {
    let Some((rest, tail)) = file.split_last_chunk::<8>() else {
        return Ok(());
    };
    let [a, b, c, d, magic @ ..] = *tail;
    if magic != *b"PAR1" {
        return Ok(());
    }
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > MAX_FOOTER {
        return refused("footer", format!("at most {MAX_FOOTER} bytes"), &len);
    }
    let Some(start) = rest.len().checked_sub(len) else {
        return Ok(());
    };
    let mut schema = Vec::new();
    let mut too_many = None;
    let read = Compact::new(&rest[start..]).fields(|compact, id, kind| {
        if id != 2 || !kind.is_list() {
            return Some(false);
        }
        let (kind, len) = compact.list()?;
        if len > MAX_COLUMNS {
            too_many = Some(len);
        }
        if kind != Kind::STRUCT || len > MAX_COLUMNS {
            return None;
        }
        schema = (0..len).map(|_| children(compact)).collect::<Option<_>>()?;
        Some(true)
    });
    if let Some(found) = too_many {
        return refused("schema", format!("at most {MAX_COLUMNS} columns"), &found);
    }
    if read.is_none() {
        return refused("footer", "Parquet's file metadata", &"something else");
    }
    check_schema(&schema)
}

/// Number of columns in the column at the position.
fn children(compact: &mut Compact<'_>) -> Option<i64> {
    let mut n_children = 0;
    compact.fields(|compact, id, kind| {
        if id != 5 || !kind.is_integer() {
            return Some(false);
        }
        n_children = compact.integer()?;
        Some(true)
    })?;
    Some(n_children)
}

/// `schema` has the number of children of each column, in the order in which a walk meets them.
fn check_schema(schema: &[i64]) -> Result<(), Refusal> {
    // Children still to come, of each column above the one at hand.
    let mut open: Vec<i64> = Vec::new();
    for &n_children in schema {
        if n_children < 0 || n_children > schema.len() as i64 {
            let expected = format!("0 to {} columns in a column", schema.len());
            return refused("schema", expected, &n_children);
        }
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        open.push(n_children);
        if open.len() > MAX_DEPTH {
            let expected = format!("columns nested at most {MAX_DEPTH} deep");
            return refused("schema", expected, &"deeper ones");
        }
    }
    Ok(())
}

/// Checks the headers of all pages; returns the number of values in them.
pub(super) fn check_pages(file: &[u8], groups: &[RowGroupMetaData]) -> Result<u64, Refusal> {
    let mut n_values = 0_u64;
    let mut left = file.len();
    for group in groups {
        let mut open_bytes = 0;
        for column in group.columns() {
            let pages = chunk(file, column)?;
            // A file whose columns share their bytes may be read again and again.
            let Some(rest) = left.checked_sub(pages.len()) else {
                return refused("columns", "of the file's size together", &"larger ones");
            };
            left = rest;
            // The crate refuses others by name, before it reads a page.
            let codec = column.compression();
            if !matches!(codec, Compression::UNCOMPRESSED | Compression::SNAPPY) {
                continue;
            }
            let sizes = check_chunk(pages)?;
            open_bytes += sizes.page_bytes + sizes.dictionary_bytes;
            n_values = n_values.saturating_add(sizes.n_values);
        }
        if open_bytes > MAX_OPEN_BYTES {
            let expected = format!("at most {MAX_OPEN_BYTES} bytes, one of each column");
            return refused("pages", expected, &open_bytes);
        }
    }
    Ok(n_values)
}

/// The bytes of a column's pages.
fn chunk<'f>(file: &'f [u8], column: &ColumnChunkMetaData) -> Result<&'f [u8], Refusal> {
    let offsets = column.dictionary_page_offset();
    let start = offsets.unwrap_or_else(|| column.data_page_offset());
    let len = column.compressed_size();
    let range = || {
        let start = usize::try_from(start).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        file.get(start..end)
    };
    match range() {
        Some(pages) if column.data_page_offset() >= 0 => Ok(pages),
        _ => refused(
            "column",
            format!("a place in a file of {} bytes", file.len()),
            &format!("{len} bytes at {start}"),
        ),
    }
}

/// What a column holds in memory, at most.
#[derive(Default)]
struct ChunkSizes {
    page_bytes: u64,
    dictionary_bytes: u64,
    n_values: u64,
}

fn check_chunk(mut pages: &[u8]) -> Result<ChunkSizes, Refusal> {
    let mut sizes = ChunkSizes::default();
    while !pages.is_empty() {
        let Some(page) = PageHeader::read(pages) else {
            return refused("page", "a page header", &"something else");
        };
        let (Ok(size), Ok(packed)) = (u64::try_from(page.size), usize::try_from(page.packed))
        else {
            let found = format!("{} packed into {}", page.size, page.packed);
            return refused("page", "sizes from 0 on", &found);
        };
        // Snappy's shortest form of 64 bytes has 3.
        let most = (packed as u64).saturating_mul(22).saturating_add(64);
        if size > most {
            return refused("page", format!("at most {most} bytes of {packed}"), &size);
        }
        let Some(rest) = pages.get(page.len..).and_then(|rest| rest.get(packed..)) else {
            let found = format!("one of {packed}");
            return refused("page", format!("at most {} bytes", pages.len()), &found);
        };
        let Ok(n_values) = u64::try_from(page.n_values) else {
            return refused("page", "a number of values from 0 on", &page.n_values);
        };
        if page.is_dictionary {
            if n_values > size {
                return refused("dictionary", format!("at most {size} values"), &n_values);
            }
            let bytes = size + n_values * ENTRY_BYTES;
            sizes.dictionary_bytes = sizes.dictionary_bytes.max(bytes);
        } else {
            sizes.page_bytes = sizes.page_bytes.max(size);
            sizes.n_values = sizes.n_values.saturating_add(n_values);
        }
        pages = rest;
    }
    Ok(sizes)
}

/// The part of a page header that names sizes.
#[derive(Default)]
struct PageHeader {
    /// Of the header itself.
    len: usize,
    size: i64,
    packed: i64,
    n_values: i64,
    is_dictionary: bool,
}

impl PageHeader {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut header = Self::default();
        let mut compact = Compact::new(bytes);
        compact.fields(|compact, id, kind| {
            match id {
                2 if kind.is_integer() => header.size = compact.integer()?,
                3 if kind.is_integer() => header.packed = compact.integer()?,
                // Of a data page, a dictionary and a data page of the second form: the number comes first.
                5 | 7 | 8 if kind == Kind::STRUCT => {
                    header.is_dictionary |= id == 7;
                    compact.fields(|compact, id, kind| {
                        if id != 1 || !kind.is_integer() {
                            return Some(false);
                        }
                        header.n_values = header.n_values.max(compact.integer()?);
                        Some(true)
                    })?;
                }
                _ => return Some(false),
            }
            Some(true)
        })?;
        header.len = compact.position();
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page's header: sizes, then a struct `kind` (5 a data page, 7 a dictionary) with a number of values.
    fn header(size: u64, packed: u64, kind: u8, n_values: u64) -> Vec<u8> {
        let mut bytes = vec![0x15, 0, 0x15];
        push(&mut bytes, size);
        bytes.push(0x15);
        push(&mut bytes, packed);
        bytes.extend([((kind - 3) << 4) | 0x0c, 0x15]);
        push(&mut bytes, n_values);
        bytes.extend([0, 0]);
        bytes
    }

    fn push(bytes: &mut Vec<u8>, value: u64) {
        let mut zigzag = value << 1;
        while zigzag > 0x7f {
            bytes.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        bytes.push(zigzag as u8);
    }

    fn said(pages: &[u8]) -> String {
        let refusal = check_chunk(pages).err().unwrap();
        format!("{}: {}, {}", refusal.what, refusal.expected, refusal.found)
    }

    #[test]
    fn pages_are_added_up() {
        let pages = [
            header(40, 10, 7, 5),
            vec![0; 10],
            header(9, 4, 5, 3),
            vec![0; 4],
        ]
        .concat();
        let sizes = check_chunk(&pages).unwrap();
        assert_eq!(sizes.dictionary_bytes, 40 + 5 * ENTRY_BYTES);
        assert_eq!((sizes.page_bytes, sizes.n_values), (9, 3));
    }

    #[test]
    fn pages_that_say_too_much_are_refused() {
        let large = [header(1 << 31, 10, 5, 1), vec![0; 10]].concat();
        assert_eq!(said(&large), "page: at most 284 bytes of 10, 2147483648");
        let entries = [header(40, 10, 7, 1 << 31), vec![0; 10]].concat();
        assert_eq!(said(&entries), "dictionary: at most 40 values, 2147483648");
        let cut = header(40, 10, 5, 1);
        assert!(said(&cut).ends_with("one of 10"), "{}", said(&cut));
        assert_eq!(said(&[0xff; 3]), "page: a page header, something else");
        let negative = [0x15, 0, 0x15, 1, 0x15, 1, 0];
        assert_eq!(said(&negative), "page: sizes from 0 on, -1 packed into -1");
    }

    #[test]
    fn schemas_that_go_too_deep_or_say_too_much_are_refused() {
        check_schema(&[2, 1, 0, 1, 0]).unwrap();
        check_schema(&[1; 32]).unwrap();
        let deep = check_schema(&[1; 33]).unwrap_err();
        assert_eq!(deep.found, "deeper ones");
        let many = check_schema(&[i64::from(i32::MAX)]).unwrap_err();
        assert_eq!(many.expected, "0 to 1 columns in a column");
        check_schema(&[-1]).unwrap_err();
    }

    #[test]
    fn a_footer_larger_than_any_is_refused_before_it_is_read() {
        let mut file = vec![0; MAX_FOOTER + 1];
        file.extend((MAX_FOOTER as u32 + 1).to_le_bytes());
        file.extend(b"PAR1");
        assert_eq!(check_footer(&file).unwrap_err().found, "2097153");
        check_footer(b"PAR1").unwrap();
        check_footer(b"PAR1 and no more").unwrap();
    }
}
