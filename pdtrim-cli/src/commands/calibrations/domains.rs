//! The texts that losses are reported on.

use std::path::Path;

use anyhow::Result;
use pdtrim_search::calibration::{CalibrationSet, CalibrationSource, Corpus, Part};

/// Held-out windows of one source.
pub(super) struct Domain {
    /// The source, as the user wrote it.
    pub(super) name: String,
    pub(super) set: CalibrationSet,
}

/// The held-out part of every source, of the bundled prose and, where its files are, of WikiText-2.
pub(super) fn read(
    sources: &[CalibrationSource],
    data: Option<&Path>,
) -> Result<Vec<(String, Corpus)>> {
    let mut sources = sources.to_vec();
    for always in [CalibrationSource::Prose, CalibrationSource::WikiText2] {
        let is_there = Corpus::read(&always, data, Part::HeldOut).is_ok();
        if is_there && !sources.contains(&always) {
            sources.push(always);
        }
    }
    let read = |source: &CalibrationSource| {
        let corpus = Corpus::read(source, data, Part::HeldOut)?;
        Ok((source.to_string(), corpus))
    };
    sources.iter().map(read).collect()
}
