//! lm-evaluation-harness' results file (0.4.9: `evaluator.py`, `loggers/evaluation_tracker.py`).

use serde_json::{Map, Value, json};

use super::{EvalReport, GroupRow, ReportRow};
use crate::metric::Metric;
use crate::result::Item;

/// The whole file.
pub(super) fn report(report: &EvalReport) -> Value {
    let mut tasks = report.tasks();
    tasks.sort_unstable();
    let headlines: Vec<&ReportRow> = tasks
        .iter()
        .filter_map(|task| report.headline(task))
        .collect();
    let by_task = |value: fn(&ReportRow) -> Value| -> Map<String, Value> {
        headlines
            .iter()
            .map(|row| (row.task().to_owned(), value(row)))
            .collect()
    };
    let groups = headline_groups(report, &headlines);
    let mut file = json!({
        "results": with_groups(by_task(results), &groups, group_results),
        "groups": with_groups(Map::new(), &groups, group_results),
        "group_subtasks": with_groups(by_task(|_| json!([])), &groups, |group| json!(group.subtasks)),
        "configs": by_task(config),
        "versions": by_task(|row| json!(row.result.summary.version)),
        "n-shot": by_task(|row| json!(row.result.summary.fewshot)),
        "higher_is_better": with_groups(by_task(higher_is_better), &groups, group_higher_is_better),
        "n-samples": by_task(|row| {
            let summary = &row.result.summary;
            json!({ "original": summary.items_total, "effective": summary.items })
        }),
        "config": run_config(report, &headlines),
        "model_source": "pdtrim",
        "model_name": report.run.model,
        "model_name_sanitized": sanitized(&report.run.model),
    });
    if let Value::Object(file) = &mut file {
        if let Some(date) = report.run.date {
            file.insert("date".to_owned(), json!(date));
        }
        if let Some(seconds) = report.run.seconds {
            // A string there.
            file.insert(
                "total_evaluation_time_seconds".to_owned(),
                json!(seconds.to_string()),
            );
        }
        let rows: Vec<Value> = report
            .rows
            .iter()
            .map(|row| full_row(report, row))
            .collect();
        let mut own = json!({ "run": report.run, "rows": rows });
        let groups = report.groups();
        if !groups.is_empty() {
            extend(&mut own, json!({ "groups": groups }));
        }
        if let Some(paper) = crate::paper::of(&report.run.model) {
            extend(&mut own, json!({ "paper": paper }));
        }
        file.insert("pdtrim".to_owned(), own);
    }
    if groups.is_empty() {
        // As there: the table maker prints a second table if the key is there.
        if let Value::Object(file) = &mut file {
            file.shift_remove("groups");
        }
    }
    file
}

/// A group where only one number fits, with its own groups and the members that are in none of those.
struct HeadlineGroup {
    row: GroupRow,
    subtasks: Vec<String>,
}

/// The groups of the headline rows.
fn headline_groups(report: &EvalReport, headlines: &[&ReportRow]) -> Vec<HeadlineGroup> {
    let headlines = EvalReport {
        run: report.run.clone(),
        rows: headlines.iter().map(|&row| row.clone()).collect(),
    };
    let rows = headlines.groups();
    let subtasks = |row: &GroupRow| {
        let inner: Vec<&GroupRow> = rows
            .iter()
            .filter(|other| other.group != row.group && is_within(other, row))
            .collect();
        let direct = row
            .members
            .iter()
            .filter(|member| !inner.iter().any(|group| group.members.contains(member)));
        let inner = inner.iter().map(|group| &group.group);
        inner.chain(direct).cloned().collect()
    };
    rows.iter()
        .map(|row| HeadlineGroup {
            row: row.clone(),
            subtasks: subtasks(row),
        })
        .collect()
}

fn is_within(inner: &GroupRow, outer: &GroupRow) -> bool {
    inner.group.starts_with(&outer.group)
        && inner
            .members
            .iter()
            .all(|member| outer.members.contains(member))
}

fn with_groups(
    mut by_name: Map<String, Value>,
    groups: &[HeadlineGroup],
    value: fn(&HeadlineGroup) -> Value,
) -> Map<String, Value> {
    let values = groups
        .iter()
        .map(|group| (group.row.group.clone(), value(group)));
    by_name.extend(values);
    by_name
}

fn group_results(group: &HeadlineGroup) -> Value {
    let metrics = group.row.metrics.iter().map(|metric| &metric.metric);
    let mut results = metrics_of(&group.row.group, metrics);
    extend(
        &mut results,
        json!({ "name": group.row.group, "sample_len": group.row.items }),
    );
    results
}

fn group_higher_is_better(group: &HeadlineGroup) -> Value {
    let names = group.row.metrics.iter().map(|metric| metric.metric.name);
    names
        .map(|name| (name.to_string(), json!(name.higher_is_better())))
        .collect()
}

