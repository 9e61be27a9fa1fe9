//! `pdtrim kv needle`.

use std::fs;

use serde_json::Value;

use super::{Place, read, said};

const FILES: [&str; 3] = ["needle.json", "needle.csv", "needle.html"];

fn words<'w>(more: &[&'w str]) -> Vec<&'w str> {
    let first = ["kv", "needle", "--model", "model", "--items", "2"];
    [&first[..], more].concat()
}

/// Words are tokens; a plan that sends 30 positions of every block but the first.
const PLANNED: [&str; 12] = [
    "--lengths",
    "128,120",
    "--depths",
    "0,50,100",
    "--kv-blocks",
    "1-4",
    "--kv-first",
    "4",
    "--kv-last",
    "26",
    "--out",
    "found",
];

fn files(place: &Place) -> [String; 3] {
    FILES.map(|name| read(&place.path("found").join(name)))
}

/// Bytes of this many positions of a block: keys and values of two heads of eight f32.
const POSITION: u64 = 2 * 2 * 8 * 4;

#[test]
fn every_mode_answers_every_cell_and_its_bytes_are_counted() {
    let place = Place::new();
    let (table, notes) = said(&mut place.pdtrim(&words(&PLANNED)));
    for word in [
        "dense",
        "pd+kv",
        "50 %",
        "128",
        "right answers to 12 prompts",
    ] {
        assert!(table.contains(word), "{table}");
    }
    assert!(notes.contains("needle pd+kv"), "{notes}");
    let [object, csv, page] = files(&place);
    let object: Value = serde_json::from_str(&object).unwrap();
    assert_eq!(object["settings"]["boundary"], "decode");
    assert_eq!(object["settings"]["lengths"], serde_json::json!([120, 128]));
    let modes = object["modes"].as_array().unwrap();
    assert_eq!(modes.len(), 2);
    for mode in modes {
        assert_eq!(mode["cells"].as_array().unwrap().len(), 6);
        assert_eq!(mode["lengths"].as_array().unwrap().len(), 2);
        let answers = mode["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 12);
        for answer in answers {
            let number = |name: &str| answer[name].as_u64().unwrap();
            // Six tokens of answer fit beside the prompt; decode reads the prompt's last token itself.
            assert!(number("prompt_tokens") + 6 <= number("length"), "{answer}");
            let all = 5 * (number("prompt_tokens") - 1);
            let is_dense = mode["mode"] == "dense";
            let sent = if is_dense { all } else { all / 5 + 4 * 30 };
            assert_eq!(number("kv_positions"), sent);
            assert_eq!(number("kv_bytes"), sent * POSITION);
            assert_eq!(answer["trimmed"], !is_dense);
        }
    }
    assert!(modes[0]["all"]["difference_to_dense"].is_null());
    assert!(modes[1]["all"]["difference_to_dense"]["value"].is_number());
    assert_eq!(csv.lines().count(), 1 + 2 * 6);
    for title in [
        "Right answers, dense",
        "Right answers, pd+kv",
        "KV per prompt",
    ] {
        assert!(page.contains(title), "{title}");
    }
}

#[test]
fn a_killed_run_goes_on_and_a_run_without_a_plan_is_dense_alone() {
    let place = Place::new();
    let (table, _) = said(&mut place.pdtrim(&words(&PLANNED)));
    let before = files(&place);
    // As a kill leaves it: one mode's journal half written, the other's not begun, no results.
    let state = place.path("found/.pdtrim");
    let journal = state.join("needle-dense.jsonl");
    let text = read(&journal);
    fs::write(&journal, &text[..text.len() / 2]).unwrap();
    fs::remove_file(state.join("needle-pd+kv.jsonl")).unwrap();
    for name in FILES {
        fs::remove_file(place.path("found").join(name)).unwrap();
    }
    let (again, _) = said(&mut place.pdtrim(&words(&PLANNED)));
    assert_eq!(again, table);
    assert_eq!(files(&place), before);
    assert_eq!(read(&journal), text);

    let dense = place.json(&words(&["--lengths", "128", "--depths", "50", "--json"]));
    assert_eq!(dense["modes"].as_array().unwrap().len(), 1);
    assert_eq!(dense["modes"][0]["mode"], "dense");
    assert_eq!(dense["settings"]["sends"], "everything");
}

#[test]
fn the_boundary_prefill_is_remarked_on() {
    let place = Place::new();
    let more = [
        "--lengths",
        "128",
        "--depths",
        "50",
        "--boundary",
        "prefill",
    ];
    let (_, notes) = said(&mut place.pdtrim(&words(&more)));
    assert!(notes.contains("Boundary prefill"), "{notes}");
    let page = read(&place.path("pdtrim-needle/needle.html"));
    assert!(page.contains("Boundary prefill"));
}

#[test]
fn what_makes_no_sense_is_refused_by_its_flag() {
    let place = Place::new();
    let error = place.failure(&words(&["--lengths", "120,4000"]));
    assert_eq!(
        error,
        "error: --lengths: expected at most 128 tokens, the model's context, found 4000\n"
    );
    let error = place.failure(&words(&["--lengths", "16"]));
    assert!(error.contains("--lengths: expected at least"), "{error}");
    assert!(error.ends_with("found 16\n"), "{error}");
    for (more, expected) in [
        (
            ["--depths", "50,101"],
            "expected a percentage from 0 to 100",
        ),
        (["--depths", "half"], "expected a percentage from 0 to 100"),
        (["--items", "0"], "--items"),
        (["--lengths", ""], "--lengths"),
        (["--modes", "all"], "--modes"),
    ] {
        let output = place.pdtrim(&words(&more)).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{more:?}: {error}");
        assert!(
            error.contains(expected) && error.contains(more[0]),
            "{error}"
        );
    }
    // The folder is made when there is something to measure.
    assert!(!place.path("pdtrim-needle").exists());
}
