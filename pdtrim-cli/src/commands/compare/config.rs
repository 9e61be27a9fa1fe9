//! What is compared: the configuration that all shards share, and its list of runs.

use std::fmt;
use std::num::NonZeroUsize;

use anyhow::Result;
use clap::ValueEnum;
use pdtrim_core::plan::PlanCalibration;
use pdtrim_core::{Boundary, PerStage};
use pdtrim_eval::Mode;
use serde::{Deserialize, Serialize};

use crate::args::{
    CompareArgs, MethodArg, RepairArg, StrategyArg, TargetArg, TrimConfig, WidthArg,
};
use crate::repair::RepairSettings;
use crate::session::Session;

/// Everything that every run depends on, and the lists whose combinations are run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Configuration {
    pub(super) pdtrim_version: String,
    pub(super) model: String,
    pub(super) model_sha256: String,
    pub(super) dtype: String,
    /// Without its number: shards may run on several devices of a kind.
    pub(super) device: String,
    pub(super) strategies: Vec<MethodArg>,
    pub(super) targets: Vec<TargetArg>,
    pub(super) counts: Vec<usize>,
    pub(super) prefill_share: f64,
    pub(super) repairs: Vec<RepairArg>,
    /// Strategies whose rows are repaired; all if there are none.
    pub(super) repair_strategies: Vec<StrategyArg>,
    pub(super) race_error: f64,
    pub(super) beam_width: NonZeroUsize,
    pub(super) anneal_steps: usize,
    pub(super) validation_windows: usize,
    /// What stands for a pair in the searches of `pdtrim` whose result is repaired.
    pub(super) pairs: RepairArg,
    /// Joint redundancy from which two blocks are a pair.
    pub(super) distill_threshold: f64,
    /// Whether `flap` goes without its biases.
    pub(super) no_compensation: bool,
    pub(super) seeds: Vec<u64>,
    /// The source; each run says what it drew from it.
    pub(super) calibration: String,
    pub(super) calibration_items: Option<usize>,
    pub(super) windows: usize,
    pub(super) window_tokens: usize,
    pub(super) held_out: PlanCalibration,
    pub(super) boundary: Boundary,
    pub(super) protect_ends: bool,
    pub(super) tasks: Vec<String>,
    /// Items of each task that are scored.
    pub(super) limit: Option<usize>,
}

impl Configuration {
    pub(super) fn new(
        args: &CompareArgs,
        session: &Session,
        calibration: &str,
        held_out: &PlanCalibration,
        tasks: Vec<String>,
    ) -> Result<Self> {
        // `exact` refuses any model of ordinary depth: only where it is asked for.
        let all = StrategyArg::value_variants().iter().copied();
        let all = all.filter(|&kind| kind != StrategyArg::Exact);
        let all: Vec<MethodArg> = all.map(MethodArg::Blocks).collect();
        let strategies = match &args.strategies[..] {
            [] => &all,
            named => named,
        };
        let device = session.device.to_string();
        Ok(Self {
            pdtrim_version: env!("CARGO_PKG_VERSION").to_owned(),
            model: session.name.clone(),
            model_sha256: session.checkpoint.hash()?,
            dtype: format!("{:?}", session.dtype).to_lowercase(),
            device: device.split(':').next().unwrap_or(&device).to_owned(),
            strategies: each_once(strategies),
            targets: each_once(&args.targets),
            counts: each_once(&args.counts),
            prefill_share: args.prefill_share,
            repairs: each_once(&args.repairs),
            repair_strategies: each_once(&args.repair_strategies),
            race_error: args.race_error,
            beam_width: args.beam_width.unwrap_or(TrimConfig::default().beam_width),
            anneal_steps: args
                .anneal_steps
                .unwrap_or(TrimConfig::default().anneal_steps),
            validation_windows: args.validation_windows,
            pairs: args.pairs,
            distill_threshold: args.distill_threshold,
            no_compensation: args.no_compensation,
            seeds: each_once(&args.seeds),
            calibration: calibration.to_owned(),
            calibration_items: args.windows.calibration_items.map(Into::into),
            windows: args.windows.windows.get(),
            window_tokens: args.windows.window_tokens.get(),
            held_out: held_out.clone(),
            boundary: args.boundary,
            protect_ends: !args.unprotected_ends,
            tasks,
            limit: args.limit.map(Into::into),
        })
    }

    /// What the strategy of a job that removes blocks is told.
    pub(super) fn told(&self, job: Job, strategy: StrategyArg) -> TrimConfig {
        TrimConfig {
            strategy,
            race_error: self.race_error,
            beam_width: self.beam_width,
            anneal_steps: self.anneal_steps,
            validation_windows: self.validation_windows,
            seed: job.seed,
            ..TrimConfig::default()
        }
    }

