//! The connection to one repository on the hub.
//!
//! `hf-hub` is used file by file. Its `snapshot_download` would fetch several at once, but writes files of the xet
//! protocol in place: killed half-way, it leaves a file that looks complete. Sizes are compared with the hub's listing
//! afterwards, because the client does not look at the HTTP status of a plain download.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use hf_hub::progress::{DownloadEvent, Progress, ProgressEvent, ProgressHandler};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFError, HFRepositorySync, RepoType};

use super::{HubId, HubSettings, is_gguf, is_plain_path};
use crate::checkpoint::source::{PullEvent, SourceError};

/// Files that belong to a checkpoint beside its weights; the first one is needed, the others are fetched if they exist.
/// The card and the licence say what may be done with an export of the model.
pub(super) const SMALL_FILES: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
];

pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// A firewall that swallows packets must not hold up the next source for minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_mins(1);
const RETRIES: usize = 2;

/// The files of a repository, with their sizes in bytes.
pub(super) type Files = BTreeMap<String, u64>;

/// One model or dataset on the hub, and the connection to it.
pub(super) struct HubRepo<'a, T: RepoType> {
    id: &'a HubId,
    repo: HFRepositorySync<T>,
    cache_dir: PathBuf,
}

/// One file to download.
pub(super) struct Request<'a> {
    pub(super) file: &'a str,
    pub(super) revision: &'a str,
    /// The folder, or the hub's cache.
    pub(super) into: Option<&'a Path>,
    /// Bytes of earlier files.
    pub(super) done: u64,
    /// Bytes of all files.
    pub(super) total_bytes: u64,
}

impl<'a, T: RepoType> HubRepo<'a, T> {
    pub(super) fn new(id: &'a HubId, settings: &HubSettings) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Hub {
            repo: id.repo.clone(),
            file: "a connection".into(),
            source: Box::new(source),
        };
        let http = reqwest::Client::builder()
            .user_agent(concat!("pdtrim/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()
            .map_err(|error| failed(error.into()))?;
        let mut builder = HFClient::builder().client(http).retry_max_attempts(RETRIES);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(token) = &settings.token {
            builder = builder.token(token);
        }
        if let Some(dir) = &settings.cache_dir {
            builder = builder.cache_dir(dir);
        }
        let inner = builder.build().map_err(failed)?;
        let cache_dir = inner.cache_dir().to_owned();
        let (org, name) = hf_hub::split_id(&id.repo);
        let client = hf_hub::HFClientSync::from_inner(inner).map_err(failed)?;
        Ok(Self {
            id,
            repo: client.repository(T::default(), org, name),
            cache_dir,
        })
    }

    pub(super) fn list(&self) -> Result<Files, HFError> {
        let entries = self
            .repo
            .list_tree()
            .revision(self.id.revision())
            .recursive(true)
            .send()?;
        let file = |entry| match entry {
            RepoTreeEntry::File { path, size, .. } => Some((path, size)),
            RepoTreeEntry::Directory { .. } => None,
        };
        Ok(entries.into_iter().filter_map(file).collect())
    }

    /// Fetches one file, and says whether it was not here before.
    pub(super) fn download_alone(
        &self,
        file: &str,
        files: &Files,
        on_event: &mut dyn FnMut(PullEvent),
    ) -> Result<(PathBuf, bool), SourceError> {
        let was_here = self.cached_file(file).ok();
        let bytes = files.get(file).copied().unwrap_or(0);
        if was_here.is_none() && bytes > 0 {
            on_event(PullEvent::Size {
                origin: self.id.origin(),
                bytes,
            });
        }
        let path = self.download_checked(file, self.id.revision(), files, (0, bytes), on_event)?;
        let is_new = was_here.as_ref() != Some(&path);
        Ok((path, is_new))
    }

    /// Fetches what a checkpoint needs of `files`, and says whether any weights or tokenizer were not here before.
    pub(super) fn download_checkpoint(
        &self,
        files: &Files,
        on_event: &mut dyn FnMut(PullEvent),
    ) -> Result<(PathBuf, bool), SourceError> {
        let mut wanted = self.needed(files)?;
        let size = |file: &str| files.get(file).copied().unwrap_or(0);
        let config = self.download_checked(
            &wanted[0],
            self.id.revision(),
            files,
            (0, size(&wanted[0])),
            on_event,
        )?;
        // Everything else from the same commit, whatever is pushed meanwhile.
        let folder = config.parent().unwrap_or(&config).to_owned();
        let commit = folder
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or(self.id.revision());
        if wanted.iter().any(|file| file == INDEX) {
            let index = self.download_checked(INDEX, commit, files, (0, size(INDEX)), on_event)?;
            wanted.extend(self.shards(&index)?);
        }
        wanted.retain(|file| !folder.join(file).exists());
        let total_bytes: u64 = wanted.iter().map(|file| size(file)).sum();
        if total_bytes > 0 {
            on_event(PullEvent::Size {
                origin: self.id.origin(),
                bytes: total_bytes,
            });
        }
        let mut done = 0;
        for file in &wanted {
            self.download_checked(file, commit, files, (done, total_bytes), on_event)?;
            done += size(file);
        }
        Ok((folder, total_bytes > 0))
    }

    /// The files of a checkpoint except for the shards of its weights; `config.json` is the first.
    fn needed(&self, files: &Files) -> Result<Vec<String>, SourceError> {
        let weights = [WEIGHTS, INDEX]
            .into_iter()
            .find(|&file| files.contains_key(file));
        let Some(weights) = weights else {
            let ggufs: Vec<String> = files.keys().filter(|file| is_gguf(file)).cloned().collect();
            let repo = self.id.repo.clone();
            return Err(if ggufs.is_empty() {
                SourceError::NoWeights {
                    repo,
                    files: files.keys().cloned().collect(),
                }
            } else {
                SourceError::GgufOnly { repo, files: ggufs }
            });
        };
        if !files.contains_key(SMALL_FILES[0]) {
            return Err(self.file_not_found(SMALL_FILES[0], files));
        }
        let small = SMALL_FILES
            .into_iter()
            .filter(|&file| files.contains_key(file));
        Ok(small.chain([weights]).map(str::to_owned).collect())
    }

    /// The weight files that an index names.
    fn shards(&self, index: &Path) -> Result<Vec<String>, SourceError> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let bad = |found| SourceError::BadIndex {
            repo: self.id.repo.clone(),
            path: index.to_owned(),
            found,
        };
        let text = crate::text::read_bytes(index, crate::limits::INDEX);
        let text = text.map_err(|error| bad(error.to_string()))?;
        let parsed: Index =
            serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        let mut shards: Vec<String> = parsed.weight_map.into_values().collect();
        shards.sort();
        shards.dedup();
        match shards.iter().find(|shard| !is_plain_path(shard)) {
            Some(shard) => Err(bad(format!("the file `{shard}`"))),
            None if shards.is_empty() => Err(bad("no tensors".to_owned())),
            None => Ok(shards),
        }
    }

