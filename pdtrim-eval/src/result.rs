//! What came out of one task in one mode with one boundary.

use pdtrim_core::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metric::{Metric, MetricName, Samples};

/// The result of one evaluation of one task.
///
/// ```
/// use pdtrim_eval::{Execution, MetricName, Options, Task, Uniform, evaluate};
///
/// let task = Task::bundled("everyday")?;
/// let result = evaluate(&Uniform, &task, &Options::default(), &Execution::default())?;
/// // The items behind a number.
/// let samples = result.samples(MetricName::Acc);
/// assert_eq!(samples.values.len(), result.items.len());
/// assert_eq!(samples.metric().as_ref(), result.summary.metric(MetricName::Acc));
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The numbers of the report.
    pub summary: TaskSummary,
    /// One record per item, in the data's order.
    pub items: Vec<Item>,
}

impl TaskResult {
    /// What the metric called `name` is reduced from; empty where no item has it.
    pub fn samples(&self, name: MetricName) -> Samples {
        Samples::of(&self.items, name)
    }
}

impl Samples {
    pub(crate) fn of(items: &[Item], metric: MetricName) -> Self {
        let pairs = items.iter().filter_map(|item| item.outcome.sample(metric));
        let (values, weights) = pairs.unzip();
        Self {
            metric,
            values,
            weights,
        }
    }
}

/// The numbers of a task, with what is needed to repeat them.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use pdtrim_eval::{Execution, MetricName, Options, Task, Uniform, evaluate};
///
/// let options = Options { limit: NonZeroUsize::new(5), ..Options::default() };
/// let task = Task::bundled("everyday")?;
/// let summary = evaluate(&Uniform, &task, &options, &Execution::default())?.summary;
/// assert_eq!((summary.task.as_str(), summary.items), ("everyday", 5));
/// assert!(summary.items_total > 5 && summary.metric(MetricName::AccNorm).is_some());
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSummary {
    /// The task's name.
    pub task: String,
    /// The task's version.
    pub version: u32,
    /// Hash of the task file.
    pub task_sha256: String,
    /// The task in lm-evaluation-harness' words.
    pub config: Value,
    /// The groups that it belongs to, the widest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub groups: Vec<String>,
    /// Worked examples in front of each item.
    pub fewshot: usize,
    /// The data files, with their hashes.
    pub data: Vec<DataFile>,
    /// The metrics, in the task's order.
    pub metrics: Vec<Metric>,
    /// Items scored.
    pub items: usize,
    /// Items the data has.
    pub items_total: usize,
    /// Items whose continuations are all one token long: the boundary decides them.
    pub one_token_items: usize,
    /// Continuation tokens scored.
    pub scored_tokens: usize,
    /// Items of which the model's context cut off tokens, always from the left.
    pub truncated_items: usize,
    /// Tokens that were cut off, in all.
    pub truncated_tokens: usize,
    /// Tokens at the end of a text that do not fill a window and are not scored.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tokens_left_over: Option<usize>,
    /// What crossed from prefill to decode.
    pub kv: KvTraffic,
}

impl TaskSummary {
    /// The metric called `name`, where the task has it.
    pub fn metric(&self, name: MetricName) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}

/// A file that was read.
///
/// ```
/// use pdtrim_eval::{Dataset, Folders, Task};
///
/// let dataset = Dataset::load(&Task::bundled("everyday")?, &Folders::default())?;
/// let file = &dataset.files()[0];
/// assert_eq!((file.path.as_str(), file.sha256.len()), ("data/everyday.jsonl", 64));
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Its path relative to the data folder, or the name of the bundled file.
    pub path: String,
    /// Its hash.
    pub sha256: String,
}

/// What crossed from prefill to decode for a task.
///
/// A context that several choices share crosses once. An item with partial scoring has a context for
/// each choice and sends each of them.
///
/// ```
/// use pdtrim_core::Bytes;
/// use pdtrim_eval::KvTraffic;
///
/// let traffic = KvTraffic {
///     contexts: 40,
///     bytes: Bytes(40 << 20),
///     bytes_per_item: f64::from(1 << 20),
///     positions: 200_000,
///     trimmed_items: 30,
///     trimmed_share: 0.75,
/// };
/// let said = format!("{} of KV, {:.0} % trimmed", traffic.bytes, 100.0 * traffic.trimmed_share);
/// assert_eq!(said, "40.0 MiB of KV, 75 % trimmed");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KvTraffic {
    /// Contexts that crossed.
    pub contexts: usize,
    /// Bytes of keys and values.
    pub bytes: Bytes,
    /// Bytes per item.
    pub bytes_per_item: f64,
    /// Prompt positions, summed over blocks.
    pub positions: u64,
    /// Items of which the KV plan dropped any prompt position.
    pub trimmed_items: usize,
    /// The same as a share of the items scored.
    pub trimmed_share: f64,
}

