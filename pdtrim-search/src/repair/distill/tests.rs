use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use burn::module::Param;
use burn::tensor::Tensor;
use pdtrim_core::cache::{BlockCache, TokenPosition};
use pdtrim_core::model::{BlockModel, Llama, block_weights, token_tensor};
use pdtrim_core::testing::TinyModel;

use super::*;

fn windows() -> Calibration {
    let window = |seed: u32| {
        (0..16)
            .map(|n| (n * n * 3 + seed * 11 + n) % 96)
            .collect::<Vec<u32>>()
    };
    Calibration::new((0..12).map(window).collect(), 8).unwrap()
}

fn removed(prefill: &[usize], decode: &[usize]) -> PerStage<BlockSet> {
    let set = |blocks: &[usize]| BlockSet::from_indices(5, blocks.iter().copied()).unwrap();
    PerStage {
        prefill: set(prefill),
        decode: set(decode),
    }
}

fn repair() -> DistillRepair {
    DistillRepair {
        run_steps: 20,
        steps: 10,
        run_learning_rate: 3e-3,
        learning_rate: 1e-3,
        ..DistillRepair::default()
    }
}

fn fit(repair: &DistillRepair, removed: &PerStage<BlockSet>) -> Result<DistillFit> {
    let model = TinyModel::default().build();
    let calibration = windows();
    repair.fit(
        &model,
        &calibration,
        removed,
        Boundary::Decode,
        None,
        &mut |_| (),
    )
}

/// All weights, by stage, block and name.
fn listed(weights: &RepairWeights) -> Vec<(Stage, BlockId, String, Vec<u8>)> {
    let stages = [Stage::Prefill, Stage::Decode].into_iter();
    let blocks = stages.flat_map(|stage| weights.of(stage).iter().map(move |own| (stage, own)));
    blocks
        .flat_map(|(stage, (&id, own))| {
            own.iter()
                .map(move |(name, data)| (stage, id, name.clone(), data.as_bytes().to_vec()))
        })
        .collect()
}

/// Hidden states of the windows after `blocks`.
fn after(model: &Llama, blocks: std::ops::Range<usize>) -> Tensor<3> {
    let tokens = token_tensor(model, windows().windows()).unwrap();
    let hidden = model.embed(tokens, TokenPosition(0));
    blocks.fold(hidden, |hidden, id| {
        let mut cache = BlockCache::with_capacity(0);
        model.run_block(BlockId::new(id), hidden, TokenPosition(0), &mut cache)
    })
}

#[test]
fn a_trained_block_is_nearer_to_the_dense_state_than_a_linear_one() {
    let model = TinyModel::default().build();
    let sets = removed(&[2], &[2]);
    let target = after(&model, 0..3);
    let error = |model: &Llama| {
        let error = (after(model, 0..2) - target.clone()).square().mean();
        error.into_scalar::<f32>()
    };
    let linear = LinearRepair::default()
        .fit(&model, &windows(), &sets, Boundary::Decode)
        .unwrap()
        .weights;
    let linear = linear.apply(&model, Stage::Prefill).unwrap();
    let found = fit(
        &DistillRepair {
            steps: 0,
            ..repair()
        },
        &sets,
    )
    .unwrap();
    let trained = found.weights.apply(&model, Stage::Prefill).unwrap();
    let (before, linear, trained) = (error(&model), error(&linear), error(&trained));
    assert!(linear < before, "{linear}, {before}");
    assert!(trained < 0.95 * linear, "{trained}, {linear}");
    assert_eq!(found.losses.len(), 2);
    for loss in &found.losses {
        assert_eq!(loss.block, Some(BlockId::new(1)));
        assert!(loss.last < loss.first, "{loss:?}");
    }
}

#[test]
fn training_on_predictions_brings_them_nearer() {
    let sets = removed(&[], &[1, 3]);
    let found = fit(
        &DistillRepair {
            run_steps: 0,
            steps: 60,
            ..repair()
        },
        &sets,
    )
    .unwrap();
    let [loss] = found.losses[..] else {
        panic!("one part: {:?}", found.losses)
    };
    assert_eq!((loss.stage, loss.block), (Stage::Decode, None));
    assert!(loss.last < 0.9 * loss.first, "{loss:?}");
}

