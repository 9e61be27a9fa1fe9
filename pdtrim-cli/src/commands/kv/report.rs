//! What was measured: one struct behind the object, the CSV, the table and the page.

use std::fmt;

use anyhow::Result;
use pdtrim_core::KvGroup;
use pdtrim_core::objective::mean_cost;
use pdtrim_kv::Goal;
use serde::Serialize;
use serde_json::Value;

use crate::args::KvMenuArg;
use crate::scoring::TaskScore;
use crate::tables::or_empty;

/// How a plan came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Searched: fewer positions.
    Positions,
    /// Searched: fewer positions, some of them chosen by attention.
    Heavy,
    /// Searched: fewer bits.
    Encodings,
    /// Searched: fewer positions, fewer bits.
    Both,
    /// Searched: fewer positions, some of them chosen by attention, and fewer bits.
    HeavyBoth,
    /// The same first and last positions in every block, as `StreamingLLM` keeps them.
    SameSpan,
    /// The same encoding in every block.
    SameEncoding,
    /// The last positions in every block.
    Window,
    /// `SnapKV` in every block.
    SnapKv,
    /// `Ada-KV` in every block.
    AdaKv,
    /// H2O in every block.
    H2o,
    /// `ThinK` in every block.
    Think,
}

impl Kind {
    pub(super) const ALL: [Self; 12] = [
        Self::Positions,
        Self::Heavy,
        Self::Encodings,
        Self::Both,
        Self::HeavyBoth,
        Self::SameSpan,
        Self::SameEncoding,
        Self::Window,
        Self::SnapKv,
        Self::AdaKv,
        Self::H2o,
        Self::Think,
    ];

    pub(super) fn of(menu: KvMenuArg) -> Self {
        match menu {
            KvMenuArg::Positions => Self::Positions,
            KvMenuArg::Heavy => Self::Heavy,
            KvMenuArg::Encodings => Self::Encodings,
            KvMenuArg::Both => Self::Both,
            KvMenuArg::HeavyBoth => Self::HeavyBoth,
        }
    }

    pub(super) fn file_name(self) -> &'static str {
        match self {
            Self::Positions => "positions",
            Self::Heavy => "heavy",
            Self::Encodings => "encodings",
            Self::Both => "both",
            Self::HeavyBoth => "heavy-both",
            Self::SameSpan => "same-span",
            Self::SameEncoding => "same-encoding",
            Self::Window => "window",
            Self::SnapKv => "snapkv",
            Self::AdaKv => "ada-kv",
            Self::H2o => "h2o",
            Self::Think => "think",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Positions => "positions",
            Self::Heavy => "heavy positions",
            Self::Encodings => "encodings",
            Self::Both => "positions and encodings",
            Self::HeavyBoth => "heavy positions and encodings",
            Self::SameSpan => "first and last everywhere",
            Self::SameEncoding => "same encoding everywhere",
            Self::Window | Self::SnapKv | Self::AdaKv | Self::H2o | Self::Think => self.file_name(),
        })
    }
}

/// Everything that one `pdtrim kv search` found. Losses are mean NLL in nats on held-out windows.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) settings: Value,
    /// With everything sent as it is held.
    pub(super) loss_all: f64,
    pub(super) perplexity_all: f64,
    /// Empty without `--tasks`.
    pub(super) tasks_all: Vec<TaskScore>,
    pub(super) rows: Vec<Row>,
}

