//! Importance of blocks from derivatives of the loss.
//!
//! The windows run to the end once, without gradients; then blocks are gone through from the last to
//! the first, each run again on what entered it with its weights as variables. So memory holds the
//! gradients of one block and what its operations keep for a few windows, never a model's. What
//! enters the blocks is kept at every √depth-th of them and computed again in between.

mod weights;

use std::ops::Range;

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor, TensorData};

use self::weights::{Sums, Weights, total};
use super::stream::{Passage, Split, Stream, last_position};
use super::{Calibration, Rows};
use crate::block::{BlockId, BlockSet};
use crate::error::{Error, Result};
use crate::kernels::on_pool;
use crate::model::{BlockGradients, BlockModel};
use crate::stage::{Boundary, PerStage, Stage};

/// Tokens that run through a followed block as one batch: its operations keep their inputs.
const FOLLOWED_TOKENS: usize = 1024;
/// Rows whose logits exist at a time, and about as many copies of them as their derivative has steps.
const HEAD_ROWS: usize = 128;

/// First-order Taylor importance of each block, for each stage: how far the mean NLL of the windows'
/// targets would move, to first order, if a weight w of the block became 0 for the rows of that stage
/// alone. It is 0 for a stage without rows.
///
/// ```
/// use pdtrim_core::PerStage;
/// use pdtrim_core::objective::TaylorImportance;
///
/// /// The block that decode would miss least.
/// fn least(importance: &TaylorImportance) -> Option<usize> {
///     let blocks = importance.by_element.decode.iter().enumerate();
///     blocks.min_by(|a, b| a.1.total_cmp(b.1)).map(|(block, _)| block)
/// }
///
/// let importance = TaylorImportance {
///     by_element: PerStage { prefill: vec![3.0, 1.0], decode: vec![0.5, 2.0] },
///     signed: PerStage::both(vec![0.0, 0.0]),
/// };
/// assert_eq!(least(&importance), Some(0));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TaylorImportance {
    /// Σ |w · ∂NLL/∂w| over the block's weight matrices and norms, without biases; higher = keep.
    ///
    /// The derivative is that over all windows: gradients of batches are summed with their signs, and
    /// the absolute value of each element comes last, as in the code of Shortened `LLaMA`
    /// (arXiv:2402.02834), whose figure is this times its number of batches.
    pub by_element: PerStage<Vec<f64>>,
    /// Σ w · ∂NLL/∂w with its sign: the slope of the NLL where all of the block's weights grow by the
    /// same part of themselves. The two stages' add up to that of one machine.
    pub signed: PerStage<Vec<f64>>,
}

/// The windows before a block, by its index.
type Kept = (usize, Vec<Stream>);

/// Derivatives of the dense model's loss on calibration windows, block by block.
///
/// ```
/// use pdtrim_core::objective::{Calibration, Rows, TaylorPass};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::Boundary;
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// let pass = TaylorPass::new(&model, &calibration, Rows::Continuation, Boundary::Prefill);
/// let mut done = Vec::new();
/// let importance = pass.importance(&mut |id| done.push(id.index()))?;
/// assert_eq!(done, [4, 3, 2, 1, 0]);
/// assert!(importance.by_element.prefill.iter().all(|&block| block > 0.0));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub struct TaylorPass<'a> {
    model: &'a dyn BlockGradients,
    calibration: &'a Calibration,
    rows: Rows,
    boundary: Boundary,
}

impl<'a> TaylorPass<'a> {
    /// A pass of `calibration` through `model`. Rows and boundary are those of
    /// [`CalibrationLoss`](super::CalibrationLoss), and so is the NLL.
    pub fn new(
        model: &'a dyn BlockGradients,
        calibration: &'a Calibration,
        rows: Rows,
        boundary: Boundary,
    ) -> Self {
        Self {
            model,
            calibration,
            rows,
            boundary,
        }
    }

    /// The importances. `on_block` hears of each block that is done, from the last to the first. With
    /// [`Rows::All`] both stages get the figure over all tokens of the windows.
    ///
    /// # Errors
    ///
    /// [`Error::TokenOutOfRange`], [`Error::ContextLength`], or [`Error::NotFinite`] where a hidden
    /// state, the loss or a gradient is no number.
    pub fn importance(
        &self,
        on_block: &mut (dyn FnMut(BlockId) + Send),
    ) -> Result<TaylorImportance> {
        let (tokens, limit) = (
            self.calibration.window_tokens(),
            self.model.dims().context_length,
        );
        if tokens > limit {
            return Err(Error::ContextLength { tokens, limit });
        }
        let mut sums = on_pool(self.model.device(), || self.sums(on_block))?;
        if self.rows == Rows::All {
            sums.prefill.clone_from(&sums.decode);
        }
        let table = |value: fn(&Sums) -> f64| PerStage {
            prefill: sums.prefill.iter().map(value).collect(),
            decode: sums.decode.iter().map(value).collect(),
        };
        Ok(TaylorImportance {
            by_element: table(|sums| sums.absolute),
            signed: table(|sums| sums.signed),
        })
    }

