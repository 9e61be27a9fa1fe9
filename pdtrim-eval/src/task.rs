//! Tasks as data: the TOML format of `datasets/tasks/*.toml`.
//!
//! ```toml
//! name = "piqa"                 # how the user asks for it
//! version = 1                   # a changed task gets a new version
//! description = "…"
//!
//! [data]
//! files = ["piqa/valid.jsonl"]  # looked for under --data DIR, in this order
//! format = "jsonl"              # jsonl, csv or text
//! labels = "valid-labels.lst"   # optional: beside the data file, one label a line; the field `label`
//! # bundled = "data/x.jsonl"    # our own sets, part of the binary
//! # columns = ["question", …]   # csv without a header row
//!
//! [multiple_choice]             # one of [multiple_choice] and [perplexity]: the kind of the task
//! context = "Question: {{goal}}\nAnswer:"      # template
//! choices = "[sol1, sol2]"                     # expression: a list of strings
//! gold = "label | int"                         # expression: the index of the right choice
//! # delimiter = " "                            # between context and choice
//! # metrics = ["acc", "acc_norm"]
//! ```
//!
//! Partial scoring (`WinoGrande`): the contexts differ and the continuation is the same. Then
//! `contexts` is an expression and `continuation` a template, and only `acc` is measured, since there
//! are no answers whose length could be divided by.
//!
//! ```toml
//! [perplexity]
//! window = 128                  # tokens; the text is encoded whole and cut into windows
//! prompt_share = 0.75           # this much of a window is prompt, only the rest is scored; or
//! # prompt_tokens = 1           # all tokens but the first are scored
//! # max_windows = 64
//! ```
//!
//! Templates and expressions are minijinja, strict about undefined names. Besides its own filters
//! there are `hellaswag_text`, lm-evaluation-harness' clean-up of `HellaSwag`, and
//! `index_of(list, item)`, the index of an item or an error. Unknown keys are errors.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bundled;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::metric::MetricName;
use crate::source::sha256;
use crate::template;

/// A checked task: its templates parse, and its windows can be scored.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    name: String,
    version: u32,
    description: String,
    sha256: String,
    source: Source,
    kind: TaskKind,
}

/// Where a task's data lies, and in which format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// Candidates, relative to the data folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) files: Vec<String>,
    /// The key of a bundled file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bundled: Option<String>,
    pub(crate) format: Format,
    /// A file beside the data file with one label a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<String>,
    /// The names of a CSV file's columns where it has no header row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) columns: Option<Vec<String>>,
}

/// What is computed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TaskKind {
    MultipleChoice(MultipleChoice),
    Perplexity(Perplexity),
}

/// Log-likelihoods of choices.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MultipleChoice {
    pub(crate) prompt: Prompt,
    /// Expression: the index of the right choice.
    pub(crate) gold: String,
    pub(crate) delimiter: String,
    pub(crate) metrics: Vec<MetricName>,
}

/// What differs between the choices of an item.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Prompt {
    /// One context (a template), several continuations (an expression).
    Shared { context: String, choices: String },
    /// Several contexts (an expression), one continuation (a template).
    Partial {
        contexts: String,
        continuation: String,
    },
}

