//! Writes one ONNX file of the dense model or of one stage.

use std::path::Path;

#[cfg(feature = "onnx")]
use burn::tensor::{DType, Device};

use super::Checkpoint;
use super::export::{ExportReport, StageWeights};
use super::names::slots;
use crate::block::BlockSet;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
#[cfg(feature = "onnx")]
use crate::model::{BlockModules, Llama, WidthModel, onnx, with_weights};
use crate::units::Bytes;

/// A protobuf message, which is what the file is, has no more.
const MAX_BYTES: u64 = i32::MAX as u64;

impl Checkpoint {
    /// Writes the model without the blocks in `removed` and with `weights` as one ONNX file (operator set 18,
    /// f32). Its input are token ids `[1, n_tokens]` in int64, its output the logits
    /// `[1, n_tokens, vocab_size]` of one pass from position 0; no cache goes in or comes out. A shorter
    /// text is filled up at its end, where nothing is seen by the positions before.
    ///
    /// The model is loaded, and the file made in memory. `path` is as it was until the whole file is written.
    ///
    /// # Errors
    ///
    /// [`Error::Export`] if the crate was built without the feature `onnx`, for a number of tokens that the model has no
    /// place for, and for more than 2 GiB of weights, at full width; [`Error::Depth`], [`Error::Io`],
    /// [`Error::Changed`], and what [`load`](Self::load) can fail with.
    pub fn export_onnx(
        &self,
        removed: &BlockSet,
        weights: &StageWeights,
        n_tokens: usize,
        path: &Path,
    ) -> Result<ExportReport> {
        let config = self.config();
        self.check_depth(removed)?;
        if n_tokens == 0 || n_tokens > config.context_length {
            return Err(refused(format!(
                "its sequences have 1 to {} tokens, found {n_tokens}",
                config.context_length
            )));
        }
        self.refuse_own_file(path).map_err(refused)?;
        check_size(config, removed)?;
        let weight_bytes = write(self, removed, weights, n_tokens, path)?;
        Ok(ExportReport {
            blocks: config.n_blocks - removed.len(),
            weight_bytes,
            weight_files: 1,
        })
    }
}

/// Refuses weights, at full width, that are more than a file holds.
fn check_size(config: &ModelConfig, removed: &BlockSet) -> Result<()> {
    let kept = removed.complement().to_indices();
    let slots = slots(config).into_iter();
    let written = slots.filter(|slot| {
        let block = slot.block.as_ref();
        block.is_none_or(|(block, _)| kept.contains(block))
    });
    let elements = written.map(|slot| slot.shape.iter().map(|&size| size as u64).product::<u64>());
    let bytes = size_of::<f32>() as u64 * elements.sum::<u64>();
    if bytes > MAX_BYTES {
        return Err(refused(format!(
            "its weights are {} in f32, expected {} or less",
            Bytes(bytes),
            Bytes(MAX_BYTES)
        )));
    }
    Ok(())
}

/// Writes the file and says how large its weights are.
#[cfg(feature = "onnx")]
fn write(
    checkpoint: &Checkpoint,
    removed: &BlockSet,
    weights: &StageWeights,
    n_tokens: usize,
    path: &Path,
) -> Result<Bytes> {
    let model = of_stage(checkpoint.load(DType::F32, &Device::flex())?, weights);
    let written =
        onnx::write(&model, removed, n_tokens).map_err(|error| refused(error.to_string()))?;
    drop(model);
    checkpoint.check_unchanged()?;
    crate::atomic::write_atomically(path, written.model.as_bytes())?;
    Ok(Bytes(written.weight_bytes))
}

#[cfg(not(feature = "onnx"))]
fn write(_: &Checkpoint, _: &BlockSet, _: &StageWeights, _: usize, _: &Path) -> Result<Bytes> {
    Err(refused(
        "this build has no ONNX support; build it with `--features onnx`".to_owned(),
    ))
}

#[cfg(feature = "onnx")]
fn of_stage(model: Llama, weights: &StageWeights) -> Llama {
    match weights {
        StageWeights::Own => model,
        StageWeights::Repaired(repair) => {
            let blocks = repair
                .iter()
                .map(|(&id, weights)| (id, with_weights(model.block_module(id), weights)));
            model.with_block_modules(&blocks.collect())
        }
        StageWeights::Narrow(widths, biases) => model.narrowed(widths, biases),
    }
}

fn refused(reason: String) -> Error {
    Error::Export {
        form: "an ONNX file",
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Architecture;
    use crate::testing::tiny_config;

    #[test]
    fn more_than_a_protobuf_message_holds_is_refused() {
        let config = ModelConfig {
            hidden_size: 2048,
            intermediate_size: 8192,
            n_blocks: 16,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 64,
            vocab_size: 128_256,
            ..tiny_config(Architecture::Llama)
        };
        // 1 235 814 400 parameters, of which the tied embedding is 262 668 288.
        let error = check_size(&config, &BlockSet::empty(16)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("4.6 GiB in f32, expected 2.0 GiB"),
            "{error}"
        );
        check_size(&config, &BlockSet::all(16)).unwrap();
    }

    #[cfg(feature = "onnx")]
    #[test]
    fn repaired_weights_take_the_place_of_the_models() {
        use burn::tensor::TensorData;

        use crate::BlockId;
        use crate::checkpoint::DOWN_PROJ;
        use crate::model::block_weights;
        use crate::testing::TinyModel;

        let model = TinyModel::default().build();
        let id = BlockId::new(1);
        let mut expected = block_weights(&model.block_module(id));
        let ones = TensorData::new(vec![1.0_f32; 32 * 48], [32, 48]);
        expected.insert(DOWN_PROJ.to_owned(), ones.clone());
        let repair = [(id, [(DOWN_PROJ.to_owned(), ones)].into())].into();
        let repaired = of_stage(model, &StageWeights::Repaired(repair));
        assert_eq!(block_weights(&repaired.block_module(id)), expected);
    }
}
