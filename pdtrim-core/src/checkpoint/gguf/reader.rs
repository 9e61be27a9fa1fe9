//! Opening a GGUF file and checking its header.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::cursor::Cursor;
use super::error::GgufError;
use super::metadata::Metadata;
use super::tensor::{GgufTensor, MIN_INFO_BYTES, TensorInfo};

const MAGIC: [u8; 4] = *b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";
/// Alignment of files that do not state one.
const DEFAULT_ALIGNMENT: u32 = 32;

/// An open GGUF file: names are unique and every tensor's data lies inside the file, aligned and
/// apart from the others. Clones share the mapping.
///
/// The file must not be truncated or written to while it is open; see [`GgufFile::open`].
///
/// ```
/// use pdtrim_core::checkpoint::gguf::OutputType;
/// use pdtrim_core::testing::tiny_gguf;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let file = tiny_gguf(folder.path(), OutputType::Q8_0)?;
/// assert_eq!(file.version(), 3);
/// let names: Vec<&str> = file.tensors().map(|tensor| tensor.name()).collect();
/// assert!(names.contains(&"blk.0.attn_q.weight"));
/// assert!(file.tensor("no.such.tensor").is_none());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone)]
pub struct GgufFile {
    shared: Arc<Shared>,
}

struct Shared {
    bytes: Bytes,
    header: Header,
}

enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Everything before the tensor data.
struct Header {
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Places in `tensors`, ordered by name.
    by_name: Vec<usize>,
    /// Where the data section starts in the file.
    data_start: usize,
}

impl GgufFile {
    /// Maps a file and checks its header.
    ///
    /// Data is read from the disk only when a tensor is decoded. Nothing may truncate or change
    /// the file as long as a clone of this value lives: the operating system would end the process
    /// (`SIGBUS`) on access to a page that is gone. Checkpoints are written once and then only
    /// read, which is why a mapping is used nevertheless.
    ///
    /// # Errors
    ///
    /// [`GgufError::Io`] if the file cannot be mapped, [`GgufError::NotAFile`], else what [`Self::from_bytes`] says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let failed = |source| GgufError::Io {
            action: "open",
            source,
        };
        // Opening a pipe would wait for a writer.
        let kind = fs::metadata(&path).map_err(failed)?.file_type();
        if let Some(found) = crate::text::not_a_file(kind) {
            return Err(GgufError::NotAFile { found });
        }
        let file = File::open(path).map_err(failed)?;
        #[expect(
            unsafe_code,
            reason = "mapping is unsafe because the file may change underneath; the documentation \
                      of this function makes that the caller's duty"
        )]
        // SAFETY: the mapping is private to this value and only read; that nobody truncates or
        // writes the file meanwhile is required above.
        let map = unsafe { Mmap::map(&file) };
        let map = map.map_err(|source| GgufError::Io {
            action: "map",
            source,
        })?;
        Self::new(Bytes::Mapped(map))
    }

    /// Checks the header of a file that is in memory.
    ///
    /// # Errors
    ///
    /// Any of the variants of [`GgufError`] about the header and the tensor table.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::new(Bytes::Owned(bytes))
    }

    fn new(bytes: Bytes) -> Result<Self, GgufError> {
        let header = Header::read(bytes.as_slice())?;
        Ok(Self {
            shared: Arc::new(Shared { bytes, header }),
        })
    }

    /// The format version, 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.shared.header.version
    }

    /// The key-value pairs of the header.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.shared.header.metadata
    }

    /// All tensors in the order of the file.
    #[must_use]
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.shared.header.tensors.iter()
    }

    /// The tensor with this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<GgufTensor<'_>> {
        let header = &self.shared.header;
        let place = header
            .by_name
            .binary_search_by(|&index| header.tensors[index].name().cmp(name));
        let info = &header.tensors[header.by_name[place.ok()?]];
        let data = header
            .data_section(self.shared.bytes.as_slice())
            .get(usize::try_from(info.offset()).ok()?..)?
            .get(..info.n_bytes())?;
        Some(GgufTensor::new(info, data))
    }
}

