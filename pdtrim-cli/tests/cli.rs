//! The binary as a user runs it, on a small seeded checkpoint.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/clock.rs"]
mod jumping;
#[path = "../../pdtrim-core/tests/support/tiny_checkpoint.rs"]
mod tiny_checkpoint;

#[path = "cli/compare.rs"]
mod compare;
#[path = "cli/distill.rs"]
mod distill;
#[path = "cli/export.rs"]
mod export;
#[path = "cli/gguf.rs"]
mod gguf;
#[path = "cli/import.rs"]
mod import;
#[path = "cli/kv.rs"]
mod kv;
#[path = "cli/kv_export.rs"]
mod kv_export;
#[path = "cli/needle.rs"]
mod needle;
#[path = "cli/onnx.rs"]
mod onnx;
#[path = "cli/secrets.rs"]
mod secrets;
#[path = "cli/sensitivity.rs"]
mod sensitivity;
#[path = "cli/serve.rs"]
mod serve;
#[path = "cli/storm.rs"]
mod storm;
#[path = "cli/width.rs"]
mod width;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use pdtrim_core::testing::TinyModel;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a model, and room for more.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        tiny_checkpoint::write_folder(&folder.path().join("model"), &TinyModel::default().build());
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn pdtrim(&self, words: &[&str]) -> Command {
        let mut command = Command::cargo_bin("pdtrim").unwrap();
        command.current_dir(self.folder.path()).args(words);
        command
    }

    fn trim(&self, more: &[&str]) -> Command {
        let words = [
            "trim",
            "--model",
            "model",
            "--tasks",
            "everyday,heldout",
            "--limit",
            "4",
            "--windows",
            "2",
            "--window-tokens",
            "32",
            "--prefill-count",
            "1",
            "--decode-count",
            "2",
            "--out",
            "out",
        ];
        self.pdtrim(&[&words, more].concat())
    }

    /// Standard output of a run that succeeds.
    fn stdout(&self, words: &[&str]) -> String {
        let output = self.pdtrim(words).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(words)).unwrap()
    }

    /// A command line that is refused, with exit code 2.
    fn usage(&self, words: &[&str]) {
        let output = self.pdtrim(words).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {error}");
    }

    /// Standard error of a run that fails with exit code 1.
    fn failure(&self, words: &[&str]) -> String {
        let output = self.pdtrim(words).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.lines().any(|line| line.starts_with("error: ")),
            "{error}"
        );
        assert!(!error.contains("panicked"), "{error}");
        error
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn said(command: &mut Command) -> (String, String) {
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    (String::from_utf8(output.stdout).unwrap(), error)
}

#[test]
fn trim_writes_its_files_and_a_second_run_reuses_them() {
    let place = Place::new();
    let (table, _) = said(&mut place.trim(&[]));
    for word in ["everyday", "heldout", "dense", "unified", "pd+kv"] {
        assert!(table.contains(word), "{table}");
    }
    let out = place.path("out");
    let plan = read(&out.join("plan.toml"));
    let results: Value = serde_json::from_str(&read(&out.join("results.json"))).unwrap();
    assert!(
        results["results"]["everyday"]["acc,none"].is_number(),
        "{results}"
    );
    assert!(read(&out.join("results.csv")).lines().count() > 8);
    let page = read(&out.join("report.html"));
    assert!(
        page.contains("<svg")
            && page.contains("Search progress")
            && page.contains("KV bytes per block")
    );

    let (again, notes) = said(&mut place.trim(&[]));
    assert_eq!(again, table);
    assert_eq!(read(&out.join("plan.toml")), plan);
    assert!(
        notes.contains("reusing") && notes.contains("reused 8 of 8"),
        "{notes}"
    );

    let (_, notes) = said(&mut place.trim(&["--force"]));
    assert!(!notes.contains("reus"), "{notes}");
    assert_eq!(read(&out.join("plan.toml")), plan);
    let mut names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            ".pdtrim",
            "plan.toml",
            "report.html",
            "results.csv",
            "results.json"
        ]
    );
}

#[test]
fn a_raced_search_makes_the_same_plan_and_says_that_it_was_raced() {
    let place = Place::new();
    let plan = |out: &str, race_error: &str| {
        let more = ["--windows", "9", "--race-error", race_error, "--out", out];
        said(&mut place.trim(&more));
        read(&place.path(out).join("plan.toml"))
    };
    let (full, raced) = (plan("full", "0"), plan("raced", "0.01"));
    assert!(!full.contains("race_error"), "{full}");
    assert_eq!(raced.replace("race_error = 0.01\n", ""), full);
    // What was measured in one of the two ways counts in the other.
    assert_eq!(plan("full", "0.01"), raced);
    assert_eq!(plan("raced", "0"), full);
}

