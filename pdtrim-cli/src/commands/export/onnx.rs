//! `pdtrim export --onnx`: a graph of one pass.

use anyhow::{Result, ensure};

use super::file::{Source, check_out, say};
use crate::args::ExportArgs;
use crate::progress::Progress;

pub(super) fn run(args: &ExportArgs, n_tokens: usize, progress: Progress) -> Result<()> {
    // Before a model is fetched for nothing.
    ensure!(
        cfg!(feature = "onnx"),
        "this build has no --onnx; build it with `--features onnx`"
    );
    check_out(args, "--onnx")?;
    let source = Source::open(args, progress)?;
    let (removed, weights) = (&source.removed, &source.weights);
    let written = source
        .checkpoint
        .export_onnx(removed, weights, n_tokens, &args.out)?;
    say(&args.out, &written)
}
