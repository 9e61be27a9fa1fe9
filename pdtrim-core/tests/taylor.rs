//! Taylor importances, against the reference and against differences of the loss.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints what it compared"
)]

#[path = "support/reference.rs"]
mod reference;

use std::ops::ControlFlow;
use std::time::Instant;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
use pdtrim_core::cache::{BlockCache, TokenPosition};
use pdtrim_core::model::{Block, BlockModel, Llama, token_tensor};
use pdtrim_core::objective::{
    Calibration, CalibrationLoss, Objective, Placement, Rows, TaylorImportance, TaylorPass,
};
use pdtrim_core::testing::TinyModel;
use pdtrim_core::{BlockId, BlockSet, Boundary, Error, PerStage, Stage};
use reference::{indices, numbers, reference};

const SETTINGS: [(Rows, Boundary); 3] = [
    (Rows::Continuation, Boundary::Prefill),
    (Rows::Continuation, Boundary::Decode),
    (Rows::All, Boundary::Prefill),
];

fn importance(
    model: &Llama,
    calibration: &Calibration,
    (rows, boundary): (Rows, Boundary),
) -> TaylorImportance {
    let pass = TaylorPass::new(model, calibration, rows, boundary);
    pass.importance(&mut |_| {}).unwrap()
}

fn tiny_calibration(windows: u32) -> Calibration {
    let window = |n: u32| (0..16).map(|m| (m * m + 5 * n) % 96).collect();
    Calibration::new((0..windows).map(window).collect(), 12).unwrap()
}

/// All weights, larger by this part of themselves.
struct Scaled(f64);

impl ModuleMapper for Scaled {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| weight.mul_scalar(1.0 + self.0))
    }
}

fn with_block(model: &Llama, id: usize, change: impl FnOnce(Block) -> Block) -> Llama {
    let mut weights = model.weights().clone();
    weights.layers[id] = change(weights.layers[id].clone());
    Llama::new(model.config().clone(), weights, model.device())
}

/// The loss where the weights of block `id` are larger by the given part in each stage.
fn loss_with(
    model: &Llama,
    calibration: &Calibration,
    (rows, boundary): (Rows, Boundary),
    id: usize,
    by: PerStage<f64>,
) -> f64 {
    let scaled = |by| with_block(model, id, |block| block.map(&mut Scaled(by)));
    let (prefill, decode) = (scaled(by.prefill), scaled(by.decode));
    let models = PerStage {
        prefill: &prefill as _,
        decode: &decode as _,
    };
    let loss = CalibrationLoss::per_stage(models, calibration, rows, boundary).unwrap();
    let units: Vec<usize> = (0..loss.units()).collect();
    let dense = [PerStage::dense(loss.depth())];
    let keep_on = &mut |_: usize, _: &[f64]| ControlFlow::Continue(());
    let costs = loss.unit_costs(&dense, &units, keep_on).unwrap();
    costs[0].iter().sum::<f64>() / units.len() as f64
}

#[test]
fn the_signed_sums_are_the_slopes_of_the_loss_along_each_stages_weights() {
    let model = TinyModel::default().build();
    let calibration = tiny_calibration(3);
    for setting in SETTINGS {
        let found = importance(&model, &calibration, setting).signed;
        let stages: &[Stage] = match setting.0 {
            Rows::All => &[Stage::Decode],
            Rows::Continuation => &[Stage::Prefill, Stage::Decode],
        };
        for id in 0..5 {
            for &stage in stages {
                let step = 2e-3;
                let moved = |by: f64| {
                    let by = match stage {
                        Stage::Prefill => PerStage {
                            prefill: by,
                            decode: 0.0,
                        },
                        Stage::Decode => PerStage {
                            prefill: 0.0,
                            decode: by,
                        },
                    };
                    loss_with(&model, &calibration, setting, id, by)
                };
                let expected = (moved(step) - moved(-step)) / (2.0 * step);
                let found = found.of(stage)[id];
                println!("{setting:?} {stage} {id}: {found:.6}, by differences {expected:.6}");
                assert!(
                    (found - expected).abs() < 2e-4 + 2e-3 * expected.abs(),
                    "{setting:?}, {stage}, block {id}: {found}, by differences {expected}"
                );
            }
        }
    }
}