    fn sums(&self, on_block: &mut (dyn FnMut(BlockId) + Send)) -> Result<PerStage<Vec<Sums>>> {
        let depth = self.model.dims().n_blocks;
        let mut sums = PerStage::both(vec![Sums::default(); depth]);
        let (mut kept, left) = self.forward()?;
        let mut slopes = self.slopes_at_the_end(left)?;
        let mut end = depth;
        while let Some((first, streams)) = kept.pop() {
            let mut entered = self.entered(first..end, streams);
            for id in (first..end).rev().map(BlockId::new) {
                let inputs = entered.pop().expect("one entry a block of the segment");
                let found = self.backward(id, inputs, &mut slopes)?;
                sums.prefill[id.index()] = found.prefill;
                sums.decode[id.index()] = found.decode;
                on_block(id);
            }
            end = first;
        }
        Ok(sums)
    }

    /// The windows before every √depth-th block, and where they leave the last.
    fn forward(&self) -> Result<(Vec<Kept>, Vec<Stream>)> {
        let depth = self.model.dims().n_blocks;
        let segment = depth.isqrt().max(1);
        let passage = self.passage(PerStage::both(self.model));
        let mut streams = Vec::new();
        for windows in self.groups() {
            streams.extend(passage.enter(&windows)?);
        }
        let mut kept = Vec::new();
        for id in (0..depth).map(BlockId::new) {
            if id.index().is_multiple_of(segment) {
                kept.push((id.index(), streams.clone()));
            }
            self.step(id, &mut streams);
            for (stage, hidden) in streams.iter().flat_map(by_stage) {
                check(stage, id, "a hidden state that leaves it", total(hidden))?;
            }
        }
        Ok((kept, streams))
    }

    /// What enters each of `blocks`, by what enters the first.
    fn entered(&self, blocks: Range<usize>, streams: Vec<Stream>) -> Vec<Vec<Stream>> {
        let mut entered = vec![streams];
        for id in (blocks.start + 1..blocks.end).map(|next| BlockId::new(next - 1)) {
            let mut streams = entered[entered.len() - 1].clone();
            self.step(id, &mut streams);
            entered.push(streams);
        }
        entered
    }

    fn step(&self, id: BlockId, streams: &mut [Stream]) {
        let passage = self.passage(PerStage::both(self.model));
        for stream in streams {
            passage.step(id, &self.dense(), stream);
        }
    }

    /// Derivatives of the mean NLL by the hidden states that left the last block.
    fn slopes_at_the_end(&self, left: Vec<Stream>) -> Result<Vec<Stream>> {
        let split = self.split();
        let counted = self.calibration.windows().len() * split.targets();
        let mut slopes = Vec::with_capacity(left.len());
        for (windows, stream) in self.groups().iter().zip(left) {
            let slope = |hidden: Tensor<2>, targets: &[u32]| {
                let chunks = targets.chunks(HEAD_ROWS).enumerate();
                let parts = chunks.map(|(n, targets)| {
                    let rows = hidden.clone().narrow(0, n * HEAD_ROWS, targets.len());
                    self.slope_of_rows(rows, targets, counted)
                });
                Ok::<_, Error>(Tensor::cat(parts.collect::<Result<_>>()?, 0))
            };
            let prompt = stream.prompt.filter(|_| split.prefill_predicts());
            let prompt = prompt.map(|hidden| {
                let [batch, seq, width] = hidden.dims();
                let last = slope(last_position(&hidden), &split.prefill_targets(windows))?;
                let before =
                    Tensor::zeros([batch, seq - 1, width], (&hidden.device(), last.dtype()));
                Ok::<_, Error>(Tensor::cat(vec![before, last.unsqueeze_dim(1)], 1))
            });
            let continuation = stream.continuation.map(|hidden| {
                let sizes @ [batch, seq, width] = hidden.dims();
                let rows = hidden.reshape([batch * seq, width]);
                Ok::<_, Error>(slope(rows, &split.decode_targets(windows))?.reshape(sizes))
            });
            slopes.push(Stream {
                prompt: prompt.transpose()?,
                continuation: continuation.transpose()?,
            });
        }
        Ok(slopes)
    }

