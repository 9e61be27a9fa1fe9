//! One, two and four threads: every command writes the same bytes, and a seed draws the same text.
//!
//! The models have odd shapes, and one is wide enough for its products, its attention and its vocabulary to be
//! shared out over the threads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../pdtrim-core/tests/support/fake_hub.rs"]
mod fake_hub;
#[path = "support/scene.rs"]
mod scene;
#[path = "support/times.rs"]
mod times;
#[path = "../../pdtrim-core/tests/support/tiny_checkpoint.rs"]
mod tiny_checkpoint;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pdtrim_core::ModelConfig;
use pdtrim_core::config::Architecture;
use pdtrim_core::testing::{TinyModel, tiny_config};
use serde_json::{Value, json};

use scene::{Files, different, files, finished, strays};

const SEARCHES: [&str; 8] = [
    "trim --tasks everyday,heldout --limit 4 --windows 4 --window-tokens 64 --prefill-count 1 \
        --decode-count 2 --strategy pdtrim --out out",
    "trim --tasks heldout --limit 2 --windows 6 --window-tokens 32 --prefill-count 1 --decode-count 2 \
        --race-error 0.05 --repair linear --repair-tokens 128 --out out",
    "trim --tasks heldout --limit 2 --windows 2 --window-tokens 32 --prefill-count 1 --decode-count 2 \
        --repair distill --repair-run-steps 3 --repair-steps 2 --repair-tokens 64 --out out",
    "trim --tasks heldout --limit 2 --windows 2 --window-tokens 32 --prefill-count 0 --decode-count 0 \
        --width llm-pruner --prefill-ratio 0.1 --decode-ratio 0.2 --out out",
    "compare --counts 1 --strategies sleb,pdtrim,shortened-taylor --windows 3 --window-tokens 32 \
        --held-out-windows 2 --tasks everyday --limit 2 --seeds 0 --out out",
    "kv search --factors 2,4 --menus positions,encodings,both,heavy-both --windows 2 --prompt-tokens 48 --continuation-tokens 16 --held-out-windows 2 \
        --tasks everyday --limit 2 --out out",
    "sensitivity --windows 2 --window-tokens 64 --out out",
    "calibrations --sources self,prose --seeds 0 --windows 2 --window-tokens 32 --prefill-count 1 \
        --decode-count 2 --held-out-windows 2 --output out/calibrations.json",
];

const SCORES: [&str; 3] = [
    "eval --decode-remove 1,2 --kv-blocks 0-3 --kv-first 2 --kv-last 4 --kv-heavy 3 --kv-encoding int4 \
        --mode dense,pd,pd+kv --tasks everyday,heldout,passages --limit 8 --out out",
    "eval --dtype bf16 --tasks everyday,heldout --limit 8 --out out",
    "kv needle --decode-remove 1,2 --lengths 96,120 --depths 0.5 --out out",
];

/// Narrower than any vector, and no multiple of anything.
fn odd(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        hidden_size: 20,
        intermediate_size: 26,
        n_blocks: 4,
        n_heads: 3,
        n_kv_heads: 1,
        head_dim: 6,
        vocab_size: 37,
        ..tiny_config(architecture)
    }
}

/// Wide enough to be shared out, and no multiple of anything either.
fn wide() -> ModelConfig {
    ModelConfig {
        hidden_size: 260,
        intermediate_size: 391,
        n_blocks: 4,
        n_heads: 5,
        n_kv_heads: 5,
        head_dim: 52,
        vocab_size: 3001,
        ..tiny_config(Architecture::Mistral)
    }
}

/// What a command leaves, and says where no time is in it.
fn left(place: &Path, words: &str, threads: usize) -> (Files, Vec<u8>) {
    let folder = place.join("run");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir(&folder).unwrap();
    let mut command = pdtrim(&folder, threads);
    command.args(words.split_whitespace());
    command.args(["--model", "../model"]);
    let said = finished(&mut command).stdout;
    let said = if words.starts_with("compare") || words.contains("distill") {
        Vec::new()
    } else {
        said
    };
    (files(&folder), said)
}

fn pdtrim(folder: &Path, threads: usize) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pdtrim"));
    command
        .arg("--quiet")
        .current_dir(folder)
        .env("RAYON_NUM_THREADS", threads.to_string());
    command
}

fn check(config: ModelConfig, commands: &[&[&str]]) {
    let place = tempfile::tempdir().unwrap();
    let shape = format!("{:?}, {} wide", config.architecture, config.hidden_size);
    let model = TinyModel {
        config,
        ..TinyModel::default()
    };
    tiny_checkpoint::write_folder(&place.path().join("model"), &model.build());
    for words in commands.concat() {
        let (alone, said) = left(place.path(), words, 1);
        for threads in [2, 4] {
            let (found, also_said) = left(place.path(), words, threads);
            let at = format!("{shape}, {threads} threads: {words}");
            assert_eq!(different(&found, &alone), [""; 0], "{at}");
            assert_eq!(strays(&found, &alone), [""; 0], "{at}");
            assert!(also_said == said, "{at}: other words");
        }
    }
}

#[test]
fn a_narrow_llama_is_the_same_on_any_number_of_threads() {
    check(odd(Architecture::Llama), &[&SEARCHES[..2], &SCORES[..1]]);
}

#[test]
fn a_narrow_mistral_is_the_same_on_any_number_of_threads() {
    check(odd(Architecture::Mistral), &[&SEARCHES[4..6], &SCORES[..1]]);
}

#[test]
fn a_narrow_qwen_is_the_same_on_any_number_of_threads() {
    check(odd(Architecture::Qwen2), &[&SEARCHES[..1], &SEARCHES[5..6]]);
}

#[test]
fn a_wide_model_is_the_same_on_any_number_of_threads() {
    check(wide(), &[&SEARCHES, &SCORES]);
}

/// A server of one process; killed when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_seed_draws_the_same_text_on_any_number_of_threads() {
    let place = tempfile::tempdir().unwrap();
    let model = TinyModel {
        config: wide(),
        ..TinyModel::default()
    };
    tiny_checkpoint::write_folder(&place.path().join("model"), &model.build());
    let text = |threads| {
        let mut command = pdtrim(place.path(), threads);
        command.args(["serve", "unified", "--model", "model"]);
        command.args(["--listen", "127.0.0.1:0"]);
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut server = Server(child);
        let mut line = String::new();
        let stdout = server.0.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap();
        let body = json!({
            "prompt": "w5 w17 w800 w31", "max_tokens": 60, "temperature": 1.3, "top_p": 0.95, "seed": 11,
        });
        let body = body.to_string();
        let length = body.len();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, answer) = answer.split_once("\r\n\r\n").unwrap();
        let answer: Value = serde_json::from_str(answer).unwrap();
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let alone = text(1);
    assert!(alone.split_whitespace().count() > 20, "{alone}");
    assert_eq!(text(2), alone);
    assert_eq!(text(4), alone);
}