/// Σ w · ∂NLL/∂w of each block in one pass over whole windows, where the continuations' tokens count.
fn on_one_machine(model: &Llama, calibration: &Calibration) -> Vec<f64> {
    let model = model.with_gradients(&BlockSet::all(5));
    let (length, prompt) = (calibration.window_tokens(), calibration.prompt_tokens());
    let windows = calibration.windows();
    let fed: Vec<&[u32]> = windows.iter().map(|window| &window[..length - 1]).collect();
    let targets: Vec<&[u32]> = windows.iter().map(|window| &window[prompt..]).collect();
    let mut hidden = model.embed(token_tensor(&model, &fed).unwrap(), TokenPosition(0));
    for id in (0..5).map(BlockId::new) {
        let mut cache = BlockCache::with_capacity(0);
        hidden = model.run_block(id, hidden, TokenPosition(0), &mut cache);
    }
    let rows = windows.len() * (length - prompt);
    let hidden = hidden
        .narrow(1, prompt - 1, length - prompt)
        .reshape([rows, 32]);
    let targets: Tensor<2, Int> = token_tensor(&model, &targets).unwrap();
    let scores = log_softmax(model.logits(hidden), 1).gather(1, targets.reshape([rows, 1]));
    let gradients = scores.mean().neg().backward();
    let of_block = |block: &Block| {
        let (attention, mlp) = (&block.self_attn, &block.mlp);
        let matrices = [
            &attention.q_proj,
            &attention.k_proj,
            &attention.v_proj,
            &attention.o_proj,
            &mlp.gate_proj,
            &mlp.up_proj,
            &mlp.down_proj,
        ];
        let scales = [&block.input_layernorm, &block.post_attention_layernorm];
        let along = |weight: Tensor<1>, gradient: Tensor<1>| {
            f64::from((weight * gradient).sum().into_scalar::<f32>())
        };
        let matrices = matrices.iter().map(|matrix| {
            let (weight, flat) = (matrix.weight.val(), [matrix.weight.shape().num_elements()]);
            let gradient = weight.grad(&gradients).unwrap();
            along(weight.inner().reshape(flat), gradient.reshape(flat))
        });
        let scales = scales.iter().map(|norm| {
            let weight = norm.weight.val();
            let gradient = weight.grad(&gradients).unwrap();
            along(weight.inner(), gradient)
        });
        matrices.chain(scales).sum()
    };
    model.weights().layers.iter().map(of_block).collect()
}

#[test]
fn the_stages_signed_sums_add_up_to_those_of_one_machine() {
    let model = TinyModel::default().build();
    let calibration = tiny_calibration(3);
    let whole = on_one_machine(&model, &calibration);
    for boundary in [Boundary::Prefill, Boundary::Decode] {
        let found = importance(&model, &calibration, (Rows::Continuation, boundary)).signed;
        for (id, whole) in whole.iter().enumerate() {
            let sum = found.prefill[id] + found.decode[id];
            println!("{boundary} {id}: {sum:.7} of the stages, {whole:.7} of one machine");
            assert!((sum - whole).abs() < 1e-5 + 1e-4 * whole.abs());
        }
    }
}

