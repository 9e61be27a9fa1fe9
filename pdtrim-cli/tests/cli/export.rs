//! `pdtrim export`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pdtrim_core::ModelConfig;
use pdtrim_core::checkpoint::{Checkpoint, seeded};
use pdtrim_core::config::Architecture;
use pdtrim_core::testing::{TinyModel, tiny_config};
use serde_json::{Value, json};

use super::{Place, read, tiny_checkpoint};

impl Place {
    /// A place whose model has sizes that every form carries.
    fn for_all_forms() -> Self {
        let place = Self::new();
        let config = ModelConfig {
            intermediate_size: 256,
            ..tiny_config(Architecture::Llama)
        };
        let model = TinyModel {
            config,
            ..TinyModel::default()
        };
        tiny_checkpoint::write_folder(&place.path("model"), &model.build());
        place
    }

    /// A plan for the model, by hand.
    fn plan(&self, prefill: &str, decode: &str, more: &str) -> &'static str {
        let hash = Checkpoint::open(&self.path("model")).unwrap().hash();
        let text = format!(
            "version = 1\nmethod = \"manual\"\n{more}\n[model]\nname = \"model\"\nhash = \"{}\"\nblocks = 5\n\
             [removed]\nprefill = [{prefill}]\ndecode = [{decode}]\n",
            hash.unwrap()
        );
        self.file("plan.toml", text);
        "plan.toml"
    }

    fn export(&self, stage: &str, form: &str, out: &str) -> String {
        let words = [
            "export",
            "plan.toml",
            "--stage",
            stage,
            "--form",
            form,
            "--out",
            out,
        ];
        self.stdout(&words)
    }

    fn config(&self, folder: &str) -> Value {
        serde_json::from_str(&read(&self.path(folder).join("config.json"))).unwrap()
    }

    fn logprobs(&self, words: &[&str]) -> Value {
        self.file("prompt", "5 6 7 8 9 10 11 12");
        self.file("continuation", "20 21 22");
        let files = [
            "--prompt-file",
            "prompt",
            "--continuation-file",
            "continuation",
        ];
        let words = [&["logprobs", "--ids", "--json"], &files[..], words].concat();
        self.json(&words)["logprobs"].clone()
    }
}

