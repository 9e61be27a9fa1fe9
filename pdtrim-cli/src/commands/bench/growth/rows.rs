//! The rows of the tables: what was measured beside what the work predicts.

use serde::Serialize;

use super::Run;
use crate::commands::bench::environment::Environment;
use crate::commands::bench::measure::{Generated, median};
use crate::commands::bench::report::{Measurement, ratios, seconds};
use crate::commands::bench::work::{Stages, Work};
use crate::session::Session;

/// Everything that the sweep found.
pub(super) struct Growth {
    pub(super) lengths: Vec<Point>,
    pub(super) batches: Vec<Point>,
    pub(super) removed: Vec<Removed>,
    pub(super) answers: Vec<usize>,
}

/// A time over something that varies.
pub(super) struct Point {
    pub(super) x: usize,
    pub(super) measurement: Measurement,
    /// Seconds, if the time of the first point grew as the work does.
    pub(super) predicted: f64,
}

/// Both stages without some blocks, against the dense model.
#[derive(Debug, Serialize)]
pub(super) struct Removed {
    pub(super) count: usize,
    pub(super) blocks: Vec<usize>,
    pub(super) prefill: Saving,
    pub(super) decode: Saving,
    #[serde(skip)]
    pub(super) ttft: Measurement,
    #[serde(skip)]
    pub(super) tpot: Measurement,
}

/// Shares of the dense model's.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Saving {
    /// Of prefill's FLOPs, or of the weight bytes that a step of decode reads, head included.
    pub(super) work_removed: f64,
    /// Median over the rounds, each compared with the dense run of the same round.
    pub(super) time_saved: f64,
    /// `time_saved - work_removed`, in percentage points.
    pub(super) difference_points: f64,
}

/// How much sooner the last token of an answer is there.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Gain {
    pub(super) removed: usize,
    pub(super) answer_tokens: usize,
    /// TTFT + tokens x TPOT, in seconds.
    pub(super) seconds: f64,
    /// Dense's time over this one.
    pub(super) speedup: f64,
}

impl Growth {
    /// All times, one after the other.
    pub(super) fn measurements(&self) -> Vec<Measurement> {
        let points = self.lengths.iter().chain(&self.batches);
        let points = points.map(|point| &point.measurement);
        let stages = self.removed.iter().flat_map(|row| [&row.ttft, &row.tpot]);
        points.chain(stages).cloned().collect()
    }

    /// The gain of each number of removed blocks for each answer length.
    pub(super) fn gains(&self) -> Vec<Gain> {
        let Some(dense) = self.removed.first() else {
            return Vec::new();
        };
        let time = |row: &Removed, tokens: usize| row.ttft.median + tokens as f64 * row.tpot.median;
        let gain = |row: &Removed, answer_tokens: usize| Gain {
            removed: row.count,
            answer_tokens,
            seconds: time(row, answer_tokens),
            speedup: time(dense, answer_tokens) / time(row, answer_tokens),
        };
        let rows = self.removed.iter();
        rows.flat_map(|row| self.answers.iter().map(move |&answer| gain(row, answer)))
            .collect()
    }
}

impl Removed {
    pub(super) fn in_words(&self) -> String {
        let part = |saving: Saving| {
            format!(
                "{:.1} % of the work and {:.1} % of the time ({:+.1} points)",
                saving.work_removed * 100.0,
                saving.time_saved * 100.0,
                saving.difference_points
            )
        };
        format!(
            "{} blocks out: prefill saves {}, decode {}",
            self.count,
            part(self.prefill),
            part(self.decode)
        )
    }
}

