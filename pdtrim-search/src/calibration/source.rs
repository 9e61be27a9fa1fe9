//! What a user writes to name calibration data.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Where calibration windows come from. See the [module](super) for what each is.
///
/// A known name wins over a file of that name, which `./c4` names.
///
/// ```
/// use pdtrim_search::calibration::CalibrationSource;
///
/// let source: CalibrationSource = "items.jsonl#question+answer".parse()?;
/// let CalibrationSource::Jsonl { path, fields } = &source else {
///     panic!("a JSON-lines file")
/// };
/// assert_eq!(path.to_str(), Some("items.jsonl"));
/// assert_eq!(fields, &["question", "answer"]);
/// assert_eq!(CalibrationSource::default().to_string(), "prose");
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CalibrationSource {
    /// `prose`: bundled prose.
    #[default]
    Prose,
    /// `wikitext2`: published WikiText-2 raw files.
    WikiText2,
    /// `piqa+mmlu`: published PIQA and MMLU files.
    PiqaMmlu,
    /// `c4`: published C4 files.
    C4,
    /// `self`: sampled from the model.
    Sampled,
    /// A path: a UTF-8 text.
    Text(PathBuf),
    /// A path that ends in `.jsonl`, with `#field` or `#field+field` after it if they are not `text`:
    /// one JSON object a line, its fields joined by line breaks.
    Jsonl {
        /// The file.
        path: PathBuf,
        /// At least one.
        fields: Vec<String>,
    },
}

const NAMED: [(&str, CalibrationSource); 5] = [
    ("prose", CalibrationSource::Prose),
    ("wikitext2", CalibrationSource::WikiText2),
    ("piqa+mmlu", CalibrationSource::PiqaMmlu),
    ("c4", CalibrationSource::C4),
    ("self", CalibrationSource::Sampled),
];

/// Field of a `.jsonl` file if none is named.
const DEFAULT_FIELD: &str = "text";

impl CalibrationSource {
    /// The sources that have a name.
    pub fn named() -> impl Iterator<Item = Self> {
        NAMED.into_iter().map(|(_, source)| source)
    }

    /// The error for a path where no file is: the names, in case one was meant.
    pub(super) fn unknown(&self) -> Error {
        let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
        Error::UnknownSource {
            found: self.to_string(),
            known: names.join(", "),
        }
    }
}

fn is_jsonl(path: &str) -> bool {
    let extension = Path::new(path).extension();
    extension.is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"))
}

impl FromStr for CalibrationSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some((_, source)) = NAMED.into_iter().find(|(name, _)| *name == text) {
            return Ok(source);
        }
        let (path, fields) = match text.rsplit_once('#') {
            Some((path, fields)) if is_jsonl(path) => (path, fields),
            _ if is_jsonl(text) => (text, DEFAULT_FIELD),
            _ => return Ok(Self::Text(PathBuf::from(text))),
        };
        let fields: Vec<String> = fields.split('+').map(str::to_owned).collect();
        if fields.iter().any(String::is_empty) {
            return Err(Error::SourceFields {
                found: text.to_owned(),
            });
        }
        Ok(Self::Jsonl {
            path: PathBuf::from(path),
            fields,
        })
    }
}

impl fmt::Display for CalibrationSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMED.iter().find(|(_, source)| source == self) {
            return f.write_str(name);
        }
        match self {
            Self::Text(path) => write!(f, "{}", path.display()),
            Self::Jsonl { path, fields } if fields == &[DEFAULT_FIELD] => {
                write!(f, "{}", path.display())
            }
            Self::Jsonl { path, fields } => {
                write!(f, "{}#{}", path.display(), fields.join("+"))
            }
            _ => unreachable!("every other source has a name"),
        }
    }
}

impl TryFrom<String> for CalibrationSource {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<CalibrationSource> for String {
    fn from(source: CalibrationSource) -> Self {
        source.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> CalibrationSource {
        text.parse().unwrap()
    }

    #[test]
    fn names_and_paths_are_read_back_as_they_are_written() {
        for text in [
            "prose",
            "wikitext2",
            "piqa+mmlu",
            "c4",
            "self",
            "notes.txt",
            "./c4",
            "C#.txt",
            "a/items.jsonl",
            "items.jsonl#question+answer",
        ] {
            assert_eq!(parsed(text).to_string(), text);
        }
        assert_eq!(parsed("./c4"), CalibrationSource::Text("./c4".into()));
        assert_eq!(parsed("x.jsonl#text"), parsed("x.jsonl"));
        assert_eq!(CalibrationSource::named().count(), NAMED.len());
    }

    #[test]
    fn fields_follow_the_path_of_a_jsonl_file() {
        let fields = |text: &str| match parsed(text) {
            CalibrationSource::Jsonl { fields, .. } => fields,
            other => panic!("{other:?}"),
        };
        assert_eq!(fields("x.jsonl"), ["text"]);
        assert_eq!(fields("x.jsonl#goal"), ["goal"]);
        assert_eq!(fields("x.jsonl#goal+sol1"), ["goal", "sol1"]);
    }

    #[test]
    fn an_empty_field_is_refused() {
        for text in ["x.jsonl#", "x.jsonl#a+", "x.jsonl#+a"] {
            let error = text.parse::<CalibrationSource>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("field"), "{error}");
        }
    }
}
