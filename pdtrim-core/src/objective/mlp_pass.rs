//! The hidden states on which a repair is fitted: the dense model's, and those of a model that is being
//! repaired from the front.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::stream::{Passage, Split, Stream};
use super::{Calibration, Rows};
use crate::block::{BlockId, BlockSet};
use crate::cache::{BlockCache, TokenPosition};
use crate::error::{Error, Result};
use crate::kernels::{linear, on_pool};
use crate::model::{BlockModel, MlpOutput, MlpStep};
use crate::stage::{Boundary, PerStage, Stage};

/// Hidden states `[batch, seq, hidden]` that leave a block, group by group of windows.
///
/// ```
/// # use pdtrim_core::objective::{Calibration, MlpPass};
/// # use pdtrim_core::testing::TinyModel;
/// # let model = TinyModel::default().build();
/// # let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// use pdtrim_core::objective::StatesAfter;
/// use pdtrim_core::{BlockId, BlockSet, Boundary, PerStage};
///
/// let pass = MlpPass::new(&model, &calibration, Boundary::Decode);
/// let after = PerStage::both(BlockSet::from_indices(5, [0, 4])?);
/// let states: StatesAfter = pass.dense_states(&after)?.decode;
/// // Decode's rows are the last prompt token and the continuation's four.
/// assert_eq!(states[&BlockId::new(4)][0].dims(), [1, 5, 32]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub type StatesAfter = BTreeMap<BlockId, Vec<Tensor<3>>>;

/// Called with a stage, a block that it keeps and what the block's MLP adds for each group of windows;
/// answers with the matrix `[hidden, hidden]` that the MLP's output is to be multiplied with, if any.
///
/// ```
/// use pdtrim_core::objective::{Calibration, MapMlp, MlpPass};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockSet, Boundary, Error, PerStage};
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// let pass = MlpPass::new(&model, &calibration, Boundary::Prefill);
/// // Looks on and changes nothing.
/// let mut heard = Vec::new();
/// let map: &mut MapMlp<'_, Error> = &mut |stage, id, _steps| {
///     heard.push((stage, id.index()));
///     Ok(None)
/// };
/// pass.run_mapped(&PerStage::dense(5), &PerStage::both(BlockSet::from_indices(5, [3])?), map)?;
/// assert_eq!(heard.len(), 2);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub type MapMlp<'f, E> =
    dyn FnMut(Stage, BlockId, &[MlpStep]) -> Result<Option<Tensor<2>>, E> + Send + 'f;

/// Calibration windows on their way through both stages of a model, block by block. Prefill's rows are
/// the prompts', decode's the continuations', on the keys and values that prefill made.
///
/// ```
/// use pdtrim_core::objective::{Calibration, MlpPass};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockId, BlockSet, Boundary, PerStage};
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// let pass = MlpPass::new(&model, &calibration, Boundary::Prefill);
/// let states = pass.dense_states(&PerStage::both(BlockSet::from_indices(5, [2])?))?;
/// // One group of windows: 12 prompt tokens of one window, 32 features.
/// assert_eq!(states.prefill[&BlockId::new(2)][0].dims(), [1, 12, 32]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub struct MlpPass<'a> {
    model: &'a dyn MlpOutput,
    calibration: &'a Calibration,
    boundary: Boundary,
}

impl<'a> MlpPass<'a> {
    /// A pass of `calibration` through `model`.
    pub fn new(model: &'a dyn MlpOutput, calibration: &'a Calibration, boundary: Boundary) -> Self {
        Self {
            model,
            calibration,
            boundary,
        }
    }

    /// The dense model's hidden states after each of the blocks in `after`.
    ///
    /// # Errors
    ///
    /// [`Error::TokenOutOfRange`] or [`Error::ContextLength`].
    pub fn dense_states(&self, after: &PerStage<BlockSet>) -> Result<PerStage<StatesAfter>> {
        let (passage, mut streams) = self.enter()?;
        let dense = PerStage::dense(self.depth());
        let mut states = PerStage::<StatesAfter>::default();
        let run = || {
            for id in up_to_last(after) {
                for stream in &mut streams {
                    passage.step(id, &dense, stream);
                }
                if after.prefill.contains(id) {
                    let prompts = streams.iter().filter_map(|stream| stream.prompt.clone());
                    states.prefill.insert(id, prompts.collect());
                }
                if after.decode.contains(id) {
                    let rows = streams.iter();
                    let rows = rows.filter_map(|stream| stream.continuation.clone());
                    states.decode.insert(id, rows.collect());
                }
            }
            states
        };
        Ok(on_pool(self.model.device(), run))
    }

