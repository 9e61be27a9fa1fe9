//! JSON lines.

use std::path::Path;

use serde_json::Value;

use super::Doc;
use crate::error::{Error, Place, Result};

pub(super) fn read(path: &Path, text: &str) -> Result<Vec<Doc>> {
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| record(Place::new(path, index + 1), line))
        .collect()
}

fn record(place: Place, line: &str) -> Result<Doc> {
    let value: Value = serde_json::from_str(line).map_err(|error| {
        let column = error.column();
        // The parser's own position counts the line as the whole file.
        let message = error.to_string();
        let reason = message
            .split(" at line ")
            .next()
            .unwrap_or_default()
            .to_owned();
        Error::Json {
            place: place.clone(),
            column,
            reason,
        }
    })?;
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
