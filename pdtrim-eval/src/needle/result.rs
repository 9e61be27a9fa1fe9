//! What was answered.

use pdtrim_core::Bytes;
use serde::{Deserialize, Serialize};

use super::prompt::NeedlePrompt;
use crate::metric::{Difference, MetricName, Samples};
use crate::result::{Item, ItemOutcome};

/// The answers to a test's prompts, in their order.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use pdtrim_eval::needle::{NeedleGrid, NeedleTest};
/// use pdtrim_eval::{Execution, Uniform};
///
/// let grid = NeedleGrid::new(&[2048], &[0.0, 100.0], NonZeroUsize::MIN, 1)?;
/// let test = NeedleTest::new(&grid, &Uniform)?;
/// let result = test.evaluate(&Uniform, &Execution::default())?;
/// // By depth; this scorer knows nothing.
/// let deep = result.score(|prompt| prompt.depth == 100.0).expect("one prompt");
/// assert_eq!((deep.prompts, deep.exact_match), (1, 0.0));
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeedleResult {
    /// One for each prompt.
    pub answers: Vec<NeedleAnswer>,
}

/// A prompt with what was answered and what crossed for it.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use pdtrim_eval::needle::{NeedleGrid, NeedleTest};
/// use pdtrim_eval::{Execution, Uniform};
///
/// let grid = NeedleGrid::new(&[1024], &[50.0], NonZeroUsize::MIN, 1)?;
/// let result = NeedleTest::new(&grid, &Uniform)?.evaluate(&Uniform, &Execution::default())?;
/// let answer = &result.answers[0];
/// assert!(!answer.exact_match && answer.answer != answer.prompt.word);
/// assert!(answer.prompt_tokens < 1024);
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
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
///
/// ```
/// use pdtrim_eval::needle::NeedleScore;
///
/// let score = NeedleScore {
///     prompts: 20,
///     exact_match: 0.9,
///     exact_match_stderr: Some(0.069),
///     prompt_tokens: 1020.0,
///     kv_bytes: 4.5e6,
///     trimmed_prompts: 20,
/// };
/// let cell = format!("{:.0} %, {:.1} MB", 100.0 * score.exact_match, score.kv_bytes / 1e6);
/// assert_eq!(cell, "90 %, 4.5 MB");
/// ```
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
