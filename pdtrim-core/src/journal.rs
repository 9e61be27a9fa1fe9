//! A file of records that survives a kill: one JSON line each, written as soon as it is known.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Appends records of type `R` to a file whose first line says what they belong to.
///
/// ```
/// use pdtrim_core::journal::Journal;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let path = folder.path().join("costs.jsonl");
/// let (mut journal, known) = Journal::<(String, f64)>::resume(&path, "model A, 8 windows")?;
/// assert!(known.is_empty());
/// journal.append(&("without block 3".to_owned(), 3.25))?;
/// drop(journal);
///
/// // After a kill the record is still there, but not for other windows.
/// let (_, known) = Journal::<(String, f64)>::resume(&path, "model A, 8 windows")?;
/// assert_eq!(known, [("without block 3".to_owned(), 3.25)]);
/// let (_, known) = Journal::<(String, f64)>::resume(&path, "model A, 16 windows")?;
/// assert!(known.is_empty());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Journal<R> {
    path: PathBuf,
    file: File,
    records: PhantomData<fn(&R)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    journal_of: String,
}

impl<R: Serialize + DeserializeOwned> Journal<R> {
    /// Opens or makes the journal at `path` and returns the records that it holds.
    ///
    /// `fingerprint` names what the records belong to (model, windows, boundary, …): a journal of
    /// something else is replaced. A last line that a kill cut short is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], or [`Error::JournalLine`] for a whole line that is no record.
    pub fn resume(path: &Path, fingerprint: &str) -> Result<(Self, Vec<R>)> {
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let mut file = open.map_err(Error::io("open", path))?;
        let held = read(&mut file, path, fingerprint)?;
        let (records, whole_bytes) = held.unwrap_or_default();
        file.set_len(whole_bytes)
            .map_err(Error::io("repair", path))?;
        file.seek(SeekFrom::End(0))
            .map_err(Error::io("open", path))?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
            records: PhantomData,
        };
        if whole_bytes == 0 {
            journal.write_line(&Header {
                journal_of: fingerprint.to_owned(),
            })?;
        }
        Ok((journal, records))
    }

    /// Appends a record.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], for a full disk say.
    pub fn append(&mut self, record: &R) -> Result<()> {
        self.write_line(record)
    }

    /// In one write, so that a kill leaves whole lines and at most one cut short.
    fn write_line(&mut self, record: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(record).map_err(|source| Error::Json {
            path: self.path.clone(),
            source,
        })?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(Error::io("write", &self.path))
    }
}

/// The records and the length of the whole lines; `None` if the file is a journal of something else.
fn read<R: DeserializeOwned>(
    file: &mut File,
    path: &Path,
    fingerprint: &str,
) -> Result<Option<(Vec<R>, u64)>> {
    let mut reader = BufReader::new(file);
    let mut records = Vec::new();
    let mut whole_bytes = 0;
    for number in 1.. {
        let mut line = Vec::new();
        let read = reader
            .read_until(b'\n', &mut line)
            .map_err(Error::io("read", path))?;
        if line.last() != Some(&b'\n') {
            break;
        }
        if number == 1 {
            let header: Option<Header> = serde_json::from_slice(&line).ok();
            if header.is_none_or(|header| header.journal_of != fingerprint) {
                return Ok(None);
            }
        } else {
            let record = serde_json::from_slice(&line);
            let refused = |error: serde_json::Error| Error::JournalLine {
                path: path.to_owned(),
                line: number,
                found: error.to_string(),
            };
            records.push(record.map_err(refused)?);
        }
        whole_bytes += read as u64;
    }
    Ok((whole_bytes > 0).then_some((records, whole_bytes)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_journal_cut_anywhere_gives_back_its_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let (mut journal, held) = Journal::<Vec<u32>>::resume(&path, "numbers").unwrap();
        assert!(held.is_empty());
        for n in 0..4 {
            journal.append(&vec![n; 3]).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let lines = whole[..cut].split(|&byte| byte == b'\n').count() - 1;
            let (mut journal, held) = Journal::<Vec<u32>>::resume(&path, "numbers").unwrap();
            assert_eq!(held.len(), lines.saturating_sub(1));
            for n in held.len() as u32..4 {
                journal.append(&vec![n; 3]).unwrap();
            }
            assert_eq!(fs::read(&path).unwrap(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_journal_of_something_else_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        Journal::<u32>::resume(&path, "one")
            .unwrap()
            .0
            .append(&7)
            .unwrap();
        assert!(Journal::<u32>::resume(&path, "two").unwrap().1.is_empty());
        assert!(Journal::<u32>::resume(&path, "one").unwrap().1.is_empty());
    }

    #[test]
    fn a_whole_line_that_is_no_record_is_refused_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        fs::write(&path, "{\"journal_of\":\"numbers\"}\n1\n\"two\"\n").unwrap();
        let error = Journal::<u32>::resume(&path, "numbers").unwrap_err();
        assert!(
            matches!(error, Error::JournalLine { line: 3, .. }),
            "{error}"
        );
    }
}
