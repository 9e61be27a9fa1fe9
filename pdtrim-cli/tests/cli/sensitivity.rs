//! `pdtrim sensitivity`.

use std::fs;

use serde_json::Value;

use super::{Place, read, said};

const WORDS: [&str; 13] = [
    "sensitivity",
    "--model",
    "model",
    "--calibration",
    "self",
    "--windows",
    "3",
    "--window-tokens",
    "32",
    "--tasks",
    "everyday",
    "--limit",
    "3",
];

const FILES: [&str; 3] = ["sensitivity.json", "sensitivity.csv", "sensitivity.html"];

fn run(place: &Place, out: &str) -> (String, String) {
    said(&mut place.pdtrim(&[&WORDS[..], &["--out", out]].concat()))
}

fn files(place: &Place, out: &str) -> [String; 3] {
    FILES.map(|name| read(&place.path(out).join(name)))
}

#[test]
fn every_block_is_measured_in_every_stage_and_two_runs_give_the_same_files() {
    let place = Place::new();
    let (table, _) = run(&place, "one");
    for word in [
        "rise of NLL, prefill",
        "KL, both",
        "everyday, decode",
        "missed least",
    ] {
        assert!(table.contains(word), "{table}");
    }
    let [object, csv, page] = files(&place, "one");
    let object: Value = serde_json::from_str(&object).unwrap();
    let rows = object["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5 * 3);
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(row["block"], n / 3);
        assert_eq!(row["removed_from"], ["prefill", "decode", "both"][n % 3]);
        let rise = row["loss"].as_f64().unwrap() - object["loss_dense"].as_f64().unwrap();
        assert!((row["loss_rise"]["mean"].as_f64().unwrap() - rise).abs() < 3e-6);
        assert!(row["loss_rise"]["standard_error"].as_f64() > Some(0.0));
        assert!(row["divergence"]["mean"].as_f64() > Some(0.0));
        assert_eq!(row["tasks"][0]["items"], 3);
        assert!(row["tasks"][0]["difference_to_dense"]["value"].is_number());
    }
    // A header, the dense model, and every row with as many fields.
    let fields: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert_eq!(fields, [7 + 4; 2 + 15]);
    assert!(page.contains("<svg") && page.contains("Divergence from the dense model"));

    run(&place, "two");
    assert_eq!(files(&place, "one"), files(&place, "two"));
    let words = [&WORDS[..], &["--out", "two", "--json"]].concat();
    assert_eq!(place.json(&words), object);
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    let place = Place::new();
    let (table, _) = run(&place, "out");
    let before = files(&place, "out");
    // As a kill leaves it: a half-written journal, and a score less.
    let state = place.path("out/.pdtrim");
    let journal = state.join("divergence.jsonl");
    let text = read(&journal);
    fs::write(&journal, &text[..text.len() / 2]).unwrap();
    let score = fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("score-everyday"));
    fs::remove_file(score.unwrap()).unwrap();
    for name in FILES {
        fs::remove_file(place.path("out").join(name)).unwrap();
    }

    let (again, notes) = run(&place, "out");
    assert!(notes.contains("loss: reusing 16 evaluations"), "{notes}");
    assert_eq!(again, table);
    assert_eq!(files(&place, "out"), before);
    assert_eq!(read(&journal).lines().count(), text.lines().count());
}

#[test]
fn tasks_need_data_and_a_limit_needs_tasks() {
    let place = Place::new();
    place.usage(&["sensitivity", "--limit", "3"]);
    place.usage(&["sensitivity", "--windows", "0"]);
    let error = place.failure(&["sensitivity", "--model", "model", "--tasks", "pika"]);
    assert!(error.contains("piqa"), "{error}");
    let one = ["--windows", "1", "--window-tokens", "16", "--out", "one"];
    let words = [&["sensitivity", "--model", "model", "--json"], &one[..]].concat();
    let object = place.json(&words);
    // One window has no spread.
    assert!(object["rows"][0]["loss_rise"]["standard_error"].is_null());
    assert_eq!(object["tasks_dense"], serde_json::json!([]));
}
