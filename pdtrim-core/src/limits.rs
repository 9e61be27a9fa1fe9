//! How large the files may be that this project reads, and how much may be in them.
//!
//! A file is untrusted until it was checked. No file makes the process take more memory than twice the
//! file's size and a fixed sum before it is refused: a text is read once, into a buffer of its own size
//! ([`read_text`](crate::read_text)), and what a parser makes of a byte is paid for by the limit on the
//! file. The limits are far above what published models and data have.
//!
//! What a parser makes of its input, in bytes for each byte, at worst:
//!
//! | input | at worst | so at most |
//! | --- | --- | --- |
//! | JSON of a known form | 25 (a list of numbers in an `untagged` field: 2 bytes become a value of 32 in a list that grows by doubling) | 50 MiB of [`CONFIG`], 100 MiB of [`INDEX`] |
//! | JSON as values | 54 (2 bytes become a value of 72, the same way) | 54 MiB of [`CONFIG_VALUES`] |
//! | header of a safetensors file | 25, as JSON of a known form | 100 MiB of [`SAFETENSORS_HEADER`] |
//! | TOML of short tokens | 95 for each token | 25 MiB of [`TOML_TOKENS`] |
//! | TOML of long texts | 8 | 128 MiB of [`PLAN`] |
//!
//! The test `fuzz_corpus` holds inputs of these sizes to twice their size and 192 MiB.

use crate::units::Bytes;

const MIB: u64 = 1 << 20;

/// `config.json`, `generation_config.json`, `tokenizer_config.json` and settings of our own (published ones
/// have up to 1.2 MB).
pub const CONFIG: Bytes = Bytes(2 * MIB);
/// A `config.json` that is read as it is, with keys that are not known.
pub const CONFIG_VALUES: Bytes = Bytes(MIB);
/// `model.safetensors.index.json`: about 100 bytes for each tensor.
pub const INDEX: Bytes = Bytes(8 * MIB);
/// `plan.toml`: lists of removed channels may be long.
pub const PLAN: Bytes = Bytes(16 * MIB);
/// A task file.
pub const TASK: Bytes = Bytes(MIB / 4);
/// `tokenizer.json` (published ones have up to 35 MB).
pub const TOKENIZER: Bytes = Bytes(128 * MIB);
/// A Jinja template for conversations.
pub const TEMPLATE: Bytes = Bytes(4 * MIB);
/// A file of another tool that names blocks: mergekit's or SLEB's.
pub const RECIPE: Bytes = Bytes(MIB);
/// A model's card, from which its licence is read.
pub const CARD: Bytes = Bytes(16 * MIB);
/// A text that becomes one prompt.
pub const PROMPT: Bytes = Bytes(64 * MIB);
/// Results and baselines of `pdtrim` itself, which hold a value for each item.
pub const RESULTS: Bytes = Bytes(64 * MIB);
/// A data file: calibration text, or records of a task.
pub const DATA: Bytes = Bytes(4096 * MIB);
/// Weights beside a plan that are copied with it.
pub const WEIGHTS: Bytes = Bytes(65_536 * MIB);

/// Header of a safetensors file; published ones have less than 2 MB, the library's own limit is 100 MB.
pub const SAFETENSORS_HEADER: Bytes = Bytes(4 * MIB);
/// Tokens (numbers, strings, names, signs, spaces) of a TOML text.
pub const TOML_TOKENS: usize = 1 << 18;
/// Values in a `tokenizer.json`: a vocabulary of 300 000 tokens with 500 000 merges, each a list of two, has
/// 1.8 million.
pub const TOKENIZER_VALUES: u64 = 1 << 22;
/// Values in JSON lines from which calibration items are taken; each takes up to 320 bytes. A shard of C4 has 1.4
/// million.
pub const RECORD_VALUES: u64 = 1 << 22;
/// Tensors of a checkpoint, in all of its files.
pub const TENSORS: usize = 1 << 16;
/// Transformer blocks of a model.
pub const BLOCKS: usize = 1 << 12;
