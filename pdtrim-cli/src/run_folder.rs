//! The run's folder: results for the user, and `.pdtrim` with what a later run can reuse.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) struct RunFolder {
    out: PathBuf,
    state: PathBuf,
}

/// A finished part and what it depended on.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    fingerprint: String,
    value: T,
}

impl RunFolder {
    /// Opens the folder; `force` forgets what an earlier run kept there.
    pub(crate) fn open(out: &Path, force: bool) -> Result<Self> {
        let state = out.join(".pdtrim");
        let failed = || format!("cannot use the folder {}", out.display());
        if force && state.exists() {
            fs::remove_dir_all(&state).with_context(failed)?;
        }
        fs::create_dir_all(&state).with_context(failed)?;
        // A killed run may have left files that it had not renamed yet.
        for folder in [out, &state] {
            for entry in fs::read_dir(folder).with_context(failed)? {
                let entry = entry.with_context(failed)?;
                let unfinished = entry.file_name().to_string_lossy().starts_with(".pdtrim-");
                if unfinished && entry.path().is_file() {
                    fs::remove_file(entry.path()).with_context(failed)?;
                }
            }
        }
        Ok(Self {
            out: out.to_owned(),
            state,
        })
    }

    /// Writes a result for the user.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(pdtrim_core::write_atomically(&self.out.join(name), bytes)?)
    }

    /// Where the journal called `name` is.
    pub(crate) fn journal(&self, name: &str) -> PathBuf {
        self.state.join(format!("{name}.jsonl"))
    }

    /// Where a part that takes long keeps what it has so far.
    pub(crate) fn state_file(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// Forgets that.
    pub(crate) fn remove_state_file(&self, name: &str) -> Result<()> {
        remove(&self.state_file(name))
    }

    /// Takes away a result of an earlier run.
    pub(crate) fn take_away(&self, name: &str) -> Result<()> {
        remove(&self.out.join(name))
    }

    /// The part kept under `name`, if it depended on the same things. One that cannot be read is made again.
    pub(crate) fn kept<T: DeserializeOwned>(&self, name: &str, fingerprint: &str) -> Option<T> {
        let bytes = fs::read(self.part(name)).ok()?;
        let kept: Kept<T> = serde_json::from_slice(&bytes).ok()?;
        (kept.fingerprint == fingerprint).then_some(kept.value)
    }

    /// Keeps a finished part.
    pub(crate) fn keep<T: Serialize>(
        &self,
        name: &str,
        fingerprint: &str,
        value: &T,
    ) -> Result<()> {
        let kept = Kept {
            fingerprint: fingerprint.to_owned(),
            value,
        };
        Ok(pdtrim_core::write_atomically(
            &self.part(name),
            &serde_json::to_vec(&kept)?,
        )?)
    }

    fn part(&self, name: &str) -> PathBuf {
        self.state.join(format!("{name}.json"))
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
