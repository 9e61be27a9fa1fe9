//! Every strategy on objectives without a model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/journal.rs"]
mod journal;
#[path = "support/pairwise.rs"]
mod pairwise;

use std::num::NonZeroUsize;

use journal::untimed;
use pairwise::Pairwise;
use pdtrim_core::objective::{Objective, OnCost, OnUnitCosts};
use pdtrim_core::{BlockSet, Error as CoreError, PerStage};
use pdtrim_search::{
    Annealing, Beam, Error, Exact, Ledger, PdTrim, Problem, Racing, Random, ShortGpt, ShortenedPpl,
    ShortenedTaylor, Sleb, Step, Strategy, Target, Toy,
};
use proptest::prelude::*;

/// Those that look at costs.
fn measuring_strategies() -> Vec<Box<dyn Strategy>> {
    let annealing = Annealing {
        steps: 30,
        ..Annealing::default()
    };
    let width = NonZeroUsize::new(3).unwrap();
    vec![
        Box::new(PdTrim::new(annealing).unwrap()),
        Box::new(Sleb::default()),
        Box::new(Beam {
            width,
            racing: Racing::default(),
        }),
        Box::new(Exact::default()),
        Box::new(ShortenedPpl),
    ]
}

fn strategies() -> Vec<Box<dyn Strategy>> {
    let mut strategies = measuring_strategies();
    strategies.push(Box::new(ShortGpt));
    strategies.push(Box::new(ShortenedTaylor));
    strategies.push(Box::new(Random { seed: 3 }));
    strategies
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
        table in proptest::collection::vec((0.0_f64..9.0, -1.0_f64..1.0), 5..11), share in 0.0_f64..1.0,
    ) {
        let (costs, redundancy): (Vec<f64>, Vec<f64>) = table.into_iter().unzip();
        let depth = costs.len();
        let count = ((depth - 2) as f64 * share) as usize;
        let prefill = BlockSet::from_indices(depth, (1..=count / 2).collect::<Vec<_>>()).unwrap();
        let decode = |nested| Target::Decode { prefill: prefill.clone(), nested };
        for target in [Target::Prefill, Target::Unified, decode(true), decode(false)] {
            let nested = target == decode(true);
            let problem = Problem::new(target, &redundancy, count, true).unwrap();
            let problem = problem.with_importance(&costs).unwrap();
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
fn shortened_taylor_takes_the_least_important_and_the_ends_last() {
    let mut importance = [5.0, 0.1, 0.2, 0.3, 9.0, 7.0, 8.0, 7.0, 0.4, 5.0];
    let removed = |importance: &[f64], count, protect| {
        let problem = Problem::new(Target::Unified, &[0.0; 10], count, protect).unwrap();
        let problem = problem.with_importance(importance).unwrap();
        search(&ShortenedTaylor, &problem, &[0.0; 10]).to_indices()
    };
    // Of 4 to 7, ties to the lowest; 0 to 3, 8 and 9 are protected though they matter less.
    assert_eq!(removed(&importance, 1, true), [5]);
    assert_eq!(removed(&importance, 2, true), [5, 7]);
    assert_eq!(removed(&importance, 4, false), [4, 5, 6, 7]);
    // No others are left: the protected go too, but not what the problem protects.
    assert_eq!(removed(&importance, 5, true), [1, 4, 5, 6, 7]);
    assert_eq!(removed(&importance, 8, true), [1, 2, 3, 4, 5, 6, 7, 8]);
    importance[9] = 0.0;
    assert_eq!(removed(&importance, 5, false), [4, 5, 6, 7, 9]);
}

#[test]
fn importance_that_is_missing_or_wrong_is_refused() {
    let problem = || Problem::new(Target::Unified, &[0.0; 9], 2, true).unwrap();
    let toy = Toy::new(vec![0.0; 9]);
    let found = ShortenedTaylor.search(&problem(), &mut Ledger::in_memory(&toy), &mut |_| {});
    assert!(matches!(found, Err(Error::NoImportance { .. })));
    assert!(matches!(
        problem().with_importance(&[1.0; 8]),
        Err(Error::ImportanceLength {
            expected: 9,
            found: 8
        })
    ));
    let mut broken = [1.0; 9];
    broken[3] = f64::INFINITY;
    assert!(matches!(
        problem().with_importance(&broken),
        Err(Error::ImportanceNotFinite { block: 3, .. })
    ));
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
    let costs = (0..81).map(|n| f64::from((n * 37) % 101) / 50.0).collect();
    let objective = Pairwise::new(9, costs);
    let problem = Problem::new(Target::Unified, &[0.0; 9], 3, true).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.jsonl");
    for strategy in measuring_strategies() {
        let resumed = || {
            let mut ledger = Ledger::resume(&objective, &path, strategy.name()).unwrap();
            let found = strategy.search(&problem, &mut ledger, &mut |_| {}).unwrap();
            (found, ledger.trace().to_vec())
        };
        let whole = resumed();
        let journal = std::fs::read(&path).unwrap();
        for cut in (0..=journal.len()).step_by(61) {
            std::fs::write(&path, &journal[..cut]).unwrap();
            assert_eq!(resumed(), whole, "{}", strategy.name());
            let again = std::fs::read(&path).unwrap();
            assert_eq!(untimed(&again), untimed(&journal), "cut at {cut}");
        }
    }
}

#[test]
fn a_search_settles_what_it_planned_and_announces_what_it_chose() {
    let costs = (0..81).map(|n| f64::from((n * 37) % 101) / 50.0).collect();
    let objective = Pairwise::new(9, costs);
    let given = BlockSet::from_indices(9, [3]).unwrap();
    for strategy in strategies() {
        for count in 1..5 {
            let target = Target::Decode {
                prefill: given.clone(),
                nested: true,
            };
            let problem = Problem::new(target, &[0.0; 9], count, true).unwrap();
            let problem = problem.with_importance(&[1.0; 9]).unwrap();
            let (mut planned, mut settled, mut chosen) = (0, 0, given.clone());
            let mut last = None;
            let mut ledger = Ledger::in_memory(&objective);
            let found = strategy.search(&problem, &mut ledger, &mut |step| match step {
                Step::Planned(evaluations) => planned += evaluations,
                Step::Settled(evaluations) => settled += evaluations,
                Step::Chosen { block, cost } => {
                    chosen = chosen.with(block);
                    last = cost;
                }
                Step::Evaluated(_) => {}
            });
            let found = found.unwrap();
            assert_eq!(settled, planned, "{}", strategy.name());
            assert_eq!(chosen, found, "{}", strategy.name());
            assert!(last.is_none_or(|cost: f64| (cost - objective.cost(&found)).abs() < 1e-9));
        }
    }
}

#[test]
fn shortened_ppl_measures_each_block_alone_and_only_once() {
    let trap = Pairwise::trap();
    let problem = Problem::new(Target::Unified, &[0.0; 6], 2, true).unwrap();
    let mut ledger = Ledger::in_memory(&trap);
    let removed = ShortenedPpl
        .search(&problem, &mut ledger, &mut |_| {})
        .unwrap();
    // Cheapest alone, though together they are dear.
    assert_eq!(removed.to_indices(), [1, 2]);
    assert_eq!(ledger.trace().len(), 4);
}

/// Not a number as soon as block 2 is gone, as from weights that overflow.
struct Broken;

impl Objective for Broken {
    fn depth(&self) -> usize {
        5
    }

    fn units(&self) -> usize {
        2
    }

    fn costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        on_cost: &mut OnCost<'_>,
    ) -> Result<Vec<f64>, CoreError> {
        let costs = self.unit_costs(candidates, &[0, 1], &mut |n, costs| on_cost(n, costs[1]))?;
        Ok(costs.into_iter().map(|costs| costs[1]).collect())
    }

    fn unit_costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        units: &[usize],
        on_costs: &mut OnUnitCosts<'_>,
    ) -> Result<Vec<Vec<f64>>, CoreError> {
        let cost = |candidate: &PerStage<BlockSet>, unit: usize| {
            let broken = candidate.decode.to_indices().contains(&2) && unit == 1;
            if broken { f64::NAN } else { 1.0 }
        };
        let mut all = Vec::new();
        for (n, candidate) in candidates.iter().enumerate() {
            let costs: Vec<f64> = units.iter().map(|&unit| cost(candidate, unit)).collect();
            if on_costs(n, &costs).is_break() {
                return Err(CoreError::Stopped);
            }
            all.push(costs);
        }
        Ok(all)
    }
}

