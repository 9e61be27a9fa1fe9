use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use pdtrim_core::{Boundary, KvFill, limits};
use pdtrim_kv::Selection;
use pdtrim_search::calibration::{CalibrationSource, WindowDraw};
use pdtrim_search::{Annealing, DistillThreshold};
use serde::{Deserialize, Serialize};

use super::strategy::StrategyArgs;
use super::width::{WidthArg, WidthArgs};
use super::{DEFAULT_MODEL, DtypeArg, ModelArgs, StrategyArg};
use crate::repair::RepairSettings;

/// The main job. Without arguments it runs the embedded default on SmolLM2-135M-Instruct.
#[derive(Args, Debug)]
pub(crate) struct TrimArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// TOML file whose keys are these flags; flags win.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder for plan, results and report [default: pdtrim-out].
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// What the search is measured on: prose (bundled), wikitext2, piqa+mmlu or c4 (published files in
    /// --data), self (sampled from the model), a text file, or a .jsonl file, whose fields other than
    /// `text` are named as in items.jsonl#question+answer [default: prose].
    #[arg(long, value_name = "SOURCE")]
    pub(crate) calibration: Option<CalibrationSource>,
    /// Seed of the calibration windows or items: 0 spreads the windows of a text evenly, others draw
    /// others, and no two seeds the same as long as there is text [default: 0].
    #[arg(long, value_name = "N")]
    pub(crate) calibration_seed: Option<u64>,
    /// Items to draw from piqa+mmlu (half and half), c4 or a .jsonl file; windows are cut from their
    /// joined text [default: 256, or all if there are fewer].
    #[arg(long, value_name = "N")]
    pub(crate) calibration_items: Option<NonZeroUsize>,
    /// Calibration windows [default: 8].
    #[arg(long, value_name = "N")]
    pub(crate) windows: Option<NonZeroUsize>,
    /// Tokens in a window; three quarters are its prompt [default: 128].
    #[arg(long, value_name = "N")]
    pub(crate) window_tokens: Option<NonZeroUsize>,
    /// Blocks to remove from prefill [default: 2].
    #[arg(long, value_name = "N")]
    pub(crate) prefill_count: Option<usize>,
    /// Blocks to remove from decode, prefill's included [default: 4].
    #[arg(long, value_name = "N")]
    pub(crate) decode_count: Option<usize>,
    #[command(flatten)]
    pub(crate) strategy: StrategyArgs,
    /// Also let the first and the last block be removed.
    #[arg(long)]
    pub(crate) unprotected_ends: bool,
    /// Let decode keep blocks that prefill removes: prefill then still computes their KV.
    #[arg(long)]
    pub(crate) independent: bool,
    /// One set of --decode-count blocks for both stages, as on one machine; --prefill-count is not
    /// looked at.
    #[arg(long, conflicts_with = "independent")]
    pub(crate) unified: bool,
    /// Which stage computes the first new token [default: prefill].
    #[arg(long)]
    pub(crate) boundary: Option<Boundary>,
    /// Times fewer token positions that cross to decode; 1 sends all [default: 2].
    #[arg(long, value_name = "X")]
    pub(crate) kv_factor: Option<f64>,
    /// How blocks for KV trimming are chosen [default: loss].
    #[arg(long, value_enum)]
    pub(crate) kv_selection: Option<KvSelectionArg>,
    /// What makes up for the removed blocks: linear fits the block before each removed run, for each
    /// stage, and distill trains it; neither adds weights [default: none].
    #[arg(long, value_enum)]
    pub(crate) repair: Option<RepairArg>,
    /// What stands for two neighbouring blocks of joint redundancy --distill-threshold while pdtrim
    /// searches, where the second is removed and the first is not: the first, repaired like this by itself
    /// [default: none].
    #[arg(long, value_enum)]
    pub(crate) pairs: Option<RepairArg>,
    /// Tokens of each stage that the repair is fitted on; none of them chooses blocks or reports the
    /// result [default: 8192 for linear and 16384 for distill, or half as many and so on where the source
    /// has fewer].
    #[arg(long, value_name = "N")]
    pub(crate) repair_tokens: Option<NonZeroUsize>,
    /// Where those windows come from [default: what --calibration says].
    #[arg(long, value_name = "SOURCE")]
    pub(crate) repair_calibration: Option<CalibrationSource>,
    /// Steps in which distill trains the block before each run towards the dense model's hidden state
    /// [default: once through the windows].
    #[arg(long, value_name = "N")]
    pub(crate) repair_run_steps: Option<usize>,
    /// Steps in which distill then trains all of a stage's towards the dense model's predictions; 0 for
    /// none [default: once through the windows].
    #[arg(long, value_name = "N")]
    pub(crate) repair_steps: Option<usize>,
    /// Largest learning rate of --repair-run-steps [default: 0.001].
    #[arg(long, value_name = "RATE")]
    pub(crate) repair_run_lr: Option<f64>,
    /// Largest learning rate of --repair-steps [default: 0.0005].
    #[arg(long, value_name = "RATE")]
    pub(crate) repair_lr: Option<f64>,
    /// Windows in a step of distill [default: 512 tokens].
    #[arg(long, value_name = "N")]
    pub(crate) repair_batch: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) width: WidthArgs,
    /// Tasks, separated by commas [default: those with bundled data].
    #[arg(long, value_delimiter = ',')]
    pub(crate) tasks: Option<Vec<String>>,
    /// Folder with the published files of tasks and calibration sources.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Only the first N items of each task.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<NonZeroUsize>,
    /// Seed of everything else that is drawn [default: 0].
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Start over: forget what an earlier run in the same folder measured.
    #[arg(long)]
    pub(crate) force: bool,
    /// Print the results object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RepairArg {
    /// Nothing.
    #[default]
    None,
    /// A ridge regression, folded into the MLP's output layer.
    Linear,
    /// Training, from there on.
    Distill,
}