#[test]
fn every_strategy_makes_a_plan_that_names_it_for_two_sets_and_for_one() {
    let place = Place::new();
    let strategies = "pdtrim sleb beam exact shortgpt shortened-ppl shortened-taylor random";
    for strategy in strategies.split_whitespace() {
        let mut methods = Vec::new();
        for coupling in ["", "--independent", "--unified"] {
            let more = [
                "--limit",
                "1",
                "--tasks",
                "heldout",
                "--kv-factor",
                "1",
                "--force",
            ];
            let coupling = coupling.split_whitespace();
            let more: Vec<&str> = more
                .into_iter()
                .chain(["--strategy", strategy])
                .chain(coupling)
                .collect();
            let (_, notes) = said(&mut place.trim(&more));
            assert_eq!(
                notes.contains("distillation set"),
                strategy == "pdtrim",
                "{notes}"
            );
            let plan: toml::Value =
                toml::from_str(&read(&place.path("out").join("plan.toml"))).unwrap();
            let blocks = |stage: &str| plan["removed"][stage].as_array().unwrap().clone();
            assert_eq!(blocks("decode").len(), 2);
            match more.last() {
                Some(&"--unified") => assert_eq!(blocks("prefill"), blocks("decode")),
                _ => assert_eq!(blocks("prefill").len(), 1),
            }
            methods.push(plan["method"].as_str().unwrap().to_owned());
        }
        assert_eq!(methods, [strategy; 3]);
    }
}

#[test]
fn importance_is_measured_for_the_strategy_that_goes_by_it_and_kept() {
    let place = Place::new();
    let plan = |strategy: &str| {
        let (_, notes) = said(&mut place.trim(&["--strategy", strategy, "--limit", "1"]));
        let plan = read(&place.path("out").join("plan.toml"));
        (plan, notes.contains("Taylor importance"))
    };
    assert!(!plan("shortgpt").1);
    let (first, measured) = plan("shortened-taylor");
    assert!(measured);
    let (again, measured) = plan("shortened-taylor");
    assert!(!measured);
    assert_eq!(again, first);
}

/// The table `[calibration]` of a plan.
fn calibration_of(plan: &str) -> toml::Value {
    let plan: toml::Value = toml::from_str(plan).unwrap();
    plan["calibration"].clone()
}

#[test]
fn trim_takes_every_kind_of_calibration_source_and_the_plan_says_what_it_was() {
    let place = Place::new();
    place.file("notes.txt", "w3 w5 w8 ".repeat(100));
    let items: Vec<String> = (0..50)
        .map(|n| format!("{{\"text\": \"w{n} w2 w9\", \"more\": \"w7\"}}\n"))
        .collect();
    place.file("items.jsonl", items.concat());
    fs::create_dir(place.path("data")).unwrap();
    place.file("data/wiki.valid.raw", "w4 w6 ".repeat(200));
    let cases: &[(&[&str], &str, Option<i64>)] = &[
        (&["--calibration", "prose"], "bundled prose", None),
        (&["--calibration-seed", "3"], "bundled prose", None),
        (&["--calibration", "notes.txt"], "notes.txt", None),
        (
            &["--calibration", "items.jsonl"],
            "items.jsonl#text",
            Some(40),
        ),
        (
            &[
                "--calibration",
                "items.jsonl#text+more",
                "--calibration-items",
                "30",
            ],
            "items.jsonl#text+more",
            Some(30),
        ),
        (
            &["--calibration", "wikitext2", "--data", "data"],
            "wikitext2 (wiki.valid.raw)",
            None,
        ),
        (&["--calibration", "self"], "self", None),
    ];
    for (n, (words, source, items)) in cases.iter().enumerate() {
        let out = format!("out-{n}");
        said(&mut place.trim(&[words, &["--out", &out][..]].concat()));
        let about = calibration_of(&read(&place.path(&out).join("plan.toml")));
        assert_eq!(about["source"].as_str(), Some(*source));
        assert_eq!(about.get("items").and_then(toml::Value::as_integer), *items);
        let seed = if words.contains(&"3") { 3 } else { 0 };
        assert_eq!(about["seed"].as_integer(), Some(seed));
        assert!(about["hash"].as_str().unwrap().starts_with("sha256:"));
    }
    // The same samples again: everything that was measured on them is reused.
    let (_, notes) = said(&mut place.trim(&["--calibration", "self", "--out", "out-6"]));
    assert!(notes.contains("reused 8 of 8"), "{notes}");
}

