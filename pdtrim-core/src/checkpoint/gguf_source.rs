//! A GGUF file as a checkpoint: config from its metadata, tensors dequantised when they are read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::store::bridge;
use burn::store::burn_pack::{Error as PackError, Tensor as PackTensor};
use burn::tensor::{DType, Shape, TensorData};

use super::TensorListing;
use super::gguf::{
    GgufError, GgufFile, GgufTensor, GgufTokenizer, Metadata, chat_template,
    rope_rows_are_permuted, undo_rope_permutation,
};
use super::hf::MAX_HEAD_DIM;
use super::licence::{self, Licence};
use super::names::{Slot, gguf_architecture, may_be_ignored, slots};
use crate::config::{ModelConfig, RopeConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

#[derive(Debug)]
pub(super) struct GgufSource {
    path: PathBuf,
    file: Arc<GgufFile>,
    permuted: bool,
}

impl GgufSource {
    pub(super) fn open(path: &Path) -> Result<(ModelConfig, Self)> {
        let wrap = |source| Error::Gguf {
            path: path.to_owned(),
            source,
        };
        let file = GgufFile::open(path).map_err(wrap)?;
        let architecture: &str = file
            .metadata()
            .required("general.architecture")
            .map_err(wrap)?;
        let config = config(path, &file, architecture)?;
        let permuted = rope_rows_are_permuted(architecture);
        Ok((
            config,
            Self {
                path: path.to_owned(),
                file: Arc::new(file),
                permuted,
            },
        ))
    }

    pub(super) fn version(&self) -> u32 {
        self.file.version()
    }

    /// The Jinja template for conversations.
    pub(super) fn chat_template(&self) -> Result<Option<String>> {
        let template = chat_template(self.file.metadata());
        template.map_err(|source| Error::Gguf {
            path: self.path.clone(),
            source,
        })
    }

    /// `general.license`.
    pub(super) fn licence(&self) -> Result<Option<Licence>> {
        let id: Option<&str> =
            self.file
                .metadata()
                .optional("general.license")
                .map_err(|source| Error::Gguf {
                    path: self.path.clone(),
                    source,
                })?;
        Ok(id.map(|id| licence::named(id, "general.license")))
    }

    pub(super) fn tokenizer(&self, config: &ModelConfig) -> Result<Tokenizer> {
        let made = GgufTokenizer::from_metadata(self.file.metadata());
        let made = made.map_err(|source| Error::Gguf {
            path: self.path.clone(),
            source,
        })?;
        let ends = (made.bos_token_id, config.eos_token_ids.first().copied());
        Tokenizer::new(
            made.tokenizer,
            &self.path,
            config.vocab_size,
            ends,
            made.add_bos_token,
        )
    }

    pub(super) fn listing(&self) -> Vec<TensorListing> {
        let listing = |info: &super::gguf::TensorInfo| TensorListing {
            name: info.name().to_owned(),
            shape: info.shape().to_vec(),
            element_type: info.ggml_type().to_string(),
            bytes: info.n_bytes() as u64,
        };
        self.file.tensors().map(listing).collect()
    }

    pub(super) fn tensors(&self, config: &ModelConfig) -> Result<Vec<PackTensor>> {
        let slots = slots(config);
        let known: BTreeSet<&str> = slots.iter().map(|slot| slot.gguf.as_str()).collect();
        for info in self.file.tensors() {
            if !known.contains(info.name()) && !may_be_ignored(info.name()) {
                return Err(Error::UnusedTensor {
                    path: self.path.clone(),
                    tensor: info.name().to_owned(),
                    architecture: config.architecture.class_name(),
                    blocks: config.n_blocks,
                });
            }
        }
        slots.into_iter().map(|slot| self.tensor(slot)).collect()
    }

    fn tensor(&self, slot: Slot) -> Result<PackTensor> {
        let Some(tensor) = self.file.tensor(&slot.gguf) else {
            return Err(Error::MissingTensor {
                path: self.path.clone(),
                tensor: slot.gguf,
                expected: slot.shape,
            });
        };
        let found = tensor.info().shape();
        if found != slot.shape {
            let found = found.to_vec();
            return Err(Error::TensorShape {
                path: self.path.clone(),
                tensor: slot.gguf,
                expected: slot.shape,
                found,
            });
        }
        let file = Arc::clone(&self.file);
        let heads = slot.rope_heads.filter(|_| self.permuted);
        let shape = Shape::from(slot.shape);
        Ok(bridge::deferred(
            slot.hf,
            DType::F32,
            shape.clone(),
            None,
            move || {
                let tensor = file
                    .tensor(&slot.gguf)
                    .expect("found above, and a mapped file keeps its table");
                let values = tensor.dequantize();
                let values = match heads {
                    Some(heads) => undo_rope_permutation(&values, shape[0], heads)
                        .map_err(|error| PackError::ValidationError(error.to_string()))?,
                    None => values,
                };
                Ok(TensorData::new(values, shape.clone()))
            },
        ))
    }
}

/// The config that a file's metadata describes; keys carry the architecture as their prefix.
fn config(path: &Path, file: &GgufFile, name: &str) -> Result<ModelConfig> {
    let wrap = |source: GgufError| Error::Gguf {
        path: path.to_owned(),
        source,
    };
    let refused = |field: &str, expected: &str, found: String| Error::Config {
        path: path.to_owned(),
        field: field.to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let Some(architecture) = gguf_architecture(name) else {
        return Err(refused(
            "general.architecture",
            "llama or qwen2",
            format!("`{name}`"),
        ));
    };
    let metadata = file.metadata();
    let number = |key: &str| -> Result<usize> {
        Ok(metadata
            .required::<u32>(&format!("{name}.{key}"))
            .map_err(wrap)? as usize)
    };
    let optional = |key: &str| -> Result<Option<usize>> {
        let value = metadata
            .optional::<u32>(&format!("{name}.{key}"))
            .map_err(wrap)?;
        Ok(value.map(|value| value as usize))
    };
    let Some(embedding) = file.tensor("token_embd.weight") else {
        return Err(Error::MissingTensor {
            path: path.to_owned(),
            tensor: "token_embd.weight".to_owned(),
            expected: Vec::new(),
        });
    };
    let (hidden_size, n_heads) = (number("embedding_length")?, number("attention.head_count")?);
    let eps: f32 = metadata
        .required(&format!("{name}.attention.layer_norm_rms_epsilon"))
        .map_err(wrap)?;
    let eos: Option<u32> = metadata
        .optional("tokenizer.ggml.eos_token_id")
        .map_err(wrap)?;
    let config = ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: number("feed_forward_length")?,
        n_blocks: number("block_count")?,
        n_heads,
        n_kv_heads: optional("attention.head_count_kv")?.unwrap_or(n_heads),
        head_dim: optional("attention.key_length")?
            .unwrap_or_else(|| hidden_size.checked_div(n_heads).unwrap_or(0)),
        vocab_size: embedding.info().shape()[0],
        context_length: number("context_length")?,
        // Stored as f32: 1e-5 reads back as 9.99999975e-06.
        rms_norm_eps: eps.to_string().parse().unwrap_or(f64::from(eps)),
        rope: rope(file, name).map_err(wrap)?,
        tied_embeddings: file.tensor("output.weight").is_none(),
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: metadata
            .optional("tokenizer.ggml.bos_token_id")
            .map_err(wrap)?,
        eos_token_ids: eos.into_iter().collect(),
    };
    super::hf::check(path, &config)?;
    Ok(config)
}

fn rope(file: &GgufFile, name: &str) -> Result<RopeConfig, GgufError> {
    let metadata: &Metadata = file.metadata();
    let theta = metadata
        .optional::<f32>(&format!("{name}.rope.freq_base"))?
        .unwrap_or(10_000.0);
    let linear = match metadata.optional::<&str>(&format!("{name}.rope.scaling.type"))? {
        Some("linear") => metadata.optional::<f32>(&format!("{name}.rope.scaling.factor"))?,
        _ => None,
    };
    let scaling = match (file.tensor("rope_freqs.weight"), linear) {
        (Some(factors), _) => RopeScaling::Factors(rope_factors(&factors)?),
        (None, Some(factor)) => RopeScaling::Linear { factor },
        (None, None) => RopeScaling::None,
    };
    Ok(RopeConfig { theta, scaling })
}

/// One for each pair of a head's dimensions; how many that is, is checked with the rest of the config.
fn rope_factors(tensor: &GgufTensor<'_>) -> Result<Vec<f32>, GgufError> {
    let found = tensor.info().n_values();
    if found > MAX_HEAD_DIM / 2 {
        return Err(GgufError::TooMany {
            field: "number of values of rope_freqs.weight",
            limit: MAX_HEAD_DIM / 2,
            found,
        });
    }
    Ok(tensor.dequantize())
}
