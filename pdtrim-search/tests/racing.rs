//! Racing against the full evaluation, on objectives without a model and on a tiny one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/journal.rs"]
mod journal;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use journal::untimed;
use pdtrim_core::objective::{
    Calibration, CalibrationLoss, Objective, OnCost, OnUnitCosts, Rows, mean_cost,
};
use pdtrim_core::testing::TinyModel;
use pdtrim_core::{BlockSet, Boundary, Error as CoreError, PerStage};
use pdtrim_search::{
    Annealing, Beam, Error, Ledger, PdTrim, Problem, Racing, Sleb, Step, Strategy, Target, Toy,
};
use proptest::prelude::*;

/// Each removed block costs a fixed amount on each window.
struct Windows {
    /// `[block][window]`
    costs: Vec<Vec<f64>>,
    evaluated: Mutex<Vec<(PerStage<BlockSet>, usize)>>,
}

impl Windows {
    fn new(costs: Vec<Vec<f64>>) -> Self {
        Self {
            costs,
            evaluated: Mutex::new(Vec::new()),
        }
    }

    /// Forgets and returns what was evaluated.
    fn evaluated(&self) -> Vec<(PerStage<BlockSet>, usize)> {
        std::mem::take(&mut self.evaluated.lock().unwrap())
    }
}

impl Objective for Windows {
    fn depth(&self) -> usize {
        self.costs.len()
    }

    fn units(&self) -> usize {
        self.costs[0].len()
    }

    fn costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        on_cost: &mut OnCost<'_>,
    ) -> Result<Vec<f64>, CoreError> {
        let all: Vec<usize> = (0..self.units()).collect();
        let costs = self.unit_costs(candidates, &all, &mut |n, costs| {
            on_cost(n, mean_cost(costs))
        })?;
        Ok(costs.iter().map(|costs| mean_cost(costs)).collect())
    }

    fn unit_costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        units: &[usize],
        on_costs: &mut OnUnitCosts<'_>,
    ) -> Result<Vec<Vec<f64>>, CoreError> {
        let mut all = Vec::new();
        for (n, candidate) in candidates.iter().enumerate() {
            let cost = |&unit: &usize| -> f64 {
                let removed = candidate.decode.iter();
                removed.map(|id| self.costs[id.index()][unit]).sum()
            };
            let costs: Vec<f64> = units.iter().map(cost).collect();
            let evaluated = units.iter().map(|&unit| (candidate.clone(), unit));
            self.evaluated.lock().unwrap().extend(evaluated);
            if on_costs(n, &costs) == ControlFlow::Break(()) {
                return Err(CoreError::Stopped);
            }
            all.push(costs);
        }
        Ok(all)
    }
}

/// Blocks in the order of their removal with the costs then, and what was evaluated.
struct Outcome {
    chosen: Vec<(usize, f64)>,
    evaluated: usize,
}

fn problem(depth: usize, count: usize) -> Problem {
    Problem::new(Target::Unified, &vec![0.0; depth], count, false).unwrap()
}

fn sleb(error: f64) -> Sleb {
    Sleb {
        racing: Racing::new(error, 5).unwrap(),
    }
}

fn chosen(
    objective: &dyn Objective,
    ledger: &mut Ledger<'_>,
    error: f64,
    count: usize,
) -> Vec<(usize, f64)> {
    let mut chosen = Vec::new();
    let (mut planned, mut settled) = (0, 0);
    sleb(error)
        .search(
            &problem(objective.depth(), count),
            ledger,
            &mut |step| match step {
                Step::Planned(evaluations) => planned += evaluations,
                Step::Settled(evaluations) => settled += evaluations,
                Step::Chosen { block, cost } => chosen.push((block.index(), cost.unwrap())),
                Step::Evaluated(_) => {}
            },
        )
        .unwrap();
    assert_eq!(settled, planned, "a bar reaches its end");
    chosen
}

fn outcome(costs: &[Vec<f64>], error: f64, count: usize) -> Outcome {
    let objective = Windows::new(costs.to_vec());
    let chosen = chosen(&objective, &mut Ledger::in_memory(&objective), error, count);
    Outcome {
        chosen,
        evaluated: objective.evaluated().len(),
    }
}

/// Standard normal numbers that depend on nothing but where their stream starts.
struct Normal(AtomicU64);

