//! A GGUF file that was written is read back as the model and the tokenizer that it was written from.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/tiny_checkpoint.rs"]
mod tiny_checkpoint;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, TensorData};
use half::{bf16, f16};
use pdtrim_core::checkpoint::gguf::{GgufFile, OutputType};
use pdtrim_core::checkpoint::{Checkpoint, StageWeights, seeded};
use pdtrim_core::config::{Architecture, ModelConfig, RopeScaling};
use pdtrim_core::repair::{RepairWeights, StageRepair};
use pdtrim_core::testing::tiny_config;
use pdtrim_core::{BlockId, BlockSet, Error, Stage};
use serde_json::{Value, json};
use tempfile::TempDir;
use tiny_checkpoint::{Tensors, hf_tensors};

const VOCAB: usize = 340;

fn config(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        vocab_size: VOCAB,
        ..tiny_config(architecture)
    }
}

/// A folder with a seeded model and this tokenizer.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new(config: &ModelConfig, tokenizer: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        seeded::write(config, 3, DType::F32, &model).unwrap();
        fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let template = json!({"chat_template": "{{ messages[0].content }}"});
        fs::write(model.join("tokenizer_config.json"), template.to_string()).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self) -> Checkpoint {
        Checkpoint::open(&self.path("model")).unwrap()
    }

    fn export(&self, removed: &[usize], weights: OutputType) -> Result<Checkpoint, Error> {
        let source = self.source();
        let removed = BlockSet::from_indices(5, removed.iter().copied()).unwrap();
        let about = json!({"stage": "decode"});
        let path = self.path("out.gguf");
        source.export_gguf(&removed, &StageRepair::default(), weights, &about, &path)?;
        Checkpoint::open(&path)
    }

    fn refusal(&self, weights: OutputType) -> String {
        let error = self.export(&[], weights).unwrap_err();
        assert!(matches!(error, Error::Export { .. }), "{error}");
        assert!(!self.path("out.gguf").exists());
        let left = fs::read_dir(self.folder.path()).unwrap().count();
        assert_eq!(left, 1, "only the model's folder");
        error.to_string()
    }
}

fn weights(checkpoint: &Checkpoint) -> Tensors {
    hf_tensors(&checkpoint.load(DType::F32, &Device::flex()).unwrap())
}

/// The tensors of a folder without these blocks.
fn without(tensors: &Tensors, removed: &[usize]) -> Tensors {
    let kept: Vec<usize> = (0..5).filter(|block| !removed.contains(block)).collect();
    let renamed = tensors.iter().filter_map(|(name, tensor)| {
        let Some(rest) = name.strip_prefix("model.layers.") else {
            return Some((name.clone(), tensor.clone()));
        };
        let (block, part) = rest.split_once('.').unwrap();
        let layer = kept
            .iter()
            .position(|kept| *kept == block.parse::<usize>().unwrap())?;
        Some((format!("model.layers.{layer}.{part}"), tensor.clone()))
    });
    renamed.collect()
}

/// A byte-level tokenizer with merges for which the rules of cutting matter, and two added tokens.
fn byte_level(normalizer: &Value, pre_tokenizer: &Value) -> Value {
    let mut characters: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
        .into_iter()
        .collect();
    characters.sort_unstable();
    let mut tokens: Vec<String> = characters.iter().map(char::to_string).collect();
    let merges = [
        ("3", "3"),
        ("33", "3"),
        ("333", "3"),
        ("'", "L"),
        ("'L", "L"),
        ("t", "h"),
        ("Ġ", "Ġ"),
        ("Ġ", "w"),
        ("Ì", "ģ"),
        ("e", "Ìģ"),
        ("Ã", "©"),
        ("\u{10a}", "\u{10a}"),
        ("l", "o"),
    ];
    tokens.extend(merges.iter().map(|(left, right)| [*left, right].concat()));
    let added = tokens.len();
    let vocab = tokens.into_iter().enumerate();
    let vocab: serde_json::Map<String, Value> =
        vocab.map(|(id, token)| (token, json!(id))).collect();
    let pairs: Vec<Value> = merges
        .iter()
        .map(|(left, right)| json!([left, right]))
        .collect();
    let token = |id: usize, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [token(added, "<|end|>", true), token(added + 1, "<tool>", false)],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": pairs},
    })
}

