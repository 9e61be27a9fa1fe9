//! Where a task's records come from.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::format::Format;

/// One `[[data]]` table: a place to look, and what the records there need before they fit the templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) place: Where,
    pub(crate) form: Form,
}

/// A place to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// Candidates, relative to the data folder.
    Files(Vec<String>),
    /// A file of the hub's Parquet conversion.
    Hub(HubData),
    /// The key of a bundled file.
    Bundled(String),
}

/// A split of a dataset on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubData {
    /// `org/name`.
    pub(crate) repo: String,
    pub(crate) config: String,
    pub(crate) split: String,
}

/// What its records look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    /// A file beside the data file with one label a line.
    pub(crate) labels: Option<String>,
    /// The names of a CSV file's columns where it has no header row.
    pub(crate) columns: Option<Vec<String>>,
    /// Whether a text is cut into WikiText's articles.
    pub(crate) pages: bool,
    /// Neighbouring records with this field in common become one.
    pub(crate) group_by: Option<String>,
    /// Fields to add, each an expression.
    pub(crate) fields: BTreeMap<String, String>,
}

/// A `[[data]]` table as it is written.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    #[serde(default)]
    pub(super) files: Vec<String>,
    pub(super) bundled: Option<String>,
    pub(super) hub: Option<String>,
    pub(super) config: Option<String>,
    pub(super) split: Option<String>,
    pub(super) labels: Option<String>,
    pub(super) columns: Option<Vec<String>>,
    #[serde(default)]
    pub(super) pages: bool,
    pub(super) group_by: Option<String>,
    #[serde(default)]
    pub(super) fields: BTreeMap<String, String>,
}

impl HubData {
    /// The branch on which the hub keeps its conversion of every dataset.
    pub(crate) const REVISION: &str = "refs/convert/parquet";

    /// The split's first file there.
    pub(crate) fn file(&self) -> String {
        format!("{}/{}/0000.parquet", self.config, self.split)
    }
}

impl Source {
    /// The first place it names.
    pub(super) fn path(&self) -> &str {
        match &self.place {
            Where::Files(files) => &files[0],
            Where::Hub(hub) => &hub.repo,
            Where::Bundled(key) => key,
        }
    }

    /// The formats of the files it names.
    pub(super) fn formats(&self) -> Vec<Format> {
        match &self.place {
            Where::Files(files) => files
                .iter()
                .map(|file| Format::of(Path::new(file)))
                .collect(),
            Where::Hub(_) => vec![Format::Parquet],
            Where::Bundled(key) => vec![Format::of(Path::new(key))],
        }
    }
}
