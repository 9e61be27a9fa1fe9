//! One prompt: prose of the right length, and the fact between two of its sentences.

use minijinja::value::{Serde, Value as Fields};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fact::Fact;
use super::filler::{Filler, Sentence};
use super::grid::Wanted;
use crate::encode::Encoder;
use crate::error::{Place, Result};
use crate::render::{Rendered, Templates};

/// A prompt and what is asked for.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use pdtrim_eval::Uniform;
/// use pdtrim_eval::needle::{NeedleGrid, NeedleTest};
///
/// let grid = NeedleGrid::new(&[4096], &[50.0], NonZeroUsize::MIN, 1)?;
/// let test = NeedleTest::new(&grid, &Uniform)?;
/// let prompt = &test.prompts()[0];
/// // The fact stands between two sentences near the middle.
/// assert!(prompt.text.contains(&prompt.word) && prompt.text.contains(&prompt.place));
/// assert!((prompt.reached_depth - 50.0).abs() < 10.0);
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeedlePrompt {
    /// The length asked for: tokens of the prompt and its answer.
    pub length: usize,
    /// The depth asked for, in percent.
    pub depth: f64,
    /// Place among the prompts of this length and depth.
    pub item: usize,
    /// Where the fact really is: percent of the prose's tokens in front of it.
    pub reached_depth: f64,
    /// What the code word belongs to.
    pub place: String,
    /// The answer.
    pub word: String,
    /// Prose and fact, without the question.
    #[serde(skip)]
    pub text: String,
}

impl NeedlePrompt {
    /// The prompt as a record of the task.
    pub(super) fn fields(&self) -> Map<String, Value> {
        fields(&self.text, &self.place, &self.word)
    }
}

/// Writes prompts for one tokenizer and one question.
pub(super) struct Writer<'env, 'source> {
    pub(super) encoder: Encoder<'env>,
    pub(super) templates: Templates<'env, 'source>,
    pub(super) filler: Filler,
    /// The most tokens of an answer.
    pub(super) room: usize,
}

impl Writer<'_, '_> {
    /// The length that a prompt with one sentence needs, whichever sentence it is.
    pub(super) fn least(&self, fact: Fact) -> Result<usize> {
        Ok(self.count(&Draft::new(vec![self.filler.longest()], fact, 0.0))? + self.room)
    }

    /// The prompt with the most sentences, of those that `key` decides, that fit; `None` when not even one does.
    pub(super) fn write(
        &self,
        wanted: Wanted,
        fact: Fact,
        key: &str,
    ) -> Result<Option<NeedlePrompt>> {
        let most = wanted.length.saturating_sub(self.room);
        let mut more = self.filler.sentences(key);
        let mut draft = Draft::new(Vec::new(), fact, wanted.depth / 100.0);
        let mut guess = self.count(&draft)?;
        // Sentences for about the length first: a count reads the whole prompt.
        for next in more.by_ref() {
            guess += next.tokens;
            draft.sentences.push(next);
            if guess > most {
                break;
            }
        }
        while self.count(&draft)? <= most {
            draft.sentences.extend(more.next());
        }
        while !draft.sentences.is_empty() && self.count(&draft)? > most {
            draft.sentences.pop();
        }
        Ok((!draft.sentences.is_empty()).then(|| draft.into_prompt(wanted)))
    }

    /// Tokens of the whole prompt.
    fn count(&self, draft: &Draft) -> Result<usize> {
        let place = Place::new("needle", 1);
        let fields = fields(&draft.text(), draft.fact.place, draft.fact.word);
        let fields = Fields::from(Serde(&fields));
        let Rendered::Question { context, .. } = self.templates.render("", &fields, &place)? else {
            unreachable!("the task asks a question");
        };
        Ok(self.encoder.context(&context, &place)?.into_tokens().len())
    }
}

/// A prompt that is being written.
struct Draft {
    sentences: Vec<Sentence>,
    fact: Fact,
    /// From 0 to 1.
    depth: f64,
}

impl Draft {
    fn new(sentences: Vec<Sentence>, fact: Fact, depth: f64) -> Self {
        Self {
            sentences,
            fact,
            depth,
        }
    }

    /// How many sentences stand before the fact, and which share of all tokens they are.
    fn split(&self) -> (usize, f64) {
        let total: usize = self.sentences.iter().map(|sentence| sentence.tokens).sum();
        let (mut tokens, mut best) = (0, (0, 0.0));
        for (index, sentence) in self.sentences.iter().enumerate() {
            tokens += sentence.tokens;
            let share = tokens as f64 / total as f64;
            if (share - self.depth).abs() < (best.1 - self.depth).abs() {
                best = (index + 1, share);
            }
        }
        best
    }

    /// Passages are paragraphs; the fact stands in front of a sentence, or after the last one.
    fn text(&self) -> String {
        let (before, _) = self.split();
        let fact = self.fact.sentence();
        let mut text = String::new();
        for (index, sentence) in self.sentences.iter().enumerate() {
            if index == before {
                text.push_str(&fact);
                text.push(' ');
            }
            text.push_str(sentence.text);
            let is_last = index + 1 == self.sentences.len();
            text.push_str(match (is_last, sentence.ends_passage) {
                (true, _) => "",
                (false, true) => "\n\n",
                (false, false) => " ",
            });
        }
        if before == self.sentences.len() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&fact);
        }
        text
    }

    fn into_prompt(self, wanted: Wanted) -> NeedlePrompt {
        NeedlePrompt {
            length: wanted.length,
            depth: wanted.depth,
            item: wanted.item,
            reached_depth: 100.0 * self.split().1,
            place: self.fact.place.to_owned(),
            word: self.fact.word.to_owned(),
            text: self.text(),
        }
    }
}

fn fields(text: &str, place: &str, word: &str) -> Map<String, Value> {
    let field = |(name, value): (&str, &str)| (name.to_owned(), Value::from(value));
    [("text", text), ("place", place), ("word", word)]
        .map(field)
        .into_iter()
        .collect()
}
