//! A record as text.

use minijinja::Environment;
use minijinja::value::Value;

use crate::answer::Accepted;
use crate::error::{Error, Place, Result};
use crate::task::{Generation, MultipleChoice, Prompt, Rolling, Target, TaskKind};
use crate::template::Compiled;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rendered {
    /// Every context is continued by every continuation, which gives one pair per choice, since either
    /// there is one context or there is one continuation.
    Choice {
        contexts: Vec<String>,
        /// With the delimiter in front.
        continuations: Vec<String>,
        /// Length of each choice in characters, without the delimiter; empty for partial scoring.
        chars: Vec<usize>,
        /// Index of the right choice.
        gold: usize,
    },
    Target {
        context: String,
        target: String,
    },
    Text {
        text: String,
        words: usize,
        bytes: usize,
    },
    Question {
        context: String,
        accepted: Accepted,
    },
}

/// The compiled templates of a task.
pub(crate) enum Templates<'env, 'source> {
    Shared {
        context: Compiled<'env, 'source>,
        choices: Compiled<'env, 'source>,
        gold: Compiled<'env, 'source>,
        delimiter: &'source str,
    },
    Partial {
        contexts: Compiled<'env, 'source>,
        continuation: Compiled<'env, 'source>,
        gold: Compiled<'env, 'source>,
        delimiter: &'source str,
    },
    Target {
        context: Compiled<'env, 'source>,
        target: Compiled<'env, 'source>,
    },
    Rolling {
        text: Compiled<'env, 'source>,
        original: Compiled<'env, 'source>,
    },
    Generation {
        context: Compiled<'env, 'source>,
        answers: Compiled<'env, 'source>,
        task: &'source Generation,
    },
}

impl<'env, 'source> Templates<'env, 'source> {
    /// The templates of a task on records; none for one on a text.
    pub(crate) fn new(
        environment: &'env Environment<'source>,
        task: &'source str,
        kind: &'source TaskKind,
    ) -> Result<Option<Self>> {
        let template = |key, text| Compiled::template(environment, task, key, text);
        let expression = |key, text| Compiled::expression(environment, task, key, text);
        Ok(Some(match kind {
            TaskKind::MultipleChoice(MultipleChoice {
                prompt,
                gold,
                delimiter,
            }) => {
                let gold = expression("gold", gold)?;
                match prompt {
                    Prompt::Shared { context, choices } => Self::Shared {
                        context: template("context", context)?,
                        choices: expression("choices", choices)?,
                        gold,
                        delimiter,
                    },
                    Prompt::Partial {
                        contexts,
                        continuation,
                    } => Self::Partial {
                        contexts: expression("contexts", contexts)?,
                        continuation: template("continuation", continuation)?,
                        gold,
                        delimiter,
                    },
                }
            }
            TaskKind::Target(Target { context, target }) => Self::Target {
                context: template("context", context)?,
                target: template("target", target)?,
            },
            TaskKind::Rolling(Rolling { text, original }) => Self::Rolling {
                text: template("text", text)?,
                original: template("original", original)?,
            },
            TaskKind::Generation(task) => Self::Generation {
                context: template("context", &task.context)?,
                answers: expression("answers", &task.answers)?,
                task,
            },
            TaskKind::Perplexity(_) => return Ok(None),
        }))
    }

    /// The record `fields`, behind `prefix`.
    pub(crate) fn render(&self, prefix: &str, fields: &Value, place: &Place) -> Result<Rendered> {
        let prefixed = |text: String| format!("{prefix}{text}");
        match self {
            Self::Shared {
                context, choices, ..
            } => {
                let context = prefixed(context.text(fields, place)?);
                let texts = choices.texts(fields, place)?;
                let chars = texts.iter().map(|text| text.chars().count()).collect();
                self.choice(vec![context], &texts, chars, fields, place)
            }
            Self::Partial {
                contexts,
                continuation,
                ..
            } => {
                let contexts = contexts.texts(fields, place)?;
                let contexts = contexts.into_iter().map(prefixed).collect();
                let text = continuation.text(fields, place)?;
                self.choice(contexts, &[text], Vec::new(), fields, place)
            }
            Self::Target { context, target } => Ok(Rendered::Target {
                context: prefixed(context.text(fields, place)?),
                target: target.text(fields, place)?,
            }),
            Self::Rolling { text, original } => {
                let original = original.text(fields, place)?;
                Ok(Rendered::Text {
                    text: text.text(fields, place)?,
                    words: words(&original),
                    bytes: original.len(),
                })
            }
            Self::Generation {
                context,
                answers,
                task,
            } => Ok(Rendered::Question {
                context: prefixed(context.text(fields, place)?),
                accepted: Accepted {
                    answers: answers.texts(fields, place)?,
                    until: task.until.clone(),
                    matching: task.matching,
                },
            }),
        }
    }

    fn choice(
        &self,
        contexts: Vec<String>,
        texts: &[String],
        chars: Vec<usize>,
        fields: &Value,
        place: &Place,
    ) -> Result<Rendered> {
        if let Some(choice) = texts.iter().position(String::is_empty) {
            return Err(Error::EmptyChoice {
                place: place.clone(),
                choice,
            });
        }
        let gold = self.gold(contexts.len().max(texts.len()), fields, place)?;
        let continuations = texts
            .iter()
            .map(|text| format!("{}{text}", self.delimiter()))
            .collect();
        Ok(Rendered::Choice {
            contexts,
            continuations,
            chars,
            gold,
        })
    }

    fn gold(&self, choices: usize, fields: &Value, place: &Place) -> Result<usize> {
        let (Self::Shared { gold, .. } | Self::Partial { gold, .. }) = self else {
            unreachable!("only choices have a gold index");
        };
        let found = gold.number(fields, place)?;
        let index = usize::try_from(found).ok().filter(|&index| index < choices);
        index.ok_or_else(|| Error::GoldOutOfRange {
            place: place.clone(),
            choices,
            found,
        })
    }

    fn delimiter(&self) -> &str {
        match self {
            Self::Shared { delimiter, .. } | Self::Partial { delimiter, .. } => delimiter,
            Self::Generation { task, .. } => &task.delimiter,
            Self::Target { .. } | Self::Rolling { .. } => "",
        }
    }

    /// The record `fields` with its right answer, as a worked example.
    pub(crate) fn example(&self, fields: &Value, place: &Place) -> Result<String> {
        Ok(match self.render("", fields, place)? {
            Rendered::Choice {
                contexts,
                continuations,
                gold,
                ..
            } => {
                let one_of = |texts: &[String]| texts[gold.min(texts.len() - 1)].clone();
                one_of(&contexts) + &one_of(&continuations)
            }
            Rendered::Target { context, target } => context + &target,
            Rendered::Question { context, accepted } => {
                format!("{context}{}{}", self.delimiter(), accepted.answers[0])
            }
            Rendered::Text { text, .. } => text,
        })
    }
}

/// As lm-evaluation-harness counts: one more than there are runs of white space.
fn words(text: &str) -> usize {
    let mut runs = 0;
    let mut inside = false;
    for letter in text.chars() {
        runs += usize::from(letter.is_whitespace() && !inside);
        inside = letter.is_whitespace();
    }
    runs + 1
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_are_what_a_split_at_white_space_gives_empty_ends_included() {
        // Python: len(re.split(r"\s+", " a  b\n")) == 4, and == 1 for "".
        assert_eq!(words(" a  b\n"), 4);
        assert_eq!(words(""), 1);
        assert_eq!(words("one two"), 2);
    }
}
