//! MMLU: one CSV file a subject, without a header: question, four choices, the right one's letter.

use std::path::{Path, PathBuf};

use csv::{ReaderBuilder, StringRecord};

use super::c4::files_of;
use super::{Needed, Pool, Reader};
use crate::error::{Error, Result};

/// `dev` is not among them: its five items a subject are the examples in prompts, and too few.
const MMLU: Needed = Needed {
    source_name: "piqa+mmlu",
    what: "MMLU's folder of subjects, val or test",
    candidates: &["mmlu/val", "mmlu/test"],
};

const COLUMNS: [&str; 6] = ["question", "A", "B", "C", "D", "answer"];

pub(super) fn pool(data: Option<&Path>, read: &mut Reader) -> Result<Pool> {
    let (name, folder) = MMLU.find(data)?;
    let is_csv = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "csv");
    let mut files: Vec<PathBuf> = files_of(&folder)?.into_iter().filter(is_csv).collect();
    files.sort();
    if files.is_empty() {
        return Err(Error::DataNotFound {
            source_name: MMLU.source_name,
            needed: MMLU.what,
            looked_for: folder.join("*.csv").display().to_string(),
        });
    }
    let mut items = Vec::new();
    for path in &files {
        items.extend(subject(path, &read.read(path)?)?);
    }
    Ok(Pool {
        name: name.to_owned(),
        items,
    })
}

fn subject(path: &Path, text: &str) -> Result<Vec<String>> {
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let row = |row: csv::Result<StringRecord>| {
        let row = row.map_err(|source| Error::Csv {
            path: path.to_owned(),
            source,
        })?;
        prompt(path, &row)
    };
    reader.records().map(row).collect()
}

/// The prompt of lm-evaluation-harness, without its sentence on the subject, with the right letter.
fn prompt(path: &Path, row: &StringRecord) -> Result<String> {
    let line = row.position().map_or(0, |place| place.line() as usize);
    let failed = |field: &str, expected, found| Error::RecordField {
        path: path.to_owned(),
        line,
        field: field.to_owned(),
        expected,
        found,
    };
    let fields: Vec<&str> = row.iter().map(str::trim).collect();
    let Ok([question, a, b, c, d, answer]) = <[&str; 6]>::try_from(fields) else {
        let field = COLUMNS[row.len().min(COLUMNS.len() - 1)];
        let found = format!("{} fields", row.len());
        return Err(failed(field, "6 fields a row", found));
    };
    if !["A", "B", "C", "D"].contains(&answer) {
        return Err(failed("answer", "A, B, C or D", format!("`{answer}`")));
    }
    Ok(format!(
        "{question}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer: {answer}"
    ))
}
