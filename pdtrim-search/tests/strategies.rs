//! Every strategy on objectives without a model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pdtrim_core::objective::{Objective, OnCost};
use pdtrim_core::{BlockSet, Error as CoreError, PerStage};
use pdtrim_search::{Error, Ledger, Problem, Random, ShortGpt, Sleb, Step, Strategy, Target, Toy};
use proptest::prelude::*;

fn strategies() -> Vec<Box<dyn Strategy>> {
    vec![
        Box::new(Sleb::default()),
        Box::new(ShortGpt),
        Box::new(Random { seed: 3 }),
    ]
}

fn search(strategy: &dyn Strategy, problem: &Problem, costs: &[f64]) -> BlockSet {
    let toy = Toy::new(costs.to_vec());
    strategy
        .search(problem, &mut Ledger::in_memory(&toy), &mut |_| {})
        .unwrap()
}

proptest! {
    #[test]
    fn every_strategy_removes_exactly_the_asked_number_and_keeps_the_ends(
        table in proptest::collection::vec((0.0_f64..9.0, -1.0_f64..1.0), 5..14), share in 0.0_f64..1.0,
    ) {
        let (costs, redundancy): (Vec<f64>, Vec<f64>) = table.into_iter().unzip();
        let depth = costs.len();
        let count = ((depth - 2) as f64 * share) as usize;
        let prefill = BlockSet::from_indices(depth, (1..=count / 2).collect::<Vec<_>>()).unwrap();
        let targets = [Target::Prefill, Target::Unified, Target::Decode { prefill: prefill.clone(), nested: true }];
        for target in targets {
            let nested = matches!(target, Target::Decode { .. });
            let problem = Problem::new(target, &redundancy, count, true).unwrap();
            for strategy in strategies() {
                let removed = search(strategy.as_ref(), &problem, &costs);
                prop_assert_eq!(removed.len(), count, "{}", strategy.name());
                prop_assert!(!removed.to_indices().contains(&0) && !removed.to_indices().contains(&(depth - 1)));
                prop_assert!(!nested || prefill.is_subset(&removed));
                prop_assert_eq!(search(strategy.as_ref(), &problem, &costs), removed);
            }
        }
    }

    #[test]
    fn sleb_finds_the_cheapest_set_when_costs_add_up(costs in proptest::collection::vec(0.0_f64..9.0, 4..12)) {
        let depth = costs.len();
        let problem = Problem::new(Target::Unified, &vec![0.0; depth], depth / 2, false).unwrap();
        let removed = search(&Sleb::default(), &problem, &costs);
        let dearest = removed.iter().map(|id| costs[id.index()]).fold(0.0, f64::max);
        prop_assert!(removed.complement().iter().all(|id| costs[id.index()] >= dearest));
    }
}

#[test]
fn ties_go_to_the_lowest_block() {
    let problem = Problem::new(Target::Prefill, &[0.5; 6], 2, true).unwrap();
    assert_eq!(
        search(&Sleb::default(), &problem, &[1.0; 6]).to_indices(),
        [1, 2]
    );
    assert_eq!(search(&ShortGpt, &problem, &[1.0; 6]).to_indices(), [1, 2]);
}

#[test]
fn shortgpt_takes_the_most_redundant() {
    let problem = Problem::new(Target::Unified, &[0.99, 0.2, 0.9, 0.95, 0.99], 2, true).unwrap();
    assert_eq!(search(&ShortGpt, &problem, &[0.0; 5]).to_indices(), [2, 3]);
}

#[test]
fn random_draws_differ_by_seed() {
    let problem = Problem::new(Target::Unified, &[0.0; 30], 6, true).unwrap();
    let draws: Vec<_> = (0..5)
        .map(|seed| search(&Random { seed }, &problem, &[0.0; 30]))
        .collect();
    assert!(draws.windows(2).any(|pair| pair[0] != pair[1]));
}

/// Removing block 1 makes block 2 dear and block 3 cheap: a one-shot choice would be wrong.
struct Interacting;

impl Objective for Interacting {
    fn depth(&self) -> usize {
        5
    }

    fn costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        on_cost: &mut OnCost<'_>,
    ) -> Result<Vec<f64>, CoreError> {
        let cost = |candidate: &PerStage<BlockSet>| {
            let removed = candidate.decode.to_indices();
            let has = |block| removed.contains(&block);
            f64::from(u8::from(has(1)))
                + if has(1) && has(2) { 9.0 } else { 0.0 }
                + if has(2) { 2.0 } else { 0.0 }
                + if has(3) {
                    if has(1) { 0.5 } else { 3.0 }
                } else {
                    0.0
                }
        };
        let costs: Vec<f64> = candidates.iter().map(cost).collect();
        costs.iter().enumerate().for_each(|(index, cost)| {
            let _ = on_cost(index, *cost);
        });
        Ok(costs)
    }
}

#[test]
fn sleb_measures_again_after_each_removal() {
    let problem = Problem::new(Target::Unified, &[0.0; 5], 2, true).unwrap();
    let mut ledger = Ledger::in_memory(&Interacting);
    let mut chosen = Vec::new();
    let removed = Sleb::default().search(&problem, &mut ledger, &mut |step| {
        if let Step::Chosen { block, .. } = step {
            chosen.push(block.index());
        }
    });
    assert_eq!(removed.unwrap().to_indices(), [1, 3]);
    assert_eq!(chosen, [1, 3]);
    // Three candidates, then the two that are left.
    assert_eq!(ledger.trace().len(), 5);
}

#[test]
fn a_search_stopped_anywhere_and_resumed_decides_the_same() {
    let costs: Vec<f64> = (0..12).map(|block| f64::from((block * 7) % 12)).collect();
    let toy = Toy::new(costs.clone());
    let problem = Problem::new(Target::Unified, &[0.0; 12], 4, true).unwrap();
    let whole = search(&Sleb::default(), &problem, &costs);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.jsonl");
    let mut ledger = Ledger::resume(&toy, &path, "toy").unwrap();
    Sleb::default()
        .search(&problem, &mut ledger, &mut |_| {})
        .unwrap();
    let journal = std::fs::read(&path).unwrap();
    for cut in (0..=journal.len()).step_by(17) {
        std::fs::write(&path, &journal[..cut]).unwrap();
        let mut ledger = Ledger::resume(&toy, &path, "toy").unwrap();
        assert_eq!(
            Sleb::default()
                .search(&problem, &mut ledger, &mut |_| {})
                .unwrap(),
            whole
        );
        assert_eq!(std::fs::read(&path).unwrap(), journal, "cut at {cut}");
    }
}

#[test]
fn impossible_problems_are_refused() {
    let new = |target, count, protect| Problem::new(target, &[0.0; 5], count, protect);
    assert!(matches!(
        new(Target::Unified, 4, true),
        Err(Error::TooMany {
            count: 4,
            removable: 3,
            ..
        })
    ));
    assert!(matches!(
        new(Target::Unified, 5, false),
        Err(Error::TooMany { removable: 4, .. })
    ));
    let prefill = BlockSet::from_indices(5, [1, 2]).unwrap();
    let decode = |nested| Target::Decode {
        prefill: prefill.clone(),
        nested,
    };
    assert!(matches!(
        new(decode(true), 1, true),
        Err(Error::FewerThanNested {
            count: 1,
            nested: 2
        })
    ));
    assert!(new(decode(false), 1, true).is_ok());
    let other = Target::Decode {
        prefill: BlockSet::empty(6),
        nested: true,
    };
    assert!(matches!(
        new(other, 1, true),
        Err(Error::RedundancyLength {
            expected: 6,
            found: 5
        })
    ));
}
