//! Files and folders that appear whole or not at all.
//!
//! One is written under a temporary name beside its place, flushed and renamed. A process that is
//! killed leaves what is under the temporary name; the next write to the same place deletes it. The lock
//! that a running process holds on its own tells the two apart.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use crate::error::{Error, Result};
use crate::hash::sha256;

/// How the names of temporary files begin; the name of the file that they become follows.
const MARK: &str = ".pdtrim-";

/// Random letters at the end of such a name.
const RANDOM: usize = 6;

/// The longest name that a temporary one holds: file systems allow 255 bytes in all.
const LONGEST: usize = 200;

/// Writes `bytes` to a temporary sibling of `path`, flushes it and renames it, so that a reader
/// sees the old file or the whole new one. What a killed process left of the same file is deleted. A
/// device or a pipe is written to as it is.
///
/// # Errors
///
/// [`Error::Io`]; the temporary file is removed.
///
/// ```
/// use pdtrim_core::{limits, read_text, write_atomically};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let path = folder.path().join("results.txt");
/// write_atomically(&path, b"one")?;
/// write_atomically(&path, b"two")?;
/// assert_eq!(read_text(&path, limits::PROMPT)?, "two");
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let there = fs::metadata(path);
    if there.is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return fs::write(path, bytes).map_err(Error::io("write", path));
    }
    let mut file = temporary_sibling(path)?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    put(file, path)
}

/// Fails if a file at `path` could not be written: what takes long asks before it begins. The folder is
/// made.
///
/// # Errors
///
/// [`Error::Io`].
///
/// ```
/// use pdtrim_core::check_writable;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// check_writable(&folder.path().join("results.json"))?;
/// // A folder cannot be replaced by a file, and nothing is left behind.
/// assert!(check_writable(folder.path()).is_err());
/// assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn check_writable(path: &Path) -> Result<()> {
    let there = fs::metadata(path);
    if there.is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        // A device or a pipe.
        return Ok(());
    }
    temporary_sibling(path).map(drop)
}

/// Deletes the temporary files that killed processes left in `folder`. What is being written, and what
/// cannot be looked at or deleted, stays.
///
/// ```
/// use pdtrim_core::delete_leftovers;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// for name in [".pdtrim-plan.toml-Ab12Cd", "plan.toml"] {
///     std::fs::write(folder.path().join(name), "half").expect("a file");
/// }
/// delete_leftovers(folder.path());
/// assert!(folder.path().join("plan.toml").exists());
/// assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
/// ```
pub fn delete_leftovers(folder: &Path) {
    sweep(folder, |name| {
        name.as_encoded_bytes().starts_with(MARK.as_bytes())
    });
}

/// A temporary file beside `path`, in a folder that is made if it is not there. It goes when it is
/// dropped, and has the permissions of an ordinary new file: what is written here is for other users'
/// engines too. What is there and is no file cannot be replaced.
pub(crate) fn temporary_sibling(path: &Path) -> Result<NamedTempFile> {
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let error =
            std::io::Error::other("expected a file, or nothing, in its place; found neither");
        return Err(Error::io("replace", path)(error));
    }
    let folder = parent(path);
    fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
    let prefix = prefix(path);
    // First: on a full disk the room may be theirs.
    sweep(folder, |name| {
        name.len() == prefix.len() + RANDOM
            && name
                .as_encoded_bytes()
                .starts_with(prefix.as_encoded_bytes())
    });
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).rand_bytes(RANDOM);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    loop {
        let file = builder
            .tempfile_in(folder)
            .map_err(Error::io("write to", folder))?;
        match file.as_file().try_lock() {
            // Without locks (some network file systems) nobody deletes it either.
            Err(TryLockError::Error(_)) => return Ok(file),
            Ok(()) if file.path().exists() => return Ok(file),
            // Another process took it for a leftover before it was locked.
            Ok(()) | Err(TryLockError::WouldBlock) => {}
        }
    }
}

/// Flushes a temporary file and renames it to `path`.
pub(crate) fn put(file: NamedTempFile, path: &Path) -> Result<()> {
    file.as_file()
        .sync_data()
        .map_err(Error::io("write", path))?;
    file.persist(path)
        .map(drop)
        .map_err(|failed| Error::io("write", path)(failed.error))
}

/// A folder in the making, which takes the place of one that is there; dropped without
/// [`finish`](Self::finish), nothing is left of it.
///
/// ```
/// use pdtrim_core::NewFolder;
///
/// # let place = tempfile::tempdir().expect("a temporary folder");
/// let path = place.path().join("stage");
/// let folder = NewFolder::begin(&path)?;
/// std::fs::write(folder.path().join("config.json"), "{}").expect("a file");
/// assert!(!path.exists());
/// folder.finish()?;
/// assert!(path.join("config.json").exists());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Debug)]
pub struct NewFolder {
    path: PathBuf,
    temporary: TempDir,
    /// Held until the folder is there.
    _lock: Option<File>,
}

