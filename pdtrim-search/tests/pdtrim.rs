//! `pdtrim` against all sets, its start and its neighbours; beam and exact search beside it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/pairwise.rs"]
mod pairwise;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use pairwise::Pairwise;
use pdtrim_core::objective::{Calibration, CalibrationLoss, Objective, Rows};
use pdtrim_core::testing::TinyModel;
use pdtrim_core::{BlockSet, Boundary};
use pdtrim_search::{
    Annealing, Beam, Error, Exact, Ledger, PdTrim, Problem, Racing, ShortGpt, Sleb, Strategy,
    Target, Toy, Validation,
};
use proptest::prelude::*;

fn pdtrim<'v>(start_temperature: f64, seed: u64) -> PdTrim<'v> {
    let annealing = Annealing {
        start_temperature,
        seed,
        ..Annealing::default()
    };
    PdTrim::new(annealing).unwrap()
}

fn beam(width: usize) -> Beam {
    Beam {
        width: NonZeroUsize::new(width).unwrap(),
        racing: Racing::default(),
    }
}

fn search(strategy: &dyn Strategy, problem: &Problem, objective: &dyn Objective) -> BlockSet {
    strategy
        .search(problem, &mut Ledger::in_memory(objective), &mut |_| {})
        .unwrap()
}

/// Every target of a model of `depth` blocks, with blocks 1 and 2 out of prefill.
fn targets(depth: usize) -> [Target; 4] {
    let prefill = BlockSet::from_indices(depth, [1, 2]).unwrap();
    let decode = |nested| Target::Decode {
        prefill: prefill.clone(),
        nested,
    };
    [
        Target::Prefill,
        Target::Unified,
        decode(true),
        decode(false),
    ]
}

