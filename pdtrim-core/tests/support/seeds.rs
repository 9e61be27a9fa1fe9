//! Seeds of the fuzzers' corpus: small right files, and wrong ones of each kind of refusal.

use std::fs;
use std::path::Path;

use burn::tensor::{DType, Device};
use pdtrim_core::checkpoint::gguf::OutputType;
use pdtrim_core::checkpoint::{Checkpoint, seeded};
use pdtrim_core::config::Architecture;
use pdtrim_core::repair::{RepairWeights, StageRepair};
use pdtrim_core::testing::tiny_config;
use pdtrim_core::{BlockId, BlockSet, ModelConfig, Stage};
use serde_json::Value;

use crate::gguf_writer::GgufWriter;
use crate::targets::{HASH, SEPARATOR};

/// Names and contents of one target's seeds.
type Seeds = Vec<(String, Vec<u8>)>;

/// The seeds of every target.
pub(crate) fn all() -> [(&'static str, Seeds); 4] {
    [
        ("gguf", gguf()),
        ("folder", folder()),
        ("plan", plan()),
        ("import", import()),
    ]
}

/// A model of two blocks with the 256 bytes as its tokens.
fn config(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        hidden_size: 8,
        intermediate_size: 8,
        n_blocks: 2,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 4,
        vocab_size: 256,
        ..tiny_config(architecture)
    }
}

/// A folder that loads.
pub(crate) fn write_model(folder: &Path) {
    write_folder(Architecture::Llama, folder);
}

fn write_folder(architecture: Architecture, folder: &Path) {
    seeded::write(&config(architecture), 1, DType::BF16, folder).unwrap();
}

fn named(name: &str, bytes: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.to_owned(), bytes.into())
}

fn gguf() -> Seeds {
    let mut seeds = Vec::new();
    for (name, architecture, weights) in [
        ("llama-f32", Architecture::Llama, OutputType::F32),
        ("qwen2-bf16", Architecture::Qwen2, OutputType::BF16),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("model");
        write_folder(architecture, &source);
        let checkpoint = Checkpoint::open(&source).unwrap();
        let path = folder.path().join("model.gguf");
        let none = BlockSet::empty(2);
        let export =
            checkpoint.export_gguf(&none, &StageRepair::default(), weights, &Value::Null, &path);
        export.unwrap();
        seeds.push(named(name, fs::read(&path).unwrap()));
    }
    let whole = seeds[0].1.clone();
    seeds.push(named("cut-in-the-header", &whole[..whole.len() / 4]));
    seeds.push(named("cut-in-the-data", &whole[..whole.len() - 40]));
    seeds.push(named("not-gguf", "GGML and no more"));
    seeds.push(named("big-endian", *b"GGUF\0\0\0\x03"));
    let huge = [b"GGUF\x03\0\0\0".as_slice(), &[0xff; 16]].concat();
    seeds.push(named("huge-counts", huge));
    let refused = [
        ("value-type", GgufWriter::new().pair("a", 13, &[0; 8])),
        ("boolean", GgufWriter::new().pair("a", 7, &[2])),
        (
            "no-utf8",
            GgufWriter::new().pair("a", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]),
        ),
        ("key-twice", GgufWriter::new().u32("a", 1).u32("a", 1)),
        ("nested-array", GgufWriter::new().array("a", 9, 1, &[0; 12])),
        ("long-array", GgufWriter::new().array("a", 8, u64::MAX, &[])),
        ("alignment", GgufWriter::new().u32("general.alignment", 3)),
        ("rank", GgufWriter::new().tensor_info("t", &[1; 5], 0, 0)),
        ("zero", GgufWriter::new().tensor_info("t", &[0], 0, 0)),
        (
            "overflow",
            GgufWriter::new().tensor_info("t", &[1 << 32; 3], 0, 0),
        ),
        (
            "beyond",
            GgufWriter::new().tensor_info("t", &[1 << 40], 0, 0),
        ),
        ("misaligned", GgufWriter::new().tensor_info("t", &[1], 0, 1)),
        ("row", GgufWriter::new().tensor("t", &[3], 2, &[0; 18])),
        ("type", GgufWriter::new().tensor("t", &[3], 99, &[0; 18])),
        (
            "overlap",
            GgufWriter::new()
                .tensor("t", &[8], 0, &[0; 32])
                .tensor_info("u", &[8], 0, 0),
        ),
        (
            "tensor-twice",
            GgufWriter::new()
                .tensor("t", &[8], 0, &[0; 32])
                .tensor("t", &[8], 0, &[0; 32]),
        ),
        (
            "unknown-architecture",
            GgufWriter::new().string("general.architecture", "gpt2"),
        ),
        ("every-type", every_type()),
        (
            "sentence-piece",
            small(sentence_piece(&["<unk>", "▁", "a", "▁a", "<0x0A>", "</s>"])),
        ),
        (
            "chain-of-pieces",
            small(sentence_piece(&[
                "a", "aa", "aaa", "aaaa", "aaaaa", "aaaaaa",
            ])),
        ),
    ];
    seeds.extend(refused.map(|(name, writer)| named(name, writer.build())));
    seeds
}