pub(super) fn lengths(
    session: &Session,
    environment: &Environment,
    runs: &[Run<'_>],
    times: &[Vec<Generated>],
) -> Vec<Point> {
    let name = |run: &Run<'_>| format!("prefill of {} tokens", run.tokens);
    let found = runs.iter().zip(times).map(|(run, times)| {
        let (ttft, work) = first(session, environment, name(run), run, times);
        (run.tokens, ttft, work.flops)
    });
    points(found)
}

pub(super) fn batches(
    session: &Session,
    environment: &Environment,
    runs: &[Run<'_>],
    times: &[Vec<Generated>],
) -> Vec<Point> {
    let name = |run: &Run<'_>| format!("decode of {} rows", run.batch);
    let found = runs.iter().zip(times).map(|(run, times)| {
        let (tpot, work) = later(session, environment, name(run), run, times);
        (run.batch, tpot, work.bytes())
    });
    points(found)
}

/// The times, and what the first would grow to in proportion to the work.
fn points(found: impl Iterator<Item = (usize, Measurement, f64)>) -> Vec<Point> {
    let mut per_work = None;
    found
        .map(|(x, measurement, work)| Point {
            x,
            predicted: *per_work.get_or_insert(measurement.median / work) * work,
            measurement,
        })
        .collect()
}

pub(super) fn removed(
    session: &Session,
    environment: &Environment,
    runs: &[Run<'_>],
    times: &[Vec<Generated>],
) -> Vec<Removed> {
    let mut dense: Option<([Measurement; 2], [Work; 2])> = None;
    let rows = runs.iter().zip(times).map(|(run, times)| {
        let set = &run.pd.removed().decode;
        let name = |stage: &str| format!("{stage}, {} blocks out", set.len());
        let (ttft, prefill) = first(session, environment, name("prefill"), run, times);
        let (tpot, decode) = later(session, environment, name("decode"), run, times);
        let both = || ([ttft.clone(), tpot.clone()], [prefill, decode]);
        let (times, works) = dense.get_or_insert_with(both);
        Removed {
            count: set.len(),
            blocks: set.to_indices(),
            prefill: saving(&times[0], &ttft, prefill.flops / works[0].flops),
            decode: saving(
                &times[1],
                &tpot,
                decode.weight_bytes / works[1].weight_bytes,
            ),
            ttft,
            tpot,
        }
    });
    rows.collect()
}

fn saving(dense: &Measurement, trimmed: &Measurement, work_left: f64) -> Saving {
    let time_left = median(&ratios(trimmed, dense));
    let (work_removed, time_saved) = (1.0 - work_left, 1.0 - time_left);
    Saving {
        work_removed,
        time_saved,
        difference_points: (time_saved - work_removed) * 100.0,
    }
}

/// The time to the first token.
fn first(
    session: &Session,
    environment: &Environment,
    name: String,
    run: &Run<'_>,
    times: &[Generated],
) -> (Measurement, Work) {
    let stages = Stages::new(session, &run.pd);
    let work = stages.first_token(run.tokens, run.batch, sent(run));
    let samples = times.iter().map(|time| time.first).collect();
    let found = Measurement::new(name, samples)
        .of(&run.pd)
        .with_tokens(run.tokens * run.batch)
        .with_work(work, &environment.peak);
    (found, work)
}

/// The time of each later token.
fn later(
    session: &Session,
    environment: &Environment,
    name: String,
    run: &Run<'_>,
    times: &[Generated],
) -> (Measurement, Work) {
    let stages = Stages::new(session, &run.pd);
    let work = stages.later_token(run.batch, sent(run), run.later);
    let samples = times.iter().map(|time| time.per_token).collect();
    let found = Measurement::new(name, samples)
        .of(&run.pd)
        .with_tokens(run.batch)
        .with_work(work, &environment.peak);
    (found, work)
}

/// Positions that cross for each prompt, summed over blocks: all that prefill read.
fn sent(run: &Run<'_>) -> usize {
    let read = match run.pd.boundary() {
        pdtrim_core::Boundary::Prefill => run.tokens,
        pdtrim_core::Boundary::Decode => run.tokens - 1,
    };
    run.pd.removed().decode.complement().len() * read
}

/// A time and how it stands to the prediction, for a table.
pub(super) fn against(point: &Point) -> [String; 2] {
    [seconds(point.measurement.median), seconds(point.predicted)]
}
