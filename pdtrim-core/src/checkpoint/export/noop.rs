//! What the form `noop` says to vLLM's `DeciLMForCausalLM` (model type `nemotron-nas`): an entry of
//! `block_configs` for each layer.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::atomic::write_atomically;
use crate::block::{BlockId, BlockSet};
use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// That class rounds every `intermediate_size` up to a multiple of this.
pub(super) const MULTIPLE: usize = 256;

/// The module that turns entries of `block_configs` into objects with attributes.
const CODE: (&str, &str) = (
    "configuration_pdtrim.py",
    include_str!("configuration_pdtrim.py"),
);

/// Turns the fields of a model of `config` into those of one without the blocks in `removed`.
///
/// Biases need no class of their own: `qkv_bias` stands for those of Qwen2, whose output layer has none, and
/// `attention_bias` for all four.
pub(super) fn describe(
    fields: &mut Map<String, Value>,
    config: &ModelConfig,
    removed: &BlockSet,
) -> Result<()> {
    let ffn_mult = ffn_mult(config)?;
    let heads_in_group = config.n_heads / config.n_kv_heads;
    let entry = |id: BlockId| {
        let no_op = removed.contains(id);
        json!({
            "attention": {
                "n_heads_in_group": (!no_op).then_some(heads_in_group),
                "no_op": no_op,
                "replace_with_linear": false,
            },
            "ffn": {
                "ffn_mult": (!no_op).then_some(ffn_mult),
                "no_op": no_op,
                "replace_with_linear": false,
            },
        })
    };
    let entries: Vec<Value> = BlockSet::all(removed.depth()).iter().map(entry).collect();
    fields.extend([
        ("architectures".to_owned(), json!(["DeciLMForCausalLM"])),
        ("model_type".to_owned(), json!("nemotron-nas")),
        (
            "auto_map".to_owned(),
            json!({"AutoConfig": "configuration_pdtrim.PdtrimConfig"}),
        ),
        ("block_configs".to_owned(), json!(entries)),
    ]);
    if config.architecture.has_qkv_bias() && !config.attention_bias {
        fields.insert("qkv_bias".to_owned(), json!(true));
    }
    Ok(())
}

/// The number from which the class computes `intermediate_size`.
fn ffn_mult(config: &ModelConfig) -> Result<f64> {
    let (size, hidden) = (config.intermediate_size, config.hidden_size);
    let mult = 3.0 * size as f64 / (2.0 * hidden as f64);
    let made = (2.0 * mult * hidden as f64 / 3.0) as usize;
    if made.next_multiple_of(MULTIPLE) == size {
        return Ok(mult);
    }
    Err(Error::Export {
        form: "noop",
        reason: format!(
            "its class needs an intermediate_size that is a multiple of {MULTIPLE}, this one is {size}; \
             the forms plain and identity carry it"
        ),
    })
}

pub(super) fn write_code(folder: &Path) -> Result<()> {
    let (name, text) = CODE;
    write_atomically(&folder.join(name), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Architecture;
    use crate::testing::tiny_config;

    /// The class's own arithmetic, in integers and doubles as there.
    fn as_the_class_reads_it(ffn_mult: f64, hidden: usize) -> usize {
        let size = (2.0 * ffn_mult * hidden as f64 / 3.0) as usize;
        if size.is_multiple_of(256) {
            size
        } else {
            size + 256 - size % 256
        }
    }

    #[test]
    fn the_multiplier_gives_the_size_back() {
        for hidden_size in [32, 576, 2048, 3072, 4096, 5120, 8192] {
            for size in (1..120).map(|n| n * 256) {
                let config = ModelConfig {
                    hidden_size,
                    intermediate_size: size,
                    ..tiny_config(Architecture::Llama)
                };
                let mult = ffn_mult(&config).unwrap();
                assert_eq!(as_the_class_reads_it(mult, hidden_size), size);
            }
        }
    }

    #[test]
    fn another_size_is_refused_with_the_forms_that_carry_it() {
        let error = ffn_mult(&tiny_config(Architecture::Llama)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("48") && error.contains("plain and identity"),
            "{error}"
        );
    }
}
