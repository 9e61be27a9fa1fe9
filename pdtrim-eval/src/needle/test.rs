//! The grid's prompts, ready to be answered.

use super::fact::Fact;
use super::filler::Filler;
use super::grid::{NeedleGrid, Wanted};
use super::prompt::{NeedlePrompt, Writer};
use super::result::NeedleResult;
use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::format::{Content, Doc};
use crate::prepare::Prepared;
use crate::render::Templates;
use crate::result::DataFile;
use crate::runner::Execution;
use crate::scorer::Scorer;
use crate::source::{Dataset, Examples};
use crate::task::{Task, TaskKind};
use crate::template;

/// A grid's prompts for one tokenizer; every mode answers the same ones.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use pdtrim_eval::needle::{NeedleGrid, NeedleTest};
/// use pdtrim_eval::{Execution, Uniform};
///
/// let grid = NeedleGrid::new(&[1024, 2048], &[50.0], NonZeroUsize::MIN, 1)?;
/// let test = NeedleTest::new(&grid, &Uniform)?;
/// assert_eq!(test.task().name(), "needle");
/// let result = test.evaluate(&Uniform, &Execution::default())?;
/// assert_eq!(result.answers.len(), test.prompts().len());
/// assert!(result.answers.iter().all(|answer| answer.prompt_tokens <= 2048));
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct NeedleTest {
    prompts: Vec<NeedlePrompt>,
    prepared: Prepared,
}

impl NeedleTest {
    /// Writes the prompts of `grid` in the tokens of `scorer`.
    ///
    /// # Errors
    ///
    /// [`Error::NeedleSetting`] when a length is beyond the model's context, or has no room for fact, a
    /// sentence, question and answer; and when the tokenizer fails.
    pub fn new(grid: &NeedleGrid, scorer: &dyn Scorer) -> Result<Self> {
        let task = Task::bundled("needle")?;
        let prompts = write(grid, &task, scorer)?;
        let doc = |(index, prompt): (usize, &NeedlePrompt)| Doc {
            line: index + 1,
            fields: prompt.fields(),
        };
        let dataset = Dataset {
            path: "needle".into(),
            content: Content::Records(prompts.iter().enumerate().map(doc).collect()),
            examples: Examples::None,
            files: Filler::data_files(),
        };
        let prepared = Prepared::new(&task, &dataset, scorer, None)?;
        Ok(Self { prompts, prepared })
    }

    /// The prompts: by length, then by depth, then by item.
    pub fn prompts(&self) -> &[NeedlePrompt] {
        &self.prompts
    }

    /// The task whose question is asked.
    pub fn task(&self) -> &Task {
        self.prepared.task()
    }

    /// The files that the prose is from.
    pub fn files(&self) -> &[DataFile] {
        &self.prepared.files
    }

    /// Positions to compute in all, answers at their longest.
    pub fn tokens(&self) -> usize {
        self.prepared.tokens()
    }

    /// Has `scorer` answer every prompt; its tokenizer must be the one that the prompts were written for.
    ///
    /// # Errors
    ///
    /// As [`Prepared::evaluate`].
    pub fn evaluate(&self, scorer: &dyn Scorer, execution: &Execution<'_>) -> Result<NeedleResult> {
        let result = self.prepared.evaluate(scorer, execution)?;
        Ok(NeedleResult::new(&self.prompts, result.items))
    }
}

fn write(grid: &NeedleGrid, task: &Task, scorer: &dyn Scorer) -> Result<Vec<NeedlePrompt>> {
    let encoder = Encoder {
        scorer,
        task: task.name(),
    };
    let environment = template::environment();
    let TaskKind::Generation(settings) = task.kind() else {
        unreachable!("the bundled task asks for answers");
    };
    let templates = Templates::new(&environment, task.name(), task.kind())?;
    let writer = Writer {
        encoder,
        templates: templates.expect("a task on records has templates"),
        filler: Filler::read(encoder)?,
        room: settings.max_tokens,
    };
    // The last token of an answer is made but never read, so the scorer takes one more than the model.
    check_longest(grid, scorer.max_tokens() - 1)?;
    let least = least(&writer)?;
    check_shortest(grid, least)?;
    let write = |wanted: Wanted| {
        let cell = grid.key(wanted);
        let fact = Fact::draw(&cell, wanted.item);
        let prompt = writer.write(wanted, fact, &format!("{cell} {}", wanted.item))?;
        prompt.ok_or_else(|| too_short(wanted.length, least))
    };
    grid.wanted().map(write).collect()
}

/// The shortest length that has room for whatever fact, and whatever sentence beside it.
fn least(writer: &Writer<'_, '_>) -> Result<usize> {
    Fact::all().try_fold(0, |least, fact| Ok(least.max(writer.least(fact)?)))
}

fn check_longest(grid: &NeedleGrid, context: usize) -> Result<()> {
    match grid.lengths().iter().find(|&&length| length > context) {
        Some(length) => Err(Error::NeedleSetting {
            setting: "lengths",
            expected: format!("at most {context} tokens, the model's context"),
            found: length.to_string(),
        }),
        None => Ok(()),
    }
}

fn check_shortest(grid: &NeedleGrid, least: usize) -> Result<()> {
    match grid.lengths().iter().find(|&&length| length < least) {
        Some(&length) => Err(too_short(length, least)),
        None => Ok(()),
    }
}

fn too_short(length: usize, least: usize) -> Error {
    Error::NeedleSetting {
        setting: "lengths",
        expected: format!(
            "at least {least} tokens, to have room for the fact, a sentence, the question and the answer"
        ),
        found: length.to_string(),
    }
}
