//! A model of `pdtrim-core`, in its two stages, as a [`Scorer`].

use pdtrim_core::Tokenizer;
use pdtrim_core::pipeline::{PdModel, PromptScores, ScoreRequest};

use crate::scorer::{
    ContinuationScore, Generated, GenerationRequest, Request, Scorer, ScorerError, Scores,
};

/// Scores by the PD forward pass: contexts by prefill, answers by decode. The requests of a batch run
/// together, whatever their lengths; nothing is padded.
///
/// ```
/// use burn::tensor::{DType, Device};
/// use pdtrim_core::Boundary;
/// use pdtrim_core::pipeline::PdModel;
/// use pdtrim_core::testing::tiny_checkpoint;
/// use pdtrim_eval::{PdScorer, Request, Scorer};
///
/// # let folder = tempfile::tempdir()?;
/// let checkpoint = tiny_checkpoint(folder.path())?;
/// let (model, tokenizer) = checkpoint.load_with_tokenizer(DType::F32, &Device::flex())?;
/// let scorer = PdScorer::new(PdModel::dense(&model, Boundary::Prefill), &tokenizer);
/// let request = Request {
///     context: scorer.encode("The sky is")?,
///     continuations: vec![scorer.encode(" blue")?, scorer.encode(" green")?],
/// };
/// let scores = scorer.score(&[request])?;
/// assert_eq!(scores[0].continuations[1].logprobs.len(), 6);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub struct PdScorer<'a> {
    model: PdModel<'a>,
    tokenizer: &'a Tokenizer,
    stop: &'a [u32],
}

impl<'a> PdScorer<'a> {
    /// A scorer for `model`, whose tokenizer is `tokenizer`.
    pub fn new(model: PdModel<'a>, tokenizer: &'a Tokenizer) -> Self {
        Self {
            model,
            tokenizer,
            stop: &[],
        }
    }

    /// The same, whose answers end at a token of `stop`: the model's EOS.
    #[must_use]
    pub fn with_stop(self, stop: &'a [u32]) -> Self {
        Self { stop, ..self }
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

    fn score(&self, requests: &[Request]) -> Result<Vec<Scores>, ScorerError> {
        let asked: Vec<_> = requests.iter().map(asked).collect();
        let scores = self.model.score_batch(&asked)?;
        Ok(scores.into_iter().map(scores_of).collect())
    }

    fn generate(&self, request: &GenerationRequest) -> Result<Generated, ScorerError> {
        let mut failed = None;
        let is_end = |tokens: &[u32]| {
            if tokens.last().is_some_and(|last| self.stop.contains(last)) {
                return true;
            }
            // Without texts to look for, decoding every prefix would be for nothing.
            if request.until.is_empty() {
                return false;
            }
            match self.tokenizer.decode(tokens) {
                Ok(text) => request.until.iter().any(|end| text.contains(end.as_str())),
                Err(error) => {
                    failed = Some(error);
                    true
                }
            }
        };
        let generation =
            self.model
                .generate_greedy_until(&request.context, request.max_tokens, is_end)?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        let ended = generation
            .tokens
            .last()
            .is_some_and(|last| self.stop.contains(last));
        let own = &generation.tokens[..generation.tokens.len() - usize::from(ended)];
        Ok(Generated {
            text: self.tokenizer.decode(own)?,
            kv_bytes: generation.kv_bytes,
            kv_positions: generation.kv_positions,
            trimmed: generation.trimmed,
        })
    }
}
