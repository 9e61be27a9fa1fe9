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
//! use pdtrim_eval::{
//!     ContinuationScore, Execution, Options, Request, Scorer, ScorerError, Scores, Task, evaluate,
//! };
//!
//! /// Every byte is a token, and all tokens are equally likely.
//! struct Uniform;
//!
//! impl Scorer for Uniform {
//!     fn encode(&self, text: &str) -> Result<Vec<u32>, ScorerError> {
//!         Ok(text.bytes().map(u32::from).collect())
//!     }
//!
//!     fn prefix_token(&self) -> Option<u32> {
//!         Some(0)
//!     }
//!
//!     fn max_tokens(&self) -> usize {
//!         4096
//!     }
//!
//!     fn score(&self, requests: &[Request]) -> Result<Vec<Scores>, ScorerError> {
//!         let score = |request: &Request| {
//!             let flat = |tokens: &Vec<u32>| ContinuationScore {
//!                 logprobs: vec![-(256.0_f32.ln()); tokens.len()],
//!                 greedy: false,
//!             };
//!             Scores { continuations: request.continuations.iter().map(flat).collect(), ..Scores::default() }
//!         };
//!         Ok(requests.iter().map(score).collect())
//!     }
//! }
//!
//! let task = Task::bundled("everyday")?;
//! let result = evaluate(&Uniform, &task, &Options::default(), &Execution::default())?;
//! assert_eq!(result.summary.items, result.summary.items_total);
//! # Ok::<(), pdtrim_eval::Error>(())
//! ```

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

pub use batch::BatchSize;
pub use bundled::{DEFAULT_TASKS, task_names};
pub use error::{Error, Place, Result};
pub use format::Format;
pub use metric::{Difference, Metric, MetricName, Samples};
pub use mode::Mode;
pub use pd_scorer::PdScorer;
pub use prepare::Prepared;
pub use report::{EvalReport, GroupRow, ReportRow, RunInfo};
pub use result::{DataFile, Item, ItemOutcome, KvTraffic, TaskResult, TaskSummary};
pub use runner::{Execution, JournalFile, Options, Progress, evaluate};
pub use scorer::{
    ContinuationScore, Generated, GenerationRequest, Request, Scorer, ScorerError, Scores,
};
pub use source::{Dataset, Fetch, Folders, HubFile};
pub use task::Task;
