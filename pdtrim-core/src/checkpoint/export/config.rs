//! `config.json` of an export: the source's own where it has one, so that engines find all that they found
//! there, else one that is made from the checked configuration.

use burn::tensor::DType;
use serde_json::{Map, Value, json};

use crate::block::{BlockId, BlockSet};
use crate::config::{ModelConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::model::llama3_from_factors;

/// Lists whose length has nothing to do with the number of layers, even if it is the same.
const NOT_BY_LAYER: [&str; 4] = ["_token_id", "_token_ids", "_tokens", "architectures"];

/// The source's fields, without those that point to files that are not written.
pub(super) fn carried(mut source: Map<String, Value>) -> Map<String, Value> {
    for key in ["_name_or_path", "auto_map"] {
        source.shift_remove(key);
    }
    source
}

/// The source's fields for a model without the blocks in `removed`: lists with an entry for each layer lose
/// those of removed ones, and Qwen2's `max_window_layers`, the number of layers before the first with a
/// sliding window, counts those that stay.
pub(super) fn cut(source: Map<String, Value>, removed: &BlockSet) -> Map<String, Value> {
    let mut fields = carried(source);
    let kept = removed.complement();
    for (key, value) in &mut fields {
        let other = NOT_BY_LAYER.iter().any(|end| key.ends_with(end));
        if let Value::Array(entries) = value
            && entries.len() == removed.depth()
            && !other
        {
            let mut layer = 0..;
            entries.retain(|_| layer.next().is_some_and(|n| kept.contains(BlockId::new(n))));
        }
    }
    if let Some(before) = fields.get("max_window_layers").and_then(Value::as_u64) {
        let stay = kept.iter().filter(|id| (id.index() as u64) < before);
        fields.insert("max_window_layers".to_owned(), json!(stay.count()));
    }
    fields
}

/// Says the element type where the source says it.
pub(super) fn set_dtype(fields: &mut Map<String, Value>, dtype: DType) {
    let name = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    // Version 5 of transformers calls it `dtype` and reads both.
    let has_new_name = fields.contains_key("dtype");
    if has_new_name {
        fields.insert("dtype".to_owned(), json!(name));
    }
    if !has_new_name || fields.contains_key("torch_dtype") {
        fields.insert("torch_dtype".to_owned(), json!(name));
    }
}

pub(super) fn set_biases(fields: &mut Map<String, Value>, config: &ModelConfig) {
    for (key, biased) in [
        ("attention_bias", config.attention_bias),
        ("mlp_bias", config.mlp_bias),
    ] {
        if biased {
            fields.insert(key.to_owned(), json!(true));
        }
    }
}

/// The fields of a whole model of `config`.
pub(super) fn made(config: &ModelConfig) -> Result<Map<String, Value>> {
    let fields = json!({
        "architectures": [config.architecture.class_name()],
        "model_type": config.architecture.model_type(),
        "hidden_act": "silu",
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
        "rope_scaling": rope_scaling(config)?,
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": end_tokens(config),
        "use_cache": true,
    });
    match fields {
        Value::Object(fields) => Ok(fields),
        _ => unreachable!("the object above"),
    }
}

fn rope_scaling(config: &ModelConfig) -> Result<Value> {
    let scaling = match &config.rope.scaling {
        RopeScaling::Factors(factors) => llama3_from_factors(config.rope.theta, factors)
            .ok_or_else(|| Error::Export {
                form: "a Hugging Face folder",
                reason: "its rope_freqs.weight are no factors of Llama 3.1's scaling, which \
                config.json could name"
                    .to_owned(),
            })?,
        known => known.clone(),
    };
    Ok(match scaling {
        RopeScaling::None | RopeScaling::Factors(_) => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_context,
        }),
    })
}

pub(super) fn end_tokens(config: &ModelConfig) -> Value {
    match config.eos_token_ids.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        many => json!(many),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn lists_by_layer_are_cut_and_other_lists_of_that_length_are_not() {
        let source = object(json!({
            "architectures": ["a", "b", "c", "d"], "eos_token_id": [1, 2, 3, 4], "auto_map": {"AutoConfig": "x.Y"},
            "layer_types": ["full", "sliding", "full", "sliding"], "max_window_layers": 3,
            "rope_scaling": {"long_factor": [1, 2, 3, 4]}, "of_three": [1, 2, 3], "more": {"kept": true},
        }));
        let removed = BlockSet::from_indices(4, [1, 2]).unwrap();
        let expected = object(json!({
            "architectures": ["a", "b", "c", "d"], "eos_token_id": [1, 2, 3, 4],
            "layer_types": ["full", "sliding"], "max_window_layers": 1,
            "rope_scaling": {"long_factor": [1, 2, 3, 4]}, "of_three": [1, 2, 3], "more": {"kept": true},
        }));
        assert_eq!(cut(source, &removed), expected);
    }

    #[test]
    fn a_window_that_starts_behind_the_last_layer_still_does() {
        let source = object(json!({"max_window_layers": 28}));
        let removed = BlockSet::from_indices(4, [0]).unwrap();
        assert_eq!(cut(source, &removed)["max_window_layers"], 3);
    }

    #[test]
    fn the_element_type_is_said_where_the_source_says_it() {
        for (source, expected) in [
            (json!({}), json!({"torch_dtype": "float16"})),
            (json!({"dtype": "bfloat16"}), json!({"dtype": "float16"})),
            (
                json!({"torch_dtype": "bfloat16"}),
                json!({"torch_dtype": "float16"}),
            ),
        ] {
            let mut fields = object(source);
            set_dtype(&mut fields, DType::F16);
            assert_eq!(Value::Object(fields), expected);
        }
    }
}
