//! `pdtrim kv search`.

use std::fs;

use serde_json::Value;

use super::{Place, read, said};

const WORDS: [&str; 19] = [
    "kv",
    "search",
    "--model",
    "model",
    "--calibration",
    "self",
    "--windows",
    "2",
    "--held-out-windows",
    "3",
    "--prompt-tokens",
    "40",
    "--continuation-tokens",
    "8",
    "--spans",
    "8,20",
    "--factors",
    "1.5,3,9",
    "--first",
];

const FILES: [&str; 3] = ["front.json", "front.csv", "front.html"];

fn words<'w>(more: &[&'w str]) -> Vec<&'w str> {
    [&WORDS[..], &["2"], more].concat()
}

fn files(place: &Place, out: &str) -> [String; 3] {
    FILES.map(|name| read(&place.path(out).join(name)))
}

#[test]
fn fronts_meet_their_factors_and_every_point_has_a_plan_that_runs() {
    let place = Place::new();
    let (table, notes) = said(&mut place.pdtrim(&words(&[
        "--out", "one", "--tasks", "everyday", "--limit", "3",
    ])));
    for word in [
        "positions and encodings",
        "same encoding everywhere",
        "fewer bytes",
        "everyday",
        "int4",
    ] {
        assert!(table.contains(word), "{table}");
    }
    // In 4 bits and all positions there is no 9 times fewer.
    assert!(
        notes.contains("encodings: no plan for factors above"),
        "{notes}"
    );
    let [object, csv, page] = files(&place, "one");
    let object: Value = serde_json::from_str(&object).unwrap();
    let rows = object["rows"].as_array().unwrap();
    let of = |kind: &str| rows.iter().filter(|row| row["kind"] == kind).count();
    // The shortest span is a fifth of the prompt; bf16 and three encodings.
    assert_eq!(
        ["positions", "both", "same-span", "same-encoding"].map(of),
        [2, 3, 3, 4]
    );
    // Of ThinK's bytes at least half are values.
    assert_eq!(
        ["window", "snap-kv", "ada-kv", "h2o", "think"].map(of),
        [3, 3, 3, 3, 1]
    );
    assert!((1..3).contains(&of("encodings")));
    for row in rows {
        let number = |name: &str| row[name].as_f64().unwrap();
        if let Some(asked) = row["asked"].as_f64() {
            assert!(number("factor") >= asked, "{row}");
        }
        let rise = number("loss") - object["loss_all"].as_f64().unwrap();
        assert!((number("loss_rise") - rise).abs() < 3e-6, "{row}");
        assert!(
            (number("perplexity_rise") - rise.exp_m1()).abs() < 1e-5,
            "{row}"
        );
        assert_eq!(row["tasks"][0]["items"], 3);
    }
    assert_eq!(csv.lines().count(), 1 + rows.len());
    assert!(page.contains("<svg") && page.contains("Bytes against perplexity"));

    // The plan's bytes are those of the row: f32 model, a prompt of 40 positions.
    let row = rows
        .iter()
        .find(|row| row["plan"] == "plan-both-3x.toml")
        .unwrap();
    let prompt: Vec<u32> = (0..40).map(|n| n * 7 % 96).collect();
    place.file("prompt", serde_json::to_string(&prompt).unwrap());
    place.file("continuation", "[20, 21]");
    let scored = place.json(&[
        "logprobs",
        "--model",
        "model",
        "--ids",
        "--json",
        "--prompt-file",
        "prompt",
        "--continuation-file",
        "continuation",
        "--plan",
        "one/plan-both-3x.toml",
    ]);
    assert_eq!(scored["kv_bytes"].as_f64(), row["bytes"].as_f64());
}

