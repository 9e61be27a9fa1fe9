//! A model of `pdtrim-core`, in its two stages, as a [`Scorer`].

use pdtrim_core::Tokenizer;
use pdtrim_core::pipeline::PdModel;
use rayon::prelude::*;

use crate::scorer::{ContinuationScore, Request, Scorer, ScorerError, Scores};

/// Scores by the PD forward pass: contexts by prefill, answers by decode. Requests run in parallel.
pub struct PdScorer<'a> {
    model: PdModel<'a>,
    tokenizer: &'a Tokenizer,
}

impl<'a> PdScorer<'a> {
    /// A scorer for `model`, whose tokenizer is `tokenizer`.
    pub fn new(model: PdModel<'a>, tokenizer: &'a Tokenizer) -> Self {
        Self { model, tokenizer }
    }

    fn score_one(&self, request: &Request) -> Result<Scores, ScorerError> {
        let scores = self.model.score(&request.context, &request.continuations)?;
        let continuation = |tokens: Vec<pdtrim_core::TokenScore>| ContinuationScore {
            logprobs: tokens.iter().map(|token| token.logprob).collect(),
            greedy: tokens.iter().all(|token| token.greedy),
        };
        Ok(Scores {
            continuations: scores
                .continuations
                .into_iter()
                .map(|scores| continuation(scores.tokens))
                .collect(),
            kv_bytes: scores.kv_bytes,
            kv_positions: scores.kv_positions,
            trimmed: scores.trimmed,
        })
    }
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
        let score = |(index, request): (usize, &Request)| {
            let scores = self.score_one(request)?;
            done(index);
            Ok(scores)
        };
        requests
            .par_iter()
            .enumerate()
            .with_max_len(1)
            .map(score)
            .collect()
    }
}
