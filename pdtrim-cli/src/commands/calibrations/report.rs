//! What was found: one struct behind the object and the tables.

use anyhow::Result;
use pdtrim_core::plan::PlanCalibration;
use pdtrim_core::{BlockSet, PerStage, Stage};
use pdtrim_search::{mean_agreement, mean_agreement_within};
use serde::Serialize;
use serde_json::{Value, json};

use super::domains::Domain;
use super::rows::{Comparison, Searched};
use crate::statistics::Spread;

/// Everything that one `pdtrim calibrations` found. Losses are mean NLL in nats; lower is better.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) settings: Value,
    /// The texts that losses are reported on, in the order of every list of losses.
    pub(super) domains: Vec<DomainInfo>,
    pub(super) rows: Vec<Row>,
    pub(super) sources: Vec<SourceSummary>,
    /// Between sources, in the order of `sources`.
    pub(super) agreement: PerStage<Agreement>,
}

/// A domain, and the dense model's loss on it.
#[derive(Debug, Serialize)]
pub(super) struct DomainInfo {
    pub(super) name: String,
    pub(super) windows: PlanCalibration,
    pub(super) loss_dense: f64,
}

/// One source and seed.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) source: String,
    pub(super) seed: u64,
    pub(super) removed: PerStage<Vec<usize>>,
    /// Absent for random blocks, with the costs on them.
    pub(super) calibration: Option<PlanCalibration>,
    pub(super) cost_dense: Option<f64>,
    pub(super) cost: Option<f64>,
    /// On each domain's held-out windows.
    pub(super) held_out: Vec<f64>,
    /// Mean over the domains of the loss above the dense model's.
    pub(super) mean_rise: f64,
}

/// A source over its seeds.
#[derive(Debug, Serialize)]
pub(super) struct SourceSummary {
    pub(super) source: String,
    /// J above the dense model's on the windows that were searched on.
    pub(super) own_rise: Option<Spread>,
    pub(super) held_out: Vec<Option<Spread>>,
    pub(super) mean_rise: Option<Spread>,
}

/// Mean Jaccard index of the blocks that two sources chose, over all pairs of their seeds; within one
/// source over the pairs of different seeds, absent with one seed.
#[derive(Debug, Serialize)]
pub(super) struct Agreement(pub(super) Vec<Vec<Option<f64>>>);

impl Report {
    /// Measures the held-out losses, which are all that is still missing.
    pub(super) fn new(
        comparison: &Comparison<'_>,
        domains: &[Domain],
        searched: Vec<Searched>,
    ) -> Result<Self> {
        let losses = domains.iter();
        let losses = losses.map(|domain| comparison.losses(domain, &searched));
        let losses: Vec<Vec<f64>> = losses.collect::<Result<_>>()?;
        let domains = domains
            .iter()
            .zip(&losses)
            .map(|(domain, losses)| DomainInfo {
                name: domain.name.clone(),
                windows: domain.set.about.clone(),
                loss_dense: losses[0],
            });
        let domains = domains.collect();
        let names = names(&searched);
        let agreement = PerStage {
            prefill: agreement(&names, &searched, Stage::Prefill),
            decode: agreement(&names, &searched, Stage::Decode),
        };
        let rows = searched.into_iter().enumerate();
        let rows: Vec<Row> = rows.map(|(n, found)| row(n, found, &losses)).collect();
        Ok(Self {
            settings: settings(comparison)?,
            sources: names.iter().map(|name| summary(name, &rows)).collect(),
            domains,
            rows,
            agreement,
        })
    }
}

fn settings(comparison: &Comparison<'_>) -> Result<Value> {
    let (args, session) = (comparison.args, comparison.session);
    Ok(json!({
        "pdtrim_version": env!("CARGO_PKG_VERSION"),
        "model": session.name,
        "model_sha256": session.checkpoint.hash()?,
        "dtype": format!("{:?}", session.dtype).to_lowercase(),
        "device": session.device.to_string(),
        "strategy": "sleb",
        "seeds": args.seeds,
        "prefill_count": args.prefill_count,
        "decode_count": args.decode_count,
        "protect_ends": !args.unprotected_ends,
        "boundary": args.boundary,
        "windows": args.windows,
        "window_tokens": args.window_tokens,
        "held_out_windows": args.held_out_windows,
    }))
}

/// The sources, each once, in the order of the rows.
fn names(searched: &[Searched]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for row in searched {
        if !names.contains(&row.source) {
            names.push(row.source.clone());
        }
    }
    names
}

fn row(n: usize, found: Searched, losses: &[Vec<f64>]) -> Row {
    let held_out: Vec<f64> = losses.iter().map(|losses| losses[n + 1]).collect();
    let rises = losses.iter().map(|losses| losses[n + 1] - losses[0]);
    let mean_rise = rises.sum::<f64>() / losses.len() as f64;
    let own = found.own.as_ref();
    Row {
        source: found.source,
        seed: found.seed,
        removed: PerStage {
            prefill: found.removed.prefill.to_indices(),
            decode: found.removed.decode.to_indices(),
        },
        cost_dense: own.map(|own| own.cost_dense),
        cost: own.map(|own| own.cost),
        calibration: found.own.map(|own| own.about),
        held_out,
        mean_rise,
    }
}

fn summary(source: &str, rows: &[Row]) -> SourceSummary {
    let of_source = rows.iter().filter(|row| row.source == source);
    let rows: Vec<&Row> = of_source.collect();
    let spread = |value: &dyn Fn(&Row) -> Option<f64>| {
        let values: Vec<f64> = rows.iter().filter_map(|row| value(row)).collect();
        Spread::of(&values)
    };
    let domains = rows.first().map_or(0, |row| row.held_out.len());
    let held_out = (0..domains).map(|n| spread(&|row| row.held_out.get(n).copied()));
    SourceSummary {
        source: source.to_owned(),
        own_rise: spread(&|row| Some(row.cost? - row.cost_dense?)),
        held_out: held_out.collect(),
        mean_rise: spread(&|row| Some(row.mean_rise)),
    }
}

fn agreement(names: &[String], searched: &[Searched], stage: Stage) -> Agreement {
    let sets = |name: &String| -> Vec<&BlockSet> {
        let rows = searched.iter().filter(|row| row.source == *name);
        rows.map(|row| row.removed.of(stage)).collect()
    };
    let cell = |a: &String, b: &String| {
        if a == b {
            mean_agreement_within(&sets(a))
        } else {
            mean_agreement(&sets(a), &sets(b))
        }
    };
    let line = |a| names.iter().map(|b| cell(a, b)).collect();
    Agreement(names.iter().map(line).collect())
}
