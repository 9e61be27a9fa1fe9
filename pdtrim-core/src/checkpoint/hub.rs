//! Models, and files of datasets, on the Hugging Face hub, through its own client and in its own cache.
//!
//! Of a model only the files that a checkpoint needs are fetched: configuration, tokenizer, and the weights as safetensors. The
//! cache is the one that Python's `huggingface_hub` uses, so a model that is already there is not fetched again.

mod client;
#[cfg(test)]
#[path = "../../tests/support/fake_hub.rs"]
pub(super) mod fake;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use hf_hub::{HFError, RepoType, RepoTypeDataset, RepoTypeModel};

use super::source::{Origin, PullEvent, SourceError, SourceSettings};
use client::{HubRepo, Request};

/// A model on the hub: `org/name[@revision]`, or one of its GGUF files: `org/name/file.gguf[@revision]`.
///
/// ```
/// use pdtrim_core::checkpoint::hub::HubId;
///
/// let id = HubId::parse("org/name/model.Q4_0.gguf@v2")?;
/// assert_eq!((id.repo(), id.file()), ("org/name", Some("model.Q4_0.gguf")));
/// assert_eq!((id.revision(), HubId::parse("org/name")?.revision()), ("v2", "main"));
/// assert!(HubId::parse("org/name/weights.bin").is_err());
/// # Ok::<(), pdtrim_core::checkpoint::source::SourceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    repo: String,
    revision: Option<String>,
    file: Option<String>,
}

