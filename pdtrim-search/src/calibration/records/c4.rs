//! C4 as it is published, `{text}` a line, or a calibration sample of it that cuts each text in two.

use std::fs;
use std::path::{Path, PathBuf};

use super::jsonl::{Record, records};
use super::{Needed, Pool, Reader};
use crate::error::Result;

const C4: Needed = Needed {
    source_name: "c4",
    what: "the folder c4 with a .jsonl or .json file",
    candidates: &["c4"],
};

pub(super) fn pool(data: Option<&Path>, read: &mut Reader) -> Result<Pool> {
    let (folder_name, folder) = C4.find(data)?;
    let path = first_file(&folder)?;
    let texts = records(&path, read)?;
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(Pool {
        name: format!("{folder_name}/{file_name}"),
        items: texts.iter().map(text).collect::<Result<_>>()?,
    })
}

/// The first of the folder's files of records, by name.
fn first_file(folder: &Path) -> Result<PathBuf> {
    let is_records = |path: &PathBuf| {
        let extension = path.extension();
        extension.is_some_and(|extension| extension == "jsonl" || extension == "json")
    };
    let mut files: Vec<PathBuf> = files_of(folder)?.into_iter().filter(is_records).collect();
    files.sort();
    let none = || crate::Error::DataNotFound {
        source_name: C4.source_name,
        needed: C4.what,
        looked_for: folder.join("*.jsonl").display().to_string(),
    };
    files.into_iter().next().ok_or_else(none)
}

/// The paths of what a folder holds, in no order.
pub(super) fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| pdtrim_core::Error::Io {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    let entries = fs::read_dir(folder).map_err(failed)?;
    let paths = entries.map(|entry| Ok(entry.map_err(failed)?.path()));
    paths.collect()
}

/// The two halves of a cut text belong together without anything between them: the cut may be in a word.
fn text(record: &Record) -> Result<String> {
    if record.has("prefix") {
        return Ok([record.text("prefix")?, record.text("gold_completion")?].concat());
    }
    record.text("text").map(str::to_owned)
}