#[test]
fn each_stage_has_its_own_weights_and_none_that_make_keys_or_values() {
    let found = fit(&repair(), &removed(&[2], &[2, 4])).unwrap();
    let weights = listed(&found.weights);
    let places: BTreeSet<_> = weights
        .iter()
        .map(|(stage, id, ..)| (*stage, id.index()))
        .collect();
    let expected = [(Stage::Prefill, 1), (Stage::Decode, 1), (Stage::Decode, 3)];
    assert_eq!(places, BTreeSet::from(expected));
    let own = |stage| &found.weights.of(stage)[&BlockId::new(1)];
    assert_ne!(own(Stage::Prefill), own(Stage::Decode));

    let model = TinyModel::default().build();
    let dense = block_weights(&model.block_module(BlockId::new(1)));
    let repaired = found.weights.apply(&model, Stage::Decode).unwrap();
    for (name, weight) in block_weights(&repaired.block_module(BlockId::new(1))) {
        let is_frozen = Llama::makes_kv(&name);
        assert_eq!(weight == dense[&name], is_frozen, "{name}");
        assert_eq!(own(Stage::Decode).contains_key(&name), !is_frozen, "{name}");
    }
    let frozen = dense.keys().filter(|name| Llama::makes_kv(name)).count();
    assert_eq!((frozen, dense.len()), (3, 9));

    let none = fit(&repair(), &removed(&[], &[])).unwrap();
    assert!(none.weights.is_empty() && none.losses.is_empty());
    let front = fit(&repair(), &removed(&[0], &[0])).unwrap();
    assert!(front.weights.is_empty());
    assert_eq!(front.unrepaired.decode.len(), 1);
}

#[test]
fn a_stopped_training_goes_on_to_the_same_weights() {
    let (model, calibration) = (TinyModel::default().build(), windows());
    let sets = removed(&[2], &[1, 2, 4]);
    let whole = fit(&repair(), &sets).unwrap();
    assert_ne!(
        listed(&whole.weights),
        listed(
            &fit(
                &DistillRepair {
                    seed: 1,
                    ..repair()
                },
                &sets
            )
            .unwrap()
            .weights
        )
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("distill");
    let run = |fingerprint, every, on_step: &mut OnStep<'_>| {
        let resume = DistillResume {
            path: &path,
            fingerprint,
            every,
        };
        let resume = Some(resume);
        repair().fit(
            &model,
            &calibration,
            &sets,
            Boundary::Decode,
            resume,
            on_step,
        )
    };
    let stopped_at = |stop: usize, every| {
        let mut first = None;
        let run = || {
            run("one", every, &mut |step| {
                first.get_or_insert(step.done);
                assert!(step.done < stop, "stopped");
            })
        };
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        first.unwrap()
    };
    // Within a run, within a stage's predictions, and at the end of a part.
    assert_eq!(stopped_at(7, Duration::ZERO), 1);
    assert_eq!(stopped_at(25, Duration::ZERO), 7);
    assert_eq!(stopped_at(41, Duration::MAX), 25);
    let mut steps = Vec::new();
    let found = run("one", Duration::MAX, &mut |step| steps.push(*step)).unwrap();
    assert_eq!(steps.first().map(|step| step.done), Some(31));
    assert_eq!(
        steps.last().map(|step| (step.done, step.steps)),
        Some((80, 80))
    );
    assert_eq!(listed(&found.weights), listed(&whole.weights));
    assert_eq!(found.losses, whole.losses);

    let again = run("one", Duration::MAX, &mut |_| panic!("all is known")).unwrap();
    assert_eq!(listed(&again.weights), listed(&whole.weights));
    let mut count = 0;
    run("another", Duration::MAX, &mut |_| count += 1).unwrap();
    assert_eq!(count, 80);
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let sets = removed(&[], &[2]);
    let refused = |repair: DistillRepair| fit(&repair, &sets).unwrap_err().to_string();
    let rate = refused(DistillRepair {
        learning_rate: 2.0,
        ..repair()
    });
    assert!(
        rate.contains("learning rate") && rate.contains("found 2"),
        "{rate}"
    );
    let batch = refused(DistillRepair {
        batch: 0,
        ..repair()
    });
    assert!(batch.contains("batch"), "{batch}");
    let narrow = TinyModel {
        dtype: DType::BF16,
        ..TinyModel::default()
    };
    let error = repair().fit(
        &narrow.build(),
        &windows(),
        &sets,
        Boundary::Decode,
        None,
        &mut |_| (),
    );
    assert!(error.unwrap_err().to_string().contains("BF16"));
}