impl RepairArg {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde asks for"
    )]
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl fmt::Display for RepairArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Linear => "linear",
            Self::Distill => "distill",
        })
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KvSelectionArg {
    /// By the attention that is left on what crosses.
    Attention,
    /// By loss, measured after each choice.
    Loss,
}

impl KvSelectionArg {
    pub(crate) fn selection(self) -> Selection {
        match self {
            Self::Attention => Selection::Attention,
            Self::Loss => Selection::Loss,
        }
    }
}

/// The effective configuration of a run: defaults, overridden by the file, overridden by flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct TrimConfig {
    pub(crate) model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dtype: Option<DtypeArg>,
    pub(crate) device: String,
    pub(crate) one_block: bool,
    pub(crate) offline: bool,
    pub(crate) out: PathBuf,
    pub(crate) calibration: CalibrationSource,
    pub(crate) calibration_seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) calibration_items: Option<NonZeroUsize>,
    pub(crate) windows: NonZeroUsize,
    pub(crate) window_tokens: NonZeroUsize,
    pub(crate) prefill_count: usize,
    pub(crate) decode_count: usize,
    pub(crate) strategy: StrategyArg,
    pub(crate) race_error: f64,
    pub(crate) beam_width: NonZeroUsize,
    pub(crate) anneal_steps: usize,
    pub(crate) anneal_start: f64,
    pub(crate) anneal_end: f64,
    pub(crate) validation_windows: usize,
    pub(crate) distill_threshold: f64,
    pub(crate) unprotected_ends: bool,
    pub(crate) independent: bool,
    pub(crate) unified: bool,
    pub(crate) boundary: Boundary,
    pub(crate) kv_factor: f64,
    pub(crate) kv_selection: KvSelectionArg,
    pub(crate) repair: RepairArg,
    pub(crate) pairs: RepairArg,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repair_tokens: Option<NonZeroUsize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repair_calibration: Option<CalibrationSource>,
    pub(crate) width: WidthArg,
    pub(crate) prefill_ratio: f64,
    pub(crate) decode_ratio: f64,
    pub(crate) no_compensation: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repair_run_steps: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repair_steps: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repair_run_lr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repair_lr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repair_batch: Option<NonZeroUsize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tasks: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<NonZeroUsize>,
    pub(crate) seed: u64,
}

