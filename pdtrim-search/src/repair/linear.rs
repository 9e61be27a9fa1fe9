//! The linear repair: a ridge regression for each removed run.

use burn::tensor::{DType, Tensor, TensorData};
use pdtrim_core::model::{MlpOutput, MlpStep};
use pdtrim_core::objective::{Calibration, MlpPass};
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::{BlockId, BlockSet, Boundary, PerStage};

use super::normal::NormalEquations;
use super::runs::{Run, runs};
use crate::error::{Error, Result};

/// The default of [`LinearRepair::ridge`].
pub const DEFAULT_RIDGE: f64 = 0.1;

/// For the kept block before each removed run: the matrix T that makes `a + T m`, where the block adds
/// its MLP's output m to the residual stream a, as near as possible to the dense model's hidden state y
/// after the run, `min Σ |a + T m - y|² + λ |T - 1|²`. T goes into the MLP's output layer.
///
/// Each stage is fitted on its own tokens. Runs are repaired from the front: a and m are what the model
/// has there with the runs before repaired, for decode on the keys and values of the repaired prefill.
///
/// ```
/// use pdtrim_core::objective::Calibration;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockId, BlockSet, Boundary, PerStage, Stage};
/// use pdtrim_search::repair::LinearRepair;
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..49).collect(), (30..78).collect()], 36)?;
/// let removed = PerStage::both(BlockSet::from_indices(5, [2])?);
/// let fit = LinearRepair::default().fit(&model, &calibration, &removed, Boundary::Prefill)?;
/// // Block 1 makes up for block 2.
/// assert!(fit.weights.of(Stage::Decode).contains_key(&BlockId::new(1)));
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearRepair {
    /// λ as a multiple of the mean over features of Σ m²; larger = nearer to the unrepaired model.
    pub ridge: f64,
}

impl Default for LinearRepair {
    fn default() -> Self {
        Self {
            ridge: DEFAULT_RIDGE,
        }
    }
}

/// What was fitted.
///
/// ```
/// use pdtrim_core::PerStage;
/// use pdtrim_core::repair::RepairWeights;
/// use pdtrim_search::repair::LinearFit;
///
/// let fit = LinearFit { weights: RepairWeights::default(), unrepaired: PerStage::default() };
/// assert!(fit.weights.is_empty() && fit.unrepaired.decode.is_empty());
/// ```
#[derive(Clone, Debug)]
pub struct LinearFit {
    /// The new output layers.
    pub weights: RepairWeights,
    /// Runs that no kept block is before, so that nothing makes up for them.
    pub unrepaired: PerStage<Vec<Run>>,
}

impl LinearRepair {
    /// Fits on all tokens of `calibration`.
    ///
    /// # Errors
    ///
    /// [`Error::Ridge`], [`Error::NoRepair`], or [`Error::Objective`] for windows that the model refuses.
    pub fn fit<M: MlpOutput>(
        &self,
        model: &M,
        calibration: &Calibration,
        removed: &PerStage<BlockSet>,
        boundary: Boundary,
    ) -> Result<LinearFit> {
        let stages = PerStage {
            prefill: Repairs::of(&removed.prefill),
            decode: Repairs::of(&removed.decode),
        };
        let weights = self.fit_to((model, calibration, boundary), &stages, removed, true)?;
        Ok(LinearFit {
            weights,
            unrepaired: PerStage {
                prefill: stages.prefill.at_front,
                decode: stages.decode.at_front,
            },
        })
    }

    /// The output layers with which the block `first` of each pair stands for itself and the block after
    /// it, each pair by itself in a model that is otherwise dense.
    ///
    /// # Errors
    ///
    /// As [`fit`](Self::fit).
    pub fn fit_pairs<M: MlpOutput>(
        &self,
        model: &M,
        calibration: &Calibration,
        firsts: &PerStage<BlockSet>,
        boundary: Boundary,
    ) -> Result<RepairWeights> {
        let stages = Repairs::of_pairs(firsts);
        let dense = PerStage::dense(model.dims().n_blocks);
        self.fit_to((model, calibration, boundary), &stages, &dense, false)
    }

