//! What was measured, by way of running, prompt length and batch.

use comfy_table::{CellAlignment, Table, presets};
use pdtrim_core::Bytes;
use serde::Serialize;

use super::stages::Subject;
use crate::commands::bench::measure::median;
use crate::commands::bench::report::seconds;

/// One batch of requests that came together.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Seconds to the first token of each request.
    pub(super) first: Vec<f64>,
    /// Seconds for each later token, of each request.
    pub(super) per_token: Vec<f64>,
    /// Seconds until the last token of all.
    pub(super) total: f64,
    pub(super) tokens: usize,
    pub(super) kv_bytes: u64,
    pub(super) wire_bytes: u64,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// `dense` or `trimmed`.
    pub(super) model: &'static str,
    /// `null` = both stages in one process.
    pub(super) link: Option<String>,
    /// Whether the link is a model of one.
    pub(super) link_is_modelled: bool,
    pub(super) prompt_tokens: usize,
    pub(super) batch: usize,
    /// Medians over the requests of all rounds, in seconds.
    pub(super) ttft: f64,
    pub(super) tpot: f64,
    /// Samples of the rounds: the median request's time to its first token.
    pub(super) ttft_samples: Vec<f64>,
    pub(super) tokens_per_second: f64,
    /// For each request: counted by the transport.
    pub(super) kv_bytes: u64,
    /// By the plan's formula.
    pub(super) kv_bytes_expected: u64,
    /// Bytes of the messages that carried them; 0 in one process.
    pub(super) wire_bytes: u64,
    /// The dense model's bytes in bf16 over the messages' bytes.
    pub(super) times_fewer_bytes: Option<f64>,
}

impl Row {
    pub(super) fn new(
        subject: &Subject,
        prompt_tokens: usize,
        batch: usize,
        samples: &[Sample],
    ) -> Self {
        let all = |of: fn(&Sample) -> &Vec<f64>| {
            let values: Vec<f64> = samples.iter().flat_map(of).copied().collect();
            median(&values)
        };
        let rates: Vec<f64> = samples
            .iter()
            .map(|sample| sample.tokens as f64 / sample.total)
            .collect();
        let wire_bytes = samples.first().map_or(0, |sample| sample.wire_bytes);
        let dense = subject.served.dense_bf16_bytes(prompt_tokens);
        Self {
            model: subject.name,
            link: subject.link.map(|link| link.to_string()),
            link_is_modelled: subject.link.is_some_and(|link| !link.is_loopback()),
            prompt_tokens,
            batch,
            ttft: all(|sample| &sample.first),
            tpot: all(|sample| &sample.per_token),
            ttft_samples: samples.iter().map(|sample| median(&sample.first)).collect(),
            tokens_per_second: median(&rates),
            kv_bytes: samples.first().map_or(0, |sample| sample.kv_bytes),
            kv_bytes_expected: subject.served.kv_bytes(prompt_tokens),
            wire_bytes,
            times_fewer_bytes: (wire_bytes > 0).then(|| dense as f64 / wire_bytes as f64),
        }
    }

    /// How it was run.
    pub(super) fn way(&self) -> String {
        match &self.link {
            None => format!("{}, one process", self.model),
            Some(link) => format!("{}, two, {link}", self.model),
        }
    }

    /// What crossed, in the words of tables.
    pub(super) fn crossed(&self) -> [String; 2] {
        match self.times_fewer_bytes {
            Some(times) => [Bytes(self.wire_bytes).to_string(), format!("{times:.2}")],
            None => ["-".to_owned(), "-".to_owned()],
        }
    }
}

pub(super) fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "pd",
        "prompt",
        "batch",
        "TTFT",
        "TPOT",
        "tokens/s",
        "on the wire",
        "times fewer",
    ]);
    for row in rows {
        let [crossed, times] = row.crossed();
        table.add_row([
            row.way(),
            row.prompt_tokens.to_string(),
            row.batch.to_string(),
            seconds(row.ttft),
            seconds(row.tpot),
            format!("{:.1}", row.tokens_per_second),
            crossed,
            times,
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}
