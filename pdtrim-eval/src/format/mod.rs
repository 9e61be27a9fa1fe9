//! Data files as records.

mod csv;
mod jsonl;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Result;

/// The format of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line; blank lines are skipped.
    Jsonl,
    /// Comma-separated values, with a header row unless the task names the columns.
    Csv,
    /// Plain text, one document.
    Text,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Text => "text",
        })
    }
}

/// One record of a data file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Doc {
    /// The line it begins on, counted from 1.
    pub(crate) line: usize,
    pub(crate) fields: Map<String, Value>,
}

/// What a data file holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Records(Vec<Doc>),
    Text(String),
}

/// Reads `text`, the content of `path`.
pub(crate) fn read(
    format: Format,
    columns: Option<&[String]>,
    path: &Path,
    text: &str,
) -> Result<Content> {
    Ok(match format {
        Format::Jsonl => Content::Records(jsonl::read(path, text)?),
        Format::Csv => Content::Records(csv::read(path, text, columns)?),
        Format::Text => Content::Text(text.to_owned()),
    })
}
