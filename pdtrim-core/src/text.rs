//! Text files that a user names.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// Reads a UTF-8 file; a byte order mark is dropped.
///
/// # Errors
///
/// [`Error::Io`] or [`Error::NotUtf8`] with the offset of the first bad byte.
///
/// ```
/// use pdtrim_core::{Error, read_text};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let path = folder.path().join("prose.txt");
/// # std::fs::write(&path, b"caf\xe9").expect("a file");
/// // The text is in Latin-1.
/// assert!(matches!(read_text(&path), Err(Error::NotUtf8 { offset: 3, .. })));
/// ```
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let text = String::from_utf8(bytes).map_err(|bad| Error::NotUtf8 {
        path: path.to_owned(),
        offset: bad.utf8_error().valid_up_to(),
    })?;
    Ok(text
        .strip_prefix('\u{feff}')
        .map(str::to_owned)
        .unwrap_or(text))
}
