//! The report page and the closing lines.

use pdtrim_core::{BlockId, BlockSet, Bytes, TokenSpan};
use pdtrim_eval::page::{
    Annotation, Axis, Bar, BarChart, BarSeries, Item, LineChart, LineSeries, LineStyle, Page,
    Reference, Section, Unit,
};
use pdtrim_search::Evaluation;

use super::repair::Repair;
use super::width::Width;
use super::{Measured, Run};

pub(super) fn page(run: &Run, measured: &Measured) -> Page {
    Page {
        title: format!("{}, trimmed for disaggregation", run.session.name),
        subtitle: subtitle(run, measured),
        sections: [
            Some(summary_section(run, measured)),
            Some(measured.scores.modes_section()),
            Some(blocks_section(measured)),
            Some(search_section(measured)),
            measured.repair.as_ref().map(Repair::section),
            measured
                .width
                .as_ref()
                .map(|width| width.section(run.session.dtype.size())),
            Some(traffic_section(run, measured)),
            Some(plan_section(measured)),
        ]
        .into_iter()
        .flatten()
        .collect(),
    }
}

/// What was chosen and where it lies, in a few lines.
pub(super) fn summary(run: &Run, measured: &Measured) -> String {
    let search = &measured.search;
    let repair = measured.repair.as_ref();
    let mut costs = format!(
        "mean NLL on the calibration windows: dense {:.3}, pd {:.3}",
        search.cost_dense, search.cost
    );
    let mut lines = vec![format!(
        "prefill without blocks {}; decode without blocks {}",
        search.removed.prefill, search.removed.decode
    )];
    if let Some(repair) = repair {
        costs = format!("{costs}, repaired {:.3}", repair.found.cost);
        lines.push(repair.summary());
    }
    if let Some(width) = &measured.width {
        costs = format!("{costs}, narrower {:.3}", width.cost);
        lines.push(width.summary());
    }
    if let Some(kv) = &measured.kv {
        costs = format!("{costs}, pd+kv {:.3}", kv.cost);
        lines.push(format!(
            "{}: {:.1} % of the prompt positions cross",
            kv_text(measured),
            kv.sent_share * 100.0
        ));
    }
    lines.push(costs);
    let out = run.config.out.display();
    let biases = measured
        .width
        .as_ref()
        .and_then(|width| width.section.biases.as_ref());
    let file = repair.map(|repair| &repair.file.name);
    let file = file.or(biases.map(|file| &file.name));
    let file = file.map_or_else(String::new, |name| format!(", {name}"));
    lines.push(format!(
        "{out}: plan.toml{file}, results.json, results.csv, report.html"
    ));
    lines.join("\n")
}

fn subtitle(run: &Run, measured: &Measured) -> String {
    let removed = &measured.search.removed;
    let (p, d) = (removed.prefill.len(), removed.decode.len());
    let blocks = run.session.depth();
    format!(
        "{p} of {blocks} blocks out of prefill, {d} out of decode; {}",
        kv_text(measured)
    )
}

fn kv_text(measured: &Measured) -> String {
    let kv = measured.plan.kv();
    let spanned = kv.spanned();
    match spanned.iter().find_map(|id| kv.span(id)) {
        Some(TokenSpan { first, last }) => {
            let blocks = spanned.len();
            format!("first {first} and last {last} prompt positions in {blocks} blocks")
        }
        None => "all KV sent".to_owned(),
    }
}

