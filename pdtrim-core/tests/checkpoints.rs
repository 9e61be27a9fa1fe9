//! What a checkpoint gives, and what each broken one is refused with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/gguf_writer.rs"]
#[allow(dead_code, reason = "the reader's unit tests use all of it")]
mod gguf_writer;
#[path = "support/tiny_checkpoint.rs"]
mod tiny_checkpoint;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{DType, Device};
use gguf_writer::GgufWriter;
use pdtrim_core::checkpoint::{Checkpoint, ExportSettings, ExportStage, StageWeights, seeded};
use pdtrim_core::config::{Architecture, RopeScaling};
use pdtrim_core::model::{Llama, MlpOutput};
use pdtrim_core::objective::{Calibration, CalibrationLoss, Objective, Rows};
use pdtrim_core::pipeline::{PdModel, SendAll};
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::testing::{TinyModel, tiny_config};
use pdtrim_core::{
    BlockId, BlockSet, Boundary, Error, KvFill, ModelConfig, PerStage, Stage, TokenScore,
};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use tiny_checkpoint::{
    hf_config, hf_tensors, safetensors, tokenizer_json, write_folder, write_parts,
};

fn tiny(architecture: Architecture) -> Llama {
    TinyModel {
        config: tiny_config(architecture),
        ..TinyModel::default()
    }
    .build()
}

fn scores(model: &Llama, removed: BlockSet) -> Vec<TokenScore> {
    let pd = PdModel::new(
        model,
        PerStage::both(removed),
        KvFill::Nested,
        Boundary::Prefill,
        &SendAll,
    )
    .unwrap();
    pd.score(&[5, 6, 7, 8], &[[9, 10, 11]])
        .unwrap()
        .continuations
        .remove(0)
        .tokens
}

fn assert_close(found: &[TokenScore], expected: &[TokenScore], tolerance: f32) {
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found.logprob - expected.logprob).abs() <= tolerance,
            "{found:?}, expected {expected:?}"
        );
    }
}

fn load(path: &Path) -> Llama {
    Checkpoint::open(path)
        .unwrap()
        .load(DType::F32, &Device::flex())
        .unwrap()
}

#[test]
fn a_folder_of_every_architecture_loads_as_the_model_it_was_written_from() {
    for architecture in Architecture::ALL {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny(architecture);
        write_folder(folder.path(), &model);
        let loaded = load(folder.path());
        assert_eq!(loaded.config(), model.config());
        assert_eq!(
            scores(&loaded, BlockSet::empty(5)),
            scores(&model, BlockSet::empty(5)),
            "{architecture:?}"
        );
    }
}

#[test]
fn bf16_files_load_as_f32_and_as_bf16() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(Architecture::Llama);
    write_folder(folder.path(), &model);
    fs::write(
        folder.path().join("model.safetensors"),
        safetensors(&hf_tensors(&model), Dtype::BF16),
    )
    .unwrap();
    let expected = scores(&model, BlockSet::empty(5));
    assert_close(
        &scores(&load(folder.path()), BlockSet::empty(5)),
        &expected,
        0.05,
    );
    let narrow = Checkpoint::open(folder.path())
        .unwrap()
        .load(DType::BF16, &Device::flex())
        .unwrap();
    assert_close(&scores(&narrow, BlockSet::empty(5)), &expected, 0.2);
}

#[test]
fn weights_that_lie_between_two_elements_are_read_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(Architecture::Llama);
    write_folder(folder.path(), &model);
    let path = folder.path().join("model.safetensors");
    let aligned = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(aligned[..8].try_into().unwrap());
    for spaces in 1..4 {
        let mut moved = (header + spaces).to_le_bytes().to_vec();
        moved.extend(&aligned[8..8 + header as usize]);
        moved.extend(vec![b' '; spaces as usize]);
        moved.extend(&aligned[8 + header as usize..]);
        fs::write(&path, moved).unwrap();
        assert_eq!(
            scores(&load(folder.path()), BlockSet::empty(5)),
            scores(&model, BlockSet::empty(5))
        );
    }
}

