use burn::tensor::{Device, Int};
use pdtrim_core::Stage;
use pdtrim_core::cache::{BlockCache, TokenPosition};
use pdtrim_core::model::{BlockModel, DownProjs, ModelDims};
use pdtrim_core::objective::{CalibrationLoss, Objective, Rows};
use pdtrim_core::testing::TinyModel;

use super::*;

const WIDTH: usize = 6;

/// A model of the user's. Its state has two halves: block 0 adds `tanh` of the first to the second,
/// through a matrix, block 1 adds a multiple of the second half, so that it is linear in what block 0's
/// MLP put out; block 2 does nothing.
struct Halves {
    down_proj: Tensor<2>,
    device: Device,
}

impl Halves {
    fn new() -> Self {
        let device = Device::flex();
        let value = |row: usize, column: usize| {
            if row < WIDTH {
                0.0
            } else {
                ((row * 5 + column * 3) % 7) as f32 / 7.0 - 0.4
            }
        };
        let values: Vec<f32> = (0..2 * WIDTH)
            .flat_map(|row| (0..WIDTH).map(move |column| value(row, column)))
            .collect();
        let down_proj = TensorData::new(values, [2 * WIDTH, WIDTH]);
        Self {
            down_proj: Tensor::from_data(down_proj, &device),
            device,
        }
    }
}

impl BlockModel for Halves {
    fn dims(&self) -> ModelDims {
        ModelDims {
            n_blocks: 3,
            n_kv_heads: 1,
            head_dim: 1,
            vocab_size: 40,
            context_length: 64,
        }
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn embed(&self, tokens: Tensor<2, Int>, _start: TokenPosition) -> Tensor<3> {
        let [batch, seq] = tokens.dims();
        let ids = tokens.float().reshape([batch, seq, 1]).mul_scalar(0.7);
        let waves = (1..=WIDTH).map(|n| ids.clone().mul_scalar(n as f32).sin());
        let first = Tensor::cat(waves.collect(), 2);
        let second = first.zeros_like();
        Tensor::cat(vec![first, second], 2)
    }

    fn run_block(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) -> Tensor<3> {
        if id.index() == 1 {
            let second = hidden.clone().narrow(2, WIDTH, WIDTH).mul_scalar(0.8);
            return hidden + Tensor::cat(vec![second.zeros_like(), second], 2);
        }
        let step = self.run_to_mlp(id, hidden, start, cache);
        step.residual + step.output
    }

    fn project_kv(&self, _: BlockId, _: Tensor<3>, _: TokenPosition, _: &mut BlockCache) {}

    fn queries(&self, _: BlockId, _: Tensor<3>, _: TokenPosition) -> Tensor<4> {
        unreachable!("no test asks")
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        hidden.repeat_dim(1, 4).narrow(1, 0, 40)
    }
}

impl MlpOutput for Halves {
    fn run_to_mlp(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        _start: TokenPosition,
        _cache: &mut BlockCache,
    ) -> MlpStep {
        let inner = hidden.clone().narrow(2, 0, WIDTH).tanh();
        let output = inner.matmul(self.down_proj.clone().transpose().unsqueeze());
        let share = if id.index() == 0 { 1.0 } else { 0.0 };
        MlpStep {
            residual: hidden,
            output: output.mul_scalar(share),
        }
    }

    fn down_proj(&self, _id: BlockId) -> Tensor<2> {
        self.down_proj.clone()
    }

