//! Writes small checkpoints for tests: Hugging Face folders and GGUF files of seeded models.

#![allow(dead_code, reason = "each test file uses a part of this module")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use burn::store::ModuleSnapshot;
use half::bf16;
use pdtrim_core::ModelConfig;
use pdtrim_core::model::Llama;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// A tensor as a checkpoint has it: shape outermost first, f32 values.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The model's tensors under Hugging Face's names, in Hugging Face's layout.
pub(crate) fn hf_tensors(model: &Llama) -> Tensors {
    let collected = model.weights().collect(None, None, true);
    collected
        .into_iter()
        .map(|tensor| {
            let values = bytemuck::pod_collect_to_vec::<u8, f32>(&tensor.to_bytes().unwrap());
            let shape = tensor.shape.to_vec();
            match tensor.name.as_str() {
                "lm_head" => ("lm_head.weight".to_owned(), (shape, values)),
                "embed_tokens" => ("model.embed_tokens.weight".to_owned(), (shape, values)),
                name => (format!("model.{name}"), (shape, values)),
            }
        })
        .collect()
}

pub(crate) fn hf_config(config: &ModelConfig) -> Value {
    json!({
        "architectures": [config.architecture.class_name()],
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_blocks,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "eos_token_id": 0,
    })
}

/// One word for each token: `w0` to `w95`.
pub(crate) fn tokenizer_json(vocab_size: usize) -> Value {
    let vocab: serde_json::Map<String, Value> = (0..vocab_size)
        .map(|id| (format!("w{id}"), json!(id)))
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w1"},
    })
}

pub(crate) fn safetensors(tensors: &Tensors, dtype: Dtype) -> Vec<u8> {
    let bytes: BTreeMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, values))| {
            let bytes = match dtype {
                Dtype::BF16 => values
                    .iter()
                    .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                    .collect(),
                Dtype::I64 => values.iter().flat_map(|_| 0_i64.to_le_bytes()).collect(),
                _ => values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            };
            (name, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, (shape, _))| {
        (
            name.clone(),
            TensorView::new(dtype, shape.clone(), &bytes[name]).unwrap(),
        )
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}

/// A folder that loads as `model`.
pub(crate) fn write_folder(folder: &Path, model: &Llama) {
    write_parts(
        folder,
        &hf_config(model.config()),
        &hf_tensors(model),
        &tokenizer_json(model.config().vocab_size),
    );
}

pub(crate) fn write_parts(folder: &Path, config: &Value, tensors: &Tensors, tokenizer: &Value) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(
        folder.join("model.safetensors"),
        safetensors(tensors, Dtype::F32),
    )
    .unwrap();
}