    /// Fits on the states of a model without `removed`; `goes_on` says whether later blocks see what
    /// earlier ones were fitted to.
    fn fit_to<M: MlpOutput>(
        self,
        (model, calibration, boundary): (&M, &Calibration, Boundary),
        stages: &PerStage<Repairs>,
        removed: &PerStage<BlockSet>,
        goes_on: bool,
    ) -> Result<RepairWeights> {
        if !(self.ridge >= 0.0 && self.ridge.is_finite()) {
            return Err(Error::Ridge { found: self.ridge });
        }
        let depth = model.dims().n_blocks;
        let set = |ids: &dyn Fn(&Repairs) -> Vec<usize>| -> Result<PerStage<BlockSet>> {
            Ok(PerStage {
                prefill: BlockSet::from_indices(depth, ids(&stages.prefill))?,
                decode: BlockSet::from_indices(depth, ids(&stages.decode))?,
            })
        };
        let pass = MlpPass::new(model, calibration, boundary);
        let targets = pass.dense_states(&set(&Repairs::ends)?)?;
        let mut weights = RepairWeights::default();
        pass.run_mapped(removed, &set(&Repairs::blocks)?, &mut |stage, id, steps| {
            let Some(end) = stages.of(stage).end_of(id).filter(|_| !steps.is_empty()) else {
                return Ok(None);
            };
            let map = self.map(steps, &targets.of(stage)[&end])?;
            let down_proj = Tensor::<2>::cast(model.down_proj(id), DType::F32);
            weights.insert(stage, id, map.clone().matmul(down_proj));
            Ok::<_, Error>(goes_on.then_some(map))
        })?;
        Ok(weights)
    }

    /// T, `[hidden, hidden]`.
    fn map(self, steps: &[MlpStep], targets: &[Tensor<3>]) -> Result<Tensor<2>> {
        let width = steps[0].output.dims()[2];
        let mut equations = NormalEquations::new(width);
        for (step, target) in steps.iter().zip(targets) {
            let rows = |states: Tensor<3>| {
                let [batch, seq, width] = states.dims();
                Tensor::<2>::cast(states.reshape([batch * seq, width]), DType::F32)
            };
            let output = rows(step.output.clone());
            let missing = rows(target.clone()) - rows(step.residual.clone()) - output.clone();
            equations.add(&output, &missing);
        }
        let mut map = equations.solve(self.ridge)?;
        for n in 0..width {
            map[n * width + n] += 1.0;
        }
        let map: Vec<f32> = map.into_iter().map(|value| value as f32).collect();
        let place = (&steps[0].output.device(), DType::F32);
        Ok(Tensor::from_data(
            TensorData::new(map, [width, width]),
            place,
        ))
    }
}

/// What a stage has repaired.
pub(super) struct Repairs {
    /// The block before a run, and the run's last block; or the two blocks of a pair.
    pub(super) fitted: Vec<(BlockId, BlockId)>,
    pub(super) at_front: Vec<Run>,
}

impl Repairs {
    pub(super) fn of(removed: &BlockSet) -> Self {
        let (fitted, at_front): (Vec<Run>, Vec<Run>) = runs(removed)
            .into_iter()
            .partition(|run| run.before.is_some());
        let ends = |run: &Run| Some((run.before?, run.last));
        Self {
            fitted: fitted.iter().filter_map(ends).collect(),
            at_front,
        }
    }

    pub(super) fn of_pairs(firsts: &PerStage<BlockSet>) -> PerStage<Self> {
        let of = |firsts: &BlockSet| {
            let pairs = firsts.iter().map(|id| (id, BlockId::new(id.index() + 1)));
            Self {
                fitted: pairs
                    .filter(|(_, next)| next.index() < firsts.depth())
                    .collect(),
                at_front: Vec::new(),
            }
        };
        PerStage {
            prefill: of(&firsts.prefill),
            decode: of(&firsts.decode),
        }
    }

    fn blocks(&self) -> Vec<usize> {
        self.fitted
            .iter()
            .map(|(before, _)| before.index())
            .collect()
    }

    fn ends(&self) -> Vec<usize> {
        self.fitted.iter().map(|(_, last)| last.index()).collect()
    }

    fn end_of(&self, id: BlockId) -> Option<BlockId> {
        let fitted = self.fitted.iter().find(|(before, _)| *before == id);
        fitted.map(|&(_, last)| last)
    }
}

#[cfg(test)]
mod tests;
