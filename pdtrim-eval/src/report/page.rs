//! The scores as parts of a page.

use pdtrim_core::{Boundary, Bytes};

use super::{EvalReport, GroupRow};
use crate::metric::{Difference, Metric, MetricName};
use crate::mode::Mode;
use crate::page::{Axis, Bar, BarChart, BarSeries, Cell, Column, Item, Page, Section, Table, Unit};
use crate::paper::Quoted;

/// The metrics that are drawn, each as one chart.
const CHARTS: [(MetricName, &str); 6] = [
    (MetricName::Acc, "Accuracy"),
    (MetricName::ExactMatch, "Exact matches"),
    (MetricName::TokenPerplexity, "Token perplexity"),
    (MetricName::WordPerplexity, "Word perplexity"),
    (MetricName::BytePerplexity, "Byte perplexity"),
    (MetricName::Perplexity, "Perplexity of the target"),
];

impl EvalReport {
    /// A page of this report alone.
    pub fn page(&self) -> Page {
        let run = &self.run;
        let subtitle = match &run.plan {
            Some(plan) => format!("under {plan}"),
            None => format!("{} on {}", run.dtype, run.device),
        };
        let mut sections = vec![self.run_section(), self.modes_section()];
        sections.extend(crate::paper::of(&run.model).map(|quoted| paper_section(&quoted)));
        Page {
            title: format!("Scores of {}", run.model),
            subtitle,
            sections,
        }
    }