fn bytes(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(digits: &str) -> Value {
    let regex = format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

fn smollm() -> Value {
    let digits = json!({"type": "Digits", "individual_digits": true});
    byte_level(
        &Value::Null,
        &json!({"type": "Sequence", "pretokenizers": [digits, bytes(true)]}),
    )
}

const TEXT: &str = "Hello 3333 worlds, we'LL say <|end|> or <tool>\n\n  33 cafe\u{301}s";

fn same_tokens(place: &Place, written: &Checkpoint) {
    let (ours, theirs) = (
        place.source().tokenizer().unwrap(),
        written.tokenizer().unwrap(),
    );
    assert_eq!(theirs.encode(TEXT).unwrap(), ours.encode(TEXT).unwrap());
    let prompt = ours.encode_prompt(TEXT).unwrap();
    assert_eq!(theirs.encode_prompt(TEXT).unwrap(), prompt);
    assert_eq!(
        theirs.decode(&prompt).unwrap(),
        ours.decode(&prompt).unwrap()
    );
}

#[test]
fn wide_weights_come_back_exactly_without_the_removed_blocks() {
    for architecture in [
        Architecture::Llama,
        Architecture::Mistral,
        Architecture::Qwen2,
    ] {
        let place = Place::new(&config(architecture), &smollm());
        let all = weights(&place.source());
        for removed in [&[][..], &[1, 3]] {
            let expected = without(&all, removed);
            let rounded = |round: fn(f32) -> f32| -> Tensors {
                let tensors = expected.iter().map(|(name, (shape, values))| {
                    // Vectors stay in f32.
                    let round = if shape.len() < 2 {
                        |value| value
                    } else {
                        round
                    };
                    let values = values.iter().map(|&value| round(value)).collect();
                    (name.clone(), (shape.clone(), values))
                });
                tensors.collect()
            };
            for (kind, round) in [
                (OutputType::F32, (|value| value) as fn(f32) -> f32),
                (OutputType::F16, |value| f16::from_f32(value).to_f32()),
                (OutputType::BF16, |value| bf16::from_f32(value).to_f32()),
            ] {
                let written = place.export(removed, kind).unwrap();
                assert_eq!(written.config().n_blocks, 5 - removed.len());
                assert_eq!(
                    weights(&written),
                    rounded(round),
                    "{architecture:?} {kind:?}"
                );
            }
        }
    }
}

#[test]
fn q8_0_weights_are_within_half_a_step() {
    for architecture in [Architecture::Llama, Architecture::Qwen2] {
        let place = Place::new(&config(architecture), &smollm());
        let expected = without(&weights(&place.source()), &[2]);
        let written = place.export(&[2], OutputType::Q8_0).unwrap();
        let found = weights(&written);
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>()
        );
        for (name, (shape, values)) in &expected {
            let row = *shape.last().unwrap();
            let quantised = shape.len() > 1 && row.is_multiple_of(32);
            for (block, back) in values.chunks(32).zip(found[name].1.chunks(32)) {
                let largest = block
                    .iter()
                    .fold(0.0_f32, |max, value| max.max(value.abs()));
                let step = largest / 127.0 * (0.5 + 127.0 / 2048.0);
                for (value, back) in block.iter().zip(back) {
                    let exact = if shape.len() > 1 {
                        f16::from_f32(*value).to_f32()
                    } else {
                        *value
                    };
                    let right = if quantised {
                        (value - back).abs() <= step
                    } else {
                        back.to_bits() == exact.to_bits()
                    };
                    assert!(right, "{name}: {value} {back}");
                }
            }
        }
    }
}

#[test]
fn sizes_end_tokens_and_template_come_back() {
    let mut config = config(Architecture::Llama);
    config.rope.theta = 500_000.0;
    config.head_dim = 16;
    config.eos_token_ids = vec![269];
    config.bos_token_id = Some(1);
    config.rope.scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };
    let place = Place::new(&config, &smollm());
    let written = place.export(&[0], OutputType::F16).unwrap();
    let mut expected = place.source().config().clone();
    expected.n_blocks = 4;
    let RopeScaling::Factors(factors) = written.config().rope.scaling.clone() else {
        panic!("{:?}", written.config().rope);
    };
    assert_eq!(factors.len(), 8);
    assert!(factors[0] < 1.001 && factors[7] > 7.999, "{factors:?}");
    expected.rope.scaling = RopeScaling::Factors(factors);
    assert_eq!(written.config(), &expected);
    let template = written.chat_template().unwrap();
    assert_eq!(template.as_deref(), Some("{{ messages[0].content }}"));
    let file = GgufFile::open(place.path("out.gguf")).unwrap();
    let about: &str = file.metadata().required("pdtrim").unwrap();
    assert_eq!(about, r#"{"stage":"decode"}"#);

    config.rope.scaling = RopeScaling::Linear { factor: 4.0 };
    let place = Place::new(&config, &smollm());
    let written = place.export(&[], OutputType::F16).unwrap();
    assert_eq!(written.config(), place.source().config());
}

#[test]
fn every_rule_of_cutting_is_found_by_its_keyword() {
    let nfc = json!({"type": "NFC"});
    let sequence =
        |first: Value| json!({"type": "Sequence", "pretokenizers": [first, bytes(false)]});
    let cases = [
        ("gpt-2", byte_level(&Value::Null, &bytes(true))),
        ("smollm", smollm()),
        ("qwen2", byte_level(&nfc, &sequence(split(r"\p{N}")))),
        (
            "llama-bpe",
            byte_level(&Value::Null, &sequence(split(r"\p{N}{1,3}"))),
        ),
    ];
    for (keyword, tokenizer) in cases {
        let place = Place::new(&config(Architecture::Qwen2), &tokenizer);
        let written = place.export(&[4], OutputType::F32).unwrap();
        let file = GgufFile::open(place.path("out.gguf")).unwrap();
        let found: &str = file.metadata().required("tokenizer.ggml.pre").unwrap();
        assert_eq!(found, keyword);
        same_tokens(&place, &written);
    }
}

/// Llama 2's kind: pieces with `▁`, bytes as a fall-back, BOS before a prompt.
fn sentence_piece(prefix: bool) -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend("▁abcdehlorsw3".chars().map(|c| c.to_string()));
    let merges = [
        ("l", "o"),
        ("▁", "w"),
        ("l", "l"),
        ("h", "e"),
        ("he", "ll"),
        ("hell", "o"),
        ("hel", "lo"),
    ];
    tokens.extend(["lo", "▁w", "ll", "he", "hell", "hello", "hel"].map(str::to_owned));
    let vocab = tokens.into_iter().enumerate();
    let vocab: serde_json::Map<String, Value> =
        vocab.map(|(id, token)| (token, json!(id))).collect();
    let pairs: Vec<Value> = merges
        .iter()
        .map(|(left, right)| json!([left, right]))
        .collect();
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let back = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        back,
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let bos = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": normalizers}, "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [bos, text], "pair": [text],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "vocab": vocab, "merges": pairs, "byte_fallback": true, "fuse_unk": true,
            "unk_token": "<unk>"},
    })
}

