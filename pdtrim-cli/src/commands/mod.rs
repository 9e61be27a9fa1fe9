//! One file for each subcommand; glue over the library crates.

mod bench;
mod calibrations;
mod compare;
mod eval;
mod export;
mod generate;
mod import;
mod inspect;
mod kv;
mod logprobs;
mod sensitivity;
mod serve;

pub(crate) use bench::Link;
pub(crate) use eval::{boundaries, load_all, load_tasks, session_info};

use anyhow::Result;
use clap::CommandFactory;

use crate::args::{Cli, Command, PullArgs};
use crate::progress::Progress;
use crate::{output, session, trim};

pub(crate) fn run(cli: Cli) -> Result<()> {
    let progress = Progress::new(cli.quiet);
    match cli.command {
        Command::Trim(args) => trim::run(*args, progress),
        Command::Eval(args) => eval::run(&args, progress),
        Command::Baseline(args) => eval::baseline(&args, progress),
        Command::Generate(args) => generate::run(&args, progress),
        Command::Logprobs(args) => logprobs::run(&args, progress),
        Command::Inspect(args) => inspect::run(&args, progress),
        Command::Export(args) => export::run(&args, progress),
        Command::Import(args) => import::run(&args, progress),
        Command::Calibrations(args) => calibrations::run(&args, progress),
        Command::Compare(args) => compare::run(&args, progress),
        Command::Sensitivity(args) => sensitivity::run(&args, progress),
        Command::Kv(args) => kv::run(&args, progress),
        Command::Serve(args) => serve::run(&args, progress),
        Command::Pull(args) => pull(&args, progress),
        Command::Bench(args) => bench::run(&args, progress),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "pdtrim", &mut script);
            output::result(&String::from_utf8_lossy(&script))
        }
    }
}

fn pull(args: &PullArgs, progress: Progress) -> Result<()> {
    let path = session::fetch(&args.model, args.offline, progress)?;
    output::result(&path.display().to_string())
}