#[test]
fn a_model_of_which_one_block_is_held_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(Architecture::Qwen2);
    write_folder(folder.path(), &model);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let (held, _) = checkpoint
        .load_with_tokenizer(DType::BF16, &Device::flex())
        .unwrap();
    let streamed = checkpoint
        .load_streamed(DType::BF16, &Device::flex())
        .unwrap();
    assert!(streamed.weights().layers.is_empty());
    for removed in [vec![], vec![1, 3]] {
        let removed = BlockSet::from_indices(5, removed).unwrap();
        assert_eq!(
            scores(&streamed, removed.clone()),
            scores(&held, removed.clone())
        );
    }
    // A search runs all candidates through a block before it goes on to the next.
    let windows = (0..3).map(|n| (n..n + 24).collect()).collect();
    let calibration = Calibration::new(windows, 16).unwrap();
    let set = |blocks: &[usize]| BlockSet::from_indices(5, blocks.iter().copied()).unwrap();
    let decode_only = [set(&[1]), set(&[3]), set(&[])].map(|decode| PerStage {
        prefill: set(&[]),
        decode,
    });
    let both = [set(&[2]), set(&[4]), set(&[0, 1])].map(PerStage::both);
    for candidates in [decode_only, both] {
        let costs = |model: &Llama| {
            let loss =
                CalibrationLoss::new(model, &calibration, Rows::Continuation, Boundary::Prefill);
            let go_on = &mut |_: usize, _: f64| ControlFlow::Continue(());
            loss.costs(&candidates, go_on).unwrap()
        };
        assert_eq!(costs(&streamed), costs(&held));
    }
}

#[test]
fn a_seeded_checkpoint_depends_on_its_seed_alone() {
    let mut config = tiny_config(Architecture::Llama);
    config.vocab_size = 300;
    let written = |seed: u64| {
        let folder = tempfile::tempdir().unwrap();
        let report = seeded::write(&config, seed, DType::BF16, folder.path()).unwrap();
        assert_eq!(report.weight_bytes.0, 2 * config.parameters() as u64);
        let permissions = |file: &str| {
            let metadata = fs::metadata(folder.path().join(file)).unwrap();
            metadata.permissions()
        };
        assert_eq!(permissions("model.safetensors"), permissions("config.json"));
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let (model, tokenizer) = checkpoint
            .load_with_tokenizer(DType::F32, &Device::flex())
            .unwrap();
        let ids = tokenizer.encode("Prefill, naïvely.").unwrap();
        assert_eq!(ids.len(), "Prefill, naïvely.".len(), "a token a byte");
        assert_eq!(tokenizer.decode(&ids).unwrap(), "Prefill, naïvely.");
        scores(&model, BlockSet::empty(5))
    };
    assert_eq!(written(1), written(1));
    assert_ne!(written(1), written(2));
    for name in seeded::SHAPES {
        assert!(seeded::shape(name).is_ok());
    }
    assert!(seeded::shape("llama-9").is_err());
}

#[test]
fn shards_are_read_through_their_index() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(Architecture::Qwen2);
    write_folder(folder.path(), &model);
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let mut first = hf_tensors(&model);
    let second = first.split_off("model.layers.2");
    let mut weight_map = serde_json::Map::new();
    for (file, tensors) in [("a.safetensors", &first), ("b.safetensors", &second)] {
        fs::write(folder.path().join(file), safetensors(tensors, Dtype::F32)).unwrap();
        weight_map.extend(tensors.keys().map(|name| (name.clone(), json!(file))));
    }
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, json!({"weight_map": weight_map}).to_string()).unwrap();
    assert_eq!(
        scores(&load(folder.path()), BlockSet::empty(5)),
        scores(&model, BlockSet::empty(5))
    );

    weight_map.insert(
        "model.norm.weight".to_owned(),
        json!("../elsewhere.safetensors"),
    );
    fs::write(&index, json!({"weight_map": weight_map}).to_string()).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("weight_map") && error.contains("../elsewhere.safetensors"),
        "{error}"
    );
}

