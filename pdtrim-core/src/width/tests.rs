use std::path::Path;

use super::*;
use crate::plan::{PLAN_VERSION, Plan, PlanFile, PlanModel, Repair, RepairFile};
use crate::stage::{Boundary, KvFill};
use crate::testing::TinyModel;

fn removed(groups: &[usize], channels: &str) -> RemovedWidth {
    RemovedWidth {
        groups: groups.iter().copied().collect(),
        channels: channels.parse().unwrap(),
    }
}

fn widths() -> Widths {
    let id = BlockId::new;
    let bias = |value| BlockBiases {
        attention: vec![value; 32],
        mlp: Vec::new(),
    };
    Widths {
        removed: PerStage {
            prefill: [(id(0), removed(&[1], "")), (id(3), removed(&[], "4-9"))].into(),
            decode: [(id(0), removed(&[1], "0,2")), (id(1), removed(&[0], "47"))].into(),
        },
        biases: PerStage {
            prefill: [(id(0), bias(0.5))].into(),
            decode: [(id(0), bias(0.25))].into(),
        },
    }
}

fn plan_file(width: Option<PlanWidth>) -> PlanFile {
    PlanFile {
        version: PLAN_VERSION,
        method: "manual".to_owned(),
        seed: 0,
        race_error: 0.0,
        boundary: Boundary::Prefill,
        kv_fill: KvFill::Nested,
        repair: Repair::None,
        kv_method: String::new(),
        model: PlanModel {
            name: "tiny".to_owned(),
            hash: "sha256:00".to_owned(),
            blocks: 5,
        },
        removed: PerStage {
            prefill: vec![],
            decode: vec![4],
        },
        calibration: None,
        repair_file: None,
        repair_calibration: None,
        pairs: None,
        width,
        kv: Vec::new(),
        scores: Vec::new(),
    }
}

fn section(widths: &Widths, biases: Option<WidthFile>) -> PlanWidth {
    let size = BlockSize::of(&TinyModel::default().config);
    PlanWidth::new("flap", size, &widths.removed, biases)
}

fn written(folder: &Path) -> Plan {
    let widths = widths();
    let file = widths.write_biases(folder).unwrap();
    let plan = Plan::new(plan_file(Some(section(&widths, file)))).unwrap();
    plan.write(&folder.join("plan.toml")).unwrap();
    plan
}

fn of_plan(plan: &Plan, folder: &Path) -> Result<Widths> {
    let config = TinyModel::default().config;
    Widths::of_plan(plan, &folder.join("plan.toml"), &config)
}

#[test]
fn widths_and_biases_read_back_the_same_through_their_plan() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path());
    let plan = Plan::read(&folder.path().join("plan.toml")).unwrap();
    assert_eq!(of_plan(&plan, folder.path()).unwrap(), widths());
    assert!(
        plan.to_toml().contains("removed_channels = \"4-9\""),
        "{}",
        plan.to_toml()
    );
}

#[test]
fn a_plan_without_widths_says_nothing_of_them() {
    let plan = Plan::new(plan_file(None)).unwrap();
    assert!(!plan.to_toml().contains("width"), "{}", plan.to_toml());
    assert!(of_plan(&plan, Path::new("")).unwrap().is_empty());
}

#[test]
fn a_hand_edited_width_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.toml");
    let text = written(folder.path()).to_toml();
    for (from, to, message) in [
        (
            "\"4-9\"",
            "\"4-48\"",
            "width of block 3 in prefill: expected MLP channels below 48, found 48",
        ),
        ("\"4-9\"", "\"0-47\"", "at least one of the 48 MLP channels"),
        ("block = 3", "block = 5", "block 5 does not exist"),
        ("\"4-9\"", "\"9-4\"", "not the expected TOML"),
        (
            "block = 1\nremoved_groups = [0]",
            "block = 4\nremoved_groups = [0]",
            "expected a block that decode keeps, found a removed one (4)",
        ),
        (
            "block = 1\nremoved_groups = [0]",
            "block = 0\nremoved_groups = [0]",
            "expected one entry of [[width.blocks]], found a second",
        ),
        (
            "block = 1\nremoved_groups = [0]",
            "block = 1\nremoved_groups = [0, 1]",
            "at least one of the 2 head groups kept",
        ),
        (
            "block = 1\nremoved_groups = [0]",
            "block = 1\nremoved_groups = [2]",
            "head groups below 2, found 2",
        ),
        (
            "removed_groups = [1]\nremoved_channels = \"0,2\"",
            "removed_channels = \"0,2\"",
            "expected the head groups that prefill is without (1)",
        ),
        ("\"width.safetensors\"", "\"../x\"", "the plan's own folder"),
        ("method = \"flap\"", "methud = \"flap\"", "not the expected"),
    ] {
        assert!(text.contains(from), "{from}: {text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = Plan::read(&path).unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}

#[test]
fn widths_beside_a_repair_are_refused() {
    let mut file = plan_file(Some(section(&widths(), None)));
    file.repair = Repair::Linear;
    file.repair_file = Some(RepairFile {
        name: "repair.safetensors".to_owned(),
        sha256: "sha256:00".to_owned(),
    });
    assert!(matches!(Plan::new(file), Err(Error::PlanWidth { .. })));
}

#[test]
fn widths_of_another_model_and_changed_biases_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plan = written(folder.path());
    let mut config = TinyModel::default().config;
    config.intermediate_size = 64;
    let path = folder.path().join("plan.toml");
    let error = Widths::of_plan(&plan, &path, &config).unwrap_err();
    assert!(error.to_string().contains("48 MLP channels"), "{error}");
    let biases = folder.path().join(WIDTH_FILE);
    let mut bytes = std::fs::read(&biases).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&biases, &bytes).unwrap();
    let refused = of_plan(&plan, folder.path());
    assert!(matches!(refused, Err(Error::WidthHash { .. })));
    std::fs::remove_file(&biases).unwrap();
    assert!(matches!(
        of_plan(&plan, folder.path()),
        Err(Error::Io { .. })
    ));
}

#[test]
fn a_group_and_a_channel_have_the_parameters_of_their_rows_and_columns() {
    // Two query heads of 8 for each key head, hidden 32, 48 channels.
    let size = BlockSize::of(&TinyModel::default().config);
    assert_eq!(size.group_parameters, 32 * 8 * (2 + 1 + 1 + 2));
    assert_eq!(size.channel_parameters, 3 * 32);
    assert_eq!(
        size.parameters() + 2 * 32,
        TinyModel::default().config.block_parameters()
    );
    let some = removed(&[1], "0-9");
    assert_eq!(size.removed_parameters(&some), 1536 + 960);
}
