//! What each repair wins back on the reference's model; blocks of a greedy search on decode's own
//! objective, and of SLEB for prefill and for one set.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints what it measured"
)]

#[path = "../../pdtrim-core/tests/support/reference.rs"]
mod reference;

use std::ops::ControlFlow;
use std::time::Instant;

use pdtrim_core::model::BlockModel;
use pdtrim_core::objective::{Calibration, CalibrationLoss, Objective, Placement, Rows};
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::{BlockSet, Boundary, PerStage, Stage};
use pdtrim_search::repair::{DistillRepair, LinearRepair, check_disjoint};
use reference::{Reference, reference};

const DECODE: [usize; 6] = [14, 13, 12, 5, 3, 4];
const SLEB: [usize; 6] = [14, 17, 13, 26, 4, 16];
const BOUNDARY: Boundary = Boundary::Decode;

fn set(blocks: &[usize]) -> BlockSet {
    BlockSet::from_indices(30, blocks.iter().copied()).unwrap()
}

/// Windows of 256 tokens, half of each prompt: 64 are 8192 tokens of each stage.
fn fitted_on(reference: &Reference, windows: usize) -> Calibration {
    let tokens = reference.text_tokens("wikitext2_train.txt");
    let cut = Calibration::from_tokens("train", &tokens, windows, 256, Placement::Spread).unwrap();
    Calibration::new(cut.windows().to_vec(), 128).unwrap()
}

/// Share of the rise in J that the weights win back.
fn won_back(
    reference: &Reference,
    fit: &Calibration,
    removed: &PerStage<BlockSet>,
    weights: &RepairWeights,
) -> f64 {
    let tokens = reference.text_tokens("wiki.test.raw");
    let held_out = Calibration::from_tokens("test", &tokens, 24, 256, Placement::Spread).unwrap();
    check_disjoint(("repair", fit), ("held-out", &held_out)).unwrap();
    let model = &reference.model;
    let cost = |models, removed: &PerStage<BlockSet>| {
        let loss =
            CalibrationLoss::per_stage(models, &held_out, Rows::Continuation, BOUNDARY).unwrap();
        let costs = loss.costs(std::slice::from_ref(removed), &mut |_, _| {
            ControlFlow::Continue(())
        });
        costs.unwrap()[0]
    };
    let base = PerStage::both(model as &dyn BlockModel);
    let dense = cost(base, &PerStage::dense(30));
    let trimmed = cost(base, removed);
    let stages = [Stage::Prefill, Stage::Decode].map(|stage| weights.apply(model, stage));
    let [prefill, decode] = stages.each_ref().map(|repaired| repaired.as_ref());
    let own = PerStage::<&dyn BlockModel> {
        prefill: prefill.unwrap_or(model),
        decode: decode.unwrap_or(model),
    };
    let repaired = cost(own, removed);
    let share = (trimmed - repaired) / (trimmed - dense);
    println!(
        "P {:<16} D {:<16} dense {dense:.4}, trimmed {trimmed:.4}, repaired {repaired:.4}, won back {:.1} %",
        removed.prefill.to_string(),
        removed.decode.to_string(),
        share * 100.0
    );
    share
}

#[test]
#[ignore = "takes minutes: cargo test --release --workspace -- --ignored --nocapture a_linear_repair"]
fn a_linear_repair_wins_back_a_quarter_of_the_rise_at_three_blocks() {
    let Some(reference) = reference() else { return };
    let fit = fitted_on(&reference, 64);
    let won_back = |removed: &PerStage<BlockSet>| {
        let repair = LinearRepair::default();
        let found = repair
            .fit(&reference.model, &fit, removed, BOUNDARY)
            .unwrap();
        won_back(&reference, &fit, removed, &found.weights)
    };
    let none = set(&[]);
    for count in [3, 6] {
        let decode = PerStage {
            prefill: none.clone(),
            decode: set(&DECODE[..count]),
        };
        let prefill = PerStage {
            prefill: set(&SLEB[..count]),
            decode: none.clone(),
        };
        let unified = PerStage::both(set(&SLEB[..count]));
        let share = won_back(&decode);
        assert!(count > 3 || share > 0.25, "{share}");
        for removed in [prefill, unified] {
            assert!(won_back(&removed) > 0.0);
        }
    }
}

#[test]
#[ignore = "takes minutes: cargo test --release --workspace -- --ignored --nocapture a_distilling_repair"]
fn a_distilling_repair_wins_back_half_of_the_rise_at_three_blocks_and_a_third_at_six() {
    let Some(reference) = reference() else { return };
    let fit = fitted_on(&reference, 128);
    // Once through the windows, each time.
    let repair = DistillRepair {
        run_steps: 64,
        steps: 64,
        ..DistillRepair::default()
    };
    for (count, share) in [(3, 0.5), (6, 1.0 / 3.0)] {
        let removed = PerStage {
            prefill: set(&[]),
            decode: set(&DECODE[..count]),
        };
        let start = Instant::now();
        let model = &reference.model;
        let found = repair.fit(model, &fit, &removed, BOUNDARY, None, &mut |_| ());
        println!("{:.0} s", start.elapsed().as_secs_f64());
        let found = won_back(&reference, &fit, &removed, &found.unwrap().weights);
        assert!(found > share, "{count} blocks: {found}");
    }
}