    /// Of what a job's strategy is told, what is not in the job: a setting of one strategy leaves the
    /// others' rows as they are.
    pub(super) fn settings(&self, job: Job) -> serde_json::Value {
        match job.row.strategy.strategy() {
            Some(StrategyArg::Pdtrim) => {
                let (race, steps) = (self.race_error, self.anneal_steps);
                let more = self.validation_windows;
                if self.has_pairs(job) {
                    let pairs = (self.pairs, self.distill_threshold);
                    serde_json::json!([race, steps, more, pairs])
                } else {
                    serde_json::json!([race, steps, more])
                }
            }
            Some(StrategyArg::Sleb) => serde_json::json!([self.race_error]),
            Some(StrategyArg::Beam) => serde_json::json!([self.race_error, self.beam_width]),
            None if self.no_compensation
                && job.row.strategy == MethodArg::Width(WidthArg::Flap) =>
            {
                serde_json::json!(["no compensation"])
            }
            _ => serde_json::json!([]),
        }
    }

    /// Whether the search of a job is one with pairs.
    pub(super) fn has_pairs(&self, job: Job) -> bool {
        let is_pdtrim = job.row.strategy.strategy() == Some(StrategyArg::Pdtrim);
        let is_kept = RepairSettings::check_pairs(self.pairs, job.row.repair).is_ok();
        is_pdtrim && !self.pairs.is_none() && is_kept
    }

    /// Every row of the table, in its order.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for &target in &self.targets {
            for &count in &self.counts {
                for &strategy in &self.strategies {
                    let prefill = match target {
                        TargetArg::Unified => count,
                        _ => (count as f64 * self.prefill_share).floor() as usize,
                    };
                    let counts = PerStage {
                        prefill,
                        decode: count,
                    };
                    let repairs = self.repairs.iter().copied();
                    let repairs = repairs.filter(|&repair| self.repairs(strategy, repair));
                    rows.extend(repairs.map(|repair| Row {
                        strategy,
                        target,
                        counts,
                        repair,
                    }));
                }
            }
        }
        rows
    }

    /// A repair has the shapes of whole blocks.
    fn repairs(&self, method: MethodArg, repair: RepairArg) -> bool {
        let repaired = &self.repair_strategies;
        let is_repaired = |strategy| repaired.is_empty() || repaired.contains(&strategy);
        repair.is_none() || method.strategy().is_some_and(is_repaired)
    }

    /// Every run: the seeds of a row one after the other.
    pub(super) fn jobs(&self) -> Vec<Job> {
        let of_row = |row: Row| self.seeds.iter().map(move |&seed| Job { row, seed });
        self.rows().into_iter().flat_map(of_row).collect()
    }
}

/// What a row of the table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) strategy: MethodArg,
    pub(super) target: TargetArg,
    /// Blocks to remove, or as large a share of all blocks' parameters.
    pub(super) counts: PerStage<usize>,
    #[serde(default, skip_serializing_if = "RepairArg::is_none")]
    pub(super) repair: RepairArg,
}

impl Row {
    pub(super) fn mode(&self) -> Mode {
        match self.target {
            TargetArg::Unified => Mode::Unified,
            TargetArg::Pd | TargetArg::PdIndependent => Mode::Pd,
        }
    }
}

/// One run: a row with one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    #[serde(flatten)]
    pub(super) row: Row,
    pub(super) seed: u64,
}

impl Job {
    /// The same run without a repair: the search is one.
    pub(super) fn unrepaired(self) -> Self {
        let repair = RepairArg::None;
        let row = Row { repair, ..self.row };
        Self { row, ..self }
    }

    /// Part of the names of what is kept of it.
    pub(super) fn file_name(&self) -> String {
        let Row {
            strategy,
            target,
            counts,
            repair,
        } = self.row;
        let (strategy, target) = (name(strategy), name(target));
        let PerStage { prefill, decode } = counts;
        let repair = if repair.is_none() {
            String::new()
        } else {
            format!("-{repair}")
        };
        format!(
            "{strategy}-{target}-{prefill}-{decode}{repair}-seed{}",
            self.seed
        )
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row {
            strategy,
            target,
            counts,
            repair,
        } = self.row;
        write!(f, "{} {} ", name(strategy), name(target))?;
        if target != TargetArg::Unified {
            write!(f, "{} + ", counts.prefill)?;
        }
        write!(f, "{}, ", counts.decode)?;
        if !repair.is_none() {
            write!(f, "{repair} repair, ")?;
        }
        write!(f, "seed {}", self.seed)
    }
}

/// The name of a choice on the command line.
pub(super) fn name(choice: impl ValueEnum + Copy) -> String {
    let value = choice.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

fn each_once<T: Copy + PartialEq>(list: &[T]) -> Vec<T> {
    let mut once = Vec::new();
    for &item in list {
        if !once.contains(&item) {
            once.push(item);
        }
    }
    once
}
