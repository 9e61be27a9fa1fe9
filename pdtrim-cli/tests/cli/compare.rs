//! `pdtrim compare`.

use std::fs;

use serde_json::{Value, json};

use super::{Place, read, said};

const WORDS: [&str; 24] = [
    "compare",
    "--model",
    "model",
    "--strategies",
    "sleb,shortgpt,random",
    "--targets",
    "unified,pd,pd-independent",
    "--counts",
    "1,2",
    "--seeds",
    "0,3",
    "--windows",
    "2",
    "--window-tokens",
    "16",
    "--held-out-windows",
    "3",
    "--held-out-window-tokens",
    "24",
    "--tasks",
    "everyday",
    "--limit",
    "3",
    "--out",
];

const FILES: [&str; 3] = ["compare.json", "compare.csv", "compare.html"];

fn words<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&WORDS[..], &[out], more].concat()
}

/// compare.json but for the seconds.
fn object(place: &Place, out: &str) -> Value {
    let mut object: Value = serde_json::from_str(&read(&place.path(out).join(FILES[0]))).unwrap();
    for run in object["runs"].as_array_mut().unwrap() {
        if let Some(found) = run["outcome"].get_mut("found") {
            found["search"]
                .as_object_mut()
                .unwrap()
                .remove("seconds")
                .unwrap();
        }
    }
    for row in object["rows"].as_array_mut().unwrap() {
        row.as_object_mut()
            .unwrap()
            .remove("search_seconds")
            .unwrap();
    }
    object
}

/// compare.csv but for the seconds and their spread.
fn csv(place: &Place, out: &str) -> Vec<Vec<String>> {
    let text = read(&place.path(out).join(FILES[1]));
    let lines: Vec<Vec<String>> = text
        .lines()
        .map(|line| line.split(',').map(str::to_owned).collect())
        .collect();
    let seconds: Vec<usize> = (0..lines[0].len())
        .filter(|&column| lines[0][column].starts_with("search_seconds"))
        .collect();
    assert_eq!(seconds.len(), 2);
    let without = |line: Vec<String>| {
        let cells = line.into_iter().enumerate();
        let cells = cells.filter(|(column, _)| !seconds.contains(column));
        cells.map(|(_, cell)| cell).collect()
    };
    lines.into_iter().map(without).collect()
}

#[test]
fn every_combination_has_a_row_and_two_runs_agree() {
    let place = Place::new();
    let (table, _) = said(&mut place.pdtrim(&words("one", &[])));
    for word in [
        "dense",
        "pd-independent",
        "held-out NLL",
        "bytes saved",
        "everyday",
    ] {
        assert!(table.contains(word), "{table}");
    }
    let found = object(&place, "one");
    let (rows, runs) = (&found["rows"], found["runs"].as_array().unwrap());
    assert_eq!(rows.as_array().unwrap().len(), 3 * 3 * 2);
    assert_eq!(runs.len(), 3 * 3 * 2 * 2);
    let held_out = &found["configuration"]["held_out"];
    assert_eq!(
        (&held_out["windows"], &held_out["window_tokens"]),
        (&json!(3), &json!(24))
    );
    let dense = found["dense"]["held_out_loss"].as_f64().unwrap();
    for run in runs {
        let one = &run["outcome"]["found"];
        let (counts, removed) = (&run["counts"], &one["removed"]);
        for stage in ["prefill", "decode"] {
            let removed = removed[stage].as_array().unwrap().len();
            assert_eq!(counts[stage], removed, "{run}");
        }
        if run["target"] == "unified" {
            assert_eq!(removed["prefill"], removed["decode"]);
        } else {
            assert_eq!(
                counts["prefill"].as_u64(),
                counts["decode"].as_u64().map(|n| n / 2)
            );
        }
        let rise = one["held_out"]["cost"].as_f64().unwrap() - dense;
        assert!((one["held_out"]["rise"].as_f64().unwrap() - rise).abs() < 3e-6);
        assert_eq!(one["calibration"]["seed"], run["seed"]);
        // What greedy search evaluates: three blocks, then two.
        let sleb = run["strategy"] == "sleb";
        assert_eq!(
            one["search"]["evaluations"].as_u64() > Some(0),
            sleb,
            "{run}"
        );
    }
    // Two of five blocks of 7744 parameters, beside a head of 96 x 32 and a norm of 32.
    let share = 2.0 * 7744.0 / (5.0 * 7744.0 + 96.0 * 32.0 + 32.0);
    let two = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["counts"]["decode"] == 2)
        .unwrap();
    let saved = two["decode_weight_bytes_saved"]["mean"].as_f64().unwrap();
    assert!((saved - share).abs() < 1e-9, "{saved}");

    let lines = csv(&place, "one");
    assert_eq!(lines.len(), 2 + 18);
    assert!(lines.iter().all(|line| line.len() == lines[0].len()));
    assert!(read(&place.path("one/compare.html")).contains("Cost of the search"));

    // A search is charged for what another one had measured before.
    let evaluations = |strategy: &str, decode: u64| -> u64 {
        let run = runs.iter().find(|run| {
            let same = run["strategy"] == strategy && run["target"] == "unified";
            same && run["counts"]["decode"] == decode
        });
        run.unwrap()["outcome"]["found"]["search"]["evaluations"]
            .as_u64()
            .unwrap()
    };
    assert_eq!((evaluations("sleb", 1), evaluations("sleb", 2)), (3, 5));

    said(&mut place.pdtrim(&words("two", &[])));
    assert_eq!(object(&place, "two"), found);
    assert_eq!(csv(&place, "two"), lines);
}