#[test]
fn a_sentence_piece_vocabulary_is_written_with_scores() {
    for prefix in [true, false] {
        let mut config = config(Architecture::Llama);
        config.bos_token_id = Some(1);
        config.eos_token_ids = vec![2];
        let place = Place::new(&config, &sentence_piece(prefix));
        let written = place.export(&[], OutputType::F16).unwrap();
        same_tokens(&place, &written);
        let ids = written.tokenizer().unwrap().encode_prompt("hello").unwrap();
        assert_eq!(ids[0], 1, "BOS");
        let file = GgufFile::open(place.path("out.gguf")).unwrap();
        let metadata = file.metadata();
        assert_eq!(
            metadata.required::<&str>("tokenizer.ggml.model").unwrap(),
            "llama"
        );
        let found: bool = metadata
            .required("tokenizer.ggml.add_space_prefix")
            .unwrap();
        assert_eq!(found, prefix);
    }
}

#[test]
fn repaired_weights_take_the_checkpoints_place() {
    let place = Place::new(&config(Architecture::Llama), &smollm());
    let mut repair = RepairWeights::default();
    let name = "mlp.down_proj.weight".to_owned();
    let ones = TensorData::new(vec![0.5_f32; 32 * 48], [32, 48]);
    repair.insert_weights(Stage::Decode, BlockId::new(2), [(name, ones)].into());
    let removed = BlockSet::from_indices(5, [0, 3]).unwrap();
    let path = place.path("repaired.gguf");
    let kind = OutputType::F16;
    let source = place.source();
    source
        .export_gguf(
            &removed,
            repair.of(Stage::Decode),
            kind,
            &Value::Null,
            &path,
        )
        .unwrap();
    let found = weights(&Checkpoint::open(&path).unwrap());
    // Block 2 is the second of those that stay.
    let values = &found["model.layers.1.mlp.down_proj.weight"].1;
    let repaired = vec![0.5; 32 * 48];
    assert_eq!(values, &repaired);
    assert_ne!(found["model.layers.0.mlp.down_proj.weight"].1, repaired);
}

