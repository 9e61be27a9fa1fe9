//! Repaired weights: what each stage has of its own in the blocks before removed runs, and the file beside
//! the plan that keeps them (ours; arXiv:2509.04467v4 removes blocks without one).
//!
//! The file is a safetensors file of f32 tensors, called `prefill.layers.{l}.` or `decode.layers.{l}.` and the
//! name that the weight has in its block, `mlp.down_proj.weight` say, where `l` is the block's depth in the
//! dense model. All other weights are the model's own, and so are those that make keys and values.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};
use safetensors::serialize;
use safetensors::tensor::{Dtype, TensorView};

use crate::atomic::write_atomically;
use crate::block::{BlockId, BlockSet};
use crate::checkpoint::{DOWN_PROJ, block_shapes, open_safetensors};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::limits;
use crate::model::{BlockModules, BlockWeights, DownProjs, Llama, MlpOutput, with_weights};
use crate::plan::{Plan, RepairFile};
use crate::stage::{PerStage, Stage};
use crate::text::read_bytes;
use crate::units::Bytes;

/// Name under which a repair is written.
pub const REPAIR_FILE: &str = "repair.safetensors";

/// Repaired weights by block.
///
/// ```
/// use pdtrim_core::model::{BlockModules, block_weights};
/// use pdtrim_core::repair::StageRepair;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::BlockId;
///
/// let model = TinyModel::default().build();
/// let id = BlockId::new(1);
/// let repair = StageRepair::from([(id, block_weights(&model.block_module(id)))]);
/// assert!(repair[&id].contains_key("mlp.down_proj.weight"));
/// ```
pub type StageRepair = BTreeMap<BlockId, BlockWeights>;

/// The weights that a repair gave each stage.
///
/// ```
/// use pdtrim_core::model::MlpOutput;
/// use pdtrim_core::repair::RepairWeights;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockId, Stage};
///
/// let model = TinyModel::default().build();
/// let id = BlockId::new(1);
/// let mut repair = RepairWeights::default();
/// repair.insert(Stage::Decode, id, model.down_proj(id) * 1.1);
/// // Decode has a model of its own, prefill runs the one that is there.
/// assert!(repair.apply(&model, Stage::Decode).is_some());
/// assert!(repair.apply(&model, Stage::Prefill).is_none());
/// ```
#[derive(Clone, Debug, Default)]
pub struct RepairWeights {
    stages: PerStage<StageRepair>,
}

impl RepairWeights {
    /// Gives block `id` another output layer `[hidden, intermediate]` of its MLP in `stage`.
    ///
    /// # Panics
    ///
    /// Panics if the tensor cannot be read from its device.
    pub fn insert(&mut self, stage: Stage, id: BlockId, down_proj: Tensor<2>) {
        let data = Tensor::<2>::cast(down_proj, DType::F32).into_data();
        self.insert_weights(stage, id, [(DOWN_PROJ.to_owned(), data)].into());
    }

    /// Gives block `id` other weights, in f32, in `stage`.
    pub fn insert_weights(&mut self, stage: Stage, id: BlockId, weights: BlockWeights) {
        self.blocks(stage).entry(id).or_default().extend(weights);
    }

    /// The weights of `stage`.
    pub fn of(&self, stage: Stage) -> &StageRepair {
        self.stages.of(stage)
    }

    /// Whether no stage was given a weight.
    pub fn is_empty(&self) -> bool {
        self.stages.prefill.is_empty() && self.stages.decode.is_empty()
    }

    fn blocks(&mut self, stage: Stage) -> &mut StageRepair {
        match stage {
            Stage::Prefill => &mut self.stages.prefill,
            Stage::Decode => &mut self.stages.decode,
        }
    }

    /// `model` with the weights of `stage`, sharing all others with it; `None` if the stage has none.
    pub fn apply<M: BlockModules>(&self, model: &M, stage: Stage) -> Option<M> {
        let blocks: BTreeMap<BlockId, M::Block> = self
            .of(stage)
            .iter()
            .map(|(&id, weights)| (id, with_weights(model.block_module(id), weights)))
            .collect();
        (!blocks.is_empty()).then(|| model.with_block_modules(&blocks))
    }

    /// As [`apply`](Self::apply) for a model of which a linear repair needs to know no more: only output
    /// layers of MLPs are replaced.
    pub fn apply_down_projs<M: MlpOutput>(&self, model: &M, stage: Stage) -> Option<M> {
        let place = (model.device(), DType::F32);
        let tensor = |data: &TensorData| {
            Tensor::<2>::cast(Tensor::<2>::from_data(data.clone(), place), model.dtype())
        };
        let layers: DownProjs = self
            .of(stage)
            .iter()
            .filter_map(|(&id, weights)| Some((id, tensor(weights.get(DOWN_PROJ)?))))
            .collect();
        (!layers.is_empty()).then(|| model.with_down_projs(&layers))
    }

    /// Writes the weights to `folder`, as [`REPAIR_FILE`]; returns what a plan says of the file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Safetensors`]; an older file is then as it was.
    pub fn write(&self, folder: &Path) -> Result<RepairFile> {
        let path = folder.join(REPAIR_FILE);
        let failed = |error: safetensors::SafeTensorError| Error::Safetensors {
            path: path.clone(),
            reason: error.to_string(),
        };
        let mut views = Vec::new();
        for stage in [Stage::Prefill, Stage::Decode] {
            for (&id, weights) in self.of(stage) {
                for (name, data) in weights {
                    let shape = data.shape().to_vec();
                    let view =
                        TensorView::new(Dtype::F32, shape, data.as_bytes()).map_err(failed)?;
                    views.push((tensor_name(stage, id, name), view));
                }
            }
        }
        let bytes = serialize(views, None).map_err(failed)?;
        write_atomically(&path, &bytes)?;
        Ok(RepairFile {
            name: REPAIR_FILE.to_owned(),
            sha256: hash(&bytes),
        })
    }

