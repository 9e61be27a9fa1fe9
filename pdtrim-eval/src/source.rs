//! Finding and reading a task's data.

use std::path::{Path, PathBuf};

use minijinja::value::{Serde, Value as Fields};
use pdtrim_core::hash::sha256;
use pdtrim_core::limits;
use serde_json::{Map, Value};

use crate::bundled;
use crate::error::{Error, Place, Result};
use crate::format::{self, Content, Doc};
use crate::result::DataFile;
use crate::scorer::ScorerError;
use crate::task::{Source, Task, Where};
use crate::template::{self, Compiled};

/// Fetches a file of a dataset on the hub: repository, revision, file.
///
/// ```
/// use std::path::PathBuf;
///
/// use pdtrim_eval::{Fetch, Folders, HubFile};
///
/// // A mirror of the hub on a disk.
/// let mirror = |file: &HubFile| Ok(PathBuf::from("mirror").join(&file.repo).join(&file.file));
/// let fetch: &Fetch<'_> = &mirror;
/// let folders = Folders { fetch: Some(fetch), ..Folders::default() };
/// assert!(folders.data_dir.is_none());
/// ```
pub type Fetch<'a> = dyn Fn(&HubFile) -> Result<PathBuf, ScorerError> + 'a;

/// A file of a dataset on the hub.
///
/// ```
/// use pdtrim_eval::HubFile;
///
/// let file = HubFile {
///     repo: "org/name".to_owned(),
///     revision: "refs/convert/parquet".to_owned(),
///     file: "default/test/0000.parquet".to_owned(),
/// };
/// assert!(file.repo.contains('/'));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// `org/name`.
    pub repo: String,
    /// The branch.
    pub revision: String,
    /// The file's path in the repository.
    pub file: String,
}

/// Where data is looked for.
///
/// ```
/// use std::path::Path;
///
/// use pdtrim_eval::{Dataset, Error, Folders, Task};
///
/// // PIQA is not part of the binary: without its file, and without the hub, it cannot be loaded.
/// let folders = Folders::of(Some(Path::new("no-such-folder")));
/// let error = Dataset::load(&Task::bundled("piqa")?, &folders).unwrap_err();
/// assert!(matches!(error, Error::DataNotFound { .. }));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Default)]
pub struct Folders<'a> {
    /// The user's folder of published files.
    pub data_dir: Option<&'a Path>,
    /// What fetches from the hub what the folder does not have; none without network.
    pub fetch: Option<&'a Fetch<'a>>,
}

impl<'a> Folders<'a> {
    /// A folder, and no hub.
    pub fn of(data_dir: Option<&'a Path>) -> Self {
        Self {
            data_dir,
            fetch: None,
        }
    }
}

/// The data of one task: at least one record, or a text that is not empty.
///
/// ```
/// use pdtrim_eval::{Dataset, Folders, Task};
///
/// let load = |task| Dataset::load(&Task::bundled(task)?, &Folders::default());
/// assert_eq!(load("everyday")?.records(), Some(55));
/// // One text, cut into windows.
/// assert_eq!(load("heldout")?.records(), None);
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    pub(crate) path: PathBuf,
    pub(crate) content: Content,
    pub(crate) examples: Examples,
    pub(crate) files: Vec<DataFile>,
}

/// Records that worked examples are made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Examples {
    /// None are wanted.
    #[default]
    None,
    /// The task's own records, but not the item at hand.
    Own,
    /// Records of another file.
    Other { path: PathBuf, docs: Vec<Doc> },
}

/// A file that was read.
struct Loaded {
    path: PathBuf,
    content: Content,
    files: Vec<DataFile>,
}