impl HubId {
    /// Reads an id as a user writes it.
    ///
    /// # Errors
    ///
    /// [`SourceError::BadHubId`] when `text` is not of one of the two forms.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let bad = |expected, found: &str| SourceError::BadHubId {
            name: text.to_owned(),
            expected,
            found: format!("`{found}`"),
        };
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let mut parts = id.splitn(3, '/');
        let (org, name, file) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
            parts.next(),
        );
        for part in [org, name] {
            let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if part.is_empty() || !part.chars().all(is_word) || part.contains("..") {
                return Err(bad("org/name of letters, digits, `-`, `_` and `.`", part));
            }
        }
        if let Some(file) = file.filter(|file| !is_gguf(file) || !is_plain_path(file)) {
            return Err(bad("a .gguf file after org/name", file));
        }
        if let Some(revision) = revision.filter(|revision| !is_plain_path(revision)) {
            return Err(bad("a branch, tag or commit after `@`", revision));
        }
        Ok(Self {
            repo: format!("{org}/{name}"),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }

    /// The repository, `org/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The branch, tag or commit; `main` when none was named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The GGUF file, when one was named.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    fn origin(&self) -> Origin {
        Origin::Hub(self.repo.clone())
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        self.revision
            .as_ref()
            .map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// Whether a file is called like a GGUF file.
pub(super) fn is_gguf(file: &str) -> bool {
    Path::new(file)
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// Whether `text` stays inside a folder: no empty, `.` or `..` parts.
fn is_plain_path(text: &str) -> bool {
    text.split('/').all(|part| !matches!(part, "" | "." | "..")) && !text.contains(['\\', '\0'])
}

/// Where the hub is and who asks; what is `None` comes from the environment as `huggingface_hub` reads it.
///
/// ```
/// use pdtrim_core::checkpoint::hub::HubSettings;
/// use pdtrim_core::checkpoint::source::SourceSettings;
///
/// // A mirror; token and cache stay what the environment says.
/// let hub = HubSettings {
///     endpoint: Some("https://mirror.example".to_owned()),
///     ..HubSettings::default()
/// };
/// let settings = SourceSettings { hub, ..SourceSettings::from_env() };
/// assert!(settings.hub.token.is_none());
/// ```
#[derive(Clone, Debug, Default)]
pub struct HubSettings {
    /// The hub's address; else `HF_ENDPOINT`.
    pub endpoint: Option<String>,
    /// The access token; else `HF_TOKEN` or the token file of a login.
    pub token: Option<String>,
    /// The cache; else `HF_HUB_CACHE` or `HF_HOME`.
    pub cache_dir: Option<PathBuf>,
}

/// The folder of a model, or the GGUF file that was named, in the hub's cache; fetched first when it is not there.
///
/// When the hub cannot be reached, a complete model in the cache is used.
///
/// # Errors
///
/// Names the repository and the file in each case: [`SourceError::RepoNotFound`], [`SourceError::RevisionNotFound`],
/// [`SourceError::FileNotFound`], [`SourceError::AccessRefused`], [`SourceError::NotCached`] without network,
/// [`SourceError::HubUnreachable`], [`SourceError::GgufOnly`], [`SourceError::NoWeights`], [`SourceError::BadIndex`],
/// [`SourceError::WrongSize`], or [`SourceError::Hub`] for every other answer.
///
/// ```no_run
/// use pdtrim_core::checkpoint::Checkpoint;
/// use pdtrim_core::checkpoint::hub::{HubId, fetch};
/// use pdtrim_core::checkpoint::source::SourceSettings;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let id = HubId::parse("HuggingFaceTB/SmolLM2-135M-Instruct")?;
/// let folder = fetch(&id, &SourceSettings::from_env(), &mut |event| println!("{event:?}"))?;
/// println!("{} blocks", Checkpoint::open(&folder)?.config().n_blocks);
/// # Ok(())
/// # }
/// ```
pub fn fetch(
    id: &HubId,
    settings: &SourceSettings,
    on_event: &mut dyn FnMut(PullEvent),
) -> Result<PathBuf, SourceError> {
    let model = HubRepo::<RepoTypeModel>::new(id, &settings.hub)?;
    // What a commit holds never changes.
    if settings.offline || is_commit(id.revision()) {
        match model.cached() {
            Ok(path) => {
                on_event(PullEvent::Cached { path: path.clone() });
                return Ok(path);
            }
            Err(error) if settings.offline => return Err(error),
            Err(_) => {}
        }
    }
    on_event(PullEvent::Trying {
        origin: id.origin(),
    });
    match model.list() {
        Ok(files) => {
            let (path, is_new) = match id.file() {
                Some(file) => model.download_alone(file, &files, on_event)?,
                None => model.download_checkpoint(&files, on_event)?,
            };
            on_event(if is_new {
                PullEvent::Served {
                    origin: id.origin(),
                    path: path.clone(),
                }
            } else {
                PullEvent::Cached { path: path.clone() }
            });
            Ok(path)
        }
        Err(source @ HFError::Request { .. }) => model.cached_instead(source, on_event),
        Err(error) => Err(model.explained(error, "the list of files")),
    }
}

/// Puts one file of a model into `folder`, without the hub's cache unless it is there already.
pub(super) fn fetch_file_into(
    id: &HubId,
    file: &str,
    folder: &Path,
    settings: &SourceSettings,
    on_event: &mut dyn FnMut(PullEvent),
) -> Result<PathBuf, SourceError> {
    fetch_file::<RepoTypeModel>(id, file, Some(folder), settings, on_event)
}

/// A file of the dataset `repo` (`org/name`) at a branch, tag or commit, in the hub's cache; fetched first
/// when it is not there.
///
/// # Errors
///
/// As [`fetch`].
///
/// ```no_run
/// use pdtrim_core::checkpoint::hub::fetch_dataset_file;
/// use pdtrim_core::checkpoint::source::{SourceError, SourceSettings};
///
/// let settings = SourceSettings::from_env();
/// let file = "plain_text/validation/0000.parquet";
/// let path = fetch_dataset_file("org/name", "main", file, &settings, &mut |_| ())?;
/// println!("{}", path.display());
/// # Ok::<(), SourceError>(())
/// ```
pub fn fetch_dataset_file(
    repo: &str,
    revision: &str,
    file: &str,
    settings: &SourceSettings,
    on_event: &mut dyn FnMut(PullEvent),
) -> Result<PathBuf, SourceError> {
    let id = HubId::parse(&format!("{repo}@{revision}"))?;
    fetch_file::<RepoTypeDataset>(&id, file, None, settings, on_event)
}

fn fetch_file<T: RepoType>(
    id: &HubId,
    file: &str,
    into: Option<&Path>,
    settings: &SourceSettings,
    on_event: &mut dyn FnMut(PullEvent),
) -> Result<PathBuf, SourceError> {
    let repo = HubRepo::<T>::new(id, &settings.hub)?;
    if let Ok(path) = repo.cached_file(file) {
        return Ok(path);
    }
    if settings.offline {
        return Err(repo.not_cached(file));
    }
    // Asked through the client that gives up on a connection in time; the client of the download does not.
    let files = match repo.list() {
        Ok(files) => files,
        Err(source @ HFError::Request { .. }) => return Err(repo.unreachable(file, source)),
        Err(error) => return Err(repo.explained(error, file)),
    };
    if into.is_none() {
        return Ok(repo.download_alone(file, &files, on_event)?.0);
    }
    let Some(&total_bytes) = files.get(file) else {
        return Err(repo.file_not_found(file, &files));
    };
    let request = Request {
        file,
        revision: id.revision(),
        into,
        done: 0,
        total_bytes,
    };
    repo.download_file(&request, on_event)
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}
