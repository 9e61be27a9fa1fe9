//! A folder of a whole model that is no checkpoint yet.

use std::fs;
use std::path::Path;

use burn::store::burn_pack::Tensor as PackTensor;
use burn::tensor::DType;
use serde_json::Value;

use super::weights::{self, OutTensor};
use super::{ExportReport, ExportSettings, config, space, write_json};
use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// Writes a folder of a whole model whose tensors come in the order of [`slots`](super::slots).
pub(in super::super) fn write_folder(
    config: &ModelConfig,
    tensors: Vec<PackTensor>,
    tokenizer: &Value,
    dtype: DType,
    folder: &Path,
) -> Result<ExportReport> {
    let mut fields = config::made(config)?;
    config::set_dtype(&mut fields, dtype);
    config::set_biases(&mut fields, config);
    let out = |tensor: PackTensor| OutTensor {
        name: tensor.name.clone(),
        tensor,
        dtype,
        source: folder.to_owned(),
    };
    let tensors: Vec<OutTensor> = tensors.into_iter().map(out).collect();
    let weight_bytes = weights::total(&tensors);
    space::check(folder, weight_bytes)?;
    fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
    let weight_files = weights::write(folder, tensors, ExportSettings::MAX_SHARD)?;
    write_json(&folder.join("tokenizer.json"), tokenizer)?;
    // Last: a folder without config.json is not a checkpoint, so a broken-off write is none.
    write_json(&folder.join("config.json"), &Value::Object(fields))?;
    Ok(ExportReport {
        blocks: config.n_blocks,
        weight_bytes,
        weight_files,
    })
}
