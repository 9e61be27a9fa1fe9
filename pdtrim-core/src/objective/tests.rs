use burn::tensor::DType;

use super::*;
use crate::block::BlockId;
use crate::cache::{BlockCache, TokenPosition};
use crate::config::ModelConfig;
use crate::model::{BlockModel, BlockModules, Llama, block_weights, token_tensor, with_weights};
use crate::stage::Boundary;
use crate::testing::TinyModel;

const TOKENS: usize = 16;

/// The hidden states before each block and after the last, `[window][token · width]` each.
fn hidden_states(model: &dyn BlockModel, windows: &[Vec<u32>]) -> Vec<Vec<Vec<f32>>> {
    let host = |hidden: &burn::tensor::Tensor<3>| {
        let data = hidden.clone().cast(DType::F32).into_data();
        data.as_slice::<f32>().unwrap().to_vec()
    };
    let of_window = |window: &Vec<u32>| {
        let tokens = token_tensor(model, &[window]).unwrap();
        let mut hidden = model.embed(tokens, TokenPosition(0));
        let mut all = vec![host(&hidden)];
        for id in (0..model.dims().n_blocks).map(BlockId::new) {
            let mut cache = BlockCache::with_capacity(0);
            hidden = model.run_block(id, hidden, TokenPosition(0), &mut cache);
            all.push(host(&hidden));
        }
        all
    };
    windows.iter().map(of_window).collect()
}

/// Mean over windows and the tokens in `range` of the cosine of two blocks' inputs.
fn mean_cosine(
    states: &[Vec<Vec<f32>>],
    [before, after]: [usize; 2],
    range: std::ops::Range<usize>,
) -> f64 {
    let mut sum = 0.0;
    for window in states {
        let width = window[before].len() / TOKENS;
        for token in range.clone() {
            let row = |block: usize| &window[block][token * width..(token + 1) * width];
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
                products.sum()
            };
            let (a, b) = (row(before), row(after));
            sum += dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        }
    }
    sum / (states.len() * range.len()) as f64
}

#[test]
fn redundancies_are_the_mean_cosines_of_what_enters_and_what_leaves() {
    let model = TinyModel::default().build();
    let window = |n: u32| (0..TOKENS as u32).map(|m| (m * m + 5 * n) % 96).collect();
    let calibration = Calibration::new((0..3).map(window).collect(), 12).unwrap();
    let hidden = hidden_states(&model, calibration.windows());
    for (rows, boundary, prompt, continuation) in [
        (Rows::Continuation, Boundary::Prefill, 0..12, 12..16),
        (Rows::Continuation, Boundary::Decode, 0..11, 11..16),
        (Rows::All, Boundary::Prefill, 0..16, 0..16),
    ] {
        let loss = CalibrationLoss::new(&model, &calibration, rows, boundary);
        let tables = [
            (1, loss.redundancy().unwrap().0),
            (2, loss.pair_redundancy().unwrap().0),
        ];
        for (blocks, table) in tables {
            let parts = [(table.prefill, &prompt), (table.decode, &continuation)];
            for (found, tokens) in parts {
                assert_eq!(found.len(), 6 - blocks);
                for (first, found) in found.into_iter().enumerate() {
                    let expected = mean_cosine(&hidden, [first, first + blocks], tokens.clone());
                    assert!(
                        (found - expected).abs() < 1e-5,
                        "{blocks} from {first}, {tokens:?}: {found}, expected {expected}"
                    );
                }
            }
        }
    }
}

/// A model with other weights in all its blocks, but for those that make keys and values.
fn retrained(model: &Llama) -> Llama {
    let other = TinyModel {
        seed: 11,
        ..TinyModel::default()
    };
    let other = other.build();
    let block = |id: usize| {
        let id = BlockId::new(id);
        let mut weights = block_weights(&other.block_module(id));
        weights.retain(|path, _| !Llama::makes_kv(path));
        (id, with_weights(model.block_module(id), &weights))
    };
    model.with_block_modules(&(0..5).map(block).collect())
}

fn sets(prefill: &[usize], decode: &[usize]) -> PerStage<BlockSet> {
    let set = |blocks: &[usize]| BlockSet::from_indices(5, blocks.iter().copied()).unwrap();
    PerStage {
        prefill: set(prefill),
        decode: set(decode),
    }
}

