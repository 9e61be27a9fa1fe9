//! Narrower blocks, against the dense model with zeros in the place of what is removed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/tiny_checkpoint.rs"]
mod tiny_checkpoint;

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor, TensorData};
use pdtrim_core::checkpoint::{Checkpoint, ExportSettings, ExportStage, StageWeights};
use pdtrim_core::config::Architecture;
use pdtrim_core::model::{BlockModel, Llama, WidthModel};
use pdtrim_core::objective::{
    Calibration, CalibrationLoss, Objective, Rows, WidthPass, compensation, coupled_importance,
    fluctuation,
};
use pdtrim_core::pipeline::{PdModel, SendAll};
use pdtrim_core::testing::{TinyModel, tiny_config};
use pdtrim_core::width::{BlockBiases, BlockSize, RemovedWidth, StageBiases, StageWidths, Widths};
use pdtrim_core::{BlockId, BlockSet, Boundary, Error, KvFill, PerStage, Stage, TokenScore};
use tiny_checkpoint::write_folder;

fn tiny(architecture: Architecture) -> Llama {
    let config = tiny_config(architecture);
    TinyModel {
        config,
        ..TinyModel::default()
    }
    .build()
}

fn removed(entries: &[(usize, &[usize], &str)]) -> StageWidths {
    let entry = |&(block, groups, channels): &(usize, &[usize], &str)| {
        let width = RemovedWidth {
            groups: groups.iter().copied().collect(),
            channels: channels.parse().unwrap(),
        };
        (BlockId::new(block), width)
    };
    entries.iter().map(entry).collect()
}

/// Zeros in the columns of a weight.
fn cleared(weight: &Param<Tensor<2>>, gone: impl Fn(usize) -> bool) -> Param<Tensor<2>> {
    let [rows, columns] = weight.val().dims();
    let mask = (0..rows * columns).map(|index| f32::from(!gone(index % columns)));
    let mask = TensorData::new(mask.collect::<Vec<_>>(), [rows, columns]);
    let mask = Tensor::from_data(mask, &weight.val().device());
    Param::initialized(weight.id, weight.val() * mask)
}

/// The dense model with zeros in the columns of the output layers.
fn zeroed(model: &Llama, widths: &StageWidths) -> Llama {
    let mut weights = model.weights().clone();
    for (id, width) in widths {
        let block = &mut weights.layers[id.index()];
        let o_proj = &mut block.self_attn.o_proj.weight;
        // Two query heads of 8 in each group.
        *o_proj = cleared(o_proj, |column| width.groups.contains(column / 16));
        let down = &mut block.mlp.down_proj.weight;
        *down = cleared(down, |column| width.channels.contains(column));
    }
    Llama::new(model.config().clone(), weights, model.device())
}

fn pd(models: PerStage<&dyn BlockModel>, boundary: Boundary) -> PdModel<'_> {
    let dense = PerStage::dense(5);
    PdModel::per_stage(models, dense, KvFill::Nested, boundary, &SendAll).unwrap()
}

fn scores(model: &PdModel<'_>) -> Vec<TokenScore> {
    let scores = model.score(&[5, 6, 7, 8, 50], &[[9, 10, 11]]).unwrap();
    scores.continuations[0].tokens.clone()
}

fn assert_close(found: &[TokenScore], expected: &[TokenScore]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let apart = (found.logprob - expected.logprob).abs();
        assert!(apart < 2e-5, "{found:?}, expected {expected:?}");
    }
}

fn nested() -> PerStage<StageWidths> {
    PerStage {
        prefill: removed(&[(1, &[0], "3-20"), (3, &[], "0,7,47")]),
        decode: removed(&[(0, &[1], ""), (1, &[0], "40-47"), (4, &[1], "5-9")]),
    }
}

