use std::fs;

use burn::tensor::Distribution;

use super::*;
use crate::model::{BlockModel, block_weights};
use crate::plan::{PLAN_VERSION, PlanFile, PlanModel, Repair};
use crate::stage::{Boundary, KvFill};
use crate::testing::TinyModel;

fn plan(file: Option<RepairFile>) -> Plan {
    let repair = file.as_ref().map_or(Repair::None, |_| Repair::Linear);
    Plan::new(PlanFile {
        version: PLAN_VERSION,
        method: "manual".to_owned(),
        seed: 0,
        race_error: 0.0,
        boundary: Boundary::Prefill,
        kv_fill: KvFill::Nested,
        repair,
        kv_method: String::new(),
        model: PlanModel {
            name: "tiny".to_owned(),
            hash: "sha256:00".to_owned(),
            blocks: 5,
        },
        removed: PerStage {
            prefill: vec![2],
            decode: vec![2, 4],
        },
        calibration: None,
        repair_file: file,
        repair_calibration: None,
        pairs: None,
        width: None,
        kv: Vec::new(),
        scores: Vec::new(),
    })
    .unwrap()
}

fn weights() -> RepairWeights {
    let model = TinyModel::default().build();
    let drawn = || Tensor::random([32, 48], Distribution::Default, model.device());
    let mut weights = RepairWeights::default();
    weights.insert(Stage::Prefill, BlockId::new(1), drawn());
    weights.insert(Stage::Decode, BlockId::new(1), drawn());
    weights.insert(Stage::Decode, BlockId::new(3), drawn());
    let query = Tensor::<2>::random([32, 32], Distribution::Default, model.device());
    let norm = Tensor::<1>::random([32], Distribution::Default, model.device());
    let more = [
        ("self_attn.q_proj.weight", query.into_data()),
        ("post_attention_layernorm.weight", norm.into_data()),
    ];
    let more = more.map(|(name, data)| (name.to_owned(), data));
    weights.insert_weights(Stage::Decode, BlockId::new(3), more.into());
    weights
}

/// A file with one tensor, and a plan that names it.
fn written(folder: &Path, name: &str, shape: &[usize], dtype: Dtype) -> Plan {
    let elements: usize = shape.iter().product();
    let bytes = vec![0; elements * if dtype == Dtype::F32 { 4 } else { 2 }];
    let view = TensorView::new(dtype, shape.to_vec(), &bytes).unwrap();
    let bytes = serialize([(name, view)], None).unwrap();
    fs::write(folder.join(REPAIR_FILE), &bytes).unwrap();
    plan(Some(RepairFile {
        name: REPAIR_FILE.to_owned(),
        sha256: hash(&bytes),
    }))
}

fn read(plan: &Plan, folder: &Path) -> Result<RepairWeights> {
    let config = TinyModel::default().config;
    RepairWeights::of_plan(plan, &folder.join("plan.toml"), &config)
}

#[test]
fn a_written_repair_reads_back_the_same_through_its_plan() {
    let folder = tempfile::tempdir().unwrap();
    let weights = weights();
    let plan = plan(Some(weights.write(folder.path()).unwrap()));
    let path = folder.path().join("plan.toml");
    plan.write(&path).unwrap();
    let plan = Plan::read(&path).unwrap();
    assert_eq!(plan.file().repair, Repair::Linear);
    let found = read(&plan, folder.path()).unwrap();
    for stage in [Stage::Prefill, Stage::Decode] {
        assert_eq!(found.of(stage), weights.of(stage));
    }
    assert!(!found.is_empty());
}

#[test]
fn a_plan_without_a_repair_needs_no_file() {
    let folder = tempfile::tempdir().unwrap();
    assert!(read(&plan(None), folder.path()).unwrap().is_empty());
    let text = plan(None).to_toml();
    assert!(text.contains("repair = \"none\"") && !text.contains("repair_file"));
}

