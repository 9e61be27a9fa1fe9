use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use pdtrim_core::{Boundary, KvEncoding};
use pdtrim_search::calibration::CalibrationSource;

use super::{KvExportArgs, KvNeedleArgs, ModelArgs, kv_encoding};

/// What decode has to receive of a prompt's keys and values.
#[derive(Args, Debug)]
pub(crate) struct KvArgs {
    #[command(subcommand)]
    pub(crate) command: KvCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum KvCommand {
    /// Find the plans of lowest loss for fewer and fewer bytes: which positions and which encoding, in each block.
    Search(Box<KvSearchArgs>),
    /// Ask for a fact at every depth of prompts of several lengths, dense beside what a plan sends.
    Needle(Box<KvNeedleArgs>),
    /// Write a prompt's keys and values, as decode receives them, as vLLM's connector for files reads them.
    Export(Box<KvExportArgs>),
}

/// What blocks may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum KvMenuArg {
    /// Fewer positions, in bf16: the first and the last
    Positions,
    /// Fewer positions, in bf16: the first, the last, and those that attention falls on most, in each head
    Heavy,
    /// All positions, in fewer bits
    Encodings,
    /// Fewer positions, fewer bits, or both: the first and last positions
    Both,
    /// Fewer positions, fewer bits, or both: with those that attention falls on most
    HeavyBoth,
}

/// What a search for KV plans measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvPriceArg {
    /// Mean negative log-likelihood of the continuations
    Loss,
    /// Mean KL divergence of the next token's distribution from the dense model's
    Divergence,
}

impl KvPriceArg {
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Divergence => "divergence",
        }
    }
}

/// Published policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum KvPolicyArg {
    /// The last positions
    Window,
    /// The last positions, and those that the last queries look at most, in each head
    Snapkv,
    /// As snapkv, with heads that share a block's budget out among themselves
    AdaKv,
    /// The last positions, and those that all queries looked at most, in each head
    H2o,
    /// All positions, but fewer channels of the keys
    Think,
}

#[derive(Args, Debug)]
#[command(
    after_help = "For each factor and each menu: the plan that the search found on the calibration windows, \
        and its loss, perplexity and, with --tasks, scores on text that it has not seen. Beside them stand, \
        in every block alike, the first and last positions, one encoding, and published policies."
)]
pub(crate) struct KvSearchArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A plan whose blocks are removed; its own KV is not looked at.
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: Option<PathBuf>,
    /// Which stage computes the first new token: prefill or decode [default: the plan's, or prefill].
    #[arg(long)]
    pub(crate) boundary: Option<Boundary>,
    /// How many times fewer bytes than the dense model's keys and values in bf16, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "X", default_values_t = [1.5, 2.0, 3.0, 4.0, 4.95, 6.0, 8.0])]
    pub(crate) factors: Vec<f64>,
    /// By how many percent perplexity may rise on the calibration windows: for each menu, the plan of the fewest
    /// bytes that is found for it stands beside the factors'.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) max_rise: Option<f64>,
    /// What blocks may choose from, separated by commas; a front for each.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [KvMenuArg::Positions, KvMenuArg::Encodings, KvMenuArg::Both])]
    pub(crate) menus: Vec<KvMenuArg>,
    /// Numbers of positions that a block may send, separated by commas; all of them always are a choice.
    #[arg(long, value_delimiter = ',', value_name = "N", default_values_t = [16, 32, 64, 128, 256, 512])]
    pub(crate) spans: Vec<usize>,
    /// How many of those may be a prompt's first ones, separated by commas; blocks are chosen with the first of
    /// these numbers, and the best of all is kept.
    #[arg(long, value_delimiter = ',', value_name = "N", default_values_t = [4, 0, 1, 2, 8, 16, 32])]
    pub(crate) first: Vec<usize>,
    /// In the menus with heavy positions, the share of a span's others that attention chooses, 0 to 1, separated by
    /// commas; blocks are chosen with the first of these numbers, and the best of all is kept.
    #[arg(long, value_delimiter = ',', value_name = "X", value_parser = share, default_values_t = [0.5, 0.75, 0.25])]
    pub(crate) heavy: Vec<f64>,
    /// Encodings that a block may send in, separated by commas; bf16 always is a choice.
    #[arg(long, value_delimiter = ',', value_parser = kv_encoding, value_name = "ENCODING", default_values_t = [KvEncoding::Fp8E4m3, KvEncoding::Int8, KvEncoding::Int4])]
    pub(crate) encodings: Vec<KvEncoding>,
    /// Published policies to hold the plans against, at equal bytes in bf16, separated by commas.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [KvPolicyArg::Window, KvPolicyArg::Snapkv, KvPolicyArg::AdaKv, KvPolicyArg::H2o, KvPolicyArg::Think])]
    pub(crate) policies: Vec<KvPolicyArg>,
    /// What prices are: how much the loss of the text rises, or how far predictions diverge from the dense
    /// model's, which sees changes that happen to spare the text at hand.
    #[arg(long, value_enum, default_value_t = KvPriceArg::Loss)]
    pub(crate) by: KvPriceArg,
    /// How often blocks' prices are measured again for each factor.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) rounds: usize,
    /// What is measured on, as `trim --calibration` takes it.
    #[arg(long, value_name = "SOURCE", default_value = "prose")]
    pub(crate) calibration: CalibrationSource,
    /// Seed of the calibration windows.
    #[arg(long, default_value = "0", value_name = "N")]
    pub(crate) calibration_seed: u64,
    /// Calibration windows.
    #[arg(long, default_value = "6", value_name = "N")]
    pub(crate) windows: NonZeroUsize,
    /// Windows of other text to report on.
    #[arg(long, default_value = "10", value_name = "N")]
    pub(crate) held_out_windows: NonZeroUsize,
    /// Tokens of a window's prompt.
    #[arg(long, default_value = "1024", value_name = "N")]
    pub(crate) prompt_tokens: NonZeroUsize,
    /// Tokens after it, whose loss counts.
    #[arg(long, default_value = "64", value_name = "N")]
    pub(crate) continuation_tokens: NonZeroUsize,
    /// Folder with the published files of tasks and calibration sources.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Tasks to score every plan on, separated by commas, such as needle [default: none].
    #[arg(long, value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,
    /// Only the first N items of each task.
    #[arg(long, value_name = "N", requires = "tasks")]
    pub(crate) limit: Option<NonZeroUsize>,
    /// Folder for front.json, front.csv, front.html and a plan for each point. A killed run goes on where it
    /// was when it is started again with the same folder.
    #[arg(long, short, value_name = "DIR", default_value = "pdtrim-kv")]
    pub(crate) out: PathBuf,
    /// Start over: forget what an earlier run in the same folder measured.
    #[arg(long)]
    pub(crate) force: bool,
    /// Print one object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.0..=1.0).contains(&number) {
        Ok(number)
    } else {
        Err("expected a share from 0 to 1".to_owned())
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if number > 0.0 && number.is_finite() {
        Ok(number)
    } else {
        Err("expected a number of percent above 0".to_owned())
    }
}