#[test]
fn llama_3_scaling_is_read_in_the_old_and_the_new_form() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(Architecture::Llama);
    write_folder(folder.path(), &model);
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_theta": 5e5,
    });
    for key in ["rope_scaling", "rope_parameters"] {
        let mut config = hf_config(model.config());
        config[key] = scaling.clone();
        config.as_object_mut().unwrap().remove("rope_theta");
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let rope = load(folder.path()).config().rope.clone();
        assert!((rope.theta - 5e5).abs() < 1.0);
        assert!(matches!(
            rope.scaling,
            RopeScaling::Llama3 {
                original_context: 64,
                ..
            }
        ));
    }
}

#[test]
fn an_exported_stage_is_the_model_without_its_blocks() {
    for architecture in Architecture::ALL {
        let folder = tempfile::tempdir().unwrap();
        let (source, out) = (folder.path().join("source"), folder.path().join("out"));
        let model = tiny(architecture);
        write_folder(&source, &model);
        let removed = BlockSet::from_indices(5, [1, 3]).unwrap();
        let checkpoint = Checkpoint::open(&source).unwrap();
        let stage = ExportStage {
            about: json!({"stage": "decode"}),
            ..ExportStage::without(removed.clone())
        };
        let plain = ExportSettings::plain(DType::F32);
        let report = checkpoint.export(&stage, &plain, &out).unwrap();
        assert_eq!(report.blocks, 3);
        let loaded = load(&out);
        assert_eq!(loaded.config().n_blocks, 3);
        assert_eq!(
            scores(&loaded, BlockSet::empty(3)),
            scores(&model, removed.clone()),
            "{architecture:?}"
        );
        // The same bytes again, and the same tokenizer.
        let again = folder.path().join("again");
        Checkpoint::open(&source)
            .unwrap()
            .export(&ExportStage::without(BlockSet::empty(5)), &plain, &again)
            .unwrap();
        assert_eq!(
            scores(&load(&again), BlockSet::empty(5)),
            scores(&model, BlockSet::empty(5))
        );
        let tokenizer = Checkpoint::open(&out).unwrap().tokenizer().unwrap();
        assert_eq!(tokenizer.encode("w5 w90").unwrap(), [5, 90]);
        // Over an older export: its index must not lead a loader to older weights.
        let index = out.join("model.safetensors.index.json");
        fs::write(index, r#"{"weight_map": {"x": "old.safetensors"}}"#).unwrap();
        checkpoint.export(&stage, &plain, &out).unwrap();
        assert_eq!(load(&out).config().n_blocks, 3);
        let onto_itself = checkpoint.export(&stage, &plain, &source);
        assert!(
            matches!(onto_itself, Err(Error::Export { .. })),
            "{onto_itself:?}"
        );
        let config: Value =
            serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["pdtrim"]["stage"], "decode");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 5, "no stray files");
    }
}

/// Other output layers for blocks 0 and 2 of decode.
fn repair(model: &Llama) -> RepairWeights {
    let mut weights = RepairWeights::default();
    for block in [0, 2] {
        let id = BlockId::new(block);
        weights.insert(Stage::Decode, id, model.down_proj(id).mul_scalar(-1.3));
    }
    weights
}

#[test]
fn an_exported_repaired_stage_is_the_repaired_model_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("source"), folder.path().join("out"));
    write_folder(&source, &tiny(Architecture::Llama));
    let removed = BlockSet::from_indices(5, [1, 3]).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        // In the element type of the export: norms are f32 in memory as long as the file has them so.
        let narrow = folder.path().join(format!("{dtype:?}"));
        let whole = ExportStage::without(BlockSet::empty(5));
        let plain = ExportSettings::plain(dtype);
        Checkpoint::open(&source)
            .unwrap()
            .export(&whole, &plain, &narrow)
            .unwrap();
        let checkpoint = Checkpoint::open(&narrow).unwrap();
        let model = checkpoint.load(dtype, &Device::flex()).unwrap();
        let weights = repair(&tiny(Architecture::Llama));
        let repaired = weights.apply(&model, Stage::Decode).unwrap();
        let stage = ExportStage {
            weights: StageWeights::Repaired(weights.of(Stage::Decode).clone()),
            ..ExportStage::without(removed.clone())
        };
        checkpoint.export(&stage, &plain, &out).unwrap();
        let exported = Checkpoint::open(&out).unwrap();
        let exported = exported.load(dtype, &Device::flex()).unwrap();
        let expected = scores(&repaired, removed.clone());
        assert_eq!(scores(&exported, BlockSet::empty(3)), expected, "{dtype:?}");
        assert_ne!(scores(&model, removed.clone()), expected);
    }
}

