//! The safetensors files of a Hugging Face folder: which there are, and the tensors in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::store::bridge;
use burn::store::burn_pack::{Error as PackError, Tensor as PackTensor};
use burn::tensor::{AllocationProperty, Bytes, DType, Shape, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::hf::read_json;
use crate::error::{Error, Result};
use crate::limits;
use crate::text::open_file;

/// Where the bytes of a tensor come from when they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The mapped file: `burn-store`'s own reader copies each tensor, which doubles the time to the first
    /// token of a model that is in the file cache.
    Mapped,
    /// A read of the file: for a copy of all tensors, whose mapped pages would fill the process's memory.
    Read,
}

/// The safetensors files of the folder at `path`: those of the index if there is one.
pub(super) fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    let index_path = path.join("model.safetensors.index.json");
    if !index_path.is_file() {
        let single = path.join("model.safetensors");
        if single.is_file() {
            return Ok(vec![single]);
        }
        return Err(Error::NotACheckpoint {
            path: path.to_owned(),
            expected: "model.safetensors or model.safetensors.index.json beside config.json",
            found: "neither".to_owned(),
        });
    }
    let index: ShardIndex = read_json(&index_path, limits::INDEX)?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    let shard = |name: String| {
        let shard = path.join(&name);
        let plain = Path::new(&name)
            .file_name()
            .is_some_and(|file| file == name.as_str());
        if plain && shard.is_file() {
            return Ok(shard);
        }
        Err(Error::Config {
            path: index_path.clone(),
            field: "weight_map".to_owned(),
            expected: "names of files in the same folder".to_owned(),
            found: format!("`{name}`"),
        })
    };
    names.into_iter().map(shard).collect()
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The tensors of a safetensors file, not yet read.
pub(super) fn tensors(path: &Path, access: Access) -> Result<Vec<PackTensor>> {
    let broken = |reason: String| Error::Safetensors {
        path: path.to_owned(),
        reason,
    };
    let file = map(path)?;
    let held = open_safetensors(path, &file)?;
    let tensor = |(name, view): (String, TensorView<'_>)| {
        let dtype = burn_dtype(view.dtype())
            .ok_or_else(|| broken(format!("{name} has elements of type {:?}", view.dtype())))?;
        let shape = Shape::from(view.shape().to_vec());
        let bytes = match access {
            Access::Mapped => Place::Mapped(file.slice_ref(view.data())),
            Access::Read => Place::File {
                path: path.to_owned(),
                offset: view.data().as_ptr().addr() - file.as_ptr().addr(),
                len: view.data().len(),
            },
        };
        Ok(bridge::deferred(
            name,
            dtype,
            shape.clone(),
            None,
            move || {
                TensorData::try_from_bytes(bytes.read()?, shape.clone(), dtype)
                    .map_err(|error| PackError::TensorBytesSizeMismatch(error.to_string()))
            },
        ))
    };
    held.tensors().into_iter().map(tensor).collect()
}

/// The tensors of the safetensors file that was read from `path`.
///
/// A header larger than any model's is refused before the library, whose own limit is 100 MB, makes objects of
/// it; see [`limits`].
///
/// # Errors
///
/// [`Error::Safetensors`].
pub(crate) fn open_safetensors<'f>(path: &Path, file: &'f [u8]) -> Result<SafeTensors<'f>> {
    let broken = |reason: String| Error::Safetensors {
        path: path.to_owned(),
        reason,
    };
    let limit = limits::SAFETENSORS_HEADER.0;
    match file.first_chunk().map(|size| u64::from_le_bytes(*size)) {
        Some(found) if found > limit => Err(broken(format!(
            "expected a header of at most {limit} bytes, found {found}"
        ))),
        _ => SafeTensors::deserialize(file).map_err(|error| broken(error.to_string())),
    }
}

/// Where a tensor's bytes lie.
enum Place {
    Mapped(bytes::Bytes),
    File {
        path: PathBuf,
        offset: usize,
        len: usize,
    },
}

impl Place {
    fn read(&self) -> Result<Bytes, PackError> {
        match self {
            Self::Mapped(bytes) => Ok(Bytes::from_shared(bytes.clone(), AllocationProperty::File)),
            Self::File { path, offset, len } => {
                let read = || {
                    let mut bytes = vec![0; *len];
                    let mut file = File::open(path)?;
                    file.seek(SeekFrom::Start(*offset as u64))?;
                    file.read_exact(&mut bytes)?;
                    Ok(bytes)
                };
                let read: std::io::Result<Vec<u8>> = read();
                let failed = |error| PackError::IoError(format!("{}: {error}", path.display()));
                Ok(Bytes::from_bytes_vec(read.map_err(failed)?))
            }
        }
    }
}

#[expect(unsafe_code, reason = "checkpoints are mapped, not read")]
fn map(path: &Path) -> Result<bytes::Bytes> {
    let file = open_file(path)?;
    // SAFETY: as with every program that maps a checkpoint, the file must not be truncated or
    // rewritten in place while it is in use. `pdtrim` itself replaces files by renaming.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("map", path))?;
    Ok(bytes::Bytes::from_owner(map))
}

fn burn_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::I64 => Some(DType::I64),
        Dtype::I32 => Some(DType::I32),
        Dtype::U8 => Some(DType::U8),
        _ => None,
    }
}
