//! The distilling repair: training of the block before each removed run.

mod checkpoint;
mod divergence;
mod progress;
mod rows;
mod train;

use burn::tensor::DType;
use pdtrim_core::model::{BlockModules, MlpOutput, with_weights};
use pdtrim_core::objective::Calibration;
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::{BlockId, BlockSet, Boundary, PerStage, Stage};
use serde::{Deserialize, Serialize};

use super::linear::{LinearRepair, Repairs};
use crate::error::{Error, Result};
use checkpoint::{Checkpoint, Resumed};
use rows::{Batches, StageRows};
use train::{Goal, Trainee};

pub use progress::{DistillFit, DistillLoss, DistillPart, DistillResume, DistillStep, OnStep};

/// For the kept block before each removed run: new weights, trained with `AdamW`.
///
/// Starts from what [`LinearRepair`] finds on the same windows. Then each run on its own, from the front:
/// mean squared error between what the block puts out and the dense model's hidden state after the run,
/// on inputs that the runs before, already repaired, leave. Last all blocks of the stage together: KL
/// divergence of the stage's predictions from the dense model's, through the blocks in between, whose
/// weights stay.
///
/// Prefill is trained on whole windows, decode on the continuations, on the keys and values of the
/// repaired prefill. Weights that make keys and values stay as they are: decode attends to what prefill
/// computed with the ones that it has. The learning rate rises linearly over the first tenth of the
/// steps and then falls as a cosine; gradients are clipped to a norm of 1, tensor by tensor.
///
/// ```
/// use pdtrim_core::objective::Calibration;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockSet, Boundary, PerStage, Stage};
/// use pdtrim_search::repair::DistillRepair;
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..49).collect(), (30..78).collect()], 36)?;
/// let removed = PerStage::both(BlockSet::from_indices(5, [2])?);
/// let repair = DistillRepair { run_steps: 2, steps: 1, batch: 2, ..DistillRepair::default() };
/// let boundary = Boundary::Prefill;
/// let fit = repair.fit(&model, &calibration, &removed, boundary, None, &mut |_| ())?;
/// assert!(fit.weights.apply(&model, Stage::Prefill).is_some());
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DistillRepair {
    /// Steps of training on each run.
    pub run_steps: usize,
    /// Largest learning rate of those.
    pub run_learning_rate: f64,
    /// Steps of training on the predictions of each stage.
    pub steps: usize,
    /// Largest learning rate of those.
    pub learning_rate: f64,
    /// Windows in a step.
    pub batch: usize,
    /// Seed of the order of windows.
    pub seed: u64,
}

impl Default for DistillRepair {
    fn default() -> Self {
        Self {
            run_steps: 128,
            run_learning_rate: 1e-3,
            steps: 128,
            learning_rate: 5e-4,
            batch: 2,
            seed: 0,
        }
    }
}

/// One part of the training.
#[derive(Clone, Copy)]
struct Part {
    stage: Stage,
    /// The run's block and the run's end; `None` for the predictions.
    run: Option<(BlockId, BlockId)>,
    steps: usize,
}

/// What the blocks in training are to make up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trained {
    /// Removed runs: each is trained on what the ones before, already trained, leave; last all together.
    Runs,
    /// The second blocks of pairs: each is trained on the dense model's states.
    Pairs,
}

/// Everything that stays the same while parts are trained.
struct Training<'a, M: BlockModules> {
    repair: DistillRepair,
    trained: Trained,
    model: &'a M,
    removed: &'a PerStage<BlockSet>,
    repairs: PerStage<Repairs>,
    batches: Batches,
    checkpoint: Option<Checkpoint>,
}

impl DistillRepair {
    /// Trains on all windows of `calibration`; goes on where `resume` says that an earlier run stopped.
    ///
    /// # Errors
    ///
    /// [`Error::Distill`] for settings or a model that cannot be trained, [`Error::Diverged`], what
    /// [`LinearRepair::fit`] fails with, or [`Error::Objective`] for a file that cannot be written.
    pub fn fit<M: BlockModules + MlpOutput>(
        &self,
        model: &M,
        calibration: &Calibration,
        removed: &PerStage<BlockSet>,
        boundary: Boundary,
        resume: Option<DistillResume<'_>>,
        on_step: &mut OnStep<'_>,
    ) -> Result<DistillFit> {
        let repairs = PerStage {
            prefill: Repairs::of(&removed.prefill),
            decode: Repairs::of(&removed.decode),
        };
        let unrepaired = PerStage {
            prefill: repairs.prefill.at_front.clone(),
            decode: repairs.decode.at_front.clone(),
        };
        let start = || {
            let linear = LinearRepair::default();
            Ok(linear.fit(model, calibration, removed, boundary)?.weights)
        };
        let windows = (calibration, boundary);
        let training = self.training(model, windows, (Trained::Runs, repairs, removed))?;
        let (weights, losses) = training.fit(resume, &start, on_step)?;
        Ok(DistillFit {
            weights,
            unrepaired,
            losses,
        })
    }

