//! Parity with the reference numbers (PyTorch, f32). The PD cases with a trimmed KV cache are in pdtrim-kv.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints what it compared"
)]

#[path = "support/reference.rs"]
mod reference;

use pdtrim_core::cache::{KvCache, TokenPosition};
use pdtrim_core::model::{BlockModel, token_tensor};
use pdtrim_core::objective::{Calibration, CalibrationLoss, Objective, Placement, Rows};
use pdtrim_core::pipeline::{PdModel, SendAll};
use pdtrim_core::{BlockId, BlockSet, Boundary, KvFill, PerStage};
use reference::{Reference, ids, indices, numbers, reference};

/// Logits of the last of `tokens`.
fn last_logits(reference: &Reference, tokens: &[u32]) -> Vec<f32> {
    let model = &reference.model;
    let depth = model.dims().n_blocks;
    let mut cache = KvCache::with_capacity(&BlockSet::all(depth), tokens.len());
    let mut hidden = model.embed(token_tensor(model, &[tokens]).unwrap(), TokenPosition(0));
    for id in (0..depth).map(BlockId::new) {
        hidden = model.run_block(id, hidden, TokenPosition(0), cache.block_mut(id).unwrap());
    }
    let width = hidden.dims()[2];
    let last = hidden.narrow(1, tokens.len() - 1, 1).reshape([1, width]);
    model
        .logits(last)
        .into_data()
        .as_slice::<f32>()
        .unwrap()
        .to_vec()
}

#[test]
fn prompts_have_the_references_ids_logits_and_greedy_tokens() {
    let Some(reference) = reference() else { return };
    for prompt in reference.golden["prompts"].as_array().unwrap() {
        let text = prompt["text"].as_str().unwrap();
        let tokens = reference.tokenizer.encode(text).unwrap();
        assert_eq!(tokens, ids(&prompt["ids"]), "{text:?}");
        let logits = last_logits(&reference, &tokens);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        for (rank, expected) in prompt["last_top10"].as_array().unwrap().iter().enumerate() {
            let (id, logit) = (
                expected[0].as_u64().unwrap() as usize,
                expected[1].as_f64().unwrap(),
            );
            assert_eq!(order[rank], id, "{text:?}, rank {rank}");
            assert!(
                (f64::from(logits[id]) - logit).abs() < 2e-3,
                "{text:?}: logit of {id}"
            );
        }
        for boundary in [Boundary::Prefill, Boundary::Decode] {
            let dense = PdModel::dense(&reference.model, boundary);
            let greedy = dense
                .generate_greedy(&tokens, 16, &[], |_| {})
                .unwrap()
                .tokens;
            assert_eq!(
                greedy,
                ids(&prompt["greedy16"]),
                "{text:?}, boundary {boundary}"
            );
        }
    }
}

#[test]
fn pd_cases_without_kv_trim_have_the_references_log_probabilities() {
    let Some(reference) = reference() else { return };
    let depth = reference.model.dims().n_blocks;
    let text = reference.text_tokens("wiki.test.raw");
    for span in reference.golden["pd"]["spans"].as_array().unwrap() {
        let prompt = &text[..span["context_tokens"].as_u64().unwrap() as usize];
        let continuation = ids(&span["continuation"]);
        for (name, case) in span["cases"].as_object().unwrap() {
            if !case["args"]["trim_layers"].is_null() {
                continue;
            }
            let set =
                |key: &str| BlockSet::from_indices(depth, indices(&case["args"][key])).unwrap();
            let removed = PerStage {
                prefill: set("P"),
                decode: set("D"),
            };
            for boundary in [Boundary::Prefill, Boundary::Decode] {
                let pd = PdModel::new(
                    &reference.model,
                    removed.clone(),
                    KvFill::Nested,
                    boundary,
                    &SendAll,
                )
                .unwrap();
                let scores = pd.score(prompt, &[&continuation]).unwrap();
                let expected = &case[boundary.to_string()];
                assert!(
                    (scores.continuations[0].sum() - expected["sum"].as_f64().unwrap()).abs()
                        < 0.01,
                    "{name}"
                );
                for (score, expected) in scores.continuations[0]
                    .tokens
                    .iter()
                    .zip(numbers(&expected["logprobs"]))
                {
                    assert!(
                        (f64::from(score.logprob) - expected).abs() < 1e-3,
                        "{name}, boundary {boundary}"
                    );
                }
            }
            let pd = PdModel::new(
                &reference.model,
                removed,
                KvFill::Nested,
                Boundary::Prefill,
                &SendAll,
            )
            .unwrap();
            let greedy = pd.generate_greedy(prompt, 16, &[], |_| {}).unwrap().tokens;
            assert_eq!(greedy, ids(&case["greedy16"]), "{name}");
        }
    }
}