#[test]
fn narrow_stages_are_the_dense_model_with_zeros() {
    for architecture in [Architecture::Llama, Architecture::Qwen2] {
        let model = tiny(architecture);
        let widths = nested();
        let none = StageBiases::default();
        let narrow = |stage| model.narrowed(widths.of(stage), &none);
        let zeros = |stage| zeroed(&model, widths.of(stage));
        let (prefill, decode) = (narrow(Stage::Prefill), narrow(Stage::Decode));
        let (full_prefill, full_decode) = (zeros(Stage::Prefill), zeros(Stage::Decode));
        for boundary in [Boundary::Prefill, Boundary::Decode] {
            let narrow = pd(
                PerStage {
                    prefill: &prefill,
                    decode: &decode,
                },
                boundary,
            );
            let full = pd(
                PerStage {
                    prefill: &full_prefill,
                    decode: &full_decode,
                },
                boundary,
            );
            assert_close(&scores(&narrow), &scores(&full));
            let dense = pd(PerStage::both(&model), boundary);
            assert_ne!(scores(&narrow), scores(&dense));
        }
        assert_eq!(
            prefill.weights().layers[1].mlp.up_proj.weight.dims(),
            [30, 32]
        );
        assert_eq!(
            decode.weights().layers[0].self_attn.k_proj.weight.dims(),
            [8, 32]
        );
    }
}

#[test]
fn the_search_measures_what_the_stages_run() {
    let model = tiny(Architecture::Llama);
    let widths = nested();
    let none = StageBiases::default();
    let windows: Vec<Vec<u32>> = (0..3).map(|n| (n..n + 24).collect()).collect();
    let calibration = Calibration::new(windows, 16).unwrap();
    let cost = |prefill: &Llama, decode: &Llama| {
        let models = PerStage {
            prefill: prefill as &dyn BlockModel,
            decode,
        };
        let (rows, boundary) = (Rows::Continuation, Boundary::Decode);
        let loss = CalibrationLoss::per_stage(models, &calibration, rows, boundary).unwrap();
        let one = [PerStage::dense(5)];
        let both = loss.costs(&one, &mut |_, _| std::ops::ControlFlow::Continue(()));
        let with = loss.cost_with(&PerStage::dense(5), &SendAll).unwrap();
        assert!((both.unwrap()[0] - with).abs() < 2e-6);
        with
    };
    let narrow = cost(
        &model.narrowed(&widths.prefill, &none),
        &model.narrowed(&widths.decode, &none),
    );
    let full = cost(
        &zeroed(&model, &widths.prefill),
        &zeroed(&model, &widths.decode),
    );
    assert!((narrow - full).abs() < 1e-5, "{narrow}, {full}");
    assert!((narrow - cost(&model, &model)).abs() > 1e-4);
}

#[test]
fn only_the_groups_of_decode_cross() {
    let model = tiny(Architecture::Llama);
    let widths = nested();
    let none = StageBiases::default();
    let prefill = model.narrowed(&widths.prefill, &none);
    let decode = model.narrowed(&widths.decode, &none);
    let models = PerStage {
        prefill: &prefill as &dyn BlockModel,
        decode: &decode,
    };
    let handover = pd(models, Boundary::Prefill)
        .prefill(&[[1_u32, 2, 3]])
        .unwrap();
    // Blocks 0, 1 and 4 send one of two groups: 7 of 10. Keys and values of 3 positions, 8 wide, in f32.
    assert_eq!(handover.kv_bytes().0, 7 * 2 * 3 * 8 * 4);
    let dense = pd(PerStage::both(&model), Boundary::Prefill);
    let dense = dense.prefill(&[[1_u32, 2, 3]]).unwrap();
    assert_eq!(dense.kv_bytes().0, 10 * 2 * 3 * 8 * 4);
}

#[test]
fn decode_cannot_have_a_group_that_prefill_is_without() {
    let model = tiny(Architecture::Llama);
    let narrow = model.narrowed(&removed(&[(2, &[1], "")]), &StageBiases::default());
    let models = PerStage {
        prefill: &narrow as &dyn BlockModel,
        decode: &model,
    };
    let of =
        |removed| PdModel::per_stage(models, removed, KvFill::Nested, Boundary::Prefill, &SendAll);
    let refused = of(PerStage::dense(5));
    assert!(matches!(refused, Err(Error::Width { block: 2, .. })));
    // Unless decode does not run the block.
    let without = PerStage {
        prefill: BlockSet::empty(5),
        decode: BlockSet::from_indices(5, [2]).unwrap(),
    };
    assert!(of(without).is_ok());
}

