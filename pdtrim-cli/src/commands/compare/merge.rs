//! Shards' folders joined into one table.

use std::path::{Path, PathBuf};

use anyhow::Result;
use pdtrim_core::{limits, read_bytes};

use super::report::{Measured, Outcome, Run};

/// Folders that do not belong together.
#[derive(Debug, thiserror::Error)]
pub(super) enum MergeError {
    #[error(transparent)]
    Read(pdtrim_core::Error),
    #[error("{} is not a table of `pdtrim compare`", path.display())]
    Syntax {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(
        "{} is of another configuration than {}: `{field}` is {found}, expected {expected}",
        folder.display(),
        first.display()
    )]
    Configuration {
        folder: PathBuf,
        first: PathBuf,
        field: String,
        expected: String,
        found: String,
    },
    #[error("{} and {} disagree on {job}", folder.display(), first.display())]
    Disagree {
        folder: PathBuf,
        first: PathBuf,
        job: String,
    },
}

/// One table of all: a run that failed in one folder and not in another did not fail; one that is in
/// none has failed.
pub(super) fn merge(folders: &[PathBuf]) -> Result<Measured, MergeError> {
    let mut all = Vec::with_capacity(folders.len());
    for folder in folders {
        all.push((folder.as_path(), read(folder)?));
    }
    let Some(((first, measured), others)) = all.split_first() else {
        unreachable!("the command line asks for a folder at least");
    };
    for (folder, other) in others {
        check_configuration((first, measured), (folder, other))?;
    }
    let mut merged = measured.clone();
    merged.runs.clear();
    for job in measured.configuration.jobs() {
        let mut kept: Option<(&Path, &Run)> = None;
        for (folder, other) in &all {
            let Some(run) = other.runs.iter().find(|run| run.job == job) else {
                continue;
            };
            kept = Some(match kept {
                None => (folder, run),
                Some(kept) => better(kept, (folder, run))?,
            });
        }
        merged.runs.push(kept.map_or_else(
            || Run {
                job,
                outcome: Outcome::Failed("it is in none of the merged folders".to_owned()),
            },
            |(_, run)| run.clone(),
        ));
    }
    Ok(merged)
}

fn read(folder: &Path) -> Result<Measured, MergeError> {
    let path = folder.join("compare.json");
    let text = read_bytes(&path, limits::RESULTS).map_err(MergeError::Read)?;
    serde_json::from_slice(&text).map_err(|source| MergeError::Syntax { path, source })
}

fn check_configuration(
    (first, expected): (&Path, &Measured),
    (folder, found): (&Path, &Measured),
) -> Result<(), MergeError> {
    let object = |measured: &Measured| serde_json::to_value(&measured.configuration);
    let syntax = |path: &Path| {
        let path = path.to_owned();
        move |source| MergeError::Syntax { path, source }
    };
    let expected = object(expected).map_err(syntax(first))?;
    let found = object(found).map_err(syntax(folder))?;
    let fields = expected.as_object().into_iter().flatten();
    for (field, expected) in fields {
        if found[field] != *expected {
            return Err(MergeError::Configuration {
                folder: folder.to_owned(),
                first: first.to_owned(),
                field: field.clone(),
                expected: expected.to_string(),
                found: found[field].to_string(),
            });
        }
    }
    Ok(())
}

/// The one that did not fail; the first of two that say the same.
fn better<'r>(
    first: (&'r Path, &'r Run),
    other: (&'r Path, &'r Run),
) -> Result<(&'r Path, &'r Run), MergeError> {
    match (&first.1.outcome, &other.1.outcome) {
        (_, Outcome::Failed(_)) => Ok(first),
        (Outcome::Failed(_), Outcome::Found(_)) => Ok(other),
        (Outcome::Found(a), Outcome::Found(b)) => {
            if a.removed == b.removed && a.held_out == b.held_out && a.tasks == b.tasks {
                Ok(first)
            } else {
                Err(MergeError::Disagree {
                    folder: other.0.to_owned(),
                    first: first.0.to_owned(),
                    job: first.1.job.to_string(),
                })
            }
        }
    }
}