#[test]
fn a_cost_that_is_no_number_is_an_error_that_names_the_candidate() {
    let prefill = BlockSet::from_indices(5, [3]).unwrap();
    let target = Target::Decode {
        prefill,
        nested: false,
    };
    let problem = Problem::new(target, &[0.0, 0.1, 0.9, 0.1, 0.0], 1, true).unwrap();
    let raced = Sleb {
        racing: Racing::new(0.1, 0).unwrap(),
    };
    let mut strategies = measuring_strategies();
    strategies.push(Box::new(raced));
    let folder = tempfile::tempdir().unwrap();
    for (n, strategy) in strategies.into_iter().enumerate() {
        let path = folder.path().join(n.to_string());
        for _ in 0..2 {
            // Nor is it kept: the same again from the journal.
            let mut ledger = Ledger::resume(&Broken, &path, "broken").unwrap();
            let failed = strategy.search(&problem, &mut ledger, &mut |_| {});
            let error = failed.unwrap_err();
            assert!(matches!(error, Error::CostNotFinite { .. }));
            assert_eq!(
                error.to_string(),
                "the loss with blocks 3 removed from prefill and blocks 2 from decode is NaN, not a \
                finite number"
            );
        }
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
    let nan = Problem::new(Target::Unified, &[0.5, f64::NAN, 0.5], 1, true);
    assert!(matches!(nan, Err(Error::NanRedundancy { block: 1 })));
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