impl Default for TrimConfig {
    fn default() -> Self {
        let n = |n| NonZeroUsize::new(n).expect("written out below");
        let annealing = Annealing::default();
        Self {
            model: DEFAULT_MODEL.to_owned(),
            dtype: None,
            device: "cpu".to_owned(),
            one_block: false,
            offline: false,
            out: PathBuf::from("pdtrim-out"),
            calibration: CalibrationSource::Prose,
            calibration_seed: 0,
            calibration_items: None,
            windows: n(8),
            window_tokens: n(128),
            prefill_count: 2,
            decode_count: 4,
            strategy: StrategyArg::Sleb,
            race_error: 0.0,
            beam_width: n(4),
            anneal_steps: annealing.steps,
            anneal_start: annealing.start_temperature,
            anneal_end: annealing.end_temperature,
            validation_windows: 0,
            distill_threshold: DistillThreshold::default().value(),
            unprotected_ends: false,
            independent: false,
            unified: false,
            boundary: Boundary::Prefill,
            kv_factor: 2.0,
            kv_selection: KvSelectionArg::Loss,
            repair: RepairArg::None,
            pairs: RepairArg::None,
            repair_tokens: None,
            repair_calibration: None,
            repair_run_steps: None,
            repair_steps: None,
            repair_run_lr: None,
            repair_lr: None,
            repair_batch: None,
            width: WidthArg::None,
            prefill_ratio: 0.1,
            decode_ratio: 0.2,
            no_compensation: false,
            tasks: None,
            data: None,
            limit: None,
            seed: 0,
        }
    }
}

pub(crate) fn set<T>(field: &mut T, flag: Option<T>) {
    if let Some(flag) = flag {
        *field = flag;
    }
}

impl TrimConfig {
    /// Reads the file if one is named, then lets flags win.
    pub(crate) fn resolve(args: TrimArgs) -> Result<Self> {
        let mut config = match &args.config {
            Some(path) => {
                let text = pdtrim_core::read_text(path, limits::CONFIG)?;
                pdtrim_core::parse_toml(path, &text)?
            }
            None => Self::default(),
        };
        set(&mut config.model, args.model.model);
        set(&mut config.dtype, args.model.dtype.map(Some));
        set(&mut config.device, args.model.device);
        set(&mut config.out, args.out);
        set(&mut config.calibration, args.calibration);
        set(&mut config.calibration_seed, args.calibration_seed);
        let items = args.calibration_items;
        set(&mut config.calibration_items, items.map(Some));
        set(&mut config.windows, args.windows);
        set(&mut config.window_tokens, args.window_tokens);
        set(&mut config.prefill_count, args.prefill_count);
        set(&mut config.decode_count, args.decode_count);
        args.strategy.resolve(&mut config);
        set(&mut config.boundary, args.boundary);
        set(&mut config.kv_factor, args.kv_factor);
        set(&mut config.kv_selection, args.kv_selection);
        set(&mut config.repair, args.repair);
        set(&mut config.pairs, args.pairs);
        set(&mut config.repair_tokens, args.repair_tokens.map(Some));
        let source = args.repair_calibration;
        set(&mut config.repair_calibration, source.map(Some));
        set(
            &mut config.repair_run_steps,
            args.repair_run_steps.map(Some),
        );
        set(&mut config.repair_steps, args.repair_steps.map(Some));
        set(&mut config.repair_run_lr, args.repair_run_lr.map(Some));
        set(&mut config.repair_lr, args.repair_lr.map(Some));
        set(&mut config.repair_batch, args.repair_batch.map(Some));
        args.width.resolve(&mut config);
        set(&mut config.tasks, args.tasks.map(Some));
        set(&mut config.data, args.data.map(Some));
        set(&mut config.limit, args.limit.map(Some));
        set(&mut config.seed, args.seed);
        config.offline |= args.model.offline;
        config.one_block |= args.model.one_block;
        config.unprotected_ends |= args.unprotected_ends;
        config.independent |= args.independent;
        config.unified |= args.unified;
        let factor = config.kv_factor;
        ensure!(
            factor >= 1.0 && factor.is_finite(),
            "kv-factor must be a number of at least 1, found {factor}"
        );
        ensure!(
            !(config.unified && config.independent),
            "unified and independent exclude each other"
        );
        config.search_strategy(None)?;
        config.distill_threshold()?;
        RepairSettings::check(&config)?;
        config.check_width()?;
        Ok(config)
    }

