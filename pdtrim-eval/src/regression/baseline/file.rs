//! The file's form, and the checks that make a [`Baseline`] of it.

use std::path::Path;

use pdtrim_core::{Boundary, count_json_values};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::layout::Layout;
use super::metric::FileMetric;
use super::{Baseline, BaselineRun, Measured, TaskBaseline};
use crate::mode::Mode;
use crate::regression::error::{Error, Result};
use crate::result::DataFile;

/// The form of the file that this version writes, and the only one that it reads.
const VERSION: u32 = 1;

/// What tells the form; read first, because another form has other fields.
#[derive(Deserialize)]
struct Form {
    pdtrim_baseline: Option<Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pdtrim_baseline: u32,
    run: BaselineRun,
    tasks: Vec<FileTask>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTask {
    task: String,
    version: u32,
    task_sha256: String,
    data: Vec<DataFile>,
    fewshot: usize,
    items: usize,
    mode: Mode,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    boundary: Option<Boundary>,
    metrics: Vec<FileMetric>,
}

pub(super) fn text(baseline: &Baseline) -> String {
    let file = File {
        pdtrim_baseline: VERSION,
        run: baseline.run.clone(),
        tasks: baseline.tasks.iter().map(FileTask::of).collect(),
    };
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, Layout::default());
    file.serialize(&mut serializer)
        .expect("numbers and strings are JSON, and memory takes it");
    text.push(b'\n');
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// Values in a file, and items of a task: a value of two bytes becomes one of 16 in a list that grows by
/// doubling, an item of a byte two numbers of 8.
const MAX_VALUES: u64 = 1 << 22;

pub(super) fn parse(text: &str, path: &Path) -> Result<Baseline> {
    let values = count_json_values(text).map_err(|error| syntax(path, &error))?;
    if values > MAX_VALUES {
        let expected = format!("at most {MAX_VALUES} values in the file");
        return Err(wrong(path, "tasks", expected, values.to_string()));
    }
    let form: Form = json(text, path)?;
    if form.pdtrim_baseline != Some(Value::from(VERSION)) {
        let found = form.pdtrim_baseline;
        let found = found.map_or_else(|| "nothing".to_owned(), |value| value.to_string());
        return Err(wrong(path, "pdtrim_baseline", VERSION.to_string(), found));
    }
    let file: File = json(text, path)?;
    if file.tasks.is_empty() {
        return Err(wrong(path, "tasks", "at least one task", "none"));
    }
    let mut tasks: Vec<TaskBaseline> = Vec::new();
    for (index, task) in file.tasks.into_iter().enumerate() {
        let field = format!("tasks[{index}]");
        if tasks.iter().any(|other| other.task == task.task) {
            let found = format!("a second `{}`", task.task);
            return Err(wrong(
                path,
                format!("{field}.task"),
                "each task once",
                found,
            ));
        }
        tasks.push(task.check(path, &field)?);
    }
    Ok(Baseline {
        run: file.run,
        tasks,
    })
}

fn json<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    serde_json::from_str(text).map_err(|error| syntax(path, &error))
}

fn syntax(path: &Path, error: &serde_json::Error) -> Error {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let reason = error.to_string();
    Error::Json {
        path: path.to_owned(),
        line: error.line(),
        column: error.column(),
        reason: reason.strip_suffix(&place).unwrap_or(&reason).to_owned(),
    }
}

pub(super) fn wrong(
    path: &Path,
    field: impl Into<String>,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Error {
    Error::Field {
        path: path.to_owned(),
        field: field.into(),
        expected: expected.into(),
        found: found.into(),
    }
}

impl FileTask {
    fn of(task: &TaskBaseline) -> Self {
        Self {
            task: task.task.clone(),
            version: task.version,
            task_sha256: task.task_sha256.clone(),
            data: task.data.clone(),
            fewshot: task.fewshot,
            items: task.items,
            mode: task.mode,
            boundary: task.boundary,
            metrics: task.metrics.iter().map(FileMetric::of).collect(),
        }
    }

    fn check(self, path: &Path, field: &str) -> Result<TaskBaseline> {
        if self.items == 0 {
            let field = format!("{field}.items");
            return Err(wrong(path, field, "at least one item", "0"));
        }
        if self.items as u64 > MAX_VALUES {
            let field = format!("{field}.items");
            let expected = format!("at most {MAX_VALUES} items");
            return Err(wrong(path, field, expected, self.items.to_string()));
        }
        let mut metrics: Vec<Measured> = Vec::new();
        for (index, metric) in self.metrics.into_iter().enumerate() {
            let field = format!("{field}.metrics[{index}]");
            if metrics.iter().any(|other| other.metric.name == metric.name) {
                let found = format!("a second `{}`", metric.name);
                let field = format!("{field}.name");
                return Err(wrong(path, field, "each metric once", found));
            }
            metrics.push(metric.check(path, &field, self.items)?);
        }
        Ok(TaskBaseline {
            task: self.task,
            version: self.version,
            task_sha256: self.task_sha256,
            data: self.data,
            fewshot: self.fewshot,
            items: self.items,
            mode: self.mode,
            boundary: self.boundary,
            metrics,
        })
    }
}
