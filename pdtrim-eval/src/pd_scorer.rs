//! A model of `pdtrim-core`, in its two stages, as a [`Scorer`].

use std::ops::Range;

use pdtrim_core::Tokenizer;
use pdtrim_core::pipeline::{PdModel, PromptScores, ScoreRequest};

use crate::scorer::{ContinuationScore, Request, Scorer, ScorerError, Scores};

/// Tokens of requests that run together. Products of this many rows are as fast as those of more.
const BATCH_TOKENS: usize = 1024;

/// Scores by the PD forward pass: contexts by prefill, answers by decode. Neighbouring requests run
/// together, whatever their lengths; nothing is padded.
pub struct PdScorer<'a> {
    model: PdModel<'a>,
    tokenizer: &'a Tokenizer,
}

impl<'a> PdScorer<'a> {
    /// A scorer for `model`, whose tokenizer is `tokenizer`.
    pub fn new(model: PdModel<'a>, tokenizer: &'a Tokenizer) -> Self {
        Self { model, tokenizer }
    }

    fn score_batch(&self, requests: &[Request]) -> Result<Vec<Scores>, ScorerError> {
        let asked: Vec<_> = requests.iter().map(asked).collect();
        let scores = self.model.score_batch(&asked)?;
        Ok(scores.into_iter().map(scores_of).collect())
    }
}

fn asked(request: &Request) -> ScoreRequest<'_> {
    ScoreRequest {
        prompt: &request.context,
        continuations: request.continuations.iter().map(Vec::as_slice).collect(),
    }
}

fn scores_of(scores: PromptScores) -> Scores {
    let continuation = |tokens: Vec<pdtrim_core::TokenScore>| ContinuationScore {
        logprobs: tokens.iter().map(|token| token.logprob).collect(),
        greedy: tokens.iter().all(|token| token.greedy),
    };
    let continuations = scores.continuations.into_iter();
    Scores {
        continuations: continuations
            .map(|scores| continuation(scores.tokens))
            .collect(),
        kv_bytes: scores.kv_bytes,
        kv_positions: scores.kv_positions,
        trimmed: scores.trimmed,
    }
}

/// Neighbours that run together: as many as have `BATCH_TOKENS` tokens, and at least one.
fn batches(requests: &[Request]) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (index, request) in requests.iter().enumerate() {
        tokens += request.tokens();
        match batches.last_mut() {
            Some(batch) if tokens <= BATCH_TOKENS => batch.end = index + 1,
            _ => {
                tokens = request.tokens();
                batches.push(index..index + 1);
            }
        }
    }
    batches
}

impl Scorer for PdScorer<'_> {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ScorerError> {
        Ok(self.tokenizer.encode(text)?)
    }

    fn prefix_token(&self) -> Option<u32> {
        self.tokenizer.prefix_token()
    }

    fn max_tokens(&self) -> usize {
        // The last token is scored but never fed, so one more fits than the model has positions.
        self.model.model().dims().context_length + 1
    }

    fn score(
        &self,
        requests: &[Request],
        done: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Scores>, ScorerError> {
        let mut scores = Vec::with_capacity(requests.len());
        for batch in batches(requests) {
            scores.extend(self.score_batch(&requests[batch.clone()])?);
            batch.for_each(done);
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_request_once_and_stay_small() {
        let request = |tokens: usize| Request {
            context: vec![0; tokens - 1],
            continuations: vec![vec![0]],
        };
        let requests: Vec<Request> = [3000, 600, 500, 400, 200, 10].map(request).into();
        assert_eq!(batches(&requests), [0..1, 1..2, 2..4, 4..6]);
        assert_eq!(batches(&[]), Vec::<Range<usize>>::new());
    }
}
