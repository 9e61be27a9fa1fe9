//! A Hugging Face folder: `config.json`, one or more safetensors files, `tokenizer.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::store::burn_pack::Tensor as PackTensor;
use burn::tensor::DType;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::TensorListing;
use super::names::{may_be_ignored, slots};
use super::shards::{self, Access, shards};
use crate::config::{Architecture, ModelConfig, RopeConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::limits;
use crate::text::read_text;
use crate::tokenizer::Tokenizer;
use crate::units::Bytes;

#[derive(Debug)]
pub(super) struct HfFolder {
    path: PathBuf,
    shards: Vec<PathBuf>,
}

/// `config.json` as transformers writes it; version 5 moved `RoPE` into `rope_parameters`.
#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    architectures: Vec<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    #[serde(default = "default_context")]
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f32>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize)]
struct RawRope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

#[derive(Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<OneOrMany>,
}

fn default_context() -> usize {
    2048
}

impl HfFolder {
    pub(super) fn open(path: &Path) -> Result<(ModelConfig, Self)> {
        let config_path = path.join("config.json");
        if !config_path.is_file() {
            return Err(Error::NotACheckpoint {
                path: path.to_owned(),
                expected: "a folder with config.json and safetensors, or a .gguf file",
                found: "a folder without config.json".to_owned(),
            });
        }
        let raw: RawConfig = read_json(&config_path, limits::CONFIG_VALUES)?;
        let mut config = raw.check(&config_path)?;
        // Chat models name more end tokens there than in config.json.
        let generation = path.join("generation_config.json");
        if generation.is_file()
            && let GenerationConfig {
                eos_token_id: Some(eos),
            } = read_json(&generation, limits::CONFIG)?
        {
            config.eos_token_ids = eos.into_vec();
        }
        Ok((
            config,
            Self {
                path: path.to_owned(),
                shards: shards(path)?,
            },
        ))
    }

    pub(super) fn shards(&self) -> &[PathBuf] {
        &self.shards
    }

    pub(super) fn tokenizer(&self, config: &ModelConfig) -> Result<Tokenizer> {
        let ends = (config.bos_token_id, config.eos_token_ids.first().copied());
        Tokenizer::read(&self.path.join("tokenizer.json"), config.vocab_size, ends)
    }

    /// The Jinja template for conversations: a file of its own in newer folders, a field in older ones, which
    /// may be a list of templates with names.
    pub(super) fn chat_template(&self) -> Result<Option<String>> {
        let alone = self.path.join("chat_template.jinja");
        if alone.is_file() {
            return read_text(&alone, limits::TEMPLATE).map(Some);
        }
        let config = self.path.join("tokenizer_config.json");
        if !config.is_file() {
            return Ok(None);
        }
        let field: TemplateField = read_json(&config, limits::CONFIG)?;
        Ok(match field.chat_template {
            Some(Templates::One(template)) => Some(template),
            Some(Templates::Named(named)) => {
                let mut named = named.into_iter();
                named
                    .find(|named| named.name == "default")
                    .map(|named| named.template)
            }
            None => None,
        })
    }

    /// `config.json` as it is.
    pub(super) fn config_json(&self) -> Result<Map<String, Value>> {
        read_json(&self.path.join("config.json"), limits::CONFIG_VALUES)
    }

    pub(super) fn listing(&self) -> Result<Vec<TensorListing>> {
        let listing = |tensor: &PackTensor| TensorListing {
            name: tensor.name.clone(),
            shape: tensor.shape.to_vec(),
            element_type: tensor.dtype.name().to_uppercase(),
            bytes: tensor.byte_len() as u64,
        };
        Ok(self
            .read_shards(Access::Mapped)?
            .values()
            .map(|(_, tensor)| listing(tensor))
            .collect())
    }

