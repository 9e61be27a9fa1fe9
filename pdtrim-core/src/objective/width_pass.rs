//! What enters the output layers of each block, over each stage's own tokens: what a choice of widths
//! (arXiv:2312.11983, FLAP) is made on, and what makes up for it.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};

use super::stream::{Passage, Split};
use super::{Calibration, Rows};
use crate::block::{BlockId, BlockSet};
use crate::cache::{BlockCache, TokenPosition};
use crate::error::{Error, Result};
use crate::kernels::{linear, on_pool};
use crate::model::{BlockModel, OutputInputs, OutputLayers, WidthModel};
use crate::stage::{Boundary, PerStage};
use crate::width::{BlockBiases, BlockSize, RemovedWidth, StageBiases, StageWidths};

/// Mean and spread of each input of a layer over some tokens.
///
/// ```
/// # use pdtrim_core::objective::{Calibration, WidthPass};
/// # use pdtrim_core::testing::TinyModel;
/// # let model = TinyModel::default().build();
/// # let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// use pdtrim_core::{BlockId, Boundary, PerStage};
///
/// let pass = WidthPass::new(&model, &calibration, Boundary::Prefill);
/// let decode = pass.moments(&PerStage::dense(5))?.decode;
/// let channels = &decode[&BlockId::new(0)].mlp;
/// // Channels that hardly change from token to token may be replaced by their mean.
/// let steady = channels.variance().filter(|&variance| variance < 1e-12);
/// assert_eq!((channels.mean().len(), steady.count()), (48, 0));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    count: usize,
    mean: Vec<f64>,
    /// Σ (x - mean)².
    squares: Vec<f64>,
}

impl Moments {
    /// Mean of each input.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Sample variance of each input; 0 for fewer than two tokens.
    pub fn variance(&self) -> impl Iterator<Item = f64> + '_ {
        let degrees = self.count.saturating_sub(1).max(1) as f64;
        self.squares.iter().map(move |squares| squares / degrees)
    }

    /// The moments over the tokens of both.
    #[must_use]
    pub fn merged(mut self, other: &Self) -> Self {
        if self.count == 0 {
            return other.clone();
        }
        let (own, new) = (self.count as f64, other.count as f64);
        let all = own + new;
        let known = self.mean.iter_mut().zip(&mut self.squares);
        for ((mean, squares), (new_mean, new_squares)) in
            known.zip(other.mean.iter().zip(&other.squares))
        {
            let apart = new_mean - *mean;
            *mean += apart * new / all;
            *squares += new_squares + apart * apart * own * new / all;
        }
        self.count += other.count;
        self
    }

    /// The moments of `rows` `[tokens, inputs]`.
    fn of(rows: Tensor<2>) -> Self {
        let rows = Tensor::<2>::cast(rows, DType::F32);
        let mean = rows.clone().mean_dim(0);
        let squares = (rows.clone() - mean.clone()).square().sum_dim(0);
        Self {
            count: rows.dims()[0],
            mean: host(mean),
            squares: host(squares),
        }
    }
}

/// Moments of what enters the two output layers of a block.
///
/// ```
/// # use pdtrim_core::objective::{Calibration, WidthPass};
/// # use pdtrim_core::testing::TinyModel;
/// # let model = TinyModel::default().build();
/// # let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// use pdtrim_core::{BlockId, Boundary, PerStage};
///
/// let pass = WidthPass::new(&model, &calibration, Boundary::Prefill);
/// let moments = pass.moments(&PerStage::dense(5))?;
/// // One machine's: over the tokens of both stages.
/// let id = BlockId::new(0);
/// let both = moments.prefill[&id].clone().merged(&moments.decode[&id]);
/// assert_eq!(both.attention.mean().len(), 32);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputMoments {
    /// Of the attention's, `[n_heads * head_dim]`.
    pub attention: Moments,
    /// Of the MLP's, `[intermediate]`.
    pub mlp: Moments,
}

impl InputMoments {
    /// The moments over the tokens of both.
    #[must_use]
    pub fn merged(self, other: &Self) -> Self {
        Self {
            attention: self.attention.merged(&other.attention),
            mlp: self.mlp.merged(&other.mlp),
        }
    }

    fn add(&mut self, inputs: OutputInputs) {
        let new = Self {
            attention: Moments::of(inputs.attention),
            mlp: Moments::of(inputs.mlp),
        };
        *self = std::mem::take(self).merged(&new);
    }
}