    /// Downloads a file of `files` into the hub's cache; one that is not as long as listed is deleted again.
    fn download_checked(
        &self,
        file: &str,
        revision: &str,
        files: &Files,
        (done, total_bytes): (u64, u64),
        on_event: &mut dyn FnMut(PullEvent),
    ) -> Result<PathBuf, SourceError> {
        let Some(&expected) = files.get(file) else {
            return Err(self.file_not_found(file, files));
        };
        let path = self.download_file(
            &Request {
                file,
                revision,
                into: None,
                done,
                total_bytes,
            },
            on_event,
        )?;
        let found = fs::metadata(&path)
            .map_err(SourceError::io("read", &path))?
            .len();
        if found == expected {
            return Ok(path);
        }
        if let Ok(blob) = fs::canonicalize(&path) {
            // Left in place it would pass for the file from now on; what cannot be deleted is reported all the same.
            let _ = fs::remove_file(blob).and_then(|()| fs::remove_file(&path));
        }
        Err(SourceError::WrongSize {
            file: format!("{}/{file}", self.id.repo),
            expected,
            found,
        })
    }

    pub(super) fn download_file(
        &self,
        request: &Request<'_>,
        on_event: &mut dyn FnMut(PullEvent),
    ) -> Result<PathBuf, SourceError> {
        loop {
            match self.download_once(request, on_event) {
                // The client waits 10 seconds for another process; large files take longer.
                Err(HFError::CacheLockTimeout { path }) => on_event(PullEvent::Waiting { path }),
                // A full disk is not the hub's fault.
                Err(HFError::Io(source)) => {
                    let folder = request.into.unwrap_or(&self.cache_dir);
                    return Err(SourceError::io("write to", folder)(source));
                }
                result => return result.map_err(|error| self.explained(error, request.file)),
            }
        }
    }

