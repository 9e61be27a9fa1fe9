//! Comma-separated values. A quoted field may hold line breaks.

use std::path::Path;

use csv::{ReaderBuilder, StringRecord};
use serde_json::Value;

use super::Doc;
use super::budget::Budget;
use crate::error::{Error, Place, Result};

/// What a field of a row takes in the list of its fields.
const FIELD_BYTES: u64 = 24;

pub(super) fn read(path: &Path, text: &str, columns: Option<&[String]>) -> Result<Vec<Doc>> {
    let mut budget = Budget::of(path, text.len());
    // A row's fields are listed before their number is looked at; the list grows by doubling.
    let commas = text.bytes().filter(|byte| *byte == b',').count() as u64;
    budget.check(commas.saturating_mul(FIELD_BYTES))?;
    let failed = |source| Error::Csv {
        path: path.to_owned(),
        source,
    };
    // Rows of another length are reported here, with the line they begin on.
    let mut reader = ReaderBuilder::new()
        .has_headers(columns.is_none())
        .flexible(true)
        .from_reader(text.as_bytes());
    let columns = match columns {
        Some(columns) => columns.to_vec(),
        None => reader
            .headers()
            .map_err(failed)?
            .iter()
            .map(str::to_owned)
            .collect(),
    };
    let names = columns.iter().map(|name| name.len() as u64).sum();
    let mut docs = Vec::new();
    for row in reader.records() {
        let row = row.map_err(failed)?;
        check_length(path, &columns, &row)?;
        budget.take(1 + row.len() as u64, names)?;
        budget.take(0, row.as_slice().len() as u64)?;
        docs.push(record(&columns, &row));
    }
    Ok(docs)
}

fn line(row: &StringRecord) -> usize {
    row.position()
        .map_or(0, |position| position.line() as usize)
}

fn check_length(path: &Path, columns: &[String], row: &StringRecord) -> Result<()> {
    if row.len() == columns.len() {
        return Ok(());
    }
    Err(Error::CsvFields {
        place: Place::new(path, line(row)),
        expected: columns.len(),
        found: row.len(),
    })
}

fn record(columns: &[String], row: &StringRecord) -> Doc {
    let fields = columns
        .iter()
        .cloned()
        .zip(row.iter().map(Value::from))
        .collect();
    Doc {
        line: line(row),
        fields,
    }
}
