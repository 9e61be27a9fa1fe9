//! Files that a user names, read whole: within a limit, and only if they are files.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};
use crate::limits;
use crate::units::Bytes;

/// Reads a UTF-8 file of at most `limit` bytes; a byte order mark is dropped.
///
/// # Errors
///
/// As [`read_bytes`], and [`Error::NotUtf8`] with the offset of the first bad byte.
///
/// ```
/// use pdtrim_core::{Error, limits, read_text};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let path = folder.path().join("prose.txt");
/// # std::fs::write(&path, b"caf\xe9").expect("a file");
/// // The text is in Latin-1.
/// assert!(matches!(read_text(&path, limits::PROMPT), Err(Error::NotUtf8 { offset: 3, .. })));
/// ```
pub fn read_text(path: &Path, limit: Bytes) -> Result<String> {
    let mut bytes = read_bytes(path, limit)?;
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(.."\u{feff}".len());
    }
    String::from_utf8(bytes).map_err(|bad| Error::NotUtf8 {
        path: path.to_owned(),
        offset: bad.utf8_error().valid_up_to(),
    })
}

/// Reads a file of at most `limit` bytes, into a buffer of just its size.
///
/// # Errors
///
/// [`Error::Io`], [`Error::NotAFile`], or [`Error::FileSize`] for a file that is larger, or grows to be while it
/// is read.
///
/// ```
/// use pdtrim_core::{Bytes, Error, read_bytes};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let path = folder.path().join("weights");
/// # std::fs::write(&path, [7; 9]).expect("a file");
/// assert_eq!(read_bytes(&path, Bytes(9))?, [7; 9]);
/// let refused = read_bytes(&path, Bytes(8));
/// assert!(matches!(refused, Err(Error::FileSize { limit: 8, found: 9, .. })));
/// # Ok::<(), Error>(())
/// ```
pub fn read_bytes(path: &Path, limit: Bytes) -> Result<Vec<u8>> {
    let file = open_file(path)?;
    let too_large = |found| Error::FileSize {
        path: path.to_owned(),
        limit: limit.0,
        found,
    };
    let metadata = file.metadata().map_err(Error::io("read", path))?;
    if metadata.len() > limit.0 {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    let read = file.take(limit.0 + 1).read_to_end(&mut bytes);
    let read = read.map_err(Error::io("read", path))? as u64;
    if read > limit.0 {
        return Err(too_large(read));
    }
    Ok(bytes)
}

/// Opens a file to read it. A folder, a pipe, a socket or a device is refused before it is opened: opening a
/// pipe waits for a writer.
///
/// # Errors
///
/// [`Error::Io`] or [`Error::NotAFile`].
///
/// ```
/// use pdtrim_core::{Error, open_file};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let refused = open_file(folder.path());
/// assert!(matches!(refused, Err(Error::NotAFile { found: "a folder", .. })));
/// ```
pub fn open_file(path: &Path) -> Result<File> {
    let kind = fs::metadata(path).map_err(Error::io("read", path))?;
    match not_a_file(kind.file_type()) {
        None => File::open(path).map_err(Error::io("read", path)),
        Some(found) => Err(Error::NotAFile {
            path: path.to_owned(),
            found,
        }),
    }
}

/// What a path names if it names no file.
pub(crate) fn not_a_file(kind: fs::FileType) -> Option<&'static str> {
    if kind.is_file() {
        return None;
    }
    if kind.is_dir() {
        return Some("a folder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Some("a pipe");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
    }
    Some("a device")
}

/// The value that the TOML `text`, read from `path`, holds.
///
/// # Errors
///
/// [`Error::TooMany`] for more than [`limits::TOML_TOKENS`] tokens, [`Error::Toml`].
///
/// ```
/// use std::collections::BTreeMap;
/// use std::path::Path;
///
/// use pdtrim_core::parse_toml;
///
/// let settings: BTreeMap<String, usize> = parse_toml(Path::new("run.toml"), "windows = 16")?;
/// assert_eq!(settings["windows"], 16);
/// let error = parse_toml::<BTreeMap<String, usize>>(Path::new("run.toml"), "windows = ").unwrap_err();
/// assert!(error.to_string().contains("run.toml"));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn parse_toml<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    // The parser lists them before anything else, in about ten times the text's size.
    let tokens = toml_parser::Source::new(text).lex();
    let found = tokens.take(limits::TOML_TOKENS + 1).count();
    if found > limits::TOML_TOKENS {
        return Err(Error::TooMany {
            path: path.to_owned(),
            what: "TOML tokens",
            limit: limits::TOML_TOKENS as u64,
        });
    }
    toml::from_str(text).map_err(|source| Error::Toml {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// Number of values in a JSON text: of objects, lists, strings, numbers and words, each with what is in
/// it. Takes no memory, so that a text can be refused before values are made of it.
///
/// # Errors
///
/// Where and why the text is not JSON.
///
/// ```
/// use pdtrim_core::count_json_values;
///
/// // The list and what is in it.
/// assert_eq!(count_json_values("[1, 2, {\"a\": 3}]").expect("JSON"), 5);
/// ```
pub fn count_json_values(text: &str) -> serde_json::Result<u64> {
    let mut count = 0;
    let mut parser = serde_json::Deserializer::from_str(text);
    Counter(&mut count).deserialize(&mut parser)?;
    parser.end()?;
    Ok(count)
}

/// Counts what it visits, and keeps nothing of it.
struct Counter<'c>(&'c mut u64);

impl Counter<'_> {
    fn count(self) {
        *self.0 += 1;
    }
}

impl<'de> DeserializeSeed<'de> for Counter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counter<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.count();
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.count();
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.count();
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.count();
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.count();
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.count();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Counter(self.0))?.is_some() {}
        self.count();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<serde::de::IgnoredAny>()?.is_some() {
            map.next_value_seed(Counter(self.0))?;
        }
        self.count();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn a_file_of_just_the_limit_is_read_and_a_larger_one_is_not() {
        let file = file(b"\xef\xbb\xbfabc");
        assert_eq!(read_text(file.path(), Bytes(6)).unwrap(), "abc");
        assert_eq!(read_bytes(file.path(), Bytes(6)).unwrap().capacity(), 6);
        let error = read_text(file.path(), Bytes(5)).unwrap_err().to_string();
        let path = file.path().display();
        assert_eq!(error, format!("{path}: expected at most 5 bytes, found 6"));
    }

    #[test]
    fn text_that_is_no_utf8_is_refused_with_the_offset() {
        let file = file(b"ab\xff");
        let error = read_text(file.path(), Bytes(9)).unwrap_err();
        assert!(matches!(error, Error::NotUtf8 { offset: 2, .. }), "{error}");
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let said = |path: &Path| read_text(path, Bytes(9)).unwrap_err().to_string();
        assert!(said(folder.path()).ends_with(": expected a file, found a folder"));
        #[cfg(unix)]
        {
            let socket = folder.path().join("socket");
            let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            assert!(said(&socket).ends_with(": expected a file, found a socket"));
            assert!(said(Path::new("/dev/zero")).ends_with(": expected a file, found a device"));
            let pipe = folder.path().join("pipe");
            let made = std::process::Command::new("mkfifo").arg(&pipe).status();
            if made.is_ok_and(|status| status.success()) {
                assert!(said(&pipe).ends_with(": expected a file, found a pipe"));
            }
        }
    }

    #[test]
    fn a_file_that_says_it_is_empty_is_read_to_the_limit_and_no_further() {
        // Files of /proc have a size of 0 and more in them.
        let path = Path::new("/proc/self/status");
        if !path.is_file() {
            return;
        }
        assert!(!read_bytes(path, limits::CONFIG).unwrap().is_empty());
        let error = read_bytes(path, Bytes(10)).unwrap_err();
        assert!(
            matches!(
                error,
                Error::FileSize {
                    limit: 10,
                    found: 11,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn every_value_of_a_json_text_is_counted_once() {
        let counts = [
            ("0", 1),
            ("[]", 1),
            ("[1, -1, 0.5, \"a\\n\", true, null]", 7),
            ("{\"a\": {\"b\": []}, \"c\": 1}", 4),
        ];
        for (text, expected) in counts {
            assert_eq!(count_json_values(text).unwrap(), expected, "{text}");
        }
        for text in ["", "[1", "{\"a\"}", "1 2", "nul"] {
            count_json_values(text).unwrap_err();
        }
        count_json_values(&"[".repeat(100_000)).unwrap_err();
    }

    #[test]
    fn toml_of_more_tokens_than_allowed_is_refused_before_it_is_parsed() {
        let path = Path::new("x.toml");
        let list = |numbers: usize| format!("a = [{}]", "0,".repeat(numbers));
        let parsed: toml::Table = parse_toml(path, &list(1000)).unwrap();
        assert_eq!(parsed["a"].as_array().unwrap().len(), 1000);
        let error = parse_toml::<toml::Table>(path, &list(limits::TOML_TOKENS / 2)).unwrap_err();
        let expected = "x.toml: expected at most 262144 TOML tokens, found more";
        assert_eq!(error.to_string(), expected);
    }
}