#[test]
fn stages_are_written_in_each_form() {
    let place = Place::for_all_forms();
    place.plan("1", "1, 3", "");
    let decode = [
        "--model",
        "model",
        "--decode-remove",
        "1,3",
        "--prefill-remove",
        "1,3",
    ];
    let expected = place.logprobs(&decode);
    for (form, blocks) in [("plain", 3), ("identity", 5)] {
        let said = place.export("decode", form, form);
        assert!(said.contains(&format!("{blocks} blocks")), "{said}");
        assert_eq!(place.logprobs(&["--model", form]), expected, "{form}");
        assert_eq!(place.config(form)["num_hidden_layers"], blocks);
    }
    place.export("decode", "noop", "noop");
    let config = place.config("noop");
    assert_eq!(config["architectures"], json!(["DeciLMForCausalLM"]));
    assert_eq!(config["block_configs"][3]["ffn"]["no_op"], true);
    assert!(place.path("noop/configuration_pdtrim.py").is_file());
    let error = place.failure(&["inspect", "noop"]);
    assert!(error.contains("DeciLMForCausalLM"), "{error}");

    place.export("prefill", "plain", "prefill");
    let (prefill, decode) = (place.config("prefill"), place.config("plain"));
    let (prefill, decode) = (&prefill["pdtrim"], &decode["pdtrim"]);
    assert_eq!(prefill["pair"], decode["pair"]);
    assert!(prefill["pair"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(prefill["removed_blocks"], json!([1]));
    assert_eq!(decode["kept_blocks"], json!([0, 2, 4]));
    assert_eq!(
        (&prefill["stage"], &decode["stage"]),
        (&json!("prefill"), &json!("decode"))
    );
    let error = place.failure(&[
        "export",
        "plan.toml",
        "--stage",
        "unified",
        "--out",
        "unified",
    ]);
    assert!(
        error.contains("prefill is without the blocks 1, decode without 1,3")
            && error.contains("--stage prefill"),
        "{error}"
    );
    assert!(!place.path("unified").exists());
    place.plan("1, 3", "1, 3", "");
    place.export("unified", "plain", "unified");
    assert_eq!(place.config("unified")["pdtrim"]["stage"], "unified");
    assert_ne!(place.config("unified")["pdtrim"]["pair"], decode["pair"]);
    assert_eq!(place.logprobs(&["--model", "unified"]), expected);
}

#[test]
fn weights_are_split_as_asked() {
    let place = Place::new();
    place.plan("", "2", "");
    let words = ["export", "plan.toml", "--stage", "decode", "--out", "stage"];
    let said = place.stdout(&[&words[..], &["--max-shard-size", "30KB"]].concat());
    assert!(said.contains(" files"), "{said}");
    assert!(place.path("stage/model.safetensors.index.json").is_file());
    place.logprobs(&["--model", "stage"]);
    place.usage(&[&words[..], &["--max-shard-size", "5 parsecs"]].concat());
}

#[test]
fn what_a_form_or_a_folder_cannot_take_is_refused_and_nothing_is_written() {
    let place = Place::new();
    let before = |place: &Place| fs::read_dir(place.path("")).unwrap().count();
    place.plan("1", "", "kv_fill = \"project\"");
    place.file("file", "");
    fs::create_dir(place.path("full")).unwrap();
    place.file("full/notes", "");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--out", "a"], &["--stage prefill", "--stage unified"]),
        (
            &["--stage", "decode", "--form", "noop", "--out", "a"],
            &["noop", "48", "plain"],
        ),
        (
            &["--stage", "prefill", "--out", "a"],
            &["kv_fill", "identity", "1"],
        ),
        (
            &["--stage", "decode", "--out", "full"],
            &["full", "not empty", "--force"],
        ),
        (
            &["--stage", "decode", "--out", "file", "--force"],
            &["file"],
        ),
        (
            &["--stage", "decode", "--out", "model", "--force"],
            &["model", "read from"],
        ),
    ];
    let held = before(&place);
    for (words, names) in cases {
        let error = place.failure(&[&["export", "plan.toml"], *words].concat());
        for name in *names {
            assert!(
                error.contains(name),
                "{words:?}: `{error}` does not name `{name}`"
            );
        }
        assert_eq!(before(&place), held, "{words:?}");
    }
    let words = [
        "export",
        "plan.toml",
        "--stage",
        "prefill",
        "--form",
        "identity",
        "--out",
        "a",
    ];
    place.stdout(&words);
    let plan = read(&place.path("plan.toml")).replace("sha256:", "sha256:0");
    place.file("other.toml", plan);
    let error = place.failure(&["export", "other.toml", "--stage", "decode", "--out", "b"]);
    assert!(error.contains("the plan is for model"), "{error}");
    assert!(!place.path("b").exists());
}

#[test]
fn the_card_says_what_was_done_and_what_it_costs() {
    let place = Place::new();
    let more = ["--unified", "--decode-count", "2"];
    super::said(&mut place.trim(&more));
    let results: Value = serde_json::from_str(&read(&place.path("out/results.json"))).unwrap();
    let rows = results["pdtrim"]["rows"].as_array().unwrap();
    let of = |mode: &str| {
        let row = rows
            .iter()
            .find(|row| row["mode"] == mode && row["task"] == "everyday");
        let metric = &row.unwrap()["metrics"][0];
        let number = |key: &str| metric[key].as_f64().unwrap();
        format!("{:.4} ± {:.4}", number("value"), number("stderr"))
    };
    let words = [
        "export",
        "out/plan.toml",
        "--stage",
        "unified",
        "--out",
        "stage",
    ];
    let (_, notes) = super::said(&mut place.pdtrim(&words));
    assert!(notes.contains("names no licence"), "{notes}");
    let card = read(&place.path("stage/README.md"));
    let plan: toml::Value = toml::from_str(&read(&place.path("out/plan.toml"))).unwrap();
    for block in plan["removed"]["decode"].as_array().unwrap() {
        assert!(
            card.contains(&format!("| {block} | removed | removed |")),
            "{card}"
        );
    }
    for text in [
        of("dense").as_str(),
        of("unified").as_str(),
        "names none",
        "vllm serve stage",
        "- pdtrim",
        "mergekit_config.yml",
        plan["model"]["hash"].as_str().unwrap(),
    ] {
        assert!(card.contains(text), "{text} is not in\n{card}");
    }
    assert!(
        !card.contains("license:") && !card.contains("base_model:"),
        "{card}"
    );

    // The results of another model say nothing of this one.
    let hash = results["pdtrim"]["run"]["model_sha256"].as_str().unwrap();
    let results = read(&place.path("out/results.json")).replace(hash, "sha256:0");
    place.file("out/results.json", results);
    place.stdout(&[&words[..], &["--force"]].concat());
    assert!(read(&place.path("stage/README.md")).contains("None stand beside the plan"));
    place.file("out/results.json", "{}");
    let error = place.failure(&[&words[..], &["--force"]].concat());
    assert!(error.contains("results.json"), "{error}");
}

#[test]
fn the_licence_of_the_base_is_found_and_carried() {
    let place = Place::new();
    place.file("model/LICENSE", "Do what you like.");
    place.plan("", "2", "");
    place.export("decode", "plain", "by-file");
    let card = read(&place.path("by-file/README.md"));
    assert!(
        card.contains("license: \"other\"\nlicense_link: \"LICENSE\""),
        "{card}"
    );
    assert_eq!(read(&place.path("by-file/LICENSE")), "Do what you like.");
    place.file("model/README.md", "---\nlicense: mit\n---\n");
    let words = [
        "export",
        "plan.toml",
        "--stage",
        "decode",
        "--out",
        "by-card",
    ];
    let (_, notes) = super::said(&mut place.pdtrim(&words));
    assert!(!notes.contains("licence"), "{notes}");
    let card = read(&place.path("by-card/README.md"));
    assert!(card.starts_with("---\nlicense: \"mit\"\n"), "{card}");
}

#[test]
fn mergekits_recipe_is_written_for_what_a_merge_can_make() {
    let place = Place::for_all_forms();
    place.plan("1", "1, 3", "");
    place.export("decode", "plain", "stage");
    let source = |start: usize, end: usize| {
        format!("- sources:\n  - model: \"model\"\n    layer_range: [{start}, {end}]\n")
    };
    let expected = format!(
        "# `model` has to be a Hugging Face folder or id of the base model.\nmerge_method: passthrough\ndtype: float32\nslices:\n{}{}{}",
        source(0, 1),
        source(2, 3),
        source(4, 5)
    );
    assert_eq!(read(&place.path("stage/mergekit_config.yml")), expected);
    for form in ["noop", "identity"] {
        place.export("decode", form, form);
        assert!(!place.path(form).join("mergekit_config.yml").exists());
    }
}

/// Every folder below `place` that opens, by name.
fn checkpoints(place: &Path) -> Vec<String> {
    let entries = fs::read_dir(place).unwrap().flatten();
    let folders = entries.filter(|entry| Checkpoint::open(&entry.path()).is_ok());
    folders
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

#[cfg(unix)]
#[test]
fn a_killed_export_leaves_nothing_that_loads_and_the_next_one_cleans_up() {
    let place = Place::new();
    let config = ModelConfig {
        hidden_size: 512,
        intermediate_size: 2048,
        head_dim: 128,
        vocab_size: 4096,
        ..tiny_config(Architecture::Llama)
    };
    fs::remove_dir_all(place.path("model")).unwrap();
    seeded::write(&config, 1, burn::tensor::DType::BF16, &place.path("model")).unwrap();
    let words = ["export", "model", "--out", "stage"];
    let left = || {
        let entries = fs::read_dir(place.path("")).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        let marked = names.filter(|name| name.starts_with(".stage.pdtrim-export-"));
        marked.collect::<Vec<_>>()
    };
    let mut killed = 0;
    let binary = assert_cmd::cargo::cargo_bin("pdtrim");
    for delay in [0, 1, 4, 16, 64] {
        let before = left();
        let mut child = std::process::Command::new(&binary)
            .current_dir(place.path(""))
            .args(words)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        // The run deletes what the last one left and makes a folder of its own.
        while left().iter().all(|name| before.contains(name)) {
            if child.try_wait().unwrap().is_some() || start.elapsed() > Duration::from_mins(1) {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if status.success() {
            // It was faster than the delay.
            assert_eq!(checkpoints(&place.path("")).len(), 2);
            fs::remove_dir_all(place.path("stage")).unwrap();
        } else {
            killed += 1;
            assert_eq!(checkpoints(&place.path("")), ["model"]);
            assert!(!place.path("stage").exists());
            assert!(left().len() <= 1, "the run before left {:?}", left());
        }
    }
    assert!(killed > 0, "no run was killed before it was done");
    // In a folder that is there already a temporary one lies inside.
    fs::create_dir_all(place.path("inside/.pdtrim-export-aaaa")).unwrap();
    place.stdout(&["export", "model", "--out", "inside"]);
    assert!(!place.path("inside/.pdtrim-export-aaaa").exists());
    assert!(Checkpoint::open(&place.path("inside")).is_ok());
    place.stdout(&words);
    assert_eq!(left(), Vec::<String>::new());
    assert_eq!(
        Checkpoint::open(&place.path("stage")).unwrap().config(),
        &config
    );
}
