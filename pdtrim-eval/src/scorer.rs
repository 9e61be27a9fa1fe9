//! The seam to the model.

use pdtrim_core::Bytes;
use serde::{Deserialize, Serialize};

/// Why a [`Scorer`] failed; whatever error type the implementation has.
///
/// ```
/// use pdtrim_eval::ScorerError;
///
/// // Whatever error type a scorer has.
/// let error = ScorerError::from("the model is gone");
/// assert_eq!(error.to_string(), "the model is gone");
/// ```
pub type ScorerError = Box<dyn std::error::Error + Send + Sync>;

/// One context and the continuations to be scored after it.
///
/// Neither is ever empty, and the context with its longest continuation fits
/// [`Scorer::max_tokens`].
///
/// ```
/// use pdtrim_eval::Request;
///
/// // Three choices after one context, which is computed once.
/// let request = Request { context: vec![1; 40], continuations: vec![vec![2; 3]; 3] };
/// assert_eq!(request.tokens(), 40 + 3 * 3);
/// ```
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
///
/// ```
/// use pdtrim_eval::ContinuationScore;
///
/// let score = ContinuationScore { logprobs: vec![-0.5, -1.5], greedy: false };
/// assert_eq!(score.logprobs.iter().sum::<f32>(), -2.0);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContinuationScore {
    /// Natural-log probability of each continuation token, given all before it.
    pub logprobs: Vec<f32>,
    /// Whether every token was the most likely one.
    pub greedy: bool,
}

/// The scores of one [`Request`], with what crossed from prefill to decode for it.
///
/// ```
/// use pdtrim_eval::{Request, Scorer, Uniform};
///
/// let request = Request { context: vec![1, 2], continuations: vec![vec![3], vec![4, 5]] };
/// let scores = &Uniform.score(&[request])?[0];
/// assert_eq!(scores.continuations[1].logprobs.len(), 2);
/// // Nothing crosses where there is no model.
/// assert_eq!((scores.kv_bytes.0, scores.trimmed), (0, false));
/// # Ok::<(), pdtrim_eval::ScorerError>(())
/// ```
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
///
/// ```
/// use pdtrim_eval::GenerationRequest;
///
/// let until = vec!["\n".to_owned()];
/// let request = GenerationRequest { context: vec![1; 40], max_tokens: 32, until };
/// assert_eq!(request.tokens(), 40 + 32);
/// ```
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
///
/// ```
/// use pdtrim_eval::{GenerationRequest, Scorer, Uniform};
///
/// let request = GenerationRequest { context: vec![1], max_tokens: 2, until: Vec::new() };
/// assert_eq!(Uniform.generate(&request)?.text, "\0\0");
/// # Ok::<(), pdtrim_eval::ScorerError>(())
/// ```
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
///
/// ```
/// use pdtrim_eval::{
///     ContinuationScore, Execution, MetricName, Options, Request, Scorer, ScorerError, Scores, Task,
///     evaluate,
/// };
///
/// /// Every byte is a token, and spaces are likelier than all else.
/// struct Spaces;
///
/// impl Scorer for Spaces {
///     fn encode(&self, text: &str) -> Result<Vec<u32>, ScorerError> {
///         Ok(text.bytes().map(u32::from).collect())
///     }
///
///     fn prefix_token(&self) -> Option<u32> {
///         Some(0)
///     }
///
///     fn max_tokens(&self) -> usize {
///         4096
///     }
///
///     fn score(&self, requests: &[Request]) -> Result<Vec<Scores>, ScorerError> {
///         let is_space = |&token: &u32| token == u32::from(b' ');
///         let chance = |token: &u32| if is_space(token) { 0.5 } else { 0.5 / 255.0 };
///         let score = |tokens: &Vec<u32>| ContinuationScore {
///             logprobs: tokens.iter().map(|token| f32::ln(chance(token))).collect(),
///             greedy: tokens.iter().all(is_space),
///         };
///         let scores = requests.iter().map(|request| Scores {
///             continuations: request.continuations.iter().map(score).collect(),
///             ..Scores::default()
///         });
///         Ok(scores.collect())
///     }
/// }
///
/// let task = Task::bundled("heldout")?;
/// let result = evaluate(&Spaces, &task, &Options::default(), &Execution::default())?;
/// let perplexity = result.summary.metric(MetricName::TokenPerplexity).expect("measured");
/// // Better than knowing nothing.
/// assert!(perplexity.value < 256.0);
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
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
