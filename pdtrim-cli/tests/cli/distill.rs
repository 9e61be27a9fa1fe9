//! `pdtrim trim --repair distill`.

use std::fs;

use serde_json::Value;

use super::{Place, read, said};

const SOURCE: [&str; 2] = ["--calibration", "notes.txt"];
const DISTILL: [&str; 8] = [
    "--repair",
    "distill",
    "--repair-run-steps",
    "4",
    "--repair-steps",
    "3",
    "--repair-tokens",
    "128",
];

fn place() -> Place {
    let place = Place::new();
    let words = (0..6000_u64).map(|n| format!("w{} ", (n * n * 31 + n / 7) % 90 + 2));
    place.file("notes.txt", words.collect::<String>());
    place
}

#[test]
fn a_distilled_plan_is_run_and_exported_with_its_own_weights() {
    let place = place();
    let more = [&SOURCE[..], &DISTILL].concat();
    let (table, notes) = said(&mut place.trim(&more));
    assert!(
        table.contains("distill repair, fitted on 8 windows"),
        "{table}"
    );
    for part in ["step 4/4: squared error", "predictions, step 3/3: KL"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    assert!(!place.path("out/.pdtrim/distill").exists());
    let plan = read(&place.path("out/plan.toml"));
    assert!(plan.contains("repair = \"distill\""), "{plan}");
    let page = read(&place.path("out/report.html"));
    assert!(
        page.contains("trained with AdamW") && page.contains("Training of decode, predictions")
    );

    let (again, notes) = said(&mut place.trim(&more));
    assert_eq!(again, table);
    assert!(notes.contains("reusing the repair"), "{notes}");
    let bytes = fs::read(place.path("out/repair.safetensors")).unwrap();
    let (again, _) = said(&mut place.trim(&[&more[..], &["--force"]].concat()));
    assert_eq!(again, table);
    assert_eq!(
        fs::read(place.path("out/repair.safetensors")).unwrap(),
        bytes
    );

    let export = [
        "export",
        "out/plan.toml",
        "--stage",
        "decode",
        "--out",
        "stage",
    ];
    place.stdout(&export);
    let config: Value = serde_json::from_str(&read(&place.path("stage/config.json"))).unwrap();
    assert_eq!(config["pdtrim"]["repair"], "distill");
}

#[test]
fn a_search_that_is_to_be_distilled_runs_with_distilled_pairs() {
    let place = place();
    let run = |more: &[&str]| {
        let pdtrim = ["--strategy", "pdtrim", "--anneal-steps", "3", "--pairs"];
        said(&mut place.trim(&[&SOURCE[..], &pdtrim, more].concat()))
    };
    let cost = |page: &str| {
        let start = page.find("Prefill alone costs").unwrap();
        page[start..].split('.').take(4).collect::<String>()
    };
    // Every pair of neighbours is one.
    let all = ["distill", "--distill-threshold", "0.0001"];
    let (_, notes) = run(&[&all[..], &DISTILL].concat());
    assert!(notes.contains("a block stands for a pair"), "{notes}");
    assert!(notes.contains("pairs: prefill, block"), "{notes}");
    let plan = read(&place.path("out/plan.toml"));
    assert!(plan.contains("[pairs]"), "{plan}");
    let with_pairs = cost(&read(&place.path("out/report.html")));

    // Again: nothing is trained, nothing is measured.
    let (_, notes) = run(&[&all[..], &DISTILL].concat());
    assert!(!notes.contains("pairs: prefill, block"), "{notes}");
    assert!(notes.contains("reusing"), "{notes}");
    assert_eq!(read(&place.path("out/plan.toml")), plan);

    // No pair: as if there were none to train.
    let none = ["distill", "--distill-threshold", "1"];
    let (_, notes) = run(&[&none[..], &DISTILL].concat());
    assert!(notes.contains("0 pairs of joint redundancy 1"), "{notes}");
    assert!(!read(&place.path("out/plan.toml")).contains("[pairs]"));
    assert_ne!(cost(&read(&place.path("out/report.html"))), with_pairs);

    // A linear pair is none that was trained.
    let linear = ["linear", "--repair", "linear", "--repair-tokens", "128"];
    run(&[&linear[..], &all[1..]].concat());
    assert!(read(&place.path("out/plan.toml")).contains("[pairs]"));
    let with_linear = cost(&read(&place.path("out/report.html")));
    assert_ne!(with_linear, with_pairs);
}

#[test]
fn pairs_that_no_repair_keeps_are_refused() {
    let place = place();
    let refused = |words: &[&str]| place.failure(&[&["trim", "--model", "model"], words].concat());
    let error = refused(&["--strategy", "pdtrim", "--pairs", "linear"]);
    assert!(
        error.contains("expected repair linear or distill, found none"),
        "{error}"
    );
    let linear = ["--strategy", "pdtrim", "--repair", "linear"];
    let error = refused(&[&linear[..], &["--pairs", "distill"]].concat());
    assert!(
        error.contains("expected repair distill, found linear"),
        "{error}"
    );
    let error = refused(&["--repair", "linear", "--pairs", "linear"]);
    assert!(error.contains("pairs are for strategy pdtrim"), "{error}");
}

#[test]
fn a_repair_of_an_earlier_run_does_not_stay_beside_a_plan_without_one() {
    let place = place();
    place
        .trim(
            &[
                &SOURCE[..],
                &["--repair", "linear", "--repair-tokens", "128"],
            ]
            .concat(),
        )
        .output()
        .unwrap();
    assert!(place.path("out/repair.safetensors").is_file());
    said(&mut place.trim(&SOURCE));
    assert!(!place.path("out/repair.safetensors").exists());
    assert!(read(&place.path("out/plan.toml")).contains("repair = \"none\""));
}

#[test]
fn weights_that_cannot_be_trained_are_refused_before_the_search() {
    let place = place();
    let error = place.failure(&[
        "trim", "--model", "model", "--dtype", "bf16", "--repair", "distill", "--out", "out",
    ]);
    assert!(
        error.contains("--dtype f32") && error.contains("BF16"),
        "{error}"
    );
}