#[test]
fn calibrations_compares_sources_and_seeds_on_held_out_windows() {
    let place = Place::new();
    let items: Vec<String> = (0..60)
        .map(|n| format!("{{\"text\": \"w{n} w{} w9\"}}\n", n + 30))
        .collect();
    place.file("items.jsonl", items.concat());
    let words = [
        "calibrations",
        "--model",
        "model",
        "--sources",
        "self,items.jsonl",
        "--seeds",
        "0,4",
        "--windows",
        "2",
        "--window-tokens",
        "16",
        "--held-out-windows",
        "2",
        "--prefill-count",
        "1",
        "--decode-count",
        "2",
    ];
    let object = place.json(&[&words[..], &["--json", "--output", "found.json"]].concat());
    let written: Value = serde_json::from_str(&read(&place.path("found.json"))).unwrap();
    assert_eq!(written, object);
    let rows = object["rows"].as_array().unwrap();
    let named = |source: &str| rows.iter().filter(|row| row["source"] == source).count();
    // Random blocks are the control.
    for source in ["self", "items.jsonl", "random"] {
        assert_eq!(named(source), 2, "{object}");
    }
    let domains = object["domains"].as_array().unwrap();
    let domains: Vec<&str> = domains
        .iter()
        .map(|d| d["name"].as_str().unwrap())
        .collect();
    assert_eq!(domains, ["self", "items.jsonl", "prose"]);
    for row in rows {
        assert_eq!(row["removed"]["prefill"].as_array().unwrap().len(), 1);
        assert_eq!(row["removed"]["decode"].as_array().unwrap().len(), 2);
        assert_eq!(row["held_out"].as_array().unwrap().len(), 3);
        assert_eq!(row["cost"].is_number(), row["source"] != "random");
    }
    assert_eq!(rows[3]["calibration"]["seed"], 4);
    assert_eq!(rows[3]["calibration"]["items"], 48);
    // What is reported is what the held-out windows cost by hand: the mean rise over three domains.
    let loss = |n: usize| object["domains"][n]["loss_dense"].as_f64().unwrap();
    let rise = |n: usize| rows[0]["held_out"][n].as_f64().unwrap() - loss(n);
    let mean = (rise(0) + rise(1) + rise(2)) / 3.0;
    assert!((rows[0]["mean_rise"].as_f64().unwrap() - mean).abs() < 1e-9);
    for stage in ["prefill", "decode"] {
        let agreement = &object["agreement"][stage];
        assert_eq!(agreement[0][1], agreement[1][0]);
        let within = agreement[0][0].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&within), "{agreement}");
    }
    assert_eq!(object, place.json(&[&words[..], &["--json"]].concat()));

    let table = place.stdout(&words);
    for word in ["on self", "on prose", "random", "mean rise", "Jaccard"] {
        assert!(table.contains(word), "{table}");
    }
}

#[test]
fn every_strategy_and_selection_makes_a_plan_that_the_other_commands_take() {
    let place = Place::new();
    for (strategy, selection) in [
        ("sleb", "attention"),
        ("shortgpt", "loss"),
        ("random", "attention"),
    ] {
        let folder = format!("out-{strategy}");
        let more = [
            "--strategy",
            strategy,
            "--kv-selection",
            selection,
            "--boundary",
            "decode",
            "--out",
            &folder,
        ];
        said(&mut place.trim(&more));
        let plan = format!("{folder}/plan.toml");
        let parsed: toml::Value = toml::from_str(&read(&place.path(&plan))).unwrap();
        assert_eq!(parsed["method"].as_str(), Some(strategy));
        assert_eq!(parsed["removed"]["decode"].as_array().unwrap().len(), 2);
        place.stdout(&[
            "generate",
            "w5 w6",
            "--model",
            "model",
            "--plan",
            &plan,
            "--max-new-tokens",
            "4",
        ]);
        let out = format!("stage-{strategy}");
        place.stdout(&["export", &plan, "--stage", "decode", "--out", &out]);
        let facts = place.json(&["inspect", &out, "--json"]);
        assert_eq!(facts["blocks"], 3);
    }
}

