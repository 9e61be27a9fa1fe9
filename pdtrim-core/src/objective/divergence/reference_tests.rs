//! The divergence from the dense model, against plain forward passes.

use std::ops::ControlFlow;

use burn::tensor::DType;

use crate::block::BlockSet;
use crate::cache::{KvCache, TokenPosition};
use crate::model::{BlockModel, Llama, token_tensor};
use crate::objective::{Calibration, CalibrationLoss, Objective, Rows};
use crate::stage::{Boundary, PerStage};
use crate::testing::TinyModel;

const PROMPT: usize = 9;

fn calibration() -> Calibration {
    let window = |n: u32| (0..14).map(|i| (n * 31 + i * i * 7 + i) % 96).collect();
    Calibration::new((0..3).map(window).collect(), PROMPT).unwrap()
}

fn set(blocks: &[usize]) -> BlockSet {
    BlockSet::from_indices(5, blocks.iter().copied()).unwrap()
}

fn costs(loss: &CalibrationLoss<'_>, candidates: &[PerStage<BlockSet>]) -> Vec<Vec<f64>> {
    let units: Vec<usize> = (0..loss.units()).collect();
    let on_costs = &mut |_: usize, _: &[f64]| ControlFlow::Continue(());
    loss.unit_costs(candidates, &units, on_costs).unwrap()
}

/// The probabilities of every next token after each of `tokens`, by one pass without `removed`.
fn predictions(model: &Llama, tokens: &[u32], removed: &BlockSet) -> Vec<Vec<f64>> {
    let kept = removed.complement();
    let mut cache = KvCache::with_capacity(&kept, tokens.len());
    let mut hidden = model.embed(token_tensor(model, &[tokens]).unwrap(), TokenPosition(0));
    for id in kept.iter() {
        hidden = model.run_block(id, hidden, TokenPosition(0), cache.block_mut(id).unwrap());
    }
    let [_, seq, width] = hidden.dims();
    let logits = model.logits(hidden.reshape([seq, width])).cast(DType::F32);
    let logits = logits.into_data();
    let rows = logits.as_slice::<f32>().unwrap().chunks_exact(96);
    let softmax = |row: &[f32]| {
        let weights: Vec<f64> = row.iter().map(|&logit| f64::from(logit).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / total).collect()
    };
    rows.map(softmax).collect()
}

#[test]
fn the_dense_model_does_not_diverge_from_itself() {
    let (model, windows) = (TinyModel::default().build(), calibration());
    for boundary in [Boundary::Prefill, Boundary::Decode] {
        for rows in [Rows::Continuation, Rows::All] {
            let loss = CalibrationLoss::new(&model, &windows, rows, boundary);
            let divergence = loss.divergence().unwrap();
            let stages = |prefill: &[usize], decode: &[usize]| PerStage {
                prefill: set(prefill),
                decode: set(decode),
            };
            let candidates = [stages(&[], &[]), stages(&[], &[2]), stages(&[2], &[2])];
            let found = costs(&divergence, &candidates);
            assert!(found[0].iter().all(|cost| cost.abs() < 1e-9), "{found:?}");
            assert!(found[1..].iter().flatten().all(|&cost| cost > 1e-4));
        }
    }
}

#[test]
fn the_divergence_of_one_set_is_that_of_the_model_without_it() {
    let (model, windows) = (TinyModel::default().build(), calibration());
    let removed = set(&[1, 3]);
    for (rows, boundary, first) in [
        (Rows::Continuation, Boundary::Prefill, PROMPT - 1),
        (Rows::Continuation, Boundary::Decode, PROMPT - 1),
        (Rows::All, Boundary::Prefill, 0),
    ] {
        let loss = CalibrationLoss::new(&model, &windows, rows, boundary);
        let divergence = loss.divergence().unwrap();
        let found = &costs(&divergence, &[PerStage::both(removed.clone())])[0];
        for (window, found) in windows.windows().iter().zip(found) {
            let fed = &window[..window.len() - 1];
            let dense = predictions(&model, fed, &set(&[]));
            let other = predictions(&model, fed, &removed);
            let of_row = |(p, q): (&Vec<f64>, &Vec<f64>)| -> f64 {
                p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
            };
            let rows: Vec<f64> = dense.iter().zip(&other).map(of_row).skip(first).collect();
            let mean = rows.iter().sum::<f64>() / rows.len() as f64;
            assert!((found - mean).abs() < 1e-5, "{found} against {mean}");
        }
    }
}

#[test]
fn a_change_of_decode_alone_does_not_reach_what_prefill_predicts() {
    let (model, windows) = (TinyModel::default().build(), calibration());
    let one_token: Vec<Vec<u32>> = windows
        .windows()
        .iter()
        .map(|w| w[..=PROMPT].to_vec())
        .collect();
    let windows = Calibration::new(one_token, PROMPT).unwrap();
    let decode = PerStage {
        prefill: set(&[]),
        decode: set(&[2]),
    };
    let diverges = |boundary| {
        let loss = CalibrationLoss::new(&model, &windows, Rows::Continuation, boundary);
        let divergence = loss.divergence().unwrap();
        let found = costs(&divergence, std::slice::from_ref(&decode));
        found.into_iter().flatten().any(|cost| cost > 1e-9)
    };
    assert!(!diverges(Boundary::Prefill));
    assert!(diverges(Boundary::Decode));
}
