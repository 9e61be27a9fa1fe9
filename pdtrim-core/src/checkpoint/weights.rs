//! Tensors of a checkpoint into the Burn module, through `burn-store`.

use std::path::Path;

use burn::store::burn_pack::{Error as PackError, Tensor as PackTensor};
use burn::store::{ApplyError, ApplyResult, ModuleSnapshot, bridge};
use burn::tensor::{Bytes, DType, Device, Shape, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;

use super::names::{Slot, slots};
use crate::block::BlockId;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::{Block, Llama, LlamaWeights};

pub(super) fn load(
    path: &Path,
    config: &ModelConfig,
    tensors: &[PackTensor],
    dtype: DType,
    device: &Device,
) -> Result<Llama> {
    let mut module = LlamaWeights::init(config, device);
    let by_slot = slots(config).into_iter().zip(tensors.iter().cloned());
    apply(path, &mut module, by_slot, dtype, device)?;
    Ok(Llama::new(config.clone(), module, device))
}

pub(super) fn load_streamed(
    path: &Path,
    config: &ModelConfig,
    tensors: &[PackTensor],
    dtype: DType,
    device: &Device,
) -> Result<Llama> {
    let mut blocks: Vec<Vec<(Slot, PackTensor)>> = vec![Vec::new(); config.n_blocks];
    let mut outside = Vec::new();
    for (mut slot, tensor) in slots(config).into_iter().zip(tensors.iter().cloned()) {
        match slot.block.take() {
            Some((block, part)) => {
                slot.module = part;
                blocks[block].push((slot, tensor));
            }
            None => outside.push((slot, tensor)),
        }
    }
    let mut module = LlamaWeights::init(config, device);
    module.layers.clear();
    apply(path, &mut module, outside.into_iter(), dtype, device)?;
    let read = {
        let (path, config, device) = (path.to_owned(), config.clone(), device.clone());
        move |id: BlockId| {
            let mut block = Block::init(&config, &device);
            let tensors = blocks[id.index()].iter().cloned();
            // Names, shapes and element types were checked with the rest, and a mapped file does not
            // fail to be read later.
            apply(&path, &mut block, tensors, dtype, &device).unwrap_or_else(|error| {
                panic!("block {id} was checked when it was opened: {error}")
            });
            block
        }
    };
    Ok(Llama::streamed(config.clone(), module, read, device))
}

/// Puts tensors in their places of `module`.
fn apply(
    path: &Path,
    module: &mut impl ModuleSnapshot,
    tensors: impl Iterator<Item = (Slot, PackTensor)>,
    dtype: DType,
    device: &Device,
) -> Result<()> {
    let parameters = tensors
        .map(|(slot, tensor)| {
            let dtype = parameter_dtype(&slot, dtype, device);
            parameter(slot.module, slot.shape, tensor, dtype)
        })
        .collect();
    check(path, module.apply(parameters, None, None, true))
}

/// Norms and biases stay f32 on the CPU, where narrow weights meet f32 activations.
fn parameter_dtype(slot: &Slot, dtype: DType, device: &Device) -> DType {
    if slot.shape.len() == 1 && *device == Device::flex() {
        DType::F32
    } else {
        dtype
    }
}

/// The lazily read and converted parameter that `tensor` becomes. Without a conversion it is the bytes
/// of the mapped file themselves.
fn parameter(name: String, shape: Vec<usize>, tensor: PackTensor, dtype: DType) -> PackTensor {
    let shape = Shape::from(shape);
    bridge::deferred(name, dtype, shape.clone(), None, move || {
        let bytes = convert(tensor.to_bytes()?, tensor.dtype, dtype)?;
        TensorData::try_from_bytes(aligned(bytes, dtype), shape.clone(), dtype)
            .map_err(|error| PackError::TensorBytesSizeMismatch(error.to_string()))
    })
}

/// The bytes, copied if they do not lie as their element type must: a safetensors header may have any
/// length.
fn aligned(bytes: Bytes, dtype: DType) -> Bytes {
    if bytes.as_ptr().addr().is_multiple_of(dtype.size()) {
        bytes
    } else {
        Bytes::from_bytes_vec(bytes.to_vec())
    }
}

/// Every parameter must have been given; nothing may be left over.
fn check(path: &Path, result: ApplyResult) -> Result<()> {
    let failed = |tensor: String, reason: String| {
        Err(Error::TensorLoad {
            path: path.to_owned(),
            tensor,
            reason,
        })
    };
    if let Some(error) = result.errors.into_iter().next() {
        let (ApplyError::ShapeMismatch { path: tensor, .. }
        | ApplyError::DTypeMismatch { path: tensor, .. }
        | ApplyError::AdapterError { path: tensor, .. }
        | ApplyError::LoadError { path: tensor, .. }) = &error;
        return failed(tensor.clone(), error.to_string());
    }
    if let Some((tensor, _)) = result.missing.into_iter().next() {
        return failed(
            tensor,
            "the module has the parameter, the checkpoint's table of names does not".to_owned(),
        );
    }
    match result.unused.into_iter().next() {
        Some(tensor) => failed(tensor, "the module has no such parameter".to_owned()),
        None => Ok(()),
    }
}

/// Elements of `bytes` as another float type.
pub(super) fn convert(bytes: Bytes, from: DType, to: DType) -> Result<Bytes, PackError> {
    if from == to {
        return Ok(bytes);
    }
    let wide: Vec<f32> = match from {
        DType::F32 => elements::<f32>(&bytes).to_vec(),
        DType::F16 => widen(&bytes, f16::to_f32),
        DType::BF16 => widen(&bytes, bf16::to_f32),
        other => {
            return Err(PackError::ValidationError(format!(
                "{other:?} weights cannot be converted"
            )));
        }
    };
    drop(bytes);
    match to {
        DType::F32 => Ok(Bytes::from_elems(wide)),
        DType::F16 => Ok(Bytes::from_elems(narrow(&wide, f16::from_f32))),
        DType::BF16 => Ok(Bytes::from_elems(narrow(&wide, bf16::from_f32))),
        other => Err(PackError::ValidationError(format!(
            "weights cannot be converted to {other:?}"
        ))),
    }
}

/// Elements of a byte buffer; copied only if the buffer is not aligned for them.
fn elements<E: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
    bytes: &[u8],
) -> std::borrow::Cow<'_, [E]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(elements) => std::borrow::Cow::Borrowed(elements),
        Err(_) => std::borrow::Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
    }
}

fn widen<E: bytemuck::AnyBitPattern + bytemuck::NoUninit + Send + Sync>(
    bytes: &[u8],
    to: fn(E) -> f32,
) -> Vec<f32> {
    elements::<E>(bytes)
        .par_iter()
        .with_min_len(1 << 16)
        .map(|&element| to(element))
        .collect()
}

fn narrow<E: Send>(wide: &[f32], to: fn(f32) -> E) -> Vec<E> {
    wide.par_iter()
        .with_min_len(1 << 16)
        .map(|&element| to(element))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_weights_widen_exactly() {
        let values = [1.5_f32, -0.007_812_5, 3.0e30];
        let bytes = Bytes::from_elems(values.map(bf16::from_f32).to_vec());
        let wide = convert(bytes, DType::BF16, DType::F32).unwrap();
        let expected: Vec<f32> = values
            .iter()
            .map(|&value| bf16::from_f32(value).to_f32())
            .collect();
        assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&wide), expected);
    }
}
