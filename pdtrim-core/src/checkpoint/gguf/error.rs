//! What can be wrong with a GGUF file.

use std::io;

use thiserror::Error;

use super::quant::{GgmlType, UnsupportedGgmlType};

/// Why a GGUF file, or something in it, cannot be used. The path is left to the caller.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::{GgufError, GgufFile};
///
/// let error = GgufFile::from_bytes(b"PK\x03\x04".to_vec()).unwrap_err();
/// assert!(matches!(error, GgufError::Magic { .. }));
/// let said = r#"file starts with "PK\x03\x04", a GGUF file starts with "GGUF""#;
/// assert_eq!(error.to_string(), said);
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The operating system refused an operation.
    #[error("cannot {action} the GGUF file")]
    Io {
        /// What was tried: "open" or "map".
        action: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// The file is something else.
    #[error("file starts with \"{}\", a GGUF file starts with \"GGUF\"", found.escape_ascii())]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The numbers in the file are big-endian.
    #[error("GGUF file is big-endian, only little-endian files can be read")]
    BigEndian,
    /// A version whose layout is not known.
    #[error("GGUF version is {found}, versions 2 and 3 can be read")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// The file ends before the header does.
    #[error("{field} at byte {position} needs {needed} bytes, the file has {left} left")]
    Truncated {
        /// What was being read.
        field: &'static str,
        /// Where it starts.
        position: usize,
        /// How many bytes it takes at least.
        needed: u128,
        /// How many there are.
        left: usize,
    },
    /// The path names a folder, a pipe, a socket or a device.
    #[error("expected a GGUF file, found {found}")]
    NotAFile {
        /// What is there.
        found: &'static str,
    },
    /// There is more of something than in any model.
    #[error("{field} is {found}, expected at most {limit}")]
    TooMany {
        /// What is counted.
        field: &'static str,
        /// The limit.
        limit: usize,
        /// How many there are, or how many up to the one that is too many.
        found: usize,
    },
    /// A string is not valid UTF-8.
    #[error("{field} at byte {position} is not UTF-8")]
    Utf8 {
        /// What was being read.
        field: &'static str,
        /// Where the string starts.
        position: usize,
    },
    /// A metadata key comes twice.
    #[error("metadata key `{key}` occurs twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A metadata value has a type number that GGUF does not define.
    #[error("metadata key `{key}` has value type {found}, GGUF defines 0 to 12")]
    ValueType {
        /// The key.
        key: String,
        /// The type number.
        found: u32,
    },
    /// A metadata array holds arrays.
    #[error("metadata key `{key}` is an array of arrays, which no known key uses")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// A boolean is neither 0 nor 1.
    #[error("metadata key `{key}` has a boolean of value {found}, 0 and 1 are allowed")]
    BoolByte {
        /// The key.
        key: String,
        /// The byte.
        found: u8,
    },
    /// A key that is needed is not there.
    #[error("metadata key `{key}` is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key holds another type than needed, or an integer out of range.
    #[error("metadata key `{key}` is {found}, expected {expected}")]
    KeyType {
        /// The key.
        key: String,
        /// The type that was asked for.
        expected: &'static str,
        /// The type found and, for a number, its value.
        found: String,
    },
    /// The alignment of tensor data is unusable.
    #[error("general.alignment is {found}, expected a power of two")]
    Alignment {
        /// The alignment in the file.
        found: u32,
    },
    /// A tensor has no dimensions, or too many.
    #[error("tensor `{tensor}` has {found} dimensions, expected 1 to 4")]
    Rank {
        /// The tensor.
        tensor: String,
        /// Its number of dimensions.
        found: u32,
    },
    /// A tensor has a dimension of zero, or more bytes than can be counted.
    #[error(
        "tensor `{tensor}` has dimensions {dims:?} (as in the file), which give no usable size"
    )]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// Its dimensions in the order of the file, innermost first.
        dims: Vec<u64>,
    },
    /// A tensor's type cannot be decoded.
    #[error("tensor `{tensor}` has {found}, which cannot be read")]
    UnsupportedType {
        /// The tensor.
        tensor: String,
        /// The type in the file.
        found: UnsupportedGgmlType,
    },
    /// A tensor's rows do not fill whole blocks.
    #[error(
        "tensor `{tensor}` has rows of {found} values, {ggml_type} needs a multiple of {}",
        ggml_type.block_len()
    )]
    RowLength {
        /// The tensor.
        tensor: String,
        /// Values in a row.
        found: u64,
        /// The type of the tensor.
        ggml_type: GgmlType,
    },
    /// A tensor's data does not start on the file's alignment.
    #[error("tensor `{tensor}` starts at offset {offset}, expected a multiple of {alignment}")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Its offset from the start of the data section.
        offset: u64,
        /// The alignment of the file.
        alignment: u32,
    },
    /// A tensor's data is not wholly inside the file.
    #[error(
        "tensor `{tensor}` takes {n_bytes} bytes at offset {offset} of a data section of \
            {data_len} bytes"
    )]
    TensorRange {
        /// The tensor.
        tensor: String,
        /// Its offset from the start of the data section.
        offset: u64,
        /// Its size.
        n_bytes: usize,
        /// The size of the data section.
        data_len: usize,
    },
    /// Two tensors have one name.
    #[error("tensor `{tensor}` occurs twice")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` overlap")]
    OverlappingTensors {
        /// The tensor that starts first.
        first: String,
        /// The tensor that starts inside it.
        second: String,
    },
    /// Rows that cannot be split into heads of paired rows.
    #[error(
        "{n_values} values in {n_rows} rows cannot be split into {n_heads} heads with an even \
            number of rows"
    )]
    HeadRows {
        /// Values in the weight or bias.
        n_values: usize,
        /// Its rows.
        n_rows: usize,
        /// Heads asked for.
        n_heads: usize,
    },
    /// A tokeniser kind that cannot be rebuilt.
    #[error("metadata key `{key}` is \"{found}\", known are {known}")]
    UnknownTokenizer {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The values that are known.
        known: &'static str,
    },
    /// A per-token array is longer or shorter than the vocabulary.
    #[error("metadata key `{key}` has {found} entries, the vocabulary has {expected}")]
    VocabularyLength {
        /// The key of the array.
        key: &'static str,
        /// Its length.
        found: usize,
        /// The length of `tokenizer.ggml.tokens`.
        expected: usize,
    },
    /// A token comes twice.
    #[error("tokenizer.ggml.tokens has \"{token}\" at {first} and at {second}")]
    DuplicateToken {
        /// The token.
        token: String,
        /// Its first id.
        first: u32,
        /// Its second id.
        second: u32,
    },
    /// A token type that GGUF does not define.
    #[error("tokenizer.ggml.token_type is {found} at {id}, GGUF defines 0 to 6")]
    TokenType {
        /// The token's id.
        id: usize,
        /// The type number.
        found: i32,
    },
    /// A token is far longer than any real one, and would make rebuilding the merges slow.
    #[error("tokenizer.ggml.tokens has {found} bytes at {id}, at most {limit} are allowed")]
    TokenLength {
        /// The token's id.
        id: usize,
        /// Its length in bytes.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A token id outside the vocabulary.
    #[error("metadata key `{key}` is {found}, the vocabulary has {vocab_len} tokens")]
    TokenId {
        /// The key.
        key: &'static str,
        /// The id.
        found: u32,
        /// The length of the vocabulary.
        vocab_len: usize,
    },
    /// A merge is not two tokens with a space between them.
    #[error("tokenizer.ggml.merges has \"{merge}\" at {index}, expected two tokens and one space")]
    MergeFormat {
        /// Its place in the list.
        index: usize,
        /// The merge.
        merge: String,
    },
    /// A merge takes or makes a token that the vocabulary lacks.
    #[error("tokenizer.ggml.merges has \"{merge}\" at {index}, the vocabulary lacks \"{token}\"")]
    MergeToken {
        /// Its place in the list.
        index: usize,
        /// The merge.
        merge: String,
        /// The missing token.
        token: String,
    },
    /// The `tokenizers` crate refused the parts.
    #[error("cannot build the tokenizer from its metadata")]
    BuildTokenizer {
        /// Its reason.
        source: tokenizers::Error,
    },
}
