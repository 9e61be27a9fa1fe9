//! The one table of tensor names: what each weight is called in a Hugging Face folder, in a GGUF file
//! and in the Burn module.

use std::collections::BTreeMap;

use crate::config::{Architecture, ModelConfig};

/// The output layer of a block's MLP, by its path in [`Block`](crate::model::Block).
pub(crate) const DOWN_PROJ: &str = "mlp.down_proj.weight";

/// The output layer of a block's attention, by its path in [`Block`](crate::model::Block).
pub(crate) const O_PROJ: &str = "self_attn.o_proj.weight";

/// The biases of a block's output layers, by their path in [`Block`](crate::model::Block).
pub(crate) const O_PROJ_BIAS: &str = "self_attn.o_proj.bias";
pub(crate) const DOWN_PROJ_BIAS: &str = "mlp.down_proj.bias";

/// A weight of the model and how each place spells it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Hugging Face name.
    pub(super) hf: String,
    /// GGUF name.
    pub(super) gguf: String,
    /// Parameter path in [`LlamaWeights`](crate::model::LlamaWeights).
    pub(super) module: String,
    /// The block it belongs to, and its parameter path in [`Block`](crate::model::Block).
    pub(super) block: Option<(usize, String)>,
    /// Shape, outermost axis first.
    pub(super) shape: Vec<usize>,
    /// Heads whose rows llama.cpp's converter permutes in `llama` files.
    pub(super) rope_heads: Option<usize>,
}

/// Shape of each weight of a block, by its path in [`Block`](crate::model::Block).
pub(crate) fn block_shapes(config: &ModelConfig) -> BTreeMap<&'static str, Vec<usize>> {
    let parts = parts(config).into_iter();
    parts.map(|part| (part.hf, part.shape)).collect()
}

struct Part {
    hf: &'static str,
    gguf: &'static str,
    shape: Vec<usize>,
    rope_heads: Option<usize>,
}

/// Every weight of a model, in the order of the module.
pub(super) fn slots(config: &ModelConfig) -> Vec<Slot> {
    let table = vec![config.vocab_size, config.hidden_size];
    let outside = |hf: &str, gguf: &str, module: &str, shape: Vec<usize>| Slot {
        hf: hf.to_owned(),
        gguf: gguf.to_owned(),
        module: module.to_owned(),
        block: None,
        shape,
        rope_heads: None,
    };
    let mut slots = vec![outside(
        "model.embed_tokens.weight",
        "token_embd.weight",
        "embed_tokens",
        table.clone(),
    )];
    for block in 0..config.n_blocks {
        slots.extend(parts(config).into_iter().map(|part| Slot {
            hf: format!("model.layers.{block}.{}", part.hf),
            gguf: format!("blk.{block}.{}", part.gguf),
            module: format!("layers.{block}.{}", part.hf),
            block: Some((block, part.hf.to_owned())),
            shape: part.shape,
            rope_heads: part.rope_heads,
        }));
    }
    slots.push(outside(
        "model.norm.weight",
        "output_norm.weight",
        "norm.weight",
        vec![config.hidden_size],
    ));
    if !config.tied_embeddings {
        slots.push(outside("lm_head.weight", "output.weight", "lm_head", table));
    }
    slots
}

fn parts(config: &ModelConfig) -> Vec<Part> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.q_size(), config.kv_size());
    let part = |hf, gguf, shape| Part {
        hf,
        gguf,
        shape,
        rope_heads: None,
    };
    let turned = |hf, gguf, shape, heads| Part {
        hf,
        gguf,
        shape,
        rope_heads: Some(heads),
    };
    let mut parts = vec![
        part("input_layernorm.weight", "attn_norm.weight", vec![hidden]),
        turned(
            "self_attn.q_proj.weight",
            "attn_q.weight",
            vec![q, hidden],
            config.n_heads,
        ),
        turned(
            "self_attn.k_proj.weight",
            "attn_k.weight",
            vec![kv, hidden],
            config.n_kv_heads,
        ),
        part("self_attn.v_proj.weight", "attn_v.weight", vec![kv, hidden]),
        part(O_PROJ, "attn_output.weight", vec![hidden, q]),
        part(
            "post_attention_layernorm.weight",
            "ffn_norm.weight",
            vec![hidden],
        ),
        part(
            "mlp.gate_proj.weight",
            "ffn_gate.weight",
            vec![intermediate, hidden],
        ),
        part(
            "mlp.up_proj.weight",
            "ffn_up.weight",
            vec![intermediate, hidden],
        ),
        part(DOWN_PROJ, "ffn_down.weight", vec![hidden, intermediate]),
    ];
    if config.has_qkv_bias() {
        parts.push(turned(
            "self_attn.q_proj.bias",
            "attn_q.bias",
            vec![q],
            config.n_heads,
        ));
        parts.push(turned(
            "self_attn.k_proj.bias",
            "attn_k.bias",
            vec![kv],
            config.n_kv_heads,
        ));
        parts.push(part("self_attn.v_proj.bias", "attn_v.bias", vec![kv]));
    }
    if config.attention_bias {
        parts.push(part(O_PROJ_BIAS, "attn_output.bias", vec![hidden]));
    }
    if config.mlp_bias {
        let (gate, up) = ("mlp.gate_proj.bias", "mlp.up_proj.bias");
        parts.push(part(gate, "ffn_gate.bias", vec![intermediate]));
        parts.push(part(up, "ffn_up.bias", vec![intermediate]));
        parts.push(part(DOWN_PROJ_BIAS, "ffn_down.bias", vec![hidden]));
    }
    parts
}

/// Whether a checkpoint may hold this tensor although the model has no place for it: frequencies that
/// are computed, and the copy of a tied vocabulary head.
pub(super) fn may_be_ignored(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name == "rope_freqs.weight" || name == "lm_head.weight"
}

/// The architecture behind a GGUF's `general.architecture`. Mistral's files say `llama` too: the
/// forward pass is the same.
pub(super) fn gguf_architecture(name: &str) -> Option<Architecture> {
    match name {
        "llama" => Some(Architecture::Llama),
        "qwen2" => Some(Architecture::Qwen2),
        _ => None,
    }
}