#[test]
fn where_greedy_is_trapped_the_others_find_the_best_set() {
    let trap = Pairwise::trap();
    // The most redundant choice is the greedy one too.
    let redundancy = [0.0, 0.9, 0.1, 0.1, 0.9, 0.0];
    let problem = Problem::new(Target::Unified, &redundancy, 2, true).unwrap();
    assert_eq!(
        search(&Sleb::default(), &problem, &trap).to_indices(),
        [1, 4]
    );
    assert_eq!(search(&ShortGpt, &problem, &trap).to_indices(), [1, 4]);
    assert_eq!(search(&beam(1), &problem, &trap).to_indices(), [1, 4]);
    let found = |strategy: &dyn Strategy| search(strategy, &problem, &trap).to_indices();
    assert_eq!(found(&Exact::default()), [2, 3]);
    assert_eq!(found(&beam(2)), [2, 3]);
    for seed in 0..20 {
        assert_eq!(found(&pdtrim(3.0, seed)), [2, 3], "seed {seed}");
    }
    // Without annealing the closing pass stays where it is: every swap is for the worse.
    let cold = PdTrim::new(Annealing {
        steps: 0,
        ..Annealing::default()
    });
    assert_eq!(found(&cold.unwrap()), [1, 4]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pdtrim_is_never_worse_than_its_starts_or_than_a_swap_away(
        costs in proptest::collection::vec(-1.0_f64..3.0, 81), count in 2_usize..6, seed in any::<u64>(),
        redundancy in proptest::collection::vec(-1.0_f64..1.0, 9),
    ) {
        let objective = Pairwise::new(9, costs);
        for target in targets(9) {
            let problem = Problem::new(target, &redundancy, count, true).unwrap();
            let cost = |set: &BlockSet| {
                let stages = problem.target().stages(set);
                objective.cost(&stages.prefill.union(&stages.decode))
            };
            let found = search(&pdtrim(0.5, seed), &problem, &objective);
            prop_assert_eq!(found.len(), count);
            prop_assert!(problem.given().is_subset(&found));
            for start in [&Sleb::default() as &dyn Strategy, &ShortGpt] {
                prop_assert!(cost(&found) <= cost(&search(start, &problem, &objective)));
            }
            for back in found.difference(problem.given()).iter() {
                for gone in problem.choices(&found) {
                    let neighbour = found.without(back).with(gone);
                    let order = cost(&neighbour).total_cmp(&cost(&found));
                    let order = order.then_with(|| neighbour.cmp(&found));
                    prop_assert!(order.is_gt(), "{} beside {}", neighbour, found);
                }
            }
        }
    }

    #[test]
    fn exact_is_the_cheapest_of_all_sets_and_a_wide_beam_finds_it(
        costs in proptest::collection::vec(-1.0_f64..3.0, 64), count in 0_usize..6,
    ) {
        let objective = Pairwise::new(8, costs);
        for target in targets(8) {
            let Ok(problem) = Problem::new(target, &[0.0; 8], count, true) else {
                continue;
            };
            let cost = |set: &BlockSet| {
                let stages = problem.target().stages(set);
                objective.cost(&stages.prefill.union(&stages.decode))
            };
            let allowed = problem.given().union(&BlockSet::from_indices(8, 1..7).unwrap());
            let all = (0_u32..256).map(|bits| {
                BlockSet::from_indices(8, (0..8).filter(|block| bits >> block & 1 == 1)).unwrap()
            });
            let valid = all.filter(|set| {
                set.len() == count && problem.given().is_subset(set) && set.is_subset(&allowed)
            });
            let best = valid.min_by(|a, b| cost(a).total_cmp(&cost(b)).then_with(|| a.cmp(b)));
            let best = best.unwrap();
            prop_assert_eq!(&search(&Exact::default(), &problem, &objective), &best);
            prop_assert_eq!(&search(&beam(300), &problem, &objective), &best);
            prop_assert_eq!(
                search(&beam(1), &problem, &objective),
                search(&Sleb::default(), &problem, &objective)
            );
        }
    }
}

#[test]
fn nothing_is_measured_twice() {
    let costs = (0..144).map(|n| f64::from((n * 37) % 101) / 50.0).collect();
    let objective = Pairwise::new(12, costs);
    let problem = Problem::new(Target::Unified, &[0.5; 12], 4, true).unwrap();
    for strategy in [
        &pdtrim(0.5, 1) as &dyn Strategy,
        &beam(5),
        &Exact::default(),
    ] {
        search(strategy, &problem, &objective);
        let evaluated = objective.evaluated();
        let distinct: BTreeSet<_> = evaluated.iter().collect();
        assert_eq!(distinct.len(), evaluated.len(), "{}", strategy.name());
    }
}

#[test]
fn a_walk_depends_on_its_seed_alone() {
    let costs: Vec<f64> = (0..144).map(|n| f64::from((n * 37) % 101) / 50.0).collect();
    let objective = Pairwise::new(12, costs);
    let problem = Problem::new(Target::Unified, &[0.5; 12], 4, true).unwrap();
    let walk = |seed| {
        search(&pdtrim(0.5, seed), &problem, &objective);
        objective.evaluated()
    };
    assert_eq!(walk(1), walk(1));
    assert_ne!(walk(1), walk(2));
}

#[test]
fn an_exact_search_of_too_many_sets_is_refused_with_both_numbers() {
    let toy = Toy::new(vec![1.0; 30]);
    let problem = |count| Problem::new(Target::Prefill, &[0.0; 30], count, true).unwrap();
    let exact = Exact { limit: 378 };
    assert_eq!(search(&exact, &problem(2), &toy).to_indices(), [1, 2]);
    let refused =
        Exact { limit: 377 }.search(&problem(2), &mut Ledger::in_memory(&toy), &mut |_| {
            panic!("nothing is measured first")
        });
    let error = refused.unwrap_err();
    assert!(matches!(
        error,
        Error::TooManySets {
            sets: 378,
            count: 2,
            choices: 28,
            limit: 377
        }
    ));
    let text = error.to_string();
    assert!(text.contains("378") && text.contains("377"), "{text}");
}

#[test]
fn temperatures_that_do_not_fall_are_refused() {
    let annealing = Annealing {
        start_temperature: 0.0,
        ..Annealing::default()
    };
    assert!(matches!(
        PdTrim::new(annealing).err().unwrap(),
        Error::Temperatures { .. }
    ));
}

#[test]
fn validation_decides_on_the_other_windows() {
    // Block 1 looks cheapest; on the other windows 4 is.
    let search_costs = Toy::new(vec![9.0, 1.0, 1.01, 1.5, 5.0, 9.0]);
    let other_costs = Toy::new(vec![9.0, 3.0, 1.0, 2.0, 0.0, 9.0]);
    let redundancy = [0.0, 0.0, 0.0, 0.9, 0.0, 0.0];
    let problem = Problem::new(Target::Prefill, &redundancy, 1, true).unwrap();
    let validated = |among, other| {
        let strategy = pdtrim(0.1, 0).with_validation(validation(other, among));
        search(&strategy, &problem, &search_costs).to_indices()
    };
    let alone = search(&pdtrim(0.1, 0), &problem, &search_costs);
    assert_eq!(alone.to_indices(), [1]);
    assert_eq!(validated(1, &other_costs), [4]);
    assert_eq!(validated(8, &search_costs), [1]);
    // A trap on the other windows, which swaps do not lead out of; the walk did.
    let trap = Pairwise::trap();
    let redundancy = [0.0, 0.9, 0.1, 0.1, 0.9, 0.0];
    let problem = Problem::new(Target::Unified, &redundancy, 2, true).unwrap();
    let trapped = |among| {
        let strategy = pdtrim(3.0, 0).with_validation(validation(&trap, among));
        search(&strategy, &problem, &trap).to_indices()
    };
    assert_eq!(trapped(1), [2, 3]);
}

fn validation(other: &dyn Objective, among: usize) -> Validation<'_> {
    let among = NonZeroUsize::new(among).unwrap();
    let ledger = Arc::new(Mutex::new(Ledger::in_memory(other)));
    Validation::new(ledger, among, Racing::default())
}