impl Dataset {
    /// Reads the data of `task`, from the first of its places that has it: the data folder, the hub, or
    /// the binary.
    ///
    /// # Errors
    ///
    /// When none has it, naming the paths that were looked for, when the hub does not answer, and when
    /// the file is not what the task says.
    pub fn load(task: &Task, folders: &Folders<'_>) -> Result<Self> {
        let loaded = load(task.name(), task.sources(), folders)?;
        let mut files = loaded.files;
        let wanted = task.examples();
        let examples = match (wanted.count, &wanted.sources[..]) {
            (0, _) => Examples::None,
            (_, []) => Examples::Own,
            (_, sources) => {
                let loaded = load(task.name(), sources, folders)?;
                files.extend(loaded.files);
                Examples::Other {
                    path: loaded.path,
                    docs: loaded.content.into_records(),
                }
            }
        };
        Ok(Self {
            path: loaded.path,
            content: loaded.content,
            examples,
            files,
        })
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
}

fn load(task: &str, sources: &[Source], folders: &Folders<'_>) -> Result<Loaded> {
    for (index, source) in sources.iter().enumerate() {
        match find(task, source, folders) {
            Ok(Some(loaded)) => return Ok(loaded),
            Ok(None) => {}
            Err(Error::Hub {
                task, file, source, ..
            }) => {
                return Err(Error::Hub {
                    task,
                    looked_for: places(&sources[..index], folders),
                    file,
                    source,
                });
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::DataNotFound {
        task: task.to_owned(),
        looked_for: places(sources, folders),
    })
}

/// Where the sources' data may be, as a list.
fn places(sources: &[Source], folders: &Folders<'_>) -> String {
    let places = sources
        .iter()
        .flat_map(|source| looked_for(source, folders));
    places.collect::<Vec<_>>().join(", ")
}

/// The source's data, if it is where the source says.
fn find(task: &str, source: &Source, folders: &Folders<'_>) -> Result<Option<Loaded>> {
    match &source.place {
        Where::Files(files) => {
            let dir = folders.data_dir.unwrap_or(Path::new(""));
            let file = files
                .iter()
                .find(|file| folders.data_dir.is_some() && dir.join(file).is_file());
            file.map(|file| from_folder(task, source, dir, file))
                .transpose()
        }
        Where::Hub(hub) => {
            let Some(fetch) = folders.fetch else {
                return Ok(None);
            };
            let file = HubFile {
                repo: hub.repo.clone(),
                revision: crate::task::HubData::REVISION.to_owned(),
                file: hub.file(),
            };
            let name = format!("{}/{}", file.repo, file.file);
            let path = fetch(&file).map_err(|source| Error::Hub {
                task: task.to_owned(),
                looked_for: String::new(),
                file: name.clone(),
                source,
            })?;
            let bytes = read(&path)?;
            read_as(task, source, path, name, bytes).map(Some)
        }
        Where::Bundled(key) => {
            let text = bundled::data(key);
            text.map(|text| read_as(task, source, key.into(), key.clone(), text.into()))
                .transpose()
        }
    }
}

fn from_folder(task: &str, source: &Source, dir: &Path, file: &str) -> Result<Loaded> {
    let path = dir.join(file);
    let bytes = read(&path)?;
    if let Some(labels) = &source.form.labels {
        let labels = Path::new(file).with_file_name(labels);
        let mut loaded = read_plain(source, path, file.to_owned(), bytes)?;
        add_labels(&mut loaded, &labels, dir)?;
        return finished(task, source, loaded);
    }
    read_as(task, source, path, file.to_owned(), bytes)
}

fn read_as(
    task: &str,
    source: &Source,
    path: PathBuf,
    name: String,
    bytes: Vec<u8>,
) -> Result<Loaded> {
    finished(task, source, read_plain(source, path, name, bytes)?)
}

fn read_plain(source: &Source, path: PathBuf, name: String, bytes: Vec<u8>) -> Result<Loaded> {
    let form = &source.form;
    let sha256 = sha256(&bytes);
    let content = format::read(&path, bytes, form.columns.as_deref(), form.pages)?;
    let empty = match &content {
        Content::Records(docs) => docs.is_empty(),
        Content::Text(text) => text.trim().is_empty(),
    };
    if empty {
        return Err(Error::EmptyData { path });
    }
    Ok(Loaded {
        path,
        content,
        files: vec![DataFile { path: name, sha256 }],
    })
}

/// Adds the lines of the labels file `file` of `dir` to the records, as their field `label`.
fn add_labels(loaded: &mut Loaded, file: &Path, dir: &Path) -> Result<()> {
    let path = dir.join(file);
    let bytes = read(&path)?;
    let labels: Vec<&str> = format::utf8(&path, &bytes)?
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let docs: &mut [Doc] = match &mut loaded.content {
        Content::Records(docs) => docs,
        Content::Text(_) => &mut [],
    };
    if labels.len() != docs.len() {
        let (expected, found) = (docs.len(), labels.len());
        return Err(Error::LabelCount {
            path,
            data: loaded.path.clone(),
            expected,
            found,
        });
    }
    for (doc, label) in docs.iter_mut().zip(labels) {
        doc.fields.insert("label".to_owned(), Value::from(label));
    }
    loaded.files.push(DataFile {
        path: file.to_string_lossy().replace('\\', "/"),
        sha256: sha256(&bytes),
    });
    Ok(())
}

/// Adds the source's fields to the records, then joins those that belong together.
fn finished(task: &str, source: &Source, mut loaded: Loaded) -> Result<Loaded> {
    let Content::Records(docs) = &mut loaded.content else {
        return Ok(loaded);
    };
    let environment = template::environment();
    for (field, expression) in &source.form.fields {
        let code = Compiled::expression(&environment, task, "data.fields", expression)?;
        for doc in docs.iter_mut() {
            let place = Place::new(&loaded.path, doc.line);
            let value = code.json(&Fields::from(Serde(&doc.fields)), &place)?;
            doc.fields.insert(field.clone(), value);
        }
    }
    if let Some(key) = &source.form.group_by {
        *docs = grouped(key, std::mem::take(docs), &loaded.path, task)?;
    }
    Ok(loaded)
}

/// Neighbours with the same `key` as one record: that field, and all of them in `rows`.
fn grouped(key: &str, docs: Vec<Doc>, path: &Path, task: &str) -> Result<Vec<Doc>> {
    let mut groups: Vec<(Value, Doc)> = Vec::new();
    for doc in docs {
        let value = doc.fields.get(key).ok_or_else(|| Error::MissingField {
            place: Place::new(path, doc.line),
            task: task.to_owned(),
            key: "data.group_by",
            field: key.to_owned(),
        })?;
        match groups.last_mut() {
            Some((of, group)) if of == value => {
                if let Some(Value::Array(rows)) = group.fields.get_mut("rows") {
                    rows.push(Value::Object(doc.fields));
                }
            }
            _ => {
                let fields = Map::from_iter([
                    (key.to_owned(), value.clone()),
                    (
                        "rows".to_owned(),
                        Value::Array(vec![Value::Object(doc.fields.clone())]),
                    ),
                ]);
                let line = doc.line;
                groups.push((value.clone(), Doc { line, fields }));
            }
        }
    }
    Ok(groups.into_iter().map(|(_, doc)| doc).collect())
}

fn looked_for(source: &Source, folders: &Folders<'_>) -> Vec<String> {
    let dir = folders.data_dir.unwrap_or(Path::new(""));
    match &source.place {
        Where::Files(files) => files
            .iter()
            .map(|file| dir.join(file).display().to_string())
            .collect(),
        Where::Hub(hub) => vec![format!("{} on the hub", hub.repo)],
        Where::Bundled(key) => vec![format!("bundled {key}")],
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    Ok(pdtrim_core::read_bytes(path, limits::DATA)?)
}
