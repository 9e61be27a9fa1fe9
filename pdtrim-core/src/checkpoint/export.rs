//! Writes a Hugging Face folder of the dense model or of one stage.

mod narrow;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;

use burn::store::bridge;
use burn::store::burn_pack::Tensor as PackTensor;
use burn::tensor::{DType, TensorData};
use safetensors::{Dtype, View};
use serde_json::{Map, Value, json};

use self::narrow::Narrow;
use super::Checkpoint;
use super::names::slots;
use super::weights::convert;
use crate::block::{BlockId, BlockSet};
use crate::config::{ModelConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::model::llama3_from_factors;
use crate::plan::{temporary_sibling, write_atomically};
use crate::repair::StageRepair;
use crate::units::Bytes;
use crate::width::{StageBiases, StageWidths};

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ExportReport {
    /// Blocks in the written model.
    pub blocks: usize,
    /// Size of its weights.
    pub weight_bytes: Bytes,
}

impl Checkpoint {
    /// Writes the model without the blocks in `removed` as a folder of the same architecture with fewer
    /// layers (the form `plain`): weights renumbered, `{"format": "pt"}`, tokenizer and generation files.
    ///
    /// `pdtrim` is stored under that key in `config.json`; loaders that do not know it ignore it.
    /// `repaired` weights take the place of the checkpoint's. Weights are written one tensor at a time.
    ///
    /// # Errors
    ///
    /// [`Error::Depth`], [`Error::Export`], [`Error::Io`], and what reading the checkpoint can fail with.
    pub fn export(
        &self,
        removed: &BlockSet,
        repaired: &StageRepair,
        dtype: DType,
        pdtrim: Value,
        folder: &Path,
    ) -> Result<ExportReport> {
        let changes = Changes {
            repaired,
            narrow: Narrow::none(self.config()),
        };
        self.export_changed(removed, &changes, dtype, pdtrim, folder)
    }

    /// As [`export`](Self::export), with narrower blocks in the shapes of the dense model: no engine has
    /// another width in each block, so what is removed is written as zeros, which gives the same logits
    /// at the dense model's speed. Biases set `attention_bias` and `mlp_bias`, for all blocks, with zeros
    /// where nothing is added.
    ///
    /// # Errors
    ///
    /// As [`export`](Self::export); [`Error::Export`] for biases in an architecture without a place for
    /// them.
    pub fn export_narrow(
        &self,
        removed: &BlockSet,
        widths: &StageWidths,
        biases: &StageBiases,
        dtype: DType,
        pdtrim: Value,
        folder: &Path,
    ) -> Result<ExportReport> {
        let changes = Changes {
            repaired: &StageRepair::default(),
            narrow: Narrow::new(self.config(), widths, biases)?,
        };
        self.export_changed(removed, &changes, dtype, pdtrim, folder)
    }

    fn export_changed(
        &self,
        removed: &BlockSet,
        changes: &Changes<'_>,
        dtype: DType,
        pdtrim: Value,
        folder: &Path,
    ) -> Result<ExportReport> {
        let depth = self.config().n_blocks;
        if removed.depth() != depth {
            return Err(Error::Depth {
                field: "removed",
                expected: depth,
                found: removed.depth(),
            });
        }
        let config = hf_config(changes.narrow.config(), removed, dtype, pdtrim)?;
        let tokenizer = self.tokenizer()?.to_json()?;
        let views = self.views(removed, changes, dtype)?;
        let weight_bytes = Bytes(views.iter().map(|(_, view)| view.data_len() as u64).sum());

        fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
        self.clear_names(folder)?;
        write_weights(&folder.join("model.safetensors"), views)?;
        write_atomically(&folder.join("tokenizer.json"), tokenizer.as_bytes())?;
        self.write_tokenizer_config(folder)?;
        self.write_generation_config(folder)?;
        // Last: a folder without config.json is not a checkpoint, so a broken-off export is none.
        write_json(&folder.join("config.json"), &config)?;
        Ok(ExportReport {
            blocks: depth - removed.len(),
            weight_bytes,
        })
    }

    /// Takes away what would make a loader read older weights in `folder`; refuses the source's own.
    fn clear_names(&self, folder: &Path) -> Result<()> {
        let same = |path: &Path| fs::canonicalize(path).ok();
        if same(folder).is_some() && same(folder) == same(self.path()) {
            let reason = format!("{} is the checkpoint it is read from", folder.display());
            return Err(Error::Export {
                form: "a folder",
                reason,
            });
        }
        for name in ["config.json", "model.safetensors.index.json"] {
            let path = folder.join(name);
            if path.is_file() {
                fs::remove_file(&path).map_err(Error::io("replace", &path))?;
            }
        }
        Ok(())
    }

    fn views(
        &self,
        removed: &BlockSet,
        changes: &Changes<'_>,
        dtype: DType,
    ) -> Result<Vec<(String, LazyView)>> {
        let kept: Vec<usize> = removed.complement().to_indices();
        let view = |tensor: PackTensor, name: String| (name, LazyView { tensor, dtype });
        let named = slots(self.config()).into_iter().zip(self.tensors()?);
        let named = changes.narrow.with_biases(named);
        let renumbered = named.filter_map(|(slot, tensor)| match slot.block {
            None => Some(view(tensor, slot.hf)),
            Some((block, part)) => {
                let layer = kept.iter().position(|&kept| kept == block)?;
                let id = BlockId::new(block);
                let repair = changes.repaired.get(&id);
                let repair = repair.and_then(|weights| weights.get(&part));
                let tensor = repair.map_or(tensor, in_memory);
                let tensor = changes.narrow.changed(id, &part, tensor);
                Some(view(tensor, format!("model.layers.{layer}.{part}")))
            }
        });
        Ok(renumbered.collect())
    }

    fn write_tokenizer_config(&self, folder: &Path) -> Result<()> {
        let made = self.copied("tokenizer_config.json", folder)?;
        self.copied("special_tokens_map.json", folder)?;
        self.copied("chat_template.jinja", folder)?;
        if made {
            return Ok(());
        }
        let tokenizer = self.tokenizer()?;
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        let mut config = Map::from_iter([
            (
                "tokenizer_class".to_owned(),
                json!("PreTrainedTokenizerFast"),
            ),
            (
                "model_max_length".to_owned(),
                json!(self.config().context_length),
            ),
            ("clean_up_tokenization_spaces".to_owned(), json!(false)),
        ]);
        let ends = [
            ("bos_token", self.config().bos_token_id),
            ("eos_token", self.config().eos_token_ids.first().copied()),
        ];
        if let Some(template) = self.chat_template()? {
            config.insert("chat_template".to_owned(), json!(template));
        }
        config.extend(
            ends.into_iter()
                .filter_map(|(key, id)| token(id).map(|text| (key.to_owned(), json!(text)))),
        );
        write_json(
            &folder.join("tokenizer_config.json"),
            &Value::Object(config),
        )
    }

    fn write_generation_config(&self, folder: &Path) -> Result<()> {
        if self.copied("generation_config.json", folder)? {
            return Ok(());
        }
        let config = self.config();
        let ends = json!({"bos_token_id": config.bos_token_id, "eos_token_id": end_tokens(config)});
        write_json(&folder.join("generation_config.json"), &ends)
    }

    /// Copies a file that stands beside the source's weights; says whether there was one.
    fn copied(&self, name: &str, folder: &Path) -> Result<bool> {
        let source = self.path().join(name);
        if !source.is_file() {
            return Ok(false);
        }
        let bytes = fs::read(&source).map_err(Error::io("read", &source))?;
        write_atomically(&folder.join(name), &bytes)?;
        Ok(true)
    }
}

/// Writes a folder of a whole model whose tensors come in the order of [`slots`].
pub(super) fn write_folder(
    config: &ModelConfig,
    tensors: Vec<PackTensor>,
    tokenizer: &Value,
    dtype: DType,
    folder: &Path,
) -> Result<ExportReport> {
    let none = BlockSet::empty(config.n_blocks);
    let about = hf_config(config, &none, dtype, Value::Null)?;
    let view = |tensor: PackTensor| (tensor.name.clone(), LazyView { tensor, dtype });
    let views: Vec<_> = tensors.into_iter().map(view).collect();
    let weight_bytes = Bytes(views.iter().map(|(_, view)| view.data_len() as u64).sum());
    fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
    write_weights(&folder.join("model.safetensors"), views)?;
    write_json(&folder.join("tokenizer.json"), tokenizer)?;
    // Last: a folder without config.json is not a checkpoint, so a broken-off write is none.
    write_json(&folder.join("config.json"), &about)?;
    Ok(ExportReport {
        blocks: config.n_blocks,
        weight_bytes,
    })
}

/// What a stage has in place of the checkpoint's weights.
struct Changes<'c> {
    repaired: &'c StageRepair,
    narrow: Narrow,
}