    /// Downloads on a thread of its own, because the client reports progress from its own threads.
    fn download_once(
        &self,
        request: &Request<'_>,
        on_event: &mut dyn FnMut(PullEvent),
    ) -> Result<PathBuf, HFError> {
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                self.repo
                    .download_file()
                    .filename(request.file)
                    .revision(request.revision)
                    .maybe_local_dir(request.into)
                    .progress(Progress::new(Reporter(sender)))
                    .send()
            });
            loop {
                match receiver.recv_timeout(Duration::from_millis(200)) {
                    Ok(bytes) => {
                        let bytes = request.done + bytes;
                        on_event(PullEvent::Progress {
                            bytes,
                            total_bytes: request.total_bytes,
                        });
                    }
                    Err(RecvTimeoutError::Timeout) if !worker.is_finished() => {}
                    Err(_) => break,
                }
            }
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The model in the hub's cache, if all of it is there.
    pub(super) fn cached(&self) -> Result<PathBuf, SourceError> {
        if let Some(file) = &self.id.file {
            return self.cached_file(file);
        }
        let config = self.cached_file(SMALL_FILES[0])?;
        let folder = config.parent().unwrap_or(&config);
        let is_here = |file: &str| folder.join(file).exists();
        if is_here(WEIGHTS) {
            return Ok(folder.to_owned());
        }
        if !is_here(INDEX) {
            return Err(self.not_cached(WEIGHTS));
        }
        match self
            .shards(&folder.join(INDEX))?
            .iter()
            .find(|shard| !is_here(shard))
        {
            Some(shard) => Err(self.not_cached(shard)),
            None => Ok(folder.to_owned()),
        }
    }

    pub(super) fn cached_file(&self, file: &str) -> Result<PathBuf, SourceError> {
        let request = self
            .repo
            .download_file()
            .filename(file)
            .revision(self.id.revision())
            .local_files_only(true);
        request.send().map_err(|_| self.not_cached(file))
    }

    /// What to do when the hub cannot be reached.
    pub(super) fn cached_instead(
        &self,
        source: HFError,
        on_event: &mut dyn FnMut(PullEvent),
    ) -> Result<PathBuf, SourceError> {
        match self.cached() {
            Ok(path) => {
                let reason = self.unreachable(SMALL_FILES[0], source).one_line();
                on_event(PullEvent::Failed {
                    origin: self.id.origin(),
                    reason,
                });
                on_event(PullEvent::Cached { path: path.clone() });
                Ok(path)
            }
            Err(SourceError::NotCached { file, .. }) => Err(self.unreachable(&file, source)),
            Err(error) => Err(error),
        }
    }

    pub(super) fn not_cached(&self, file: &str) -> SourceError {
        SourceError::NotCached {
            repo: self.id.repo.clone(),
            revision: self.id.revision().to_owned(),
            file: file.to_owned(),
            cache_dir: self.cache_dir.clone(),
        }
    }

    pub(super) fn unreachable(&self, file: &str, source: HFError) -> SourceError {
        SourceError::HubUnreachable {
            repo: self.id.repo.clone(),
            file: file.to_owned(),
            source: Box::new(source),
        }
    }

    pub(super) fn file_not_found(&self, file: &str, files: &Files) -> SourceError {
        SourceError::FileNotFound {
            repo: self.id.repo.clone(),
            revision: self.id.revision().to_owned(),
            file: file.to_owned(),
            files: files.keys().cloned().collect(),
        }
    }

    /// What an answer of the hub means to the user.
    pub(super) fn explained(&self, error: HFError, file: &str) -> SourceError {
        let (repo, revision) = (self.id.repo.clone(), self.id.revision().to_owned());
        let refused = |status| SourceError::AccessRefused {
            repo: repo.clone(),
            status,
        };
        match error {
            HFError::AuthRequired { .. } => refused(401),
            HFError::Forbidden { .. } => refused(403),
            HFError::Http { ref context } => {
                match (context.status.as_u16(), context.error_code.as_deref()) {
                    (status @ (401 | 403), _) => refused(status),
                    (404, Some("RevisionNotFound")) => {
                        SourceError::RevisionNotFound { repo, revision }
                    }
                    (404, Some("RepoNotFound")) => SourceError::RepoNotFound { repo },
                    _ => SourceError::Hub {
                        repo,
                        file: file.to_owned(),
                        source: Box::new(error),
                    },
                }
            }
            HFError::RepoNotFound { .. } => SourceError::RepoNotFound { repo },
            HFError::RevisionNotFound { .. } => SourceError::RevisionNotFound { repo, revision },
            HFError::EntryNotFound { .. } => SourceError::FileNotFound {
                repo,
                revision,
                file: file.to_owned(),
                files: Vec::new(),
            },
            source => SourceError::Hub {
                repo,
                file: file.to_owned(),
                source: Box::new(source),
            },
        }
    }
}

/// Sends the bytes that are here of the one file that is being downloaded.
struct Reporter(mpsc::Sender<u64>);

impl ProgressHandler for Reporter {
    fn on_progress(&self, event: &ProgressEvent) {
        let bytes = match event {
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                files.iter().map(|file| file.bytes_completed).max()
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress {
                bytes_completed, ..
            }) => Some(*bytes_completed),
            _ => None,
        };
        if let Some(bytes) = bytes {
            // Nobody listens any more once the download has ended.
            let _ = self.0.send(bytes);
        }
    }
}
