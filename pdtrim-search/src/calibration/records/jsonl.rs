//! JSON lines: one object a line, blank lines skipped.

use std::path::{Path, PathBuf};

use pdtrim_core::{count_json_values, limits};
use serde_json::{Map, Value};

use super::Reader;
use crate::error::{Error, Result};

/// One line of a file.
pub(super) struct Record {
    path: PathBuf,
    line: usize,
    values: Map<String, Value>,
}

/// The records of a file.
pub(super) fn records(path: &Path, read: &mut Reader) -> Result<Vec<Record>> {
    let text = read.read(path)?;
    check_values(path, &text)?;
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| Record::parse(path, index + 1, line))
        .collect()
}

/// Refuses more values than items are made of; what is no JSON is left to whoever parses it.
fn check_values(path: &Path, text: &str) -> Result<()> {
    let values = text.lines().filter_map(|line| count_json_values(line).ok());
    if values.sum::<u64>() <= limits::RECORD_VALUES {
        return Ok(());
    }
    Err(pdtrim_core::Error::TooMany {
        path: path.to_owned(),
        what: "JSON values",
        limit: limits::RECORD_VALUES,
    }
    .into())
}

/// The given fields of each record, joined by line breaks; a record without any text there is left out.
pub(in super::super) fn fields(
    path: &Path,
    names: &[String],
    read: &mut Reader,
) -> Result<Vec<String>> {
    let mut items = Vec::new();
    for record in records(path, read)? {
        let texts = names.iter().map(|name| record.text(name));
        let item = texts.collect::<Result<Vec<_>>>()?.join("\n");
        if !item.trim().is_empty() {
            items.push(item);
        }
    }
    Ok(items)
}

impl Record {
    fn parse(path: &Path, line: usize, text: &str) -> Result<Self> {
        let failed = |found| Error::RecordSyntax {
            path: path.to_owned(),
            line,
            found,
        };
        let value = serde_json::from_str(text).map_err(|error| {
            // The parser's own line number takes this line for the whole file.
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            failed(format!("{reason} at column {}", error.column()))
        })?;
        match value {
            Value::Object(values) => Ok(Self {
                path: path.to_owned(),
                line,
                values,
            }),
            other => Err(failed(kind(&other).to_owned())),
        }
    }

    /// Whether there is such a field.
    pub(super) fn has(&self, field: &str) -> bool {
        self.values.contains_key(field)
    }

    /// A field that must be a string.
    pub(super) fn text(&self, field: &str) -> Result<&str> {
        let found = match self.values.get(field) {
            Some(Value::String(text)) => return Ok(text),
            Some(other) => kind(other).to_owned(),
            None => {
                let fields: Vec<&str> = self.values.keys().map(String::as_str).collect();
                format!("only the fields {}", fields.join(", "))
            }
        };
        Err(Error::RecordField {
            path: self.path.clone(),
            line: self.line,
            field: field.to_owned(),
            expected: "a string",
            found,
        })
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
