use std::fs;

use super::*;
use crate::kv_plan::{BlockKv, KvEncoding, KvGroup, TokenSpan};

fn file(prefill: &[usize], decode: &[usize]) -> PlanFile {
    PlanFile {
        version: PLAN_VERSION,
        method: "manual".to_owned(),
        seed: 0,
        race_error: 0.01,
        boundary: Boundary::Prefill,
        kv_fill: KvFill::Nested,
        repair: Repair::None,
        kv_method: String::new(),
        model: PlanModel {
            name: "tiny".to_owned(),
            hash: "sha256:00".to_owned(),
            blocks: 4,
        },
        removed: PerStage {
            prefill: prefill.to_vec(),
            decode: decode.to_vec(),
        },
        calibration: None,
        repair_file: None,
        repair_calibration: None,
        pairs: None,
        width: None,
        kv: vec![KvGroup {
            blocks: vec![0, 3],
            sends: BlockKv {
                span: Some(TokenSpan { first: 4, last: 8 }),
                heavy: 2,
                encoding: KvEncoding::Int8,
            },
        }],
        scores: vec![PlanScore {
            task: "heldout".to_owned(),
            mode: "pd".to_owned(),
            boundary: Some(Boundary::Prefill),
            metric: "token_perplexity".to_owned(),
            value: 21.062_5,
        }],
    }
}

#[test]
fn a_written_plan_reads_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/plan.toml");
    let plan = Plan::new(file(&[1], &[1, 2])).unwrap();
    plan.write(&path).unwrap();
    let read = Plan::read(&path).unwrap();
    assert_eq!(read.to_toml(), plan.to_toml());
    assert_eq!(read.removed(), plan.removed());
    assert_eq!(read.kv(), plan.kv());
}

#[test]
fn a_plan_of_before_calibration_seeds_reads_as_seed_0_without_items() {
    let mut file = file(&[1], &[1, 2]);
    file.calibration = Some(PlanCalibration {
        source: "bundled prose".to_owned(),
        hash: "sha256:00".to_owned(),
        seed: 0,
        items: None,
        windows: 8,
        window_tokens: 128,
        prompt_tokens: 96,
    });
    let text = Plan::new(file.clone()).unwrap().to_toml();
    let (before, after) = text.split_once("[calibration]").unwrap();
    assert!(after.contains("seed = 0") && !after.contains("items"));
    let old = format!("{before}[calibration]{}", after.replace("seed = 0\n", ""));
    let read: PlanFile = toml::from_str(&old).unwrap();
    assert_eq!(read.calibration, file.calibration);

    let drawn = PlanCalibration {
        seed: 3,
        items: Some(256),
        ..file.calibration.unwrap()
    };
    file.calibration = Some(drawn.clone());
    let text = Plan::new(file).unwrap().to_toml();
    let read: PlanFile = toml::from_str(&text).unwrap();
    assert_eq!(read.calibration, Some(drawn));
}

#[test]
fn a_hand_edited_plan_passes_through_the_same_checks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.toml");
    let text = Plan::new(file(&[1], &[1, 2])).unwrap().to_toml();
    for (from, to, message) in [
        (
            "decode = [1, 2]",
            "decode = [2]",
            "prefill removes blocks that decode keeps (1)",
        ),
        (
            "decode = [1, 2]",
            "decode = [1, 4]",
            "block 4 does not exist",
        ),
        (
            "decode = [1, 2]",
            "decode = [0, 1, 2, 3]",
            "decode would keep none",
        ),
        ("version = 1", "version = 2", "plan version 2 is unknown"),
        ("seed = 0", "sead = 0", "not the expected TOML"),
    ] {
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).unwrap();
        let error = Plan::read(&path).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_repair_and_its_file_go_together_and_lie_beside_the_plan() {
    let named = |name: &str| {
        Some(RepairFile {
            name: name.to_owned(),
            sha256: "sha256:00".to_owned(),
        })
    };
    for (repair, repair_file, message) in [
        (Repair::Linear, None, "expected a [repair_file]"),
        (
            Repair::None,
            named("repair.safetensors"),
            "expected no [repair_file]",
        ),
        (
            Repair::Linear,
            named("../repair.safetensors"),
            "in the plan's own folder",
        ),
        (Repair::Linear, named(""), "in the plan's own folder"),
    ] {
        let file = PlanFile {
            repair,
            repair_file,
            ..file(&[1], &[1, 2])
        };
        let error = Plan::new(file).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let file = PlanFile {
        repair: Repair::Linear,
        repair_file: named("repair.safetensors"),
        ..file(&[1], &[1, 2])
    };
    let text = Plan::new(file.clone()).unwrap().to_toml();
    assert!(text.contains("repair = \"linear\"\n") && text.contains("[repair_file]\n"));
    let read: PlanFile = toml::from_str(&text).unwrap();
    assert_eq!(read.repair_file, file.repair_file);
}

#[test]
fn kv_fill_project_lets_decode_keep_what_prefill_removes() {
    let mut file = file(&[1, 2], &[]);
    assert!(matches!(
        Plan::new(file.clone()),
        Err(Error::NotNested { .. })
    ));
    file.kv_fill = KvFill::Project;
    assert!(Plan::new(file).is_ok());
}

#[test]
fn a_plan_for_another_model_is_refused() {
    let plan = Plan::new(file(&[], &[2])).unwrap();
    assert!(plan.check_model("tiny", "sha256:00").is_ok());
    let error = plan
        .check_model("other", "sha256:11")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("tiny") && error.contains("sha256:11"),
        "{error}"
    );
}

#[test]
fn a_plan_that_is_not_utf8_names_the_bad_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.toml");
    fs::write(&path, b"version = \xff").unwrap();
    assert!(matches!(
        Plan::read(&path),
        Err(Error::NotUtf8 { offset: 10, .. })
    ));
}

#[test]
fn pairs_are_kept_blocks_before_removed_ones_of_a_repaired_plan() {
    let with = |repair, prefill: &[usize], decode: &[usize]| {
        let repair_file = (repair != Repair::None).then(|| RepairFile {
            name: "repair.safetensors".to_owned(),
            sha256: "sha256:00".to_owned(),
        });
        Plan::new(PlanFile {
            repair,
            repair_file,
            pairs: Some(PerStage {
                prefill: prefill.to_vec(),
                decode: decode.to_vec(),
            }),
            ..file(&[1], &[1, 2])
        })
    };
    let plan = with(Repair::Distill, &[0], &[0]).unwrap();
    assert!(plan.to_toml().contains("[pairs]"));
    assert!(with(Repair::Linear, &[], &[]).is_ok());
    for (prefill, decode, named) in [
        (&[1][..], &[][..], "block 1 in prefill"),
        (&[], &[1], "block 1 in decode"),
        (&[], &[2], "block 2 in decode"),
        (&[3], &[], "block 3 in prefill"),
        (&[], &[usize::MAX], "in decode"),
    ] {
        let error = with(Repair::Distill, prefill, decode).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
    let error = with(Repair::None, &[0], &[]).unwrap_err().to_string();
    assert!(
        error.contains("[pairs]") && error.contains("none"),
        "{error}"
    );
}

#[test]
fn a_plan_deeper_than_any_model_is_refused() {
    // Block indices have 16 bits; a larger one was a panic.
    let mut deep = file(&[1], &[1, 2]);
    deep.model.blocks = 1 << 40;
    deep.removed.decode.push(1 << 20);
    let error = Plan::new(deep).unwrap_err().to_string();
    let expected = "the plan's [model]: expected at most 4096 blocks, found 1099511627776";
    assert_eq!(error, expected);
}
