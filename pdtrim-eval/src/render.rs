//! A multiple-choice record as text.

use minijinja::Environment;
use minijinja::value::Value;

use crate::error::{Error, Place, Result};
use crate::task::{MultipleChoice, Prompt};
use crate::template::Compiled;

/// One record: every context is continued by every continuation, which gives one pair per choice,
/// since either there is one context or there is one continuation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) contexts: Vec<String>,
    /// With the delimiter in front.
    pub(crate) continuations: Vec<String>,
    /// Length of each choice in characters, without the delimiter; empty for partial scoring.
    pub(crate) chars: Vec<usize>,
    /// Index of the right choice.
    pub(crate) gold: usize,
}

/// The compiled templates of a task.
pub(crate) struct Templates<'env, 'source> {
    prompt: CompiledPrompt<'env, 'source>,
    gold: Compiled<'env, 'source>,
    delimiter: &'source str,
}

enum CompiledPrompt<'env, 'source> {
    Shared {
        context: Compiled<'env, 'source>,
        choices: Compiled<'env, 'source>,
    },
    Partial {
        contexts: Compiled<'env, 'source>,
        continuation: Compiled<'env, 'source>,
    },
}

impl<'env, 'source> Templates<'env, 'source> {
    pub(crate) fn new(
        environment: &'env Environment<'source>,
        task: &'source str,
        choice: &'source MultipleChoice,
    ) -> Result<Self> {
        let template = |key, text| Compiled::template(environment, task, key, text);
        let expression = |key, text| Compiled::expression(environment, task, key, text);
        let prompt = match &choice.prompt {
            Prompt::Shared { context, choices } => CompiledPrompt::Shared {
                context: template("context", context)?,
                choices: expression("choices", choices)?,
            },
            Prompt::Partial {
                contexts,
                continuation,
            } => CompiledPrompt::Partial {
                contexts: expression("contexts", contexts)?,
                continuation: template("continuation", continuation)?,
            },
        };
        Ok(Self {
            prompt,
            gold: expression("gold", &choice.gold)?,
            delimiter: &choice.delimiter,
        })
    }

    pub(crate) fn render(&self, fields: &Value, place: &Place) -> Result<Rendered> {
        let (contexts, texts) = match &self.prompt {
            CompiledPrompt::Shared { context, choices } => (
                vec![context.text(fields, place)?],
                choices.texts(fields, place)?,
            ),
            CompiledPrompt::Partial {
                contexts,
                continuation,
            } => (
                contexts.texts(fields, place)?,
                vec![continuation.text(fields, place)?],
            ),
        };
        if let Some(choice) = texts.iter().position(String::is_empty) {
            return Err(Error::EmptyChoice {
                place: place.clone(),
                choice,
            });
        }
        let choices = contexts.len().max(texts.len());
        let found = self.gold.number(fields, place)?;
        let gold = usize::try_from(found)
            .ok()
            .filter(|&gold| gold < choices)
            .ok_or_else(|| Error::GoldOutOfRange {
                place: place.clone(),
                choices,
                found,
            })?;
        let chars = match &self.prompt {
            CompiledPrompt::Shared { .. } => {
                texts.iter().map(|text| text.chars().count()).collect()
            }
            CompiledPrompt::Partial { .. } => Vec::new(),
        };
        let continuations = texts
            .iter()
            .map(|text| format!("{}{text}", self.delimiter))
            .collect();
        Ok(Rendered {
            contexts,
            continuations,
            chars,
            gold,
        })
    }
}
