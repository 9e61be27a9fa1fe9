use std::path::PathBuf;

use clap::Args;
use pdtrim_core::BlockList;

/// A plan, from a file or spelled out.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct PlanArgs {
    /// A plan file that `pdtrim trim` wrote, or one written by hand.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prefill_remove", "decode_remove", "kv_blocks"])]
    pub(crate) plan: Option<PathBuf>,
    /// Blocks that prefill does without, such as 3,7-9.
    #[arg(long, value_name = "BLOCKS")]
    pub(crate) prefill_remove: Option<BlockList>,
    /// Blocks that decode does without; must include prefill's.
    #[arg(long, value_name = "BLOCKS")]
    pub(crate) decode_remove: Option<BlockList>,
    /// Blocks of whose prompt KV only the first and last positions cross.
    #[arg(long, value_name = "BLOCKS", requires_all = ["kv_first", "kv_last"])]
    pub(crate) kv_blocks: Option<BlockList>,
    /// First positions that cross.
    #[arg(long, value_name = "N", requires = "kv_blocks")]
    pub(crate) kv_first: Option<usize>,
    /// Last positions that cross.
    #[arg(long, value_name = "N", requires = "kv_blocks")]
    pub(crate) kv_last: Option<usize>,
    /// Which stage computes the first new token: prefill or decode [default: the plan's, or prefill].
    #[arg(long)]
    pub(crate) boundary: Option<pdtrim_core::Boundary>,
}