impl fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GgufFile")
            .field("version", &self.version())
            .field("tensors", &self.tensors().len())
            .field("bytes", &self.shared.bytes.as_slice().len())
            .finish_non_exhaustive()
    }
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(bytes);
        let found = cursor.array("magic")?;
        if found != MAGIC {
            return Err(GgufError::Magic { found });
        }
        let version = match cursor.u32("version")? {
            version @ 2..=3 => version,
            found if matches!(found.swap_bytes(), 1..=3) => return Err(GgufError::BigEndian),
            found => return Err(GgufError::Version { found }),
        };
        let n_tensors =
            cursor.limited_count("tensor count", MIN_INFO_BYTES, crate::limits::TENSORS)?;
        let n_pairs = Metadata::read_count(&mut cursor)?;
        let metadata = Metadata::read(&mut cursor, n_pairs)?;
        let alignment = alignment(&metadata)?;

        let mut tensors = Vec::with_capacity(n_tensors);
        for _ in 0..n_tensors {
            tensors.push(TensorInfo::read(&mut cursor)?);
        }
        let by_name = by_name(&tensors)?;

        let data_start = cursor
            .position()
            .checked_next_multiple_of(alignment as usize)
            .unwrap_or(usize::MAX);
        let header = Self {
            version,
            metadata,
            tensors,
            by_name,
            data_start,
        };
        header.check_tensor_ranges(header.data_section(bytes).len(), alignment)?;
        Ok(header)
    }

    /// The tensor data; empty if the file ends before it.
    fn data_section<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.data_start..).unwrap_or_default()
    }

    fn check_tensor_ranges(&self, data_len: usize, alignment: u32) -> Result<(), GgufError> {
        for tensor in &self.tensors {
            if !tensor.offset().is_multiple_of(alignment.into()) {
                return Err(GgufError::Misaligned {
                    tensor: tensor.name().to_owned(),
                    offset: tensor.offset(),
                    alignment,
                });
            }
            let end = tensor.offset().checked_add(tensor.n_bytes() as u64);
            if end.is_none_or(|end| end > data_len as u64) {
                return Err(GgufError::TensorRange {
                    tensor: tensor.name().to_owned(),
                    offset: tensor.offset(),
                    n_bytes: tensor.n_bytes(),
                    data_len,
                });
            }
        }
        self.check_no_overlap()
    }

    /// Overlap is no danger by itself, but it lets a small file promise any amount of weights.
    fn check_no_overlap(&self) -> Result<(), GgufError> {
        let mut by_offset: Vec<_> = self.tensors.iter().collect();
        by_offset.sort_by_key(|tensor| tensor.offset());
        for pair in by_offset.windows(2) {
            if pair[0].offset() + pair[0].n_bytes() as u64 > pair[1].offset() {
                return Err(GgufError::OverlappingTensors {
                    first: pair[0].name().to_owned(),
                    second: pair[1].name().to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Places in the table, ordered by name; a name that comes twice is refused.
fn by_name(tensors: &[TensorInfo]) -> Result<Vec<usize>, GgufError> {
    let name = |index: usize| tensors[index].name();
    let mut by_name: Vec<usize> = (0..tensors.len()).collect();
    by_name.sort_by_key(|&index| name(index));
    match by_name
        .windows(2)
        .find(|pair| name(pair[0]) == name(pair[1]))
    {
        Some(pair) => Err(GgufError::DuplicateTensor {
            tensor: name(pair[0]).to_owned(),
        }),
        None => Ok(by_name),
    }
}

fn alignment(metadata: &Metadata) -> Result<u32, GgufError> {
    let alignment = metadata
        .optional(ALIGNMENT_KEY)?
        .unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() {
        Ok(alignment)
    } else {
        Err(GgufError::Alignment { found: alignment })
    }
}

#[cfg(test)]
mod tests;