    /// Trains, for each block in `firsts`, weights with which it stands for itself and the block after it
    /// (arXiv:2509.04467, distillation set). Each pair is trained by itself towards the dense model's
    /// state after it, on the states that the dense model has before it, in [`run_steps`](Self::run_steps)
    /// steps; there is no training on predictions.
    ///
    /// A file at `resume` with a finished training gives its weights back.
    ///
    /// # Errors
    ///
    /// As [`fit`](Self::fit).
    pub fn fit_pairs<M: BlockModules + MlpOutput>(
        &self,
        model: &M,
        calibration: &Calibration,
        firsts: &PerStage<BlockSet>,
        boundary: Boundary,
        resume: Option<DistillResume<'_>>,
        on_step: &mut OnStep<'_>,
    ) -> Result<DistillFit> {
        let start = || LinearRepair::default().fit_pairs(model, calibration, firsts, boundary);
        let windows = (calibration, boundary);
        let dense = PerStage::dense(model.dims().n_blocks);
        let pairs = (Trained::Pairs, Repairs::of_pairs(firsts), &dense);
        let training = self.training(model, windows, pairs)?;
        let (weights, losses) = training.fit(resume, &start, on_step)?;
        Ok(DistillFit {
            weights,
            unrepaired: PerStage::default(),
            losses,
        })
    }

    fn training<'a, M: BlockModules>(
        &self,
        model: &'a M,
        (calibration, boundary): (&Calibration, Boundary),
        (trained, repairs, removed): (Trained, PerStage<Repairs>, &'a PerStage<BlockSet>),
    ) -> Result<Training<'a, M>> {
        self.check(model)?;
        Ok(Training {
            repair: *self,
            trained,
            model,
            removed,
            batches: Batches::new(calibration, boundary, self),
            repairs,
            checkpoint: None,
        })
    }

    fn check<M: BlockModules>(&self, model: &M) -> Result<()> {
        let refused = |what, expected, found: String| {
            Err(Error::Distill {
                what,
                expected,
                found,
            })
        };
        for (what, rate) in [
            ("run learning rate", self.run_learning_rate),
            ("learning rate", self.learning_rate),
        ] {
            if !(rate > 0.0 && rate <= 1.0) {
                return refused(what, "a number above 0 and at most 1", rate.to_string());
            }
        }
        if self.batch == 0 {
            return refused("batch", "at least one window", "0".to_owned());
        }
        if model.dtype() != DType::F32 {
            let found = format!("{:?}", model.dtype());
            return refused("model", "weights of type F32", found);
        }
        Ok(())
    }
}

