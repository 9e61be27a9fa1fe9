//! The binary as a user runs it, on a small seeded checkpoint.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/clock.rs"]
mod jumping;
#[path = "../../pdtrim-core/tests/support/tiny_checkpoint.rs"]
mod tiny_checkpoint;

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/compare.rs"]
mod compare;
#[path = "cli/distill.rs"]
mod distill;
#[path = "cli/eval.rs"]
mod eval;
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
#[path = "cli/trim.rs"]
mod trim;
#[path = "cli/usage.rs"]
mod usage;
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
