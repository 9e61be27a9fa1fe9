//! The file beside the plan with the biases of narrower blocks: f32 tensors `[hidden]`, called
//! `prefill.layers.{l}.self_attn.o_proj.bias` and `….mlp.down_proj.bias`, or `decode.…`.

use std::path::Path;

use safetensors::serialize;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::{StageBiases, Widths};
use crate::atomic::write_atomically;
use crate::block::{BlockId, BlockSet};
use crate::checkpoint::{DOWN_PROJ_BIAS, O_PROJ_BIAS, open_safetensors};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::limits;
use crate::stage::{PerStage, Stage};
use crate::text::read_bytes;
use crate::units::Bytes;

/// Name under which biases are written.
pub const WIDTH_FILE: &str = "width.safetensors";

/// The bias of the attention's output layer and of the MLP's, by their path in a block.
const PARTS: [&str; 2] = [O_PROJ_BIAS, DOWN_PROJ_BIAS];

/// The file beside the plan that holds biases.
///
/// ```
/// use pdtrim_core::width::{BlockBiases, StageBiases, WidthFile, Widths};
/// use pdtrim_core::BlockId;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let mut widths = Widths::default();
/// assert_eq!(widths.write_biases(folder.path())?, None);
/// let bias = BlockBiases { mlp: vec![0.5; 32], ..BlockBiases::default() };
/// widths.biases.decode = StageBiases::from([(BlockId::new(1), bias)]);
/// let file: Option<WidthFile> = widths.write_biases(folder.path())?;
/// assert_eq!(file.map(|file| file.name).as_deref(), Some("width.safetensors"));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WidthFile {
    /// Its name, in the plan's own folder.
    pub name: String,
    /// `sha256:` and the hash of its bytes.
    pub sha256: String,
}

impl Widths {
    /// Writes the biases to `folder`, as [`WIDTH_FILE`]; returns what a plan says of the file, `None` if
    /// there is no bias and so no file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Safetensors`]; an older file is then as it was.
    pub fn write_biases(&self, folder: &Path) -> Result<Option<WidthFile>> {
        let path = folder.join(WIDTH_FILE);
        let failed = |error: safetensors::SafeTensorError| Error::Safetensors {
            path: path.clone(),
            reason: error.to_string(),
        };
        let mut views = Vec::new();
        for stage in [Stage::Prefill, Stage::Decode] {
            for (id, biases) in self.biases.of(stage) {
                for (part, bias) in PARTS.into_iter().zip([&biases.attention, &biases.mlp]) {
                    if bias.is_empty() {
                        continue;
                    }
                    let bytes = bytemuck::cast_slice(bias);
                    let view = TensorView::new(Dtype::F32, vec![bias.len()], bytes);
                    views.push((format!("{stage}.layers.{id}.{part}"), view.map_err(failed)?));
                }
            }
        }
        if views.is_empty() {
            return Ok(None);
        }
        let bytes = serialize(views, None).map_err(failed)?;
        write_atomically(&path, &bytes)?;
        Ok(Some(WidthFile {
            name: WIDTH_FILE.to_owned(),
            sha256: hash(&bytes),
        }))
    }
}

/// Reads the biases of a model without the blocks in `removed` from `file` in `folder`.
///
/// # Errors
///
/// [`Error::Io`], [`Error::NotAFile`], [`Error::FileSize`], [`Error::WidthHash`], [`Error::Safetensors`] or
/// [`Error::RepairTensor`].
pub(super) fn read(
    file: &WidthFile,
    folder: &Path,
    removed: &PerStage<BlockSet>,
    config: &ModelConfig,
) -> Result<PerStage<StageBiases>> {
    let path = folder.join(&file.name);
    let bytes = read_bytes(&path, size_limit(config))?;
    let found = hash(&bytes);
    if found != file.sha256 {
        let expected = file.sha256.clone();
        return Err(Error::WidthHash {
            path,
            expected,
            found,
        });
    }
    let tensors = open_safetensors(&path, &bytes)?;
    let mut biases = PerStage::<StageBiases>::default();
    for (name, view) in tensors.iter() {
        let refused = |expected: String, found: String| Error::RepairTensor {
            path: path.clone(),
            tensor: name.to_owned(),
            expected,
            found,
        };
        let Some((stage, id, part)) = parsed(name, config.n_blocks) else {
            let expected = format!("{{prefill|decode}}.layers.{{l}}.{} or …", PARTS[0]);
            return Err(refused(expected, "another name".to_owned()));
        };
        if removed.of(stage).contains(id) {
            let expected = format!("a block that {stage} keeps");
            return Err(refused(expected, format!("block {id}, removed")));
        }
        if view.dtype() != Dtype::F32 || view.shape() != [config.hidden_size] {
            let expected = format!("F32 of shape [{}]", config.hidden_size);
            let found = format!("{:?} of shape {:?}", view.dtype(), view.shape());
            return Err(refused(expected, found));
        }
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        let stage = match stage {
            Stage::Prefill => &mut biases.prefill,
            Stage::Decode => &mut biases.decode,
        };
        let block = stage.entry(id).or_default();
        match part {
            0 => block.attention = values,
            _ => block.mlp = values,
        }
    }
    Ok(biases)
}

/// The most that the biases of both stages can take: two for each block, in f32, and the header.
fn size_limit(config: &ModelConfig) -> Bytes {
    let values = 2 * PARTS.len() * config.n_blocks * config.hidden_size;
    Bytes(limits::SAFETENSORS_HEADER.0 + (values * size_of::<f32>()) as u64)
}

/// Stage, block and place in [`PARTS`] of a tensor's name.
fn parsed(name: &str, depth: usize) -> Option<(Stage, BlockId, usize)> {
    let (stage, rest) = name.split_once(".layers.")?;
    let stage = match stage {
        "prefill" => Stage::Prefill,
        "decode" => Stage::Decode,
        _ => return None,
    };
    let (block, part) = rest.split_once('.')?;
    let block: usize = block.parse().ok()?;
    let part = PARTS.iter().position(|known| *known == part)?;
    (block < depth).then(|| (stage, BlockId::new(block), part))
}

fn hash(bytes: &[u8]) -> String {
    format!("sha256:{}", crate::hash::sha256(bytes))
}