fn summary_section(run: &Run, measured: &Measured) -> Section {
    let config = &run.config;
    let calibration = &run.about_calibration;
    let items = calibration.items;
    let items = items.map_or_else(String::new, |items| format!(", {items} items"));
    let facts = [
        ("Model", run.session.name.clone()),
        ("Model hash", measured.plan.file().model.hash.clone()),
        (
            "Run in",
            format!("{:?} on {}", run.session.dtype, run.session.device).to_lowercase(),
        ),
        (
            "Strategy",
            format!("{}, seed {}", measured.search.method, config.seed),
        ),
        (
            "Calibration",
            format!(
                "{} windows of {} tokens ({} of them prompt), {}{items}, seed {}",
                calibration.windows,
                calibration.window_tokens,
                calibration.prompt_tokens,
                calibration.source,
                calibration.seed
            ),
        ),
        ("Boundary", config.boundary.to_string()),
        (
            "Prefill without",
            measured.search.removed.prefill.to_string(),
        ),
        ("Decode without", measured.search.removed.decode.to_string()),
        (
            "Width",
            measured
                .width
                .as_ref()
                .map_or_else(|| "all heads and channels".to_owned(), Width::summary),
        ),
        ("KV", kv_text(measured)),
    ];
    let facts = facts.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let text = "Prefill and decode run on different machines, so each may lose its own blocks, \
        and only a part of the KV cache has to cross between them. After arXiv:2509.04467.";
    Section::new("Summary", text)
        .with(Item::Facts(facts))
        .with(Item::Table(measured.scores.score_table()))
}

fn blocks_section(measured: &Measured) -> Section {
    let removed = &measured.search.removed;
    let depth = removed.prefill.depth();
    let influence = |redundancy: &[f64], set: &BlockSet| -> Vec<Bar> {
        let bars = redundancy.iter().enumerate();
        bars.map(|(block, value)| Bar {
            value: Some(1.0 - value),
            error: None,
            marked: set.contains(BlockId::new(block)),
        })
        .collect()
    };
    let stages = &measured.redundancy.0;
    let series = vec![
        BarSeries {
            name: "prefill".to_owned(),
            bars: influence(&stages.prefill, &removed.prefill),
        },
        BarSeries {
            name: "decode".to_owned(),
            bars: influence(&stages.decode, &removed.decode),
        },
    ];
    let values = series
        .iter()
        .flat_map(|series| series.bars.iter().filter_map(|bar| bar.value))
        .collect::<Vec<_>>();
    let chart = BarChart {
        title: "Influence of each block".to_owned(),
        description: "1 - mean cosine of a block's input and output over the stage's tokens; a \
            short bar is a block that changes little."
            .to_owned(),
        group_label: "Block".to_owned(),
        groups: (0..depth).map(|block| block.to_string()).collect(),
        axis: Axis::new("Block influence").with_outliers_cut(values),
        mark: Some("removed by the plan".to_owned()),
        series,
        ..BarChart::default()
    };
    Section::new("Blocks", "").with(Item::Bars(chart))
}

fn search_section(measured: &Measured) -> Section {
    let trace = &measured.search.trace;
    let count = |evaluation: &Evaluation| {
        evaluation.removed.prefill.len() + evaluation.removed.decode.len()
    };
    let points: Vec<(f64, f64)> = trace
        .iter()
        .enumerate()
        .map(|(n, evaluation)| ((n + 1) as f64, evaluation.cost))
        .collect();
    // The best so far of each step: a step is a number of removed blocks.
    let mut best = Vec::new();
    let mut so_far = (0, f64::INFINITY);
    for (evaluation, (n, cost)) in trace.iter().zip(&points) {
        so_far = if count(evaluation) == so_far.0 {
            (so_far.0, so_far.1.min(*cost))
        } else {
            (count(evaluation), *cost)
        };
        best.push((*n, so_far.1));
    }
    let values: Vec<f64> = points.iter().map(|point| point.1).collect();
    let in_decode = |evaluation: &Evaluation| !evaluation.removed.decode.is_empty();
    let decode_begins = trace.iter().position(in_decode).map(|n| Annotation {
        x: (n + 1) as f64,
        label: "decode begins".to_owned(),
    });
    let chart = LineChart {
        title: "Search progress".to_owned(),
        description: "Mean negative log-likelihood of the continuations for every set of \
            blocks that was tried, in the order of trying, and the best of each step."
            .to_owned(),
        x: Axis::new("Evaluation"),
        y: Axis::new("Mean NLL")
            .with_unit_name("nats")
            .with_outliers_cut(values),
        series: vec![
            LineSeries::new("tried", points).with_style(LineStyle::Points),
            LineSeries::new("best of its step", best).with_style(LineStyle::Step),
        ],
        references: vec![Reference {
            label: format!("dense {:.3}", measured.search.cost_dense),
            value: measured.search.cost_dense,
        }],
        annotations: decode_begins.into_iter().collect(),
    };
    let dropped = &measured.search.dropped;
    let raced = match dropped.len() {
        0 => String::new(),
        count => format!(
            ", and {count} candidates dropped after {:.1} windows on average",
            dropped.iter().sum::<usize>() as f64 / count as f64
        ),
    };
    let text = format!(
        "{} evaluations{raced}. Prefill alone costs {:.3} nats a token (dense {:.3}), both stages {:.3}.",
        trace.len(),
        measured.search.cost_prefill,
        measured.search.cost_dense,
        measured.search.cost
    );
    let sets = measured.search.candidate_sets.iter();
    sets.fold(Section::new("Search", text), |section, sizes| {
        section.with(Item::Note(format!("Candidates for {sizes}.")))
    })
    .with(Item::Lines(chart))
}

