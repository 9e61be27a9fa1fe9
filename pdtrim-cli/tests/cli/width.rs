//! `pdtrim trim --width`.

use std::fs;

use serde_json::Value;

use super::{Place, read, said};

/// Only widths: no block is removed.
fn narrow<'a>(method: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let words = [
        "--width",
        method,
        "--prefill-count",
        "0",
        "--decode-count",
        "0",
        "--kv-factor",
        "1",
    ];
    [&words[..], more].concat()
}

fn logprobs(place: &Place, model: &str, plan: &[&str]) -> Value {
    place.file("prompt", "5 6 7 8 9 10 11 12");
    place.file("continuation", "20 21 22");
    let words = ["logprobs", "--model", model, "--ids", "--json"];
    let files = [
        "--prompt-file",
        "prompt",
        "--continuation-file",
        "continuation",
    ];
    place.json(&[&words[..], &files, plan].concat())["logprobs"].clone()
}

#[test]
fn a_plan_with_widths_is_run_and_exported() {
    let place = Place::new();
    for method in ["flap", "llm-pruner"] {
        let ratios = ["--prefill-ratio", "0.2", "--decode-ratio", "0.3", "--force"];
        let (table, _) = said(&mut place.trim(&narrow(method, &ratios)));
        assert!(table.contains(&format!("width by {method}")), "{table}");
        let plan = read(&place.path("out/plan.toml"));
        let parsed: toml::Value = toml::from_str(&plan).unwrap();
        assert_eq!(parsed["width"]["method"].as_str(), Some(method));
        let is_compensated = parsed["width"].get("biases").is_some();
        assert_eq!(is_compensated, method == "flap");
        assert!(read(&place.path("out/report.html")).contains("Width of each block"));
        let dense = logprobs(&place, "model", &[]);
        assert_ne!(
            logprobs(&place, "model", &["--plan", "out/plan.toml"]),
            dense
        );

        // One machine runs decode's weights, and so does its export.
        let stage = [
            "export",
            "out/plan.toml",
            "--stage",
            "decode",
            "--out",
            "stage",
            "--force",
        ];
        place.stdout(&stage);
        let config: Value = serde_json::from_str(&read(&place.path("stage/config.json"))).unwrap();
        assert_eq!(config["pdtrim"]["width"]["method"], method);
        assert_eq!(config["mlp_bias"] == true, is_compensated);
        let eval = |more: &[&str]| {
            let words = ["eval", "--tasks", "heldout", "--limit", "2", "--json"];
            let results = place.json(&[&words[..], more].concat());
            let rows = results["results"].as_object().unwrap().values();
            let metrics = rows.flat_map(|row| row.as_object().unwrap().iter());
            let mut perplexity = metrics.filter(|(name, _)| name.starts_with("token_perplexity"));
            perplexity.next().unwrap().1.as_f64().unwrap()
        };
        let exported = eval(&["--model", "stage"]);
        let plan = ["--model", "model", "--plan", "out/plan.toml"];
        let unified = eval(&[&plan[..], &["--mode", "unified"]].concat());
        assert!(
            (exported / unified - 1.0).abs() < 1e-4,
            "{exported}, {unified}"
        );
    }
}

#[test]
fn a_plan_and_its_biases_stay_together() {
    let place = Place::new();
    said(&mut place.trim(&narrow("flap", &["--unified"])));
    fs::write(place.path("out/width.safetensors"), "no").unwrap();
    let words = [
        "generate",
        "w5",
        "--model",
        "model",
        "--plan",
        "out/plan.toml",
    ];
    let error = place.failure(&words);
    assert!(
        error.contains("width.safetensors") && error.contains("sha256:"),
        "{error}"
    );
}

#[test]
fn widths_that_cannot_be_had_are_refused_first() {
    let place = Place::new();
    let base = [
        "trim", "--model", "model", "--width", "flap", "--out", "out",
    ];
    for (more, message) in [
        (
            &["--prefill-ratio", "0.3"][..],
            "must not be above decode-ratio",
        ),
        (&["--decode-ratio", "1"], "decode-ratio must be at least 0"),
        (
            &["--repair", "linear"],
            "width and repair exclude each other",
        ),
        (&["--width", "llm-pruner", "--one-block"], "needs gradients"),
    ] {
        let error = place.failure(&[&base[..], more].concat());
        assert!(error.contains(message), "{error}");
    }
    assert!(!place.path("out/plan.toml").exists());
}
