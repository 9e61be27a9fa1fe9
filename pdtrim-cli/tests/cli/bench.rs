//! `pdtrim bench`.

use serde_json::Value;

use super::{Place, read};

/// `bench` on the tiny model, with given limits: measuring them takes longer than the rest.
fn bench<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let (what, more) = words.split_first().unwrap();
    let common = [
        "--model",
        "model",
        "--peak-flops",
        "1e11",
        "--peak-bandwidth",
        "1e10",
    ];
    [&["bench", what][..], &common, more].concat()
}

#[test]
fn bench_keeps_every_sample_and_holds_it_against_the_work() {
    let place = Place::new();
    let few = ["--repeats", "3", "--warmup", "0", "--json"];
    let small: &[(&[&str], &[&str])] = &[
        (&["prefill", "--tokens", "16", "--batch", "2"], &["dense"]),
        (
            &["decode", "--context", "8", "--new-tokens", "4"],
            &["dense"],
        ),
        (
            &["perplexity", "--tokens", "64", "--window", "32"],
            &["dense"],
        ),
        (&["eval", "everyday", "--limit", "2"], &["dense"]),
        (&["load", "--prompt", "w5 w6"], &["load", "read"]),
    ];
    for (words, names) in small {
        let object = place.json(&bench(&[words, &few[..]].concat()));
        assert_eq!(object["bench"], words[0]);
        assert_eq!(object["settings"]["repeats"], 3);
        assert_eq!(object["environment"]["device"], "cpu");
        let measurements = object["measurements"].as_array().unwrap();
        assert_eq!(measurements.len(), names.len(), "{words:?}");
        for (found, name) in measurements.iter().zip(*names) {
            assert_eq!(found["name"], *name);
            assert_eq!(found["samples"].as_array().unwrap().len(), 3, "{words:?}");
            assert!(found["median"].as_f64() >= found["min"].as_f64());
            assert!(found["work"]["weight_bytes"].as_f64() > Some(0.0));
            assert!(found["share_of_peak_bandwidth"].is_number(), "{words:?}");
        }
    }
    let steps = place.json(&bench(
        &[small[1].0, &few, &["--output", "decode.json"]].concat(),
    ));
    let steps = steps["measurements"][0]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 3);
    assert!(steps.iter().all(|run| run.as_array().unwrap().len() == 4));
    let written: Value = serde_json::from_str(&read(&place.path("decode.json"))).unwrap();
    assert_eq!(written["bench"], "decode");
}

#[test]
fn bench_with_a_plan_measures_dense_and_trimmed() {
    let place = Place::new();
    let plan = [
        "--prefill-remove",
        "2",
        "--decode-remove",
        "1-2",
        "--repeats",
        "2",
        "--boundary",
        "decode",
    ];
    for words in [
        &["prefill", "--tokens", "16"][..],
        &["decode", "--context", "8", "--new-tokens", "2"],
        &["perplexity", "--tokens", "64", "--window", "32"],
        &["eval", "everyday", "--limit", "2"],
    ] {
        let words = bench(&[words, &plan].concat());
        let object = place.json(&[&words[..], &["--json"]].concat());
        assert!(object["ratio"].is_number(), "{object}");
        assert_eq!(
            object["measurements"][0]["removed"]["decode"],
            serde_json::json!([])
        );
        let trimmed = &object["measurements"][1];
        assert_eq!(trimmed["name"], "trimmed");
        assert_eq!(trimmed["removed"]["decode"], serde_json::json!([1, 2]));
        assert!(place.stdout(&words).contains("trimmed takes"));
    }
}

#[test]
fn bench_search_says_which_blocks_it_chose() {
    let place = Place::new();
    let words = bench(&[
        "search",
        "--count",
        "2",
        "--windows",
        "2",
        "--window-tokens",
        "32",
        "--threads",
        "1",
    ]);
    let object = place.json(&[&words[..], &["--json"]].concat());
    assert_eq!(object["blocks"].as_array().unwrap().len(), 2);
    // Five blocks, of which the first and the last stay.
    assert_eq!(object["evaluations"], 3 + 2);
    assert_eq!(object["environment"]["threads"], 1);
    assert_eq!(
        object["measurements"][0]["samples"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert!(place.stdout(&words).contains("5 evaluations"));
    let raced = [&words[..], &["--race-error", "0.05", "--unprotected-ends"]].concat();
    let raced = place.json(&[&raced[..], &["--json"]].concat());
    assert_eq!(
        raced["evaluations"],
        5 + 4,
        "two windows are too few to race"
    );
    let whole = [&words[..], &["--no-prefix-reuse", "--json"]].concat();
    let whole = place.json(&whole);
    assert_eq!(whole["blocks"], object["blocks"]);
    assert_eq!(whole["costs"], object["costs"]);
    assert_eq!(whole["settings"]["prefix_reuse"], false);
}

#[test]
fn bench_make_refuses_a_shape_that_it_does_not_know() {
    let place = Place::new();
    let error = place.failure(&["bench", "make", "llama-9", "--out", "made"]);
    assert!(error.contains("llama-3.1-8b"), "{error}");
}

#[test]
fn bench_growth_writes_a_page_and_its_numbers() {
    let place = Place::new();
    let words = bench(&[
        "growth",
        "--lengths",
        "8,16",
        "--batches",
        "1,2",
        "--tokens",
        "8",
        "--new-tokens",
        "2",
        "--order",
        "3,1,2",
        "--repeats",
        "2",
        "--warmup",
        "0",
        "--answers",
        "4,8",
    ]);
    let table = place.stdout(&words);
    assert!(table.contains("growth.html"), "{table}");
    let page = read(&place.path("growth.html"));
    assert!(page.contains("<svg") && page.contains("weight bytes removed"));
    let numbers: Value = serde_json::from_str(&read(&place.path("growth.json"))).unwrap();
    let removed = numbers["removed"].as_array().unwrap();
    assert_eq!(removed.len(), 4);
    assert_eq!(removed[2]["blocks"], serde_json::json!([1, 3]));
    // Two of five blocks of 7744 parameters, beside a head of 96 x 32 and a norm of 32.
    let share = 2.0 * 7744.0 / (5.0 * 7744.0 + 96.0 * 32.0 + 32.0);
    let found = removed[2]["decode"]["work_removed"].as_f64().unwrap();
    assert!((found - share).abs() < 1e-9, "{found}");
    assert_eq!(numbers["gains"].as_array().unwrap().len(), 8);
    assert_eq!(numbers["measurements"].as_array().unwrap().len(), 2 + 2 + 8);
}