impl Normal {
    fn uniform(&self) -> f64 {
        // SplitMix64.
        let step = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// By Box and Muller.
    fn draw(&self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Costs `[block][window]`: blocks that differ by `spread`, windows that differ much more, noise of 1.
    fn table(&self, blocks: usize, windows: usize, spread: f64) -> Vec<Vec<f64>> {
        self.noisy_table(&vec![1.0; blocks], windows, spread)
    }

    /// The same with a noise for each block.
    fn noisy_table(&self, noise: &[f64], windows: usize, spread: f64) -> Vec<Vec<f64>> {
        let hard: Vec<f64> = (0..windows).map(|_| 10.0 * self.draw()).collect();
        let block = |noise: &f64| {
            let level = spread * self.draw();
            let cost = |hard: &f64| hard + level + noise * self.draw();
            hard.iter().map(cost).collect()
        };
        noise.iter().map(block).collect()
    }
}

#[test]
fn the_choice_is_another_one_less_often_than_stated() {
    let (error, repeats) = (0.1, 1000);
    let normal = Normal(AtomicU64::new(1));
    // Ten blocks share what is known of their noise; five are told apart by their own alone.
    let alike = vec![1.0; 10];
    let unlike = (0..10).map(|n| 0.5 * f64::from(1 << (n % 3))).collect();
    let few = vec![1.0; 5];
    let cases = [alike, unlike, few]
        .map(|noise| [(8, 0.5), (24, 0.3), (64, 0.2)].map(|case| (noise.clone(), case)));
    for (noise, (windows, spread)) in cases.into_iter().flatten() {
        let (mut wrong, mut evaluated, mut all) = (0, 0, 0);
        for _ in 0..repeats {
            let costs = normal.noisy_table(&noise, windows, spread);
            let (raced, full) = (outcome(&costs, error, 1), outcome(&costs, 0.0, 1));
            wrong += usize::from(raced.chosen[0].0 != full.chosen[0].0);
            evaluated += raced.evaluated;
            all += full.evaluated;
        }
        assert!(
            (wrong as f64) < error * f64::from(repeats),
            "{wrong} of {repeats} with {windows} windows, {noise:?}"
        );
        // The races did drop something, or there would be nothing to get wrong.
        assert!(
            evaluated < all * 99 / 100,
            "{evaluated} of {all} with {windows} windows, {noise:?}"
        );
    }
}

proptest! {
    #[test]
    fn with_little_noise_racing_chooses_and_reports_the_same_from_fewer_evaluations(
        stream in any::<u64>(), blocks in 3_usize..9, windows in 8_usize..40, share in 0.0_f64..1.0,
    ) {
        let mut costs = Normal(AtomicU64::new(stream)).table(blocks, windows, 0.0);
        for (block, costs) in costs.iter_mut().enumerate() {
            // Far apart, in an order that is not theirs.
            let level = 1e5 * ((block * 7 + 3) % 11) as f64;
            for cost in costs {
                *cost += level;
            }
        }
        let count = 1 + ((blocks - 2) as f64 * share) as usize;
        let (raced, full) = (outcome(&costs, 0.05, count), outcome(&costs, 0.0, count));
        prop_assert_eq!(raced.chosen, full.chosen);
        prop_assert!(raced.evaluated < full.evaluated);
    }
}

#[test]
fn what_candidates_have_in_common_drops_them_earlier() {
    // Of one block and its only rival nothing is known but their own differences.
    let normal = Normal(AtomicU64::new(2));
    let evaluated = |blocks: usize| {
        let costs = (0..200).map(|_| {
            let mut costs = normal.table(blocks, 24, 0.0);
            for cost in &mut costs[0] {
                *cost -= 5.0;
            }
            outcome(&costs, 0.01, 1).evaluated - 24
        });
        costs.sum::<usize>() as f64 / (200 * (blocks - 1)) as f64
    };
    let (two, twenty) = (evaluated(2), evaluated(20));
    assert!(twenty < two, "{twenty} windows a candidate, {two} alone");
}

#[test]
fn a_raced_walk_ends_where_a_full_one_does() {
    let normal = Normal(AtomicU64::new(4));
    for seed in 0..10 {
        let mut costs = normal.table(9, 24, 0.0);
        for (block, costs) in costs.iter_mut().enumerate() {
            for cost in costs {
                *cost += 50.0 * ((block * 7 + 3) % 11) as f64;
            }
        }
        let walk = |error| {
            let objective = Windows::new(costs.clone());
            let annealing = Annealing {
                steps: 30,
                seed,
                ..Annealing::default()
            };
            let strategy = PdTrim::new(annealing)
                .unwrap()
                .with_racing(Racing::new(error, seed).unwrap());
            let (mut planned, mut settled) = (0, 0);
            let found = strategy.search(
                &problem(9, 3),
                &mut Ledger::in_memory(&objective),
                &mut |step| match step {
                    Step::Planned(evaluations) => planned += evaluations,
                    Step::Settled(evaluations) => settled += evaluations,
                    _ => {}
                },
            );
            assert_eq!(settled, planned);
            (found.unwrap(), objective.evaluated().len())
        };
        let ((raced, few), (full, all)) = (walk(0.01), walk(0.0));
        assert_eq!(raced, full);
        assert!(few < all / 2, "{few} of {all}");
    }
}

/// The set that a beam of three finds, and how many evaluations it took.
fn beam(costs: &[Vec<f64>], error: f64, count: usize) -> (BlockSet, usize) {
    let objective = Windows::new(costs.to_vec());
    let strategy = Beam {
        width: NonZeroUsize::new(3).unwrap(),
        racing: Racing::new(error, 5).unwrap(),
    };
    let (mut planned, mut settled) = (0, 0);
    let found = strategy.search(
        &problem(costs.len(), count),
        &mut Ledger::in_memory(&objective),
        &mut |step| match step {
            Step::Planned(evaluations) => planned += evaluations,
            Step::Settled(evaluations) => settled += evaluations,
            _ => {}
        },
    );
    assert_eq!(settled, planned, "a bar reaches its end");
    (found.unwrap(), objective.evaluated().len())
}

#[test]
fn a_raced_beam_finds_another_set_less_often_than_stated() {
    let (error, repeats) = (0.1, 400);
    let normal = Normal(AtomicU64::new(6));
    let (mut wrong, mut few, mut all) = (0, 0, 0);
    for _ in 0..repeats {
        let costs = normal.table(9, 24, 0.5);
        let ((raced, raced_evaluations), (full, evaluations)) =
            (beam(&costs, error, 2), beam(&costs, 0.0, 2));
        wrong += usize::from(raced != full);
        few += raced_evaluations;
        all += evaluations;
    }
    // Two races.
    assert!(
        (wrong as f64) < 2.0 * error * f64::from(repeats),
        "{wrong} of {repeats}"
    );
    assert!(few < all * 95 / 100, "{few} of {all}");
}

#[test]
fn a_beam_races_for_as_many_places_as_it_keeps() {
    // Every window says the same: after 4 the three cheapest of 6 are known, after 4 more the cheapest pair.
    let costs: Vec<Vec<f64>> = (0..6).map(|block| vec![f64::from(block); 20]).collect();
    let (found, evaluations) = beam(&costs, 0.01, 2);
    assert_eq!(found.to_indices(), [0, 1]);
    // 6 blocks, of which 3 run to the end; of their 12 pairs one does.
    assert_eq!(evaluations, 6 * 4 + 3 * 16 + 12 * 4 + 16);
}

#[test]
fn a_candidate_that_is_dropped_is_not_evaluated_further() {
    // Every window says the same: the first round of 4 decides between 6 blocks.
    let costs: Vec<Vec<f64>> = (0..6).map(|block| vec![f64::from(block); 20]).collect();
    let raced = outcome(&costs, 0.01, 1);
    assert_eq!(raced.chosen, [(0, 0.0)]);
    assert_eq!(raced.evaluated, 6 * 4 + 16);
}

#[test]
fn without_an_error_everything_is_evaluated_and_nothing_is_raced() {
    let costs: Vec<Vec<f64>> = (0..6).map(|block| vec![f64::from(block); 20]).collect();
    assert_eq!(outcome(&costs, 0.0, 2).evaluated, (6 + 5) * 20);
}

#[test]
fn a_race_that_may_err_has_a_winner_all_the_same() {
    let normal = Normal(AtomicU64::new(9));
    for _ in 0..100 {
        assert_eq!(outcome(&normal.table(2, 5, 0.1), 0.999, 1).chosen.len(), 1);
    }
}

#[test]
fn an_objective_of_one_unit_is_not_raced() {
    let toy = Toy::new(vec![3.0, 1.0, 2.0]);
    let mut ledger = Ledger::in_memory(&toy);
    assert_eq!(chosen(&toy, &mut ledger, 0.1, 1), [(1, 1.0)]);
    assert_eq!(ledger.trace().len(), 3);
}

#[test]
fn ties_are_evaluated_to_the_end_and_go_to_the_lowest_block() {
    let normal = Normal(AtomicU64::new(3));
    let windows: Vec<f64> = (0..20).map(|_| normal.draw()).collect();
    let tied = outcome(&vec![windows.clone(); 5], 0.1, 2);
    let blocks: Vec<usize> = tied.chosen.iter().map(|(block, _)| *block).collect();
    assert_eq!(blocks, [0, 1]);
    assert_eq!(tied.evaluated, (5 + 4) * 20);
}

/// A race that drops some candidates in each round.
fn close_race() -> Windows {
    Windows::new(Normal(AtomicU64::new(11)).table(7, 20, 1.5))
}

#[test]
fn a_race_stopped_anywhere_and_resumed_decides_the_same_and_evaluates_nothing_twice() {
    let objective = close_race();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.jsonl");
    let resume = || Ledger::resume(&objective, &path, "windows").unwrap();
    let whole = chosen(&objective, &mut resume(), 0.1, 3);
    let evaluated = objective.evaluated().len();
    let journal = std::fs::read(&path).unwrap();
    for cut in (0..=journal.len()).step_by(97) {
        std::fs::write(&path, &journal[..cut]).unwrap();
        let mut ledger = resume();
        let held: usize = ledger.dropped().map(|(_, windows)| windows).sum();
        let held = held + ledger.reused() * objective.units();
        assert_eq!(chosen(&objective, &mut ledger, 0.1, 3), whole);
        let again = objective.evaluated();
        assert_eq!(again.len(), evaluated - held, "cut at {cut}");
        assert_eq!(again.iter().collect::<BTreeSet<_>>().len(), again.len());
        let again = std::fs::read(&path).unwrap();
        assert_eq!(untimed(&again), untimed(&journal), "cut at {cut}");
    }
}

#[test]
fn a_journal_is_good_with_and_without_racing() {
    let objective = close_race();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.jsonl");
    let resume = || Ledger::resume(&objective, &path, "windows").unwrap();
    let raced = chosen(&objective, &mut resume(), 0.1, 2);
    let dropped = resume().dropped().count();
    assert!(dropped > 0);
    // The dropped ones only are evaluated in full.
    objective.evaluated();
    assert_eq!(chosen(&objective, &mut resume(), 0.0, 2), raced);
    assert_eq!(objective.evaluated().len(), dropped * objective.units());
    // Now everything is known.
    assert_eq!(chosen(&objective, &mut resume(), 0.1, 2), raced);
    assert!(objective.evaluated().is_empty());
    assert_eq!(resume().dropped().count(), 0);
    // A next removal is raced.
    let further = chosen(&objective, &mut resume(), 0.1, 3);
    assert_eq!(further[..2], raced);
    assert!(objective.evaluated().len() < 5 * objective.units());
}

#[test]
fn a_journal_with_units_that_do_not_exist_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.jsonl");
    std::fs::write(
        &path,
        "{\"journal_of\":\"toy\"}\n\
            {\"removed\":{\"prefill\":[1],\"decode\":[]},\"unit_costs\":[[0,1.0],[1,1.0]]}\n",
    )
    .unwrap();
    let toy = Toy::new(vec![1.0; 4]);
    let refused = Ledger::resume(&toy, &path, "toy").err().unwrap();
    assert!(matches!(refused, Error::UnknownUnit { units: 1, found: 1 }));
}

#[test]
fn the_cost_that_a_race_reports_is_that_of_the_full_evaluation_to_the_bit() {
    let model = TinyModel::default().build();
    let window = |n: u32| (0..24).map(|m| (m * m + 7 * n) % 96).collect();
    let calibration = Calibration::new((0..19).map(window).collect(), 15).unwrap();
    for boundary in [Boundary::Prefill, Boundary::Decode] {
        let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, boundary);
        let prefill = BlockSet::from_indices(5, [2]).unwrap();
        for target in [
            Target::Prefill,
            Target::Unified,
            Target::Decode {
                prefill,
                nested: true,
            },
        ] {
            let problem = Problem::new(target, &[0.0; 5], 2, true).unwrap();
            let mut ledger = Ledger::in_memory(&loss);
            let removed = sleb(0.4)
                .search(&problem, &mut ledger, &mut |_| {})
                .unwrap();
            let removed = problem.target().stages(&removed);
            let reported = ledger.cost(&removed).unwrap();
            let costs = loss.costs(&[removed], &mut |_, _| ControlFlow::Continue(()));
            assert_eq!(costs.unwrap()[0].to_bits(), reported.to_bits());
        }
    }
}
