//! `pdtrim export --gguf`: a file for llama.cpp.

use anyhow::{Result, bail};
use pdtrim_core::checkpoint::StageWeights;
use pdtrim_core::repair::StageRepair;

use super::file::{Source, check_out, say};
use crate::args::{ExportArgs, GgufArg};
use crate::progress::Progress;

pub(super) fn run(args: &ExportArgs, kind: GgufArg, progress: Progress) -> Result<()> {
    let out = &args.out;
    check_out(args, "--gguf")?;
    let source = Source::open(args, progress)?;
    let repaired = match source.weights {
        StageWeights::Own => StageRepair::default(),
        StageWeights::Repaired(repaired) => repaired,
        StageWeights::Narrow(..) => bail!(
            "{} makes blocks narrower: --gguf expects a plan without [width]; without --gguf its stages are \
                written with zeros",
            args.source
        ),
    };
    let (checkpoint, removed) = (source.checkpoint, source.removed);
    let report = checkpoint.export_gguf(&removed, &repaired, kind.weights(), &source.about, out)?;
    say(out, &report)
}
