//! The run's folder: results for the user, and `.pdtrim` with what a later run can reuse.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) struct RunFolder {
    out: PathBuf,
    state: PathBuf,
    /// The state's folder, locked: the system lets go of it when the process ends, however it ends.
    _lock: Option<File>,
}

/// A finished part and what it depended on.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    fingerprint: String,
    value: T,
}

impl RunFolder {
    /// Opens the folder for this process alone; `force` forgets what an earlier run kept there.
    pub(crate) fn open(out: &Path, force: bool) -> Result<Self> {
        let state = out.join(".pdtrim");
        let failed = || format!("cannot use the folder {}", out.display());
        fs::create_dir_all(&state).with_context(failed)?;
        let folder = Self {
            out: out.to_owned(),
            _lock: lock(&state).with_context(failed)?,
            state,
        };
        if force {
            folder.forget()?;
        }
        // A killed run may have left files that it had not renamed yet.
        pdtrim_core::delete_leftovers(out);
        pdtrim_core::delete_leftovers(&folder.state);
        Ok(folder)
    }

    /// Deletes what a later run could reuse.
    pub(crate) fn forget(&self) -> Result<()> {
        let failed = || format!("cannot empty the folder {}", self.state.display());
        for entry in fs::read_dir(&self.state).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            if entry.file_type().with_context(failed)?.is_dir() {
                fs::remove_dir_all(entry.path()).with_context(failed)?;
            } else {
                fs::remove_file(entry.path()).with_context(failed)?;
            }
        }
        Ok(())
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

/// Keeps other runs out of the folder. Without locks (some network file systems, folders that do not open
/// as files) nothing does.
fn lock(folder: &Path) -> Result<Option<File>> {
    let Ok(opened) = File::open(folder) else {
        return Ok(None);
    };
    match opened.try_lock() {
        Ok(()) => Ok(Some(opened)),
        Err(TryLockError::WouldBlock) => bail!(
            "another pdtrim is at work in it: expected a folder of this run's own, or to be started after that one"
        ),
        Err(TryLockError::Error(_)) => Ok(None),
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