#[test]
fn importance_is_measured_once_for_a_seed_and_a_kind_of_rows() {
    let place = Place::new();
    let words = words("out", &[]);
    let taylor = |word| match word {
        "sleb,shortgpt,random" => "shortened-taylor",
        word => word,
    };
    let words: Vec<&str> = words.into_iter().map(taylor).collect();
    let (_, notes) = said(&mut place.pdtrim(&words));
    // One set is measured over all tokens, two over each stage's; for two seeds.
    assert_eq!(notes.matches("Taylor importance").count(), 4, "{notes}");
    for run in object(&place, "out")["runs"].as_array().unwrap() {
        let found = &run["outcome"]["found"];
        assert_eq!(found["search"]["evaluations"], 0);
        let removed = found["removed"]["decode"].as_array().unwrap();
        assert_eq!(run["counts"]["decode"], removed.len());
    }
}

#[test]
fn a_row_that_was_lost_is_run_again_and_the_others_are_kept() {
    let place = Place::new();
    said(&mut place.pdtrim(&words("out", &[])));
    let files = FILES.map(|name| read(&place.path("out").join(name)));
    let (before, lines) = (object(&place, "out"), csv(&place, "out"));
    let (_, notes) = said(&mut place.pdtrim(&words("out", &[])));
    assert_eq!(notes.matches("kept from an earlier run").count(), 36);
    // Everything is kept, the seconds too.
    assert_eq!(files, FILES.map(|name| read(&place.path("out").join(name))));

    let state = place.path("out/.pdtrim");
    for lost in ["run", "search"] {
        fs::remove_file(state.join(format!("{lost}-sleb-pd-1-2-seed3.json"))).unwrap();
    }
    let journal = state.join("evaluations-seed3.jsonl");
    let text = read(&journal);
    fs::write(&journal, &text[..text.len() / 2]).unwrap();
    let (_, notes) = said(&mut place.pdtrim(&words("out", &[])));
    assert_eq!(notes.matches("kept from an earlier run").count(), 35);
    assert_eq!(object(&place, "out"), before);
    assert_eq!(csv(&place, "out"), lines);
    // Only what that search asks for is measured again.
    let again = read(&journal);
    assert!(again.lines().count() <= text.lines().count(), "{again}");
}

