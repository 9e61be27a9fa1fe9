//! Narrower blocks: head groups and MLP channels that a stage does without inside the blocks it keeps, and
//! the biases that make up for them (the non-block pruning of arXiv:2509.04467v4).
//!
//! A head group is a key and value head with the query heads that share it. Decode needs the keys and
//! values of every group it keeps, so the groups that prefill is without are a subset of decode's; the
//! keys and values of groups that decode is without do not cross. MLP channels are each stage's own.

mod biases;
mod indices;
mod plan;

use std::collections::BTreeMap;

pub use biases::{WIDTH_FILE, WidthFile};
pub use indices::Indices;
pub use plan::{PlanBlockWidth, PlanWidth};

use crate::block::{BlockId, BlockSet};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::WidthModel;
use crate::stage::{PerStage, Stage};

/// What one block does without in one stage.
///
/// ```
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::width::{BlockSize, RemovedWidth};
///
/// let removed = RemovedWidth {
///     groups: [1].into_iter().collect(),
///     channels: "0-11".parse()?,
/// };
/// let size = BlockSize::of(&TinyModel::default().config);
/// let gone = size.group_parameters + 12 * size.channel_parameters;
/// assert_eq!(size.removed_parameters(&removed), gone);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovedWidth {
    /// Head groups, by their key and value head in the dense model.
    pub groups: Indices,
    /// MLP channels, by their row in the dense model's gate and up projections.
    pub channels: Indices,
}

impl RemovedWidth {
    /// Whether the block keeps everything.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.channels.is_empty()
    }
}

/// What the blocks of one stage do without; a block that is not in it keeps everything.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::width::{RemovedWidth, StageWidths};
///
/// let group = RemovedWidth { groups: [0].into_iter().collect(), ..RemovedWidth::default() };
/// let decode = StageWidths::from([(BlockId::new(1), group)]);
/// assert!(!decode.contains_key(&BlockId::new(0)));
/// ```
pub type StageWidths = BTreeMap<BlockId, RemovedWidth>;

/// What is added to a block's output layers, `[hidden]` each; empty for nothing.
///
/// ```
/// use pdtrim_core::width::BlockBiases;
///
/// // Only the MLP's output layer has one; 32 is the model's hidden size.
/// let biases = BlockBiases { mlp: vec![0.5; 32], ..BlockBiases::default() };
/// assert!(biases.attention.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockBiases {
    /// Added to the attention's output layer.
    pub attention: Vec<f32>,
    /// Added to the MLP's output layer.
    pub mlp: Vec<f32>,
}

/// Biases of one stage, by block.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::width::{BlockBiases, StageBiases};
///
/// let biases = StageBiases::from([(BlockId::new(1), BlockBiases::default())]);
/// assert_eq!(biases.len(), 1);
/// ```
pub type StageBiases = BTreeMap<BlockId, BlockBiases>;

/// The narrower blocks of both stages.
///
/// ```
/// use pdtrim_core::model::BlockModel;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::width::{RemovedWidth, StageWidths, Widths};
/// use pdtrim_core::{BlockId, Stage};
///
/// let group = RemovedWidth { groups: [0].into_iter().collect(), ..RemovedWidth::default() };
/// let mut widths = Widths::default();
/// widths.removed.decode = StageWidths::from([(BlockId::new(1), group)]);
///
/// let model = TinyModel::default().build();
/// let decode = widths.apply(&model, Stage::Decode).expect("decode is narrower");
/// assert_eq!(decode.kept_groups(BlockId::new(1)), Some(vec![1]));
/// assert!(widths.apply(&model, Stage::Prefill).is_none());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Widths {
    /// What each stage does without.
    pub removed: PerStage<StageWidths>,
    /// What makes up for it.
    pub biases: PerStage<StageBiases>,
}

impl Widths {
    /// Whether neither stage is narrower.
    pub fn is_empty(&self) -> bool {
        let dense = |widths: &StageWidths| widths.values().all(RemovedWidth::is_empty);
        dense(&self.removed.prefill) && dense(&self.removed.decode)
    }

    /// `model` as `stage` runs it, sharing with it the weights of all blocks that keep everything; `None`
    /// if all do.
    pub fn apply<M: WidthModel>(&self, model: &M, stage: Stage) -> Option<M> {
        let removed = self.removed.of(stage);
        (!removed.is_empty()).then(|| model.narrowed(removed, self.biases.of(stage)))
    }
}

