//! PIQA: goals, two solutions each, and the number of the right one in a labels file.

use std::path::Path;

use super::jsonl::{Record, records};
use super::{Needed, Pool, Reader};
use crate::error::{Error, Result};

const PIQA: Needed = Needed {
    source_name: "piqa+mmlu",
    what: "PIQA's records and, beside them, train-labels.lst or valid-labels.lst",
    candidates: &["piqa/train.jsonl", "piqa/valid.jsonl"],
};

pub(super) fn pool(data: Option<&Path>, read: &mut Reader) -> Result<Pool> {
    let (name, path) = PIQA.find(data)?;
    let records = records(&path, read)?;
    let labels_path = path.with_file_name(if name.ends_with("train.jsonl") {
        "train-labels.lst"
    } else {
        "valid-labels.lst"
    });
    let labels = read.read(&labels_path)?;
    let labels: Vec<&str> = labels.lines().map(str::trim_end).collect();
    if labels.len() != records.len() {
        return Err(Error::LabelCount {
            path: labels_path,
            records: path,
            expected: records.len(),
            found: labels.len(),
        });
    }
    let lines = records.iter().zip(labels).enumerate();
    let item = |(index, (record, label))| prompt(record, solution(&labels_path, index + 1, label)?);
    Ok(Pool {
        name: name.to_owned(),
        items: lines.map(item).collect::<Result<_>>()?,
    })
}

/// The field that holds the right solution.
fn solution(path: &Path, line: usize, label: &str) -> Result<&'static str> {
    match label {
        "0" => Ok("sol1"),
        "1" => Ok("sol2"),
        other => Err(Error::RecordField {
            path: path.to_owned(),
            line,
            field: "label".to_owned(),
            expected: "0 or 1",
            found: format!("`{other}`"),
        }),
    }
}

/// The prompt of lm-evaluation-harness with its right answer.
fn prompt(record: &Record, solution: &str) -> Result<String> {
    let (goal, answer) = (record.text("goal")?, record.text(solution)?);
    Ok(format!("Question: {goal}\nAnswer: {}", answer.trim()))
}