#[test]
fn a_block_stands_for_a_pair_where_it_is_kept_and_the_next_one_is_removed() {
    let dense = TinyModel::default().build();
    let distilled = retrained(&dense);
    let window = |n: u32| (0..TOKENS as u32).map(|m| (m * m + 5 * n) % 96).collect();
    let calibration = Calibration::new((0..3).map(window).collect(), 12).unwrap();
    let rows = Rows::Continuation;
    // What each stage should run as blocks 1 and 3, the first ones of the pairs in prefill and decode.
    let expected = |removed: &PerStage<BlockSet>, standing: [&[usize]; 2]| {
        let model = |standing: &[usize]| {
            let ids = standing.iter().map(|&id| BlockId::new(id));
            let blocks = ids.map(|id| (id, distilled.block_module(id)));
            dense.with_block_modules(&blocks.collect())
        };
        let (prefill, decode) = (model(standing[0]), model(standing[1]));
        let models = PerStage {
            prefill: &prefill as &dyn BlockModel,
            decode: &decode,
        };
        let loss =
            CalibrationLoss::per_stage(models, &calibration, rows, Boundary::Decode).unwrap();
        let one = std::slice::from_ref(removed);
        loss.costs(one, &mut |_, _| ControlFlow::Continue(()))
            .unwrap()[0]
    };
    let cases: [(PerStage<BlockSet>, [&[usize]; 2]); 7] = [
        (sets(&[], &[]), [&[], &[]]),
        (sets(&[2], &[]), [&[1], &[]]),
        (sets(&[2], &[2]), [&[1], &[]]),
        (sets(&[1, 2], &[4]), [&[], &[3]]),
        (sets(&[], &[4]), [&[], &[3]]),
        (sets(&[], &[3, 4]), [&[], &[]]),
        (sets(&[2, 4], &[2, 4]), [&[1], &[3]]),
    ];
    let pairs = |firsts: &[usize]| {
        let firsts = BlockSet::from_indices(5, firsts.iter().copied()).unwrap();
        DistilledPairs::new(&distilled, firsts).unwrap()
    };
    let of_both = PerStage {
        prefill: pairs(&[1]),
        decode: pairs(&[3]),
    };
    let loss = CalibrationLoss::new(&dense, &calibration, rows, Boundary::Decode);
    let loss = loss.with_pairs(of_both).unwrap();
    let expected: Vec<f64> = cases
        .iter()
        .map(|(removed, standing)| expected(removed, *standing))
        .collect();
    assert!((expected[2] - expected[0]).abs() > 1e-3, "{expected:?}");
    // All at once, those with the same P, and each by itself: what is shared differs, the costs do not.
    let removed: Vec<_> = cases.iter().map(|(removed, _)| removed.clone()).collect();
    for group in [&removed[..], &removed[1..3], &removed[4..6]]
        .into_iter()
        .chain(removed.chunks(1))
    {
        let found = loss.costs(group, &mut |_, _| ControlFlow::Continue(()));
        for (removed, found) in group.iter().zip(found.unwrap()) {
            let n = cases.iter().position(|(sets, _)| sets == removed).unwrap();
            assert!(
                (found - expected[n]).abs() < 2e-6,
                "{removed:?}: {found}, {}",
                expected[n]
            );
        }
    }
}

#[test]
fn pairs_of_another_model_are_refused() {
    let model = TinyModel::default().build();
    let firsts = BlockSet::from_indices(6, [1]).unwrap();
    assert!(matches!(
        DistilledPairs::new(&model, firsts),
        Err(crate::Error::Depth { found: 6, .. })
    ));
}

#[test]
fn what_a_candidate_costs_does_not_depend_on_what_was_measured_before() {
    let tiny = TinyModel::default();
    let config = ModelConfig {
        n_blocks: 9,
        ..tiny.config.clone()
    };
    let model = TinyModel { config, ..tiny }.build();
    let window = |n: u32| (0..TOKENS as u32).map(|m| (m * m + 5 * n) % 96).collect();
    let calibration = Calibration::new((0..3).map(window).collect(), 12).unwrap();
    let set = |blocks: &[usize]| BlockSet::from_indices(9, blocks.iter().copied()).unwrap();
    let pair = |prefill: &[usize], decode: &[usize]| PerStage {
        prefill: set(prefill),
        decode: set(decode),
    };
    let candidates = [
        pair(&[5], &[5, 8]),
        pair(&[8], &[8]),
        pair(&[], &[]),
        pair(&[2], &[2, 6]),
        pair(&[6], &[4]),
        pair(&[5], &[5, 7]),
    ];
    for boundary in [Boundary::Prefill, Boundary::Decode] {
        for rows in [Rows::Continuation, Rows::All] {
            let fresh = || CalibrationLoss::new(&model, &calibration, rows, boundary);
            let go_on: &mut OnUnitCosts<'_> = &mut |_, _| ControlFlow::Continue(());
            let together = fresh().unit_costs(&candidates, &[0, 2], go_on).unwrap();
            let used = fresh();
            for (candidate, expected) in candidates.iter().zip(together) {
                let one = std::slice::from_ref(candidate);
                for loss in [&fresh(), &used] {
                    let costs = loss.unit_costs(one, &[0, 2], go_on).unwrap();
                    assert_eq!(
                        costs,
                        [&expected[..]],
                        "{candidate:?}, {boundary:?}, {rows:?}"
                    );
                }
            }
        }
    }
}