#[test]
fn shards_merge_into_the_table_of_one_machine() {
    let place = Place::new();
    said(&mut place.pdtrim(&words("whole", &[])));
    for (shard, out) in [("1/3", "a"), ("2/3", "b"), ("3/3", "c")] {
        said(&mut place.pdtrim(&words(out, &["--shard", shard])));
        assert_eq!(object(&place, out)["runs"].as_array().unwrap().len(), 12);
    }
    place.stdout(&["compare", "--merge", "b", "a", "c", "--out", "merged"]);
    assert_eq!(object(&place, "merged"), object(&place, "whole"));
    assert_eq!(csv(&place, "merged"), csv(&place, "whole"));

    // Without a shard its runs are missing, and said to be.
    let words = ["compare", "--merge", "a", "b", "--out", "two"];
    let error = place.failure(&words);
    assert!(error.contains("12 of 36 runs failed"), "{error}");
    assert!(read(&place.path("two/compare.csv")).contains("none of the merged folders"));
}

#[test]
fn folders_that_do_not_belong_together_are_not_merged() {
    let place = Place::new();
    let run = |out, count| {
        let few = [
            "compare",
            "--model",
            "model",
            "--strategies",
            "random",
            "--targets",
            "pd",
        ];
        let small = [
            "--windows",
            "2",
            "--window-tokens",
            "16",
            "--seeds",
            "0",
            "--out",
            out,
        ];
        said(&mut place.pdtrim(&[&few[..], &["--counts", count], &small].concat()));
    };
    run("one", "1");
    run("two", "2");
    let error = place.failure(&["compare", "--merge", "one", "two", "--out", "merged"]);
    for word in [
        "two",
        "another configuration",
        "`counts`",
        "[2]",
        "expected [1]",
    ] {
        assert!(error.contains(word), "{error}");
    }
    assert!(!place.path("merged").exists());

    let mut other: Value = serde_json::from_str(&read(&place.path("one/compare.json"))).unwrap();
    other["runs"][0]["outcome"]["found"]["removed"]["decode"] = json!([0]);
    fs::create_dir(place.path("other")).unwrap();
    place.file("other/compare.json", other.to_string());
    let error = place.failure(&["compare", "--merge", "one", "other", "--out", "merged"]);
    assert!(
        error.contains("disagree on random pd 0 + 1, seed 0"),
        "{error}"
    );
    place.file("other/compare.json", "{}");
    let error = place.failure(&["compare", "--merge", "one", "other", "--out", "merged"]);
    assert!(error.contains("not a table of `pdtrim compare`"), "{error}");
    let error = place.failure(&["compare", "--merge", "one", "nowhere", "--out", "merged"]);
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn a_row_that_fails_is_reported_beside_the_others() {
    let place = Place::new();
    let words = words("out", &[]);
    let words: Vec<&str> = words
        .into_iter()
        .map(|word| if word == "1,2" { "2,4" } else { word })
        .collect();
    let output = place.pdtrim(&words).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("error: 18 of 36 runs failed"), "{error}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("failed: sleb unified 4, seed 0: 4 blocks"),
        "{table}"
    );
    for row in object(&place, "out")["rows"].as_array().unwrap() {
        let failed = row["counts"]["decode"] == 4;
        assert_eq!(row["held_out_loss"].is_null(), failed);
        assert_eq!(
            row["failed"].as_array().unwrap().len(),
            if failed { 2 } else { 0 }
        );
    }
    assert!(read(&place.path("out/compare.html")).contains("Failed: sleb"));
}

#[test]
fn wrong_usage_is_refused() {
    let place = Place::new();
    for words in [
        &["compare", "--shard", "3/2"][..],
        &["compare", "--merge", "a", "--shard", "1/2"],
        &["compare", "--prefill-share", "1.5"],
        &["compare", "--strategies", "magic"],
        &["compare", "--limit", "3"],
    ] {
        place.usage(words);
    }
}

