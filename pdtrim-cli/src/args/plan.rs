use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use pdtrim_core::{BlockList, KvEncoding, TokenSpan};

/// A plan, from a file or spelled out.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct PlanArgs {
    /// A plan file that `pdtrim trim` wrote, or one written by hand.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prefill_remove", "decode_remove", "kv_blocks", "kv_encoding"])]
    pub(crate) plan: Option<PathBuf>,
    /// Blocks that prefill does without, such as 3,7-9.
    #[arg(long, value_name = "BLOCKS")]
    pub(crate) prefill_remove: Option<BlockList>,
    /// Blocks that decode does without; must include prefill's.
    #[arg(long, value_name = "BLOCKS")]
    pub(crate) decode_remove: Option<BlockList>,
    /// Blocks of whose prompt KV only the first and last positions cross.
    #[arg(long, value_name = "BLOCKS", requires = "kv_positions")]
    pub(crate) kv_blocks: Option<BlockList>,
    /// First positions that cross.
    #[arg(long, value_name = "N", requires_all = ["kv_blocks", "kv_last"], group = "kv_positions")]
    pub(crate) kv_first: Option<usize>,
    /// Last positions that cross.
    #[arg(long, value_name = "N", requires_all = ["kv_blocks", "kv_first"])]
    pub(crate) kv_last: Option<usize>,
    /// Positions that cross in all, instead of --kv-first and --kv-last.
    #[arg(long, value_name = "N", requires_all = ["kv_blocks", "kv_first_ratio"], group = "kv_positions")]
    pub(crate) kv_budget: Option<usize>,
    /// The share of --kv-budget that are first positions, 0 to 1.
    #[arg(long, value_name = "X", requires_all = ["kv_blocks", "kv_budget"])]
    pub(crate) kv_first_ratio: Option<f64>,
    /// Beside those, so many positions between them that the attention of the prompt's queries falls on most, each head
    /// its own.
    #[arg(long, value_name = "N", requires_all = ["kv_blocks", "kv_positions"])]
    pub(crate) kv_heavy: Option<usize>,
    /// How the elements of prompt KV cross, in every block: held, bf16, fp8-e4m3, int8 or int4.
    #[arg(long, value_name = "ENCODING", value_parser = kv_encoding)]
    pub(crate) kv_encoding: Option<KvEncoding>,
    /// Which stage computes the first new token: prefill or decode [default: the plan's, or prefill].
    #[arg(long)]
    pub(crate) boundary: Option<pdtrim_core::Boundary>,
}

impl PlanArgs {
    /// The positions that the flags let through, in the blocks that they name.
    pub(crate) fn span(&self) -> pdtrim_core::Result<TokenSpan> {
        match (self.kv_budget, self.kv_first_ratio) {
            (Some(budget), Some(first_ratio)) => TokenSpan::from_budget(budget, first_ratio),
            _ => Ok(TokenSpan {
                first: self.kv_first.unwrap_or(0),
                last: self.kv_last.unwrap_or(0),
            }),
        }
    }

    /// The same as flags, for another process; without the boundary.
    pub(crate) fn flags(&self) -> Vec<OsString> {
        let blocks = |list: &Option<BlockList>| {
            let blocks = Vec::from(list.clone()?);
            let blocks: Vec<String> = blocks.iter().map(usize::to_string).collect();
            (!blocks.is_empty()).then(|| blocks.join(",").into())
        };
        let number = |number: Option<usize>| number.map(|number| number.to_string().into());
        let ratio = self.kv_first_ratio.map(|ratio| ratio.to_string().into());
        let values: [(&str, Option<OsString>); 10] = [
            ("--plan", self.plan.clone().map(OsString::from)),
            ("--prefill-remove", blocks(&self.prefill_remove)),
            ("--decode-remove", blocks(&self.decode_remove)),
            ("--kv-blocks", blocks(&self.kv_blocks)),
            ("--kv-first", number(self.kv_first)),
            ("--kv-last", number(self.kv_last)),
            ("--kv-budget", number(self.kv_budget)),
            ("--kv-first-ratio", ratio),
            ("--kv-heavy", number(self.kv_heavy)),
            (
                "--kv-encoding",
                self.kv_encoding.map(|encoding| encoding.name().into()),
            ),
        ];
        let set = values
            .into_iter()
            .filter_map(|(flag, value)| Some((flag, value?)));
        set.flat_map(|(flag, value)| [flag.into(), value]).collect()
    }
}

/// The encoding called `name`.
pub(crate) fn kv_encoding(name: &str) -> Result<KvEncoding, String> {
    let found = KvEncoding::ALL
        .into_iter()
        .find(|encoding| encoding.name() == name);
    found.ok_or_else(|| {
        let names = KvEncoding::ALL.map(KvEncoding::name).join(", ");
        format!("expected one of {names}")
    })
}