/// Moments of each block that a stage keeps.
///
/// ```
/// # use pdtrim_core::objective::{Calibration, {StageMoments, WidthPass}};
/// # use pdtrim_core::testing::TinyModel;
/// # let model = TinyModel::default().build();
/// # let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// use pdtrim_core::{BlockSet, Boundary, PerStage};
///
/// let pass = WidthPass::new(&model, &calibration, Boundary::Prefill);
/// let removed = PerStage::both(BlockSet::from_indices(5, [1])?);
/// let decode: StageMoments = pass.moments(&removed)?.decode;
/// assert_eq!(decode.keys().map(|id| id.index()).collect::<Vec<_>>(), [0, 2, 3, 4]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub type StageMoments = BTreeMap<BlockId, InputMoments>;

/// Scores of the inputs of a block's two output layers; higher = more worth keeping.
///
/// ```
/// use pdtrim_core::objective::InputScores;
///
/// // Two heads of two inputs each, and three channels.
/// let scores = InputScores { attention: vec![0.5, 0.1, 2.0, 1.0], mlp: vec![3.0, 0.2, 0.7] };
/// let heads: Vec<f64> = scores.attention.chunks(2).map(|head| head.iter().sum()).collect();
/// assert_eq!(heads, [0.6, 3.0]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct InputScores {
    /// Of the attention's, head group by head group.
    pub attention: Vec<f64>,
    /// Of the MLP's, a channel each.
    pub mlp: Vec<f64>,
}

/// Calibration windows on their way through both stages of the model, observed block by block. Prefill's
/// rows are the prompts', decode's the continuations', on the keys and values that prefill made.
///
/// ```
/// use pdtrim_core::objective::{Calibration, WidthPass, fluctuation};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockId, Boundary, PerStage};
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// let pass = WidthPass::new(&model, &calibration, Boundary::Prefill);
/// let moments = pass.moments(&PerStage::dense(5))?;
/// // What FLAP ranks the channels of prefill's block 2 by.
/// let id = BlockId::new(2);
/// assert_eq!(fluctuation(&model, id, &moments.prefill[&id]).mlp.len(), 48);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub struct WidthPass<'a> {
    model: &'a dyn WidthModel,
    calibration: &'a Calibration,
    boundary: Boundary,
}

impl<'a> WidthPass<'a> {
    /// A pass of `calibration` through `model`.
    pub fn new(
        model: &'a dyn WidthModel,
        calibration: &'a Calibration,
        boundary: Boundary,
    ) -> Self {
        Self {
            model,
            calibration,
            boundary,
        }
    }

    /// Moments in the blocks that `removed` keeps.
    ///
    /// # Errors
    ///
    /// [`Error::TokenOutOfRange`] or [`Error::ContextLength`].
    pub fn moments(&self, removed: &PerStage<BlockSet>) -> Result<PerStage<StageMoments>> {
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
        let mut streams = passage.enter(&windows)?;
        let mut moments = PerStage::<StageMoments>::default();
        let continues_at = TokenPosition(passage.split.read);
        let run = || {
            for id in (0..self.model.dims().n_blocks).map(BlockId::new) {
                for stream in &mut streams {
                    let mut cache = BlockCache::with_capacity(0);
                    if let Some(hidden) = stream.prompt.take() {
                        let start = TokenPosition(0);
                        stream.prompt = Some(if removed.prefill.contains(id) {
                            self.model.project_kv(id, hidden.clone(), start, &mut cache);
                            hidden
                        } else {
                            let (out, inputs) =
                                self.model.run_observed(id, hidden, start, &mut cache);
                            moments.prefill.entry(id).or_default().add(inputs);
                            out
                        });
                    }
                    let kept = !removed.decode.contains(id);
                    if let Some(hidden) = stream.continuation.take_if(|_| kept) {
                        let (out, inputs) =
                            self.model
                                .run_observed(id, hidden, continues_at, &mut cache);
                        moments.decode.entry(id).or_default().add(inputs);
                        stream.continuation = Some(out);
                    }
                }
            }
            moments
        };
        Ok(on_pool(self.model.device(), run))
    }
}

