//! Narrower blocks in the dense model's shapes: zeros in the place of what is removed.

use burn::store::bridge;
use burn::store::burn_pack::Tensor as PackTensor;
use burn::tensor::{DType, Shape, TensorData};

use super::super::names::{DOWN_PROJ, DOWN_PROJ_BIAS, O_PROJ, O_PROJ_BIAS, Slot, slots};
use super::super::weights::convert;
use super::forms::ExportForm;
use crate::block::BlockId;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::width::{BlockBiases, Indices, RemovedWidth, StageBiases, StageWidths};

/// What is zero in a stage's weights, and its biases.
pub(super) struct Narrow {
    config: ModelConfig,
    widths: StageWidths,
    biases: StageBiases,
}

impl Narrow {
    /// Nothing of `config`'s model.
    pub(super) fn none(config: &ModelConfig) -> Self {
        Self {
            config: config.clone(),
            widths: StageWidths::default(),
            biases: StageBiases::default(),
        }
    }

    /// # Errors
    ///
    /// [`Error::Export`](crate::Error::Export) for biases that the form has no place for.
    pub(super) fn new(
        config: &ModelConfig,
        form: ExportForm,
        widths: &StageWidths,
        biases: &StageBiases,
    ) -> Result<Self> {
        let any = |part: fn(&BlockBiases) -> &Vec<f32>| {
            let mut blocks = biases.values();
            blocks.any(|block| !part(block).is_empty())
        };
        let (attention, mlp) = (any(|block| &block.attention), any(|block| &block.mlp));
        if attention || mlp {
            form.check_biases(config)?;
        }
        Ok(Self {
            config: ModelConfig {
                attention_bias: config.attention_bias || attention,
                mlp_bias: config.mlp_bias || mlp,
                ..config.clone()
            },
            widths: widths.clone(),
            biases: biases.clone(),
        })
    }

    /// The written model's configuration.
    pub(super) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The tensors, and zeros for the biases that the checkpoint lacks.
    pub(super) fn with_biases(
        &self,
        held: impl Iterator<Item = (Slot, PackTensor)>,
    ) -> impl Iterator<Item = (Slot, PackTensor)> {
        let mut held: Vec<(Slot, PackTensor)> = held.collect();
        let names: std::collections::BTreeSet<String> =
            held.iter().map(|(slot, _)| slot.hf.clone()).collect();
        let missing = slots(&self.config).into_iter();
        let missing = missing.filter(|slot| !names.contains(&slot.hf));
        held.extend(missing.map(|slot| {
            let zeros = vec![0.0; slot.shape.iter().product()];
            let tensor = in_memory(zeros, Shape::from(slot.shape.clone()));
            (slot, tensor)
        }));
        held.into_iter()
    }

    /// The tensor `part` of block `id` as it is written.
    pub(super) fn changed(&self, id: BlockId, part: &str, tensor: PackTensor) -> PackTensor {
        let removed = self
            .widths
            .get(&id)
            .and_then(|width| self.removed(width, part));
        let added = self.biases.get(&id).and_then(|biases| match part {
            O_PROJ_BIAS => Some(&biases.attention),
            DOWN_PROJ_BIAS => Some(&biases.mlp),
            _ => None,
        });
        let added = added.filter(|values| !values.is_empty()).cloned();
        if removed.is_none() && added.is_none() {
            return tensor;
        }
        let shape = tensor.shape.clone();
        let size = shape.clone();
        bridge::deferred(String::new(), DType::F32, shape, None, move || {
            let bytes = convert(tensor.to_bytes()?, tensor.dtype, DType::F32)?;
            let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
            for (value, added) in values.iter_mut().zip(added.iter().flatten()) {
                *value += added;
            }
            if let Some(removed) = &removed {
                removed.clear(&mut values, &size);
            }
            Ok(TensorData::new(values, size.clone()))
        })
    }

    /// The places of tensor `part` that are zero.
    fn removed(&self, width: &RemovedWidth, part: &str) -> Option<Places> {
        let in_group = self.config.n_heads / self.config.n_kv_heads;
        let (width_of_key, width_of_queries) =
            (self.config.head_dim, self.config.head_dim * in_group);
        let (set, unit, columns) = match part {
            "self_attn.q_proj.weight" | "self_attn.q_proj.bias" => {
                (&width.groups, width_of_queries, false)
            }
            "self_attn.k_proj.weight"
            | "self_attn.k_proj.bias"
            | "self_attn.v_proj.weight"
            | "self_attn.v_proj.bias" => (&width.groups, width_of_key, false),
            O_PROJ => (&width.groups, width_of_queries, true),
            "mlp.gate_proj.weight"
            | "mlp.gate_proj.bias"
            | "mlp.up_proj.weight"
            | "mlp.up_proj.bias" => (&width.channels, 1, false),
            DOWN_PROJ => (&width.channels, 1, true),
            _ => return None,
        };
        (!set.is_empty()).then(|| Places {
            set: set.clone(),
            unit,
            columns,
        })
    }
}

/// Rows or columns of a matrix, or places of a bias, in units of several.
struct Places {
    set: Indices,
    unit: usize,
    columns: bool,
}

impl Places {
    fn clear(&self, values: &mut [f32], shape: &[usize]) {
        let row = shape.get(1).copied().unwrap_or(1);
        for (index, value) in values.iter_mut().enumerate() {
            let place = if self.columns {
                index % row
            } else {
                index / row
            };
            if self.set.contains(place / self.unit) {
                *value = 0.0;
            }
        }
    }
}

fn in_memory(values: Vec<f32>, shape: Shape) -> PackTensor {
    let data = TensorData::new(values, shape.clone());
    bridge::deferred(String::new(), DType::F32, shape, None, move || {
        Ok(data.clone())
    })
}
