//! Files of items, read into the texts that a model would see.

mod c4;
mod jsonl;
mod mmlu;
mod piqa;

use std::path::{Path, PathBuf};

use pdtrim_core::{limits, read_text};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

pub(super) use jsonl::fields;

/// The items of one part of a source, from each of which as many are drawn.
pub(super) struct Pool {
    /// The file or folder they come from, as a plan names it.
    pub(super) name: String,
    pub(super) items: Vec<String>,
}

/// PIQA, then MMLU, from the folder of published files.
pub(super) fn piqa_mmlu(data: Option<&Path>, read: &mut Reader) -> Result<Vec<Pool>> {
    Ok(vec![piqa::pool(data, read)?, mmlu::pool(data, read)?])
}

/// C4, from the folder of published files.
pub(super) fn c4(data: Option<&Path>, read: &mut Reader) -> Result<Vec<Pool>> {
    Ok(vec![c4::pool(data, read)?])
}

/// Reads files and keeps the SHA-256 of all of them, in the order of reading.
#[derive(Default)]
pub(super) struct Reader {
    hasher: Sha256,
}

impl Reader {
    /// The text of a file, without a byte order mark.
    pub(super) fn read(&mut self, path: &Path) -> Result<String> {
        let text = read_text(path, limits::DATA)?;
        if text.trim().is_empty() {
            let path = path.to_owned();
            return Err(pdtrim_core::Error::EmptyFile { path }.into());
        }
        self.add(&text);
        Ok(text)
    }

    /// Counts a text as read.
    pub(super) fn add(&mut self, text: &str) {
        self.hasher.update(text.as_bytes());
    }

    /// `sha256:` and the hash of what was read.
    pub(super) fn hash(self) -> String {
        hash_name(self.hasher)
    }
}

/// `sha256:` and the hash in hexadecimal.
pub(super) fn hash_name(hasher: Sha256) -> String {
    format!("sha256:{}", pdtrim_core::hash::hex(&hasher.finalize()))
}

/// What a source needs of the folder of published files.
pub(super) struct Needed {
    pub(super) source_name: &'static str,
    pub(super) what: &'static str,
    /// Relative to the folder, the best first.
    pub(super) candidates: &'static [&'static str],
}

impl Needed {
    /// The first candidate that is there, relative to the folder and as a path.
    pub(super) fn find(&self, data: Option<&Path>) -> Result<(&'static str, PathBuf)> {
        let not_found = |looked_for| Error::DataNotFound {
            source_name: self.source_name,
            needed: self.what,
            looked_for,
        };
        let Some(data) = data else {
            return Err(not_found(self.candidates.join(", ")));
        };
        let places = self.candidates.iter().map(|&name| (name, data.join(name)));
        let places: Vec<_> = places.collect();
        let there = places.iter().find(|(_, path)| path.exists());
        there.cloned().ok_or_else(|| {
            let paths = places.iter().map(|(_, path)| path.display().to_string());
            not_found(paths.collect::<Vec<_>>().join(", "))
        })
    }
}