#[test]
fn a_cost_on_the_other_windows_that_is_no_number_is_an_error() {
    let toy = Toy::new(vec![1.0; 6]);
    let other = Toy::new(vec![f64::NAN; 6]);
    let problem = Problem::new(Target::Prefill, &[0.0; 6], 1, true).unwrap();
    let strategy = pdtrim(0.1, 0).with_validation(validation(&other, 1));
    let failed = strategy.search(&problem, &mut Ledger::in_memory(&toy), &mut |_| {});
    assert!(matches!(failed, Err(Error::CostNotFinite { .. })));
}

fn ten_blocks(seed: u64) -> TinyModel {
    let mut tiny = TinyModel {
        seed,
        ..TinyModel::default()
    };
    tiny.config.n_blocks = 10;
    tiny
}

fn windows(n: u32) -> Calibration {
    let window = |n: u32| (0..24).map(|m| (m * m + 7 * n + 1) % 96).collect();
    Calibration::new((0..n).map(window).collect(), 16).unwrap()
}

#[test]
fn pdtrim_finds_the_exact_answer_on_ten_block_models() {
    let calibration = windows(4);
    let mut agreeing = 0;
    for seed in 0..20 {
        let model = ten_blocks(seed).build();
        let loss =
            CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Prefill);
        let redundancy = loss.redundancy().unwrap().0;
        let mut ledger = Ledger::in_memory(&loss);
        let agrees = (1..=4).all(|count| {
            let target = Target::Unified;
            let problem = Problem::new(target, &redundancy.decode, count, false).unwrap();
            let mut found = |strategy: &dyn Strategy| {
                strategy.search(&problem, &mut ledger, &mut |_| {}).unwrap()
            };
            let pdtrim = PdTrim::new(Annealing::default()).unwrap();
            found(&pdtrim) == found(&Exact::default())
        });
        agreeing += usize::from(agrees);
    }
    assert!(agreeing >= 19, "{agreeing} of 20 seeds");
}

#[test]
fn one_thread_two_and_four_decide_the_same() {
    let model = ten_blocks(3).build();
    let calibration = windows(6);
    let chosen = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let loss =
                CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Decode);
            let redundancy = loss.redundancy().unwrap().0.decode;
            let search = |target, strategy: &dyn Strategy| {
                let problem = Problem::new(target, &redundancy, 4, true).unwrap();
                let mut ledger = Ledger::in_memory(&loss);
                let found = strategy.search(&problem, &mut ledger, &mut |_| {}).unwrap();
                (found, ledger.trace().to_vec())
            };
            let pdtrim = pdtrim(0.1, 0);
            let strategies = [&pdtrim as &dyn Strategy, &beam(3), &Exact::default()];
            let found = targets(10)
                .into_iter()
                .flat_map(|target| strategies.map(|strategy| search(target.clone(), strategy)));
            found.collect::<Vec<_>>()
        })
    };
    let alone = chosen(1);
    assert_eq!(alone, chosen(2));
    assert_eq!(alone, chosen(4));
}