    /// Runs the windows through the blocks that `removed` keeps in each stage. At those in `at`, `map` is
    /// asked, and later blocks see what its answer makes of the hidden states.
    ///
    /// # Errors
    ///
    /// As [`dense_states`](Self::dense_states), and what `map` fails with.
    pub fn run_mapped<E: From<Error> + Send>(
        &self,
        removed: &PerStage<BlockSet>,
        at: &PerStage<BlockSet>,
        map: &mut MapMlp<'_, E>,
    ) -> Result<(), E> {
        let (passage, mut streams) = self.enter()?;
        let continues_at = TokenPosition(passage.split.read);
        let mut run = || {
            for id in up_to_last(at) {
                let mut caches = vec![BlockCache::with_capacity(0); streams.len()];
                let keeps = |stage| !removed.of(stage).contains(id);
                let prompts = streams.iter_mut().map(|stream| &mut stream.prompt);
                let rows = prompts.zip(&mut caches);
                if keeps(Stage::Prefill) {
                    let map = at.prefill.contains(id).then_some(&mut *map);
                    self.step(Stage::Prefill, id, TokenPosition(0), rows, map)?;
                } else if keeps(Stage::Decode) {
                    for (hidden, cache) in rows {
                        if let Some(hidden) = hidden.clone() {
                            self.model.project_kv(id, hidden, TokenPosition(0), cache);
                        }
                    }
                }
                if keeps(Stage::Decode) {
                    let rows = streams.iter_mut().map(|stream| &mut stream.continuation);
                    let rows = rows.zip(&mut caches);
                    let map = at.decode.contains(id).then_some(&mut *map);
                    self.step(Stage::Decode, id, continues_at, rows, map)?;
                }
            }
            Ok(())
        };
        on_pool(self.model.device(), &mut run)
    }

    /// Runs a stage's rows through block `id`, whose output `map` may change.
    fn step<'r, E>(
        &self,
        stage: Stage,
        id: BlockId,
        start: TokenPosition,
        rows: impl Iterator<Item = (&'r mut Option<Tensor<3>>, &'r mut BlockCache)>,
        map: Option<&mut MapMlp<'_, E>>,
    ) -> Result<(), E> {
        let taken = rows.filter_map(|(slot, cache)| Some((slot.take()?, slot, cache)));
        let Some(map) = map else {
            for (hidden, slot, cache) in taken {
                *slot = Some(self.model.run_block(id, hidden, start, cache));
            }
            return Ok(());
        };
        let (steps, slots): (Vec<MlpStep>, Vec<_>) = taken
            .map(|(hidden, slot, cache)| (self.model.run_to_mlp(id, hidden, start, cache), slot))
            .unzip();
        let matrix = map(stage, id, &steps)?;
        for (MlpStep { residual, output }, slot) in steps.into_iter().zip(slots) {
            let output = match &matrix {
                Some(matrix) => mapped(output, matrix),
                None => output,
            };
            *slot = Some(residual + output);
        }
        Ok(())
    }

    fn enter(&self) -> Result<(Passage<'a>, Vec<Stream>)> {
        let (tokens, limit) = (
            self.calibration.window_tokens(),
            self.model.dims().context_length,
        );
        if tokens > limit {
            return Err(Error::ContextLength { tokens, limit });
        }
        let model: &dyn BlockModel = self.model;
        let split = Split::new(self.calibration, Rows::Continuation, self.boundary);
        let passage = Passage::new(PerStage::both(model), split.with_last_token());
        let windows: Vec<&[u32]> = self.calibration.windows().iter().map(|w| &**w).collect();
        let streams = passage.enter(&windows)?;
        Ok((passage, streams))
    }

    fn depth(&self) -> usize {
        self.model.dims().n_blocks
    }
}

/// The blocks of the model up to the last one in `blocks`: nobody asks for what comes after.
fn up_to_last(blocks: &PerStage<BlockSet>) -> impl Iterator<Item = BlockId> + use<> {
    let all = blocks.prefill.iter().chain(blocks.decode.iter());
    let end = all.max().map_or(0, |last| last.index() + 1);
    (0..end).map(BlockId::new)
}

/// `matrix` `[hidden, hidden]` times each row of `output`.
fn mapped(output: Tensor<3>, matrix: &Tensor<2>) -> Tensor<3> {
    let sizes @ [batch, seq, width] = output.dims();
    let matrix = matrix.clone().cast(output.dtype());
    let [rows] = linear(&output.reshape([batch * seq, width]), [(matrix, None)]);
    rows.reshape(sizes)
}
