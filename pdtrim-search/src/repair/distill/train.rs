//! Steps of `AdamW` on some blocks.

use std::collections::BTreeMap;

use burn::grad_clipping::GradientClippingConfig;
use burn::lr_scheduler::LrSchedulerConfig;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::sequential::SequentialLrSchedulerConfig;
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Bytes, Tensor};
use pdtrim_core::BlockId;
use pdtrim_core::model::{BlockModules, BlockWeights, block_weights, with_weights};

use super::checkpoint::Within;
use super::divergence::divergence;
use super::rows::{StageRows, States};
use super::{DistillLoss, Part};
use crate::error::{Error, Result};

/// What blocks are trained to do.
pub(super) struct Goal<'r> {
    pub(super) rows: &'r StageRows,
    /// Hidden states that enter the first of `blocks`.
    pub(super) inputs: States,
    /// Blocks that the rows run through.
    pub(super) blocks: Vec<BlockId>,
    /// The dense model's hidden states there.
    pub(super) targets: States,
    /// Whether the logits are compared, not the hidden states.
    pub(super) is_predictions: bool,
}

/// Blocks in training.
pub(super) struct Trainee<B> {
    ids: Vec<BlockId>,
    blocks: Vec<B>,
    optimizer: ModuleOptimizer,
    schedule: ModuleLrScheduler,
    losses: Vec<f64>,
}

impl<B: Module> Trainee<B> {
    /// Blocks whose weights are trained, but for those that are `frozen`.
    pub(super) fn new(
        blocks: Vec<(BlockId, B)>,
        frozen: fn(&str) -> bool,
        learning_rate: f64,
        steps: usize,
    ) -> Self {
        let (ids, blocks): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
        let optimizer = AdamWConfig::new()
            .with_beta_2(0.99)
            .with_epsilon(1e-8)
            .with_weight_decay(0.0)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)));
        let mut trainee = Self {
            ids,
            blocks,
            optimizer: optimizer.init(),
            schedule: schedule(learning_rate, steps),
            losses: Vec::new(),
        };
        trainee.follow(frozen);
        trainee
    }

    /// The same, as it was after some steps.
    pub(super) fn go_on(mut self, within: Within, frozen: fn(&str) -> bool) -> Result<Self> {
        let blocks = self.ids.iter().zip(self.blocks);
        let restored = |(id, block): (&BlockId, B)| match within.weights.get(id) {
            Some(weights) => with_weights(block, weights),
            None => block,
        };
        self.blocks = blocks.map(restored).collect();
        let optimizer = self
            .optimizer
            .from_bytes(Bytes::from_bytes_vec(within.optimizer));
        self.optimizer = optimizer.map_err(|error| Error::Distill {
            what: "optimizer state",
            expected: "what an earlier run kept",
            found: error.to_string(),
        })?;
        for _ in &within.losses {
            self.schedule.step();
        }
        self.losses = within.losses;
        self.follow(frozen);
        Ok(self)
    }

    fn follow(&mut self, frozen: fn(&str) -> bool) {
        let blocks = std::mem::take(&mut self.blocks);
        let mut number = 0;
        let follow = |block: B| {
            let mut follow = Follow {
                path: Vec::new(),
                frozen,
                number,
            };
            let block = block.map(&mut follow);
            number = follow.number;
            block
        };
        self.blocks = blocks.into_iter().map(follow).collect();
    }

    /// Steps taken.
    pub(super) fn taken(&self) -> usize {
        self.losses.len()
    }

    /// One step on one batch; returns the loss before it.
    pub(super) fn step<M: BlockModules<Block = B>>(
        &mut self,
        model: &M,
        goal: &Goal<'_>,
        batch: usize,
    ) -> f64 {
        let blocks = self.ids.iter().copied().zip(self.blocks.iter().cloned());
        let followed = model.with_block_modules(&blocks.collect());
        let inputs = goal.inputs[batch].clone();
        let out = goal.rows.run_batch(&followed, batch, inputs, &goal.blocks);
        let target = goal.targets[batch].clone();
        let (loss, slope) = if goal.is_predictions {
            compare_predictions(&followed, model, out, target)
        } else {
            let error = (out - target).square().mean();
            (scalar(&error), error)
        };
        // Nothing to learn from, and nothing to spoil: the caller sees it.
        self.losses.push(loss);
        if !loss.is_finite() {
            return loss;
        }
        let gradients = GradientsParams::from_grads(slope.backward(), &self.blocks);
        let blocks = std::mem::take(&mut self.blocks);
        self.blocks = self.optimizer.step(self.schedule.step(), blocks, gradients);
        loss
    }

    /// How the loss fell.
    pub(super) fn loss(&self, part: Part) -> DistillLoss {
        let tenth = self.losses.len().div_ceil(10).max(1);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        let rest = self.losses.len().saturating_sub(tenth);
        DistillLoss {
            stage: part.stage,
            block: part.run.map(|(block, _)| block),
            first: mean(&self.losses[..tenth.min(self.losses.len())]),
            last: mean(&self.losses[rest..]),
        }
    }

    /// The weights as they are now.
    pub(super) fn weights(&self) -> BTreeMap<BlockId, BlockWeights> {
        let blocks = self.ids.iter().copied();
        blocks.zip(self.blocks.iter().map(block_weights)).collect()
    }

    /// What a later run needs to go on.
    pub(super) fn within(&self) -> Result<Within> {
        let optimizer = self.optimizer.into_bytes();
        let optimizer = optimizer.map_err(|error| Error::Distill {
            what: "optimizer state",
            expected: "one that can be written",
            found: error.to_string(),
        })?;
        Ok(Within {
            losses: self.losses.clone(),
            weights: self.weights(),
            optimizer: optimizer.to_vec(),
        })
    }
}

