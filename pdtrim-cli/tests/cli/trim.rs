//! `pdtrim trim` and `pdtrim calibrations`.

use std::fs;

use serde_json::Value;

use super::{Place, read, said};

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