#[test]
fn repaired_weights_are_shared_out_by_stage_and_leave_the_model_alone() {
    let model = TinyModel::default().build();
    let weights = weights();
    let down = |model: &dyn MlpOutput, block| model.down_proj(BlockId::new(block)).into_data();
    let dense: Vec<_> = (0..5).map(|block| down(&model, block)).collect();
    let prefill = weights.apply(&model, Stage::Prefill).unwrap();
    let decode = weights.apply(&model, Stage::Decode).unwrap();
    for (block, dense) in dense.iter().enumerate() {
        assert_eq!(&down(&model, block), dense);
        assert_eq!(&down(&prefill, block) == dense, block != 1, "{block}");
        assert_eq!(
            &down(&decode, block) == dense,
            block != 1 && block != 3,
            "{block}"
        );
    }
    assert_ne!(down(&prefill, 1), down(&decode, 1));
    let (own, given) = (
        block_weights(&decode.block_module(BlockId::new(3))),
        &weights.of(Stage::Decode)[&BlockId::new(3)],
    );
    assert_eq!((own.len(), given.len()), (9, 3));
    for (name, weight) in block_weights(&model.block_module(BlockId::new(3))) {
        assert_eq!(own[&name], *given.get(&name).unwrap_or(&weight), "{name}");
        assert_eq!(own[&name] == weight, !given.contains_key(&name), "{name}");
    }
    assert!(
        RepairWeights::default()
            .apply(&model, Stage::Prefill)
            .is_none()
    );
}

#[test]
fn a_missing_or_changed_file_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(Some(weights().write(folder.path()).unwrap()));
    let path = folder.path().join(REPAIR_FILE);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = read(&plan, folder.path()).unwrap_err();
    assert!(matches!(&error, Error::RepairHash { found, .. } if *found == hash(&bytes)));
    assert!(error.to_string().contains("repair.safetensors"), "{error}");
    fs::remove_file(&path).unwrap();
    let error = read(&plan, folder.path()).unwrap_err().to_string();
    assert_eq!(error, format!("cannot read {}", path.display()));
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let error = read(&plan, folder.path()).unwrap_err().to_string();
    assert!(error.contains("expected at most") && error.ends_with("found 1099511627776"));
}

#[test]
fn tensors_that_the_plan_has_no_use_for_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let down = |stage: &str, block: usize| format!("{stage}.layers.{block}.mlp.down_proj.weight");
    for (name, shape, dtype, expected, found) in [
        (
            "x.weight".to_owned(),
            [32, 48],
            Dtype::F32,
            "{prefill|decode}.layers",
            "another name",
        ),
        (
            down("encode", 1),
            [32, 48],
            Dtype::F32,
            "{prefill|decode}.layers",
            "another name",
        ),
        (
            down("prefill", 5),
            [32, 48],
            Dtype::F32,
            "0 to 4",
            "block 5",
        ),
        (
            down("decode", 4),
            [32, 48],
            Dtype::F32,
            "a block that decode keeps",
            "removed (2,4)",
        ),
        (
            "decode.layers.3.self_attn.k_proj.weight".to_owned(),
            [16, 32],
            Dtype::F32,
            "no weight that keys and values depend on",
            "self_attn.k_proj.weight",
        ),
        (
            "decode.layers.3.self_attn.q_proj.bias".to_owned(),
            [32, 1],
            Dtype::F32,
            "a weight of a block",
            "self_attn.q_proj.bias",
        ),
        (
            down("decode", 3),
            [48, 32],
            Dtype::F32,
            "[32, 48]",
            "[48, 32]",
        ),
        (down("decode", 3), [32, 48], Dtype::BF16, "F32", "BF16"),
    ] {
        let plan = written(folder.path(), &name, &shape, dtype);
        let error = read(&plan, folder.path()).unwrap_err().to_string();
        for part in [&*name, expected, found, "repair.safetensors"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    // Prefill keeps block 4.
    let plan = written(folder.path(), &down("prefill", 4), &[32, 48], Dtype::F32);
    assert!(read(&plan, folder.path()).is_ok());
}

#[test]
fn a_file_that_is_no_safetensors_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(REPAIR_FILE), b"no header").unwrap();
    let plan = plan(Some(RepairFile {
        name: REPAIR_FILE.to_owned(),
        sha256: hash(b"no header"),
    }));
    assert!(matches!(
        read(&plan, folder.path()),
        Err(Error::Safetensors { .. })
    ));
}