/// A tensor that is not in the checkpoint.
fn in_memory(data: &TensorData) -> PackTensor {
    let copy = data.clone();
    let (dtype, shape) = (data.dtype(), data.shape().clone());
    bridge::deferred(String::new(), dtype, shape, None, move || Ok(copy.clone()))
}

/// A tensor that is read and converted when the writer asks for its bytes.
struct LazyView {
    tensor: PackTensor,
    dtype: DType,
}

impl View for LazyView {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            DType::BF16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        let read = self
            .tensor
            .to_bytes()
            .and_then(|bytes| convert(bytes, self.tensor.dtype, self.dtype));
        // The trait has no error; the header was checked when the checkpoint was opened, so only a
        // file that shrinks while it is mapped comes here. `write_weights` turns it into an error.
        let bytes = read.unwrap_or_else(|error| std::panic::panic_any(error.to_string()));
        std::borrow::Cow::Owned(bytes.to_vec())
    }

    fn data_len(&self) -> usize {
        self.tensor.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Streams the tensors to a temporary sibling, flushes it and renames it.
fn write_weights(path: &Path, views: Vec<(String, LazyView)>) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = temporary_sibling(folder)?;
    let ordinary = temporary.as_file().metadata();
    let ordinary = ordinary.map_err(Error::io("write", path))?.permissions();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let target = temporary.path().to_owned();
    let write = move || safetensors::serialize_to_file(views, Some(metadata), &target);
    let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(write));
    let failed = |reason: String| Error::Safetensors {
        path: path.to_owned(),
        reason,
    };
    match written {
        Ok(Ok(())) => {}
        Ok(Err(safetensors::SafeTensorError::IoError(source))) => {
            return Err(Error::Io {
                action: "write",
                path: path.to_owned(),
                source,
            });
        }
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(panic) => {
            return Err(failed(
                panic.downcast_ref::<String>().cloned().unwrap_or_default(),
            ));
        }
    }
    // `serialize_to_file` may have put a private file of its own in the temporary one's place.
    File::open(temporary.path())
        .and_then(|file| {
            file.set_permissions(ordinary)?;
            file.sync_data()
        })
        .map_err(Error::io("write", path))?;
    temporary.persist(path).map_err(|failed| Error::Io {
        action: "write",
        path: path.to_owned(),
        source: failed.error,
    })?;
    Ok(())
}

fn hf_config(
    config: &ModelConfig,
    removed: &BlockSet,
    dtype: DType,
    pdtrim: Value,
) -> Result<Value> {
    let dtype = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    let mut written = json!({
        "architectures": [config.architecture.class_name()],
        "model_type": config.architecture.model_type(),
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_blocks - removed.len(),
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
        "torch_dtype": dtype,
        "use_cache": true,
    });
    for (key, biased) in [
        ("attention_bias", config.attention_bias),
        ("mlp_bias", config.mlp_bias),
    ] {
        if biased {
            written[key] = json!(true);
        }
    }
    if !pdtrim.is_null() {
        written["pdtrim"] = pdtrim;
    }
    Ok(written)
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

fn end_tokens(config: &ModelConfig) -> Value {
    match config.eos_token_ids.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        many => json!(many),
    }
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value can be written");
    write_atomically(path, format!("{text}\n").as_bytes())
}