/// Log-likelihood of a text in windows of `window` tokens, of which the first `prompt` are not
/// scored; 1 ≤ prompt < window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Perplexity {
    pub(crate) window: usize,
    pub(crate) prompt: usize,
    pub(crate) max_windows: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTask {
    name: String,
    version: u32,
    description: String,
    data: Source,
    multiple_choice: Option<RawMultipleChoice>,
    perplexity: Option<RawPerplexity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMultipleChoice {
    context: Option<String>,
    choices: Option<String>,
    contexts: Option<String>,
    continuation: Option<String>,
    gold: String,
    delimiter: Option<String>,
    metrics: Option<Vec<MetricName>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPerplexity {
    window: usize,
    prompt_share: Option<f64>,
    prompt_tokens: Option<usize>,
    max_windows: Option<usize>,
}

impl Task {
    /// The bundled task called `name`.
    ///
    /// # Errors
    ///
    /// When there is none; the message lists those there are.
    pub fn bundled(name: &str) -> Result<Self> {
        let text = bundled::task(name).ok_or_else(|| Error::UnknownTask {
            name: name.to_owned(),
            known: bundled::task_names().join(", "),
        })?;
        Self::parse(text, &format!("{name}.toml"))
    }

    /// The task in the file at `path`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or as [`Task::parse`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The task that `text` describes; `file` names it in errors.
    ///
    /// # Errors
    ///
    /// When the text is not the TOML described in [`crate::task`], or its values make no sense.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let raw: RawTask = toml::from_str(text).map_err(|source| Error::TaskSyntax {
            file: file.to_owned(),
            source: Box::new(source),
        })?;
        let name = raw.name;
        let check = Check { task: &name };
        if name.is_empty()
            || !name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        {
            return Err(check.error("name", "letters, digits, `_` and `-`", &name));
        }
        if raw.version == 0 {
            return Err(check.error("version", "a number from 1", 0));
        }
        let kind = match (raw.multiple_choice, raw.perplexity) {
            (Some(raw), None) => TaskKind::MultipleChoice(check.multiple_choice(raw)?),
            (None, Some(raw)) => TaskKind::Perplexity(check.perplexity(&raw)?),
            (one, _) => {
                let found = if one.is_some() { "both" } else { "neither" };
                return Err(check.error(
                    "multiple_choice",
                    "either this table or `perplexity`",
                    found,
                ));
            }
        };
        check.source(&raw.data, &kind)?;
        let sha256 = sha256(text.as_bytes());
        Ok(Self {
            version: raw.version,
            description: raw.description,
            sha256,
            source: raw.data,
            kind,
            name,
        })
    }

    /// How the user asks for it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Grows with every change of what is scored.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What the task measures, in a sentence.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The hash of the task file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Whether the data is part of the binary, so that no data folder is needed.
    pub fn is_bundled(&self) -> bool {
        self.source.bundled.is_some()
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    pub(crate) fn kind(&self) -> &TaskKind {
        &self.kind
    }

    /// The task in lm-evaluation-harness' words, for the results file's `configs`.
    pub(crate) fn config(&self) -> Value {
        let mut config = json!({
            "task": self.name,
            "description": self.description,
            "dataset_path": self.source.format,
            "dataset_kwargs": self.source,
            "num_fewshot": 0,
            "metadata": { "version": self.version, "sha256": self.sha256 },
        });
        let kind = match &self.kind {
            TaskKind::MultipleChoice(choice) => choice.config(),
            TaskKind::Perplexity(windows) => json!({
                "output_type": "loglikelihood_rolling",
                "window_tokens": windows.window,
                "prompt_tokens": windows.prompt,
                "max_windows": windows.max_windows,
            }),
        };
        if let (Value::Object(config), Value::Object(kind)) = (&mut config, kind) {
            config.extend(kind);
        }
        config
    }
}

impl MultipleChoice {
    fn config(&self) -> Value {
        let (text, target, choices) = match &self.prompt {
            Prompt::Shared { context, choices } => (context, &self.gold, choices),
            // lm-evaluation-harness swaps the roles for partial scoring.
            Prompt::Partial {
                contexts,
                continuation,
            } => (&self.gold, continuation, contexts),
        };
        json!({
            "output_type": "multiple_choice",
            "doc_to_text": text,
            "doc_to_target": target,
            "doc_to_choice": choices,
            "target_delimiter": self.delimiter,
        })
    }
}

/// Turns the raw tables of one task into checked ones.
struct Check<'t> {
    task: &'t str,
}

