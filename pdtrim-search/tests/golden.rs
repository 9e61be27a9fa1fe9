//! The reference's greedy run: SLEB on all rows of 16 windows of 128 tokens, one set for both stages.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints what it compared"
)]

#[path = "../../pdtrim-core/tests/support/reference.rs"]
mod reference;

use pdtrim_core::objective::{
    Calibration, CalibrationLoss, Objective, Placement, Rows, TaylorPass,
};
use pdtrim_core::{BlockSet, Boundary, PerStage};
use pdtrim_search::{
    Ledger, Problem, Racing, ShortGpt, ShortenedTaylor, Sleb, Step, Strategy, Target,
};
use reference::{Reference, indices, reference};

fn calibration(reference: &Reference) -> Calibration {
    let tokens = reference.text_tokens("wikitext2_train.txt");
    Calibration::from_tokens("test", &tokens, 16, 128, Placement::Contiguous).unwrap()
}

fn greedy(reference: &Reference, count: usize, sleb: Sleb) {
    let calibration = calibration(reference);
    let loss = CalibrationLoss::new(&reference.model, &calibration, Rows::All, Boundary::Prefill);
    let problem = Problem::new(Target::Unified, &vec![0.0; loss.depth()], count, true).unwrap();
    let mut ledger = Ledger::in_memory(&loss);
    let mut chosen = Vec::new();
    sleb.search(&problem, &mut ledger, &mut |step| {
        if let Step::Chosen { block, cost } = step {
            chosen.push((block.index(), cost.unwrap()));
        }
    })
    .unwrap();
    let golden = &reference.golden["calib"]["wikitext2-train-slice"]["16x128"];
    for ((block, cost), expected) in chosen
        .iter()
        .zip(golden["greedy"]["steps"].as_array().unwrap())
    {
        println!(
            "removed {block}, mean NLL {cost:.7}, reference {} at {}",
            expected["removed"], expected["mean_nll"]
        );
        assert_eq!(*block as u64, expected["removed"].as_u64().unwrap());
        let expected = expected["mean_nll"].as_f64().unwrap();
        assert!((cost - expected).abs() < 2e-4 * expected);
    }
    let dropped: usize = ledger.dropped().map(|(_, windows)| windows).sum();
    let evaluated = dropped + ledger.trace().len() * loss.units();
    println!("{evaluated} evaluations of a candidate on a window");
    if sleb.racing.error() > 0.0 {
        return;
    }
    // Every single removal, which the first step measures.
    let depth = loss.depth();
    for block in 1..depth - 1 {
        let set = PerStage::both(BlockSet::from_indices(depth, [block]).unwrap());
        let found = ledger
            .costs(&[set], &mut |_| panic!("measured in the first step"))
            .unwrap()[0];
        let expected = golden["blockppl"]["mean_nll"][block].as_f64().unwrap();
        assert!(
            (found - expected).abs() < 2e-4 * expected,
            "block {block}: {found}, expected {expected}"
        );
    }
}

#[test]
fn the_first_greedy_step_is_the_references() {
    let Some(reference) = reference() else { return };
    greedy(&reference, 1, Sleb::default());
}

#[test]
#[ignore = "six greedy steps take minutes: cargo test --release -- --ignored"]
fn sleb_removes_the_references_six_blocks_in_its_order() {
    let Some(reference) = reference() else { return };
    greedy(&reference, 6, Sleb::default());
}

#[test]
#[ignore = "six greedy steps take minutes: cargo test --release -- --ignored"]
fn racing_sleb_removes_the_references_six_blocks_in_its_order() {
    let Some(reference) = reference() else { return };
    let racing = Racing::new(0.01, 0).unwrap();
    greedy(&reference, 6, Sleb { racing });
}

#[test]
fn shortgpt_removes_the_references_most_redundant_blocks() {
    let Some(reference) = reference() else { return };
    let calibration = calibration(&reference);
    let loss = CalibrationLoss::new(&reference.model, &calibration, Rows::All, Boundary::Prefill);
    let redundancy = loss.redundancy().unwrap().0.decode;
    let order =
        indices(&reference.golden["calib"]["wikitext2-train-slice"]["16x128"]["bi"]["order"]);
    for count in [1, 3, 6, 10] {
        let problem = Problem::new(Target::Unified, &redundancy, count, false).unwrap();
        let removed = ShortGpt
            .search(&problem, &mut Ledger::in_memory(&loss), &mut |_| {})
            .unwrap();
        let mut expected = order[..count].to_vec();
        expected.sort_unstable();
        assert_eq!(removed.to_indices(), expected);
    }
}

#[test]
fn shortened_taylor_removes_the_references_blocks_in_its_order() {
    let Some(reference) = reference() else { return };
    let calibration = calibration(&reference);
    let pass = TaylorPass::new(&reference.model, &calibration, Rows::All, Boundary::Prefill);
    let importance = pass.importance(&mut |_| {}).unwrap().by_element.decode;
    let golden = &reference.golden["calib"]["wikitext2-train-slice"]["16x128"]["taylor"];
    let loss = CalibrationLoss::new(&reference.model, &calibration, Rows::All, Boundary::Prefill);
    let problem = Problem::new(Target::Unified, &importance, 24, false).unwrap();
    let problem = problem.with_importance(&importance).unwrap();
    let mut chosen = Vec::new();
    let mut ledger = Ledger::in_memory(&loss);
    let on_step = &mut |step| {
        if let Step::Chosen { block, .. } = step {
            chosen.push(block.index());
        }
    };
    ShortenedTaylor
        .search(&problem, &mut ledger, on_step)
        .unwrap();
    assert_eq!(chosen, indices(&golden["order_plus"]));
}
