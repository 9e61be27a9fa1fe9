//! Finding and reading a task's data.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::bundled;
use crate::error::{Error, Place, Result};
use crate::format::{self, Content, Doc};
use crate::result::DataFile;
use crate::task::{Source, Task};

/// The data of one task: at least one record, or a text that is not empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    pub(crate) path: PathBuf,
    pub(crate) content: Content,
    pub(crate) files: Vec<DataFile>,
}

impl Dataset {
    /// Reads the data of `task`: the first of its files that lies under `data_dir`, or else the
    /// bundled file.
    ///
    /// # Errors
    ///
    /// When there is neither, naming the paths that were looked for, and when the file is not what
    /// the task says.
    pub fn load(task: &Task, data_dir: Option<&Path>) -> Result<Self> {
        let source = task.source();
        if let Some(dir) = data_dir
            && let Some(file) = source.files.iter().find(|file| dir.join(file).is_file())
        {
            return Self::from_folder(source, dir, file);
        }
        let bundled = source
            .bundled
            .as_deref()
            .and_then(|key| Some((key, bundled::data(key)?)));
        match bundled {
            Some((key, text)) => Self::new(source, PathBuf::from(key), key, text.as_bytes()),
            None => Err(Error::DataNotFound {
                task: task.name().to_owned(),
                looked_for: looked_for(source, data_dir),
            }),
        }
    }

    /// The number of records; none for a text.
    pub fn records(&self) -> Option<usize> {
        match &self.content {
            Content::Records(docs) => Some(docs.len()),
            Content::Text(_) => None,
        }
    }

    /// The files that were read, with their hashes.
    pub fn files(&self) -> &[DataFile] {
        &self.files
    }

    fn from_folder(source: &Source, dir: &Path, file: &str) -> Result<Self> {
        let path = dir.join(file);
        let bytes = read(&path)?;
        let mut dataset = Self::new(source, path, file, &bytes)?;
        if let Some(labels) = &source.labels {
            dataset.add_labels(&Path::new(file).with_file_name(labels), dir)?;
        }
        Ok(dataset)
    }

    fn new(source: &Source, path: PathBuf, name: &str, bytes: &[u8]) -> Result<Self> {
        let text = utf8(&path, bytes)?;
        let content = format::read(source.format, source.columns.as_deref(), &path, text)?;
        let empty = match &content {
            Content::Records(docs) => docs.is_empty(),
            Content::Text(text) => text.trim().is_empty(),
        };
        if empty {
            return Err(Error::EmptyData { path });
        }
        Ok(Self {
            files: vec![DataFile {
                path: name.to_owned(),
                sha256: sha256(bytes),
            }],
            path,
            content,
        })
    }

    /// Adds the lines of the labels file `file` of `dir` to the records, as their field `label`.
    fn add_labels(&mut self, file: &Path, dir: &Path) -> Result<()> {
        let path = dir.join(file);
        let bytes = read(&path)?;
        let labels: Vec<&str> = utf8(&path, &bytes)?
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let docs: &mut [Doc] = match &mut self.content {
            Content::Records(docs) => docs,
            Content::Text(_) => &mut [],
        };
        if labels.len() != docs.len() {
            let (expected, found) = (docs.len(), labels.len());
            return Err(Error::LabelCount {
                path,
                data: self.path.clone(),
                expected,
                found,
            });
        }
        for (doc, label) in docs.iter_mut().zip(labels) {
            doc.fields.insert("label".to_owned(), Value::from(label));
        }
        self.files.push(DataFile {
            path: file.to_string_lossy().replace('\\', "/"),
            sha256: sha256(&bytes),
        });
        Ok(())
    }
}

fn looked_for(source: &Source, data_dir: Option<&Path>) -> String {
    let dir = data_dir.unwrap_or(Path::new(""));
    let bundled = source.bundled.iter().map(|key| format!("bundled {key}"));
    let paths = source
        .files
        .iter()
        .map(|file| dir.join(file).display().to_string());
    paths.chain(bundled).collect::<Vec<_>>().join(", ")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// The text of a file, without a byte order mark.
fn utf8<'b>(path: &Path, bytes: &'b [u8]) -> Result<&'b str> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = error.valid_up_to();
        let line = bytes[..valid].split(|&byte| byte == b'\n').count();
        Error::NotUtf8 {
            place: Place::new(path, line),
            byte: bytes[valid],
        }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The SHA-256 of `bytes`, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        write!(hex, "{byte:02x}").expect("a string takes any text");
    }
    hex
}