/// KL divergence from the dense model's predictions, and something whose gradient is that of it.
fn compare_predictions<M: BlockModules>(
    followed: &M,
    dense: &M,
    out: Tensor<3>,
    target: Tensor<3>,
) -> (f64, Tensor<1>) {
    let rows = |hidden: Tensor<3>| {
        let [batch, seq, width] = hidden.dims();
        hidden.reshape([batch * seq, width])
    };
    let logits = followed.logits(rows(out));
    let (loss, slope) = divergence(logits.clone().inner(), dense.logits(rows(target)));
    (loss, (logits * slope).sum())
}

fn scalar(loss: &Tensor<1>) -> f64 {
    f64::from(loss.clone().inner().into_scalar::<f32>())
}

/// Linearly up to `rate` over a tenth of the steps, then a cosine down to 0.
fn schedule(rate: f64, steps: usize) -> ModuleLrScheduler {
    let warm_up = (steps / 10).max(1);
    let rest = steps.saturating_sub(warm_up).max(1);
    let schedule = SequentialLrSchedulerConfig::new(
        vec![
            LrSchedulerConfig::Linear(LinearLrSchedulerConfig::new(
                rate / warm_up as f64,
                rate,
                warm_up,
            )),
            LrSchedulerConfig::Cosine(CosineAnnealingLrSchedulerConfig::new(rate, rest)),
        ],
        vec![warm_up],
    );
    schedule
        .init()
        .expect("the rate was checked, and both parts have a step")
}

/// Makes constants into variables, with the same numbers in every run: an optimizer's state is kept by them.
struct Follow {
    path: Vec<String>,
    frozen: fn(&str) -> bool,
    number: u64,
}

impl ModuleMapper for Follow {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.number += 1;
        let id = ParamId::from(self.number);
        let weight = param.val();
        let weight = if weight.is_autodiff() {
            weight.inner()
        } else {
            weight
        };
        if (self.frozen)(&self.path.join(".")) {
            return Param::initialized(id, weight);
        }
        Param::initialized(id, weight.autodiff().require_grad())
    }
}