impl KvTraffic {
    pub(crate) fn of(items: &[Item], contexts: usize) -> Self {
        let bytes: Bytes = items.iter().map(|item| item.kv_bytes).sum();
        let trimmed_items = items.iter().filter(|item| item.trimmed).count();
        let count = items.len() as f64;
        Self {
            contexts,
            bytes,
            bytes_per_item: bytes.0 as f64 / count,
            positions: items.iter().map(|item| item.kv_positions).sum(),
            trimmed_items,
            trimmed_share: trimmed_items as f64 / count,
        }
    }
}

/// The record of one item.
///
/// ```
/// use pdtrim_eval::{Execution, ItemOutcome, MetricName, Options, Task, Uniform, evaluate};
///
/// let task = Task::bundled("everyday")?;
/// let result = evaluate(&Uniform, &task, &Options::default(), &Execution::default())?;
/// // Items whose answer was wrong; `line` says where each stands in the data.
/// let is_wrong = |outcome: &ItemOutcome| matches!(outcome, ItemOutcome::Choice { acc: false, .. });
/// let wrong = result.items.iter().filter(|item| is_wrong(&item.outcome)).count();
/// let acc = result.summary.metric(MetricName::Acc).expect("measured").value;
/// assert!((acc - (1.0 - wrong as f64 / result.items.len() as f64)).abs() < 1e-9);
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Place in the data, counted from 0: the record, or the window.
    pub doc: usize,
    /// The record's line in its file, counted from 1; none for a window.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<usize>,
    /// Tokens of the context, or of all contexts with partial scoring.
    pub prompt_tokens: usize,
    /// Tokens cut off from the left of the prompts, which would not have fitted the model's context.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub truncated_tokens: usize,
    /// Whether every scored continuation is one token long.
    pub one_token: bool,
    /// Bytes of keys and values that crossed.
    pub kv_bytes: Bytes,
    /// Prompt positions that crossed, summed over blocks.
    pub kv_positions: u64,
    /// Whether the KV plan dropped any prompt position.
    pub trimmed: bool,
    /// What was measured.
    #[serde(flatten)]
    pub outcome: ItemOutcome,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands a field over by reference"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What was measured on an item.
///
/// ```
/// use pdtrim_eval::ItemOutcome;
///
/// let outcome = ItemOutcome::Target { loglikelihood: -3.5, tokens: 2, greedy: false };
/// let json = r#"{"kind":"target","loglikelihood":-3.5,"tokens":2,"greedy":false}"#;
/// assert_eq!(serde_json::to_string(&outcome)?, json);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ItemOutcome {
    /// A multiple choice.
    Choice {
        /// Summed log-likelihood of each choice.
        loglikelihoods: Vec<f64>,
        /// Whether each choice is what greedy decoding gives.
        greedy: Vec<bool>,
        /// Index of the right choice.
        gold: usize,
        /// Whether the right choice has the highest log-likelihood.
        acc: bool,
        /// The same per character; none for partial scoring.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        acc_norm: Option<bool>,
    },
    /// A given continuation.
    Target {
        /// Its summed log-likelihood.
        loglikelihood: f64,
        /// Its tokens.
        tokens: usize,
        /// Whether it is what greedy decoding gives.
        greedy: bool,
    },
    /// A text, or a window of one.
    Text {
        /// Summed log-likelihood of the scored tokens.
        loglikelihood: f64,
        /// How many tokens were scored.
        tokens: usize,
        /// Words of the original; none for a window.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        words: Option<usize>,
        /// Bytes of the original; none for a window.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        bytes: Option<usize>,
    },
    /// A generated answer.
    Answer {
        /// What was generated, up to where it stops.
        answer: String,
        /// What is accepted.
        accepted: Vec<String>,
        /// Whether it is one of them.
        exact_match: bool,
    },
}

impl ItemOutcome {
    /// The item's value and weight for a metric, as [`Samples`] has them; none if it has no such metric.
    fn sample(&self, name: MetricName) -> Option<(f64, f64)> {
        let hit = |hit: bool| Some((f64::from(u8::from(hit)), 1.0));
        match (self, name) {
            (Self::Choice { acc, .. }, MetricName::Acc) => hit(*acc),
            (Self::Choice { acc_norm, .. }, MetricName::AccNorm) => acc_norm.and_then(hit),
            (Self::Target { greedy, .. }, MetricName::Acc) => hit(*greedy),
            (Self::Answer { exact_match, .. }, MetricName::ExactMatch) => hit(*exact_match),
            (Self::Target { loglikelihood, .. }, MetricName::Perplexity) => {
                Some((-loglikelihood, 1.0))
            }
            (
                Self::Text {
                    loglikelihood,
                    tokens,
                    words,
                    bytes,
                },
                name,
            ) => {
                let count = match name {
                    MetricName::TokenPerplexity => Some(*tokens),
                    MetricName::WordPerplexity => *words,
                    MetricName::BytePerplexity | MetricName::BitsPerByte => *bytes,
                    _ => None,
                };
                count.map(|count| (-loglikelihood, count as f64))
            }
            _ => None,
        }
    }
}
