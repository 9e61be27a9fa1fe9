//! J(P, D) of a model on calibration windows.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use super::divergence::DenseRows;
use super::stream::{Passage, Split, Stream, last_position};
use super::{Calibration, Objective, OnCost, OnUnitCosts, mean_cost};
use crate::block::{BlockId, BlockSet};
use crate::cache::{BlockCache, KvCache};
use crate::error::{Error, Result};
use crate::model::{BlockModel, stage_dims};
use crate::pipeline::{CacheTransfer, SendAll};
use crate::stage::{Boundary, PerStage};

/// Which tokens' loss counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    /// The continuation's, under the PD forward pass.
    #[default]
    Continuation,
    /// Every token of the window after its first, in one pass through the blocks that decode keeps:
    /// what SLEB and one-machine pruning measure.
    All,
}

/// What is measured of the predictions where windows leave the last block.
pub(super) enum Measure {
    /// The targets' negative log-likelihood.
    Loss,
    /// How far they are from the dense model's.
    Divergence(DenseRows),
}

/// A transfer to measure, and the first block that it treats differently from the base.
#[derive(Clone, Copy)]
pub struct TransferCandidate<'t> {
    /// The transfer.
    pub transfer: &'t dyn CacheTransfer,
    /// `None` if it differs in no block.
    pub differs_from: Option<BlockId>,
}

/// What decode is without, and what it receives.
#[derive(Clone, Copy)]
struct DecodeChoice<'t> {
    decode: &'t BlockSet,
    transfer: &'t dyn CacheTransfer,
}

/// Prefill's side of some windows for one P: what candidates that differ in decode only share.
pub(super) struct PromptRun {
    prefill: BlockSet,
    units: Vec<usize>,
    /// Last positions whose queries it holds.
    observes: usize,
    pub(super) groups: Vec<PromptGroup>,
}

pub(super) struct PromptGroup {
    pub(super) cache: KvCache,
    /// Final hidden states `[batch, hidden]` of the last prompt position.
    pub(super) last: Option<Tensor<2>>,
}

/// Mean negative log-likelihood of the windows' continuation tokens, in nats, rounded to 1e-6 so that
/// a run on more threads decides the same; or, of [`divergence`](Self::divergence), how far their
/// predictions are from the dense model's.
///
/// Blocks that only prefill removes keep giving their keys and values (`kv_fill = "project"`), since
/// prefill is searched with D = ∅.
pub struct CalibrationLoss<'a> {
    pub(super) models: PerStage<&'a dyn BlockModel>,
    pub(super) calibration: &'a Calibration,
    pub(super) rows: Rows,
    pub(super) boundary: Boundary,
    pub(super) measure: Measure,
    /// All for the same P, no window in two of them.
    prompt_runs: Mutex<Vec<Arc<PromptRun>>>,
}

impl<'a> CalibrationLoss<'a> {
    /// The loss of `model` on `calibration`.
    pub fn new(
        model: &'a dyn BlockModel,
        calibration: &'a Calibration,
        rows: Rows,
        boundary: Boundary,
    ) -> Self {
        Self::of_both(PerStage::both(model), calibration, rows, boundary)
    }

    /// The loss of a model with weights of its own for each stage, as a repair makes them. With
    /// [`Rows::All`] only decode's are run.
    ///
    /// # Errors
    ///
    /// [`Error::StageModels`] for models of different sizes.
    pub fn per_stage(
        models: PerStage<&'a dyn BlockModel>,
        calibration: &'a Calibration,
        rows: Rows,
        boundary: Boundary,
    ) -> Result<Self> {
        stage_dims(models)?;
        Ok(Self::of_both(models, calibration, rows, boundary))
    }

    pub(super) fn of_both(
        models: PerStage<&'a dyn BlockModel>,
        calibration: &'a Calibration,
        rows: Rows,
        boundary: Boundary,
    ) -> Self {
        Self {
            models,
            calibration,
            rows,
            boundary,
            measure: Measure::Loss,
            prompt_runs: Mutex::new(Vec::new()),
        }
    }