/// A tokenizer of six pieces.
fn sentence_piece(tokens: &[&str; 6]) -> GgufWriter {
    GgufWriter::new()
        .string("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", tokens)
        .f32s("tokenizer.ggml.scores", &[0.0, -1.0, -2.0, -3.0, 0.0, 0.0])
        .i32s("tokenizer.ggml.token_type", &[2, 1, 1, 1, 6, 3])
        .u32("tokenizer.ggml.bos_token_id", 5)
        .u32("tokenizer.ggml.eos_token_id", 5)
}

/// The config of a model of one block and six tokens, without most of its tensors.
fn small(writer: GgufWriter) -> GgufWriter {
    writer
        .string("general.architecture", "llama")
        .u32("llama.embedding_length", 4)
        .u32("llama.attention.head_count", 1)
        .u32("llama.feed_forward_length", 4)
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 8)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .tensor("token_embd.weight", &[4, 6], 0, &[0; 96])
        .tensor("rope_freqs.weight", &[2], 0, &[0; 8])
}

/// A tensor of every type that can be read, and arrays of every type.
fn every_type() -> GgufWriter {
    let mut writer = GgufWriter::new();
    for (kind, width) in [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 4),
        (5, 4),
        (6, 4),
        (7, 1),
        (10, 8),
        (11, 8),
        (12, 8),
    ] {
        writer = writer.array(&format!("a{kind}"), kind, 2, &vec![1; 2 * width]);
    }
    let types = [
        (0, 1, 4),
        (1, 1, 2),
        (2, 32, 18),
        (3, 32, 20),
        (6, 32, 22),
        (7, 32, 24),
        (8, 32, 34),
        (12, 256, 144),
        (13, 256, 176),
        (14, 256, 210),
        (30, 1, 2),
    ];
    for (kind, values, bytes) in types {
        writer = writer.tensor(&format!("t{kind}"), &[values], kind, &vec![0x3c; bytes]);
    }
    writer
}

/// The files of a folder in the order of its target.
fn joined(config: &str, index: &str, tokenizer: &str, templates: &str, weights: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in [config, index, tokenizer, templates] {
        all.extend(part.as_bytes());
        all.extend(SEPARATOR);
    }
    all.extend(weights);
    all
}

