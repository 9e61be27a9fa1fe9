//! The forms of an export against each other, and what their folders hold.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/tiny_checkpoint.rs"]
mod tiny_checkpoint;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use burn::tensor::{DType, Device};
use pdtrim_core::checkpoint::{
    Checkpoint, ExportForm, ExportReport, ExportSettings, ExportStage, StageWeights,
};
use pdtrim_core::config::Architecture;
use pdtrim_core::model::{Llama, MlpOutput, WidthModel};
use pdtrim_core::pipeline::{PdModel, SendAll};
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::testing::{TinyModel, tiny_config};
use pdtrim_core::width::{BlockBiases, RemovedWidth, StageBiases, StageWidths};
use pdtrim_core::{
    BlockId, BlockSet, Boundary, Bytes, Error, KvFill, ModelConfig, PerStage, Stage, TokenScore,
};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use tiny_checkpoint::{Tensors, hf_config, hf_tensors, tokenizer_json, write_folder, write_parts};

/// Every architecture, tied and untied, with the biases that each can have, in sizes that all forms carry.
fn models() -> Vec<ModelConfig> {
    let config = |architecture, tied_embeddings| ModelConfig {
        tied_embeddings,
        intermediate_size: 256,
        ..tiny_config(architecture)
    };
    let mut models: Vec<ModelConfig> = Architecture::ALL
        .into_iter()
        .flat_map(|architecture| [config(architecture, true), config(architecture, false)])
        .collect();
    models.push(ModelConfig {
        attention_bias: true,
        mlp_bias: true,
        ..config(Architecture::Llama, false)
    });
    models
}

fn build(config: ModelConfig) -> Llama {
    TinyModel {
        config,
        ..TinyModel::default()
    }
    .build()
}

/// A source folder whose `config.json` says what those of its architecture say.
fn write_source(folder: &Path, model: &Llama) {
    let mut config = hf_config(model.config());
    config["attention_bias"] = json!(model.config().attention_bias);
    config["mlp_bias"] = json!(model.config().mlp_bias);
    let tokenizer = tokenizer_json(model.config().vocab_size);
    write_parts(folder, &config, &hf_tensors(model), &tokenizer);
}

fn load(folder: &Path) -> Llama {
    let checkpoint = Checkpoint::open(folder).unwrap();
    checkpoint.load(DType::F32, &Device::flex()).unwrap()
}

fn scores(model: &Llama) -> Vec<TokenScore> {
    let dense = PdModel::dense(model, Boundary::Prefill);
    let scores = dense.score(&[5, 6, 7, 8], &[[9, 10, 11, 12]]).unwrap();
    scores.continuations[0].tokens.clone()
}

fn export(source: &Path, stage: &ExportStage, form: ExportForm, out: &Path) -> ExportReport {
    let settings = ExportSettings {
        form,
        ..ExportSettings::plain(DType::F32)
    };
    let checkpoint = Checkpoint::open(source).unwrap();
    checkpoint.export(stage, &settings, out).unwrap()
}

fn config_json(folder: &Path) -> Map<String, Value> {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

fn tensors(folder: &Path) -> Tensors {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let held = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let values = bytemuck::pod_collect_to_vec(view.data());
        (name, (view.shape().to_vec(), values))
    };
    held.tensors().into_iter().map(tensor).collect()
}

