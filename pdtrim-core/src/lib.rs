//! The core of PDTrim: models whose blocks can be removed separately for prefill and for decode.
//!
//! - [`checkpoint`] reads Hugging Face folders and GGUF files into one checked [`ModelConfig`] and a
//!   Burn module, and writes stage checkpoints;
//! - [`model`] holds the built-in Llama family and [`model::BlockModel`], the trait through which
//!   any Burn model can take part;
//! - [`pipeline`] is the PD forward pass: prefill, a [`pipeline::CacheTransfer`], decode;
//! - [`objective`] measures J(P, D), the loss that a search minimises, on calibration windows;
//! - [`plan`] is the file that says what each stage keeps, and [`repair`] the weights beside it;
//! - [`import`] makes plans of other tools' files;
//! - [`width`] is what a stage does without inside the blocks that it keeps.
//!
//! This crate knows nothing of the command line, of printing, of search strategies or of benchmarks.
//! `burn-import`, where older guides look for weights, is a forwarder today: weights go through
//! `burn-store`, ONNX files through `burn-onnx` (feature `onnx`).
//!
//! ```
//! use pdtrim_core::model::BlockModel;
//! use pdtrim_core::pipeline::PdModel;
//! use pdtrim_core::stage::Boundary;
//! use pdtrim_core::testing::TinyModel;
//!
//! let model = TinyModel::default().build();
//! let dense = PdModel::dense(&model, Boundary::Prefill);
//! let scores = dense.score(&[1, 2, 3], &[[4, 5]])?;
//! assert_eq!(scores.continuations[0].tokens.len(), 2);
//! # Ok::<(), pdtrim_core::Error>(())
//! ```

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
pub mod testing;
mod text;
pub mod tokenizer;
mod units;
pub mod width;

pub use block::{BlockId, BlockList, BlockSet};
pub use caught::caught;
pub use config::ModelConfig;
pub use error::{Error, Result};
pub use kernels::{TokenScore, greedy_tokens, token_scores};
pub use kv_plan::{BlockKv, KvEncoding, KvGroup, KvPlan, TokenSpan};
pub use plan::{Plan, write_atomically};
pub use stage::{Boundary, KvFill, PerStage, Stage};
pub use text::{count_json_values, open_file, parse_toml, read_bytes, read_text};
pub use tokenizer::Tokenizer;
pub use units::Bytes;
