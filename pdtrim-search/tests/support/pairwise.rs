//! An objective in which blocks interact, without a model.

#![allow(dead_code, reason = "each test file uses a part of this module")]

use std::ops::ControlFlow;
use std::sync::Mutex;

use pdtrim_core::objective::{Objective, OnCost};
use pdtrim_core::{BlockSet, Error, PerStage};

/// Each removed block costs something, and each two removed blocks cost something more or less.
pub(crate) struct Pairwise {
    depth: usize,
    /// `[a · depth + b]` with a ≤ b; a = b is the block alone.
    costs: Vec<f64>,
    evaluated: Mutex<Vec<PerStage<BlockSet>>>,
}

impl Pairwise {
    /// `costs[a · depth + b]` is what a and b cost together beside what each costs alone, which is
    /// `costs[a · depth + a]`. Entries with a > b do not count.
    pub(crate) fn new(depth: usize, costs: Vec<f64>) -> Self {
        Self {
            depth,
            costs,
            evaluated: Mutex::new(Vec::new()),
        }
    }

    /// Of six blocks the first and the last are dear; 1 is the cheapest alone, but not beside 2 or 3,
    /// which together are the cheapest two. From {1, 4}, the greedy choice, every swap is for the worse.
    pub(crate) fn trap() -> Self {
        let mut costs = vec![0.0; 36];
        let entries = [
            ((0, 0), 9.0),
            ((5, 5), 9.0),
            ((1, 1), 1.0),
            ((2, 2), 1.5),
            ((3, 3), 1.5),
            ((4, 4), 3.0),
            ((1, 2), 5.0),
            ((1, 3), 5.0),
            ((2, 4), 2.0),
            ((3, 4), 2.0),
        ];
        for ((a, b), cost) in entries {
            costs[a * 6 + b] = cost;
        }
        Self::new(6, costs)
    }

    pub(crate) fn cost(&self, removed: &BlockSet) -> f64 {
        let blocks = removed.to_indices();
        let mut sum = 0.0;
        for (n, a) in blocks.iter().enumerate() {
            for b in &blocks[n..] {
                sum += self.costs[a * self.depth + b];
            }
        }
        (sum * 1e6).round() / 1e6
    }

    /// Everything that was evaluated since the last call.
    pub(crate) fn evaluated(&self) -> Vec<PerStage<BlockSet>> {
        std::mem::take(&mut self.evaluated.lock().unwrap())
    }
}

impl Objective for Pairwise {
    fn depth(&self) -> usize {
        self.depth
    }

    fn costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        on_cost: &mut OnCost<'_>,
    ) -> Result<Vec<f64>, Error> {
        let mut costs = Vec::new();
        for (n, candidate) in candidates.iter().enumerate() {
            let cost = self.cost(&candidate.prefill.union(&candidate.decode));
            self.evaluated.lock().unwrap().push(candidate.clone());
            if on_cost(n, cost) == ControlFlow::Break(()) {
                return Err(Error::Stopped);
            }
            costs.push(cost);
        }
        Ok(costs)
    }
}
