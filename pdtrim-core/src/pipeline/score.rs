//! Log-probabilities of given continuations, for many prompts at once.

use burn::tensor::Tensor;

use super::handover::Handing;
use super::{ContinuationScores, Handover, PdModel, PromptScores};
use crate::block::BlockId;
use crate::cache::{KvCache, TokenPosition};
use crate::error::{Error, Result};
use crate::kernels::{TokenScore, on_pool};
use crate::model::{Segment, token_tensor};
use crate::stage::{Boundary, KvFill, Stage};

/// A prompt and the continuations to score after it.
///
/// ```
/// use pdtrim_core::Boundary;
/// use pdtrim_core::pipeline::{PdModel, ScoreRequest};
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// let requests = [
///     ScoreRequest { prompt: &[1, 2, 3], continuations: vec![&[4], &[5]] },
///     ScoreRequest { prompt: &[6], continuations: vec![&[7, 8]] },
/// ];
/// let scores = PdModel::dense(&model, Boundary::Prefill).score_batch(&requests)?;
/// assert_eq!(scores[0].continuations.len(), 2);
/// assert_eq!(scores[1].continuations[0].tokens.len(), 2);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ScoreRequest<'r> {
    /// What prefill reads.
    pub prompt: &'r [u32],
    /// What decode scores, each from the state after the prompt.
    pub continuations: Vec<&'r [u32]>,
}

/// Tokens of one text that run through a stage, and the text's cache.
pub(super) struct Text<'t> {
    pub(super) tokens: Vec<u32>,
    pub(super) start: TokenPosition,
    pub(super) cache: &'t mut KvCache,
}