    /// The derivative of the sum of the targets' NLL, divided by `counted`, by `rows` `[rows, hidden]`.
    fn slope_of_rows(&self, rows: Tensor<2>, targets: &[u32], counted: usize) -> Result<Tensor<2>> {
        let rows = rows.autodiff().require_grad();
        let logits = self.model.logits(rows.clone()).cast(DType::F32);
        let ids: Vec<i32> = targets.iter().map(|&id| id as i32).collect();
        let ids = TensorData::new(ids, [targets.len(), 1]);
        let ids = Tensor::<2, Int>::from_data(ids, &logits.device());
        let loss = log_softmax(logits, 1).gather(1, ids).sum().neg();
        let last = BlockId::new(self.model.dims().n_blocks - 1);
        check(
            Stage::Decode,
            last,
            "the loss after it",
            value(loss.clone().inner()),
        )?;
        let gradients = loss.div_scalar(counted as f64).backward();
        Ok(rows
            .grad(&gradients)
            .expect("the logits depend on the rows"))
    }

    /// What block `id` adds to the sums. Turns the derivatives by what leaves it into those by what
    /// enters it.
    fn backward(
        &self,
        id: BlockId,
        entered: Vec<Stream>,
        slopes: &mut [Stream],
    ) -> Result<PerStage<Sums>> {
        let followed = PerStage {
            prefill: self.model.follow(id),
            decode: self.model.follow(id),
        };
        let passage = self.passage(PerStage {
            prefill: &*followed.prefill.model,
            decode: &*followed.decode.model,
        });
        let mut weights = PerStage {
            prefill: Weights::new(&followed.prefill),
            decode: Weights::new(&followed.decode),
        };
        let variable = |hidden: Option<Tensor<3>>| Some(hidden?.autodiff().require_grad());
        for (entered, slope) in entered.into_iter().zip(slopes) {
            let inputs = Stream {
                prompt: variable(entered.prompt),
                continuation: variable(entered.continuation),
            };
            let mut outputs = inputs.clone();
            passage.step(id, &self.dense(), &mut outputs);
            // Its derivatives by the inputs are those of the loss.
            let along = |output: Option<Tensor<3>>, slope: Option<Tensor<3>>| {
                Some((output?.cast(DType::F32) * slope?.cast(DType::F32)).sum())
            };
            let prompt = along(outputs.prompt, slope.prompt.take());
            let continuation = along(outputs.continuation, slope.continuation.take());
            let Some(projected) = prompt.into_iter().chain(continuation).reduce(Tensor::add) else {
                continue;
            };
            let mut gradients = projected.backward();
            let mut by_input = |input: Option<Tensor<3>>| input?.grad_remove(&mut gradients);
            *slope = Stream {
                prompt: by_input(inputs.prompt),
                continuation: by_input(inputs.continuation),
            };
            weights.prefill.add(&mut gradients);
            weights.decode.add(&mut gradients);
        }
        let sums = PerStage {
            prefill: weights.prefill.sums(),
            decode: weights.decode.sums(),
        };
        for stage in [Stage::Prefill, Stage::Decode] {
            check(
                stage,
                id,
                "a gradient of its weights",
                sums.of(stage).absolute,
            )?;
        }
        Ok(sums)
    }

    fn passage<'p>(&self, models: PerStage<&'p dyn BlockModel>) -> Passage<'p> {
        Passage::new(models, self.split())
    }

    fn split(&self) -> Split {
        Split::new(self.calibration, self.rows, self.boundary)
    }

    fn dense(&self) -> PerStage<BlockSet> {
        PerStage::dense(self.model.dims().n_blocks)
    }

    /// The windows in groups that run together.
    fn groups(&self) -> Vec<Vec<&'a [u32]>> {
        let group = (FOLLOWED_TOKENS / self.calibration.window_tokens()).max(1);
        let groups = self.calibration.windows().chunks(group);
        groups
            .map(|windows| windows.iter().map(|window| &**window).collect())
            .collect()
    }
}

fn value(scalar: Tensor<1>) -> f64 {
    f64::from(scalar.into_scalar::<f32>())
}

fn by_stage(stream: &Stream) -> impl Iterator<Item = (Stage, &Tensor<3>)> {
    let stages = [
        (Stage::Prefill, &stream.prompt),
        (Stage::Decode, &stream.continuation),
    ];
    stages
        .into_iter()
        .filter_map(|(stage, hidden)| Some((stage, hidden.as_ref()?)))
}

fn check(stage: Stage, block: BlockId, what: &'static str, found: f64) -> Result<()> {
    if found.is_finite() {
        return Ok(());
    }
    Err(Error::NotFinite {
        stage,
        block: block.index(),
        what,
    })
}

#[cfg(test)]
mod tests;
