//! The seam to the model.

use pdtrim_core::Bytes;
use serde::{Deserialize, Serialize};

/// Why a [`Scorer`] failed; whatever error type the implementation has.
pub type ScorerError = Box<dyn std::error::Error + Send + Sync>;

/// One context and the continuations to be scored after it.
///
/// Neither is ever empty, and the context with its longest continuation fits
/// [`Scorer::max_tokens`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The prompt: what prefill reads.
    pub context: Vec<u32>,
    /// The answers: what decode scores, each from the state after the context.
    pub continuations: Vec<Vec<u32>>,
}

impl Request {
    /// Positions to compute: the context once, and every continuation.
    pub fn tokens(&self) -> usize {
        self.context.len() + self.continuations.iter().map(Vec::len).sum::<usize>()
    }
}

/// The score of one continuation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContinuationScore {
    /// Natural-log probability of each continuation token, given all before it.
    pub logprobs: Vec<f32>,
    /// Whether every token was the most likely one.
    pub greedy: bool,
}

/// The scores of one [`Request`], with what crossed from prefill to decode for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// One score per continuation, in the request's order.
    pub continuations: Vec<ContinuationScore>,
    /// Size of the context's keys and values that decode received, counted once per context.
    pub kv_bytes: Bytes,
    /// Prompt positions that decode received, summed over blocks.
    pub kv_positions: u64,
    /// Whether the KV plan dropped any prompt position of any block that decode runs.
    pub trimmed: bool,
}

/// A context after which the most likely tokens are generated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GenerationRequest {
    /// The prompt: what prefill reads. Never empty; with `max_tokens` more it fits [`Scorer::max_tokens`].
    pub context: Vec<u32>,
    /// The most tokens that decode makes, at least one.
    pub max_tokens: usize,
    /// Texts at which the answer ends, without them; the model's own end does too.
    pub until: Vec<String>,
}

impl GenerationRequest {
    /// Positions to compute at most.
    pub fn tokens(&self) -> usize {
        self.context.len() + self.max_tokens
    }
}

/// What was generated for a [`GenerationRequest`], with what crossed from prefill to decode for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// The answer; may go on after one of the texts at which it ends.
    pub text: String,
    /// Size of the context's keys and values that decode received.
    pub kv_bytes: Bytes,
    /// Prompt positions that decode received, summed over blocks.
    pub kv_positions: u64,
    /// Whether the KV plan dropped any prompt position of any block that decode runs.
    pub trimmed: bool,
}

/// What a model, dense or trimmed, in one process or two, makes of continuations of a context.
///
/// A scorer is a model in one mode with one boundary; the same requests are given to each.
pub trait Scorer {
    /// The tokens of `text`, without special tokens added at either end.
    ///
    /// # Errors
    ///
    /// When the tokenizer fails.
    fn encode(&self, text: &str) -> Result<Vec<u32>, ScorerError>;

    /// The token that stands for an empty context: BOS, or else EOS, as in lm-evaluation-harness.
    fn prefix_token(&self) -> Option<u32>;

    /// The model's context length: the most tokens that a context and one continuation have together.
    fn max_tokens(&self) -> usize;

    /// Scores `requests`, a batch of neighbours in length, and returns the scores in the same order.
    ///
    /// # Errors
    ///
    /// When the model fails; the evaluation of the task ends there.
    fn score(&self, requests: &[Request]) -> Result<Vec<Scores>, ScorerError>;

    /// Generates greedily after a context.
    ///
    /// # Errors
    ///
    /// When the model fails, or, as here, cannot generate.
    fn generate(&self, request: &GenerationRequest) -> Result<Generated, ScorerError> {
        let _ = request;
        Err("this scorer does not generate".into())
    }
}