    /// The windows.
    pub fn calibration(&self) -> &'a Calibration {
        self.calibration
    }

    /// J with `removed` and what `transfer` lets through. Prefill is run once for each P.
    ///
    /// # Errors
    ///
    /// What evaluating can fail with: a window longer than the context, a token out of range, the transfer.
    pub fn cost_with(
        &self,
        removed: &PerStage<BlockSet>,
        transfer: &dyn CacheTransfer,
    ) -> Result<f64> {
        let whole = TransferCandidate {
            transfer,
            differs_from: None,
        };
        let costs = self.transfer_costs(removed, transfer, &[whole], &mut |_, _| {
            ControlFlow::Continue(())
        })?;
        Ok(costs[0])
    }

    /// J with `removed` and what each candidate lets through. Blocks before the first in which a
    /// candidate differs from `base` are run once for all.
    ///
    /// # Errors
    ///
    /// As [`cost_with`](Self::cost_with), and [`Error::Stopped`] if `on_cost` broke off.
    pub fn transfer_costs(
        &self,
        removed: &PerStage<BlockSet>,
        base: &dyn CacheTransfer,
        candidates: &[TransferCandidate<'_>],
        on_cost: &mut OnCost<'_>,
    ) -> Result<Vec<f64>> {
        let costs = self.transfer_window_costs(removed, base, candidates, &mut |n, costs| {
            on_cost(n, mean_cost(costs))
        })?;
        Ok(costs.iter().map(|costs| mean_cost(costs)).collect())
    }

    /// As [`transfer_costs`](Self::transfer_costs), on each window: `[candidate][window]`.
    ///
    /// # Errors
    ///
    /// As [`transfer_costs`](Self::transfer_costs).
    pub fn transfer_window_costs(
        &self,
        removed: &PerStage<BlockSet>,
        base: &dyn CacheTransfer,
        candidates: &[TransferCandidate<'_>],
        on_costs: &mut OnUnitCosts<'_>,
    ) -> Result<Vec<Vec<f64>>> {
        self.check_length()?;
        let depth = self.depth();
        let choice = |transfer| DecodeChoice {
            decode: &removed.decode,
            transfer,
        };
        let choices: Vec<_> = candidates
            .iter()
            .map(|candidate| choice(candidate.transfer))
            .collect();
        let forks = candidates
            .iter()
            .map(|candidate| candidate.differs_from.map_or(depth, BlockId::index));
        self.decode_costs(
            &removed.prefill,
            &choice(base),
            &choices,
            forks.collect(),
            &self.all_units(),
            &Report::new(on_costs),
        )
    }

    pub(super) fn all_units(&self) -> Vec<usize> {
        (0..self.units()).collect()
    }

    pub(super) fn windows(&self, units: &[usize]) -> Vec<&'a [u32]> {
        let window = |&unit: &usize| &*self.calibration.windows()[unit];
        units.iter().map(window).collect()
    }

    pub(super) fn passage(&self) -> Passage<'_> {
        let split = Split::new(self.calibration, self.rows, self.boundary);
        Passage::new(self.models, split)
    }

    /// The continuations' embeddings, group by group.
    pub(super) fn continuations(
        &self,
        passage: &Passage<'_>,
        units: &[usize],
    ) -> Result<Vec<Stream>> {
        let mut streams = passage.enter(&self.windows(units))?;
        for stream in &mut streams {
            stream.prompt = None;
        }
        Ok(streams)
    }

    /// What both stages' models have in common.
    pub(super) fn model(&self) -> &'a dyn BlockModel {
        self.models.decode
    }

    pub(super) fn check_length(&self) -> Result<()> {
        let (tokens, limit) = (
            self.calibration.window_tokens(),
            self.model().dims().context_length,
        );
        if tokens > limit {
            Err(Error::ContextLength { tokens, limit })
        } else {
            Ok(())
        }
    }

    /// Prefill's side for `prefill` on some windows, computed once for as long as P stays the same.
    pub(super) fn prompt_run(
        &self,
        prefill: &BlockSet,
        units: &[usize],
        observes: usize,
    ) -> Result<Arc<PromptRun>> {
        let mut known = self
            .prompt_runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_asked = |run: &&Arc<PromptRun>| {
            run.prefill == *prefill && run.units == units && run.observes >= observes
        };
        if let Some(run) = known.iter().find(is_asked) {
            return Ok(Arc::clone(run));
        }
        let overlaps = |run: &PromptRun| run.units.iter().any(|unit| units.contains(unit));
        known.retain(|run| run.prefill == *prefill && !overlaps(run));
        let passage = Passage {
            observes,
            ..self.passage()
        };
        let streams = passage.enter(&self.windows(units))?;
        let groups = self.run_prompts(&passage, prefill, streams);
        let run = Arc::new(PromptRun {
            prefill: prefill.clone(),
            units: units.to_vec(),
            observes,
            groups,
        });
        known.push(Arc::clone(&run));
        Ok(run)
    }

    fn run_prompts(
        &self,
        passage: &Passage<'_>,
        prefill: &BlockSet,
        mut streams: Vec<Stream>,
    ) -> Vec<PromptGroup> {
        let depth = self.depth();
        let mut caches = vec![KvCache::empty(depth); streams.len()];
        for id in (0..depth).map(BlockId::new) {
            let keeps = PerStage {
                prefill: !prefill.contains(id),
                decode: true,
            };
            for (stream, cache) in streams.iter_mut().zip(&mut caches) {
                if let Some(block) = passage.step_prompt(id, keeps, &mut stream.prompt) {
                    cache.put_block(id, block);
                }
            }
        }
        let group = |(cache, stream): (KvCache, Stream)| PromptGroup {
            cache,
            last: stream.prompt.as_ref().map(last_position),
        };
        caches.into_iter().zip(streams).map(group).collect()
    }

    /// Candidates that share P: the prompts' KV is known, only continuations run.
    fn decode_costs(
        &self,
        prefill: &BlockSet,
        base: &DecodeChoice<'_>,
        choices: &[DecodeChoice<'_>],
        forks: Vec<usize>,
        units: &[usize],
        report: &Report<'_, '_>,
    ) -> Result<Vec<Vec<f64>>> {
        let passage = self.passage();
        let transfers = choices.iter().chain([base]).map(|choice| choice.transfer);
        let observes = transfers.map(CacheTransfer::observes).max().unwrap_or(0);
        let run = self.prompt_run(prefill, units, observes)?;
        let run = &*run;
        let step = |id: BlockId, choice: &DecodeChoice<'_>, streams: &mut Vec<Stream>| {
            if choice.decode.contains(id) {
                return Ok(());
            }
            for (stream, group) in streams.iter_mut().zip(&run.groups) {
                let Some(hidden) = stream.continuation.take() else {
                    continue;
                };
                let cache = match group.cache.block(id) {
                    Some(cache) => choice.transfer.transfer(id, cache.clone())?.cache,
                    None => BlockCache::with_capacity(0),
                };
                stream.continuation = Some(passage.step_continuation(id, hidden, cache));
            }
            Ok(())
        };
        let leave = |streams: Vec<Stream>| {
            let grouped = streams.iter().zip(&run.groups);
            let sizes: Vec<usize> = grouped
                .map(|(stream, group)| group_size(stream, group))
                .collect();
            let last = run.groups.iter().map(|group| group.last.clone());
            self.leave_groups(&passage, units, &sizes, last, streams)
        };
        let sweep = Sweep {
            depth: self.depth(),
            base,
            candidates: choices,
            by_block: self.model().holds_one_block(),
            in_parallel: *self.model().device() == Device::flex(),
            step: &step,
            leave: &leave,
        };
        sweep.run(forks, self.continuations(&passage, units)?, report)
    }

    /// Candidates that differ in P: both stages run, block by block.
    fn both_costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        units: &[usize],
        report: &Report<'_, '_>,
    ) -> Result<Vec<Vec<f64>>> {
        let passage = self.passage();
        let step = |id: BlockId, removed: &PerStage<BlockSet>, streams: &mut Vec<Stream>| {
            for stream in streams {
                passage.step(id, removed, stream);
            }
            Ok(())
        };
        let leave = |streams: Vec<Stream>| {
            let size = |stream: &Stream| {
                let hidden = stream.prompt.as_ref().or(stream.continuation.as_ref());
                hidden.map_or(0, |hidden| hidden.dims()[0])
            };
            let sizes: Vec<usize> = streams.iter().map(size).collect();
            let last: Vec<_> = streams
                .iter()
                .map(|stream| stream.prompt.as_ref().map(last_position))
                .collect();
            self.leave_groups(&passage, units, &sizes, last.into_iter(), streams)
        };
        let base = common(candidates);
        let forks = candidates
            .iter()
            .map(|candidate| first_difference(&base, candidate))
            .collect();
        let sweep = Sweep {
            depth: self.depth(),
            base: &base,
            candidates,
            by_block: self.model().holds_one_block(),
            in_parallel: *self.model().device() == Device::flex(),
            step: &step,
            leave: &leave,
        };
        sweep.run(forks, passage.enter(&self.windows(units))?, report)
    }

    /// The costs of the windows `units`, whose streams come in groups of these sizes.
    fn leave_groups(
        &self,
        passage: &Passage<'_>,
        units: &[usize],
        sizes: &[usize],
        last: impl Iterator<Item = Option<Tensor<2>>>,
        streams: Vec<Stream>,
    ) -> Vec<f64> {
        let mut rest = units;
        let mut costs = Vec::with_capacity(units.len());
        for ((size, last), stream) in sizes.iter().zip(last).zip(streams) {
            let (group, after) = rest.split_at(*size);
            rest = after;
            costs.extend(match &self.measure {
                Measure::Loss => passage.leave(&self.windows(group), last, stream.continuation),
                Measure::Divergence(dense) => {
                    let last = last.filter(|_| passage.split.prefill_predicts());
                    let continuation = stream.continuation.as_ref();
                    dense.divergence(self.model(), group, last.as_ref(), continuation)
                }
            });
        }
        costs
    }
}