impl PdModel<'_> {
    /// Log-probabilities of several continuations of one prompt; the prompt is run once.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill), and [`Error::NoTokens`] for an empty continuation.
    pub fn score<R: AsRef<[u32]>>(
        &self,
        prompt: &[u32],
        continuations: &[R],
    ) -> Result<PromptScores> {
        let continuations = continuations.iter().map(AsRef::as_ref).collect();
        let request = ScoreRequest {
            prompt,
            continuations,
        };
        Ok(self.score_batch(&[request])?.remove(0))
    }

    /// As [`score`](Self::score) for several prompts of any length, whose tokens go through each block
    /// together: short prompts alone would leave most of a matrix product's speed unused.
    ///
    /// # Errors
    ///
    /// As [`score`](Self::score).
    pub fn score_batch(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<PromptScores>> {
        for request in requests {
            self.check_request(request)?;
        }
        let handovers = self.prefill_each(requests)?;
        let mut first = self.first_scores(requests, &handovers).into_iter();
        let mut scores: Vec<PromptScores> = handovers
            .iter()
            .zip(requests)
            .map(|(handover, request)| PromptScores {
                continuations: request
                    .continuations
                    .iter()
                    .map(|_| ContinuationScores {
                        tokens: first.next().into_iter().collect(),
                    })
                    .collect(),
                kv_bytes: handover.kv_bytes,
                kv_positions: handover.kv_positions,
                trimmed: handover.trimmed,
            })
            .collect();
        let later = self.later_scores(requests, handovers)?;
        let continuations = scores.iter_mut().flat_map(|score| &mut score.continuations);
        for (score, later) in continuations.zip(later) {
            score.tokens.extend(later);
        }
        Ok(scores)
    }

    fn check_request(&self, request: &ScoreRequest<'_>) -> Result<()> {
        let lengths = request.continuations.iter().map(|tokens| tokens.len());
        let (Some(longest), Some(1..)) = (lengths.clone().max(), lengths.min()) else {
            return Err(Error::NoTokens {
                what: "a continuation",
            });
        };
        if request.prompt.is_empty() {
            return Err(Error::NoTokens { what: "the prompt" });
        }
        // The last token is scored, never fed.
        self.check_length(request.prompt.len() + longest - 1)?;
        let vocab_size = self.model().dims().vocab_size;
        let mut tokens = request.continuations.iter().copied().flatten();
        match tokens.find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(Error::TokenOutOfRange { token, vocab_size }),
            None => Ok(()),
        }
    }

    fn prefill_each(&self, requests: &[ScoreRequest<'_>]) -> Result<Vec<Handover>> {
        let read =
            |request: &ScoreRequest<'_>| self.boundary.prompt_positions(request.prompt.len());
        let mut caches: Vec<KvCache> = requests.iter().map(|_| self.prompt_cache()).collect();
        let prompts = requests.iter().zip(&mut caches);
        let texts = prompts.map(|(request, cache)| Text {
            tokens: request.prompt[..read(request)].to_vec(),
            start: TokenPosition(0),
            cache,
        });
        let hidden = self.run_texts(Stage::Prefill, texts.collect())?;
        let mut end = 0;
        let handovers = requests.iter().zip(caches).map(|(request, mut cache)| {
            end += read(request);
            let last = (self.boundary == Boundary::Prefill).then(|| {
                hidden
                    .as_ref()
                    .map(|hidden| hidden.clone().narrow(0, end - 1, 1))
            });
            let mut handing = Handing::default();
            handing.all(self, &mut cache)?;
            Ok(handing.done(self, cache, read(request), last.flatten()))
        });
        handovers.collect()
    }

    /// Scores of the tokens that prefill's last hidden states predict: one for each continuation of each
    /// request, or none at all. Together: the vocabulary head is read once for all of them.
    fn first_scores(
        &self,
        requests: &[ScoreRequest<'_>],
        handovers: &[Handover],
    ) -> Vec<TokenScore> {
        let mut rows = Vec::new();
        let mut targets = Vec::new();
        for (request, handover) in requests.iter().zip(handovers) {
            let Some(last) = &handover.last else {
                return Vec::new();
            };
            for tokens in &request.continuations {
                rows.push(last.clone());
                targets.push(tokens[0]);
            }
        }
        if rows.is_empty() {
            return Vec::new();
        }
        let rows = Tensor::cat(rows, 0);
        self.models.prefill.token_scores(rows, &targets)
    }

    /// Scores of the tokens that decode predicts, for each continuation of each request.
    fn later_scores(
        &self,
        requests: &[ScoreRequest<'_>],
        handovers: Vec<Handover>,
    ) -> Result<Vec<Vec<TokenScore>>> {
        let lead = |request: &ScoreRequest<'_>| match self.boundary {
            Boundary::Prefill => None,
            Boundary::Decode => request.prompt.last().copied(),
        };
        let mut fed = Vec::new();
        let mut targets: Vec<u32> = Vec::new();
        for (request, handover) in requests.iter().zip(handovers) {
            for tokens in &request.continuations {
                let before = lead(request);
                let mut cache = handover.cache.clone();
                targets.extend(&tokens[usize::from(before.is_none())..]);
                let row: Vec<u32> = before.into_iter().chain(tokens.iter().copied()).collect();
                let row = row[..row.len() - 1].to_vec();
                cache.reserve(row.len());
                fed.push((row, handover.next, cache));
            }
        }
        let lengths: Vec<usize> = fed.iter().map(|(row, ..)| row.len()).collect();
        let texts = fed.iter_mut().map(|(row, start, cache)| Text {
            tokens: std::mem::take(row),
            start: *start,
            cache,
        });
        let hidden = self.run_texts(Stage::Decode, texts.collect())?;
        let scores = hidden.map(|hidden| self.models.decode.token_scores(hidden, &targets));
        let mut scores = scores.unwrap_or_default().into_iter();
        let lengths = lengths.into_iter();
        Ok(lengths
            .map(|length| scores.by_ref().take(length).collect())
            .collect())
    }

    /// Runs the texts' tokens through the blocks that `stage` keeps; returns the hidden states
    /// `[Σ tokens, hidden]` that leave the last one, or `None` if no text has a token.
    pub(super) fn run_texts(
        &self,
        stage: Stage,
        mut texts: Vec<Text<'_>>,
    ) -> Result<Option<Tensor<2>>> {
        texts.retain(|text| !text.tokens.is_empty());
        if texts.is_empty() {
            return Ok(None);
        }
        let model = *self.models.of(stage);
        let mut embedded = Vec::with_capacity(texts.len());
        for text in &texts {
            let ids = token_tensor(model, &[&text.tokens])?;
            let hidden = model.embed(ids, text.start);
            let [_, seq, width] = hidden.dims();
            embedded.push(hidden.reshape([seq, width]));
        }
        let rows = Tensor::cat(embedded, 0);
        let blocks = (0..model.dims().n_blocks).map(BlockId::new);
        let run = || {
            blocks.fold(rows, |rows, id| {
                self.run_texts_block(stage, id, rows, &mut texts)
            })
        };
        Ok(Some(on_pool(model.device(), run)))
    }

    fn run_texts_block(
        &self,
        stage: Stage,
        id: BlockId,
        rows: Tensor<2>,
        texts: &mut [Text<'_>],
    ) -> Tensor<2> {
        let mut segments: Vec<Segment<'_>> = texts
            .iter_mut()
            .filter_map(|text| {
                Some(Segment {
                    tokens: text.tokens.len(),
                    start: text.start,
                    cache: text.cache.block_mut(id)?,
                })
            })
            .collect();
        if segments.is_empty() {
            return rows;
        }
        let model = self.models.of(stage);
        if !self.removed.of(stage).contains(id) {
            return model.run_segments(id, rows, &mut segments);
        }
        if self.kv_fill == KvFill::Project {
            let [_, width] = rows.dims();
            let mut first = 0;
            for segment in &mut segments {
                let hidden = rows.clone().narrow(0, first, segment.tokens);
                first += segment.tokens;
                let hidden = hidden.reshape([1, segment.tokens, width]);
                model.project_kv(id, hidden, segment.start, segment.cache);
            }
        }
        rows
    }
}
