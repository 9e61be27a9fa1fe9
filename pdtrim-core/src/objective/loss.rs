//! J(P, D) of a model on calibration windows.

mod stem;
mod transfers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::divergence::DenseRows;
use super::stream::{Passage, Split, Stream, last_position};
use super::sweep::{Report, Sweep};
use super::{Calibration, DistilledPairs, Objective, OnCost, OnUnitCosts, Rows, mean_cost};
use crate::block::{BlockId, BlockSet};
use crate::cache::{BlockCache, KvCache};
use crate::error::{Error, Result};
use crate::model::{BlockModel, stage_dims};
use crate::pipeline::{CacheTransfer, SendAll};
use crate::stage::{Boundary, PerStage, Stage};
use burn::tensor::{Device, Tensor};
use stem::Stems;
use transfers::Received;

pub use transfers::TransferCandidate;

/// What is measured of the predictions where windows leave the last block.
pub(super) enum Measure {
    /// The targets' negative log-likelihood.
    Loss,
    /// How far they are from the dense model's.
    Divergence(DenseRows),
}

/// What decode is without, and what it receives.
#[derive(Clone, Copy)]
struct DecodeChoice<'t> {
    decode: &'t BlockSet,
    transfer: &'t dyn CacheTransfer,
    /// Blocks whose keys and values it receives by that; those of the others by the base.
    own: &'t BlockSet,
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
///
/// ```
/// use std::ops::ControlFlow;
///
/// use pdtrim_core::objective::{Calibration, CalibrationLoss, Objective, Rows};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockSet, Boundary, PerStage};
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..17).collect(), (40..56).collect()], 12)?;
/// let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Prefill);
/// // Each block in turn, removed from decode alone.
/// let candidates: Vec<_> = (0..5)
///     .map(|block| Ok(PerStage {
///         prefill: BlockSet::empty(5),
///         decode: BlockSet::from_indices(5, [block])?,
///     }))
///     .collect::<pdtrim_core::Result<_>>()?;
/// let costs = loss.costs(&candidates, &mut |_, _| ControlFlow::Continue(()))?;
/// assert!(costs.iter().all(|cost| cost.is_finite()));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub struct CalibrationLoss<'a> {
    pub(super) models: PerStage<&'a dyn BlockModel>,
    pub(super) calibration: &'a Calibration,
    pub(super) rows: Rows,
    pub(super) boundary: Boundary,
    pub(super) measure: Measure,
    pairs: Option<PerStage<DistilledPairs<'a>>>,
    /// All for the same P, no window in two of them.
    prompt_runs: Mutex<Vec<Arc<PromptRun>>>,
    stems: Stems,
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
            pairs: None,
            prompt_runs: Mutex::new(Vec::new()),
            stems: Stems::default(),
        }
    }

    /// The same where a kept block stands for a pair, if the block after it is removed: it then runs with
    /// the weights that it has in `pairs`.
    ///
    /// # Errors
    ///
    /// [`Error::StageModels`] for models of other sizes.
    pub fn with_pairs(self, pairs: PerStage<DistilledPairs<'a>>) -> Result<Self> {
        for pairs in [&pairs.prefill, &pairs.decode] {
            stage_dims(PerStage {
                prefill: self.model(),
                decode: pairs.model(),
            })?;
        }
        Ok(Self {
            pairs: Some(pairs),
            ..self
        })
    }

    /// The windows.
    pub fn calibration(&self) -> &'a Calibration {
        self.calibration
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
        Passage {
            pairs: self.pairs.clone(),
            ..Passage::new(self.models, split)
        }
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

    fn known_runs(&self) -> MutexGuard<'_, Vec<Arc<PromptRun>>> {
        let runs = self.prompt_runs.lock();
        runs.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one candidate, by itself, takes less from the dense model's hidden states on than with
    /// prefill's side.
    fn is_alone(&self, candidates: &[PerStage<BlockSet>], units: &[usize]) -> bool {
        let [removed] = candidates else {
            return false;
        };
        let is_known = |run: &Arc<PromptRun>| run.prefill == removed.prefill && run.units == units;
        !self.known_runs().iter().any(is_known)
    }

    /// Prefill's side for `prefill` on some windows, computed once for as long as P stays the same.
    pub(super) fn prompt_run(
        &self,
        prefill: &BlockSet,
        units: &[usize],
        observes: usize,
    ) -> Result<Arc<PromptRun>> {
        let mut known = self.known_runs();
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
            for (stream, cache) in streams.iter_mut().zip(&mut caches) {
                if let Some(block) = passage.step_prompt(id, prefill, &mut stream.prompt) {
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
        base: &dyn CacheTransfer,
        choices: &[DecodeChoice<'_>],
        units: &[usize],
        report: &Report<'_, '_>,
    ) -> Result<Vec<Vec<f64>>> {
        let passage = self.passage();
        let own = choices.iter().map(|choice| choice.transfer);
        let transfers = own.chain([base]);
        let observes = transfers.map(CacheTransfer::observes).max().unwrap_or(0);
        let run = self.prompt_run(prefill, units, observes)?;
        let run = &*run;
        let received = Received::default();
        let step = |id: BlockId, choice: &DecodeChoice<'_>, streams: &mut Vec<Stream>| {
            if choice.decode.contains(id) {
                return Ok(());
            }
            for (n, (stream, group)) in streams.iter_mut().zip(&run.groups).enumerate() {
                let Some(hidden) = stream.continuation.take() else {
                    continue;
                };
                let cache = match group.cache.block(id) {
                    Some(cache) => received.block((n, id), cache, choice, base)?,
                    None => BlockCache::with_capacity(0),
                };
                let hidden = passage.step_continuation(id, choice.decode, hidden, cache);
                stream.continuation = Some(hidden);
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
        let first_difference = |a: &DecodeChoice<'_>, b: &DecodeChoice<'_>| {
            let own = [a, b]
                .into_iter()
                .filter_map(|choice| choice.own.iter().next());
            let own = own.map(BlockId::index).min().unwrap_or(self.depth());
            own.min(self.first_difference(Stage::Decode, a.decode, b.decode))
        };
        let sweep = Sweep {
            start: 0,
            depth: self.depth(),
            candidates: choices,
            by_block: self.model().holds_one_block(),
            in_parallel: *self.model().device() == Device::flex(),
            first_difference: &first_difference,
            step: &step,
            leave: &leave,
        };
        sweep.run(self.continuations(&passage, units)?, report)
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
        let first_difference = |a: &PerStage<BlockSet>, b: &PerStage<BlockSet>| {
            let of = |stage| self.first_difference(stage, a.of(stage), b.of(stage));
            of(Stage::Prefill).min(of(Stage::Decode))
        };
        let dense = PerStage::dense(self.depth());
        let first = candidates
            .iter()
            .map(|removed| first_difference(removed, &dense));
        let (start, streams) = self.stems.before(
            first.min().unwrap_or(self.depth()),
            units,
            || passage.enter(&self.windows(units)),
            |block, stream| passage.step(BlockId::new(block), &dense, stream),
        )?;
        let sweep = Sweep {
            start,
            depth: self.depth(),
            candidates,
            by_block: self.model().holds_one_block(),
            in_parallel: *self.model().device() == Device::flex(),
            first_difference: &first_difference,
            step: &step,
            leave: &leave,
        };
        sweep.run(streams, report)
    }

    /// The first block of `stage` that runs otherwise without the blocks `a` than without `b`; the depth if
    /// there is none.
    fn first_difference(&self, stage: Stage, a: &BlockSet, b: &BlockSet) -> usize {
        let first = first_in_one(a, b);
        let pairs = self.pairs.as_ref().map(|pairs| pairs.of(stage));
        match (first.checked_sub(1), pairs) {
            (Some(before), Some(pairs)) if pairs.has(BlockId::new(before)) => before,
            _ => first,
        }
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
        let by_both = !shared_prefill || self.is_alone(candidates, units);
        if by_both && self.rows != Rows::All {
            return self.both_costs(candidates, units, &report);
        }
        let none = BlockSet::empty(self.depth());
        let choices = candidates.iter().map(|candidate| DecodeChoice {
            decode: &candidate.decode,
            transfer: &SendAll,
            own: &none,
        });
        let choices: Vec<_> = choices.collect();
        self.decode_costs(&first.prefill, &SendAll, &choices, units, &report)
    }
}

/// The first block that is in one of two sets only; the depth if there is none.
fn first_in_one(a: &BlockSet, b: &BlockSet) -> usize {
    let differs = [a.difference(b), b.difference(a)];
    let first = differs.iter().filter_map(|set| set.iter().next()).min();
    first.map_or(a.depth(), BlockId::index)
}

/// Windows in a group whose prompt was run before.
fn group_size(stream: &Stream, group: &PromptGroup) -> usize {
    let continuation = stream.continuation.as_ref().map(|hidden| hidden.dims()[0]);
    continuation
        .or_else(|| group.last.as_ref().map(|last| last.dims()[0]))
        .unwrap_or(0)
}