impl Objective for CalibrationLoss<'_> {
    fn depth(&self) -> usize {
        self.model().dims().n_blocks
    }

    fn units(&self) -> usize {
        self.calibration.windows().len()
    }

    fn costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        on_cost: &mut OnCost<'_>,
    ) -> Result<Vec<f64>> {
        let on_costs: &mut OnUnitCosts<'_> = &mut |n, costs| on_cost(n, mean_cost(costs));
        let costs = self.unit_costs(candidates, &self.all_units(), on_costs)?;
        Ok(costs.iter().map(|costs| mean_cost(costs)).collect())
    }

    fn unit_costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        units: &[usize],
        on_costs: &mut OnUnitCosts<'_>,
    ) -> Result<Vec<Vec<f64>>> {
        let Some(first) = candidates.first() else {
            return Ok(Vec::new());
        };
        if units.is_empty() {
            return Ok(vec![Vec::new(); candidates.len()]);
        }
        self.check_length()?;
        let report = Report::new(on_costs);
        let shared_prefill = candidates
            .iter()
            .all(|candidate| candidate.prefill == first.prefill);
        // With all rows there is no prompt, so P does not matter.
        if !shared_prefill && self.rows != Rows::All {
            return self.both_costs(candidates, units, &report);
        }
        let base = common(candidates);
        let forks = candidates
            .iter()
            .map(|candidate| first_difference(&base, candidate))
            .collect();
        let choice = |removed| DecodeChoice {
            decode: removed,
            transfer: &SendAll,
        };
        let choices: Vec<_> = candidates
            .iter()
            .map(|candidate| choice(&candidate.decode))
            .collect();
        self.decode_costs(
            &first.prefill,
            &choice(&base.decode),
            &choices,
            forks,
            units,
            &report,
        )
    }
}