    pub(super) fn tensors(&self, config: &ModelConfig, access: Access) -> Result<Vec<PackTensor>> {
        let mut held = self.read_shards(access)?;
        let mut tensors = Vec::new();
        for slot in slots(config) {
            let Some((path, tensor)) = held.remove(&slot.hf) else {
                return Err(Error::MissingTensor {
                    path: self.path.clone(),
                    tensor: slot.hf,
                    expected: slot.shape,
                });
            };
            if tensor.shape.to_vec() != slot.shape {
                let found = tensor.shape.to_vec();
                return Err(Error::TensorShape {
                    path,
                    tensor: slot.hf,
                    expected: slot.shape,
                    found,
                });
            }
            if !matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16) {
                let found = format!("{:?}", tensor.dtype);
                return Err(Error::TensorDtype {
                    path,
                    tensor: slot.hf,
                    found,
                });
            }
            tensors.push(tensor);
        }
        match held.into_iter().find(|(name, _)| !may_be_ignored(name)) {
            Some((tensor, (path, _))) => {
                let architecture = config.architecture.class_name();
                Err(Error::UnusedTensor {
                    path,
                    tensor,
                    architecture,
                    blocks: config.n_blocks,
                })
            }
            None => Ok(tensors),
        }
    }

    /// Every tensor of every shard, not yet read, with the file it is in.
    fn read_shards(&self, access: Access) -> Result<BTreeMap<String, (PathBuf, PackTensor)>> {
        let mut tensors = BTreeMap::new();
        for path in &self.shards {
            let held = shards::tensors(path, access)?.into_iter();
            tensors.extend(held.map(|tensor| (tensor.name.clone(), (path.clone(), tensor))));
            if tensors.len() > limits::TENSORS {
                return Err(Error::TooMany {
                    path: self.path.clone(),
                    what: "tensors",
                    limit: limits::TENSORS as u64,
                });
            }
        }
        Ok(tensors)
    }
}

impl OneOrMany {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

/// What `tokenizer_config.json` says of conversations.
#[derive(Deserialize)]
struct TemplateField {
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path, limit: Bytes) -> Result<T> {
    let text = read_text(path, limit)?;
    serde_json::from_str(&text).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })
}

impl RawConfig {
    fn check(self, path: &Path) -> Result<ModelConfig> {
        let refuse = |field: &str, expected: &str, found: String| {
            Err(Error::Config {
                path: path.to_owned(),
                field: field.to_owned(),
                expected: expected.to_owned(),
                found,
            })
        };
        let known = |name: &String| {
            Architecture::ALL
                .into_iter()
                .find(|known| known.class_name() == name)
        };
        let Some(architecture) = self.architectures.iter().find_map(known) else {
            let names = Architecture::ALL.map(Architecture::class_name).join(", ");
            return refuse(
                "architectures",
                &format!("one of {names}"),
                format!("{:?}", self.architectures),
            );
        };
        if let Some(activation) = self
            .hidden_act
            .as_ref()
            .filter(|name| !matches!(name.as_str(), "silu" | "swish"))
        {
            return refuse("hidden_act", "silu", format!("`{activation}`"));
        }
        for (field, biased) in [
            ("attention_bias", self.attention_bias),
            ("mlp_bias", self.mlp_bias),
        ] {
            if biased == Some(true) && architecture != Architecture::Llama {
                let expected = "false: this architecture has no such biases";
                return refuse(field, expected, "true".to_owned());
            }
        }
        let rope = self.rope(path)?;
        // Qwen2 writes a window that it does not use.
        let window = self
            .sliding_window
            .filter(|_| self.use_sliding_window != Some(false));
        let context_length = window.map_or(self.max_position_embeddings, |window| {
            window.min(self.max_position_embeddings)
        });
        let config = ModelConfig {
            architecture,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            n_blocks: self.num_hidden_layers,
            n_heads: self.num_attention_heads,
            n_kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: self.head_dim.unwrap_or_else(|| {
                self.hidden_size
                    .checked_div(self.num_attention_heads)
                    .unwrap_or(0)
            }),
            vocab_size: self.vocab_size,
            context_length,
            rms_norm_eps: self.rms_norm_eps,
            rope,
            tied_embeddings: self.tie_word_embeddings.unwrap_or(false),
            attention_bias: self.attention_bias == Some(true),
            mlp_bias: self.mlp_bias == Some(true),
            bos_token_id: self.bos_token_id,
            eos_token_ids: self
                .eos_token_id
                .map(OneOrMany::into_vec)
                .unwrap_or_default(),
        };
        check(path, &config)?;
        Ok(config)
    }

