//! What each block is worth to each stage: one block removed at a time (arXiv:2509.04467v4's analysis).

use pdtrim_core::objective::mean_cost;
use pdtrim_core::{BlockId, BlockSet, PerStage};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ledger::Ledger;

/// The stages from which a block is removed.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_search::RemovedFrom;
///
/// let removed = RemovedFrom::Decode.stages(5, BlockId::new(3));
/// assert!(removed.prefill.is_empty());
/// assert_eq!(removed.decode.to_indices(), [3]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemovedFrom {
    /// Prefill alone, D = ∅: it still gives decode the block's keys and values.
    Prefill,
    /// Decode alone, P = ∅.
    Decode,
    /// Both.
    Both,
}

impl RemovedFrom {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Prefill, Self::Decode, Self::Both];

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Both => "both",
        }
    }

    /// The stages' sets with one block removed of a model with `depth`.
    ///
    /// # Panics
    ///
    /// Panics if `id` is not below the depth.
    pub fn stages(self, depth: usize, id: BlockId) -> PerStage<BlockSet> {
        let none = BlockSet::empty(depth);
        let one = none.with(id);
        match self {
            Self::Prefill => PerStage {
                prefill: one,
                decode: none,
            },
            Self::Decode => PerStage {
                prefill: none,
                decode: one,
            },
            Self::Both => PerStage::both(one),
        }
    }
}

/// What a removal costs beside the dense model.
///
/// ```
/// use pdtrim_search::CostChange;
///
/// // The same three windows, dense and without a block.
/// let change = CostChange::paired(&[3.0, 4.0, 5.0], &[3.5, 4.5, 5.5]);
/// assert_eq!((change.cost, change.rise), (4.5, 0.5));
/// assert_eq!(change.standard_error, Some(0.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostChange {
    /// The cost with it.
    pub cost: f64,
    /// The cost above the dense model's, mean over the units.
    pub rise: f64,
    /// Its standard error, from the units' differences (paired); `None` with one unit.
    pub standard_error: Option<f64>,
}

impl CostChange {
    /// From costs on the same units, at least one.
    pub fn paired(dense: &[f64], removed: &[f64]) -> Self {
        let n = dense.len() as f64;
        let differences: Vec<f64> = removed.iter().zip(dense).map(|(a, b)| a - b).collect();
        let rise = differences.iter().sum::<f64>() / n;
        let squares: f64 = differences.iter().map(|d| (d - rise).powi(2)).sum();
        Self {
            cost: mean_cost(removed),
            rise,
            standard_error: (dense.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()),
        }
    }
}

/// An objective's answer for every block and stage.
///
/// ```
/// use pdtrim_search::{Ledger, Sensitivity, Toy};
///
/// let objective = Toy::new(vec![9.0, 2.0, 1.0]);
/// let sensitivity = Sensitivity::measure(&mut Ledger::in_memory(&objective), &mut |_| {})?;
/// let rises: Vec<f64> = sensitivity.blocks.iter().map(|block| block.decode.rise).collect();
/// assert_eq!(rises, [9.0, 2.0, 1.0]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// Cost of the dense model.
    pub cost_dense: f64,
    /// One entry for each block.
    pub blocks: Vec<BlockSensitivity>,
}

/// The costs of removing one block.
///
/// ```
/// use pdtrim_search::{BlockSensitivity, CostChange, RemovedFrom};
///
/// let change = |removed| CostChange::paired(&[3.0], &[removed]);
/// let block = BlockSensitivity { prefill: change(3.5), decode: change(3.25), both: change(4.0) };
/// assert_eq!(block.of(RemovedFrom::Decode).rise, 0.25);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockSensitivity {
    /// From prefill alone.
    pub prefill: CostChange,
    /// From decode alone.
    pub decode: CostChange,
    /// From both.
    pub both: CostChange,
}

impl BlockSensitivity {
    /// The change of one removal.
    pub fn of(&self, removed_from: RemovedFrom) -> CostChange {
        match removed_from {
            RemovedFrom::Prefill => self.prefill,
            RemovedFrom::Decode => self.decode,
            RemovedFrom::Both => self.both,
        }
    }
}

impl Sensitivity {
    /// Evaluations of a candidate on a unit that [`measure`](Self::measure) settles.
    pub fn evaluations(ledger: &Ledger<'_>) -> usize {
        (1 + RemovedFrom::ALL.len() * ledger.depth()) * ledger.units()
    }

    /// Removes each block in turn. `on_units` hears of evaluations on units as they are made or found to be
    /// known.
    ///
    /// # Errors
    ///
    /// [`Error::Objective`](crate::Error::Objective).
    pub fn measure(
        ledger: &mut Ledger<'_>,
        on_units: &mut (dyn FnMut(usize) + Send),
    ) -> Result<Self> {
        let depth = ledger.depth();
        let units: Vec<usize> = (0..ledger.units()).collect();
        let mut costs = |candidates: &[PerStage<BlockSet>]| {
            let mut unsettled = candidates.len() * units.len();
            let found = ledger.unit_costs(candidates, &units, &mut |settled, _| {
                unsettled -= settled;
                on_units(settled);
            })?;
            on_units(unsettled);
            Ok::<_, crate::Error>(found)
        };
        let dense = costs(&[PerStage::dense(depth)])?.swap_remove(0);
        // Decode's candidates share their prompts; so each kind is asked for by itself.
        let mut of = |removed_from: RemovedFrom| {
            let ids = (0..depth).map(BlockId::new);
            let candidates: Vec<_> = ids.map(|id| removed_from.stages(depth, id)).collect();
            let costs = costs(&candidates)?;
            let change = |costs: &Vec<f64>| CostChange::paired(&dense, costs);
            Ok::<_, crate::Error>(costs.iter().map(change).collect::<Vec<_>>())
        };
        let prefill = of(RemovedFrom::Prefill)?;
        let decode = of(RemovedFrom::Decode)?;
        let both = of(RemovedFrom::Both)?;
        let blocks = prefill.into_iter().zip(decode).zip(both);
        let blocks = blocks.map(|((prefill, decode), both)| BlockSensitivity {
            prefill,
            decode,
            both,
        });
        Ok(Self {
            cost_dense: mean_cost(&dense),
            blocks: blocks.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Toy;

    #[test]
    fn a_paired_rise_and_its_error_are_those_worked_by_hand() {
        // Differences 1, 2, 6: mean 3, variance 7, standard error of the mean sqrt(7 / 3).
        let change = CostChange::paired(&[1.0, 5.0, 2.0], &[2.0, 7.0, 8.0]);
        assert!((change.rise - 3.0).abs() < 1e-12);
        assert!((change.cost - 17.0 / 3.0).abs() < 1e-6);
        let error = change.standard_error.unwrap();
        assert!((error - (7.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(CostChange::paired(&[1.0], &[2.0]).standard_error, None);
    }

    #[test]
    fn every_block_is_removed_from_every_stage_once() {
        let toy = Toy::new(vec![4.0, 2.0, 1.0]);
        let mut ledger = Ledger::in_memory(&toy);
        let mut settled = 0;
        let found = Sensitivity::measure(&mut ledger, &mut |units| settled += units).unwrap();
        assert_eq!(settled, Sensitivity::evaluations(&ledger));
        assert_eq!(ledger.trace().len(), 1 + 3 * 3);
        assert!(found.cost_dense.abs() < 1e-12);
        for (block, cost) in found.blocks.iter().zip([4.0, 2.0, 1.0]) {
            for removed_from in RemovedFrom::ALL {
                assert!((block.of(removed_from).rise - cost).abs() < 1e-12);
            }
        }
    }
}
