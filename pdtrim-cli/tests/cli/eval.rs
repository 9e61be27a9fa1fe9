//! `pdtrim eval`.

use serde_json::Value;

use super::{Place, read};

#[test]
fn eval_prints_one_results_object_or_a_table() {
    let place = Place::new();
    let words = [
        "eval", "--model", "model", "--tasks", "everyday", "--limit", "3", "--mode", "dense",
    ];
    let object = place.json(&[&words[..], &["--json", "--items", "items.jsonl"]].concat());
    assert!(
        object["results"]["everyday"]["acc,none"].is_number(),
        "{object}"
    );
    assert_eq!(read(&place.path("items.jsonl")).lines().count(), 3);
    assert!(place.stdout(&words).contains("everyday"));
    assert!(
        place
            .stdout(&["eval", "--list"])
            .lines()
            .any(|line| line.starts_with("piqa "))
    );
}

/// What two runs have in common: everything but the times.
fn without_times(mut results: Value) -> Value {
    let fields = results.as_object_mut().unwrap();
    for key in ["date", "total_evaluation_time_seconds"] {
        assert!(fields.remove(key).is_some(), "{key}");
    }
    let run = fields["pdtrim"]["run"].as_object_mut().unwrap();
    for key in ["date", "seconds"] {
        assert!(run.remove(key).is_some(), "{key}");
    }
    results
}

#[test]
fn eval_writes_a_folder_and_two_runs_differ_only_in_their_times() {
    let place = Place::new();
    let words = [
        "eval",
        "--model",
        "model",
        "--tasks",
        "everyday,heldout",
        "--limit",
        "3",
        "--prefill-remove",
        "1",
        "--decode-remove",
        "1,2",
        "--mode",
        "dense,unified,pd",
        "--out",
    ];
    let run = |out: &str, more: &[&str]| {
        place.stdout(&[&words[..], &[out], more].concat());
        let file = |name: &str| read(&place.path(&format!("{out}/{name}")));
        let results: Value = serde_json::from_str(&file("results.json")).unwrap();
        (
            without_times(results),
            file("items.jsonl"),
            file("results.csv"),
        )
    };
    let (first, second) = (run("one", &[]), run("two", &[]));
    assert_eq!(first, second);
    // Again in the same folder: everything comes from the journal, and is the same.
    assert_eq!(run("one", &[]), first);
    assert!(read(&place.path("one/report.html")).contains("Scores of model"));
    let rows = first.0["pdtrim"]["rows"].as_array().unwrap();
    assert!(
        rows.iter()
            .any(|row| row["metrics"][0]["difference_stderr"].is_number())
    );
    // Alone or sixteen at a time: the same answers, and log-likelihoods within rounding.
    let (alone, together) = (
        run("a", &["--batch-size", "1"]),
        run("b", &["--batch-size", "16"]),
    );
    for (one, two) in alone.1.lines().zip(together.1.lines()) {
        let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let (one, two) = (parse(one), parse(two));
        assert_eq!(one["acc"], two["acc"]);
        let sums = |item: &Value| -> Vec<f64> {
            let list = item["loglikelihoods"].as_array();
            list.map_or_else(
                || vec![item["loglikelihood"].as_f64().unwrap()],
                |list| list.iter().filter_map(Value::as_f64).collect(),
            )
        };
        for (one, two) in sums(&one).into_iter().zip(sums(&two)) {
            assert!((one - two).abs() < 1e-3, "{one} and {two}");
        }
    }
}

#[test]
fn a_gate_passes_the_baseline_itself_and_fails_what_got_worse() {
    let place = Place::new();
    let score = ["--model", "model", "--tasks", "heldout", "--limit", "12"];
    let removed = ["--prefill-remove", "0,1", "--decode-remove", "0,1"];
    let baseline = |name: &str, more: &[&str]| {
        place.stdout(&[&["baseline"], &score[..], more, &["--output", name]].concat());
        read(&place.path(name))
    };
    let value = |text: &str| -> f64 {
        let file: Value = serde_json::from_str(text).unwrap();
        file["tasks"][0]["metrics"][0]["value"].as_f64().unwrap()
    };
    let dense = baseline("dense.json", &[]);
    assert_eq!(dense, baseline("again.json", &[]));
    let trimmed = baseline("trimmed.json", &removed);
    // Weights from a seed know nothing: either of the two may be the worse one.
    let (better, worse) = if value(&dense) < value(&trimmed) {
        ("dense.json", &removed[..])
    } else {
        ("trimmed.json", &[][..])
    };
    let eval = |baseline: &'static str, more: &[&'static str]| {
        let gate = [
            "--baseline",
            baseline,
            "--junit",
            "gate.xml",
            "--alpha",
            "1",
        ];
        [&["eval"], &score[..], &gate[..], more].concat()
    };
    let none = ["--max-drop", "perplexity=0"];
    let table = place.stdout(&eval("dense.json", &none));
    assert!(
        table.contains("worse by") && table.contains(" ok "),
        "{table}"
    );
    assert!(read(&place.path("gate.xml")).contains("failures=\"0\""));
    let error = place.failure(&eval(better, &[&none, worse, &["--github"]].concat()));
    assert!(error.contains("::error title="), "{error}");
    assert!(
        error.contains("error: worse than the baseline: token_perplexity of heldout"),
        "{error}"
    );
    assert!(read(&place.path("gate.xml")).contains("failures=\"1\""));

    // A limit without a baseline, a metric that nobody knows, a limit that checks nothing, a file that is none.
    place.usage(&["eval", "--max-drop", "acc=0.01"]);
    place.usage(&["eval", "--baseline", "dense.json", "--max-drop", "ac=0.01"]);
    let unused = eval("dense.json", &["--max-drop", "acc=0.01"]);
    assert!(place.failure(&unused).contains("acc=0.01"));
    place.file("dense.json", "{\"pdtrim_baseline\": 9}");
    assert!(
        place
            .failure(&eval("dense.json", &none))
            .contains("dense.json")
    );
}