#[test]
fn a_written_file_is_a_source_too_but_not_its_own_target() {
    let place = Place::new(&config(Architecture::Llama), &smollm());
    let written = place.export(&[1], OutputType::F16).unwrap();
    let again = place.path("again.gguf");
    let none = BlockSet::empty(4);
    let repair = StageRepair::default();
    written
        .export_gguf(&none, &repair, OutputType::F16, &Value::Null, &again)
        .unwrap();
    let again = Checkpoint::open(&again).unwrap();
    assert_eq!(weights(&again), weights(&written));
    same_tokens(&place, &again);
    let own = written.path().to_owned();
    for error in [
        written.export_gguf(&none, &repair, OutputType::F32, &Value::Null, &own),
        written.export_onnx(&none, &StageWeights::Own, 4, &own),
    ] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("the checkpoint it is read from"), "{error}");
    }
}

#[test]
fn what_a_file_cannot_hold_is_refused_and_nothing_is_left() {
    let words = tiny_checkpoint::tokenizer_json(96);
    let place = Place::new(&config(Architecture::Llama), &words);
    assert!(
        place
            .refusal(OutputType::F16)
            .contains("\"WordLevel\", expected BPE")
    );

    let whole = json!({"type": "Split", "pattern": {"String": "h"}, "behavior": "Isolated", "invert": false});
    let cuts = json!({"type": "Sequence", "pretokenizers": [whole, bytes(false)]});
    let place = Place::new(
        &config(Architecture::Llama),
        &byte_level(&Value::Null, &cuts),
    );
    assert!(place.refusal(OutputType::F16).contains("none of the rules"));

    let mut biased = config(Architecture::Llama);
    biased.attention_bias = true;
    let place = Place::new(&biased, &smollm());
    assert!(place.refusal(OutputType::F16).contains("attention_bias"));

    let mut scaled = config(Architecture::Qwen2);
    scaled.rope.scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 64,
    };
    let place = Place::new(&scaled, &smollm());
    assert!(place.refusal(OutputType::F16).contains("rope scaling"));

    let place = Place::new(&config(Architecture::Llama), &smollm());
    set_first(&place.path("model"), 1e6);
    let said = place.refusal(OutputType::F16);
    assert!(
        said.contains("1000000") && said.contains("token_embd.weight"),
        "{said}"
    );
    assert!(place.export(&[], OutputType::BF16).is_ok());
}

/// Makes the first value of the weight file, which is one of the embedding, this one.
fn set_first(folder: &Path, value: f32) {
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap());
    let start = 8 + usize::try_from(header).unwrap();
    bytes[start..start + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(&path, bytes).unwrap();
}