#[test]
fn plans_whose_positions_attention_chooses_run_and_count_their_choice() {
    let place = Place::new();
    let menus = [
        "--menus",
        "heavy,heavy-both",
        "--policies",
        "h2o",
        "--out",
        "one",
    ];
    let (table, _) = said(&mut place.pdtrim(&words(&menus)));
    assert!(table.contains("heavy positions and encodings"), "{table}");
    let [object, _, _] = files(&place, "one");
    let object: Value = serde_json::from_str(&object).unwrap();
    let rows = object["rows"].as_array().unwrap();
    let of = |kind: &str| rows.iter().filter(|row| row["kind"] == kind).count();
    assert_eq!(["heavy", "heavy-both", "h2o"].map(of), [2, 3, 3]);
    let plan = rows
        .iter()
        .find(|row| row["plan"] == "plan-heavy-3x.toml")
        .unwrap();
    assert!(read(&place.path("one/plan-heavy-3x.toml")).contains("heavy = "));
    let prompt: Vec<u32> = (0..40).map(|n| n * 7 % 96).collect();
    place.file("prompt", serde_json::to_string(&prompt).unwrap());
    place.file("continuation", "[20, 21]");
    let scored = |more: &[&str]| {
        let words = "logprobs --model model --ids --json --prompt-file prompt --continuation-file continuation";
        let words: Vec<&str> = words.split(' ').chain(more.iter().copied()).collect();
        place.json(&words)
    };
    let by_plan = scored(&["--plan", "one/plan-heavy-3x.toml"]);
    assert_eq!(by_plan["kv_bytes"].as_f64(), plan["bytes"].as_f64());
    // The same flags for every block, without and with positions that attention chooses.
    let flags = "--kv-blocks 0-4 --kv-first 2 --kv-last";
    let flags: Vec<&str> = flags.split(' ').collect();
    let without = scored(&[&flags[..], &["10"]].concat());
    let heavy = scored(&[&flags[..], &["4", "--kv-heavy", "6"]].concat());
    // Five blocks, two heads; of the 34 positions between 2 and 36 a bit each.
    let bytes = |scored: &Value| scored["kv_bytes"].as_u64().unwrap();
    assert_eq!(bytes(&heavy), bytes(&without) + 5 * 2 * 5);
    assert_ne!(heavy["logprobs"], without["logprobs"]);
}

#[test]
fn a_search_starts_from_a_plans_blocks_and_a_killed_one_goes_on() {
    let place = Place::new();
    place.trim(&[]).assert().success();
    let menus = ["--menus", "both", "--plan", "out/plan.toml", "--out", "kv"];
    let (table, _) = said(&mut place.pdtrim(&words(&menus)));
    let before = files(&place, "kv");
    let object: Value = serde_json::from_str(&before[0]).unwrap();
    assert_eq!(
        object["settings"]["removed"]["decode"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let plan = fs::read(place.path("kv/plan-both-3x.toml")).unwrap();
    // As a kill leaves it: a half-written journal, a held-out loss less, no results.
    let state = place.path("kv/.pdtrim");
    let text = read(&state.join("kv.jsonl"));
    fs::write(state.join("kv.jsonl"), &text[..text.len() / 2]).unwrap();
    let loss = fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let loss = loss
        .filter(|path| path.to_string_lossy().contains("held-out"))
        .min()
        .unwrap();
    fs::remove_file(loss).unwrap();
    for name in FILES {
        fs::remove_file(place.path("kv").join(name)).unwrap();
    }
    let (again, _) = said(&mut place.pdtrim(&words(&menus)));
    assert_eq!(again, table);
    assert_eq!(files(&place, "kv"), before);
    assert_eq!(fs::read(place.path("kv/plan-both-3x.toml")).unwrap(), plan);
    assert_eq!(
        read(&state.join("kv.jsonl")).lines().count(),
        text.lines().count()
    );
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let place = Place::new();
    let error = place.failure(&words(&["--factors", "0.5"]));
    assert!(
        error.contains("factors") && error.contains("0.5"),
        "{error}"
    );
    place.usage(&words(&["--encodings", "int3"]));
    place.usage(&words(&["--menus", "all"]));
    let error = place.failure(&words(&["--prompt-tokens", "4000"]));
    assert!(error.contains("128"), "{error}");
}

#[test]
fn prices_may_be_divergences_from_the_dense_model() {
    let place = Place::new();
    let by = |by, out| {
        let menu = [
            "--menus",
            "both",
            "--policies",
            "window",
            "--by",
            by,
            "--out",
            out,
        ];
        said(&mut place.pdtrim(&words(&menu))).1
    };
    let notes = by("divergence", "one");
    assert!(notes.contains("at a divergence of 0."), "{notes}");
    let plan = read(&place.path("one/plan-both-3x.toml"));
    assert!(plan.contains("kv_method = \"divergence\""), "{plan}");
    let front: Value = serde_json::from_str(&read(&place.path("one/front.json"))).unwrap();
    assert!(front.to_string().contains("\"by\":\"divergence\""));
    // What is reported is the loss on other text, whatever chose the plan.
    for row in front["rows"].as_array().unwrap() {
        assert!(row["loss"].as_f64().unwrap() > 1.0, "{row}");
        assert!(row["calibration_loss"].is_null(), "{row}");
    }
    // In the same folder nothing of it is taken for a loss.
    let notes = by("loss", "one");
    assert!(notes.contains("at a loss of"), "{notes}");
    assert!(read(&place.path("one/plan-both-3x.toml")).contains("kv_method = \"loss\""));
    let error = place.failure(&words(&["--by", "divergence", "--max-rise", "2"]));
    assert!(
        error.contains("expected --by loss, found --by divergence"),
        "{error}"
    );
}
