//! What can go wrong between a task file and a result.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::scorer::ScorerError;

/// The result of this crate's operations.
///
/// ```
/// use pdtrim_eval::{Result, Task};
///
/// fn versions(names: &[&str]) -> Result<Vec<u32>> {
///     names.iter().map(|name| Ok(Task::bundled(name)?.version())).collect()
/// }
///
/// assert_eq!(versions(&["everyday", "passages"])?.len(), 2);
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A record of a data file: where the user has to look.
///
/// ```
/// use pdtrim_eval::Place;
///
/// assert_eq!(Place::new("items.jsonl", 3).to_string(), "items.jsonl, line 3");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The data file.
    pub path: PathBuf,
    /// The line, counted from 1, on which the record begins.
    pub line: usize,
}

impl Place {
    /// Line `line` of `path`.
    pub fn new(path: impl AsRef<Path>, line: usize) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            line,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.path.display(), self.line)
    }
}

/// A failure of this crate. Every message names the file or task, the field, and what was expected.
///
/// ```
/// use pdtrim_eval::{Error, Task};
///
/// let error = Task::bundled("everydya").unwrap_err();
/// assert!(matches!(error, Error::UnknownTask { .. }));
/// assert!(error.to_string().starts_with("unknown task `everydya`"));
/// // The message goes on with the nearest names.
/// assert!(error.to_string().contains("everyday"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A task file is not the TOML that [`crate::task`] describes.
    #[error("task file {file} is not a valid task")]
    TaskSyntax {
        /// The task file.
        file: String,
        /// What the parser says; it names line, column and key.
        source: Box<toml::de::Error>,
    },
    /// A key of a task file has a value that makes no sense.
    #[error("task `{task}`, key `{field}`: expected {expected}, found {found}")]
    TaskField {
        /// The task.
        task: String,
        /// The key, with its table.
        field: &'static str,
        /// What may stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A template or expression of a task does not parse.
    #[error("task `{task}`, key `{field}`: the template does not parse")]
    TemplateSyntax {
        /// The task.
        task: String,
        /// The key that holds the template.
        field: &'static str,
        /// What the template engine says.
        source: Box<minijinja::Error>,
    },
    /// A template or expression of a task nests too deep, or could make a record's texts too large.
    #[error("task `{task}`, key `{field}`: the template is refused")]
    TemplateRefused {
        /// The task.
        task: String,
        /// The key that holds the template.
        field: &'static str,
        /// Where, and why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No bundled task has this name.
    #[error("unknown task `{name}`; {hint}")]
    UnknownTask {
        /// The name asked for.
        name: String,
        /// The names most like it, or all there are.
        hint: String,
    },
    /// One task was asked for, and the name is a group's.
    #[error("expected one task, `{name}` is a group of {tasks}")]
    IsGroup {
        /// The name asked for.
        name: String,
        /// The group's size.
        tasks: usize,
    },
    /// No metric has this name.
    #[error("unknown metric `{name}`; {hint}")]
    UnknownMetric {
        /// The name asked for.
        name: String,
        /// The names most like it, or all there are.
        hint: String,
    },
    /// No mode has this name.
    #[error("unknown mode `{found}`, expected dense, unified, pd or pd+kv")]
    UnknownMode {
        /// The name asked for.
        found: String,
    },
    /// A task's data is neither bundled nor in the data folder.
    #[error(
        "task `{task}` needs data that is not there; looked for {looked_for}; name the folder \
            that has it with --data DIR"
    )]
    DataNotFound {
        /// The task.
        task: String,
        /// The paths tried.
        looked_for: String,
    },
    /// The records of a data file would take more memory than its size and a fixed sum.
    #[error("{path}: expected records of at most {limit} bytes in memory, found more")]
    DataSize {
        /// The data file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A Parquet file says that something in it is larger than can be.
    #[error("{path}, {what}: expected {expected}, found {found}")]
    ParquetSize {
        /// The data file.
        path: PathBuf,
        /// The part of the file.
        what: &'static str,
        /// What it may be.
        expected: String,
        /// What it says.
        found: String,
    },
    /// A data file is not UTF-8.
    #[error("{place}: expected UTF-8 text, found the byte {byte:#04x}")]
    NotUtf8 {
        /// Where the first wrong byte is.
        place: Place,
        /// The first wrong byte.
        byte: u8,
    },
    /// A data file holds no record.
    #[error("{path}: expected at least one record, found none")]
    EmptyData {
        /// The file.
        path: PathBuf,
    },
    /// A line of a JSON-lines file is not JSON.
    #[error("{place}: expected a JSON object, found an error at column {column}: {reason}")]
    Json {
        /// The line.
        place: Place,
        /// The column, counted from 1.
        column: usize,
        /// What the parser says.
        reason: String,
    },
    /// A line of a JSON-lines file is JSON, but not an object.
    #[error("{place}: expected a JSON object, found {found}")]
    NotAnObject {
        /// The line.
        place: Place,
        /// What it is.
        found: &'static str,
    },
    /// A CSV file is malformed.
    #[error("{path}: not a valid CSV file")]
    Csv {
        /// The file.
        path: PathBuf,
        /// What the parser says; it names the line.
        source: csv::Error,
    },
    /// A row of a CSV file has another number of fields than the task's `columns`.
    #[error("{place}: expected {expected} fields, found {found}")]
    CsvFields {
        /// The row.
        place: Place,
        /// The number of columns.
        expected: usize,
        /// The number of fields.
        found: usize,
    },
    /// A file is not Apache Parquet, or broken.
    #[error("{path} is not a valid Parquet file")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        source: Box<parquet::errors::ParquetError>,
    },
    /// A dataset could not be fetched.
    #[error(
        "task `{task}`: no data at {looked_for} (name the folder that has it with --data DIR), and \
            {file} cannot be fetched from the hub"
    )]
    Hub {
        /// The task.
        task: String,
        /// The files that were looked for before.
        looked_for: String,
        /// Repository and file.
        file: String,
        /// What the client says.
        source: ScorerError,
    },
    /// The labels file is not aligned with the data file.
    #[error("{path}: expected {expected} labels, one per record of {data}, found {found}")]
    LabelCount {
        /// The labels file.
        path: PathBuf,
        /// The data file.
        data: PathBuf,
        /// The number of records.
        expected: usize,
        /// The number of labels.
        found: usize,
    },
    /// A record lacks a field that the task's template uses.
    #[error("{place}: the field `{field}`, which `{key}` of task `{task}` needs, is missing")]
    MissingField {
        /// The record.
        place: Place,
        /// The task.
        task: String,
        /// The key that holds the template.
        key: &'static str,
        /// The field that the record lacks; several when any of them may be the cause.
        field: String,
    },
    /// A template fails on a record.
    #[error("{place}: `{key}` of task `{task}` fails on this record")]
    Template {
        /// The record.
        place: Place,
        /// The task.
        task: String,
        /// The key that holds the template.
        key: &'static str,
        /// What the template engine says.
        source: Box<minijinja::Error>,
    },
    /// An expression yields something of the wrong type.
    #[error("{place}: `{key}` of task `{task}` should give {expected}, found {found}")]
    ExpressionType {
        /// The record.
        place: Place,
        /// The task.
        task: String,
        /// The key that holds the expression.
        key: &'static str,
        /// The type that is needed.
        expected: &'static str,
        /// What came out.
        found: String,
    },
    /// The gold answer is not one of the choices.
    #[error("{place}: expected a gold answer in 0..{choices}, found {found}")]
    GoldOutOfRange {
        /// The record.
        place: Place,
        /// The number of choices.
        choices: usize,
        /// The index found.
        found: i64,
    },
    /// A choice is an empty string.
    #[error("{place}: choice {choice} is empty")]
    EmptyChoice {
        /// The record.
        place: Place,
        /// The index of the choice.
        choice: usize,
    },
    /// A choice adds no token to its context.
    #[error("{place}: choice {choice} adds no token to its context")]
    EmptyContinuation {
        /// The record.
        place: Place,
        /// The index of the choice.
        choice: usize,
    },
    /// The context is empty and the model has no token to stand for it.
    #[error("{place}: the context is empty and the tokenizer has neither a BOS nor an EOS token")]
    NoPrefixToken {
        /// The record.
        place: Place,
    },
    /// A continuation alone is longer than the model's context; only contexts are ever cut.
    #[error(
        "{place}: continuation of {continuation} tokens, but the model takes {max} with its context"
    )]
    TooLong {
        /// The record.
        place: Place,
        /// Tokens of the continuation.
        continuation: usize,
        /// The model's context length.
        max: usize,
    },
    /// There are fewer records than worked examples are wanted.
    #[error(
        "{path}: expected {expected} records for the worked examples of task `{task}`, found {found}"
    )]
    TooFewExamples {
        /// The file that the examples come from.
        path: PathBuf,
        /// The task.
        task: String,
        /// The number needed; one more than asked for where an item may be among them.
        expected: usize,
        /// The number of records.
        found: usize,
    },
    /// A perplexity window is longer than the model's context.
    #[error("task `{task}` has windows of {window} tokens, but the model takes {max}")]
    WindowTooLong {
        /// The task.
        task: String,
        /// Tokens of a window.
        window: usize,
        /// The model's context length.
        max: usize,
    },
    /// A text is too short for one window.
    #[error("{path}: expected at least one window of {window} tokens, found {found} tokens")]
    TextTooShort {
        /// The text.
        path: PathBuf,
        /// Tokens of a window.
        window: usize,
        /// Tokens of the text.
        found: usize,
    },
    /// A setting of the needle test makes no sense.
    #[error("needle test, `{setting}`: expected {expected}, found {found}")]
    NeedleSetting {
        /// The setting.
        setting: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The scorer failed.
    #[error("task `{task}`: scoring failed")]
    Scorer {
        /// The task.
        task: String,
        /// What the scorer says.
        source: ScorerError,
    },
    /// The scorer returned another number of results than it was asked for.
    #[error("task `{task}`: expected {expected} {what} from the scorer, found {found}")]
    ScoreCount {
        /// The task.
        task: String,
        /// What was counted.
        what: &'static str,
        /// The number asked for.
        expected: usize,
        /// The number returned.
        found: usize,
    },
    /// A log-probability is not a number.
    #[error("task `{task}`, item {item}: expected a log-probability, found NaN")]
    NotANumber {
        /// The task.
        task: String,
        /// The item, counted from 0.
        item: usize,
    },
    /// A file cannot be read, or the journal of a killed evaluation cannot be written.
    #[error(transparent)]
    Core(Box<pdtrim_core::Error>),
    /// The results could not be written.
    #[error("cannot write the results")]
    Write(#[source] io::Error),
}

impl From<pdtrim_core::Error> for Error {
    fn from(error: pdtrim_core::Error) -> Self {
        Self::Core(Box::new(error))
    }
}