    fn run_section(&self) -> Section {
        let run = &self.run;
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        let facts = [
            ("Model", run.model.clone()),
            ("Model hash", or_empty(&run.model_sha256)),
            ("Run in", format!("{} on {}", run.dtype, run.device)),
            ("Plan", or_empty(&run.plan)),
            ("Plan hash", or_empty(&run.plan_sha256)),
            (
                "Items a task",
                run.limit
                    .map_or_else(|| "all".to_owned(), |limit| format!("the first {limit}")),
            ),
            ("PDTrim", run.pdtrim_version.clone()),
        ];
        let facts = facts
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value));
        let mut section = Section::new("Scores", "").with(Item::Facts(facts.collect()));
        if !self.groups().is_empty() {
            section = section.with(Item::Table(self.group_table()));
        }
        section.with(Item::Table(self.score_table()))
    }

    /// Every task in every mode with every boundary, a row for each metric.
    pub fn score_table(&self) -> Table {
        let columns = [
            Column::text("task"),
            Column::number("items"),
            Column::text("mode, boundary"),
            Column::text("metric"),
            Column::number("value"),
            Column::number("against dense"),
            Column::number("KV per item"),
            Column::number("items trimmed"),
        ];
        let caption = "With one standard error. Against dense: on the same items, with the standard error of the \
                       paired comparison.";
        let mut table = Table::new(caption, columns);
        for row in &self.rows {
            let summary = &row.result.summary;
            for metric in &summary.metrics {
                let difference = self.difference_to_dense(row, metric.name);
                let cells: [Cell; 8] = [
                    summary.task.as_str().into(),
                    summary.items.to_string().into(),
                    place(row.mode, row.boundary).into(),
                    label(metric.name).into(),
                    value(metric).into(),
                    difference.map(|found| against(found, metric.name)).into(),
                    Bytes(summary.kv.bytes_per_item as u64).to_string().into(),
                    format!("{:.0} %", summary.kv.trimmed_share * 100.0).into(),
                ];
                table.rows.push(cells.into());
            }
        }
        table
    }

    fn group_table(&self) -> Table {
        let columns = [
            Column::text("group"),
            Column::number("tasks"),
            Column::number("items"),
            Column::text("mode, boundary"),
            Column::text("metric"),
            Column::number("value"),
            Column::number("against dense"),
        ];
        let mut table = Table::new("Groups of tasks, weighted by their sizes.", columns);
        for row in self.groups() {
            for metric in &row.metrics {
                let name = metric.metric.name;
                let difference = metric.difference_to_dense;
                let cells: [Cell; 7] = [
                    row.group.as_str().into(),
                    row.members.len().to_string().into(),
                    row.items.to_string().into(),
                    place(row.mode, row.boundary).into(),
                    label(name).into(),
                    value(&metric.metric).into(),
                    difference.map(|found| against(found, name)).into(),
                ];
                table.rows.push(cells.into());
            }
        }
        table
    }

    /// Charts of the modes side by side.
    pub fn modes_section(&self) -> Section {
        let text = "Context by prefill, answer by decode, on the KV that the plan lets through. \
            Unified is one machine that runs both stages without decode's blocks. One-token \
            answers come from the boundary's stage alone, so such tasks are measured with both \
            boundaries; the bars show the boundary decode where it was measured.";
        let mut section = Section::new("Scores by mode", text);
        for (name, label) in CHARTS {
            section
                .items
                .extend(self.chart(name, label).map(Item::Bars));
        }
        section
    }

    fn chart(&self, name: MetricName, label: &str) -> Option<BarChart> {
        let groups = self.groups();
        let tasks: Vec<&str> = self
            .drawn()
            .into_iter()
            .filter(|task| {
                Mode::ALL
                    .iter()
                    .any(|&mode| self.shown(&groups, task, mode, name).is_some())
            })
            .collect();
        let modes = Mode::ALL
            .into_iter()
            .filter(|mode| self.rows.iter().any(|row| row.mode == *mode));
        let bar = |task: &&str, mode| {
            self.shown(&groups, task, mode, name)
                .map_or_else(Bar::default, |metric| Bar {
                    value: Some(metric.value),
                    error: metric.stderr,
                    marked: false,
                })
        };
        let series = modes.map(|mode| BarSeries {
            name: mode.to_string(),
            bars: tasks.iter().map(|task| bar(task, mode)).collect(),
        });
        let (unit, better) = if name.higher_is_better() {
            (Unit::Percent, "Higher")
        } else {
            (Unit::None, "Lower")
        };
        (!tasks.is_empty()).then(|| BarChart {
            title: label.to_owned(),
            description: format!("{better} is better; one standard error."),
            group_label: "Task".to_owned(),
            groups: tasks.iter().map(|&task| task.to_owned()).collect(),
            axis: Axis::new(label).with_unit(unit),
            series: series.collect(),
            ..BarChart::default()
        })
    }

    /// What the charts show: the tasks, and for those of a family its widest group.
    fn drawn(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for row in &self.rows {
            let group = row.result.summary.groups.first().map(String::as_str);
            let name = group.unwrap_or(row.task());
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The metric of a task or group in a mode, with the boundary `decode` where there are two.
    fn shown(
        &self,
        groups: &[GroupRow],
        drawn: &str,
        mode: Mode,
        name: MetricName,
    ) -> Option<Metric> {
        let rows = self
            .rows
            .iter()
            .filter(|row| row.mode == mode && row.task() == drawn);
        if let Some(row) = rows.max_by_key(|row| row.boundary) {
            return row.result.summary.metric(name).copied();
        }
        let rows = groups
            .iter()
            .filter(|row| row.mode == mode && row.group == drawn);
        let row = rows.max_by_key(|row| row.boundary)?;
        let mut metrics = row.metrics.iter().map(|metric| metric.metric);
        metrics.find(|metric| metric.name == name)
    }
}

/// `pd+kv, decode`.
fn place(mode: Mode, boundary: Option<Boundary>) -> String {
    boundary.map_or_else(
        || mode.to_string(),
        |boundary| format!("{mode}, {boundary}"),
    )
}

fn label(name: MetricName) -> String {
    name.to_string().replace('_', " ")
}

fn percent(share: f64) -> f64 {
    share * 100.0
}

fn value(metric: &Metric) -> String {
    if metric.name.higher_is_better() {
        let error = metric
            .stderr
            .map(|error| format!(" ± {:.1}", percent(error)));
        format!(
            "{:.1}{} %",
            percent(metric.value),
            error.unwrap_or_default()
        )
    } else {
        let error = metric.stderr.map(|error| format!(" ± {error:.2}"));
        format!("{:.2}{}", metric.value, error.unwrap_or_default())
    }
}

fn against(found: Difference, name: MetricName) -> String {
    let (scale, digits) = if name.higher_is_better() {
        (100.0, 1)
    } else {
        (1.0, 2)
    };
    let error = found
        .stderr
        .map(|error| format!(" ± {:.digits$}", error * scale));
    format!(
        "{:+.digits$}{}",
        found.value * scale,
        error.unwrap_or_default()
    )
}

fn paper_section(quoted: &Quoted) -> Section {
    let text = format!(
        "Figures that the paper reports of {}, for reference: {}. They were not measured here, and the benchmarks, \
         prompts and weights may differ.",
        quoted.model, quoted.source
    );
    let chart = BarChart {
        title: format!("{} in the paper", quoted.model),
        description: "Average accuracy by method, as quoted.".to_owned(),
        group_label: "Method".to_owned(),
        groups: quoted.average.iter().map(|one| one.0.to_owned()).collect(),
        axis: Axis::new("Average accuracy").with_unit(Unit::Percent),
        series: vec![BarSeries::new(
            "average",
            quoted.average.iter().map(|one| one.1 / 100.0),
        )],
        ..BarChart::default()
    };
    // The chart brings its table.
    Section::new("The paper", text).with(Item::Bars(chart))
}