#[test]
fn a_model_read_block_by_block_is_repaired_like_one_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), &tiny(Architecture::Llama));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let held = checkpoint.load(DType::F32, &Device::flex()).unwrap();
    let streamed = checkpoint
        .load_streamed(DType::F32, &Device::flex())
        .unwrap();
    let weights = repair(&held);
    let repaired = |model: &Llama| {
        let repaired = weights.apply(model, Stage::Decode).unwrap();
        scores(&repaired, BlockSet::empty(5))
    };
    assert_eq!(repaired(&streamed), repaired(&held));
    // The model that it was made of is as it was.
    let dense = |model: &Llama| scores(model, BlockSet::empty(5));
    assert_eq!(dense(&streamed), dense(&held));
}

/// A change to a good folder and what the error must name.
type Broken = (&'static str, fn(&Path, &Llama), &'static [&'static str]);

fn set(folder: &Path, model: &Llama, key: &str, value: Value) {
    let mut config = hf_config(model.config());
    config[key] = value;
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

fn cut(folder: &Path, file: &str, keep: usize) {
    let bytes = fs::read(folder.join(file)).unwrap();
    fs::write(folder.join(file), &bytes[..keep]).unwrap();
}

const BROKEN: &[Broken] = &[
    (
        "no config",
        |dir, _| fs::remove_file(dir.join("config.json")).unwrap(),
        &["without config.json"],
    ),
    (
        "config is no JSON",
        |dir, _| fs::write(dir.join("config.json"), "{").unwrap(),
        &["config.json", "not the expected JSON"],
    ),
    (
        "unknown architecture",
        |dir, model| set(dir, model, "architectures", json!(["GptNeoX"])),
        &["architectures", "LlamaForCausalLM", "GptNeoX"],
    ),
    (
        "zero heads",
        |dir, model| set(dir, model, "num_attention_heads", json!(0)),
        &["num_attention_heads", "between 1", "0"],
    ),
    (
        "absurd depth",
        |dir, model| set(dir, model, "num_hidden_layers", json!(4_000_000)),
        &["num_hidden_layers", "4000000"],
    ),
    (
        "heads that do not divide",
        |dir, model| set(dir, model, "num_key_value_heads", json!(3)),
        &["num_key_value_heads", "divisor", "3"],
    ),
    (
        "another activation",
        |dir, model| set(dir, model, "hidden_act", json!("gelu")),
        &["hidden_act", "silu", "gelu"],
    ),
    (
        "biases",
        |dir, model| set(dir, model, "attention_bias", json!(true)),
        &["self_attn.q_proj.bias", "missing"],
    ),
    (
        "unknown scaling",
        |dir, model| set(dir, model, "rope_scaling", json!({"type": "yarn"})),
        &["rope_type", "yarn"],
    ),
    (
        "deeper config",
        |dir, model| set(dir, model, "num_hidden_layers", json!(6)),
        &["model.layers.5.", "missing"],
    ),
    (
        "shallower config",
        |dir, model| set(dir, model, "num_hidden_layers", json!(4)),
        &["model.layers.4.", "no place"],
    ),
    (
        "wider config",
        |dir, model| set(dir, model, "intermediate_size", json!(64)),
        &["[48, 32]", "[64, 32]"],
    ),
    (
        "no weights",
        |dir, _| fs::remove_file(dir.join("model.safetensors")).unwrap(),
        &["model.safetensors"],
    ),
    (
        "weights cut short",
        |dir, _| cut(dir, "model.safetensors", 9000),
        &["model.safetensors", "not a usable safetensors"],
    ),
    (
        "header cut short",
        |dir, _| cut(dir, "model.safetensors", 20),
        &["model.safetensors", "not a usable safetensors"],
    ),
    (
        "weights of nothing",
        |dir, _| fs::write(dir.join("model.safetensors"), "not safetensors").unwrap(),
        &["not a usable safetensors"],
    ),
    (
        "integer weights",
        |dir, model| {
            fs::write(
                dir.join("model.safetensors"),
                safetensors(&hf_tensors(model), Dtype::I64),
            )
            .unwrap();
        },
        &["model.embed_tokens.weight", "I64", "BF16"],
    ),
];

#[test]
fn every_broken_folder_gets_an_error_that_names_file_field_expected_and_found() {
    let model = tiny(Architecture::Llama);
    for (what, spoil, names) in BROKEN {
        let folder = tempfile::tempdir().unwrap();
        write_folder(folder.path(), &model);
        spoil(folder.path(), &model);
        let loaded = Checkpoint::open(folder.path())
            .and_then(|checkpoint| checkpoint.load(DType::F32, &Device::flex()));
        let error = loaded
            .err()
            .unwrap_or_else(|| panic!("{what}: not refused"))
            .to_string();
        for name in *names {
            assert!(
                error.contains(name),
                "{what}: `{error}` does not name `{name}`"
            );
        }
        assert!(
            error.contains(folder.path().to_str().unwrap()),
            "{what}: `{error}` does not name the file"
        );
    }
}

#[test]
fn a_tokenizer_that_does_not_fit_the_vocabulary_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(Architecture::Llama);
    write_parts(
        folder.path(),
        &hf_config(model.config()),
        &hf_tensors(&model),
        &tokenizer_json(97),
    );
    let error = Checkpoint::open(folder.path())
        .unwrap()
        .tokenizer()
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::TokenizerVocabulary {
                largest_id: 96,
                vocab_size: 96,
                ..
            }
        ),
        "{error}"
    );
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let error = Checkpoint::open(folder.path())
        .unwrap()
        .tokenizer()
        .unwrap_err();
    assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
}

