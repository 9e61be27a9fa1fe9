//! J with what a transfer lets through.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use super::{CalibrationLoss, DecodeChoice};
use crate::block::{BlockId, BlockSet};
use crate::cache::BlockCache;
use crate::error::Result;
use crate::objective::sweep::Report;
use crate::objective::{Objective, OnCost, OnUnitCosts, mean_cost};
use crate::pipeline::CacheTransfer;
use crate::stage::PerStage;

/// A transfer to measure, and the blocks that it treats differently from the base.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows, TransferCandidate};
/// use pdtrim_core::pipeline::SendAll;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockSet, Boundary, PerStage};
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Prefill);
/// // A candidate that differs nowhere costs what the base costs.
/// let same = TransferCandidate { transfer: &SendAll, differs_in: BlockSet::empty(5) };
/// let dense = PerStage::dense(5);
/// let mut go_on = |_, _| ControlFlow::Continue(());
/// let costs = loss.transfer_costs(&dense, &SendAll, &[same], &mut go_on)?;
/// assert_eq!(costs, [loss.cost_with(&dense, &SendAll)?]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone)]
pub struct TransferCandidate<'t> {
    /// The transfer.
    pub transfer: &'t dyn CacheTransfer,
    /// Of all others it makes the same as the base.
    pub differs_in: BlockSet,
}

impl CalibrationLoss<'_> {
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
            differs_in: BlockSet::empty(self.depth()),
        };
        let costs = self.transfer_costs(removed, transfer, &[whole], &mut |_, _| {
            ControlFlow::Continue(())
        })?;
        Ok(costs[0])
    }

    /// J with `removed` and what each candidate lets through. Blocks before the first in which a
    /// candidate differs from `base` are run once for all, and what `base` makes of a block's keys and
    /// values is made once for all that do not differ there.
    ///
    /// # Errors
    ///
    /// As [`cost_with`](Self::cost_with), and [`Error::Stopped`](crate::Error::Stopped) if `on_cost`
    /// broke off.
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
        let choices = candidates.iter().map(|candidate| DecodeChoice {
            decode: &removed.decode,
            transfer: candidate.transfer,
            own: &candidate.differs_in,
        });
        let choices: Vec<_> = choices.collect();
        self.decode_costs(
            &removed.prefill,
            base,
            &choices,
            &self.all_units(),
            &Report::new(on_costs),
        )
    }
}

/// What the base's transfer made of keys and values, by group of windows and block.
#[derive(Default)]
pub(super) struct Received {
    known: Mutex<BTreeMap<(usize, BlockId), BlockCache>>,
}

impl Received {
    /// What decode receives of `cache`.
    pub(super) fn block(
        &self,
        place: (usize, BlockId),
        cache: &BlockCache,
        choice: &DecodeChoice<'_>,
        base: &dyn CacheTransfer,
    ) -> Result<BlockCache> {
        let id = place.1;
        if choice.own.contains(id) {
            return Ok(choice.transfer.transfer(id, cache.clone())?.cache);
        }
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(received) = known().get(&place) {
            return Ok(received.clone());
        }
        // Not under the lock: a transfer may run on the threads that wait for it.
        let received = base.transfer(id, cache.clone())?.cache;
        known().insert(place, received.clone());
        Ok(received)
    }
}
