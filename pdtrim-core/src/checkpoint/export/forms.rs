//! The forms in which a stage can be written, and which blocks each has weights for.

use std::collections::BTreeMap;

use super::super::names::{DOWN_PROJ, DOWN_PROJ_BIAS, O_PROJ, O_PROJ_BIAS};
use crate::block::{BlockId, BlockSet};
use crate::config::{Architecture, ModelConfig};
use crate::error::{Error, Result};

/// What the folder of a stage looks like.
///
/// ```
/// use burn::tensor::DType;
/// use pdtrim_core::checkpoint::{ExportForm, ExportSettings};
///
/// let settings = ExportSettings { form: ExportForm::NoOp, ..ExportSettings::plain(DType::BF16) };
/// assert_eq!(settings.form.name(), "noop");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportForm {
    /// The stock architecture with fewer layers: weights are renumbered.
    #[default]
    Plain,
    /// All layers by their numbers, removed ones without weights, as vLLM's `DeciLMForCausalLM` reads them
    /// (`block_configs`).
    NoOp,
    /// The stock architecture with all layers; removed ones add nothing to the hidden states, since their
    /// output layers are zero. It saves nothing and loads anywhere.
    Identity,
}

impl ExportForm {
    /// Its name on the command line and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::NoOp => "noop",
            Self::Identity => "identity",
        }
    }

    /// The layer number that each block is written under, and how.
    pub(super) fn layers(self, removed: &BlockSet) -> BTreeMap<BlockId, (usize, Written)> {
        let kept = removed.complement();
        let whole = |(layer, id): (usize, BlockId)| (id, (layer, Written::Whole));
        let own_number = |id: BlockId| (id.index(), id);
        match self {
            Self::Plain => kept.iter().enumerate().map(whole).collect(),
            Self::NoOp => kept.iter().map(own_number).map(whole).collect(),
            Self::Identity => {
                let silent = removed.iter().map(|id| (id, (id.index(), Written::Silent)));
                kept.iter()
                    .map(own_number)
                    .map(whole)
                    .chain(silent)
                    .collect()
            }
        }
    }

    /// Refuses biases of narrower blocks that the form's architecture has no place for.
    pub(super) fn check_biases(self, config: &ModelConfig) -> Result<()> {
        if self == Self::NoOp || config.architecture == Architecture::Llama {
            return Ok(());
        }
        let class = config.architecture.class_name();
        Err(Error::Export {
            form: self.name(),
            reason: format!(
                "{class} has no place for the biases of its narrower blocks; the form noop has, for an \
                 intermediate_size that is a multiple of {}",
                super::noop::MULTIPLE
            ),
        })
    }
}

/// How a block is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// With its weights.
    Whole,
    /// With zeros in the layers that write into the residual stream.
    Silent,
}

/// Whether a block's weight writes into the residual stream.
pub(super) fn is_output(part: &str) -> bool {
    [O_PROJ, O_PROJ_BIAS, DOWN_PROJ, DOWN_PROJ_BIAS].contains(&part)
}