#[test]
fn a_loss_that_is_no_number_names_its_stage_and_step() {
    let model = TinyModel::default().build();
    let mut weights = model.weights().clone();
    let norm = weights.norm.weight.val().mul_scalar(f32::NAN);
    weights.norm.weight = Param::initialized(weights.norm.weight.id, norm);
    let broken = Llama::new(model.config().clone(), weights, model.device());
    let sets = removed(&[], &[2]);
    let error = repair().fit(
        &broken,
        &windows(),
        &sets,
        Boundary::Decode,
        None,
        &mut |_| (),
    );
    let error = error.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Diverged {
                stage: Stage::Decode,
                block: None,
                step: 1
            }
        ),
        "{error}"
    );
    let error = Error::Diverged {
        stage: Stage::Prefill,
        block: Some(BlockId::new(7)),
        step: 3,
    };
    assert!(
        error
            .to_string()
            .starts_with("the distillation of prefill, block 7, has"),
        "{error}"
    );
}

fn fit_pairs(firsts: &PerStage<BlockSet>, resume: Option<DistillResume<'_>>) -> DistillFit {
    let model = TinyModel::default().build();
    let (windows, boundary) = (windows(), Boundary::Decode);
    repair()
        .fit_pairs(&model, &windows, firsts, boundary, resume, &mut |_| ())
        .unwrap()
}

#[test]
fn a_pair_is_trained_by_itself_on_the_dense_models_states() {
    let model = TinyModel::default().build();
    let both = fit_pairs(&removed(&[1, 2], &[2]), None);
    let blocks: Vec<_> = both
        .losses
        .iter()
        .map(|loss| (loss.stage, loss.block))
        .collect();
    assert_eq!(
        blocks,
        [
            (Stage::Prefill, Some(BlockId::new(1))),
            (Stage::Prefill, Some(BlockId::new(2))),
            (Stage::Decode, Some(BlockId::new(2))),
        ]
    );
    // Block 2 comes after block 1 and decode after prefill: what they learn does not depend on that but for
    // the order of the windows.
    let linear = LinearRepair::default();
    let start = |prefill: &[usize], decode: &[usize]| {
        let firsts = removed(prefill, decode);
        listed(
            &linear
                .fit_pairs(&model, &windows(), &firsts, Boundary::Decode)
                .unwrap(),
        )
    };
    let together = start(&[1, 2], &[2]);
    assert_eq!(together[1], start(&[2], &[])[0]);
    assert_eq!(together[2], start(&[], &[2])[0]);

    // It stands for two blocks better than the first of them does.
    let target = after(&model, 0..4);
    let error = |model: &Llama| {
        let error = (after(model, 0..3) - target.clone()).square().mean();
        error.into_scalar::<f32>()
    };
    let only = RepairWeights::default();
    let mut of_two = only.clone();
    let id = BlockId::new(2);
    of_two.insert_weights(
        Stage::Prefill,
        id,
        both.weights.of(Stage::Prefill)[&id].clone(),
    );
    let trained = of_two.apply(&model, Stage::Prefill).unwrap();
    assert!(
        error(&trained) < 0.9 * error(&model),
        "{} {}",
        error(&trained),
        error(&model)
    );
    let is_kv = |path: &String| Llama::makes_kv(path);
    assert!(!both.weights.of(Stage::Prefill)[&id].keys().any(is_kv));
}

#[test]
fn a_finished_training_of_pairs_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs");
    let resume = |fingerprint| {
        Some(DistillResume {
            path: &path,
            fingerprint,
            every: Duration::ZERO,
        })
    };
    let firsts = removed(&[1], &[3]);
    let first = fit_pairs(&firsts, resume("one"));
    let model = TinyModel::default().build();
    let mut steps = 0;
    let again = repair()
        .fit_pairs(
            &model,
            &windows(),
            &firsts,
            Boundary::Decode,
            resume("one"),
            &mut |_| {
                steps += 1;
            },
        )
        .unwrap();
    assert_eq!(steps, 0);
    assert_eq!(listed(&again.weights), listed(&first.weights));
    let other = fit_pairs(&firsts, resume("another"));
    assert_eq!(listed(&other.weights), listed(&first.weights));
}
