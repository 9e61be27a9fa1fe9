//! Candidates on their way through the blocks, sharing what they have in common.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::OnUnitCosts;
use super::stream::Stream;
use crate::block::BlockId;
use crate::error::{Error, Result};

/// Passes costs on to the caller, from whichever thread has one.
pub(super) struct Report<'f, 'c> {
    on_costs: Mutex<&'f mut OnUnitCosts<'c>>,
}

impl<'f, 'c> Report<'f, 'c> {
    pub(super) fn new(on_costs: &'f mut OnUnitCosts<'c>) -> Self {
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
pub(super) struct Sweep<'s, C, S, L> {
    pub(super) by_block: bool,
    /// On the CPU; an accelerator has one queue for each thread, and gains nothing from several.
    pub(super) in_parallel: bool,
    pub(super) depth: usize,
    pub(super) base: &'s C,
    pub(super) candidates: &'s [C],
    pub(super) step: &'s S,
    pub(super) leave: &'s L,
}

impl<C, S, L> Sweep<'_, C, S, L>
where
    C: Sync,
    S: Fn(BlockId, &C, &mut Vec<Stream>) -> Result<()> + Sync,
    L: Fn(Vec<Stream>) -> Vec<f64> + Sync,
{
    /// `forks[n]` is the first block in which candidate n differs.
    pub(super) fn run(
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