/// FLAP's fluctuation of each input of block `id`: its sample variance times the squared norm of its
/// column of weights.
///
/// ```
/// # use pdtrim_core::objective::{Calibration, WidthPass};
/// # use pdtrim_core::testing::TinyModel;
/// # let model = TinyModel::default().build();
/// # let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// use pdtrim_core::objective::fluctuation;
/// use pdtrim_core::{BlockId, Boundary, PerStage};
///
/// let pass = WidthPass::new(&model, &calibration, Boundary::Prefill);
/// let (id, prefill) = (BlockId::new(1), pass.moments(&PerStage::dense(5))?.prefill);
/// let scores = fluctuation(&model, id, &prefill[&id]);
/// assert!(scores.attention.iter().chain(&scores.mlp).all(|&score| score >= 0.0));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn fluctuation(model: &dyn WidthModel, id: BlockId, moments: &InputMoments) -> InputScores {
    let OutputLayers { attention, mlp } = model.output_layers(id);
    let scores = |weight: Tensor<2>, moments: &Moments| {
        let weight = Tensor::<2>::cast(weight, DType::F32);
        let norms = host(weight.square().sum_dim(0));
        let both = moments.variance().zip(norms);
        both.map(|(variance, norm)| variance * norm).collect()
    };
    InputScores {
        attention: scores(attention, &moments.attention),
        mlp: scores(mlp, &moments.mlp),
    }
}

/// FLAP's compensation: what the removed inputs of each output layer add at their means.
///
/// ```
/// # use pdtrim_core::objective::{Calibration, WidthPass};
/// # use pdtrim_core::testing::TinyModel;
/// # let model = TinyModel::default().build();
/// # let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// use pdtrim_core::objective::compensation;
/// use pdtrim_core::width::{BlockSize, RemovedWidth, StageWidths};
/// use pdtrim_core::{BlockId, Boundary, PerStage};
///
/// let pass = WidthPass::new(&model, &calibration, Boundary::Prefill);
/// let prefill = pass.moments(&PerStage::dense(5))?.prefill;
/// let id = BlockId::new(1);
/// let channels = RemovedWidth { channels: "0-11".parse()?, ..RemovedWidth::default() };
/// let removed = StageWidths::from([(id, channels)]);
/// let biases = compensation(&model, BlockSize::of(model.config()), &prefill, &removed);
/// assert_eq!((biases[&id].mlp.len(), biases[&id].attention.len()), (32, 0));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn compensation(
    model: &dyn WidthModel,
    size: BlockSize,
    moments: &StageMoments,
    removed: &StageWidths,
) -> StageBiases {
    let bias = |weight: Tensor<2>, means: Vec<f32>| -> Vec<f32> {
        if means.iter().all(|mean| *mean == 0.0) {
            return Vec::new();
        }
        let data = TensorData::new(means.clone(), [1, means.len()]);
        let means = Tensor::<2>::from_data(data, (&weight.device(), DType::F32));
        let weight = Tensor::<2>::cast(weight, DType::F32);
        let [product] = linear(&means, [(weight, None)]);
        host(product)
            .into_iter()
            .map(|value| value as f32)
            .collect()
    };
    let block = |(id, removed): (&BlockId, &RemovedWidth)| {
        let moments = moments.get(id)?;
        let OutputLayers { attention, mlp } = model.output_layers(*id);
        let per_group = moments.attention.mean.len() / size.groups;
        let gone = |index: usize| removed.groups.contains(index / per_group);
        let biases = BlockBiases {
            attention: bias(attention, means_of(&moments.attention, gone)),
            mlp: bias(
                mlp,
                means_of(&moments.mlp, |index| removed.channels.contains(index)),
            ),
        };
        Some((*id, biases))
    };
    removed.iter().filter_map(block).collect()
}

/// The means of the inputs that are gone, 0 for the others.
fn means_of(moments: &Moments, gone: impl Fn(usize) -> bool) -> Vec<f32> {
    let means = moments.mean.iter().enumerate();
    means
        .map(|(index, mean)| if gone(index) { *mean as f32 } else { 0.0 })
        .collect()
}

fn host(row: Tensor<2>) -> Vec<f64> {
    let data = Tensor::<2>::cast(row, DType::F32).into_data();
    let values = data.as_slice::<f32>().expect("cast to f32").iter();
    values.map(|value| f64::from(*value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_parts_are_those_of_the_whole() {
        let device = burn::tensor::Device::flex();
        let rows = Tensor::<2>::from_data([[1.0_f32, 5.0], [3.0, 5.0], [8.0, 5.0]], &device);
        let whole = Moments::of(rows.clone());
        assert_eq!(whole.mean(), [4.0, 5.0]);
        // (9 + 1 + 16) / 2
        assert_eq!(whole.variance().collect::<Vec<_>>(), [13.0, 0.0]);
        let parts =
            Moments::of(rows.clone().narrow(0, 0, 1)).merged(&Moments::of(rows.narrow(0, 1, 2)));
        assert_eq!(parts, whole);
    }
}
