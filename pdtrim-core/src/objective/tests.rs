use burn::tensor::DType;

use super::*;
use crate::block::BlockId;
use crate::cache::{BlockCache, TokenPosition};
use crate::model::{BlockModel, token_tensor};
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