/// Passes costs on to the caller, from whichever thread has one.
struct Report<'f, 'c> {
    on_costs: Mutex<&'f mut OnUnitCosts<'c>>,
}

impl<'f, 'c> Report<'f, 'c> {
    fn new(on_costs: &'f mut OnUnitCosts<'c>) -> Self {
        Self {
            on_costs: Mutex::new(on_costs),
        }
    }

    fn send(&self, candidate: usize, costs: &[f64]) -> Result<()> {
        let mut on_costs = self.on_costs.lock().unwrap_or_else(PoisonError::into_inner);
        match on_costs(candidate, costs) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped),
        }
    }
}

/// Moves the blocks that all candidates share through the stack once; at the first block in which a
/// candidate differs from `base`, its own suffix starts from there. Suffixes run in parallel, or, where
/// going to another block costs reading it, all together block by block.
struct Sweep<'s, C, S, L> {
    by_block: bool,
    /// On the CPU; an accelerator has one queue for each thread, and gains nothing from several.
    in_parallel: bool,
    depth: usize,
    base: &'s C,
    candidates: &'s [C],
    step: &'s S,
    leave: &'s L,
}

impl<C, S, L> Sweep<'_, C, S, L>
where
    C: Sync,
    S: Fn(BlockId, &C, &mut Vec<Stream>) -> Result<()> + Sync,
    L: Fn(Vec<Stream>) -> Vec<f64> + Sync,
{
    /// `forks[n]` is the first block in which candidate n differs.
    fn run(
        &self,
        forks: Vec<usize>,
        mut streams: Vec<Stream>,
        report: &Report<'_, '_>,
    ) -> Result<Vec<Vec<f64>>> {
        let mut forks: Vec<(usize, usize)> = forks.into_iter().zip(0..).collect();
        forks.sort_unstable();
        if self.by_block {
            return self.run_by_block(forks, streams, report);
        }
        let mut starts = Vec::with_capacity(forks.len());
        let mut at = 0;
        for (block, candidate) in forks {
            for id in (at..block).map(BlockId::new) {
                (self.step)(id, self.base, &mut streams)?;
            }
            at = block;
            starts.push((block, candidate, streams.clone()));
        }
        drop(streams);
        let run = |(block, candidate, mut streams): (usize, usize, Vec<Stream>)| {
            for id in (block..self.depth).map(BlockId::new) {
                (self.step)(id, &self.candidates[candidate], &mut streams)?;
            }
            let costs = (self.leave)(streams);
            report.send(candidate, &costs)?;
            Ok((candidate, costs))
        };
        if !self.in_parallel {
            return Ok(in_order(
                starts.into_iter().map(run).collect::<Result<_>>()?,
            ));
        }
        // One candidate a task: rayon would otherwise hand out runs of neighbours, the longest
        // suffixes first.
        let costs = starts.into_par_iter().with_max_len(1).map(run);
        Ok(in_order(costs.collect::<Result<_>>()?))
    }

    /// Each block is run by everything that needs it before the next one is. Costs are known at the end
    /// only.
    fn run_by_block(
        &self,
        forks: Vec<(usize, usize)>,
        mut streams: Vec<Stream>,
        report: &Report<'_, '_>,
    ) -> Result<Vec<Vec<f64>>> {
        let mut waiting = forks.into_iter().peekable();
        let mut started: Vec<(usize, Vec<Stream>)> = Vec::new();
        for block in 0..=self.depth {
            while let Some((_, candidate)) = waiting.next_if(|&(fork, _)| fork == block) {
                started.push((candidate, streams.clone()));
            }
            if block == self.depth {
                break;
            }
            let id = BlockId::new(block);
            for (candidate, streams) in &mut started {
                (self.step)(id, &self.candidates[*candidate], streams)?;
            }
            if waiting.peek().is_some() {
                (self.step)(id, self.base, &mut streams)?;
            }
        }
        let leave = |(candidate, streams)| {
            let costs = (self.leave)(streams);
            report.send(candidate, &costs)?;
            Ok((candidate, costs))
        };
        Ok(in_order(
            started.into_iter().map(leave).collect::<Result<_>>()?,
        ))
    }
}