    /// Reads the weights of `plan`, which lies at `plan_path`; none if it has no repair.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn of_plan(plan: &Plan, plan_path: &Path, config: &ModelConfig) -> Result<Self> {
        let Some(file) = &plan.file().repair_file else {
            return Ok(Self::default());
        };
        let folder = plan_path.parent().unwrap_or(Path::new(""));
        Self::read(file, folder, plan.removed(), config)
    }

    /// Reads the weights of a model without the blocks in `removed` from `file` in `folder`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::NotAFile`], [`Error::FileSize`], [`Error::RepairHash`],
    /// [`Error::Safetensors`], [`Error::RepairTensor`] or [`Error::TensorShape`].
    pub fn read(
        file: &RepairFile,
        folder: &Path,
        removed: &PerStage<BlockSet>,
        config: &ModelConfig,
    ) -> Result<Self> {
        let path = folder.join(&file.name);
        let bytes = read_bytes(&path, size_limit(config))?;
        let found = hash(&bytes);
        if found != file.sha256 {
            let expected = file.sha256.clone();
            return Err(Error::RepairHash {
                path,
                expected,
                found,
            });
        }
        let tensors = open_safetensors(&path, &bytes)?;
        let door = Door {
            removed,
            path: &path,
            config,
        };
        let mut weights = Self::default();
        for (name, view) in tensors.iter() {
            let (stage, id, part) = door.place(name)?;
            let data = door.values(name, part, &view)?;
            weights.insert_weights(stage, id, [(part.to_owned(), data)].into());
        }
        Ok(weights)
    }
}

/// The most that the weights of both stages can take: every block's, in f32, and the header.
fn size_limit(config: &ModelConfig) -> Bytes {
    let parameters = config.block_parameters().saturating_mul(config.n_blocks);
    let weights = parameters.saturating_mul(2 * size_of::<f32>());
    Bytes(limits::SAFETENSORS_HEADER.0.saturating_add(weights as u64))
}

/// What the tensors of a file have to fit.
struct Door<'d> {
    removed: &'d PerStage<BlockSet>,
    path: &'d Path,
    config: &'d ModelConfig,
}

impl Door<'_> {
    /// The stage, the block and the weight that a tensor is for, if the plan has that block there.
    fn place<'n>(&self, name: &'n str) -> Result<(Stage, BlockId, &'n str)> {
        let refused = |expected, found| self.refused(name, expected, found);
        let depth = self.config.n_blocks;
        let Some((stage, block, part)) = parsed(name) else {
            let expected = format!("{{prefill|decode}}.layers.{{l}}.{DOWN_PROJ}, for example");
            return Err(refused(expected, "another name".to_owned()));
        };
        if block >= depth {
            let expected = format!("a block of the model, 0 to {}", depth.saturating_sub(1));
            return Err(refused(expected, format!("block {block}")));
        }
        let id = BlockId::new(block);
        let removed = self.removed.of(stage);
        if removed.contains(id) {
            let expected = format!("a block that {stage} keeps");
            return Err(refused(
                expected,
                format!("block {id}, removed ({removed})"),
            ));
        }
        if Llama::makes_kv(part) {
            let expected = "no weight that keys and values depend on".to_owned();
            return Err(refused(expected, part.to_owned()));
        }
        Ok((stage, id, part))
    }

    fn values(&self, name: &str, part: &str, view: &TensorView<'_>) -> Result<TensorData> {
        if view.dtype() != Dtype::F32 {
            let found = format!("{:?}", view.dtype());
            return Err(self.refused(name, "elements of type F32".to_owned(), found));
        }
        let Some(expected) = block_shapes(self.config).remove(part) else {
            let expected = "a weight of a block".to_owned();
            return Err(self.refused(name, expected, part.to_owned()));
        };
        if view.shape() != expected {
            return Err(Error::TensorShape {
                path: self.path.to_owned(),
                tensor: name.to_owned(),
                expected,
                found: view.shape().to_vec(),
            });
        }
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        Ok(TensorData::new(values, expected))
    }

    fn refused(&self, tensor: &str, expected: String, found: String) -> Error {
        Error::RepairTensor {
            path: self.path.to_owned(),
            tensor: tensor.to_owned(),
            expected,
            found,
        }
    }
}

fn tensor_name(stage: Stage, id: BlockId, part: &str) -> String {
    format!("{stage}.layers.{id}.{part}")
}

fn parsed(name: &str) -> Option<(Stage, usize, &str)> {
    let (stage, rest) = name.split_once(".layers.")?;
    let stage = match stage {
        "prefill" => Stage::Prefill,
        "decode" => Stage::Decode,
        _ => return None,
    };
    let (block, part) = rest.split_once('.')?;
    Some((stage, block.parse().ok()?, part))
}

fn hash(bytes: &[u8]) -> String {
    format!("sha256:{}", crate::hash::sha256(bytes))
}

#[cfg(test)]
mod tests;