#[test]
fn windows_that_pdtrim_decides_on_count_as_its_search() {
    let place = Place::new();
    let run = |out: &str, more: &[&str]| {
        let few = [
            "compare",
            "--model",
            "model",
            "--strategies",
            "sleb,pdtrim",
            "--targets",
            "unified,pd",
            "--counts",
            "2",
            "--windows",
            "2",
            "--window-tokens",
            "16",
            "--seeds",
            "0",
            "--anneal-steps",
            "3",
            "--out",
            out,
        ];
        let (table, _) = said(&mut place.pdtrim(&[&few[..], more].concat()));
        let is_told = table.contains("decides on 4 windows beside");
        assert_eq!(is_told, !more.is_empty(), "{table}");
        let object = object(&place, out);
        let evaluations = object["runs"].as_array().unwrap().iter().map(|run| {
            let search = &run["outcome"]["found"]["search"];
            search["window_evaluations"].as_u64().unwrap()
        });
        evaluations.collect::<Vec<_>>()
    };
    let alone = run("alone", &[]);
    let validated = run("validated", &["--validation-windows", "4"]);
    for (strategy, (alone, validated)) in alone.into_iter().zip(validated).enumerate() {
        let is_pdtrim = strategy % 2 == 1;
        assert_eq!(validated > alone, is_pdtrim, "{alone}, {validated}");
    }
    // A text that has no more to give.
    let words = ["trim", "--model", "model", "--strategy", "pdtrim"];
    let error = place.failure(&[&words[..], &["--validation-windows", "100000"]].concat());
    assert!(error.contains("100000 validation windows"), "{error}");
}

#[test]
fn pdtrim_searches_with_pairs_where_it_is_to_be_distilled() {
    let place = Place::new();
    let run = |out: &str, threshold: &str| {
        let words = [
            "compare",
            "--model",
            "model",
            "--strategies",
            "pdtrim",
            "--targets",
            "pd",
            "--counts",
            "2",
            "--windows",
            "2",
            "--window-tokens",
            "16",
            "--seeds",
            "0",
            "--anneal-steps",
            "3",
            "--validation-windows",
            "2",
            "--repairs",
            "none,linear,distill",
            "--pairs",
            "distill",
            "--distill-threshold",
            threshold,
            "--out",
            out,
        ];
        said(&mut place.pdtrim(&words))
    };
    let searches = |out: &str| {
        let object = object(&place, out);
        let runs = object["runs"].as_array().unwrap().iter();
        let searches: Vec<Value> = runs
            .map(|run| run["outcome"]["found"]["search"].clone())
            .collect();
        searches
    };
    let (table, notes) = run("all", "0.0001");
    assert!(notes.contains("train the pairs"), "{notes}");
    assert!(
        table.contains("one block, repaired by distill, in the place of two"),
        "{table}"
    );
    // Costs with pairs are costs of something else.
    let journals = |out: &str| {
        let names = fs::read_dir(place.path(&format!("{out}/.pdtrim"))).unwrap();
        let paths = names.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
            .count()
    };
    assert_eq!(journals("all"), 4);
    let all = searches("all");
    assert_eq!(all[0], all[1]);
    // Killed after the searches, say: the pairs are there.
    fs::remove_file(place.path("all/.pdtrim/run-pdtrim-pd-1-2-distill-seed0.json")).unwrap();
    let (_, notes) = run("all", "0.0001");
    assert!(!notes.contains("pairs: prefill"), "{notes}");
    assert_eq!(searches("all"), all);

    run("none", "1");
    let none = searches("none");
    assert_eq!(none[0], none[2]);
    assert_eq!(journals("none"), 2);
    place.usage(&["compare", "--distill-threshold", "0"]);
}

