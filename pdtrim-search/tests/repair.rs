//! What the linear repair wins back on the reference's model; blocks of a greedy search on decode's own
//! objective, and of SLEB for prefill and for one set.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints what it measured"
)]

#[path = "../../pdtrim-core/tests/support/reference.rs"]
mod reference;

use std::ops::ControlFlow;

use pdtrim_core::model::BlockModel;
use pdtrim_core::objective::{Calibration, CalibrationLoss, Objective, Placement, Rows};
use pdtrim_core::{BlockSet, Boundary, PerStage, Stage};
use pdtrim_search::repair::{LinearRepair, check_disjoint};
use reference::{Reference, reference};

const DECODE: [usize; 6] = [14, 13, 12, 5, 3, 4];
const SLEB: [usize; 6] = [14, 17, 13, 26, 4, 16];
const BOUNDARY: Boundary = Boundary::Decode;

fn set(blocks: &[usize]) -> BlockSet {
    BlockSet::from_indices(30, blocks.iter().copied()).unwrap()
}

/// 64 windows of 256 tokens, half of each prompt: 8192 tokens of each stage.
fn fitted_on(reference: &Reference) -> Calibration {
    let tokens = reference.text_tokens("wikitext2_train.txt");
    let cut = Calibration::from_tokens("train", &tokens, 64, 256, Placement::Spread).unwrap();
    Calibration::new(cut.windows().to_vec(), 128).unwrap()
}

/// Share of the rise in J that is won back.
fn won_back(reference: &Reference, fit: &Calibration, removed: &PerStage<BlockSet>) -> f64 {
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
    let repair = LinearRepair::default();
    let weights = repair.fit(model, fit, removed, BOUNDARY).unwrap().weights;
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
    let fit = fitted_on(&reference);
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
        let share = won_back(&reference, &fit, &decode);
        assert!(count > 3 || share > 0.25, "{share}");
        for removed in [prefill, unified] {
            assert!(won_back(&reference, &fit, &removed) > 0.0);
        }
    }
}