fn perplexity_windows(reference: &Reference, part: &str, n_windows: usize) {
    let expected = &reference.golden["ppl"]["wiki.test.raw"][part];
    let length = expected["length"].as_u64().unwrap() as usize;
    let tokens = reference.text_tokens("wiki.test.raw");
    let means = numbers(&expected["window_mean_nll"]);
    let mut total = 0.0;
    for (n, mean) in means.iter().enumerate().take(n_windows) {
        let window = &tokens[n * length..(n + 1) * length];
        let calibration =
            Calibration::from_tokens("test", window, 1, length, Placement::Contiguous).unwrap();
        let loss =
            CalibrationLoss::new(&reference.model, &calibration, Rows::All, Boundary::Prefill);
        let dense = PerStage::dense(reference.model.dims().n_blocks);
        let found = loss.cost_with(&dense, &SendAll).unwrap();
        assert!(
            (found - mean).abs() < 2e-4 * mean,
            "window {n}: {found}, expected {mean}"
        );
        total += found;
    }
    if n_windows == means.len() {
        let perplexity = (total / means.len() as f64).exp();
        let expected = expected["ppl"].as_f64().unwrap();
        println!("{part}: perplexity {perplexity:.4}, reference {expected}");
        assert!((perplexity / expected - 1.0).abs() < 1e-3);
    }
}

#[test]
fn one_perplexity_window_has_the_references_loss() {
    let Some(reference) = reference() else { return };
    perplexity_windows(&reference, "8192/1024", 1);
}

#[test]
#[ignore = "all 12 windows take a minute: cargo test --release -- --ignored"]
fn perplexity_is_the_references() {
    let Some(reference) = reference() else { return };
    perplexity_windows(&reference, "8192/1024", 8);
    perplexity_windows(&reference, "8192/2048", 4);
}

#[test]
fn redundancy_is_the_references_block_influence() {
    let Some(reference) = reference() else { return };
    block_influence(&reference, "16x128", 16, 128);
}

#[test]
#[ignore = "10 windows of 1024 tokens: cargo test --release -- --ignored"]
fn redundancy_on_long_windows_is_the_references_block_influence() {
    let Some(reference) = reference() else { return };
    block_influence(&reference, "10x1024", 10, 1024);
}

fn block_influence(reference: &Reference, part: &str, n_windows: usize, length: usize) {
    let tokens = reference.text_tokens("wikitext2_train.txt");
    let calibration =
        Calibration::from_tokens("test", &tokens, n_windows, length, Placement::Contiguous)
            .unwrap();
    let loss = CalibrationLoss::new(&reference.model, &calibration, Rows::All, Boundary::Prefill);
    let found = loss.redundancy().unwrap().0.decode;
    let expected =
        numbers(&reference.golden["calib"]["wikitext2-train-slice"][part]["bi"]["scores"]);
    for (block, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (1.0 - found - expected).abs() < 2e-5,
            "block {block}: {}, expected {expected}",
            1.0 - found
        );
    }
}

#[test]
fn removing_one_block_costs_what_the_reference_says() {
    let Some(reference) = reference() else { return };
    let expected = &reference.golden["calib"]["wikitext2-train-slice"]["16x128"]["blockppl"];
    let tokens = reference.text_tokens("wikitext2_train.txt");
    let calibration =
        Calibration::from_tokens("test", &tokens, 16, 128, Placement::Contiguous).unwrap();
    let loss = CalibrationLoss::new(&reference.model, &calibration, Rows::All, Boundary::Prefill);
    let depth = reference.model.dims().n_blocks;
    // Late blocks only: the suffix is short, so the test stays quick.
    let blocks = [17, 22, 25, 26, 28];
    let candidate = |block| PerStage::both(BlockSet::from_indices(depth, [block]).unwrap());
    let candidates: Vec<_> = blocks.into_iter().map(candidate).collect();
    let found = loss
        .costs(&candidates, &mut |_, _| std::ops::ControlFlow::Continue(()))
        .unwrap();
    for (block, found) in blocks.into_iter().zip(found) {
        let expected = expected["mean_nll"][block].as_f64().unwrap();
        assert!(
            (found - expected).abs() < 2e-4 * expected,
            "block {block}: {found}, expected {expected}"
        );
    }
}