#[test]
fn a_repaired_row_stands_beside_the_unrepaired_one() {
    let place = Place::new();
    let run = |out: &str| {
        let words = [
            "compare",
            "--model",
            "model",
            "--strategies",
            "sleb,random",
            "--targets",
            "unified,pd",
            "--counts",
            "2",
            "--windows",
            "2",
            "--window-tokens",
            "16",
            "--seeds",
            "0",
            "--repairs",
            "none,linear,distill",
            "--repair-strategies",
            "sleb",
            "--tasks",
            "everyday",
            "--limit",
            "2",
            "--out",
            out,
        ];
        said(&mut place.pdtrim(&words))
    };
    let (table, notes) = run("out");
    assert!(!notes.contains("train the pairs"), "{notes}");
    assert!(
        table.contains("repair s") && table.contains("distill"),
        "{table}"
    );
    let found = object(&place, "out");
    let runs = found["runs"].as_array().unwrap();
    // Three rows of sleb and one of random, for each target.
    assert_eq!(runs.len(), 2 * 4);
    for target in ["unified", "pd"] {
        let of = |repair: Option<&str>| {
            let run = runs.iter().find(|run| {
                let same = run["strategy"] == "sleb" && run["target"] == target;
                same && run["repair"].as_str() == repair
            });
            &run.unwrap()["outcome"]["found"]
        };
        let (none, linear, distill) = (of(None), of(Some("linear")), of(Some("distill")));
        assert!(none.get("repair").is_none());
        for repaired in [linear, distill] {
            assert_eq!(repaired["removed"], none["removed"]);
            assert_eq!(repaired["search"], none["search"]);
            assert!(repaired["repair"]["calibration"]["windows"].as_u64() > Some(0));
            assert_ne!(repaired["held_out"], none["held_out"]);
        }
        assert_ne!(linear["held_out"], distill["held_out"]);
    }
    assert!(read(&place.path("out/compare.html")).contains("Held-out loss, sleb unified"));
    assert!(read(&place.path("out/compare.csv")).contains("sleb,pd,distill"));
    let (_, notes) = run("out");
    assert_eq!(notes.matches("kept from an earlier run").count(), 8);
}

#[test]
fn narrower_blocks_stand_beside_fewer() {
    let place = Place::new();
    let words = [
        "compare",
        "--model",
        "model",
        "--strategies",
        "sleb,flap,llm-pruner",
        "--targets",
        "unified,pd",
        "--counts",
        "2",
        "--windows",
        "2",
        "--window-tokens",
        "16",
        "--seeds",
        "0,1",
        "--repairs",
        "none,linear",
        "--tasks",
        "everyday",
        "--limit",
        "2",
        "--out",
        "out",
    ];
    said(&mut place.pdtrim(&words));
    let found = object(&place, "out");
    let runs = found["runs"].as_array().unwrap();
    // A repair has the shapes of whole blocks.
    assert_eq!(runs.len(), 2 * 2 * (2 + 1 + 1));
    for run in runs.iter().filter(|run| run["strategy"] != "sleb") {
        let one = &run["outcome"]["found"];
        assert_eq!(one["removed"]["decode"], json!([]));
        let width = |stage: &str| one["width"][stage].as_f64().unwrap() / 5.0 / 7680.0;
        let prefill = if run["target"] == "unified" { 0.4 } else { 0.2 };
        // Whole channels, beside heads that are a ninth of a block and more.
        assert!((width("decode") - 0.4).abs() < 0.08, "{run}");
        assert!((width("prefill") - prefill).abs() < 0.08, "{run}");
        let saved = one["saved"]["decode_weight_bytes"]["share"]
            .as_f64()
            .unwrap();
        assert!(saved > 0.2 && saved < 0.4, "{run}");
        assert!(one["held_out"]["rise"].as_f64().unwrap() != 0.0);
    }
    // Without the biases only flap's rows are others; the rest is kept.
    let (_, notes) = said(&mut place.pdtrim(&[&words[..], &["--no-compensation"]].concat()));
    assert_eq!(notes.matches("kept from an earlier run").count(), 12);
    let without = object(&place, "out");
    for (run, other) in runs.iter().zip(without["runs"].as_array().unwrap()) {
        let cost = |run: &Value| run["outcome"]["found"]["held_out"]["cost"].clone();
        let is_other = cost(run) != cost(other);
        assert_eq!(is_other, run["strategy"] == "flap", "{run}");
    }
}