#[test]
fn a_repaired_plan_is_run_and_exported_with_its_own_weights() {
    let place = Place::new();
    let words = (0..6000_u64).map(|n| format!("w{} ", (n * n * 31 + n / 7) % 90 + 2));
    place.file("notes.txt", words.collect::<String>());
    let more = ["--calibration", "notes.txt", "--repair", "linear"];
    let (table, notes) = said(&mut place.trim(&more));
    assert!(
        table.contains("linear repair") && table.contains("held-out"),
        "{table}"
    );
    // 8192 tokens are more than there are.
    assert!(notes.contains("no more that are free"), "{notes}");
    let plan = read(&place.path("out/plan.toml"));
    let parsed: toml::Value = toml::from_str(&plan).unwrap();
    assert_eq!(parsed["repair"].as_str(), Some("linear"));
    let name = parsed["repair_file"]["name"].as_str().unwrap();
    assert_eq!(name, "repair.safetensors");
    assert_eq!(
        parsed["repair_calibration"]["source"].as_str(),
        Some("notes.txt")
    );
    assert!(read(&place.path("out/report.html")).contains("fitted by ridge regression"));

    let (again, notes) = said(&mut place.trim(&more));
    assert_eq!(again, table);
    assert!(
        notes.contains("reusing the repair") && notes.contains("reused 8 of 8"),
        "{notes}"
    );
    assert_eq!(read(&place.path("out/plan.toml")), plan);

    place.file("prompt", "5 6 7 8 9 10 11 12");
    place.file("continuation", "20 21 22");
    let logprobs = |plan: &str| {
        let words = [
            "logprobs", "--model", "model", "--plan", plan, "--ids", "--json",
        ];
        let files = [
            "--prompt-file",
            "prompt",
            "--continuation-file",
            "continuation",
        ];
        place.json(&[&words[..], &files].concat())["logprobs"].clone()
    };
    let (head, tail) = plan.split_once("[repair_file]").unwrap();
    let (_, tail) = tail.split_once("\n\n").unwrap();
    let unrepaired = head.replace("repair = \"linear\"", "repair = \"none\"") + tail;
    place.file("out/unrepaired.toml", unrepaired);
    assert_ne!(logprobs("out/plan.toml"), logprobs("out/unrepaired.toml"));
    place.stdout(&[
        "generate",
        "w5 w6",
        "--model",
        "model",
        "--plan",
        "out/plan.toml",
        "--max-new-tokens",
        "4",
    ]);

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
    assert_eq!(config["pdtrim"]["repair"], "linear");
    assert!(
        !config["pdtrim"]["repaired_blocks"]
            .as_array()
            .unwrap()
            .is_empty()
    );

    fs::write(place.path("out/repair.safetensors"), "no").unwrap();
    let again = [&export[..], &["--force"]].concat();
    let error = place.failure(&again);
    assert!(
        error.contains("repair.safetensors") && error.contains("sha256:"),
        "{error}"
    );
    fs::remove_file(place.path("out/repair.safetensors")).unwrap();
    let error = place.failure(&[
        "generate",
        "w5",
        "--model",
        "model",
        "--plan",
        "out/plan.toml",
    ]);
    assert!(error.contains("repair.safetensors"), "{error}");
}

