//! Parity with the reference's PIQA scores, which agree with lm-evaluation-harness to 1e-4 an item.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints what it compared"
)]

#[path = "../../pdtrim-core/tests/support/reference.rs"]
mod reference;

use std::num::NonZeroUsize;

use pdtrim_core::Boundary;
use pdtrim_core::pipeline::PdModel;
use pdtrim_eval::{
    Execution, ItemOutcome, MetricName, Options, PdScorer, Task, TaskResult, evaluate,
};
use reference::{Reference, numbers, reference};

fn piqa(reference: &Reference, limit: usize, boundary: Boundary) -> TaskResult {
    let scorer = PdScorer::new(
        PdModel::dense(&reference.model, boundary),
        &reference.tokenizer,
    );
    let options = Options {
        data_dir: Some(reference.data.clone()),
        limit: NonZeroUsize::new(limit),
        fewshot: None,
    };
    let result = evaluate(
        &scorer,
        &Task::bundled("piqa").unwrap(),
        &options,
        &Execution::default(),
    )
    .unwrap();
    let expected = reference.golden["mc"]["piqa200-dense"]["lls_head"]
        .as_array()
        .unwrap();
    for (item, expected) in result.items.iter().zip(expected) {
        let ItemOutcome::Choice { loglikelihoods, .. } = &item.outcome else {
            panic!("PIQA is a choice")
        };
        for (found, expected) in loglikelihoods.iter().zip(numbers(expected)) {
            assert!(
                (found - expected).abs() < 0.02,
                "item {}: {found}, expected {expected}",
                item.doc
            );
        }
    }
    result
}

#[test]
fn the_first_piqa_items_have_the_references_log_likelihoods_with_both_boundaries() {
    let Some(reference) = reference() else { return };
    piqa(&reference, 20, Boundary::Prefill);
    piqa(&reference, 20, Boundary::Decode);
}

#[test]
#[ignore = "200 items take a minute: cargo test --release -- --ignored"]
fn piqa_accuracies_are_the_references() {
    let Some(reference) = reference() else { return };
    let result = piqa(&reference, 200, Boundary::Prefill);
    let golden = &reference.golden["mc"]["piqa200-dense"];
    for (metric, key) in [(MetricName::Acc, "acc"), (MetricName::AccNorm, "acc_norm")] {
        let found = result.summary.metric(metric).unwrap().value;
        println!("{key}: {found}, reference {}", golden[key]);
        assert!((found - golden[key].as_f64().unwrap()).abs() < 1e-9);
    }
}