fn in_order(mut costs: Vec<(usize, Vec<f64>)>) -> Vec<Vec<f64>> {
    costs.sort_unstable_by_key(|&(candidate, _)| candidate);
    costs.into_iter().map(|(_, costs)| costs).collect()
}

/// What is removed in every candidate.
fn common(candidates: &[PerStage<BlockSet>]) -> PerStage<BlockSet> {
    let both = |base: PerStage<BlockSet>, candidate: &PerStage<BlockSet>| PerStage {
        prefill: base.prefill.intersection(&candidate.prefill),
        decode: base.decode.intersection(&candidate.decode),
    };
    candidates[1..].iter().fold(candidates[0].clone(), both)
}

/// The first block that `candidate` removes and `base` does not; the depth if there is none.
fn first_difference(base: &PerStage<BlockSet>, candidate: &PerStage<BlockSet>) -> usize {
    let prefill = candidate.prefill.difference(&base.prefill);
    let differs = prefill.union(&candidate.decode.difference(&base.decode));
    differs
        .iter()
        .next()
        .map_or(base.decode.depth(), BlockId::index)
}

/// Windows in a group whose prompt was run before.
fn group_size(stream: &Stream, group: &PromptGroup) -> usize {
    let continuation = stream.continuation.as_ref().map(|hidden| hidden.dims()[0]);
    continuation
        .or_else(|| group.last.as_ref().map(|last| last.dims()[0]))
        .unwrap_or(0)
}
