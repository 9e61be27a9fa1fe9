//! Data files as records.

mod budget;
mod csv;
mod jsonl;
mod pages;
mod parquet;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Place, Result};

/// The format of a data file, which follows from its name.
///
/// ```
/// use pdtrim_eval::Format;
///
/// assert_eq!(serde_json::to_string(&Format::Parquet)?, "\"parquet\"");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line; blank lines are skipped. `.jsonl`, `.json`
    Jsonl,
    /// Comma-separated values, with a header row unless the task names the columns. `.csv`
    Csv,
    /// Apache Parquet. `.parquet`
    Parquet,
    /// Plain text, one document. Everything else.
    Text,
}

impl Format {
    /// The format of the file at `path`.
    pub(crate) fn of(path: &Path) -> Self {
        let ending = path.extension().map(std::ffi::OsStr::to_ascii_lowercase);
        match ending.as_deref().and_then(std::ffi::OsStr::to_str) {
            Some("jsonl" | "json") => Self::Jsonl,
            Some("csv") => Self::Csv,
            Some("parquet") => Self::Parquet,
            _ => Self::Text,
        }
    }
}

/// One record of a data file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Doc {
    /// The line it begins on, counted from 1; in a Parquet file its row.
    pub(crate) line: usize,
    pub(crate) fields: Map<String, Value>,
}

/// What a data file holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Records(Vec<Doc>),
    Text(String),
}

impl Content {
    /// The records; none of a text.
    pub(crate) fn records(&self) -> &[Doc] {
        match self {
            Self::Records(docs) => docs,
            Self::Text(_) => &[],
        }
    }

    /// The records; none of a text.
    pub(crate) fn into_records(self) -> Vec<Doc> {
        match self {
            Self::Records(docs) => docs,
            Self::Text(_) => Vec::new(),
        }
    }
}

/// Reads `bytes`, the content of `path`.
pub(crate) fn read(
    path: &Path,
    bytes: Vec<u8>,
    columns: Option<&[String]>,
    pages: bool,
) -> Result<Content> {
    let records = match Format::of(path) {
        Format::Jsonl => jsonl::read(path, utf8(path, &bytes)?)?,
        Format::Csv => csv::read(path, utf8(path, &bytes)?, columns)?,
        Format::Parquet => parquet::read(path, bytes)?,
        Format::Text if pages => pages::read(utf8(path, &bytes)?),
        Format::Text => return Ok(Content::Text(utf8(path, &bytes)?.to_owned())),
    };
    Ok(Content::Records(records))
}

/// The text of a file, without a byte order mark.
pub(crate) fn utf8<'b>(path: &Path, bytes: &'b [u8]) -> Result<&'b str> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = error.valid_up_to();
        let line = bytes[..valid].split(|&byte| byte == b'\n').count();
        Error::NotUtf8 {
            place: Place::new(path, line),
            byte: bytes[valid],
        }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}
