//! Whether an export fits, asked before anything is written.

use std::path::Path;

use crate::error::{Error, Result};
use crate::units::Bytes;

/// Room for the tokenizer and all else that is not weights.
const BESIDE: Bytes = Bytes(16 << 20);

/// Refuses weights for which `folder`'s file system has no room.
pub(super) fn check(folder: &Path, weights: Bytes) -> Result<()> {
    match free(folder)? {
        Some(free) => enough(folder, weights + BESIDE, free),
        None => Ok(()),
    }
}

fn enough(folder: &Path, needed: Bytes, free: Bytes) -> Result<()> {
    if needed <= free {
        return Ok(());
    }
    Err(Error::Space {
        folder: folder.to_owned(),
        expected: needed,
        found: free,
    })
}

/// What an ordinary user may still write there; the folder itself need not exist yet.
#[cfg(unix)]
fn free(folder: &Path) -> Result<Option<Bytes>> {
    let whole = std::path::absolute(folder).map_err(Error::io("find", folder))?;
    let Some(existing) = whole.ancestors().find(|path| path.exists()) else {
        return Ok(None);
    };
    let found = rustix::fs::statvfs(existing);
    let found =
        found.map_err(|error| Error::io("ask for the free space of", existing)(error.into()))?;
    Ok(Some(Bytes(found.f_bavail.saturating_mul(found.f_frsize))))
}

/// Not asked elsewhere: a full disk is then an error when it is met.
#[cfg(not(unix))]
fn free(_: &Path) -> Result<Option<Bytes>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_sizes() {
        let folder = Path::new("stage");
        assert!(enough(folder, Bytes(5), Bytes(5)).is_ok());
        let error = enough(folder, Bytes(3 << 20), Bytes(1 << 20)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("stage") && error.contains("3.0 MiB") && error.contains("1.0 MiB"),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_is_not_there_yet_has_the_space_of_its_parent() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a/b");
        let found = free(&folder).unwrap().unwrap();
        assert!(found > Bytes(0));
        assert!(check(&folder, Bytes(1)).is_ok() || found < Bytes(17 << 20));
        assert!(check(&folder, Bytes(u64::MAX / 2)).is_err());
    }
}
