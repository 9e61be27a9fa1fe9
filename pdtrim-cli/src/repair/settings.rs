//! Which repair, with the numbers it takes.

use anyhow::{Result, bail, ensure};
use burn::tensor::DType;
use pdtrim_search::repair::DistillRepair;
use serde::Serialize;

use crate::args::{RepairArg, StrategyArg, TrimConfig, set};

/// Tokens in a step of training if the user does not say how many windows.
const STEP_TOKENS: usize = 512;

/// A repair and everything that it depends on beside model and windows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RepairSettings {
    Linear,
    Distill(DistillRepair),
}

/// Tokens of each stage that a repair is fitted on if the user does not say how many.
pub(crate) fn default_tokens(repair: RepairArg) -> usize {
    match repair {
        RepairArg::None | RepairArg::Linear => 8192,
        // A training that sees each token once learns more from more of them, at the price of time.
        RepairArg::Distill => 16384,
    }
}

/// Windows in a step of training if the user does not say how many.
pub(crate) fn default_batch(window_tokens: usize) -> usize {
    (STEP_TOKENS / window_tokens).max(1)
}

impl RepairSettings {
    /// `repair` with the default rates, trained once through so many windows in each part; `None` without
    /// a repair.
    pub(crate) fn once_through(
        repair: RepairArg,
        windows: usize,
        batch: usize,
        seed: u64,
    ) -> Option<Self> {
        let steps = windows.div_ceil(batch);
        match repair {
            RepairArg::None => None,
            RepairArg::Linear => Some(Self::Linear),
            RepairArg::Distill => Some(Self::Distill(DistillRepair {
                run_steps: steps,
                steps,
                batch,
                seed,
                ..DistillRepair::default()
            })),
        }
    }

    /// A repair of this kind as `config` has it, on so many windows; `None` without a repair.
    pub(crate) fn of(config: &TrimConfig, kind: RepairArg, windows: usize) -> Option<Self> {
        let batch = config.repair_batch.map_or_else(
            || default_batch(config.window_tokens.get()),
            std::num::NonZeroUsize::get,
        );
        let batch = batch.min(windows).max(1);
        let mut settings = Self::once_through(kind, windows, batch, config.seed)?;
        if let Self::Distill(repair) = &mut settings {
            set(&mut repair.run_steps, config.repair_run_steps);
            set(&mut repair.steps, config.repair_steps);
            set(&mut repair.run_learning_rate, config.repair_run_lr);
            set(&mut repair.learning_rate, config.repair_lr);
        }
        Some(settings)
    }

    /// Refuses weights that `repair` cannot train.
    pub(crate) fn check_dtype(repair: RepairArg, dtype: DType) -> Result<()> {
        ensure!(
            repair != RepairArg::Distill || dtype == DType::F32,
            "repair distill needs weights of type F32 (--dtype f32), found {dtype:?}"
        );
        Ok(())
    }

    /// Refuses pairs that no repair of the run would keep.
    pub(crate) fn check_pairs(pairs: RepairArg, repair: RepairArg) -> Result<()> {
        let needed = match pairs {
            RepairArg::None => return Ok(()),
            RepairArg::Linear => "linear or distill",
            RepairArg::Distill => "distill",
        };
        let is_kept = repair == RepairArg::Distill || repair == pairs;
        ensure!(
            is_kept,
            "pairs {pairs} are for a model that is repaired: expected repair {needed}, found {repair}"
        );
        Ok(())
    }

    /// Refuses numbers for a repair that is not asked for, and rates that are none.
    pub(crate) fn check(config: &TrimConfig) -> Result<()> {
        Self::check_pairs(config.pairs, config.repair)?;
        ensure!(
            config.pairs.is_none() || config.strategy == StrategyArg::Pdtrim,
            "pairs are for strategy pdtrim"
        );
        let fitted = [
            ("repair-tokens", config.repair_tokens.is_some()),
            ("repair-calibration", config.repair_calibration.is_some()),
        ];
        let trained = [
            ("repair-run-steps", config.repair_run_steps.is_some()),
            ("repair-steps", config.repair_steps.is_some()),
            ("repair-run-lr", config.repair_run_lr.is_some()),
            ("repair-lr", config.repair_lr.is_some()),
            ("repair-batch", config.repair_batch.is_some()),
        ];
        let given = |flags: &[(&'static str, bool)]| {
            let given = flags.iter().find(|(_, is_given)| *is_given);
            given.map(|(name, _)| *name)
        };
        let (name, needed) = match config.repair {
            RepairArg::None => {
                let name = given(&fitted).map(|name| (name, "linear or distill"));
                name.or_else(|| given(&trained).map(|name| (name, "distill")))
            }
            RepairArg::Linear => given(&trained).map(|name| (name, "distill")),
            RepairArg::Distill => None,
        }
        .unzip();
        if let (Some(name), Some(needed)) = (name, needed) {
            bail!(
                "{name} is for a repair: expected repair {needed}, found {}",
                config.repair
            );
        }
        for (name, rate) in [
            ("repair-run-lr", config.repair_run_lr),
            ("repair-lr", config.repair_lr),
        ] {
            if let Some(rate) = rate
                && !(rate > 0.0 && rate <= 1.0)
            {
                bail!("{name} must be a number above 0 and at most 1, found {rate}");
            }
        }
        Ok(())
    }
}