impl NewFolder {
    /// A temporary folder beside `path`. What a killed process left of the same folder is deleted.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn begin(path: &Path) -> Result<Self> {
        let place = parent(path);
        fs::create_dir_all(place).map_err(Error::io("create the folder", place))?;
        let prefix = prefix(path);
        sweep_folders(place, &prefix);
        let temporary = temporary_folder(place, &prefix)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: locked(temporary.path()),
            temporary,
        })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Puts the folder into its place.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn finish(self) -> Result<()> {
        let path = &self.path;
        if path.exists() {
            fs::remove_dir_all(path).map_err(Error::io("replace", path))?;
        }
        fs::rename(self.temporary.path(), path).map_err(Error::io("write", path))?;
        // It has another name now: there is nothing to delete.
        let _ = self.temporary.keep();
        Ok(())
    }
}

/// A temporary folder with the permissions of an ordinary new one: it is for other users' engines too.
pub(crate) fn temporary_folder(place: &Path, prefix: &OsStr) -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o777));
    }
    builder
        .tempdir_in(place)
        .map_err(Error::io("write to", place))
}

/// A lock on a folder, where folders can be locked; the system lets go of a killed process's.
pub(crate) fn locked(folder: &Path) -> Option<File> {
    let opened = File::open(folder).ok();
    opened.filter(|folder| folder.try_lock().is_ok())
}

/// Deletes the folders in `place` whose names begin so and that no running process has locked. What
/// cannot be looked at or deleted stays: it is in nobody's way.
pub(crate) fn sweep_folders(place: &Path, prefix: &OsStr) {
    let Ok(entries) = fs::read_dir(place) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().map(OsStr::as_encoded_bytes);
        let ours = name.is_some_and(|name| name.starts_with(prefix.as_encoded_bytes()));
        if ours && path.is_dir() && locked(&path).is_some() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// What the temporary names of the file or folder at `path` begin with.
fn prefix(path: &Path) -> OsString {
    let name = path.file_name().unwrap_or_default();
    let mut prefix = OsString::from(MARK);
    if name.len() <= LONGEST {
        prefix.push(name);
    } else {
        prefix.push(sha256(name.as_encoded_bytes()));
    }
    prefix.push("-");
    prefix
}

/// Deletes the files of `folder` that are called so and that no running process has locked.
fn sweep(folder: &Path, is_ours: impl Fn(&OsStr) -> bool) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !is_ours(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[cfg(unix)]
    #[test]
    fn a_written_file_has_the_permissions_of_an_ordinary_one() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| {
            let metadata = fs::metadata(folder.path().join(name)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        fs::write(folder.path().join("ordinary"), "").unwrap();
        write_atomically(&folder.path().join("ours"), b"").unwrap();
        assert_eq!(mode("ours"), mode("ordinary"));
    }

    #[test]
    fn a_write_deletes_what_a_killed_one_left_of_the_same_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        for name in [
            ".pdtrim-plan.toml-Ab12Cd",
            ".pdtrim-other.toml-Ab12Cd",
            ".pdtrim-plan.toml-more-Ab12Cd",
            "plan.toml-Ab12Cd",
        ] {
            fs::write(place(name), "half").unwrap();
        }
        // One that is being written.
        let running = temporary_sibling(&place("plan.toml")).unwrap();
        write_atomically(&place("plan.toml"), b"whole").unwrap();
        assert_eq!(fs::read(place("plan.toml")).unwrap(), b"whole");
        assert!(running.path().exists());
        drop(running);
        let left = [
            ".pdtrim-other.toml-Ab12Cd",
            ".pdtrim-plan.toml-more-Ab12Cd",
            "plan.toml",
            "plan.toml-Ab12Cd",
        ];
        assert_eq!(names(folder.path()), left);
        let running = temporary_sibling(&place("other.toml")).unwrap();
        delete_leftovers(folder.path());
        assert!(running.path().exists());
        drop(running);
        assert_eq!(names(folder.path()), ["plan.toml", "plan.toml-Ab12Cd"]);
    }

    #[test]
    fn a_new_folder_takes_the_place_of_the_old_one_and_of_what_a_kill_left() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("kv");
        for name in ["kv", ".pdtrim-kv-Ab12Cd", ".pdtrim-other-Ab12Cd"] {
            fs::create_dir(place.path().join(name)).unwrap();
            fs::write(place.path().join(name).join("old"), "").unwrap();
        }
        let folder = NewFolder::begin(&path).unwrap();
        fs::write(folder.path().join("new"), "").unwrap();
        drop(NewFolder::begin(&path).unwrap());
        assert_eq!(names(&path), ["old"]);
        folder.finish().unwrap();
        assert_eq!(names(&path), ["new"]);
        assert_eq!(names(place.path()), [".pdtrim-other-Ab12Cd", "kv"]);
    }

    #[test]
    fn a_name_as_long_as_a_file_system_allows_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n".repeat(255));
        write_atomically(&path, b"whole").unwrap();
        assert_eq!(fs::read(path).unwrap(), b"whole");
        assert_eq!(names(folder.path()).len(), 1);
    }

    #[test]
    fn a_place_that_is_a_folder_is_refused_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("plan.toml")).unwrap();
        let error = write_atomically(&folder.path().join("plan.toml"), b"whole").unwrap_err();
        assert!(error.to_string().contains("plan.toml"), "{error}");
        #[cfg(unix)]
        {
            // As root, a rename would put a file into its place.
            write_atomically(Path::new("/dev/null"), b"whole").unwrap();
            assert!(!fs::metadata("/dev/null").unwrap().is_file());
            assert!(temporary_sibling(Path::new("/dev/null")).is_err());
        }
        assert_eq!(names(folder.path()), ["plan.toml"]);
    }
}
