//! Tensors of a checkpoint into the Burn module, through `burn-store`.

use std::path::Path;

use burn::store::burn_pack::{Error as PackError, Tensor as PackTensor};
use burn::store::{ApplyError, ApplyResult, ModuleSnapshot, bridge};
use burn::tensor::{Bytes, DType, Device, Shape, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;

use super::names::{Slot, slots};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::{Llama, LlamaWeights};

pub(super) fn load(
    path: &Path,
    config: &ModelConfig,
    tensors: &[PackTensor],
    dtype: DType,
    device: &Device,
) -> Result<Llama> {
    let by_slot = slots(config).into_iter().zip(tensors);
    let parameters = by_slot
        .map(|(slot, tensor)| parameter(&slot, tensor.clone(), dtype))
        .collect();
    let mut module = LlamaWeights::init(config, device);
    let result = module.apply(parameters, None, None, true);
    check(path, result)?;
    Ok(Llama::new(config.clone(), module, device))
}

/// The lazily read parameter of the module that `tensor` becomes: converted, and transposed where the
/// module multiplies from the other side.
fn parameter(slot: &Slot, tensor: PackTensor, dtype: DType) -> PackTensor {
    let mut shape = slot.shape.clone();
    if slot.transposed {
        shape.reverse();
    }
    let transposed = slot.transposed.then(|| [slot.shape[0], slot.shape[1]]);
    let module_shape = Shape::from(shape);
    bridge::deferred(
        slot.module.clone(),
        dtype,
        module_shape.clone(),
        None,
        move || {
            let bytes = convert(tensor.to_bytes()?, tensor.dtype, dtype)?;
            let bytes = match transposed {
                Some(shape) => transpose(&bytes, shape, dtype.size()),
                None => bytes,
            };
            TensorData::try_from_bytes(bytes, module_shape.clone(), dtype)
                .map_err(|error| PackError::TensorBytesSizeMismatch(error.to_string()))
        },
    )
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

/// `[rows, columns]` to `[columns, rows]`, for elements of `size` bytes.
fn transpose(bytes: &[u8], [rows, columns]: [usize; 2], size: usize) -> Bytes {
    match size {
        2 => Bytes::from_elems(transposed(&elements::<u16>(bytes), rows, columns)),
        _ => Bytes::from_elems(transposed(&elements::<u32>(bytes), rows, columns)),
    }
}

/// In square tiles: a column walk of a large matrix misses the cache at every step.
fn transposed<E: Copy + Default + Send + Sync>(
    source: &[E],
    rows: usize,
    columns: usize,
) -> Vec<E> {
    const TILE: usize = 32;
    let mut out = vec![E::default(); source.len()];
    out.par_chunks_mut(TILE * rows)
        .enumerate()
        .for_each(|(tile, out)| {
            let first = tile * TILE;
            for from in (0..rows).step_by(TILE) {
                for row in from..(from + TILE).min(rows) {
                    for (column, out) in out.chunks_exact_mut(rows).enumerate() {
                        out[row] = source[row * columns + first + column];
                    }
                }
            }
        });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_gives_the_matrix_back() {
        let source: Vec<u32> = (0..70 * 45).collect();
        let turned = transposed(&source, 70, 45);
        assert_eq!(turned[45 - 1 + 70 - 45], source[(45 - 1 + 70 - 45) * 45]);
        assert_eq!(transposed(&turned, 45, 70), source);
    }

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
