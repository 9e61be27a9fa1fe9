//! The core of PDTrim: models whose blocks can be removed separately for prefill and for decode.
//!
//! In disaggregated serving one machine reads the prompt (prefill) and another one generates (decode), on
//! the keys and values that the first one sends. This crate runs that pass with stages that are without
//! some of the model's blocks, measures what it costs, and writes down what was chosen:
//!
//! ```
//! use pdtrim_core::pipeline::{PdModel, SendAll};
//! use pdtrim_core::testing::TinyModel;
//! use pdtrim_core::{BlockSet, Boundary, KvFill, PerStage};
//!
//! // Five narrow blocks with seeded weights; `Checkpoint::open(path)?.load(…)?` reads a real model.
//! let model = TinyModel::default().build();
//! let removed = PerStage {
//!     prefill: BlockSet::from_indices(5, [2])?,
//!     decode: BlockSet::from_indices(5, [2, 3])?,
//! };
//! let stages = PdModel::new(&model, removed, KvFill::Nested, Boundary::Prefill, &SendAll)?;
//!
//! // Log-probabilities of two tokens after a prompt of three, and what crossed for that.
//! let scores = stages.score(&[1, 2, 3], &[[4, 5]])?;
//! assert_eq!(scores.continuations[0].tokens.len(), 2);
//! // Three blocks, three positions, keys and values, two heads of width 8 in f32.
//! assert_eq!(scores.kv_bytes.0, 3 * 3 * 2 * 2 * 8 * 4);
//! # Ok::<(), pdtrim_core::Error>(())
//! ```
//!
//! # Modules
//!
//! What a model is:
//!
//! - [`checkpoint`] reads Hugging Face folders and GGUF files into one checked [`ModelConfig`] and a
//!   Burn module, writes stage checkpoints, and fetches models;
//! - [`model`] holds the built-in Llama family and [`model::BlockModel`], the trait through which
//!   any Burn model can take part; [`config`] and [`tokenizer`] are what comes with one;
//! - [`device`] turns `cpu` or `cuda:1` into a Burn device.
//!
//! What a stage is without, and what it costs:
//!
//! - [`block`] and [`stage`] have the words for it: [`BlockSet`], [`PerStage`], [`Boundary`];
//! - [`cache`] holds keys and values, [`kv_plan`] says which of them cross;
//! - [`pipeline`] is the PD forward pass: prefill, a [`pipeline::CacheTransfer`], decode;
//! - [`objective`] measures J(P, D), the loss that a search minimises, on calibration windows.
//!
//! What is written down:
//!
//! - [`plan`] is the file that says what each stage keeps, and [`repair`] the weights beside it;
//! - [`width`] is what a stage does without inside the blocks that it keeps;
//! - [`import`] makes plans of other tools' files;
//! - [`template`] bounds what templates of strangers may do;
//! - [`journal`] keeps records through a kill, [`hash`] names what they were made from, and [`draw`]
//!   makes the same numbers of a seed everywhere.
//!
//! [`testing`] makes small seeded models and checkpoints, for tests that need no download.
//!
//! This crate knows nothing of the command line, of printing, of search strategies or of benchmarks.
//! `burn-import`, where older guides look for weights, is a forwarder today: weights go through
//! `burn-store`, ONNX files through `burn-onnx` (feature `onnx`).

mod atomic;
pub mod block;
pub mod cache;
mod caught;
pub mod checkpoint;
pub mod config;
pub mod device;
pub mod draw;
mod error;
pub mod hash;
pub mod import;
pub mod journal;
mod kernels;
pub mod kv_plan;
pub mod limits;
pub mod model;
pub mod objective;
pub mod pipeline;
pub mod plan;
pub mod repair;
pub mod stage;
pub mod template;
pub mod testing;
mod text;
pub mod tokenizer;
mod units;
pub mod width;

pub use atomic::{NewFolder, check_writable, delete_leftovers, write_atomically};
pub use block::{BlockId, BlockList, BlockSet};
pub use caught::caught;
pub use config::ModelConfig;
pub use error::{Error, Result};
pub use kernels::{TokenScore, greedy_tokens, token_scores};
pub use kv_plan::{BlockKv, KvEncoding, KvGroup, KvPlan, TokenSpan};
pub use plan::Plan;
pub use stage::{Boundary, KvFill, PerStage, Stage};
pub use text::{count_json_values, open_file, parse_toml, read_bytes, read_text};
pub use tokenizer::Tokenizer;
pub use units::Bytes;