/// Reads a folder of the form `noop` by its own `config.json`, as vLLM's class does: layers whose attention
/// and MLP are no-ops are skipped, sizes come from the entries of the others. What it finds is written to
/// `plain` as a stock model of the layers that are left.
fn write_as_read_by_the_class(noop: &Path, plain: &Path) {
    let config = config_json(noop);
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    let (hidden, heads) = (number("hidden_size"), number("num_attention_heads"));
    let entries = config["block_configs"].as_array().unwrap();
    assert_eq!(entries.len(), number("num_hidden_layers"));
    let mut held = tensors(noop);
    let mut read = Tensors::new();
    let mut kept = 0;
    let mut sizes = BTreeSet::new();
    for (layer, entry) in entries.iter().enumerate() {
        let (attention, ffn) = (&entry["attention"], &entry["ffn"]);
        assert_eq!(attention["replace_with_linear"], false);
        assert_eq!(ffn["replace_with_linear"], false);
        assert_eq!(attention["no_op"], ffn["no_op"]);
        if attention["no_op"] == true {
            assert!(attention["n_heads_in_group"].is_null() && ffn["ffn_mult"].is_null());
            continue;
        }
        let in_group = attention["n_heads_in_group"].as_u64().unwrap() as usize;
        let size = (2.0 * ffn["ffn_mult"].as_f64().unwrap() * hidden as f64 / 3.0) as usize;
        sizes.insert((heads / in_group, size.next_multiple_of(256)));
        let prefix = format!("model.layers.{layer}.");
        let own: Vec<String> = held
            .keys()
            .filter(|name| name.starts_with(&prefix))
            .cloned()
            .collect();
        for name in own {
            let part = &name[prefix.len()..];
            read.insert(
                format!("model.layers.{kept}.{part}"),
                held.remove(&name).unwrap(),
            );
        }
        kept += 1;
    }
    assert_eq!(sizes.len(), 1, "all blocks of a stock model are alike");
    let (kv_heads, size) = sizes.pop_first().unwrap();
    for name in [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
    ] {
        if let Some(tensor) = held.remove(name) {
            read.insert(name.to_owned(), tensor);
        }
    }
    assert!(held.is_empty(), "no-op layers have no tensors");
    // The class gives q, k and v biases where `qkv_bias` says so, else where `attention_bias` does.
    let said = |key: &str| config.get(key) == Some(&json!(true));
    let only_qkv = said("qkv_bias") && !said("attention_bias");
    let class = if only_qkv {
        "Qwen2ForCausalLM"
    } else {
        "LlamaForCausalLM"
    };
    let mut stock = Value::Object(config);
    stock["architectures"] = json!([class]);
    stock["num_hidden_layers"] = json!(kept);
    stock["num_key_value_heads"] = json!(kv_heads);
    stock["intermediate_size"] = json!(size);
    let tokenizer: Value =
        serde_json::from_slice(&fs::read(noop.join("tokenizer.json")).unwrap()).unwrap();
    write_parts(plain, &stock, &read, &tokenizer);
}

/// Logits of the three forms of a stage.
fn of_each_form(place: &Path, source: &Path, stage: &ExportStage) -> [Vec<TokenScore>; 3] {
    let form = |form: ExportForm| {
        let out = place.join(form.name());
        let report = export(source, stage, form, &out);
        let depth = stage.removed.depth();
        let layers = depth - stage.removed.len();
        let expected = if form == ExportForm::Identity {
            depth
        } else {
            layers
        };
        assert_eq!(report.blocks, expected, "{form:?}");
        assert!(form == ExportForm::NoOp || load(&out).config().n_blocks == expected);
        out
    };
    let (plain, noop, identity) = (
        form(ExportForm::Plain),
        form(ExportForm::NoOp),
        form(ExportForm::Identity),
    );
    let read = place.join("noop-read");
    write_as_read_by_the_class(&noop, &read);
    [plain, read, identity].map(|folder| scores(&load(&folder)))
}

#[test]
fn all_forms_of_a_stage_give_the_logits_of_the_model_without_its_blocks() {
    for (n, config) in models().into_iter().enumerate() {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("source");
        let model = build(config);
        write_source(&source, &model);
        // The first, the last, and one between.
        let removed = BlockSet::from_indices(5, [0, 2, 4]).unwrap();
        let [plain, noop, identity] = of_each_form(
            place.path(),
            &source,
            &ExportStage::without(removed.clone()),
        );
        let expected = PdModel::new(
            &model,
            PerStage::both(removed),
            KvFill::Nested,
            Boundary::Prefill,
            &SendAll,
        )
        .unwrap();
        let expected = expected.score(&[5, 6, 7, 8], &[[9, 10, 11, 12]]).unwrap();
        assert_eq!(plain, expected.continuations[0].tokens, "model {n}");
        assert_eq!(noop, plain, "model {n}");
        assert_eq!(identity, plain, "model {n}");
        assert_ne!(scores(&model), plain, "model {n}");
    }
}

#[test]
fn all_forms_carry_repaired_and_narrower_blocks() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    let model = build(models().remove(0));
    write_source(&source, &model);
    let removed = BlockSet::from_indices(5, [3]).unwrap();
    let own = scores_without(place.path(), &source, StageWeights::Own, &removed);
    let mut repair = RepairWeights::default();
    let id = BlockId::new(2);
    repair.insert(Stage::Decode, id, model.down_proj(id).mul_scalar(-1.3));
    let repaired = StageWeights::Repaired(repair.of(Stage::Decode).clone());
    let repaired = scores_without(place.path(), &source, repaired, &removed);
    let biases: StageBiases = [(
        BlockId::new(1),
        BlockBiases {
            attention: vec![0.4; 32],
            mlp: vec![-0.3; 32],
        },
    )]
    .into();
    let narrow = StageWeights::Narrow(StageWidths::default(), biases);
    let narrow = scores_without(place.path(), &source, narrow, &removed);
    assert!(own != repaired && own != narrow && narrow != repaired);
}

/// Logits of a stage, which have to be the same in all forms.
fn scores_without(
    place: &Path,
    source: &Path,
    weights: StageWeights,
    removed: &BlockSet,
) -> Vec<TokenScore> {
    let stage = ExportStage {
        weights,
        ..ExportStage::without(removed.clone())
    };
    let [plain, noop, identity] = of_each_form(place, source, &stage);
    assert_eq!(noop, plain);
    assert_eq!(identity, plain);
    plain
}