/// One line of the per-item log.
pub(super) fn item(row: &ReportRow, item: &Item) -> Value {
    let mut line = json!({ "task": row.task(), "mode": row.mode });
    if let Some(boundary) = row.boundary {
        extend(&mut line, json!({ "boundary": boundary }));
    }
    extend(&mut line, json!(item));
    line
}

fn results(row: &ReportRow) -> Value {
    let summary = &row.result.summary;
    let mut results = metrics_of(&summary.task, &summary.metrics);
    extend(
        &mut results,
        json!({ "name": summary.task, "sample_len": summary.items }),
    );
    results
}

fn metrics_of<'m>(alias: &str, metrics: impl IntoIterator<Item = &'m Metric>) -> Value {
    let mut results = Map::from_iter([("alias".to_owned(), json!(alias))]);
    for Metric {
        name,
        value,
        stderr,
    } in metrics
    {
        results.insert(format!("{name},none"), json!(value));
        // The text is what it writes where it has none.
        let stderr = stderr.map_or_else(|| json!("N/A"), |stderr| json!(stderr));
        results.insert(format!("{name}_stderr,none"), stderr);
    }
    Value::Object(results)
}

fn config(row: &ReportRow) -> Value {
    let metric = |metric: &Metric| {
        json!({
            "metric": metric.name,
            "aggregation": metric.name.aggregation(),
            "higher_is_better": metric.name.higher_is_better(),
        })
    };
    let metrics: Vec<Value> = row.result.summary.metrics.iter().map(metric).collect();
    let mut config = row.result.summary.config.clone();
    extend(&mut config, json!({ "metric_list": metrics }));
    config
}

fn higher_is_better(row: &ReportRow) -> Value {
    let metrics = row.result.summary.metrics.iter();
    metrics
        .map(|metric| {
            (
                metric.name.to_string(),
                json!(metric.name.higher_is_better()),
            )
        })
        .collect()
}

fn run_config(report: &EvalReport, headlines: &[&ReportRow]) -> Value {
    let run = &report.run;
    let mut args = vec![
        format!("pretrained={}", run.model),
        format!("dtype={}", run.dtype),
    ];
    args.extend(run.plan.iter().map(|plan| format!("plan={plan}")));
    if let Some(mode) = headlines.iter().map(|row| row.mode).max() {
        args.push(format!("mode={mode}"));
    }
    json!({
        "model": "pdtrim",
        "model_args": args.join(","),
        "model_dtype": run.dtype,
        "batch_size": run.batch_size,
        "device": run.device,
        "limit": run.limit,
        "random_seed": run.seed,
        "gen_kwargs": null,
    })
}

/// A row as readers of our own files want it: the summary, with the differences to dense.
fn full_row(report: &EvalReport, row: &ReportRow) -> Value {
    let mut value = json!({ "mode": row.mode });
    if let Some(boundary) = row.boundary {
        extend(&mut value, json!({ "boundary": boundary }));
    }
    extend(&mut value, json!(row.result.summary));
    let metrics = row.result.summary.metrics.iter().map(|metric| {
        let mut value = json!(metric);
        extend(
            &mut value,
            json!({ "higher_is_better": metric.name.higher_is_better() }),
        );
        if let Some(difference) = report.difference_to_dense(row, metric.name) {
            extend(
                &mut value,
                json!({
                    "difference_to_dense": difference.value,
                    "difference_stderr": difference.stderr,
                }),
            );
        }
        value
    });
    if let Value::Object(fields) = &mut value {
        fields.insert("metrics".to_owned(), metrics.collect());
        fields.shift_remove("config"); // stands under `configs`
        let headline = report
            .headline(row.task())
            .is_some_and(|other| std::ptr::eq(other, row));
        fields.insert("headline".to_owned(), json!(headline));
    }
    value
}

fn extend(value: &mut Value, more: Value) {
    if let (Value::Object(fields), Value::Object(more)) = (value, more) {
        fields.extend(more);
    }
}

/// The name as lm-evaluation-harness turns it into a folder's name.
fn sanitized(name: &str) -> String {
    let mut sanitized = String::with_capacity(name.len());
    let mut inside = false;
    for letter in name.chars() {
        let special = "\"<>:/|\\?*[]".contains(letter);
        match (special, inside) {
            (true, false) => sanitized.push_str("__"),
            (true, true) => {}
            (false, _) => sanitized.push(letter),
        }
        inside = special;
    }
    sanitized
}

#[cfg(test)]
mod tests {
    use super::sanitized;

    #[test]
    fn runs_of_special_characters_in_a_name_become_two_underscores() {
        assert_eq!(sanitized("org/name"), "org__name");
        assert_eq!(sanitized("C:\\models\\a"), "C__models__a");
    }
}