    fn rope(&self, path: &Path) -> Result<RopeConfig> {
        let raw = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let theta = self
            .rope_theta
            .or_else(|| raw.and_then(|raw| raw.rope_theta))
            .unwrap_or(10_000.0);
        let missing = |field: &'static str, expected: &str, found: &str| Error::Config {
            path: path.to_owned(),
            field: format!("rope_scaling.{field}"),
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        let needed =
            |field, value: Option<f32>| value.ok_or_else(|| missing(field, "a number", "nothing"));
        let scaling = match raw.and_then(|raw| raw.rope_type.as_deref().map(|kind| (kind, raw))) {
            None | Some(("default", _)) => RopeScaling::None,
            Some(("linear", raw)) => RopeScaling::Linear {
                factor: needed("factor", raw.factor)?,
            },
            Some(("llama3", raw)) => RopeScaling::Llama3 {
                factor: needed("factor", raw.factor)?,
                low_freq_factor: needed("low_freq_factor", raw.low_freq_factor)?,
                high_freq_factor: needed("high_freq_factor", raw.high_freq_factor)?,
                original_context: raw.original_max_position_embeddings.ok_or_else(|| {
                    missing("original_max_position_embeddings", "a number", "nothing")
                })?,
            },
            Some((kind, _)) => {
                return Err(missing(
                    "rope_type",
                    "default, linear or llama3",
                    &format!("`{kind}`"),
                ));
            }
        };
        Ok(RopeConfig { theta, scaling })
    }
}

/// Largest width of a head.
pub(super) const MAX_HEAD_DIM: usize = 1 << 14;

/// Refuses sizes that no model has, or that would ask for absurd memory before a tensor is looked at.
pub(super) fn check(path: &Path, config: &ModelConfig) -> Result<()> {
    let fields = [
        ("hidden_size", config.hidden_size, 1 << 20),
        ("intermediate_size", config.intermediate_size, 1 << 22),
        ("num_hidden_layers", config.n_blocks, limits::BLOCKS),
        ("num_attention_heads", config.n_heads, 1 << 14),
        ("num_key_value_heads", config.n_kv_heads, 1 << 14),
        ("head_dim", config.head_dim, MAX_HEAD_DIM),
        ("vocab_size", config.vocab_size, 1 << 24),
        ("max_position_embeddings", config.context_length, 1 << 30),
    ];
    let refused = |field: &str, expected: String, found: String| {
        Err(Error::Config {
            path: path.to_owned(),
            field: field.to_owned(),
            expected,
            found,
        })
    };
    for (field, found, limit) in fields {
        if found == 0 || found > limit {
            return refused(field, format!("between 1 and {limit}"), found.to_string());
        }
    }
    if !config.n_heads.is_multiple_of(config.n_kv_heads) {
        let expected = format!("a divisor of the {} query heads", config.n_heads);
        return refused(
            "num_key_value_heads",
            expected,
            config.n_kv_heads.to_string(),
        );
    }
    if !config.head_dim.is_multiple_of(2) {
        return refused(
            "head_dim",
            "even: its halves are rotated".to_owned(),
            config.head_dim.to_string(),
        );
    }
    if !(config.rms_norm_eps > 0.0 && config.rms_norm_eps < 1.0) {
        return refused(
            "rms_norm_eps",
            "between 0 and 1".to_owned(),
            config.rms_norm_eps.to_string(),
        );
    }
    if !(config.rope.theta > 0.0 && config.rope.theta.is_finite()) {
        return refused(
            "rope_theta",
            "a positive number".to_owned(),
            config.rope.theta.to_string(),
        );
    }
    match &config.rope.scaling {
        RopeScaling::Factors(factors) if factors.len() != config.head_dim / 2 => refused(
            "rope_freqs.weight",
            format!("{} factors", config.head_dim / 2),
            factors.len().to_string(),
        ),
        _ => Ok(()),
    }
}
