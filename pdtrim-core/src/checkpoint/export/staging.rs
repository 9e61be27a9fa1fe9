//! A folder that appears whole or not at all.
//!
//! Everything is written into a temporary folder: a sibling that is renamed at the end, or, where the folder
//! is there already, one inside it whose files are moved at the end, `config.json` last, since a folder
//! without it is not a checkpoint. A killed export leaves a temporary folder that the next export to the
//! same place deletes; the lock that a running export holds on its own tells the two apart.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::atomic::{locked, sweep_folders, temporary_folder};
use crate::error::{Error, Result};

/// What temporary folders are called, after the name of the folder that they become.
const MARK: &str = ".pdtrim-export-";

/// Whether an entry of a folder is what a killed export left there; the next export deletes it.
///
/// ```
/// use std::ffi::OsStr;
///
/// use pdtrim_core::checkpoint::is_export_leftover;
///
/// assert!(is_export_leftover(OsStr::new(".pdtrim-export-decode.x7f3")));
/// assert!(!is_export_leftover(OsStr::new("config.json")));
/// ```
pub fn is_export_leftover(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(MARK.as_bytes())
}

/// Files of an older export that a loader or a reader would take for the new one's. All are written by
/// exports alone.
const STALE: [&str; 4] = [
    "config.json",
    "model.safetensors.index.json",
    "configuration_pdtrim.py",
    "mergekit_config.yml",
];

/// A folder in the making; dropped without [`finish`](Self::finish), nothing is left of it.
pub(super) struct Staging {
    folder: PathBuf,
    temporary: TempDir,
    /// Held until the folder is there; the system lets go of a killed process's.
    _lock: Option<File>,
    is_new: bool,
}

impl Staging {
    pub(super) fn begin(folder: &Path) -> Result<Self> {
        let is_new = !folder.is_dir();
        if is_new && folder.exists() {
            let error = std::io::Error::from(std::io::ErrorKind::NotADirectory);
            return Err(Error::io("create the folder", folder)(error));
        }
        let parent = folder.parent().filter(|path| !path.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let sibling = folder.file_name().map(|name| {
            let mut prefix = OsString::from(".");
            prefix.push(name);
            prefix.push(MARK);
            prefix
        });
        if let Some(prefix) = &sibling {
            sweep_folders(parent, prefix);
        }
        sweep_folders(folder, OsStr::new(MARK));
        let (place, prefix) = match sibling {
            Some(prefix) if is_new => (parent, prefix),
            _ => (folder, OsString::from(MARK)),
        };
        fs::create_dir_all(place).map_err(Error::io("create the folder", place))?;
        let temporary = temporary_folder(place, &prefix)?;
        Ok(Self {
            folder: folder.to_owned(),
            _lock: locked(temporary.path()),
            temporary,
            is_new,
        })
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Puts what was written into its place.
    pub(super) fn finish(self) -> Result<()> {
        if self.is_new {
            fs::rename(self.path(), &self.folder)
                .map_err(Error::io("move the export to", &self.folder))?;
            // It has another name now: there is nothing to delete.
            let _ = self.temporary.keep();
            return Ok(());
        }
        self.clear_stale()?;
        let mut names = names(self.path())?;
        names.sort_by_key(|name| name == "config.json");
        for name in names {
            let target = self.folder.join(&name);
            fs::rename(self.path().join(&name), &target).map_err(Error::io("replace", &target))?;
        }
        Ok(())
    }

    /// Takes away what an older export wrote and this one does not.
    fn clear_stale(&self) -> Result<()> {
        for name in names(&self.folder)? {
            let stale = name.to_str().is_some_and(|name| {
                STALE.contains(&name)
                    || name == "model.safetensors"
                    || (name.starts_with("model-") && name.ends_with(".safetensors"))
            });
            if stale {
                let path = self.folder.join(name);
                fs::remove_file(&path).map_err(Error::io("replace", &path))?;
            }
        }
        Ok(())
    }
}

fn names(folder: &Path) -> Result<Vec<OsString>> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let names: Result<Vec<OsString>, _> = names.collect();
    names.map_err(Error::io("read", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(staging: &Staging, names: &[&str]) {
        for name in names {
            fs::write(staging.path().join(name), name).unwrap();
        }
    }

    fn listed(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = names(folder)
            .unwrap()
            .into_iter()
            .map(|name| name.into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_new_folder_is_not_there_before_it_is_whole() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("deep/stage");
        let staging = Staging::begin(&folder).unwrap();
        write(&staging, &["config.json", "model.safetensors"]);
        assert!(!folder.exists());
        staging.finish().unwrap();
        assert_eq!(listed(&folder), ["config.json", "model.safetensors"]);
        assert_eq!(listed(&place.path().join("deep")), ["stage"]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&folder), mode(&place.path().join("deep")));
        }
    }

    #[test]
    fn what_was_there_stays_but_for_an_older_export() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("stage");
        fs::create_dir(&folder).unwrap();
        for name in [
            "config.json",
            "model-00001-of-00002.safetensors",
            "notes",
            "configuration_pdtrim.py",
        ] {
            fs::write(folder.join(name), "old").unwrap();
        }
        drop(Staging::begin(&folder).unwrap());
        assert_eq!(listed(&folder).len(), 4, "nothing changes before the end");
        let staging = Staging::begin(&folder).unwrap();
        write(&staging, &["config.json", "model.safetensors"]);
        staging.finish().unwrap();
        assert_eq!(
            listed(&folder),
            ["config.json", "model.safetensors", "notes"]
        );
        assert_eq!(
            fs::read_to_string(folder.join("config.json")).unwrap(),
            "config.json"
        );
    }

    #[cfg(unix)]
    #[test]
    fn leftovers_are_deleted_and_running_exports_are_not() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("stage");
        let other = place.path().join(".other.pdtrim-export-aaaa");
        let left = place.path().join(".stage.pdtrim-export-aaaa");
        for path in [&other, &left] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("model.safetensors"), "half").unwrap();
        }
        let first = Staging::begin(&folder).unwrap();
        assert!(!left.exists() && other.exists());
        let second = Staging::begin(&folder).unwrap();
        assert!(first.path().is_dir() && second.path().is_dir());
        drop((first, second));
        assert_eq!(listed(place.path()), [".other.pdtrim-export-aaaa"]);
    }
}
