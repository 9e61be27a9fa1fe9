//! One entry of the tensor table, checked, and its data.

use super::cursor::Cursor;
use super::error::GgufError;
use super::quant::GgmlType;

/// Bytes that the shortest entry takes: an empty name, one dimension, the type and the offset.
pub(super) const MIN_INFO_BYTES: usize = 8 + 4 + 8 + 4 + 8;

/// Name, shape and type of a tensor; rows fill whole blocks and no dimension is zero.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::{GgmlType, OutputType};
/// use pdtrim_core::testing::tiny_gguf;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let file = tiny_gguf(folder.path(), OutputType::Q8_0)?;
/// let key = file.tensor("blk.0.attn_k.weight").expect("every block has one");
/// let info = key.info();
/// assert_eq!((info.shape(), info.ggml_type()), (&[16, 32][..], GgmlType::Q8_0));
/// // 16 rows of one block each: a 16-bit scale and 32 bytes.
/// assert_eq!(info.n_bytes(), 16 * 34);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    name: String,
    shape: Vec<usize>,
    ggml_type: GgmlType,
    offset: u64,
    n_bytes: usize,
}

impl TensorInfo {
    /// The name, for example `blk.0.attn_q.weight`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The dimensions in row-major order, outermost first. The file lists them the other way
    /// round; a linear weight is `[out_features, in_features]` here.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type.
    #[must_use]
    pub fn ggml_type(&self) -> GgmlType {
        self.ggml_type
    }

    /// The number of values.
    #[must_use]
    pub fn n_values(&self) -> usize {
        self.n_bytes / self.ggml_type.block_bytes() * self.ggml_type.block_len()
    }

    /// The size of the data in the file.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Where the data starts, from the start of the data section.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufError> {
        let name = cursor.string("tensor name")?.to_owned();
        let rank = cursor.u32("tensor rank")?;
        if !(1..=4).contains(&rank) {
            return Err(GgufError::Rank {
                tensor: name,
                found: rank,
            });
        }
        let dims = (0..rank)
            .map(|_| cursor.u64("tensor dimension"))
            .collect::<Result<Vec<_>, _>>()?;
        let type_number = cursor.u32("tensor type")?;
        let offset = cursor.u64("tensor offset")?;

        let ggml_type = match GgmlType::try_from(type_number) {
            Ok(ggml_type) => ggml_type,
            Err(found) => {
                return Err(GgufError::UnsupportedType {
                    tensor: name,
                    found,
                });
            }
        };
        if !dims[0].is_multiple_of(ggml_type.block_len() as u64) {
            return Err(GgufError::RowLength {
                tensor: name,
                found: dims[0],
                ggml_type,
            });
        }
        let Some((shape, n_bytes)) = sizes(&dims, ggml_type) else {
            return Err(GgufError::Dimensions { tensor: name, dims });
        };
        Ok(Self {
            name,
            shape,
            ggml_type,
            offset,
            n_bytes,
        })
    }
}

/// The row-major shape and the bytes of data; `None` if a dimension is zero or the values as `f32`
/// could not be addressed.
fn sizes(dims: &[u64], ggml_type: GgmlType) -> Option<(Vec<usize>, usize)> {
    let shape = dims
        .iter()
        .rev()
        .map(|&dim| usize::try_from(dim).ok().filter(|&dim| dim > 0))
        .collect::<Option<Vec<_>>>()?;
    let n_values = shape
        .iter()
        .try_fold(1_usize, |product, &dim| product.checked_mul(dim))?;
    n_values.checked_mul(size_of::<f32>())?;
    let n_bytes = (n_values / ggml_type.block_len()).checked_mul(ggml_type.block_bytes())?;
    Some((shape, n_bytes))
}

/// A tensor of an open file.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::OutputType;
/// use pdtrim_core::testing::tiny_gguf;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let file = tiny_gguf(folder.path(), OutputType::Q8_0)?;
/// let norm = file.tensor("output_norm.weight").expect("every model has one");
/// assert_eq!(norm.dequantize(), vec![1.0; 32]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct GgufTensor<'a> {
    info: &'a TensorInfo,
    data: &'a [u8],
}

impl<'a> GgufTensor<'a> {
    /// `data` is exactly the tensor's bytes.
    pub(super) fn new(info: &'a TensorInfo, data: &'a [u8]) -> Self {
        debug_assert_eq!(info.n_bytes, data.len());
        Self { info, data }
    }

    /// Name, shape and type.
    #[must_use]
    pub fn info(&self) -> &'a TensorInfo {
        self.info
    }

    /// The blocks as they are in the file.
    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Decodes all values, in row-major order of [`TensorInfo::shape`], in parallel.
    #[must_use]
    pub fn dequantize(&self) -> Vec<f32> {
        let mut values = Vec::new();
        self.dequantize_into(&mut values);
        values
    }

    /// As [`Self::dequantize`], replacing the contents of `values` and keeping its allocation.
    pub fn dequantize_into(&self, values: &mut Vec<f32>) {
        // No clear(): what is there is overwritten, only growth is filled with zeros.
        values.resize(self.info.n_values(), 0.0);
        self.info.ggml_type.dequantize(self.data, values);
    }
}