#[expect(clippy::too_many_lines, reason = "a list of files")]
fn folder() -> Seeds {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let weights = fs::read(folder.path().join("model.safetensors")).unwrap();
    let (config, tokenizer) = (text("config.json"), text("tokenizer.json"));
    let template = r#"{"chat_template": [{"name": "default", "template": "{{ messages }}"}]}"#;
    let index = r#"{"weight_map": {"model.norm.weight": "model.safetensors"}}"#;
    let words = r#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"WhitespaceSplit"},
        "model":{"type":"WordLevel","vocab":{"a":0,"word":1},"unk_token":"a"}}"#;
    let set = |from: &str, to: &str| {
        let compact: Value = serde_json::from_str(&config).unwrap();
        let compact = compact.to_string();
        assert!(compact.contains(from), "{from} in {compact}");
        compact.replace(from, to)
    };
    let with = |config: &str| joined(config, "", words, "", &weights);
    // Refused before the weights are looked at.
    let start = &weights[..64];
    let early = |config: &str| joined(config, "", words, "", start);
    let header = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let weights_of = |bytes: &[u8]| joined(&config, "", words, "", bytes);
    vec![
        named(
            "whole",
            joined(&config, index, &tokenizer, template, &weights),
        ),
        named(
            "words",
            joined(&config, "", words, r#"{"chat_template": "x"}"#, &weights),
        ),
        named("no-weights", joined(&config, "", "", "", &[])),
        named("empty", ""),
        named("config-cut", early(&config[..config.len() / 2])),
        named(
            "huge-model",
            with(&set("\"vocab_size\":256", "\"vocab_size\":16777216")),
        ),
        named(
            "deep-model",
            with(&set(
                "\"num_hidden_layers\":2",
                "\"num_hidden_layers\":4096",
            )),
        ),
        named(
            "deeper-model",
            early(&set(
                "\"num_hidden_layers\":2",
                "\"num_hidden_layers\":4097",
            )),
        ),
        named(
            "overflow",
            early(&set(
                "\"hidden_size\":8",
                "\"hidden_size\":18446744073709551615",
            )),
        ),
        named(
            "no-heads",
            early(&set(
                "\"num_attention_heads\":2",
                "\"num_attention_heads\":0",
            )),
        ),
        named(
            "long-context",
            with(&set(
                "\"max_position_embeddings\":128",
                "\"max_position_embeddings\":1073741824",
            )),
        ),
        named(
            "index-of-another-folder",
            joined(&config, r#"{"weight_map": {"a": "../x"}}"#, "", "", start),
        ),
        named(
            "index-of-nothing",
            joined(&config, r#"{"weight_map": {}}"#, "", "", start),
        ),
        named("header-too-long", weights_of(&[0xff; 16])),
        named("header-no-json", weights_of(&header("{\"a\":"))),
        named(
            "tensor-overflow",
            weights_of(&header(
                r#"{"a":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,4]}}"#,
            )),
        ),
        named(
            "tensor-beyond",
            weights_of(&header(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            )),
        ),
        named(
            "tensor-of-another-type",
            weights_of(&header(
                r#"{"a":{"dtype":"F8_E4M3","shape":[0],"data_offsets":[0,0]}}"#,
            )),
        ),
        named(
            "tensor-of-nothing",
            weights_of(&header(
                r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
            )),
        ),
        named(
            "prefix-longer-than-a-merge",
            joined(
                &config,
                "",
                r#"{"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"],"continuing_subword_prefix":"long"}}"#,
                "",
                &weights,
            ),
        ),
        named(
            "vocabulary-too-large",
            joined(
                &config,
                "",
                r#"{"model":{"type":"WordLevel","vocab":{"a":999},"unk_token":"a"}}"#,
                "",
                &weights,
            ),
        ),
    ]
}

const PLAN: &str = r#"version = 1
method = "manual"
[model]
name = "tiny"
hash = "sha256:0"
blocks = 5
[removed]
prefill = [2]
decode = [2, 3]
"#;

fn plan() -> Seeds {
    let change = |from: &str, to: &str| {
        assert!(PLAN.contains(from), "{from}");
        PLAN.replace(from, to)
    };
    let folder = tempfile::tempdir().unwrap();
    let mut repair = RepairWeights::default();
    let down_proj = burn::tensor::Tensor::<2>::zeros([32, 48], &Device::flex());
    repair.insert(Stage::Decode, BlockId::new(1), down_proj);
    let file = repair.write(folder.path()).unwrap();
    let weights = fs::read(folder.path().join(&file.name)).unwrap();
    let repaired = change("method", "repair = \"linear\"\nmethod");
    let repaired = format!(
        "{repaired}[repair_file]\nname = \"{}\"\nsha256 = \"{HASH}\"\n",
        file.name
    );
    let beside = |text: &str, weights: &[u8]| [text.as_bytes(), SEPARATOR, weights].concat();
    let narrow = r#"[width]
method = "flap"
groups = 2
channels = 48
[width.biases]
name = "width.safetensors"
sha256 = "@sha256@"
[[width.blocks]]
stage = "decode"
block = 1
removed_groups = [1]
removed_channels = "4,17-19"
"#;
    let header = r#"{"decode.layers.1.mlp.down_proj.bias":{"dtype":"F32","shape":[32],"data_offsets":[0,128]}}"#;
    let biases = [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        &[0; 128],
    ]
    .concat();
    vec![
        named("small", PLAN),
        named(
            "kv",
            with_text("[[kv]]\nblocks = [0, 4]\nfirst = 4\nlast = 8\nencoding = \"int8\"\n"),
        ),
        named(
            "kv-heavy",
            with_text("[[kv]]\nblocks = [1]\nfirst = 1\nlast = 2\nheavy = 9223372036854775807\n"),
        ),
        named(
            "scores",
            with_text(
                "[[scores]]\ntask = \"heldout\"\nmode = \"pd\"\nmetric = \"acc\"\nvalue = nan\n",
            ),
        ),
        named("repaired", beside(&repaired, &weights)),
        named("repaired-by-nothing", beside(&repaired, &[])),
        named(
            "repair-cut",
            beside(&repaired, &weights[..weights.len() / 2]),
        ),
        named("narrow", beside(&with_text(narrow), &biases)),
        named(
            "wide-ranges",
            with_text(&narrow.replace("4,17-19", "0-4194303,0-4194303")),
        ),
        named("deep", change("blocks = 5", "blocks = 9223372036854775807")),
        named("block-beyond", change("[2, 3]", "[2, 70000]")),
        named("all-removed", change("[2, 3]", "[0, 1, 2, 3, 4]")),
        named("not-nested", change("prefill = [2]", "prefill = [0]")),
        named("negative", change("[2, 3]", "[-1]")),
        named("another-version", change("version = 1", "version = 2")),
        named(
            "pairs",
            change("method", "repair = \"distill\"\nmethod")
                + "[pairs]\nprefill = [65535]\ndecode = [1]\n[repair_file]\nname = \"repair.safetensors\"\nsha256 = \"@sha256@\"\n",
        ),
        named("lists-in-lists", format!("x = {}", "[".repeat(2000))),
        named("no-toml", "version = = 1"),
    ]
}

fn with_text(more: &str) -> String {
    format!("{PLAN}{more}")
}

fn import() -> Seeds {
    let merge = "slices:\n  - sources:\n      - model: org/name\n        layer_range: [0, 4]\n  \
        - sources:\n      - model: org/name\n        layer_range: [5, 8]\nmerge_method: passthrough\n";
    let folder = r#"{"pdtrim": {"stage": "decode", "base_model": "m", "base_hash": "sha256:0", "method": "sleb",
        "removed_blocks": [1, 6], "repair": "none", "kv": [{"blocks": [2, 3], "first": 4, "last": 8}]}}"#;
    // Each list has the one before it six times.
    let aliases = ["b", "c", "d", "e", "f", "g", "h", "i", "j"].windows(2);
    let aliases = aliases.fold("a: &b [x]\n".to_owned(), |text, pair| {
        let before = vec![format!("*{}", pair[0]); 6].join(",");
        format!("{text}{0}: &{0} [{before}]\n", pair[1])
    });
    vec![
        named("mergekit", merge),
        named(
            "mergekit-table",
            merge.replace(
                "- model: org/name",
                "- model: {model: {path: a, revision: b}}",
            ),
        ),
        named(
            "mergekit-scaled",
            format!("{merge}parameters:\n  scale: 0.5\n"),
        ),
        named(
            "mergekit-beyond",
            merge.replace("[5, 8]", "[5, 9223372036854775807]"),
        ),
        named(
            "mergekit-negative",
            merge.replace("[0, 4]", "[-9223372036854775808, 4]"),
        ),
        named("aliases", format!("{aliases}{merge}")),
        named("nested", "[".repeat(3000)),
        named("nested-maps", "a: {".repeat(1000)),
        named(
            "sleb",
            "Model Name: org/name\n# Total Blocks: 8\nBlock Removal Order: [5, 2, 6]\n",
        ),
        named("list", "[5, 2, 6]"),
        named("list-beyond", "5 2 18446744073709551615"),
        named("list-twice", "[3, 1, 3]"),
        named("stage-folder", folder),
        named("stage-folder-beyond", folder.replace("[1, 6]", "[70000]")),
        named("empty", ""),
    ]
}
