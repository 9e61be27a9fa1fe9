//! Raw tables of a task into checked ones.

use std::fmt;

use super::raw::{RawGeneration, RawMultipleChoice, RawPerplexity, RawRolling, RawTarget};
use super::sources::{Form, RawSource, Source};
use super::{Generation, Matching, MultipleChoice, Perplexity, Prompt, Rolling, Target, TaskKind};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::metric::MetricName;
use crate::template;

/// Turns the raw tables of one task into checked ones.
pub(super) struct Check<'t> {
    pub(super) task: &'t str,
}

type Checked = Result<(TaskKind, Vec<MetricName>)>;

impl Check<'_> {
    pub(super) fn error(
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

    fn template(&self, key: &'static str, text: &str) -> Result<()> {
        template::check_template(self.task, key, text)
    }

    fn expression(&self, key: &'static str, text: &str) -> Result<()> {
        template::check_expression(self.task, key, text)
    }

    pub(super) fn multiple_choice(&self, raw: RawMultipleChoice) -> Checked {
        let prompt = match (raw.context, raw.choices, raw.contexts, raw.continuation) {
            (Some(context), Some(choices), None, None) => {
                self.template("context", &context)?;
                self.expression("choices", &choices)?;
                Prompt::Shared { context, choices }
            }
            (None, None, Some(contexts), Some(continuation)) => {
                self.expression("contexts", &contexts)?;
                self.template("continuation", &continuation)?;
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
                return Err(self.prompt_keys(&keys));
            }
        };
        self.expression("gold", &raw.gold)?;
        let possible: &[MetricName] = match prompt {
            Prompt::Shared { .. } => &[MetricName::Acc, MetricName::AccNorm],
            Prompt::Partial { .. } => &[MetricName::Acc],
        };
        let metrics = self.metrics("multiple_choice.metrics", raw.metrics, possible)?;
        let kind = TaskKind::MultipleChoice(MultipleChoice {
            prompt,
            gold: raw.gold,
            delimiter: raw.delimiter.unwrap_or_else(|| " ".to_owned()),
        });
        Ok((kind, metrics))
    }

    fn prompt_keys(&self, keys: &[(&str, Option<String>)]) -> Error {
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
        self.error(
            "multiple_choice",
            "`context` and `choices`, or `contexts` and `continuation`",
            found,
        )
    }

    pub(super) fn target(&self, raw: RawTarget) -> Checked {
        self.template("context", &raw.context)?;
        self.template("target", &raw.target)?;
        let possible = [MetricName::Perplexity, MetricName::Acc];
        let metrics = self.metrics("loglikelihood.metrics", raw.metrics, &possible)?;
        let kind = TaskKind::Target(Target {
            context: raw.context,
            target: raw.target,
        });
        Ok((kind, metrics))
    }

    pub(super) fn rolling(&self, raw: RawRolling) -> Checked {
        let original = raw.original.unwrap_or_else(|| raw.text.clone());
        self.template("text", &raw.text)?;
        self.template("original", &original)?;
        let possible = [
            MetricName::WordPerplexity,
            MetricName::BytePerplexity,
            MetricName::BitsPerByte,
            MetricName::TokenPerplexity,
        ];
        let metrics = self.metrics("rolling.metrics", raw.metrics, &possible)?;
        let kind = TaskKind::Rolling(Rolling {
            text: raw.text,
            original,
        });
        Ok((kind, metrics))
    }

    pub(super) fn generation(&self, raw: RawGeneration) -> Checked {
        self.template("context", &raw.context)?;
        self.expression("answers", &raw.answers)?;
        if raw.max_tokens == 0 {
            return Err(self.error("generation.max_tokens", "a number from 1", 0));
        }
        if raw.until.iter().any(String::is_empty) {
            return Err(self.error("generation.until", "texts", "an empty one"));
        }
        let kind = TaskKind::Generation(Generation {
            context: raw.context,
            answers: raw.answers,
            delimiter: raw.delimiter.unwrap_or_else(|| " ".to_owned()),
            max_tokens: raw.max_tokens,
            until: raw.until,
            matching: Matching {
                ignore_case: raw.ignore_case,
                ignore_punctuation: raw.ignore_punctuation,
            },
        });
        Ok((kind, vec![MetricName::ExactMatch]))
    }

    fn metrics(
        &self,
        field: &'static str,
        given: Option<Vec<MetricName>>,
        possible: &[MetricName],
    ) -> Result<Vec<MetricName>> {
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
            return Err(self.error(field, expected, format!("[{}]", names(&metrics))));
        }
        Ok(metrics)
    }

    pub(super) fn perplexity(&self, raw: &RawPerplexity) -> Checked {
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
        let kind = TaskKind::Perplexity(Perplexity {
            window: raw.window,
            prompt,
            max_windows: raw.max_windows,
        });
        Ok((kind, vec![MetricName::TokenPerplexity]))
    }

    pub(super) fn form(&self, raw: RawSource) -> Result<Form> {
        for text in raw.fields.values() {
            self.expression("data.fields", text)?;
        }
        let fields = raw.fields.iter().map(|(name, text)| (&**name, &**text));
        template::check_fields(self.task, "data.fields", fields)?;
        Ok(Form {
            labels: raw.labels,
            columns: raw.columns,
            pages: raw.pages,
            group_by: raw.group_by,
            fields: raw.fields,
        })
    }

    /// Whether the source's files can be what the task scores.
    pub(super) fn fits(&self, source: &Source, kind: &TaskKind) -> Result<()> {
        let formats = source.formats();
        let wants_text = matches!(kind, TaskKind::Perplexity(_)) || source.form.pages;
        let is_text = |format: &Format| *format == Format::Text;
        if formats.iter().any(|format| is_text(format) != wants_text) {
            let (expected, found) = if wants_text {
                ("a text, by the name of its file", "records")
            } else {
                (
                    "records (.jsonl, .json, .csv or .parquet), by the name of their file",
                    "a text",
                )
            };
            return Err(self.error("data.files", expected, found));
        }
        let form = &source.form;
        if matches!(kind, TaskKind::Perplexity(_)) && *form != Form::default() {
            return Err(self.error("data", "no key but `files`, `bundled` or `hub`", "others"));
        }
        if form.columns.is_some() && formats.iter().any(|format| *format != Format::Csv) {
            return Err(self.error("data.columns", "columns only of .csv files", "others"));
        }
        Ok(())
    }
}
