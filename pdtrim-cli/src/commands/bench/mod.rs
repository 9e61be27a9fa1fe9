//! `pdtrim bench`: times on this machine, with every sample kept and held against the work done.

mod environment;
mod eval;
mod growth;
mod load;
mod measure;
mod pd;
mod perplexity;
mod report;
mod search;
mod stages;
mod text;
mod work;

pub(crate) use pd::Link;
pub(crate) use work::Stages;

use std::num::NonZeroUsize;

use anyhow::{Context, Result};
use pdtrim_core::checkpoint::seeded;
use pdtrim_core::pipeline::PdModel;
use pdtrim_eval::Mode;

use crate::args::{BenchArgs, BenchCommand, MakeBenchArgs, MeasureArgs};
use crate::output;
use crate::progress::Progress;
use crate::session::{Bound, Session};

pub(crate) fn run(args: &BenchArgs, progress: Progress) -> Result<()> {
    // Before anything else runs on the pool that this sets up.
    set_threads(args.what.measure().and_then(|measure| measure.threads))?;
    match &args.what {
        BenchCommand::Prefill(args) => stages::prefill(args, progress),
        BenchCommand::Decode(args) => stages::decode(args, progress),
        BenchCommand::Perplexity(args) => perplexity::run(args, progress),
        BenchCommand::Search(args) => search::run(args, progress),
        BenchCommand::Eval(args) => eval::run(args, progress),
        BenchCommand::Load(args) => load::run(args, progress),
        BenchCommand::Make(args) => make(args),
        BenchCommand::Growth(args) => growth::run(args, progress),
        BenchCommand::Pd(args) => pd::run(args, progress),
    }
}

fn make(args: &MakeBenchArgs) -> Result<()> {
    let shape = seeded::shape(&args.shape)?;
    let report = seeded::write(&shape, args.seed, args.dtype.dtype(), &args.out)?;
    output::result(&format!(
        "{}: {} blocks, {} of weights from seed {}",
        args.out.display(),
        report.blocks,
        report.weight_bytes,
        args.seed
    ))
}

impl BenchCommand {
    fn measure(&self) -> Option<&MeasureArgs> {
        Some(match self {
            Self::Prefill(args) => &args.measure,
            Self::Decode(args) => &args.measure,
            Self::Perplexity(args) => &args.measure,
            Self::Search(args) => &args.measure,
            Self::Eval(args) => &args.measure,
            Self::Load(args) => &args.measure,
            Self::Make(_) => return None,
            Self::Growth(args) => &args.measure,
            Self::Pd(args) => &args.measure,
        })
    }
}

fn set_threads(threads: Option<NonZeroUsize>) -> Result<()> {
    let Some(threads) = threads else {
        return Ok(());
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .build_global()
        .with_context(|| format!("cannot run on {threads} threads"))
}

/// A model that is measured under its name.
struct Subject<'a> {
    name: &'static str,
    mode: Mode,
    pd: PdModel<'a>,
}

/// The dense model, and the trimmed one if the arguments name a plan.
fn subjects<'a>(bound: &'a Bound, session: &'a Session) -> Result<Vec<Subject<'a>>> {
    let named = [("dense", Mode::Dense), ("trimmed", Mode::PdKv)];
    let wanted = if bound.is_dense() { 1 } else { 2 };
    let subject = |&(name, mode): &(&'static str, Mode)| {
        let pd = bound.model(session, mode, bound.boundary)?;
        Ok(Subject { name, mode, pd })
    };
    named[..wanted].iter().map(subject).collect()
}