#[test]
fn compensation_of_constant_inputs_is_exact() {
    let model = tiny(Architecture::Llama);
    let size = BlockSize::of(model.config());
    // One token over and over: every position attends to equal values, so nothing ever varies.
    let calibration = Calibration::new(vec![vec![17; 24]; 2], 16).unwrap();
    let pass = WidthPass::new(&model, &calibration, Boundary::Decode);
    let moments = pass.moments(&PerStage::dense(5)).unwrap();
    let one = fluctuation(&model, BlockId::new(1), &moments.decode[&BlockId::new(1)]);
    assert!(
        one.attention
            .iter()
            .chain(&one.mlp)
            .all(|score| *score < 1e-9)
    );
    let widths = PerStage {
        prefill: removed(&[(1, &[0], "3-20")]),
        decode: removed(&[(1, &[0], "3-40"), (3, &[1], "")]),
    };
    let biases = PerStage {
        prefill: compensation(&model, size, &moments.prefill, &widths.prefill),
        decode: compensation(&model, size, &moments.decode, &widths.decode),
    };
    assert!(biases.decode[&BlockId::new(3)].mlp.is_empty());
    let widths = Widths {
        removed: widths,
        biases,
    };
    let prefill = widths.apply(&model, Stage::Prefill).unwrap();
    let decode = widths.apply(&model, Stage::Decode).unwrap();
    let narrow = PerStage {
        prefill: &prefill as &dyn BlockModel,
        decode: &decode,
    };
    let score = |models| {
        let scores = pd(models, Boundary::Decode).score(&[17; 8], &[[17; 4]]);
        scores.unwrap().continuations[0].tokens.clone()
    };
    assert_close(&score(narrow), &score(PerStage::both(&model)));
}

#[test]
fn a_model_read_block_by_block_is_narrowed_like_one_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), &tiny(Architecture::Llama));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let widths = removed(&[(0, &[1], "1-40"), (4, &[], "0-30")]);
    let none = StageBiases::default();
    let held = checkpoint.load(DType::F32, &Device::flex()).unwrap();
    let streamed = checkpoint
        .load_streamed(DType::F32, &Device::flex())
        .unwrap();
    let (held, streamed) = (
        held.narrowed(&widths, &none),
        streamed.narrowed(&widths, &none),
    );
    let score = |model: &Llama| scores(&pd(PerStage::both(model), Boundary::Prefill));
    assert_eq!(score(&held), score(&streamed));
}

#[test]
fn an_exported_narrow_stage_loads_back_to_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("source"), folder.path().join("out"));
    let model = tiny(Architecture::Llama);
    write_folder(&source, &model);
    let checkpoint = Checkpoint::open(&source).unwrap();
    let widths = removed(&[(0, &[1], "1-40"), (1, &[0], ""), (4, &[], "0-30")]);
    let bias = |block, attention: f32, mlp: f32| {
        let some = |value: f32| {
            if value == 0.0 {
                Vec::new()
            } else {
                vec![value; 32]
            }
        };
        let biases = BlockBiases {
            attention: some(attention),
            mlp: some(mlp),
        };
        (BlockId::new(block), biases)
    };
    let gone = BlockSet::from_indices(5, [2]).unwrap();
    let narrow_stage = |biases: &StageBiases| ExportStage {
        weights: StageWeights::Narrow(widths.clone(), biases.clone()),
        ..ExportStage::without(gone.clone())
    };
    let plain = ExportSettings::plain(DType::F32);
    for (biases, attention, mlp) in [
        (StageBiases::default(), false, false),
        ([bias(0, 0.4, -0.3), bias(4, 0.0, 0.2)].into(), true, true),
        ([bias(0, 0.4, 0.0)].into(), true, false),
    ] {
        let export = checkpoint.export(&narrow_stage(&biases), &plain, &out);
        assert_eq!(export.unwrap().blocks, 4);
        let opened = Checkpoint::open(&out).unwrap();
        let config = opened.config();
        assert_eq!((config.attention_bias, config.mlp_bias), (attention, mlp));
        let exported = opened.load(DType::F32, &Device::flex()).unwrap();
        let narrow = model.narrowed(&widths, &biases);
        let expected = PdModel::new(
            &narrow,
            PerStage::both(gone.clone()),
            KvFill::Nested,
            Boundary::Prefill,
            &SendAll,
        )
        .unwrap();
        let dense = PdModel::dense(&exported, Boundary::Prefill);
        assert_close(&scores(&dense), &scores(&expected));
        // What has biases of its own can be made narrower again.
        let again = exported.narrowed(&removed(&[(1, &[0], "0-3")]), &[bias(1, 0.1, 0.1)].into());
        let again = PdModel::dense(&again, Boundary::Prefill);
        assert_ne!(scores(&again), scores(&dense));
    }
    let qwen = folder.path().join("qwen");
    write_folder(&qwen, &tiny(Architecture::Qwen2));
    let qwen = Checkpoint::open(&qwen).unwrap();
    let biases: StageBiases = [bias(0, 0.4, 0.0)].into();
    let export = |biases| qwen.export(&narrow_stage(biases), &plain, &out);
    assert!(matches!(export(&biases), Err(Error::Export { .. })));
    assert!(export(&StageBiases::default()).is_ok());
}

