//! What is removed inside the blocks that stay.

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use pdtrim_search::width::{Flap, LlmPruner, WidthStrategy};
use serde::{Deserialize, Serialize};

use super::TrimConfig;
use super::trim::{RepairArg, set};

#[derive(Args, Debug)]
pub(crate) struct WidthArgs {
    /// Also make the blocks that stay narrower, for each stage: by whole key and value heads with their
    /// query heads, and by MLP channels [default: none].
    #[arg(long, value_enum)]
    pub(crate) width: Option<WidthArg>,
    /// Share of the parameters of prefill's blocks that --width removes [default: 0.1].
    #[arg(long, value_name = "X")]
    pub(crate) prefill_ratio: Option<f64>,
    /// Share of the parameters of decode's blocks that --width removes, at least prefill's: decode is
    /// without the heads that prefill is without [default: 0.2].
    #[arg(long, value_name = "X")]
    pub(crate) decode_ratio: Option<f64>,
    /// Leave out flap's biases, which stand for what was removed.
    #[arg(long)]
    pub(crate) no_compensation: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WidthArg {
    /// Nothing.
    None,
    /// FLAP: what varies least goes first, with one threshold for all blocks; biases stand for its mean.
    Flap,
    /// LLM-Pruner: the same share of each block in the middle, lowest first-order importance first.
    LlmPruner,
}

impl WidthArg {
    /// The method; `None` if nothing is to be narrower.
    pub(crate) fn strategy(self) -> Option<Box<dyn WidthStrategy>> {
        match self {
            Self::None => None,
            Self::Flap => Some(Box::new(Flap)),
            Self::LlmPruner => Some(Box::new(LlmPruner)),
        }
    }
}

impl WidthArgs {
    /// Flags win over the file.
    pub(super) fn resolve(&self, config: &mut TrimConfig) {
        set(&mut config.width, self.width);
        set(&mut config.prefill_ratio, self.prefill_ratio);
        set(&mut config.decode_ratio, self.decode_ratio);
        config.no_compensation |= self.no_compensation;
    }
}

impl TrimConfig {
    /// Refuses widths that cannot be had, before anything is measured.
    pub(super) fn check_width(&self) -> Result<()> {
        for (name, ratio) in [
            ("prefill-ratio", self.prefill_ratio),
            ("decode-ratio", self.decode_ratio),
        ] {
            ensure!(
                (0.0..1.0).contains(&ratio),
                "{name} must be at least 0 and less than 1, found {ratio}"
            );
        }
        if self.width == WidthArg::None {
            return Ok(());
        }
        ensure!(
            !(self.width == WidthArg::LlmPruner && self.one_block),
            "width = \"llm-pruner\" needs gradients, and one-block holds one block at a time"
        );
        ensure!(
            self.repair == RepairArg::None,
            "width and repair exclude each other: a repair has the dense model's shapes"
        );
        ensure!(
            self.unified || self.prefill_ratio <= self.decode_ratio,
            "prefill-ratio ({}) must not be above decode-ratio ({}): decode is without the heads that \
                prefill is without",
            self.prefill_ratio,
            self.decode_ratio
        );
        Ok(())
    }
}
