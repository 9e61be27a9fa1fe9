//! Every file of the fuzzers' corpus through its target, inputs of the limits' own size, and what writes the corpus:
//!
//! ```text
//! cargo test --release --test fuzz_corpus -- --ignored write
//! ```

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "says what each input took")]

#[path = "support/gguf_writer.rs"]
#[allow(dead_code, reason = "the reader's unit tests use all of it")]
mod gguf_writer;
#[path = "support/mutations.rs"]
mod mutations;
#[path = "support/seeds.rs"]
mod seeds;
#[path = "../fuzz/src/lib.rs"]
#[allow(
    unreachable_pub,
    dead_code,
    reason = "it is a library beside the fuzz targets"
)]
mod targets;

use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gguf_writer::GgufWriter;
use mutations::Mutations;
use pdtrim_core::checkpoint::Checkpoint;
use pdtrim_core::import::{BlockSource, StageFolder};
use pdtrim_core::{Error, Plan, limits};

type Target = fn(&[u8]);

/// What is read, and the function that reads it.
const TARGETS: [(&str, Target); 4] = [
    ("gguf", targets::gguf),
    ("folder", targets::folder),
    ("plan", targets::plan),
    ("import", targets::import),
];

/// What any refused file may take beside twice its size; the limits pay for it.
const FIXED_BYTES: usize = 192 << 20;

/// The allocator counts for the whole process, so tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

