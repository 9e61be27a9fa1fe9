//! Writes one GGUF file of the dense model or of one stage, as llama.cpp reads it.

use std::io::{BufWriter, Write};
use std::path::Path;

use burn::store::burn_pack::Tensor as PackTensor;
use burn::tensor::DType;
use serde_json::Value as Json;
use tempfile::NamedTempFile;

use super::Checkpoint;
use super::export::ExportReport;
use super::gguf::{
    Metadata, OutputType, TensorEntry, TokenizerParts, Value, apply_rope_permutation, header,
    padding, rope_rows_are_permuted,
};
use super::names::{Slot, slots};
use super::weights::convert;
use crate::atomic::{put, temporary_sibling};
use crate::block::{BlockId, BlockSet};
use crate::config::{Architecture, ModelConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::model::frequency_divisors;
use crate::repair::StageRepair;
use crate::units::Bytes;

/// Version of ggml's block layouts, which a file with quantised tensors names.
const QUANTIZATION_VERSION: u32 = 2;

impl Checkpoint {
    /// Writes the model without the blocks in `removed` as a GGUF file of the same architecture with fewer
    /// blocks. Matrices are written as `weights`, vectors in f32; see [`OutputType::of_weight`].
    ///
    /// `pdtrim` is stored as JSON under that key; loaders that do not know it ignore it. `repaired` weights
    /// take the place of the checkpoint's. One tensor is held at a time, and `path` is as it was until the
    /// whole file is written.
    ///
    /// # Errors
    ///
    /// [`Error::Depth`], [`Error::Export`] for a model or a tokenizer that such a file cannot hold,
    /// [`Error::Io`], [`Error::Changed`] for a checkpoint that was written to in the meantime, and what
    /// reading it can fail with.
    pub fn export_gguf(
        &self,
        removed: &BlockSet,
        repaired: &StageRepair,
        weights: OutputType,
        pdtrim: &Json,
        path: &Path,
    ) -> Result<ExportReport> {
        let config = self.config();
        self.check_depth(removed)?;
        self.refuse_own_file(path).map_err(refused)?;
        check(config)?;
        let metadata = self.metadata(removed, weights, pdtrim)?;
        let written = self.written(removed, repaired, weights)?;
        let file = write(path, &metadata, &written)?;
        self.check_unchanged()?;
        put(file, path)?;
        let n_bytes = written.iter().map(|tensor| tensor.entry.n_bytes() as u64);
        Ok(ExportReport {
            blocks: config.n_blocks - removed.len(),
            weight_bytes: Bytes(n_bytes.sum()),
            weight_files: 1,
        })
    }

    fn metadata(&self, removed: &BlockSet, weights: OutputType, pdtrim: &Json) -> Result<Metadata> {
        let config = self.config();
        let mut metadata = Metadata::default();
        describe(&mut metadata, config, config.n_blocks - removed.len());
        metadata.set("general.file_type", Value::U32(weights.file_type()));
        if weights == OutputType::Q8_0 {
            let version = Value::U32(QUANTIZATION_VERSION);
            metadata.set("general.quantization_version", version);
        }
        if !pdtrim.is_null() {
            metadata.set("pdtrim", Value::String(pdtrim.to_string()));
        }
        let tokenizer = TokenizerParts {
            tokenizer: &self.tokenizer()?,
            vocab_size: config.vocab_size,
            bos: config.bos_token_id,
            eos: config.eos_token_ids.first().copied(),
            chat_template: self.chat_template()?,
        };
        tokenizer.write(&mut metadata).map_err(refused)?;
        Ok(metadata)
    }

    /// The tensors in the order of the file.
    fn written(
        &self,
        removed: &BlockSet,
        repaired: &StageRepair,
        weights: OutputType,
    ) -> Result<Vec<Written>> {
        let config = self.config();
        let kept = removed.complement().to_indices();
        let permuted = rope_rows_are_permuted(architecture(config));
        let named = slots(config).into_iter().zip(self.tensors()?);
        let written = named.filter_map(|(slot, tensor)| {
            let (name, repair) = match &slot.block {
                None => (slot.gguf.clone(), None),
                Some((block, part)) => {
                    let layer = kept.iter().position(|kept| kept == block)?;
                    let repair = repaired.get(&BlockId::new(*block));
                    let repair = repair.and_then(|weights| weights.get(part));
                    (renumbered(&slot, layer), repair)
                }
            };
            let kind = weights.of_weight(&slot.shape);
            let values = match repair {
                Some(data) => Values::Held(data.clone().convert::<f32>().iter().collect()),
                None => Values::Stored(tensor),
            };
            Some(Written {
                entry: TensorEntry {
                    name,
                    shape: slot.shape,
                    ggml_type: kind.ggml_type(),
                },
                kind,
                rope_heads: slot.rope_heads.filter(|_| permuted),
                values,
            })
        });
        let divisors = frequency_divisors(config).map(|divisors| Written {
            entry: TensorEntry {
                name: "rope_freqs.weight".to_owned(),
                shape: vec![divisors.len()],
                ggml_type: OutputType::F32.ggml_type(),
            },
            kind: OutputType::F32,
            rope_heads: None,
            values: Values::Held(divisors),
        });
        Ok(written.chain(divisors).collect())
    }
}

/// One tensor on its way into the file.
struct Written {
    entry: TensorEntry,
    kind: OutputType,
    /// Heads whose rows are to be permuted.
    rope_heads: Option<usize>,
    values: Values,
}

enum Values {
    Stored(PackTensor),
    Held(Vec<f32>),
}

impl Written {
    fn bytes(&self) -> Result<Vec<u8>> {
        let name = &self.entry.name;
        let values: Vec<f32> = match &self.values {
            Values::Held(values) => values.clone(),
            Values::Stored(tensor) => {
                let read = tensor
                    .to_bytes()
                    .and_then(|bytes| convert(bytes, tensor.dtype, DType::F32))
                    .map_err(|error| refused(format!("{name} cannot be read: {error}")))?;
                bytemuck::pod_collect_to_vec(&read)
            }
        };
        let values = match self.rope_heads {
            None => values,
            Some(heads) => apply_rope_permutation(&values, self.entry.shape[0], heads)
                .map_err(|error| refused(format!("{name}: {error}")))?,
        };
        self.kind.encode(&values).map_err(|value| {
            refused(format!(
                "{name} holds {value}, which is no finite number in {:?}",
                self.kind
            ))
        })
    }
}

fn refused(reason: String) -> Error {
    Error::Export {
        form: "a GGUF file",
        reason,
    }
}

/// Refuses what llama.cpp has no place for in these architectures.
fn check(config: &ModelConfig) -> Result<()> {
    for (field, biased) in [
        ("attention_bias", config.attention_bias),
        ("mlp_bias", config.mlp_bias),
    ] {
        if biased {
            return Err(refused(format!("its {field} is true, expected false")));
        }
    }
    if config.architecture == Architecture::Qwen2 && frequency_divisors(config).is_some() {
        let reason = "its rope scaling differs between frequencies, which qwen2 has no tensor for";
        return Err(refused(reason.to_owned()));
    }
    Ok(())
}

fn architecture(config: &ModelConfig) -> &'static str {
    match config.architecture {
        Architecture::Llama | Architecture::Mistral => "llama",
        Architecture::Qwen2 => "qwen2",
    }
}

