//! Log-likelihood evaluation with the context run by prefill and the answer by decode.
//!
//! The crate knows tasks, requests, metrics and reports. It knows nothing of tensors, of pruning or
//! of how a plan came about: whatever scores text is behind the [`Scorer`] trait, and the same
//! [`Prepared`] task is handed to the dense model and to every trimmed form of it, so that all modes
//! are measured on the same tokens.
//!
//! 1. A [`Task`] is data: a TOML file with minijinja templates ([`task`] describes the format). The
//!    bundled ones are part of the binary.
//! 2. [`Prepared`] is a task's requests, encoded as lm-evaluation-harness encodes them: it splits
//!    context and continuation, lets equal contexts of one item share a request, cuts contexts that are
//!    longer than the model from the left, and counts the items whose answers are one token long (those
//!    depend on the boundary between the stages).
//! 3. [`Prepared::evaluate`] has a [`Scorer`] score the requests in batches of similar length and reduces
//!    them to a [`TaskResult`]: accuracies, perplexities by token, word and byte, exact matches, their
//!    standard errors, and the KV bytes that crossed. With a journal, a killed evaluation goes on.
//! 4. An [`EvalReport`] collects results by task, mode and boundary and writes them as
//!    lm-evaluation-harness' results JSON, as CSV, as a table and as a page; differences to the dense
//!    model come with the standard error of a paired comparison.
//!
//! [`needle`] asks for a fact at every depth of prompts of several lengths, on the same path.
//!
//! The rejected alternative: a `Task` trait with one Rust type per benchmark. Benchmarks differ in
//! fields and wording, not in what is computed, and users add their own; a file serves both.
//!
//! ```
//! use std::num::NonZeroUsize;
//!
//! use burn::tensor::{DType, Device};
//! use pdtrim_core::pipeline::{PdModel, SendAll};
//! use pdtrim_core::testing::tiny_checkpoint;
//! use pdtrim_core::{BlockSet, Boundary, KvFill, PerStage};
//! use pdtrim_eval::{
//!     Dataset, EvalReport, Execution, Folders, Mode, PdScorer, Prepared, RunInfo, Task,
//! };
//!
//! # let folder = tempfile::tempdir()?;
//! // A tiny model with seeded weights; `Checkpoint::open(path)?` is a real one.
//! let checkpoint = tiny_checkpoint(folder.path())?;
//! let (model, tokenizer) = checkpoint.load_with_tokenizer(DType::F32, &Device::flex())?;
//! let removed = PerStage {
//!     prefill: BlockSet::from_indices(5, [2])?,
//!     decode: BlockSet::from_indices(5, [2, 3])?,
//! };
//! let boundary = Boundary::Prefill;
//! let dense = PdScorer::new(PdModel::dense(&model, boundary), &tokenizer);
//! let stages = PdModel::new(&model, removed, KvFill::Nested, boundary, &SendAll)?;
//! let trimmed = PdScorer::new(stages, &tokenizer);
//!
//! // The first eight items, encoded once, on the dense model and on the trimmed one.
//! let task = Task::bundled("everyday")?;
//! let dataset = Dataset::load(&task, &Folders::default())?;
//! let prepared = Prepared::new(&task, &dataset, &dense, NonZeroUsize::new(8))?;
//! let mut report = EvalReport::new(RunInfo::default());
//! for (mode, scorer) in [(Mode::Dense, &dense), (Mode::Pd, &trimmed)] {
//!     let result = prepared.evaluate(scorer, &Execution::default())?;
//!     report.push(mode, Some(boundary), result);
//! }
//! println!("{}", report.table());
//! # assert_eq!(report.rows.len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is where
//!
//! - a task and its data: [`task`], [`Task`], [`Dataset`], [`Folders`], and [`Fetch`] for files of the hub;
//! - the seam to a model: [`Scorer`] with [`Request`], [`Scores`], [`GenerationRequest`] and [`Generated`];
//!   [`PdScorer`] is a model of `pdtrim-core`, [`Uniform`] knows nothing and is for examples and tests;
//! - running: [`evaluate`], or [`Prepared`] for several modes; [`Options`] and [`Execution`];
//! - what came out: [`TaskResult`], [`Metric`], [`EvalReport`], and [`page`] for HTML with charts;
//! - [`regression`] holds a run against a kept baseline, for builds;
//! - [`paper`] has the figures of arXiv:2509.04467, to stand beside one's own.

#![deny(missing_docs)]

mod answer;
mod batch;
mod bundled;
mod cleanup;
mod encode;
mod error;
mod format;
mod metric;
mod mode;
mod nearest;
pub mod needle;
pub mod page;
pub mod paper;
mod pd_scorer;
mod prepare;
pub mod regression;
mod render;
mod report;
mod result;
mod rolling;
mod runner;
mod scorer;
mod source;
pub mod task;
mod template;
mod uniform;

pub use batch::BatchSize;
pub use bundled::{DEFAULT_TASKS, task_names};
pub use error::{Error, Place, Result};
pub use format::Format;
pub use metric::{Difference, Metric, MetricName, Samples};
pub use mode::Mode;
pub use pd_scorer::PdScorer;
pub use prepare::Prepared;
pub use report::{EvalReport, GroupMetric, GroupRow, ReportRow, RunInfo};
pub use result::{DataFile, Item, ItemOutcome, KvTraffic, TaskResult, TaskSummary};
pub use runner::{Execution, JournalFile, Options, Progress, evaluate};
pub use scorer::{
    ContinuationScore, Generated, GenerationRequest, Request, Scorer, ScorerError, Scores,
};
pub use source::{Dataset, Fetch, Folders, HubFile};
pub use task::Task;
pub use uniform::Uniform;
