//! A pair of sets with its cost.

use std::cmp::Ordering;

use pdtrim_core::{BlockSet, PerStage};

/// What is removed from each stage, and what that costs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub(super) removed: PerStage<BlockSet>,
    pub(super) cost: f64,
}

impl State {
    /// By cost; by the blocks where costs are equal, so that ties go to the lowest.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let by_cost = self.cost.total_cmp(&other.cost);
        by_cost.then_with(|| self.removed.cmp(&other.removed))
    }
}