/// The model with all weights of one channel, or of one group, multiplied.
fn scaled(
    model: &Llama,
    block: usize,
    group: Option<usize>,
    channel: Option<usize>,
    by: f32,
) -> Llama {
    let mut weights = model.weights().clone();
    let layer = &mut weights.layers[block];
    let rows = |weight: &mut Param<Tensor<2>>, chosen: &dyn Fn(usize) -> bool| {
        let [rows, columns] = weight.val().dims();
        let factor = |index: usize| if chosen(index / columns) { by } else { 1.0 };
        let factors: Vec<f32> = (0..rows * columns).map(factor).collect();
        let factors = TensorData::new(factors, [rows, columns]);
        let factors = Tensor::from_data(factors, &weight.val().device());
        *weight = Param::initialized(weight.id, weight.val() * factors);
    };
    let columns = |weight: &mut Param<Tensor<2>>, chosen: &dyn Fn(usize) -> bool| {
        let mut turned = Param::initialized(weight.id, weight.val().transpose());
        rows(&mut turned, chosen);
        *weight = Param::initialized(weight.id, turned.val().transpose());
    };
    if let Some(channel) = channel {
        rows(&mut layer.mlp.gate_proj.weight, &|row| row == channel);
        rows(&mut layer.mlp.up_proj.weight, &|row| row == channel);
        columns(&mut layer.mlp.down_proj.weight, &|column| column == channel);
    }
    if let Some(group) = group {
        let attention = &mut layer.self_attn;
        rows(&mut attention.q_proj.weight, &|row| row / 16 == group);
        rows(&mut attention.k_proj.weight, &|row| row / 8 == group);
        rows(&mut attention.v_proj.weight, &|row| row / 8 == group);
        columns(&mut attention.o_proj.weight, &|column| column / 16 == group);
    }
    Llama::new(model.config().clone(), weights, model.device())
}

#[test]
fn coupled_importance_is_the_slope_of_the_stages_loss() {
    let model = tiny(Architecture::Llama);
    let windows: Vec<Vec<u32>> = (0..2).map(|n| (7 * n..7 * n + 12).collect()).collect();
    let calibration = Calibration::new(windows, 8).unwrap();
    let boundary = Boundary::Decode;
    let dense = PerStage::dense(5);
    let cost = |prefill: &Llama, decode: &Llama| -> f64 {
        let pd = pd(
            PerStage {
                prefill: prefill as &dyn BlockModel,
                decode,
            },
            boundary,
        );
        let windows = calibration.windows().iter();
        let nll = |window: &Vec<u32>| {
            -pd.score(&window[..8], &[&window[8..]])
                .unwrap()
                .continuations[0]
                .sum()
        };
        windows.map(nll).sum()
    };
    for stages in [
        &[Stage::Prefill][..],
        &[Stage::Decode],
        &[Stage::Prefill, Stage::Decode],
    ] {
        let found = coupled_importance(&model, &calibration, boundary, &dense, stages).unwrap();
        assert_eq!(found.len(), 5);
        for (group, channel) in [(Some(1), None), (None, Some(7))] {
            let moved = |by: f32| {
                let other = scaled(&model, 2, group, channel, 1.0 + by);
                let of = |stage| {
                    if stages.contains(&stage) {
                        &other
                    } else {
                        &model
                    }
                };
                cost(of(Stage::Prefill), of(Stage::Decode))
            };
            let slope = ((moved(1e-2) - moved(-1e-2)) / 2e-2).abs();
            let scores = &found[&BlockId::new(2)];
            let score = group.map_or(scores.mlp[7], |group| scores.attention[group]);
            assert!(
                (score - slope).abs() < 2e-2 * slope.max(0.05),
                "{stages:?} {group:?} {channel:?}: {score}, {slope}"
            );
        }
    }
}