#[test]
fn logprobs_of_a_plan_file_are_those_of_the_same_plan_spelled_out() {
    let place = Place::new();
    place.file("prompt", "5 6 7, 8 9 10 11 12 13 14");
    place.file("continuation", "[20, 21, 22]");
    let files = [
        "logprobs",
        "--model",
        "model",
        "--prompt-file",
        "prompt",
        "--continuation-file",
        "continuation",
        "--ids",
        "--json",
    ];
    let flags = [
        "--prefill-remove",
        "2",
        "--decode-remove",
        "1-2",
        "--kv-blocks",
        "0,3-4",
        "--kv-first",
        "1",
        "--kv-last",
        "3",
    ];
    let spelled = place.json(&[&files[..], &flags].concat());
    assert_eq!(spelled["prompt_tokens"], 10);
    assert_eq!(spelled["tokens"], serde_json::json!([20, 21, 22]));
    // Three blocks run in decode, all of them trimmed to 4 positions of 2 x 2 heads x 8 x 4 bytes.
    assert_eq!(spelled["kv_bytes"], 3 * 4 * 2 * 2 * 8 * 4);

    let hash = place.json(&["inspect", "model", "--json"])["hash"]
        .as_str()
        .unwrap()
        .to_owned();
    let plan = format!(
        "version = 1\nmethod = \"manual\"\n[model]\nname = \"model\"\nhash = \"{hash}\"\nblocks = 5\n\
         [removed]\nprefill = [2]\ndecode = [1, 2]\n[[kv]]\nblocks = [0, 3, 4]\nfirst = 1\nlast = 3\n"
    );
    place.file("plan.toml", &plan);
    assert_eq!(
        place.json(&[&files[..], &["--plan", "plan.toml"]].concat()),
        spelled
    );
    let dense = place.json(&files);
    assert_eq!(dense["kv_bytes"], 5 * 10 * 2 * 2 * 8 * 4);
    assert_ne!(dense["logprobs"], spelled["logprobs"]);

    // The same positions in 8 bits: keys and values of 4 x 16 elements, and 4 bytes for each of 16 channels and
    // of 4 x 2 heads.
    let encoded = [&files[..], &flags, &["--kv-encoding", "int8"]].concat();
    let encoded = place.json(&encoded);
    assert_eq!(encoded["kv_bytes"], 3 * (2 * 64 + 4 * 16 + 4 * 8));
    assert_ne!(encoded["logprobs"], spelled["logprobs"]);
    place.file("plan.toml", format!("{plan}encoding = \"int8\"\n"));
    let planned = place.json(&[&files[..], &["--plan", "plan.toml"]].concat());
    assert_eq!(planned, encoded);
    place.usage(&[&files[..], &["--kv-encoding", "int3"]].concat());

    place.file("plan.toml", plan.replace("sha256:", "sha256:0"));
    let error = place.failure(&[&files[..], &["--plan", "plan.toml"]].concat());
    assert!(
        error.contains("plan.toml") && error.contains("sha256:0"),
        "{error}"
    );
}

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

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn bad_input_gets_one_error_that_says_what_was_expected_and_exit_code_1() {
    let place = Place::new();
    place.file("empty", " \n");
    place.file("latin1", b"caf\xe9");
    place.file("short", "w1 w2 w3");
    place.file("short.jsonl", "{\"text\": \"w1\"}\n{\"text\": 1}\n");
    place.file("prompt", "5 6");
    place.file("long", "5 ".repeat(200));
    let trim = [
        "trim",
        "--model",
        "model",
        "--tasks",
        "heldout",
        "--windows",
        "2",
        "--window-tokens",
        "32",
        "--out",
        "out",
        "--prefill-count",
        "1",
        "--decode-count",
        "2",
    ];
    let logprobs = [
        "logprobs",
        "--model",
        "model",
        "--ids",
        "--continuation-file",
        "prompt",
        "--prompt-file",
    ];
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&trim, &["--calibration", "empty"], &["empty", "is empty"]),
        (
            &trim,
            &["--calibration", "latin1"],
            &["latin1", "UTF-8", "offset 3"],
        ),
        (
            &trim,
            &["--calibration", "short"],
            &["short", "3 tokens", "2 windows of 32"],
        ),
        (
            &trim,
            &["--calibration", "nowhere"],
            &["nowhere", "prose, wikitext2, piqa+mmlu, c4, self"],
        ),
        (&trim, &["--calibration", "c4"], &["c4", "--data"]),
        (
            &trim,
            &["--calibration", "wikitext2", "--data", "model"],
            &["wiki.train.raw", "--data"],
        ),
        (
            &trim,
            &["--calibration-items", "4"],
            &["bundled prose", "no items"],
        ),
        (
            &trim,
            &["--repair", "linear", "--repair-tokens", "99999"],
            &["bundled prose", "--repair-calibration"],
        ),
        (
            &trim,
            &["--calibration", "short.jsonl"],
            &["short.jsonl, line 2", "`text`", "a number"],
        ),
        (
            &trim,
            &["--calibration", "self", "--window-tokens", "129"],
            &["self", "129 tokens", "128"],
        ),
        (
            &[
                "calibrations",
                "--model",
                "model",
                "--sources",
                "prose,nwhere",
            ],
            &[],
            &["nwhere", "wikitext2"],
        ),
        (&trim, &["--decode-count", "5"], &["5 blocks", "3"]),
        (
            &trim,
            &["--prefill-count", "3", "--decode-count", "2"],
            &["decode", "2", "3"],
        ),
        (&trim, &["--tasks", "pika"], &["pika", "piqa"]),
        (
            &trim,
            &["--tasks", "piqa", "--offline"],
            &["piqa", "--data", "hub"],
        ),
        (&trim, &["--kv-factor", "900"], &["900x"]),
        (&trim, &["--kv-factor", "nan"], &["kv-factor"]),
        (&trim, &["--device", "tpu"], &["device", "cuda", "tpu"]),
        (&["eval", "--model", "nowhere/."], &[], &["nowhere"]),
        (
            &["eval", "--model", "modle"],
            &[],
            &["modle", "smollm2-135m-instruct"],
        ),
        (
            &logprobs,
            &["prompt", "--decode-remove", "5"],
            &["block 5", "5 blocks"],
        ),
        (
            &logprobs,
            &["prompt", "--prefill-remove", "1"],
            &["prefill removes", "1"],
        ),
        (
            &logprobs,
            &[
                "prompt",
                "--prefill-remove",
                "0-4",
                "--decode-remove",
                "0-4",
            ],
            &["would keep none"],
        ),
        (&logprobs, &["long"], &["201 tokens", "128"]),
        (&logprobs, &["latin1"], &["latin1", "UTF-8"]),
        (&logprobs, &["short"], &["short", "w1", "token id"]),
        (
            &["bench", "prefill", "--model", "model", "--tokens", "129"],
            &[],
            &["129 tokens", "128"],
        ),
        (
            &["bench", "decode", "--model", "model", "--context", "120"],
            &["--new-tokens", "9"],
            &["129 tokens", "128"],
        ),
        (
            &["bench", "perplexity", "--model", "model", "--tokens", "9"],
            &["--window", "10"],
            &["9", "window of 10"],
        ),
        (
            &["bench", "search", "--model", "model", "--count", "5"],
            &["--windows", "1", "--window-tokens", "8"],
            &["5 blocks"],
        ),
        (
            &["bench", "growth", "--model", "model", "--max-removed", "5"],
            &[],
            &["--max-removed 5", "5 blocks"],
        ),
        (
            &["bench", "growth", "--model", "model", "--order", "1,7"],
            &[],
            &["block 7", "5 blocks"],
        ),
        (
            &["export", "model", "--stage", "decode", "--out", "x"],
            &[],
            &["--stage", "plan"],
        ),
        (
            &["export", "model", "--out", "model"],
            &[],
            &["model", "not empty"],
        ),
    ];
    for (words, more, names) in cases {
        let words = [*words, *more].concat();
        let error = place.failure(&words);
        for name in *names {
            assert!(
                error.contains(name),
                "{words:?}: `{error}` does not name `{name}`"
            );
        }
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let place = Place::new();
    for words in [
        &["trim", "--nonsense"][..],
        &["eval", "--mode", "fast"],
        &["logprobs"],
        &["trim", "--boundary", "middle"],
        &["trim", "--calibration", "items.jsonl#"],
        &["trim", "--calibration-items", "0"],
        &["calibrations", "--seeds", "one"],
        &["bench"],
        &["bench", "prefill", "--batch", "0"],
        &["bench", "decode", "--repeats", "0"],
        &["bench", "decode", "--peak-flops", "-1"],
        &[],
    ] {
        let output = place.pdtrim(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn cuda_without_the_feature_says_in_one_line_what_is_missing() {
    let place = Place::new();
    let error = place.failure(&["generate", "w5", "--model", "model", "--device", "cuda"]);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("--features cuda"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let place = Place::new();
    let words = [
        "eval",
        "--model",
        "model",
        "--tasks",
        "everyday",
        "--limit",
        "2",
        "--items",
        "/dev/full",
    ];
    let error = place.failure(&words);
    assert!(error.contains("/dev/full"), "{error}");
}

#[test]
fn completions_name_every_subcommand() {
    let place = Place::new();
    let script = place.stdout(&["completions", "bash"]);
    for command in [
        "trim",
        "eval",
        "generate",
        "logprobs",
        "inspect",
        "export",
        "import",
        "calibrations",
        "compare",
        "sensitivity",
        "pull",
        "bench",
    ] {
        assert!(script.contains(command), "{command}");
    }
}

#[test]
fn help_reads_as_before() {
    let place = Place::new();
    for command in [
        "",
        "trim",
        "eval",
        "generate",
        "logprobs",
        "inspect",
        "export",
        "import",
        "calibrations",
        "compare",
        "sensitivity",
        "kv search",
        "kv needle",
        "kv export",
        "pull",
        "bench",
        "bench prefill",
        "bench decode",
        "bench perplexity",
        "bench search",
        "bench eval",
        "bench load",
        "bench growth",
    ] {
        let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let name = [&["help"], &words[..words.len() - 1]].concat().join("_");
        insta::assert_snapshot!(name, place.stdout(&words));
    }
}