impl<M: BlockModules> Training<'_, M> {
    /// Trains what is not trained yet; `start` gives the weights to begin with.
    fn fit(
        mut self,
        resume: Option<DistillResume<'_>>,
        start: &dyn Fn() -> Result<RepairWeights>,
        on_step: &mut OnStep<'_>,
    ) -> Result<(RepairWeights, Vec<DistillLoss>)> {
        let parts = self.parts();
        let (checkpoint, known) = Checkpoint::resume(resume, &self.repair)?.unzip();
        self.checkpoint = checkpoint;
        let resumed = match known.flatten() {
            Some(resumed) => resumed,
            None => Resumed::at_start(start()?),
        };
        self.run(&parts, resumed, on_step)
    }

    /// What is trained, in order.
    fn parts(&self) -> Vec<Part> {
        let steps = match self.trained {
            Trained::Runs => self.repair.steps,
            Trained::Pairs => 0,
        };
        let of = |stage: Stage| {
            let fitted = &self.repairs.of(stage).fitted;
            let runs = fitted.iter().map(move |&run| Part {
                stage,
                run: Some(run),
                steps: self.repair.run_steps,
            });
            let last = (!fitted.is_empty()).then_some(Part {
                stage,
                run: None,
                steps,
            });
            runs.chain(last)
        };
        let parts = of(Stage::Prefill).chain(of(Stage::Decode));
        parts.filter(|part| part.steps > 0).collect()
    }

    /// What a stage's rows run through on their way to the blocks in training; `None` for the model itself.
    fn so_far(&self, stage: Stage, weights: &RepairWeights) -> Option<M> {
        match self.trained {
            Trained::Runs => weights.apply(self.model, stage),
            Trained::Pairs => None,
        }
    }

    fn run(
        &mut self,
        parts: &[Part],
        mut state: Resumed,
        on_step: &mut OnStep<'_>,
    ) -> Result<(RepairWeights, Vec<DistillLoss>)> {
        for stage in [Stage::Prefill, Stage::Decode] {
            let is_left = |n: &usize| *n >= state.part && parts[*n].stage == stage;
            let left: Vec<usize> = (0..parts.len()).filter(is_left).collect();
            if left.is_empty() {
                continue;
            }
            let rows = self.stage_rows(stage, &state.weights)?;
            for n in left {
                self.train(parts, n, &rows, &mut state, on_step)?;
            }
        }
        Ok((state.weights, state.losses))
    }

    /// Trains part `n`, or what is left of it.
    fn train(
        &self,
        parts: &[Part],
        n: usize,
        rows: &StageRows,
        state: &mut Resumed,
        on_step: &mut OnStep<'_>,
    ) -> Result<()> {
        let part = parts[n];
        let steps = |parts: &[Part]| parts.iter().map(|part| part.steps).sum::<usize>();
        let mut trainee = self.trainee(part, &state.weights, state.within.take())?;
        let goal = self.goal(part, rows, &state.weights);
        let order = self.batches.order(n, part.steps);
        while trainee.taken() < part.steps {
            let batch = order[trainee.taken()];
            let loss = trainee.step(self.model, &goal, batch);
            let step = trainee.taken();
            let block = part.run.map(|(block, _)| block);
            if !loss.is_finite() {
                return Err(Error::Diverged {
                    stage: part.stage,
                    block,
                    step,
                });
            }
            on_step(&DistillStep {
                stage: part.stage,
                part: block.map_or(DistillPart::Predictions, DistillPart::Run),
                step,
                part_steps: part.steps,
                done: steps(&parts[..n]) + step,
                steps: steps(parts),
                loss,
            });
            if let Some(checkpoint) = &self.checkpoint
                && step < part.steps
                && checkpoint.is_due()
            {
                checkpoint.write(n, &state.weights, &state.losses, Some(&trainee))?;
            }
        }
        state.losses.push(trainee.loss(part));
        for (id, mut block) in trainee.weights() {
            block.retain(|path, _| !M::makes_kv(path));
            state.weights.insert_weights(part.stage, id, block);
        }
        state.part = n + 1;
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint.write::<M::Block>(state.part, &state.weights, &state.losses, None)?;
        }
        Ok(())
    }

    /// What the stage's rows are where its first repaired block begins, and what follows.
    fn stage_rows(&mut self, stage: Stage, weights: &RepairWeights) -> Result<StageRows> {
        let fitted = &self.repairs.of(stage).fitted;
        let first = fitted.first().map_or(BlockId::new(0), |run| run.0);
        let repaired = self.so_far(Stage::Prefill, weights);
        let prefill = repaired.as_ref().unwrap_or(self.model);
        let PerStage {
            prefill: p,
            decode: d,
        } = &self.repairs;
        let ends = p.fitted.iter().chain(&d.fitted);
        let ends: Vec<BlockId> = ends.map(|&(_, end)| end).collect();
        self.batches.learn(self.model, &ends)?;
        match stage {
            Stage::Prefill => self.batches.prefill_rows(self.model, self.removed, first),
            Stage::Decode => self
                .batches
                .decode_rows(self.model, prefill, self.removed, first),
        }
    }

    fn trainee(
        &self,
        part: Part,
        weights: &RepairWeights,
        within: Option<checkpoint::Within>,
    ) -> Result<Trainee<M::Block>> {
        let ids = self.repairs.of(part.stage).fitted.iter().map(|run| run.0);
        let ids = ids.filter(|&id| part.run.is_none_or(|(own, _)| own == id));
        let start = ids.map(|id| (id, self.block(part.stage, id, weights)));
        let rate = match part.run {
            Some(_) => self.repair.run_learning_rate,
            None => self.repair.learning_rate,
        };
        let trainee = Trainee::new(start.collect(), M::makes_kv, rate, part.steps);
        match within {
            None => Ok(trainee),
            Some(within) => trainee.go_on(within, M::makes_kv),
        }
    }

    /// Block `id` with the weights that the stage has so far.
    fn block(&self, stage: Stage, id: BlockId, weights: &RepairWeights) -> M::Block {
        let block = self.model.block_module(id);
        match weights.of(stage).get(&id) {
            Some(weights) => with_weights(block, weights),
            None => block,
        }
    }

    fn goal<'r>(&'r self, part: Part, rows: &'r StageRows, weights: &RepairWeights) -> Goal<'r> {
        let removed = self.removed.of(part.stage);
        let depth = self.model.dims().n_blocks;
        let kept = |from: BlockId, to: usize| -> Vec<BlockId> {
            let blocks = (from.index()..to).map(BlockId::new);
            blocks.filter(|&id| !removed.contains(id)).collect()
        };
        match part.run {
            None => Goal {
                rows,
                inputs: rows.hidden.clone(),
                blocks: kept(rows.first, depth),
                targets: self.batches.states(part.stage, BlockId::new(depth - 1)),
                is_predictions: true,
            },
            Some((id, end)) => {
                let repaired = self.so_far(part.stage, weights);
                let model = repaired.as_ref().unwrap_or(self.model);
                Goal {
                    rows,
                    inputs: rows.run(model, &kept(rows.first, id.index())),
                    blocks: vec![id],
                    targets: self.batches.states(part.stage, end),
                    is_predictions: false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