#[test]
fn biases_of_narrower_blocks_are_carried_by_noop_where_the_stock_class_has_none() {
    for architecture in [Architecture::Mistral, Architecture::Qwen2] {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("source");
        let model = build(ModelConfig {
            intermediate_size: 256,
            ..tiny_config(architecture)
        });
        write_folder(&source, &model);
        let biases: StageBiases = [(
            BlockId::new(1),
            BlockBiases {
                attention: vec![0.4; 32],
                mlp: Vec::new(),
            },
        )]
        .into();
        let expected = scores(&model.narrowed(
            &[(BlockId::new(1), RemovedWidth::default())].into(),
            &biases,
        ));
        let stage = ExportStage {
            weights: StageWeights::Narrow(StageWidths::default(), biases),
            ..ExportStage::without(BlockSet::empty(5))
        };
        let out = place.path().join("noop");
        export(&source, &stage, ExportForm::NoOp, &out);
        let read = place.path().join("read");
        write_as_read_by_the_class(&out, &read);
        for (found, expected) in scores(&load(&read)).iter().zip(&expected) {
            let difference = (found.logprob - expected.logprob).abs();
            assert!(difference < 1e-4, "{found:?}, expected {expected:?}");
        }
        let checkpoint = Checkpoint::open(&source).unwrap();
        let plain = ExportSettings::plain(DType::F32);
        let refused = checkpoint.export(&stage, &plain, &place.path().join("plain"));
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("noop") && error.contains("256"), "{error}");
        assert!(!place.path().join("plain").exists());
    }
}