/// The name of a block's tensor as that of block `layer`.
fn renumbered(slot: &Slot, layer: usize) -> String {
    let part = slot.gguf.splitn(3, '.').nth(2).unwrap_or_default();
    format!("blk.{layer}.{part}")
}

/// Sizes and rotary embedding, under the keys of llama.cpp's converter.
fn describe(metadata: &mut Metadata, config: &ModelConfig, n_blocks: usize) {
    let name = architecture(config);
    metadata.set("general.architecture", Value::String(name.to_owned()));
    metadata.set("general.type", Value::String("model".to_owned()));
    let sizes = [
        ("vocab_size", config.vocab_size),
        ("context_length", config.context_length),
        ("embedding_length", config.hidden_size),
        ("block_count", n_blocks),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.n_heads),
        ("attention.head_count_kv", config.n_kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
    ];
    for (key, size) in sizes {
        metadata.set(&format!("{name}.{key}"), Value::U32(size as u32));
    }
    let eps = Value::F32(config.rms_norm_eps as f32);
    metadata.set(&format!("{name}.attention.layer_norm_rms_epsilon"), eps);
    let theta = Value::F32(config.rope.theta);
    metadata.set(&format!("{name}.rope.freq_base"), theta);
    if let RopeScaling::Linear { factor } = config.rope.scaling {
        let kind = Value::String("linear".to_owned());
        metadata.set(&format!("{name}.rope.scaling.type"), kind);
        metadata.set(&format!("{name}.rope.scaling.factor"), Value::F32(factor));
    }
}

/// Streams the file to a temporary sibling of `path`.
fn write(path: &Path, metadata: &Metadata, tensors: &[Written]) -> Result<NamedTempFile> {
    let temporary = temporary_sibling(path)?;
    let failed = || Error::io("write", path);
    let mut file = BufWriter::new(temporary.as_file());
    let entries: Vec<TensorEntry> = tensors.iter().map(|tensor| tensor.entry.clone()).collect();
    file.write_all(&header(metadata, &entries))
        .map_err(failed())?;
    for tensor in tensors {
        let bytes = tensor.bytes()?;
        debug_assert_eq!(bytes.len(), tensor.entry.n_bytes());
        file.write_all(&bytes)
            .and_then(|()| file.write_all(padding(bytes.len())))
            .map_err(failed())?;
    }
    file.flush().map_err(failed())?;
    drop(file);
    Ok(temporary)
}