/// One plan.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) kind: Kind,
    /// The factor asked for.
    pub(super) asked: Option<f64>,
    /// By how many percent perplexity was allowed to rise on the windows that chose the plan.
    pub(super) asked_rise_percent: Option<f64>,
    /// How many times fewer bytes than the dense model's KV in bf16.
    pub(super) factor: f64,
    /// Of a prompt.
    pub(super) bytes: f64,
    /// On the windows that chose the plan.
    pub(super) calibration_loss: Option<f64>,
    pub(super) loss: f64,
    pub(super) loss_rise: f64,
    /// Over windows; absent with one.
    pub(super) loss_rise_stderr: Option<f64>,
    pub(super) perplexity: f64,
    /// 0.01 = one percent above the perplexity with everything sent.
    pub(super) perplexity_rise: f64,
    pub(super) tasks: Vec<TaskScore>,
    /// What each block sends; blocks that are not named send everything as it is held. Empty for a policy
    /// that decides by the prompt.
    pub(super) kv: Vec<KvGroup>,
    /// What crosses, in words.
    pub(super) sends: String,
    /// File name of the plan.
    pub(super) plan: Option<String>,
}

impl Row {
    /// A row of the losses of each window, with everything sent and with the plan.
    pub(super) fn new(kind: Kind, (all, costs): (&[f64], &[f64])) -> Self {
        let rises: Vec<f64> = costs
            .iter()
            .zip(all)
            .map(|(cost, all)| cost - all)
            .collect();
        let n = rises.len() as f64;
        let rise = rises.iter().sum::<f64>() / n;
        let squares: f64 = rises.iter().map(|value| (value - rise).powi(2)).sum();
        let loss = mean_cost(costs);
        Self {
            kind,
            asked: None,
            asked_rise_percent: None,
            factor: 1.0,
            bytes: 0.0,
            calibration_loss: None,
            loss,
            loss_rise: rise,
            loss_rise_stderr: (rises.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()),
            perplexity: loss.exp(),
            perplexity_rise: rise.exp_m1(),
            tasks: Vec::new(),
            kv: Vec::new(),
            sends: String::new(),
            plan: None,
        }
    }

    /// Says what the plan was looked for.
    pub(super) fn ask(&mut self, goal: Option<Goal>) {
        match goal {
            Some(Goal::Factor(factor)) => self.asked = Some(factor),
            Some(Goal::Rise(rise)) => self.asked_rise_percent = Some(rise.exp_m1() * 100.0),
            None => {}
        }
    }
}

impl Report {
    pub(super) fn new(
        settings: Value,
        (all, tasks_all): (&[f64], Vec<TaskScore>),
        rows: Vec<Row>,
    ) -> Self {
        let loss_all = mean_cost(all);
        Self {
            settings,
            loss_all,
            perplexity_all: loss_all.exp(),
            tasks_all,
            rows,
        }
    }

    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.kind == kind)
    }

    pub(super) fn in_words(&self) -> String {
        format!(
            "held-out perplexity with everything sent {:.3}; fewer bytes: than the dense model's KV in bf16",
            self.perplexity_all
        )
    }

    pub(super) fn to_csv(&self) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let header = [
            "kind",
            "asked",
            "asked_rise_percent",
            "factor",
            "bytes",
            "calibration_loss",
            "loss",
            "loss_rise",
            "loss_rise_stderr",
            "perplexity",
            "perplexity_rise",
        ];
        let tasks = self.tasks_all.iter().flat_map(|score| {
            let name = format!("{}_{}", score.task, score.metric.name);
            [name.clone(), format!("{name}_stderr")]
        });
        let header = header.into_iter().map(str::to_owned);
        writer.write_record(header.chain(tasks))?;
        for row in &self.rows {
            let fields = [
                row.kind.file_name().to_owned(),
                or_empty(row.asked),
                or_empty(row.asked_rise_percent),
                or_empty(Some(row.factor)),
                or_empty(Some(row.bytes)),
                or_empty(row.calibration_loss),
                or_empty(Some(row.loss)),
                or_empty(Some(row.loss_rise)),
                or_empty(row.loss_rise_stderr),
                or_empty(Some(row.perplexity)),
                or_empty(Some(row.perplexity_rise)),
            ];
            let tasks = row.tasks.iter().flat_map(|score| {
                [
                    or_empty(Some(score.metric.value)),
                    or_empty(score.metric.stderr),
                ]
            });
            writer.write_record(fields.into_iter().chain(tasks))?;
        }
        Ok(writer.into_inner()?)
    }
}