#[test]
fn a_size_that_noop_cannot_say_is_refused_and_nothing_is_written() {
    let place = tempfile::tempdir().unwrap();
    let (source, out) = (place.path().join("source"), place.path().join("out"));
    write_folder(&source, &build(tiny_config(Architecture::Llama)));
    let settings = ExportSettings {
        form: ExportForm::NoOp,
        ..ExportSettings::plain(DType::F32)
    };
    let stage = ExportStage::without(BlockSet::from_indices(5, [1]).unwrap());
    let refused = Checkpoint::open(&source)
        .unwrap()
        .export(&stage, &settings, &out);
    let error = refused.unwrap_err();
    assert!(
        matches!(error, Error::Export { form: "noop", .. }),
        "{error}"
    );
    assert!(error.to_string().contains("plain"), "{error}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn the_sources_own_config_is_carried_over_and_cut() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    let model = build(tiny_config(Architecture::Qwen2));
    write_source(&source, &model);
    let mut config = config_json(&source);
    let types = json!(["full_attention", "a", "b", "c", "d"]);
    config.extend([
        ("layer_types".to_owned(), types),
        ("max_window_layers".to_owned(), json!(4)),
        ("use_sliding_window".to_owned(), json!(false)),
        ("sliding_window".to_owned(), json!(64)),
        ("attention_dropout".to_owned(), json!(0.25)),
        ("dtype".to_owned(), json!("bfloat16")),
    ]);
    fs::write(
        source.join("config.json"),
        serde_json::to_string(&config).unwrap(),
    )
    .unwrap();
    fs::write(source.join("merges.txt"), "#version: 0.2\n").unwrap();
    let stage = ExportStage {
        about: json!({"stage": "prefill"}),
        ..ExportStage::without(BlockSet::from_indices(5, [1, 3]).unwrap())
    };
    let out = place.path().join("plain");
    export(&source, &stage, ExportForm::Plain, &out);
    let found = config_json(&out);
    assert_eq!(found["layer_types"], json!(["full_attention", "b", "d"]));
    assert_eq!(found["max_window_layers"], 2);
    assert_eq!(found["num_hidden_layers"], 3);
    assert_eq!(found["dtype"], "float32");
    assert_eq!(found["pdtrim"]["stage"], "prefill");
    for key in [
        "attention_dropout",
        "sliding_window",
        "rope_theta",
        "architectures",
    ] {
        assert_eq!(found[key], config[key], "{key}");
    }
    assert!(out.join("merges.txt").is_file());
    let out = place.path().join("identity");
    export(&source, &stage, ExportForm::Identity, &out);
    let found = config_json(&out);
    assert_eq!(found["layer_types"], config["layer_types"]);
    assert_eq!(found["num_hidden_layers"], 5);
}

#[test]
fn large_weights_are_split_and_the_index_names_every_tensor_once() {
    let place = tempfile::tempdir().unwrap();
    let (source, out) = (place.path().join("source"), place.path().join("out"));
    let model = build(tiny_config(Architecture::Mistral));
    write_folder(&source, &model);
    let checkpoint = Checkpoint::open(&source).unwrap();
    let stage = ExportStage::without(BlockSet::from_indices(5, [1]).unwrap());
    let limit = 20_000;
    let settings = ExportSettings {
        max_shard: Bytes(limit),
        ..ExportSettings::plain(DType::F32)
    };
    let report = checkpoint.export(&stage, &settings, &out).unwrap();
    assert!(report.weight_files > 2, "{report:?}");
    let index: Value =
        serde_json::from_slice(&fs::read(out.join("model.safetensors.index.json")).unwrap())
            .unwrap();
    assert_eq!(index["metadata"]["total_size"], report.weight_bytes.0);
    let places = index["weight_map"].as_object().unwrap();
    let mut files = BTreeSet::new();
    let mut total = 0;
    for n in 1..=report.weight_files {
        let name = format!("model-{n:05}-of-{:05}.safetensors", report.weight_files);
        let bytes = fs::read(out.join(&name)).unwrap();
        let held = SafeTensors::deserialize(&bytes).unwrap();
        let sizes: Vec<usize> = held.iter().map(|(_, view)| view.data().len()).collect();
        assert!(sizes.len() == 1 || sizes.iter().sum::<usize>() <= limit as usize);
        total += sizes.iter().sum::<usize>();
        for tensor in held.names() {
            assert_eq!(places[tensor], json!(name));
            assert!(files.insert(tensor.to_owned()));
        }
    }
    assert_eq!(files.len(), places.len());
    assert_eq!(total as u64, report.weight_bytes.0);
    assert!(!out.join("model.safetensors").exists());
    let whole = place.path().join("whole");
    export(&source, &stage, ExportForm::Plain, &whole);
    assert_eq!(scores(&load(&out)), scores(&load(&whole)));
    // A single file over the split one leaves no older file behind.
    export(&source, &stage, ExportForm::Plain, &out);
    let names = fs::read_dir(&out).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let weights: Vec<String> = names.filter(|name| name.contains("safetensors")).collect();
    assert_eq!(weights, ["model.safetensors"]);
    assert_eq!(scores(&load(&out)), scores(&load(&whole)));
}

#[cfg(unix)]
#[test]
#[allow(clippy::print_stdout, reason = "a skipped test says so")]
fn weights_that_do_not_fit_are_refused_before_anything_is_written() {
    let place = tempfile::tempdir().unwrap();
    let (source, out) = (place.path().join("source"), place.path().join("out"));
    let small = build(tiny_config(Architecture::Llama));
    write_folder(&source, &small);
    // A sparse file: it takes no room, and its copy in f32 would take 8 TiB.
    let (rows, hidden) = (1_u64 << 24, 1_u64 << 17);
    let mut config = config_json(&source);
    config["vocab_size"] = json!(rows);
    config["hidden_size"] = json!(hidden);
    config["num_hidden_layers"] = json!(1);
    config["intermediate_size"] = json!(1);
    config["num_attention_heads"] = json!(1);
    config["num_key_value_heads"] = json!(1);
    config["head_dim"] = json!(2);
    fs::write(
        source.join("config.json"),
        serde_json::to_string(&config).unwrap(),
    )
    .unwrap();
    let block =
        |part: &str, shape: &[u64]| (format!("model.layers.0.{part}.weight"), shape.to_vec());
    let shapes = [
        ("model.embed_tokens.weight".to_owned(), vec![rows, hidden]),
        block("input_layernorm", &[hidden]),
        block("self_attn.q_proj", &[2, hidden]),
        block("self_attn.k_proj", &[2, hidden]),
        block("self_attn.v_proj", &[2, hidden]),
        block("self_attn.o_proj", &[hidden, 2]),
        block("post_attention_layernorm", &[hidden]),
        block("mlp.gate_proj", &[1, hidden]),
        block("mlp.up_proj", &[1, hidden]),
        block("mlp.down_proj", &[hidden, 1]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    let mut end = 0;
    let mut header = Map::new();
    for (name, shape) in shapes {
        let start = end;
        end += 2 * shape.iter().product::<u64>();
        header.insert(
            name,
            json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(&header);
    let path = source.join("model.safetensors");
    fs::write(&path, &bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    if let Err(error) = file.set_len(bytes.len() as u64 + end) {
        println!("skipped: no sparse file of 4 TiB here ({error})");
        return;
    }
    let stage = ExportStage::without(BlockSet::empty(1));
    let plain = ExportSettings::plain(DType::F32);
    let refused = Checkpoint::open(&source)
        .unwrap()
        .export(&stage, &plain, &out);
    let error = refused.unwrap_err();
    assert!(matches!(error, Error::Space { .. }), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("8.0 TiB") && error.contains("free"),
        "{error}"
    );
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}
