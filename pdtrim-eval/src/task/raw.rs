//! A task file as it is written.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::sources::RawSource;
use crate::metric::MetricName;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTask {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) description: String,
    #[serde(default)]
    pub(super) preamble: String,
    /// Group key to subjects. Its strings are put into the others before they are read.
    #[serde(default)]
    pub(super) subjects: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(super) data: Vec<RawSource>,
    pub(super) fewshot: Option<RawExamples>,
    pub(super) multiple_choice: Option<RawMultipleChoice>,
    pub(super) loglikelihood: Option<RawTarget>,
    pub(super) rolling: Option<RawRolling>,
    pub(super) perplexity: Option<RawPerplexity>,
    pub(super) generation: Option<RawGeneration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExamples {
    pub(super) count: usize,
    #[serde(default)]
    pub(super) data: Vec<RawSource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMultipleChoice {
    pub(super) context: Option<String>,
    pub(super) choices: Option<String>,
    pub(super) contexts: Option<String>,
    pub(super) continuation: Option<String>,
    pub(super) gold: String,
    pub(super) delimiter: Option<String>,
    pub(super) metrics: Option<Vec<MetricName>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTarget {
    pub(super) context: String,
    pub(super) target: String,
    pub(super) metrics: Option<Vec<MetricName>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRolling {
    pub(super) text: String,
    pub(super) original: Option<String>,
    pub(super) metrics: Option<Vec<MetricName>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPerplexity {
    pub(super) window: usize,
    pub(super) prompt_share: Option<f64>,
    pub(super) prompt_tokens: Option<usize>,
    pub(super) max_windows: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGeneration {
    pub(super) context: String,
    pub(super) answers: String,
    pub(super) delimiter: Option<String>,
    pub(super) max_tokens: usize,
    #[serde(default)]
    pub(super) until: Vec<String>,
    #[serde(default)]
    pub(super) ignore_case: bool,
    #[serde(default)]
    pub(super) ignore_punctuation: bool,
}