impl Check<'_> {
    fn error(
        &self,
        field: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Error {
        Error::TaskField {
            task: self.task.to_owned(),
            field,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    fn multiple_choice(&self, raw: RawMultipleChoice) -> Result<MultipleChoice> {
        let prompt = match (raw.context, raw.choices, raw.contexts, raw.continuation) {
            (Some(context), Some(choices), None, None) => {
                template::check_template(self.task, "context", &context)?;
                template::check_expression(self.task, "choices", &choices)?;
                Prompt::Shared { context, choices }
            }
            (None, None, Some(contexts), Some(continuation)) => {
                template::check_expression(self.task, "contexts", &contexts)?;
                template::check_template(self.task, "continuation", &continuation)?;
                Prompt::Partial {
                    contexts,
                    continuation,
                }
            }
            (context, choices, contexts, continuation) => {
                let keys = [
                    ("context", context),
                    ("choices", choices),
                    ("contexts", contexts),
                    ("continuation", continuation),
                ];
                let found: Vec<_> = keys
                    .iter()
                    .filter(|(_, value)| value.is_some())
                    .map(|(key, _)| *key)
                    .collect();
                let found = if found.is_empty() {
                    "none of them".to_owned()
                } else {
                    found.join(", ")
                };
                return Err(self.error(
                    "multiple_choice",
                    "`context` and `choices`, or `contexts` and `continuation`",
                    found,
                ));
            }
        };
        template::check_expression(self.task, "gold", &raw.gold)?;
        let metrics = self.metrics(raw.metrics, &prompt)?;
        let delimiter = raw.delimiter.unwrap_or_else(|| " ".to_owned());
        Ok(MultipleChoice {
            prompt,
            gold: raw.gold,
            delimiter,
            metrics,
        })
    }

    fn metrics(&self, given: Option<Vec<MetricName>>, prompt: &Prompt) -> Result<Vec<MetricName>> {
        let possible: &[MetricName] = match prompt {
            Prompt::Shared { .. } => &[MetricName::Acc, MetricName::AccNorm],
            Prompt::Partial { .. } => &[MetricName::Acc],
        };
        let metrics = given.unwrap_or_else(|| possible.to_vec());
        let names = |list: &[MetricName]| {
            list.iter()
                .map(MetricName::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let distinct = metrics
            .iter()
            .enumerate()
            .all(|(index, name)| !metrics[..index].contains(name));
        if metrics.is_empty() || !distinct || !metrics.iter().all(|name| possible.contains(name)) {
            let expected = format!("each at most once of: {}", names(possible));
            return Err(self.error(
                "multiple_choice.metrics",
                expected,
                format!("[{}]", names(&metrics)),
            ));
        }
        Ok(metrics)
    }

    fn perplexity(&self, raw: &RawPerplexity) -> Result<Perplexity> {
        let prompt = match (raw.prompt_share, raw.prompt_tokens) {
            (Some(share), None) if share > 0.0 && share < 1.0 => {
                (raw.window as f64 * share).round() as usize
            }
            (Some(share), None) => {
                return Err(self.error(
                    "perplexity.prompt_share",
                    "a number between 0 and 1",
                    share,
                ));
            }
            (None, Some(tokens)) => tokens,
            (one, _) => {
                let found = if one.is_some() { "both" } else { "neither" };
                return Err(self.error(
                    "perplexity.prompt_share",
                    "either this key or `prompt_tokens`",
                    found,
                ));
            }
        };
        if prompt == 0 || prompt >= raw.window {
            let found = format!("a window of {} with a prompt of {prompt}", raw.window);
            return Err(self.error(
                "perplexity.window",
                "at least one prompt token and one scored token",
                found,
            ));
        }
        if raw.max_windows == Some(0) {
            return Err(self.error("perplexity.max_windows", "a number from 1", 0));
        }
        Ok(Perplexity {
            window: raw.window,
            prompt,
            max_windows: raw.max_windows,
        })
    }

    fn source(&self, source: &Source, kind: &TaskKind) -> Result<()> {
        if source.files.is_empty() && source.bundled.is_none() {
            return Err(self.error("data.files", "at least one path, or `bundled`", "neither"));
        }
        let (fits, expected) = match kind {
            TaskKind::MultipleChoice(_) => (source.format != Format::Text, "jsonl or csv"),
            TaskKind::Perplexity(_) => (source.format == Format::Text, "text"),
        };
        if !fits {
            return Err(self.error("data.format", expected, source.format));
        }
        if source.labels.is_some() && (source.format == Format::Text || source.files.is_empty()) {
            return Err(self.error(
                "data.labels",
                "labels only beside `files` with records",
                "labels",
            ));
        }
        if source.columns.is_some() && source.format != Format::Csv {
            return Err(self.error(
                "data.columns",
                "columns only with the format csv",
                source.format,
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
