//! Tasks as data: the TOML format of `datasets/tasks/*.toml`. Adding a task is adding a file.
//!
//! ```toml
//! name = "piqa"                 # how the user asks for it
//! version = 1                   # a changed task gets a new version
//! description = "…"
//! # preamble = "…"              # stands once in front of every prompt, before worked examples
//!
//! [[data]]                      # looked for in this order; the first file that is there counts
//! files = ["piqa/valid.jsonl"]  # under --data DIR
//! labels = "valid-labels.lst"   # optional: beside the data file, one label a line; the field `label`
//! # columns = ["question", …]   # csv without a header row
//! # pages = true                # a text in WikiText's form: one record, `page`, for each article
//! # group_by = "article"        # neighbours with the same field become one record, with all of them in `rows`
//! # [data.fields]               # expressions: fields that templates use and records of this form lack
//! # question = "question.stem"
//!
//! [[data]]
//! hub = "baber/piqa"            # the hub's own Parquet conversion of a dataset
//! config = "plain_text"
//! split = "validation"
//!
//! # [[data]]
//! # bundled = "data/x.jsonl"    # our own sets, part of the binary
//!
//! # [fewshot]
//! # count = 5                   # worked examples, the first ones
//! # [[fewshot.data]]            # of these files; else of the task's own, without the item at hand
//! # files = ["mmlu/dev.csv"]
//!
//! [multiple_choice]             # one of five kinds, see below
//! context = "Question: {{goal}}\nAnswer:"      # template
//! choices = "[sol1, sol2]"                     # expression: a list of strings
//! gold = "label | int"                         # expression: the index of the right choice
//! # delimiter = " "                            # between context and choice
//! # metrics = ["acc", "acc_norm"]
//! ```
//!
//! The format of a file follows from its name: `.jsonl` and `.json` are JSON lines, `.csv`, `.parquet`,
//! and everything else is text.
//!
//! Partial scoring (`WinoGrande`): the contexts differ and the continuation is the same. Then
//! `contexts` is an expression and `continuation` a template, and only `acc` is measured, since there
//! are no answers whose length could be divided by.
//!
//! The other kinds:
//!
//! ```toml
//! [loglikelihood]               # of a given continuation: perplexity of the targets, acc of greedy decoding
//! context = "…"                 # template
//! target = "…"                  # template; nothing is put between the two
//!
//! [rolling]                     # of whole texts, each in windows as long as the model's context
//! text = "…"                    # template: what is scored
//! original = "…"                # template: what words and bytes are counted in [default: text]
//!
//! [perplexity]                  # of a text, encoded whole and cut into windows
//! window = 128                  # tokens
//! prompt_share = 0.75           # this much of a window is prompt, only the rest is scored; or
//! # prompt_tokens = 1           # all tokens but the first are scored
//! # max_windows = 64
//!
//! [generation]                  # greedy answers, exact match
//! context = "…"                 # template
//! answers = "[…]"               # expression: a list of accepted strings
//! max_tokens = 32
//! until = ["\n"]                # texts at which an answer ends
//! # ignore_case = true
//! # ignore_punctuation = true
//! ```
//!
//! A file with `[subjects]` is a family: each string in which `<subject>` stands is made anew for every
//! subject (`<subject words>`: with spaces), the tasks are called `NAME_SUBJECT`, and they form the groups
//! `NAME` and `NAME_KEY`, whose accuracies are weighted by size.
//!
//! ```toml
//! [subjects]
//! stem = ["abstract_algebra", "anatomy"]
//! ```
//!
//! Templates and expressions are minijinja, strict about undefined names. Besides its own filters
//! there are `hellaswag_text`, `wikitext_text` and `detokenize`, clean-ups of lm-evaluation-harness;
//! `mark_word(text, index, word)`, its way to point at a word; and `index_of(list, item)`, the index of
//! an item or an error. Unknown keys are errors.
//!
//! A task may be a stranger's, so how large its values can become is told from its text before it runs: at most
//! 512 times the record and 16 MiB. What has no such bound is refused: `*` on texts and lists, macros, `namespace`, captured
//! and filtered blocks, other templates, `join` and `replace` with a text that is not written out, and filters that pad
//! (`batch`, `indent`, `format`).

