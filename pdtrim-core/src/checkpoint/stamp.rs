//! Whether a file is still the one that was opened.
//!
//! Weights are used where they lie in the mapped file, so what is written into it in the meantime is
//! computed with. Size, time of the last write and, on Unix, the file's number tell that it happened.
//! A write that puts all three back is not seen, and one that makes a mapped file shorter ends the process.

use std::fs::{self, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::text::open_file;

/// A file at the moment when it was opened.
#[derive(Debug)]
pub(super) struct Stamp {
    path: PathBuf,
    seen: Seen,
}

/// What a file system says of a file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    bytes: u64,
    /// Nothing where the file system does not know; only compared, so a clock that jumps does no harm.
    modified: Option<SystemTime>,
    /// Device and number.
    identity: Option<(u64, u64)>,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
        Ok(Self {
            path: path.to_owned(),
            seen: Seen::of(&metadata),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails if another file is there now, or none, or if it was written to.
    pub(super) fn check(&self) -> Result<()> {
        match fs::metadata(&self.path) {
            Ok(metadata) => self.compare(&metadata),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(self.changed("no file".to_owned()))
            }
            Err(error) => Err(Error::io("read", &self.path)(error)),
        }
    }

    /// Feeds the file to `hasher`; fails as [`check`](Self::check).
    pub(super) fn hash(&self, hasher: &mut Sha256) -> Result<()> {
        let failed = || Error::io("read", &self.path);
        let mut file = open_file(&self.path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer).map_err(failed())?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        // Of the file that was read, after it was: a write before or meanwhile shows in it.
        self.compare(&file.metadata().map_err(failed())?)
    }

    fn compare(&self, metadata: &Metadata) -> Result<()> {
        let found = Seen::of(metadata);
        if found == self.seen {
            return Ok(());
        }
        let (before, now) = (self.seen.bytes, found.bytes);
        Err(self.changed(if found.identity != self.seen.identity {
            "another file in its place".to_owned()
        } else if before != now {
            format!("{now} bytes in place of {before}")
        } else {
            format!("{now} bytes that were written later")
        }))
    }

    fn changed(&self, found: String) -> Error {
        Error::Changed {
            path: self.path.clone(),
            found,
        }
    }
}

impl Seen {
    fn of(metadata: &Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            identity: identity(metadata),
        }
    }
}

#[cfg(unix)]
#[expect(
    clippy::unnecessary_wraps,
    reason = "other systems have no such numbers"
)]
fn identity(metadata: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    /// A file of five bytes that was written a minute ago.
    fn file(folder: &Path) -> (PathBuf, Stamp) {
        let path = folder.join("weights");
        fs::write(&path, "first").unwrap();
        let then = SystemTime::now() - Duration::from_mins(1);
        let opened = File::options().write(true).open(&path).unwrap();
        opened.set_modified(then).unwrap();
        let stamp = Stamp::of(&path).unwrap();
        (path, stamp)
    }

    /// What is said of a file after `change`, when it is looked at and when it is hashed.
    fn found(change: impl Fn(&Path)) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let (path, stamp) = file(folder.path());
        stamp.check().unwrap();
        stamp.hash(&mut Sha256::new()).unwrap();
        change(&path);
        let looked = stamp.check().unwrap_err();
        let hashed = stamp.hash(&mut Sha256::new()).unwrap_err();
        let shown = [looked, hashed].map(|error| error.to_string());
        assert!(
            shown.iter().all(|error| error.contains("weights")),
            "{shown:?}"
        );
        shown.to_vec()
    }

    #[test]
    fn a_write_of_the_same_length_is_seen() {
        for error in found(|path| fs::write(path, "other").unwrap()) {
            assert!(error.contains("5 bytes that were written later"), "{error}");
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_seen() {
        for error in found(|path| fs::write(path, "fir").unwrap()) {
            assert!(error.contains("3 bytes in place of 5"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn another_file_of_the_same_name_is_seen() {
        let errors = found(|path| {
            let beside = path.with_extension("new");
            fs::write(&beside, "first").unwrap();
            fs::rename(beside, path).unwrap();
        });
        for error in errors {
            assert!(error.contains("another file in its place"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_gone_is_seen() {
        let errors = found(|path| fs::remove_file(path).unwrap());
        assert!(errors[0].contains("no file"), "{errors:?}");
        assert!(errors[1].contains("cannot read"), "{errors:?}");
    }
}