/// Number of a model's head groups and MLP channels in each block.
///
/// ```
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::width::BlockSize;
///
/// let size = BlockSize::of(&TinyModel::default().config);
/// assert_eq!((size.groups, size.channels), (2, 48));
/// // Rows of gate and up and a column of down, in a model of hidden size 32.
/// assert_eq!(size.channel_parameters, 3 * 32);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize {
    /// Head groups.
    pub groups: usize,
    /// MLP channels.
    pub channels: usize,
    /// Parameters of a head group: its rows of q, k and v and its columns of o.
    pub group_parameters: usize,
    /// Parameters of an MLP channel: its rows of gate and up and its column of down.
    pub channel_parameters: usize,
}

impl BlockSize {
    /// The sizes in `config`.
    pub fn of(config: &ModelConfig) -> Self {
        let in_group = config.n_heads / config.n_kv_heads;
        let rows = config.head_dim * (in_group + 2);
        let biases = if config.has_qkv_bias() { rows } else { 0 };
        Self {
            groups: config.n_kv_heads,
            channels: config.intermediate_size,
            group_parameters: config.hidden_size * config.head_dim * (2 * in_group + 2) + biases,
            channel_parameters: 3 * config.hidden_size,
        }
    }

    /// Parameters of all groups and channels of a block.
    pub fn parameters(&self) -> usize {
        self.groups * self.group_parameters + self.channels * self.channel_parameters
    }

    /// Parameters of what is removed.
    pub fn removed_parameters(&self, removed: &RemovedWidth) -> usize {
        removed.groups.len() * self.group_parameters
            + removed.channels.len() * self.channel_parameters
    }
}

/// Refuses widths with which no pass can be run, in a model of `depth` blocks without `removed`.
///
/// # Errors
///
/// [`Error::Width`] for a block that does not exist or is removed, for a group or channel that does not
/// exist, for a block without any, and for a group that decode keeps without prefill.
///
/// ```
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::width::{BlockSize, RemovedWidth, StageWidths, check_widths};
/// use pdtrim_core::{BlockId, Error, PerStage};
///
/// // Decode would need the keys and values of a group that prefill does not compute.
/// let group = RemovedWidth { groups: [0].into_iter().collect(), ..RemovedWidth::default() };
/// let widths = PerStage {
///     prefill: StageWidths::from([(BlockId::new(1), group)]),
///     decode: StageWidths::new(),
/// };
/// let size = BlockSize::of(&TinyModel::default().config);
/// let refused = check_widths(&widths, size, &PerStage::dense(5)).unwrap_err();
/// assert!(matches!(refused, Error::Width { block: 1, .. }));
/// ```
pub fn check_widths(
    widths: &PerStage<StageWidths>,
    size: BlockSize,
    removed: &PerStage<BlockSet>,
) -> Result<()> {
    for stage in [Stage::Prefill, Stage::Decode] {
        let blocks = removed.of(stage);
        for (&id, width) in widths.of(stage) {
            let refused = |expected: String, found: String| Error::Width {
                stage,
                block: id.index(),
                expected,
                found,
            };
            if id.index() >= blocks.depth() {
                let expected = format!("a block below {}", blocks.depth());
                return Err(refused(expected, id.to_string()));
            }
            if blocks.contains(id) {
                let expected = format!("a block that {stage} keeps");
                return Err(refused(expected, format!("a removed one ({blocks})")));
            }
            for (what, set, all) in [
                ("head groups", &width.groups, size.groups),
                ("MLP channels", &width.channels, size.channels),
            ] {
                if let Some(last) = set.last().filter(|last| *last >= all) {
                    let expected = format!("{what} below {all}");
                    return Err(refused(expected, last.to_string()));
                }
                if set.len() == all {
                    let expected = format!("at least one of the {all} {what} kept");
                    return Err(refused(expected, "none".to_owned()));
                }
            }
        }
    }
    let kept_by_both = removed.prefill.union(&removed.decode).complement();
    for (&id, width) in &widths.prefill {
        let decode = widths.decode.get(&id).map(|width| &width.groups);
        let nested = decode.map_or(width.groups.is_empty(), |decode| {
            width.groups.is_subset(decode)
        });
        if kept_by_both.contains(id) && !nested {
            return Err(Error::Width {
                stage: Stage::Decode,
                block: id.index(),
                expected: format!(
                    "the head groups that prefill is without ({}) among those that decode is without",
                    width.groups
                ),
                found: decode.map_or_else(|| "none".to_owned(), ToString::to_string),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
