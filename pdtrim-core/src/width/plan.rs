//! The form of widths in a plan file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::biases::{self, WidthFile};
use super::{BlockSize, Indices, RemovedWidth, StageWidths, Widths, check_widths};
use crate::block::{BlockId, BlockSet};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::plan::{Plan, Repair};
use crate::stage::{PerStage, Stage};

/// The `[width]` section of a plan.
///
/// ```
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::width::{BlockSize, PlanWidth, RemovedWidth, StageWidths};
/// use pdtrim_core::{BlockId, PerStage};
///
/// let channels = RemovedWidth { channels: "4,17-19".parse()?, ..RemovedWidth::default() };
/// let removed = PerStage {
///     prefill: StageWidths::new(),
///     decode: StageWidths::from([(BlockId::new(1), channels)]),
/// };
/// let size = BlockSize::of(&TinyModel::default().config);
/// let section = PlanWidth::new("manual", size, &removed, None);
/// assert_eq!(section.blocks[0].removed_channels.to_string(), "4,17-19");
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanWidth {
    /// Method that chose the widths, or `manual`.
    pub method: String,
    /// Head groups of each block of the model (`num_key_value_heads`).
    pub groups: usize,
    /// MLP channels of each block of the model (`intermediate_size`).
    pub channels: usize,
    /// Where the biases are that make up for what is removed, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub biases: Option<WidthFile>,
    /// Blocks that do without something.
    #[serde(default)]
    pub blocks: Vec<PlanBlockWidth>,
}

/// What one block does without in one stage.
///
/// ```
/// use pdtrim_core::width::PlanBlockWidth;
///
/// let entry: PlanBlockWidth = toml::from_str(
///     r#"
///     stage = "decode"
///     block = 1
///     removed_channels = "4,17-19"
///     "#,
/// )?;
/// assert!(entry.removed_groups.is_empty() && entry.removed_channels.len() == 4);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanBlockWidth {
    /// The stage.
    pub stage: Stage,
    /// Index of the block in the dense model.
    pub block: usize,
    /// Head groups that are removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed_groups: Vec<usize>,
    /// MLP channels that are removed, as `4,17-19`.
    #[serde(default, skip_serializing_if = "Indices::is_empty")]
    pub removed_channels: Indices,
}

impl PlanWidth {
    /// The section that describes what is removed.
    pub fn new(
        method: &str,
        size: BlockSize,
        removed: &PerStage<StageWidths>,
        biases: Option<WidthFile>,
    ) -> Self {
        let blocks = |stage| {
            let widths = removed.of(stage).iter();
            let widths = widths.filter(|(_, width)| !width.is_empty());
            widths.map(move |(id, width)| PlanBlockWidth {
                stage,
                block: id.index(),
                removed_groups: width.groups.iter().collect(),
                removed_channels: width.channels.clone(),
            })
        };
        Self {
            method: method.to_owned(),
            groups: size.groups,
            channels: size.channels,
            biases,
            blocks: blocks(Stage::Prefill)
                .chain(blocks(Stage::Decode))
                .collect(),
        }
    }

    /// What each stage does without, checked against the blocks that the plan removes.
    ///
    /// # Errors
    ///
    /// [`Error::BlockOutOfRange`], [`Error::Width`] for a block that stands twice in a stage and for what
    /// [`check_widths`] refuses, and [`Error::PlanWidth`] beside a repair, whose weights have the dense
    /// model's shapes, or for biases in another folder.
    pub(crate) fn check(
        &self,
        removed: &PerStage<BlockSet>,
        repair: Repair,
    ) -> Result<PerStage<StageWidths>> {
        if repair != Repair::None {
            return Err(Error::PlanWidth {
                expected: "repair = \"none\" in a plan with widths",
                found: "a repair".to_owned(),
            });
        }
        if let Some(file) = &self.biases
            && Path::new(&file.name).file_name() != Some(Path::new(&file.name).as_os_str())
        {
            return Err(Error::PlanWidth {
                expected: "the name of a file in the plan's own folder",
                found: file.name.clone(),
            });
        }
        let depth = removed.decode.depth();
        let mut widths = PerStage::<StageWidths>::default();
        for entry in &self.blocks {
            let (stage, block) = (entry.stage, entry.block);
            if block >= depth {
                return Err(Error::BlockOutOfRange { block, depth });
            }
            let width = RemovedWidth {
                groups: entry.removed_groups.iter().copied().collect(),
                channels: entry.removed_channels.clone(),
            };
            let blocks = match stage {
                Stage::Prefill => &mut widths.prefill,
                Stage::Decode => &mut widths.decode,
            };
            if blocks.insert(BlockId::new(block), width).is_some() {
                return Err(Error::Width {
                    stage,
                    block,
                    expected: "one entry of [[width.blocks]]".to_owned(),
                    found: "a second".to_owned(),
                });
            }
        }
        let size = BlockSize {
            groups: self.groups,
            channels: self.channels,
            group_parameters: 0,
            channel_parameters: 0,
        };
        check_widths(&widths, size, removed)?;
        Ok(widths)
    }
}

impl Widths {
    /// The widths of `plan`, which lies at `plan_path`, for a model with this configuration; nothing
    /// narrower if the plan has no `[width]`.
    ///
    /// # Errors
    ///
    /// [`Error::WidthModel`] if the section was written for a model of other sizes; [`Error::Io`],
    /// [`Error::WidthHash`], [`Error::Safetensors`] or [`Error::RepairTensor`] for the file of biases.
    pub fn of_plan(plan: &Plan, plan_path: &Path, config: &ModelConfig) -> Result<Self> {
        let Some(section) = &plan.file().width else {
            return Ok(Self::default());
        };
        let expected = [config.n_kv_heads, config.intermediate_size];
        let found = [section.groups, section.channels];
        if expected != found {
            return Err(Error::WidthModel { expected, found });
        }
        let folder = plan_path.parent().unwrap_or(Path::new(""));
        let biases = section.biases.as_ref();
        Ok(Self {
            removed: plan.widths().clone(),
            biases: biases.map_or_else(
                || Ok(PerStage::default()),
                |file| biases::read(file, folder, plan.removed(), config),
            )?,
        })
    }
}
