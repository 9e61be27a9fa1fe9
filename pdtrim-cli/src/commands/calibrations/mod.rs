//! How the choice of calibration windows changes the chosen blocks and their losses.

mod domains;
mod report;
mod rows;
mod tables;

use anyhow::{Context, Result, ensure};
use pdtrim_core::check_writable;
use pdtrim_search::calibration::{CalibrationSource, Corpus, Part};

use crate::args::CalibrationsArgs;
use crate::output;
use crate::progress::Progress;
use crate::session::Session;

pub(crate) fn run(args: &CalibrationsArgs, progress: Progress) -> Result<()> {
    ensure!(!args.seeds.is_empty(), "expected at least one seed");
    args.output.as_deref().map_or(Ok(()), check_writable)?;
    let sources = sources(args);
    // Every file is read before the first search runs.
    let read = |source: &CalibrationSource| {
        let corpus = Corpus::read(source, args.data.as_deref(), Part::Calibration)?;
        Ok((source.to_string(), corpus))
    };
    let corpora = sources.iter().map(read).collect::<Result<Vec<_>>>()?;
    let domains = domains::read(&sources, args.data.as_deref())?;
    let session = Session::open(&args.model, progress)?.for_long_work();
    let comparison = rows::Comparison {
        args,
        session: &session,
        progress,
    };
    let domains = comparison.draw_held_out(domains)?;
    let searched = comparison.search(&corpora)?;
    let report = report::Report::new(&comparison, &domains, searched)?;
    session.check_unchanged(None)?;
    let object = serde_json::to_value(&report)?;
    if let Some(path) = &args.output {
        let text = serde_json::to_string_pretty(&object)?;
        pdtrim_core::write_atomically(path, format!("{text}\n").as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        output::json(&object)
    } else {
        output::result(&tables::render(&report))
    }
}

/// Without a folder of published files, what needs none.
fn sources(args: &CalibrationsArgs) -> Vec<CalibrationSource> {
    match (&args.sources[..], &args.data) {
        ([], None) => vec![CalibrationSource::Prose, CalibrationSource::Sampled],
        ([], Some(_)) => CalibrationSource::named().collect(),
        (sources, _) => sources.to_vec(),
    }
}
