//! JSON lines.

use std::path::Path;

use pdtrim_core::count_json_values;
use serde_json::Value;

use super::Doc;
use super::budget::Budget;
use crate::error::{Error, Place, Result};

pub(super) fn read(path: &Path, text: &str) -> Result<Vec<Doc>> {
    let lines = || {
        let lines = text.lines().enumerate();
        lines.filter(|(_, line)| !line.trim().is_empty())
    };
    let mut budget = Budget::of(path, text.len());
    budget.take(0, text.len() as u64)?;
    for (index, line) in lines() {
        let values = count_json_values(line);
        let values = values.map_err(|error| syntax(Place::new(path, index + 1), &error))?;
        budget.take(values, 0)?;
    }
    lines()
        .map(|(index, line)| record(Place::new(path, index + 1), line))
        .collect()
}

fn syntax(place: Place, error: &serde_json::Error) -> Error {
    // The parser's own position counts the line as the whole file.
    let message = error.to_string();
    let reason = message.split(" at line ").next().unwrap_or_default();
    Error::Json {
        place,
        column: error.column(),
        reason: reason.to_owned(),
    }
}

fn record(place: Place, line: &str) -> Result<Doc> {
    let value: Value = serde_json::from_str(line).map_err(|error| syntax(place.clone(), &error))?;
    let found = match value {
        Value::Object(fields) => {
            return Ok(Doc {
                line: place.line,
                fields,
            });
        }
        Value::Array(_) => "an array",
        Value::String(_) => "a string",
        Value::Number(_) => "a number",
        Value::Bool(_) => "a boolean",
        Value::Null => "null",
    };
    Err(Error::NotAnObject { place, found })
}