#[test]
fn text_that_comes_token_by_token_is_the_text_in_whole_characters() {
    let folder = tempfile::tempdir().unwrap();
    let config = pdtrim_core::checkpoint::seeded::shape("smollm2-135m").unwrap();
    let config = ModelConfig {
        n_blocks: 1,
        ..config
    };
    seeded::write(&config, 1, DType::BF16, folder.path()).unwrap();
    let tokenizer = Checkpoint::open(folder.path())
        .unwrap()
        .tokenizer()
        .unwrap();
    for text in ["plain", "naïve café — ☃, 日本語 🦀!", "", " a  b\n"] {
        let ids = tokenizer.encode(text).unwrap();
        let mut stream = tokenizer.stream();
        let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces.concat() + &stream.finish().unwrap(), text);
        assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')));
    }
    // Half a snowman at the end is replaced, not lost and not held back for ever.
    let ids = tokenizer.encode("a☃").unwrap();
    let mut stream = tokenizer.stream();
    for &id in &ids[..2] {
        stream.push(id).unwrap();
    }
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn the_template_for_conversations_is_found_where_checkpoints_keep_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(Architecture::Llama);
    let (config, tokenizer) = (hf_config(model.config()), tokenizer_json(96));
    write_parts(folder.path(), &config, &hf_tensors(&model), &tokenizer);
    let found = || {
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        checkpoint.chat_template().unwrap()
    };
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    assert_eq!(found(), None);
    write("tokenizer_config.json", r#"{"model_max_length": 8}"#);
    assert_eq!(found(), None);
    write("tokenizer_config.json", r#"{"chat_template": "one"}"#);
    assert_eq!(found().as_deref(), Some("one"));
    let named = r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
    write("tokenizer_config.json", named);
    assert_eq!(found().as_deref(), Some("d"));
    write("chat_template.jinja", "file");
    assert_eq!(found().as_deref(), Some("file"));

    let path = folder.path().join("model.gguf");
    let writer = gguf(&model, "llama").string("tokenizer.chat_template", "in the file");
    fs::write(&path, writer.build()).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(
        checkpoint.chat_template().unwrap().as_deref(),
        Some("in the file")
    );
}

/// llama.cpp's converter: halves of each head interleaved.
fn permuted(values: &[f32], shape: &[usize], heads: usize) -> Vec<f32> {
    let (head_rows, width) = (shape[0] / heads, shape.get(1).copied().unwrap_or(1));
    let source = |row: usize| {
        let (head, at) = (row / head_rows, row % head_rows);
        head * head_rows + at % 2 * (head_rows / 2) + at / 2
    };
    (0..shape[0])
        .flat_map(|row| values[source(row) * width..][..width].to_vec())
        .collect()
}

fn gguf(model: &Llama, architecture: &str) -> GgufWriter {
    let config = model.config();
    let key = |name: &str| format!("{architecture}.{name}");
    let mut writer = GgufWriter::new()
        .string("general.architecture", architecture)
        .u32(&key("block_count"), config.n_blocks as u32)
        .u32(&key("embedding_length"), config.hidden_size as u32)
        .u32(&key("feed_forward_length"), config.intermediate_size as u32)
        .u32(&key("attention.head_count"), config.n_heads as u32)
        .u32(&key("attention.head_count_kv"), config.n_kv_heads as u32)
        .u32(&key("context_length"), config.context_length as u32)
        .f32(&key("rope.freq_base"), config.rope.theta)
        .f32(
            &key("attention.layer_norm_rms_epsilon"),
            config.rms_norm_eps as f32,
        )
        .u32("tokenizer.ggml.eos_token_id", 0);
    for (name, (shape, values)) in hf_tensors(model) {
        let parts = [
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
            ("model.layers.", "blk."),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ];
        let gguf_name = parts
            .iter()
            .fold(name.clone(), |name, (hf, gguf)| name.replace(hf, gguf));
        let heads = [("q_proj", config.n_heads), ("k_proj", config.n_kv_heads)];
        let heads = heads
            .into_iter()
            .find(|(part, _)| architecture == "llama" && name.contains(part));
        let values = heads.map_or_else(
            || values.clone(),
            |(_, heads)| permuted(&values, &shape, heads),
        );
        let dims: Vec<u64> = shape.iter().rev().map(|&size| size as u64).collect();
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        writer = writer.tensor(&gguf_name, &dims, 0, &bytes);
    }
    writer
}

#[test]
fn a_gguf_file_loads_as_the_model_it_was_written_from() {
    for (architecture, name) in [
        (Architecture::Llama, "llama"),
        (Architecture::Qwen2, "qwen2"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        let model = tiny(architecture);
        fs::write(&path, gguf(&model, name).build()).unwrap();
        let loaded = load(&path);
        assert_eq!(loaded.config(), model.config());
        assert_eq!(
            scores(&loaded, BlockSet::empty(5)),
            scores(&model, BlockSet::empty(5)),
            "{name}"
        );
    }
}

#[test]
fn a_gguf_of_another_architecture_or_shape_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let model = tiny(Architecture::Llama);
    let refused = |writer: GgufWriter| {
        fs::write(&path, writer.build()).unwrap();
        let loaded = Checkpoint::open(&path)
            .and_then(|checkpoint| checkpoint.load(DType::F32, &Device::flex()));
        loaded.expect_err("a broken file").to_string()
    };
    let error = refused(gguf(&model, "gemma2"));
    assert!(
        error.contains("general.architecture")
            && error.contains("gemma2")
            && error.contains("tiny.gguf"),
        "{error}"
    );
    let error = refused(gguf(&model, "llama").tensor("blk.9.attn_q.weight", &[4], 0, &[0; 16]));
    assert!(error.contains("blk.9.attn_q.weight"), "{error}");
    let error = refused(GgufWriter::new().string("general.architecture", "llama"));
    assert!(error.contains("token_embd.weight"), "{error}");
    let whole = gguf(&model, "llama").build();
    for keep in [0, 3, 8, 40, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..keep]).unwrap();
        let error = Checkpoint::open(&path).expect_err("cut short").to_string();
        assert!(error.contains("tiny.gguf"), "{error}");
    }
}

#[test]
fn two_copies_have_one_hash_and_a_changed_weight_another() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let model = tiny(Architecture::Llama);
    write_folder(&a, &model);
    write_folder(&b, &model);
    let hash = |path: &Path| Checkpoint::open(path).unwrap().hash().unwrap();
    assert_eq!(hash(&a), hash(&b));
    let weights = b.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    assert_ne!(hash(&a), hash(&b));
}