    /// The calibration windows to draw.
    pub(crate) fn window_draw(&self) -> WindowDraw {
        WindowDraw {
            seed: self.calibration_seed,
            items: self.calibration_items.map(Into::into),
            windows: self.windows.get(),
            window_tokens: self.window_tokens.get(),
        }
    }

    pub(crate) fn kv_fill(&self) -> KvFill {
        if self.independent {
            KvFill::Project
        } else {
            KvFill::Nested
        }
    }

    pub(crate) fn model_args(&self) -> ModelArgs {
        ModelArgs {
            model: Some(self.model.clone()),
            dtype: self.dtype,
            device: Some(self.device.clone()),
            one_block: self.one_block,
            offline: self.offline,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn resolve(words: &[&str]) -> Result<TrimConfig> {
        let cli = Cli::try_parse_from([&["pdtrim", "trim"], words].concat()).unwrap();
        let Command::Trim(args) = cli.command else {
            panic!("parsed as another command")
        };
        TrimConfig::resolve(*args)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(
            &path,
            "decode-count = 6\nwindows = 4\nkv-factor = 4.0\ntasks = [\"everyday\"]\n",
        )
        .unwrap();
        let config = resolve(&[
            "--config",
            path.to_str().unwrap(),
            "--windows",
            "12",
            "--independent",
        ])
        .unwrap();
        assert_eq!(config.windows.get(), 12);
        assert_eq!((config.decode_count, config.prefill_count), (6, 2));
        assert_eq!(config.tasks.as_deref(), Some(&["everyday".to_owned()][..]));
        assert_eq!(config.kv_fill(), KvFill::Project);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, "decode-cuont = 6\n").unwrap();
        let error = format!(
            "{:#}",
            resolve(&["--config", path.to_str().unwrap()]).unwrap_err()
        );
        assert!(
            error.contains("decode-cuont") && error.contains("run.toml"),
            "{error}"
        );
    }

    #[test]
    fn the_effective_configuration_is_a_valid_file() {
        let drawn = [
            "--calibration",
            "a/x.jsonl#goal+sol1",
            "--calibration-seed",
            "3",
            "--calibration-items",
            "40",
        ];
        for words in [&["--limit", "5", "--dtype", "bf16"][..], &drawn] {
            let config = resolve(words).unwrap();
            assert_eq!(
                toml::from_str::<TrimConfig>(&toml::to_string(&config).unwrap()).unwrap(),
                config
            );
        }
    }

    #[test]
    fn the_calibration_of_a_file_is_read_as_that_of_the_flags() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(
            &path,
            "calibration = \"piqa+mmlu\"\ncalibration-seed = 2\ncalibration-items = 64\n",
        )
        .unwrap();
        let config = resolve(&["--config", path.to_str().unwrap()]).unwrap();
        let flags = resolve(&[
            "--calibration",
            "piqa+mmlu",
            "--calibration-seed",
            "2",
            "--calibration-items",
            "64",
        ]);
        assert_eq!(config, flags.unwrap());
        assert_eq!(config.window_draw().items, Some(64));
        std::fs::write(&path, "calibration = \"x.jsonl#\"\n").unwrap();
        let error = resolve(&["--config", path.to_str().unwrap()]).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("x.jsonl#"), "{error}");
    }

    #[test]
    fn a_factor_below_one_is_refused() {
        assert!(resolve(&["--kv-factor", "0.5"]).is_err());
    }

    #[test]
    fn the_strategy_of_a_file_is_the_one_of_the_flags() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        let text = "strategy = \"shortened-ppl\"\nbeam-width = 9\nanneal-steps = 7\n\
            anneal-start = 0.5\nanneal-end = 0.25\nvalidation-windows = 3\ndistill-threshold = 0.9\n";
        std::fs::write(&path, text).unwrap();
        let file = resolve(&["--config", path.to_str().unwrap()]).unwrap();
        let flags = "--strategy shortened-ppl --beam-width 9 --anneal-steps 7 --anneal-start 0.5 \
            --anneal-end 0.25 --validation-windows 3 --distill-threshold 0.9";
        let words: Vec<&str> = flags.split_whitespace().collect();
        assert_eq!(file, resolve(&words).unwrap());
        for name in [
            "pdtrim",
            "sleb",
            "beam",
            "exact",
            "shortgpt",
            "shortened-ppl",
            "shortened-taylor",
            "random",
        ] {
            let config = resolve(&["--strategy", name]).unwrap();
            assert_eq!(config.search_strategy(None).unwrap().name(), name);
        }
    }

    #[test]
    fn one_set_for_both_stages_is_not_two_independent_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, "unified = true\n").unwrap();
        let words = ["--config", path.to_str().unwrap(), "--independent"];
        let error = format!("{:#}", resolve(&words).unwrap_err());
        assert!(error.contains("unified and independent"), "{error}");
    }

    #[test]
    fn numbers_for_a_repair_that_is_not_asked_for_are_refused_by_name() {
        for (words, parts) in [
            (&["--repair-tokens", "64"][..], ["repair-tokens", "none"]),
            (
                &["--repair-calibration", "prose"],
                ["repair-calibration", "none"],
            ),
            (&["--repair-lr", "0.1"], ["repair-lr", "none"]),
            (
                &["--repair", "linear", "--repair-steps", "4"],
                ["repair-steps", "found linear"],
            ),
            (
                &["--repair", "distill", "--repair-run-lr", "2"],
                ["repair-run-lr", "found 2"],
            ),
        ] {
            let error = format!("{:#}", resolve(words).unwrap_err());
            for part in parts {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
        let flags = "--repair distill --repair-tokens 64 --repair-run-steps 3 --repair-steps 0 \
            --repair-run-lr 0.01 --repair-lr 0.02 --repair-batch 3";
        let flags = resolve(&flags.split_whitespace().collect::<Vec<_>>()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(
            &path,
            "repair = \"distill\"\nrepair-tokens = 64\nrepair-run-steps = 3\nrepair-steps = 0\n\
                repair-run-lr = 0.01\nrepair-lr = 0.02\nrepair-batch = 3\n",
        )
        .unwrap();
        let config = resolve(&["--config", path.to_str().unwrap()]).unwrap();
        assert_eq!(config, flags);
    }

    #[test]
    fn numbers_that_no_strategy_takes_are_refused_by_the_flags_name() {
        for (words, flag) in [
            (["--anneal-end", "0.2"], "anneal-end"),
            (["--anneal-start", "nan"], "anneal-start"),
            (["--distill-threshold", "1.5"], "distill-threshold"),
            (["--distill-threshold", "0"], "distill-threshold"),
        ] {
            let error = format!("{:#}", resolve(&words).unwrap_err());
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn a_probability_of_one_is_refused_and_the_message_names_the_flag() {
        let error = format!("{:#}", resolve(&["--race-error", "1"]).unwrap_err());
        assert!(
            error.contains("race-error") && error.contains("found 1"),
            "{error}"
        );
    }
}
