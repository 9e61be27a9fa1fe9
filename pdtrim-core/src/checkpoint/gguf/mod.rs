//! GGUF checkpoints: metadata, weights and tokeniser in one file.
//!
//! GGUF is the file format of llama.cpp: a header of typed metadata, a table of tensors, then the
//! tensor data, mostly quantised in blocks of 32 or 256 values. This module reads versions 2 and 3
//! in little-endian order:
//!
//! - [`GgufFile`] maps a file, checks the whole header once and hands out [`GgufTensor`]s;
//! - [`Metadata`] gives typed access to the header's keys;
//! - [`GgmlType`] knows the block layouts and turns blocks into `f32`;
//! - [`undo_rope_permutation`] restores the row order of query and key weights;
//! - [`GgufTokenizer`] rebuilds the tokeniser.
//!
//! [`Checkpoint::export_gguf`](crate::checkpoint::Checkpoint::export_gguf) writes files, in the types of [`OutputType`].
//!
//! A file is untrusted: counts, lengths and offsets are checked against the bytes that are really
//! there before anything is allocated, and a [`GgufFile`] that exists has only tensors whose data
//! lies inside the file. So reading a tensor cannot fail, only opening the file can.
//!
//! What is made of a mapped file's header is at most as large as the header and a fixed sum. A string or
//! an array of numbers takes just its bytes; the rest is paid for by limits on the counts: 2^21 strings in arrays
//! at 24 bytes, 2^12 pairs at 130, 2^16 tensors at 136 (entry, shape and two places in orders), 67 MB together.
//! The allocator's own rounding of small strings comes on top: 32 bytes for the shortest.
//!
//! The decoding is our own. The one well-kept crate that has it, `candle-core`, would bring a
//! second tensor framework along for about two hundred lines.
//!
//! # Example
//!
//! ```no_run
//! # use pdtrim_core::checkpoint::gguf::{GgufError, GgufFile};
//! # fn main() -> Result<(), GgufError> {
//! let file = GgufFile::open("model.gguf")?;
//! let n_blocks: u32 = file.metadata().required("llama.block_count")?;
//! for tensor in file.tensors() {
//!     println!("{} {:?} {}", tensor.name(), tensor.shape(), tensor.ggml_type());
//! }
//! # let _ = n_blocks;
//! # Ok(())
//! # }
//! ```

mod cursor;
mod error;
mod metadata;
mod permute;
mod quant;
mod reader;
mod tensor;
mod tokenizer;
mod write;

#[cfg(test)]
#[path = "../../../tests/support/gguf_writer.rs"]
mod gguf_writer;

pub use error::GgufError;
pub use metadata::{Array, FromValue, Metadata, Value};
pub use permute::{apply_rope_permutation, rope_rows_are_permuted, undo_rope_permutation};
pub use quant::{GgmlType, OutputType, UnsupportedGgmlType};
pub use reader::GgufFile;
pub use tensor::{GgufTensor, TensorInfo};
pub(super) use tokenizer::TokenizerParts;
pub use tokenizer::{GgufTokenizer, chat_template};
pub(super) use write::{TensorEntry, header, padding};
