//! Both stages' sets chosen together.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::ControlFlow;

use pdtrim_core::objective::{Objective, OnCost};
use pdtrim_core::{BlockSet, Error, PerStage};
use pdtrim_search::{Annealing, Ledger, PdTrim, ShortGpt, Sleb, StageProblem, Strategy};
use proptest::prelude::*;

/// Each block costs something in prefill, and something else in decode.
struct ByStage(PerStage<Vec<f64>>);

impl ByStage {
    fn cost(&self, removed: &PerStage<BlockSet>) -> f64 {
        let sum =
            |set: &BlockSet, costs: &[f64]| -> f64 { set.iter().map(|id| costs[id.index()]).sum() };
        sum(&removed.prefill, &self.0.prefill) + sum(&removed.decode, &self.0.decode)
    }
}

impl Objective for ByStage {
    fn depth(&self) -> usize {
        self.0.decode.len()
    }

    fn costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        on_cost: &mut OnCost<'_>,
    ) -> Result<Vec<f64>, Error> {
        let costs: Vec<f64> = candidates
            .iter()
            .map(|removed| self.cost(removed))
            .collect();
        for (index, &cost) in costs.iter().enumerate() {
            if let ControlFlow::Break(()) = on_cost(index, cost) {
                return Err(Error::Stopped);
            }
        }
        Ok(costs)
    }
}

fn pdtrim(seed: u64) -> PdTrim<'static> {
    PdTrim::new(Annealing {
        steps: 20,
        seed,
        ..Annealing::default()
    })
    .unwrap()
}

fn found(
    objective: &ByStage,
    counts: [usize; 2],
    nested: bool,
    strategy: &dyn Strategy,
) -> PerStage<BlockSet> {
    let problem = StageProblem {
        redundancy: &PerStage::both(vec![0.5; objective.depth()]),
        importance: None,
        counts: PerStage {
            prefill: counts[0],
            decode: counts[1],
        },
        nested,
        protect_ends: false,
    };
    let mut ledger = Ledger::in_memory(objective);
    problem
        .search(strategy, &mut ledger, &mut |_, _| {})
        .unwrap()
}

#[test]
fn a_block_that_only_prefill_can_spare_is_not_taken_from_both() {
    // Prefill alone would do without block 3, which costs decode 5.
    let objective = ByStage(PerStage {
        prefill: vec![9.0, 0.5, 1.0, 0.1, 9.0],
        decode: vec![9.0, 0.2, 0.3, 5.0, 9.0],
    });
    let by_stage = found(&objective, [1, 2], true, &Sleb::default());
    assert_eq!(
        (by_stage.prefill.to_indices(), by_stage.decode.to_indices()),
        (vec![3], vec![1, 3])
    );
    let together = found(&objective, [1, 2], true, &pdtrim(0));
    assert_eq!(
        (together.prefill.to_indices(), together.decode.to_indices()),
        (vec![1], vec![1, 2])
    );
    // Where decode may keep it, it is the right one.
    let apart = found(&objective, [1, 2], false, &pdtrim(0));
    assert_eq!(
        (apart.prefill.to_indices(), apart.decode.to_indices()),
        (vec![3], vec![1, 2])
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_pair_is_valid_and_no_move_of_one_block_makes_it_cheaper(
        prefill in proptest::collection::vec(-1.0_f64..3.0, 8),
        decode in proptest::collection::vec(-1.0_f64..3.0, 8),
        counts in (0_usize..4, 0_usize..4), nested in any::<bool>(), seed in any::<u64>(),
    ) {
        let objective = ByStage(PerStage { prefill, decode });
        let counts = [counts.0, if nested { counts.0 + counts.1 } else { counts.1 }];
        let together = found(&objective, counts, nested, &pdtrim(seed));
        prop_assert_eq!((together.prefill.len(), together.decode.len()), (counts[0], counts[1]));
        prop_assert!(!nested || together.prefill.is_subset(&together.decode));
        let redundant = found(&objective, counts, nested, &ShortGpt);
        prop_assert!(objective.cost(&together) <= objective.cost(&redundant) + 1e-9);
        let moved = |prefill: BlockSet, decode: BlockSet| {
            objective.cost(&PerStage { prefill, decode }) >= objective.cost(&together) - 1e-9
        };
        let PerStage { prefill, decode } = &together;
        let (own, kept) = (decode.difference(prefill), decode.complement());
        for back in if nested { own.clone() } else { decode.clone() }.iter() {
            for gone in kept.iter() {
                prop_assert!(moved(prefill.clone(), decode.without(back).with(gone)));
            }
        }
        for back in prefill.iter() {
            for gone in if nested { own.clone() } else { prefill.complement() }.iter() {
                prop_assert!(moved(prefill.without(back).with(gone), decode.clone()));
            }
            for gone in kept.iter().filter(|_| nested) {
                prop_assert!(moved(prefill.without(back).with(gone), decode.without(back).with(gone)));
            }
        }
    }
}
