//! An objective without a model.

use std::ops::ControlFlow;

use pdtrim_core::objective::{Objective, OnCost};
use pdtrim_core::{BlockSet, Error, PerStage};

/// Each removed block costs a fixed amount, in whichever stage it is removed: for examples and tests.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use pdtrim_core::objective::Objective;
/// use pdtrim_core::{BlockSet, PerStage};
/// use pdtrim_search::Toy;
///
/// let objective = Toy::new(vec![9.0, 2.0, 1.0]);
/// let both = PerStage::both(BlockSet::from_indices(3, [1, 2])?);
/// assert_eq!(objective.costs(&[both], &mut |_, _| ControlFlow::Continue(()))?, [3.0]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Toy {
    costs: Vec<f64>,
}

impl Toy {
    /// Block l costs `costs[l]`.
    pub fn new(costs: Vec<f64>) -> Self {
        Self { costs }
    }
}

impl Objective for Toy {
    fn depth(&self) -> usize {
        self.costs.len()
    }

    fn costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        on_cost: &mut OnCost<'_>,
    ) -> Result<Vec<f64>, Error> {
        let cost = |candidate: &PerStage<BlockSet>| {
            candidate
                .prefill
                .union(&candidate.decode)
                .iter()
                .map(|id| self.costs[id.index()])
                .sum()
        };
        let costs: Vec<f64> = candidates.iter().map(cost).collect();
        for (index, &cost) in costs.iter().enumerate() {
            if let ControlFlow::Break(()) = on_cost(index, cost) {
                return Err(Error::Stopped);
            }
        }
        Ok(costs)
    }
}
