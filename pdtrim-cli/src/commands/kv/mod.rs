//! `pdtrim kv`: what decode has to receive of a prompt's keys and values.

mod choices;
mod export;
mod needle;
mod page;
mod report;
mod search;
mod sends;

use anyhow::Result;

use crate::args::{KvArgs, KvCommand};
use crate::progress::Progress;

pub(crate) fn run(args: &KvArgs, progress: Progress) -> Result<()> {
    match &args.command {
        KvCommand::Search(args) => search::run(args, progress),
        KvCommand::Needle(args) => needle::run(args, progress),
        KvCommand::Export(args) => export::run(args, progress),
    }
}