fn traffic_section(run: &Run, measured: &Measured) -> Section {
    let lengths = &measured.prompt_lengths;
    let config = run.session.model.config();
    let per_position = (2 * config.kv_size() * run.session.dtype.size()) as f64;
    let mean = |positions: usize| per_position * positions as f64 / lengths.len().max(1) as f64;
    let (decode, kv) = (&measured.search.removed.decode, measured.plan.kv());
    let dense = mean(lengths.iter().sum());
    let sent = |block: usize| {
        let id = BlockId::new(block);
        let gone = decode.contains(id);
        let positions = if gone {
            0
        } else {
            lengths
                .iter()
                .map(|&length| kv.positions_sent(id, length))
                .sum()
        };
        let groups = measured
            .width
            .as_ref()
            .map_or(1.0, |width| width.kv_share(id));
        Bar {
            value: Some(mean(positions) * groups),
            error: None,
            marked: gone,
        }
    };
    let depth = run.session.depth();
    let bars: Vec<Bar> = (0..depth).map(sent).collect();
    let total: f64 = bars.iter().filter_map(|bar| bar.value).sum();
    let without_trim = dense * (depth - decode.len()) as f64;
    let text = format!(
        "An average scored prompt has {} of KV in the dense model. Without decode's removed \
            blocks {} are left; after the first/last choice {} cross, {:.2} times fewer than \
            dense. The table above has what was counted from the tensors.",
        Bytes((dense * depth as f64) as u64),
        Bytes(without_trim as u64),
        Bytes(total as u64),
        dense * depth as f64 / total
    );
    let chart = BarChart {
        title: "KV bytes per block and prompt".to_owned(),
        description:
            "Mean over the scored prompts: what the dense model would send and what the plan sends."
                .to_owned(),
        group_label: "Block".to_owned(),
        groups: (0..depth).map(|block| block.to_string()).collect(),
        axis: Axis::new("Bytes per prompt").with_unit(Unit::Bytes),
        mark: Some("removed from decode".to_owned()),
        series: vec![
            BarSeries::new("dense", vec![dense; depth]),
            BarSeries {
                name: "sent".to_owned(),
                bars,
            },
        ],
        ..BarChart::default()
    };
    let note = "What is dropped is the middle of the prompt. Tasks with short prompts hardly \
        notice; a question about a detail in the middle of a long one may.";
    Section::new("KV traffic", text)
        .with(Item::Bars(chart))
        .with(Item::Note(note.to_owned()))
}

fn plan_section(measured: &Measured) -> Section {
    let text = "The same file as plan.toml beside this page; pdtrim eval, generate, logprobs, bench and \
        export take it.";
    Section::new("Plan", text).with(Item::Code(measured.plan.to_toml()))
}
