//! What was answered.

use pdtrim_core::Bytes;
use serde::{Deserialize, Serialize};

use super::prompt::NeedlePrompt;
use crate::metric::{Difference, MetricName, Samples};
use crate::result::{Item, ItemOutcome};

/// The answers to a test's prompts, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeedleResult {
    /// One for each prompt.
    pub answers: Vec<NeedleAnswer>,
}

/// A prompt with what was answered and what crossed for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeedleAnswer {
    /// What was asked.
    #[serde(flatten)]
    pub prompt: NeedlePrompt,
    /// Tokens of the prompt, without the answer's.
    pub prompt_tokens: usize,
    /// What was generated, up to where it stops.
    pub answer: String,
    /// Whether it is the code word.
    pub exact_match: bool,
    /// Bytes of the prompt's keys and values that decode received.
    pub kv_bytes: Bytes,
    /// Prompt positions that decode received, summed over blocks.
    pub kv_positions: u64,
    /// Whether the KV plan dropped any prompt position.
    pub trimmed: bool,
}

/// Some prompts together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeedleScore {
    /// How many.
    pub prompts: usize,
    /// Share of right answers; higher is better.
    pub exact_match: f64,
    /// Its standard error; none for a single prompt.
    pub exact_match_stderr: Option<f64>,
    /// Mean tokens of a prompt.
    pub prompt_tokens: f64,
    /// Mean bytes of keys and values that decode received for a prompt.
    pub kv_bytes: f64,
    /// Prompts of which the KV plan dropped any position.
    pub trimmed_prompts: usize,
}

impl NeedleResult {
    /// Of an evaluation's items, which are in the prompts' order.
    pub(super) fn new(prompts: &[NeedlePrompt], items: Vec<Item>) -> Self {
        let answers = prompts.iter().zip(items);
        Self {
            answers: answers
                .map(|(prompt, item)| NeedleAnswer::new(prompt.clone(), item))
                .collect(),
        }
    }

    /// The score of the prompts that `picks` picks; none without any.
    pub fn score(&self, picks: impl Fn(&NeedlePrompt) -> bool) -> Option<NeedleScore> {
        let metric = self.samples(&picks).metric()?;
        let picked: Vec<&NeedleAnswer> = self.picked(&picks).collect();
        let mean = |of: fn(&NeedleAnswer) -> f64| {
            picked.iter().map(|answer| of(answer)).sum::<f64>() / picked.len() as f64
        };
        Some(NeedleScore {
            prompts: picked.len(),
            exact_match: metric.value,
            exact_match_stderr: metric.stderr,
            prompt_tokens: mean(|answer| answer.prompt_tokens as f64),
            kv_bytes: mean(|answer| answer.kv_bytes.0 as f64),
            trimmed_prompts: picked.iter().filter(|answer| answer.trimmed).count(),
        })
    }

    /// The share of right answers minus `other`'s on the same prompts, with the standard error of a paired comparison;
    /// none without any.
    pub fn difference(
        &self,
        other: &Self,
        picks: impl Fn(&NeedlePrompt) -> bool,
    ) -> Option<Difference> {
        self.samples(&picks).difference(&other.samples(&picks))
    }

    fn picked(
        &self,
        picks: &impl Fn(&NeedlePrompt) -> bool,
    ) -> impl Iterator<Item = &NeedleAnswer> {
        self.answers.iter().filter(|answer| picks(&answer.prompt))
    }

    fn samples(&self, picks: &impl Fn(&NeedlePrompt) -> bool) -> Samples {
        let hit = |answer: &NeedleAnswer| f64::from(u8::from(answer.exact_match));
        let values: Vec<f64> = self.picked(picks).map(hit).collect();
        Samples {
            metric: MetricName::ExactMatch,
            weights: vec![1.0; values.len()],
            values,
        }
    }
}

impl NeedleAnswer {
    fn new(prompt: NeedlePrompt, item: Item) -> Self {
        let ItemOutcome::Answer {
            answer,
            exact_match,
            ..
        } = item.outcome
        else {
            unreachable!("the task asks for answers");
        };
        Self {
            prompt,
            prompt_tokens: item.prompt_tokens,
            answer,
            exact_match,
            kv_bytes: item.kv_bytes,
            kv_positions: item.kv_positions,
            trimmed: item.trimmed,
        }
    }
}
