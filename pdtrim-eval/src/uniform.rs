//! A scorer without a model.

use crate::scorer::{
    ContinuationScore, Generated, GenerationRequest, Request, Scorer, ScorerError, Scores,
};

/// Tokens are bytes, and all 256 are equally likely after any context: what knowing nothing comes to. For
/// examples and tests.
///
/// Every byte costs ln 256 nats, so the shortest choice wins and a perplexity by token is 256. The
/// lowest of equally likely tokens is the greedy one, so answers are made of the byte 0.
///
/// ```
/// use pdtrim_eval::{Execution, MetricName, Options, Task, Uniform, evaluate};
///
/// let task = Task::bundled("heldout")?;
/// let result = evaluate(&Uniform, &task, &Options::default(), &Execution::default())?;
/// let perplexity = result.summary.metric(MetricName::TokenPerplexity).expect("measured");
/// assert!((perplexity.value - 256.0).abs() < 1e-3);
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Uniform;

impl Scorer for Uniform {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ScorerError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn prefix_token(&self) -> Option<u32> {
        Some(0)
    }

    fn max_tokens(&self) -> usize {
        1 << 20
    }

    fn score(&self, requests: &[Request]) -> Result<Vec<Scores>, ScorerError> {
        let score = |tokens: &Vec<u32>| ContinuationScore {
            logprobs: vec![-256.0_f32.ln(); tokens.len()],
            greedy: tokens.iter().all(|&token| token == 0),
        };
        let scores = requests.iter().map(|request| Scores {
            continuations: request.continuations.iter().map(score).collect(),
            ..Scores::default()
        });
        Ok(scores.collect())
    }

    fn generate(&self, request: &GenerationRequest) -> Result<Generated, ScorerError> {
        Ok(Generated {
            text: "\0".repeat(request.max_tokens),
            ..Generated::default()
        })
    }
}