    fn with_down_projs(&self, weights: &DownProjs) -> Self {
        Self {
            down_proj: weights[&BlockId::new(0)].clone(),
            device: self.device.clone(),
        }
    }
}

fn windows(tokens: u32, vocabulary: u32) -> Calibration {
    let window = |seed: u32| {
        (0..tokens)
            .map(|n| (n * n * 3 + seed * 11 + n) % vocabulary)
            .collect()
    };
    Calibration::new((0..12).map(window).collect(), tokens as usize / 2).unwrap()
}

fn removed(prefill: &[usize], decode: &[usize], depth: usize) -> PerStage<BlockSet> {
    let set = |blocks: &[usize]| BlockSet::from_indices(depth, blocks.iter().copied()).unwrap();
    PerStage {
        prefill: set(prefill),
        decode: set(decode),
    }
}

fn values(data: Tensor<2>) -> Vec<f32> {
    data.into_data().as_slice::<f32>().unwrap().to_vec()
}

/// Largest difference of two tensors' elements.
fn difference(a: Tensor<2>, b: Tensor<2>) -> f32 {
    let pairs = values(a).into_iter().zip(values(b));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_block_that_is_linear_in_the_mlp_output_before_it_is_repaired_to_rounding() {
    let model = Halves::new();
    let removed = removed(&[1], &[1], 3);
    let repair = LinearRepair { ridge: 1e-9 };
    let fit = repair
        .fit(&model, &windows(24, 40), &removed, Boundary::Prefill)
        .unwrap();
    for stage in [Stage::Prefill, Stage::Decode] {
        let repaired = fit.weights.apply_down_projs(&model, stage).unwrap();
        let expected = model.down_proj.clone().mul_scalar(1.8);
        assert!(difference(repaired.down_proj, expected) < 1e-4, "{stage}");
    }
    // On other windows the repaired model is the dense one.
    let repaired = fit.weights.apply_down_projs(&model, Stage::Decode).unwrap();
    let other = windows(23, 37);
    let cost = |model, removed| {
        let loss = CalibrationLoss::new(model, &other, Rows::Continuation, Boundary::Prefill);
        loss.costs(&[removed], &mut |_, _| std::ops::ControlFlow::Continue(()))
            .unwrap()[0]
    };
    let dense = cost(&model, PerStage::dense(3));
    assert!((cost(&repaired, removed.clone()) - dense).abs() < 1e-5);
    assert!((cost(&model, removed) - dense).abs() > 1e-3);
}

#[test]
fn a_strong_ridge_leaves_the_model_as_it_is() {
    let model = TinyModel::default().build();
    let fit = |ridge| {
        let removed = removed(&[2], &[2, 3], 5);
        let fit = LinearRepair { ridge };
        fit.fit(&model, &windows(24, 96), &removed, Boundary::Decode)
            .unwrap()
    };
    let change = |ridge| {
        let repaired = fit(ridge)
            .weights
            .apply_down_projs(&model, Stage::Decode)
            .unwrap();
        difference(
            repaired.down_proj(BlockId::new(1)),
            model.down_proj(BlockId::new(1)),
        )
    };
    assert!(change(1e12) < 1e-6, "{}", change(1e12));
    assert!(change(0.1) > 1e-3, "{}", change(0.1));
}

#[test]
fn a_folded_matrix_does_what_it_did_after_the_mlp() {
    let model = TinyModel::default().build();
    let id = BlockId::new(1);
    let matrix: Vec<f32> = (0..32 * 32)
        .map(|n| ((n * 7) % 31) as f32 / 31.0 - 0.5)
        .collect();
    let matrix = Tensor::<2>::from_data(TensorData::new(matrix, [32, 32]), model.device());
    let tokens = pdtrim_core::model::token_tensor(&model, &[[5, 6, 7, 8]]).unwrap();
    let hidden = || model.embed(tokens.clone(), TokenPosition(0));
    let cache = || BlockCache::with_capacity(4);
    let MlpStep { residual, output } =
        model.run_to_mlp(id, hidden(), TokenPosition(0), &mut cache());
    let dense = model.run_block(id, hidden(), TokenPosition(0), &mut cache());
    let flat = |states: Tensor<3>| states.reshape([4, 32]);
    assert!(difference(flat(dense), flat(residual.clone() + output.clone())) < 1e-5);

    let folded = matrix.clone().matmul(model.down_proj(id));
    let folded = model.with_down_projs(&[(id, folded)].into());
    let found = folded.run_block(id, hidden(), TokenPosition(0), &mut cache());
    let expected = flat(residual) + flat(output).matmul(matrix.transpose());
    assert!(difference(flat(found), expected) < 1e-5);
}

#[test]
fn a_stage_is_repaired_where_it_is_without_blocks_and_nowhere_else() {
    let model = TinyModel::default().build();
    let removed = removed(&[2], &[0, 2, 4], 5);
    let fit = LinearRepair::default();
    let fit = fit
        .fit(&model, &windows(24, 96), &removed, Boundary::Decode)
        .unwrap();
    let blocks = |stage| {
        fit.weights
            .of(stage)
            .keys()
            .map(|id| id.index())
            .collect::<Vec<_>>()
    };
    assert_eq!(blocks(Stage::Prefill), [1]);
    assert_eq!(blocks(Stage::Decode), [1, 3]);
    let id = BlockId::new(1);
    assert_ne!(
        fit.weights.of(Stage::Prefill)[&id],
        fit.weights.of(Stage::Decode)[&id]
    );
    // Nothing is before block 0 that could make up for it.
    assert!(fit.unrepaired.prefill.is_empty());
    assert_eq!(fit.unrepaired.decode, [runs(&removed.decode)[0]]);
}

#[test]
fn repaired_states_are_nearer_to_the_dense_ones_on_the_fitted_windows() {
    let model = TinyModel::default().build();
    let removed = removed(&[1, 3], &[1, 3], 5);
    let windows = windows(24, 96);
    let fit = LinearRepair { ridge: 1e-3 };
    let fit = fit
        .fit(&model, &windows, &removed, Boundary::Decode)
        .unwrap();
    let after = BlockSet::from_indices(5, [4]).unwrap();
    let dense = MlpPass::new(&model, &windows, Boundary::Decode)
        .dense_states(&PerStage::both(after.clone()))
        .unwrap();
    let error = |model: &pdtrim_core::model::Llama| {
        let pass = MlpPass::new(model, &windows, Boundary::Decode);
        let at = PerStage {
            prefill: after.clone(),
            decode: BlockSet::empty(5),
        };
        let mut sum = 0.0;
        pass.run_mapped(&removed, &at, &mut |_, id, steps: &[MlpStep]| {
            for (step, dense) in steps.iter().zip(&dense.prefill[&id]) {
                let rest = step.residual.clone() + step.output.clone() - dense.clone();
                sum += rest.clone().mul(rest).sum().into_scalar::<f32>();
            }
            Ok::<_, Error>(None)
        })
        .unwrap();
        sum
    };
    let repaired = fit
        .weights
        .apply_down_projs(&model, Stage::Prefill)
        .unwrap();
    let (trimmed, repaired) = (error(&model), error(&repaired));
    assert!(repaired < 0.9 * trimmed, "{repaired}, {trimmed}");
}

#[test]
fn a_ridge_that_is_no_weight_is_refused() {
    let model = TinyModel::default().build();
    for ridge in [-1.0, f64::NAN, f64::INFINITY] {
        let fit = LinearRepair { ridge };
        let removed = removed(&[2], &[2], 5);
        let found = fit.fit(&model, &windows(24, 96), &removed, Boundary::Decode);
        assert!(matches!(found, Err(Error::Ridge { .. })));
    }
}
