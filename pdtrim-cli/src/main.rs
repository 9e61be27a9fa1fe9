//! `pdtrim`: trims Llama-family models for prefill/decode disaggregation.

mod allocator;
mod args;
mod calibration;
mod commands;
mod mapped;
mod output;
mod progress;
mod repair;
mod run_folder;
mod scoring;
mod session;
mod statistics;
mod tables;
mod taylor;
mod trim;
mod width;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;

fn main() -> ExitCode {
    allocator::keep_memory();
    mapped::explain_lost_pages();
    let cli = Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}