/// The seeds of a target, in the order of their names.
fn files(target: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(corpus(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{target} has {} seeds", files.len());
    files
}

#[test]
fn no_file_of_the_corpus_panics_or_takes_more_than_its_bound() {
    let _turn = alone();
    for (name, target) in TARGETS {
        for file in files(name) {
            eprintln!("{}", file.display());
            target(&fs::read(file).unwrap());
        }
    }
}

/// `PDTRIM_MUTATIONS` says how many of each seed; a failing one is kept in the temporary folder.
#[test]
fn no_changed_file_of_the_corpus_does_either() {
    let _turn = alone();
    let n: u64 = std::env::var("PDTRIM_MUTATIONS").map_or(20, |n| n.parse().unwrap());
    let kept = std::env::temp_dir().join(concat!(env!("CARGO_PKG_NAME"), "-mutation"));
    for (name, target) in TARGETS {
        for (place, file) in (0..).zip(files(name)) {
            let seed = fs::read(&file).unwrap();
            let mut mutations = Mutations::new(place);
            for _ in 0..n {
                let bytes = mutations.of(&seed);
                fs::write(&kept, &bytes).unwrap();
                let ran = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
                assert!(
                    ran.is_ok(),
                    "{name}: a change of {}: {}",
                    file.display(),
                    kept.display()
                );
            }
        }
    }
    fs::remove_file(kept).unwrap();
}

#[test]
#[ignore = "replaces the seeds in fuzz/corpus"]
fn write() {
    for (target, seeds) in seeds::all() {
        let folder = corpus(target);
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
}

/// Opens what `write` makes of a folder; the error's text must have `expected` in it.
fn refused(what: &str, expected: &str, len: usize, open: impl FnOnce() -> Result<(), Error>) {
    let mut said = String::new();
    let taken = targets::bounded(len, FIXED_BYTES, || {
        said = open()
            .err()
            .map_or_else(String::new, |error| said_by(&error));
    });
    eprintln!("{what}: {len} bytes took {taken}");
    assert!(said.contains(expected), "{what}: `{expected}` in: {said}");
}

/// An error and what it came from.
fn said_by(error: &dyn std::error::Error) -> String {
    let source = error.source().map(said_by).unwrap_or_default();
    format!("{error}: {source}")
}

fn gguf_refused(what: &str, expected: &str, bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    refused(what, expected, bytes.len(), || {
        Checkpoint::open(file.path())?.tokenizer().map(drop)
    });
}

#[test]
fn headers_of_gguf_files_as_large_as_the_limits_allow_stay_within_the_bound() {
    let _turn = alone();
    let strings = GgufWriter::new().array("a", 8, 1 << 21, &vec![0; 8 << 21]);
    let cut = strings.pair("b", 8, &u64::MAX.to_le_bytes()).build();
    gguf_refused("empty strings", "metadata value at byte", &cut);

    let mut texts = Vec::new();
    for _ in 0..1 << 20 {
        texts.extend(24_u64.to_le_bytes());
        texts.extend([b'x'; 24]);
    }
    let strings = GgufWriter::new().array("a", 8, 1 << 20, &texts);
    let cut = strings.pair("b", 8, &u64::MAX.to_le_bytes()).build();
    gguf_refused("strings", "metadata value at byte", &cut);

    let mut pairs = GgufWriter::new();
    for n in 0..1 << 12 {
        pairs = pairs.bool(&format!("{n:x}"), true);
    }
    gguf_refused("pairs", "general.architecture", &pairs.build());

    let mut tensors = GgufWriter::new();
    for n in 0..1 << 16 {
        tensors = tensors.tensor_info(&format!("{n:x}"), &[1 << 40; 1], 0, 0);
    }
    gguf_refused("tensors", "of a data section", &tensors.build());

    let numbers = GgufWriter::new().array("a", 0, 32 << 20, &vec![7; 32 << 20]);
    let cut = numbers.pair("b", 13, &[]).build();
    gguf_refused("bytes", "value type 13", &cut);

    let factors = GgufWriter::new()
        .string("general.architecture", "llama")
        .u32("llama.embedding_length", 8)
        .u32("llama.attention.head_count", 2)
        .u32("llama.feed_forward_length", 8)
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 8)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .tensor("token_embd.weight", &[8, 4], 0, &[0; 128])
        .tensor("rope_freqs.weight", &[1 << 25], 2, &vec![0; 18 << 20]);
    gguf_refused("frequencies", "expected at most 8192", &factors.build());
}

/// A folder with one file more than a small model's.
fn folder_refused(what: &str, expected: &str, name: &str, text: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    seeds::write_model(folder.path());
    fs::write(folder.path().join(name), text).unwrap();
    refused(what, expected, text.len(), || {
        let checkpoint = Checkpoint::open(folder.path())?;
        checkpoint.chat_template()?;
        checkpoint.listing()?;
        checkpoint.tokenizer().map(drop)
    });
}

/// `before`, as many numbers as there is room for, and `after`.
fn numbers(len: u64, before: &str, after: &str) -> Vec<u8> {
    let n = (len as usize - before.len() - after.len()) / 2;
    [before, &"0,".repeat(n), after].concat().into_bytes()
}

#[test]
fn folders_with_files_as_large_as_the_limits_allow_stay_within_the_bound() {
    let _turn = alone();
    let over = numbers(limits::CONFIG.0 + 2, "[", "0]");
    folder_refused("config", "expected at most", "config.json", &over);
    let list = numbers(limits::CONFIG_VALUES.0, "{\"eos_token_id\": [", "x]}");
    folder_refused("ends", "expected value", "config.json", &list);
    let list = numbers(limits::CONFIG.0, "{\"chat_template\": [", "0]}");
    folder_refused("templates", "did not match", "tokenizer_config.json", &list);
    let list = numbers(limits::CONFIG.0, "{\"eos_token_id\": [", "x]}");
    folder_refused(
        "more ends",
        "expected value",
        "generation_config.json",
        &list,
    );

    let mut index = "{\"weight_map\": {".to_owned();
    for n in 0.. {
        if index.len() as u64 > limits::INDEX.0 - 32 {
            break;
        }
        write!(index, "\"{n:x}\":\"\",").unwrap();
    }
    index.push_str("\"x\":\"\"}}");
    let name = "model.safetensors.index.json";
    folder_refused("index", "weight_map", name, index.as_bytes());

    let header = |text: Vec<u8>| [(text.len() as u64).to_le_bytes().to_vec(), text].concat();
    let limit = limits::SAFETENSORS_HEADER.0;
    let name = "model.safetensors";
    let list = header(numbers(limit, "{\"x\": [", "0]}"));
    folder_refused("header", "not a usable safetensors file", name, &list);
    let over = header(numbers(limit + 2, "{\"x\": [", "0]}"));
    folder_refused(
        "a longer header",
        "a header of at most 4194304",
        name,
        &over,
    );
    let mut tensors = "{".to_owned();
    for n in 0.. {
        if tensors.len() as u64 > limit - 80 {
            break;
        }
        let entry = "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
        write!(tensors, "\"{n:x}\":{entry},").unwrap();
    }
    tensors.replace_range(tensors.len() - 1.., "}");
    let tensors = header(tensors.into_bytes());
    folder_refused("tensors", "expected at most 65536 tensors", name, &tensors);

    let values = numbers(2 * limits::TOKENIZER_VALUES + 20, "{\"model\": [", "0]}");
    folder_refused(
        "values",
        "expected at most 4194304 JSON values",
        "tokenizer.json",
        &values,
    );
}

#[test]
fn plans_as_large_as_the_limits_allow_stay_within_the_bound() {
    let _turn = alone();
    let plan_refused = |what: &str, expected: &str, text: &[u8]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        refused(what, expected, text.len(), || {
            Plan::read(file.path()).map(drop)
        });
    };
    let tokens = limits::TOML_TOKENS as u64;
    let list = numbers(tokens - 20, "version = [", "0]");
    plan_refused("tokens", "is not the expected TOML", &list);
    plan_refused(
        "more tokens",
        "TOML tokens",
        &numbers(2 * tokens, "x = [", "0]"),
    );
    let tables = "[[kv]]\n".repeat(limits::TOML_TOKENS / 6 - 1);
    plan_refused("tables", "is not the expected TOML", tables.as_bytes());
    let deep = ["x = ", &"[".repeat(100_000)].concat();
    plan_refused(
        "lists in lists",
        "is not the expected TOML",
        deep.as_bytes(),
    );
    let text = ["x = \"", &"a".repeat(limits::PLAN.0 as usize - 10), "\""].concat();
    plan_refused("a text", "is not the expected TOML", text.as_bytes());
}

#[test]
fn recipes_as_large_as_the_limits_allow_stay_within_the_bound() {
    let _turn = alone();
    let recipe_refused = |name: &str, expected: &str, text: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        refused(name, expected, text.len(), || match name {
            "config.json" => StageFolder::read(folder.path(), 8).map(drop),
            _ => BlockSource::read(&path, 8).map(drop),
        });
    };
    let limit = limits::RECIPE.0;
    recipe_refused("x.yml", "x.yml", &numbers(limit, "models: [", "0]"));
    recipe_refused(
        "x.yml",
        "x.yml",
        "- x\n".repeat(limit as usize / 4).as_bytes(),
    );
    recipe_refused("x.txt", "block 0 twice", &numbers(limit, "[", "0]"));
    let values = numbers(limits::CONFIG_VALUES.0, "{\"a\": [", "0]}");
    recipe_refused("config.json", "`pdtrim`", &values);
}
