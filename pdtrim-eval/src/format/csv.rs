//! Comma-separated values. A quoted field may hold line breaks.

use std::path::Path;

use csv::{ReaderBuilder, StringRecord};
use serde_json::Value;

use super::Doc;
use crate::error::{Error, Place, Result};

pub(super) fn read(path: &Path, text: &str, columns: Option<&[String]>) -> Result<Vec<Doc>> {
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
    reader
        .records()
        .map(|row| record(path, &columns, &row.map_err(failed)?))
        .collect()
}

fn record(path: &Path, columns: &[String], row: &StringRecord) -> Result<Doc> {
    let line = row
        .position()
        .map_or(0, |position| position.line() as usize);
    if row.len() != columns.len() {
        let place = Place::new(path, line);
        return Err(Error::CsvFields {
            place,
            expected: columns.len(),
            found: row.len(),
        });
    }
    let fields = columns
        .iter()
        .cloned()
        .zip(row.iter().map(Value::from))
        .collect();
    Ok(Doc { line, fields })
}
