//! Weights as safetensors files, streamed: one tensor is held at a time.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::store::burn_pack::Tensor as PackTensor;
use burn::tensor::DType;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, Value, json};

use super::super::weights::convert;
use super::write_json;
use crate::atomic::{put, temporary_sibling};
use crate::error::{Error, Result};
use crate::units::Bytes;

/// A tensor that is read and converted when it is written.
pub(super) struct OutTensor {
    pub(super) name: String,
    pub(super) tensor: PackTensor,
    /// Element type in the written file.
    pub(super) dtype: DType,
    /// The checkpoint it comes from.
    pub(super) source: PathBuf,
}

impl OutTensor {
    fn len(&self) -> usize {
        self.tensor.shape.num_elements() * self.dtype.size()
    }
}

/// Bytes of all tensors together.
pub(super) fn total(tensors: &[OutTensor]) -> Bytes {
    tensors
        .iter()
        .map(|tensor| Bytes(tensor.len() as u64))
        .sum()
}

/// Writes `model.safetensors`, or files of at most `max_shard` bytes of weights and their index; returns how
/// many files hold weights.
pub(super) fn write(folder: &Path, tensors: Vec<OutTensor>, max_shard: Bytes) -> Result<usize> {
    let total = total(&tensors);
    let shards = split(tensors, max_shard);
    let count = shards.len();
    if count == 1 {
        for shard in shards {
            write_file(&folder.join("model.safetensors"), shard)?;
        }
        return Ok(1);
    }
    let mut places = Map::new();
    for (n, shard) in shards.into_iter().enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", n + 1);
        places.extend(
            shard
                .iter()
                .map(|tensor| (tensor.name.clone(), json!(name))),
        );
        write_file(&folder.join(name), shard)?;
    }
    let index = json!({"metadata": {"total_size": total.0}, "weight_map": Value::Object(places)});
    write_json(&folder.join("model.safetensors.index.json"), &index)?;
    Ok(count)
}

/// Tensors in their order, in files that stay within the limit unless a single tensor is larger.
fn split(tensors: Vec<OutTensor>, max_shard: Bytes) -> Vec<Vec<OutTensor>> {
    let mut shards: Vec<Vec<OutTensor>> = vec![Vec::new()];
    let mut held = 0;
    for tensor in tensors {
        let len = tensor.len() as u64;
        let last = shards.len() - 1;
        if held + len > max_shard.0 && !shards[last].is_empty() {
            shards.push(vec![tensor]);
            held = len;
        } else {
            shards[last].push(tensor);
            held += len;
        }
    }
    shards
}

/// Writes one file to a temporary sibling, flushes it and renames it.
fn write_file(path: &Path, tensors: Vec<OutTensor>) -> Result<()> {
    let mut file = temporary_sibling(path)?;
    let header = header(path, &tensors)?;
    file.write_all(&header).map_err(Error::io("write", path))?;
    for out in tensors {
        let read = out.tensor.to_bytes();
        let bytes = read.and_then(|bytes| convert(bytes, out.tensor.dtype, out.dtype));
        let bytes = bytes.map_err(|error| Error::TensorLoad {
            path: out.source,
            tensor: out.name,
            reason: error.to_string(),
        })?;
        file.write_all(&bytes).map_err(Error::io("write", path))?;
    }
    put(file, path)
}

/// The length of the header and the header, which says where each tensor lies.
fn header(path: &Path, tensors: &[OutTensor]) -> Result<Vec<u8>> {
    let mut end = 0;
    let entries = tensors.iter().map(|out| {
        let start = end;
        end += out.len();
        let info = TensorInfo {
            dtype: dtype(out.dtype),
            shape: out.tensor.shape.to_vec(),
            data_offsets: (start, end),
        };
        (out.name.clone(), info)
    });
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let checked = Metadata::new(Some(about), entries.collect());
    let checked = checked.map_err(|error| Error::Safetensors {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let mut text = serde_json::to_vec(&checked).expect("a header is plain JSON");
    // The data starts at a multiple of 8, as elsewhere, so that a mapped file can be used where it lies.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    Ok(header)
}

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        _ => Dtype::F32,
    }
}
