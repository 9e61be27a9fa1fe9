//! A task scored with a closure as the model: bytes are tokens, and a letter is the likelier the more often it
//! came before.
//!
//! ```text
//! cargo run --release -p pdtrim-eval --example own_scorer
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;
use std::num::NonZeroUsize;

use pdtrim_eval::{
    ContinuationScore, Execution, Options, Request, Scorer, ScorerError, Scores, Task, evaluate,
};

/// Any function from a text and the token after it to the natural log of that token's probability.
struct ByFunction<F>(F);

impl<F: Fn(&[u32], u32) -> f32> ByFunction<F> {
    fn continuation(&self, context: &[u32], continuation: &[u32]) -> ContinuationScore {
        let mut text = context.to_vec();
        let score = |&token: &u32| {
            let logprob = (self.0)(&text, token);
            text.push(token);
            logprob
        };
        ContinuationScore {
            logprobs: continuation.iter().map(score).collect(),
            // It does not say which token is the likeliest.
            greedy: false,
        }
    }
}

impl<F: Fn(&[u32], u32) -> f32> Scorer for ByFunction<F> {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ScorerError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn prefix_token(&self) -> Option<u32> {
        Some(0)
    }

    fn max_tokens(&self) -> usize {
        1 << 16
    }

    fn score(&self, requests: &[Request]) -> Result<Vec<Scores>, ScorerError> {
        let scores = requests.iter().map(|request| Scores {
            continuations: request
                .continuations
                .iter()
                .map(|continuation| self.continuation(&request.context, continuation))
                .collect(),
            ..Scores::default()
        });
        Ok(scores.collect())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let by_count = |text: &[u32], token: u32| {
        let seen = text.iter().filter(|&&before| before == token).count();
        ((seen + 1) as f32 / (text.len() + 256) as f32).ln()
    };
    let task = Task::bundled("everyday")?;
    let options = Options {
        limit: NonZeroUsize::new(40),
        ..Options::default()
    };
    let result = evaluate(
        &ByFunction(by_count),
        &task,
        &options,
        &Execution::default(),
    )?;
    for metric in &result.summary.metrics {
        println!("everyday, 40 items, {}: {:.3}", metric.name, metric.value);
    }
    Ok(())
}