mod check;
mod family;
mod raw;
mod sources;
#[cfg(test)]
mod tests;

use std::path::Path;

use pdtrim_core::limits;
use serde_json::{Value, json};

use crate::bundled;
use crate::error::{Error, Result};
use crate::metric::MetricName;

pub(crate) use sources::{HubData, Source, Where};

/// A checked task: its templates parse, and its windows can be scored.
///
/// ```
/// use pdtrim_eval::{MetricName, Task};
///
/// let task = Task::parse(
///     r#"
///     name = "colours"
///     version = 1
///     description = "What colour things are."
///
///     [[data]]
///     files = ["colours.jsonl"]
///
///     [multiple_choice]
///     context = "The {{thing}} is"
///     choices = "[right, wrong]"
///     gold = "0"
///     "#,
///     "colours.toml",
/// )?;
/// assert_eq!(task.name(), "colours");
/// assert_eq!(task.metrics(), [MetricName::Acc, MetricName::AccNorm]);
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    name: String,
    version: u32,
    description: String,
    sha256: String,
    groups: Vec<String>,
    preamble: String,
    sources: Vec<Source>,
    examples: Examples,
    kind: TaskKind,
    metrics: Vec<MetricName>,
}

/// Worked examples in front of an item.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Examples {
    pub(crate) count: usize,
    /// Where they are; empty for the task's own data.
    pub(crate) sources: Vec<Source>,
}

/// What is computed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TaskKind {
    MultipleChoice(MultipleChoice),
    Target(Target),
    Rolling(Rolling),
    Perplexity(Perplexity),
    Generation(Generation),
}

/// Log-likelihoods of choices.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MultipleChoice {
    pub(crate) prompt: Prompt,
    /// Expression: the index of the right choice.
    pub(crate) gold: String,
    pub(crate) delimiter: String,
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

/// Log-likelihood of a given continuation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) context: String,
    pub(crate) target: String,
}

/// Log-likelihood of whole texts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rolling {
    pub(crate) text: String,
    pub(crate) original: String,
}

/// Log-likelihood of a text in windows of `window` tokens, of which the first `prompt` are not
/// scored; 1 ≤ prompt < window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Perplexity {
    pub(crate) window: usize,
    pub(crate) prompt: usize,
    pub(crate) max_windows: Option<usize>,
}

/// Answers by greedy decoding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Generation {
    pub(crate) context: String,
    /// Expression: the accepted answers.
    pub(crate) answers: String,
    pub(crate) delimiter: String,
    pub(crate) max_tokens: usize,
    pub(crate) until: Vec<String>,
    pub(crate) matching: Matching,
}

/// What makes a generated answer equal to an accepted one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matching {
    pub(crate) ignore_case: bool,
    pub(crate) ignore_punctuation: bool,
}

impl Task {
    /// The bundled task called `name`.
    ///
    /// # Errors
    ///
    /// When there is none (the message has the nearest names), or when it is a group of several.
    pub fn bundled(name: &str) -> Result<Self> {
        single(Self::bundled_all(name)?, name)
    }

    /// The bundled task called `name`, or the tasks of the group called so.
    ///
    /// # Errors
    ///
    /// When there is neither; the message has the nearest names.
    pub fn bundled_all(name: &str) -> Result<Vec<Self>> {
        let unknown = || Error::UnknownTask {
            name: name.to_owned(),
            hint: crate::nearest::hint(name, bundled::task_names()),
        };
        let (file, text) = bundled::task_file(name).ok_or_else(unknown)?;
        let mut tasks = Self::parse_all(text, &format!("{file}.toml"))?;
        if file != name {
            tasks.retain(|task| task.name == name || task.groups.iter().any(|group| group == name));
        }
        if tasks.is_empty() {
            let known = Self::parse_all(text, file)?;
            return Err(Error::UnknownTask {
                name: name.to_owned(),
                hint: crate::nearest::hint(name, known.iter().map(|task| task.name.as_str())),
            });
        }
        Ok(tasks)
    }