#[test]
fn gradients_of_groups_are_summed_before_the_absolute_value_is_taken() {
    let model = TinyModel::default().build();
    // 64 windows of 16 tokens are one group.
    let all = tiny_calibration(128);
    let half = |windows: &[Vec<u32>]| Calibration::new(windows.to_vec(), 12).unwrap();
    let halves = [half(&all.windows()[..64]), half(&all.windows()[64..])];
    let setting = (Rows::Continuation, Boundary::Decode);
    let [first, second] = halves.map(|half| importance(&model, &half, setting));
    let both = importance(&model, &all, setting);
    for stage in [Stage::Prefill, Stage::Decode] {
        for id in 0..5 {
            let mean = |table: fn(&TaylorImportance) -> &PerStage<Vec<f64>>| {
                f64::midpoint(table(&first).of(stage)[id], table(&second).of(stage)[id])
            };
            let signed = mean(|importance| &importance.signed);
            assert!((both.signed.of(stage)[id] - signed).abs() < 1e-5 + 1e-4 * signed.abs());
            let by_element = both.by_element.of(stage)[id];
            assert!(by_element > both.signed.of(stage)[id].abs());
            // Signs differ between the halves in some weights.
            assert!(by_element < 0.99 * mean(|importance| &importance.by_element));
        }
    }
}

#[test]
fn all_rows_give_both_stages_the_same_and_blocks_are_heard_of_from_the_last() {
    let model = TinyModel::default().build();
    let calibration = tiny_calibration(2);
    let mut heard = Vec::new();
    let found = TaylorPass::new(&model, &calibration, Rows::All, Boundary::Prefill)
        .importance(&mut |id| heard.push(id.index()))
        .unwrap();
    assert_eq!(heard, [4, 3, 2, 1, 0]);
    assert_eq!(found.by_element.prefill, found.by_element.decode);
    assert_eq!(found.signed.prefill, found.signed.decode);
}

#[test]
fn a_number_that_is_not_finite_is_an_error_that_says_where() {
    let model = TinyModel::default().build();
    let calibration = tiny_calibration(2);
    let refused = |model: &Llama| {
        TaylorPass::new(model, &calibration, Rows::Continuation, Boundary::Prefill)
            .importance(&mut |_| {})
            .unwrap_err()
    };
    let broken = with_block(&model, 3, |block| block.map(&mut Scaled(f64::NAN)));
    let error = refused(&broken);
    let Error::NotFinite { stage, block, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((stage, block), (Stage::Prefill, 3));
    assert_eq!(
        error.to_string(),
        "prefill, block 3: a hidden state that leaves it is not a finite number, so the loss has no \
            derivative"
    );
    // A head that overflows: every hidden state is finite.
    let mut weights = model.weights().clone();
    weights.norm = weights.norm.map(&mut Scaled(f64::NAN));
    let broken = Llama::new(model.config().clone(), weights, model.device());
    assert!(matches!(
        refused(&broken),
        Error::NotFinite {
            block: 4,
            what: "the loss after it",
            ..
        }
    ));
}

fn golden(windows: usize, length: usize) {
    let Some(reference) = reference() else { return };
    let tokens = reference.text_tokens("wikitext2_train.txt");
    let place = Placement::Contiguous;
    let calibration = Calibration::from_tokens("test", &tokens, windows, length, place).unwrap();
    let begun = Instant::now();
    let setting = (Rows::All, Boundary::Prefill);
    let found = importance(&reference.model, &calibration, setting).by_element;
    println!(
        "{windows} x {length}: {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let name = format!("{windows}x{length}");
    let golden = &reference.golden["calib"]["wikitext2-train-slice"][name.as_str()]["taylor"];
    let mut farthest = 0.0_f64;
    for (id, expected) in numbers(&golden["scores"]).into_iter().enumerate() {
        let found = found.decode[id];
        farthest = farthest.max((found / expected - 1.0).abs());
        assert!(
            (found / expected - 1.0).abs() < 2e-4,
            "block {id}: {found}, expected {expected}"
        );
    }
    println!("farthest from the reference: {farthest:.1e} of its value");
    let mut order: Vec<usize> = (0..30).collect();
    order.sort_by(|&a, &b| found.decode[a].total_cmp(&found.decode[b]));
    assert_eq!(order, indices(&golden["order"]));
}

#[test]
fn importances_by_element_are_the_references() {
    golden(16, 128);
}

#[test]
#[ignore = "takes minutes: cargo test --release -- --ignored"]
fn importances_by_element_on_long_windows_are_the_references() {
    golden(10, 1024);
}