    /// The tasks in the file at `path`: one, or a family's.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or as [`Task::parse`].
    pub fn from_file(path: &Path) -> Result<Vec<Self>> {
        let text = pdtrim_core::read_text(path, limits::TASK)?;
        Self::parse_all(&text, &path.display().to_string())
    }

    /// The task that `text` describes; `file` names it in errors.
    ///
    /// # Errors
    ///
    /// When the text is not the TOML described in [`crate::task`], its values make no sense, or it is a
    /// family of several tasks.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        single(Self::parse_all(text, file)?, file)
    }

    /// The tasks that `text` describes: one, or one for each subject of a family.
    ///
    /// # Errors
    ///
    /// As [`Task::parse`].
    pub fn parse_all(text: &str, file: &str) -> Result<Vec<Self>> {
        family::parse(text, file)
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

    /// The groups that it belongs to, the widest first.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// The metrics it is reduced to.
    pub fn metrics(&self) -> &[MetricName] {
        &self.metrics
    }

    /// Worked examples in front of each item.
    pub fn fewshot(&self) -> usize {
        self.examples.count
    }

    /// The same task with another number of worked examples.
    ///
    /// # Errors
    ///
    /// When it scores texts, which have no examples.
    pub fn with_fewshot(mut self, count: usize) -> Result<Self> {
        if count > 0 && self.scores_texts() {
            return Err(Error::TaskField {
                task: self.name,
                field: "fewshot.count",
                expected: "0, since texts are scored without examples".to_owned(),
                found: count.to_string(),
            });
        }
        self.examples.count = count;
        Ok(self)
    }

    /// Whether it scores whole texts, which have no worked examples in front.
    pub fn scores_texts(&self) -> bool {
        matches!(self.kind, TaskKind::Rolling(_) | TaskKind::Perplexity(_))
    }

    /// Whether the data is part of the binary, so that no data folder is needed.
    pub fn is_bundled(&self) -> bool {
        let bundled = |source: &Source| matches!(source.place, Where::Bundled(_));
        self.sources.iter().any(bundled)
    }

    pub(crate) fn sources(&self) -> &[Source] {
        &self.sources
    }

    pub(crate) fn examples(&self) -> &Examples {
        &self.examples
    }

    pub(crate) fn preamble(&self) -> &str {
        &self.preamble
    }

    pub(crate) fn kind(&self) -> &TaskKind {
        &self.kind
    }

    /// The task in lm-evaluation-harness' words, for the results file's `configs`.
    pub(crate) fn config(&self) -> Value {
        let mut config = json!({
            "task": self.name,
            "description": self.preamble,
            "dataset_path": self.sources[0].path(),
            "num_fewshot": self.examples.count,
            "metadata": { "version": self.version, "sha256": self.sha256, "about": self.description },
        });
        if let (Value::Object(config), Value::Object(kind)) = (&mut config, self.kind.config()) {
            config.extend(kind);
        }
        config
    }
}

impl TaskKind {
    fn config(&self) -> Value {
        match self {
            Self::MultipleChoice(choice) => choice.config(),
            Self::Target(task) => json!({
                "output_type": "loglikelihood",
                "doc_to_text": task.context,
                "doc_to_target": task.target,
            }),
            Self::Rolling(task) => json!({
                "output_type": "loglikelihood_rolling",
                "doc_to_text": "",
                "doc_to_target": task.text,
            }),
            Self::Perplexity(windows) => json!({
                "output_type": "loglikelihood_rolling",
                "window_tokens": windows.window,
                "prompt_tokens": windows.prompt,
                "max_windows": windows.max_windows,
            }),
            Self::Generation(task) => json!({
                "output_type": "generate_until",
                "doc_to_text": task.context,
                "doc_to_target": task.answers,
                "target_delimiter": task.delimiter,
                "generation_kwargs": { "until": task.until, "max_gen_toks": task.max_tokens, "do_sample": false },
            }),
        }
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

fn single(mut tasks: Vec<Task>, asked: &str) -> Result<Task> {
    match tasks.pop() {
        Some(task) if tasks.is_empty() => Ok(task),
        _ => Err(Error::IsGroup {
            name: asked.to_owned(),
            tasks: tasks.len() + 1,
        }),
    }
}
