//! Has the requests scored and reduces the scores to a result.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use pdtrim_core::Bytes;
use pdtrim_core::hash::sha256;
use pdtrim_core::journal::Journal;
use serde::{Deserialize, Serialize};

use crate::batch::BatchSize;
use crate::error::{Error, Result};
use crate::metric::{Samples, best};
use crate::prepare::{Gold, Measure, Prepared, PreparedItem};
use crate::result::{Item, ItemOutcome, KvTraffic, TaskResult, TaskSummary};
use crate::scorer::{ContinuationScore, Generated, Request, Scorer, Scores};
use crate::source::{Dataset, Folders};
use crate::task::Task;

/// How to evaluate a task.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use pdtrim_eval::Options;
///
/// // The first 200 items, with five worked examples in front of each.
/// let options = Options {
///     limit: NonZeroUsize::new(200),
///     fewshot: Some(5),
///     ..Options::default()
/// };
/// assert!(options.data_dir.is_none());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The folder with the user's data files.
    pub data_dir: Option<PathBuf>,
    /// Score only this many items from the start of the data.
    pub limit: Option<NonZeroUsize>,
    /// Worked examples in front of each item; none for as many as the task says.
    pub fewshot: Option<usize>,
}

/// How far an evaluation is. Tokens tell more about the time left than requests do.
///
/// ```
/// use pdtrim_eval::Progress;
///
/// let at = Progress { requests_done: 20, requests: 55, tokens_done: 3000, tokens: 6000 };
/// assert_eq!(at.tokens_done as f64 / at.tokens as f64, 0.5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Requests scored.
    pub requests_done: usize,
    /// Requests in all.
    pub requests: usize,
    /// Tokens of the requests scored.
    pub tokens_done: usize,
    /// Tokens in all.
    pub tokens: usize,
}

/// How requests are run, which makes no difference to what is measured.
///
/// ```
/// use std::cell::Cell;
///
/// use pdtrim_eval::{Execution, Options, Progress, Task, Uniform, evaluate};
///
/// let last = Cell::new(None);
/// let on_batch = |at: Progress| last.set(Some(at));
/// let execution = Execution { progress: Some(&on_batch), ..Execution::default() };
/// evaluate(&Uniform, &Task::bundled("everyday")?, &Options::default(), &execution)?;
/// assert!(last.get().is_some_and(|at| at.tokens_done == at.tokens));
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Copy, Default)]
pub struct Execution<'e> {
    /// What runs together.
    pub batch: BatchSize,
    /// Where finished batches are kept, so that a killed evaluation goes on.
    pub journal: Option<JournalFile<'e>>,
    /// Told after each batch.
    pub progress: Option<&'e dyn Fn(Progress)>,
}

/// A journal of scores.
///
/// ```
/// use pdtrim_eval::{Execution, JournalFile, Options, Task, Uniform, evaluate};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let path = folder.path().join("everyday.jsonl");
/// let journal = JournalFile { path: &path, of: "uniform scorer" };
/// let execution = Execution { journal: Some(journal), ..Execution::default() };
/// let task = Task::bundled("everyday")?;
/// let first = evaluate(&Uniform, &task, &Options::default(), &execution)?;
/// // The second evaluation finds everything there.
/// assert_eq!(evaluate(&Uniform, &task, &Options::default(), &execution)?, first);
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct JournalFile<'e> {
    /// Where it is.
    pub path: &'e Path,
    /// What the scores depend on beside the requests: model, plan, mode, boundary, device.
    pub of: &'e str,
}

/// What a journal holds of a finished batch.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    /// The scores of the requests from number `first` on.
    Scores { first: usize, scores: Vec<Scores> },
    /// An answer.
    Generated { index: usize, answer: Generated },
}

/// What the scorer made of the requests; `None` for one that is still to be run.
struct Results {
    scores: Vec<Option<Scores>>,
    answers: Vec<Option<Generated>>,
}

/// Loads, prepares and evaluates `task` in one go.
///
/// To measure several modes, load and prepare once and call [`Prepared::evaluate`] for each.
///
/// # Errors
///
/// As [`Dataset::load`], [`Prepared::new`] and [`Prepared::evaluate`].
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use pdtrim_eval::{Execution, Options, Task, Uniform, evaluate};
///
/// let options = Options { limit: NonZeroUsize::new(10), ..Options::default() };
/// let result = evaluate(&Uniform, &Task::bundled("passages")?, &options, &Execution::default())?;
/// assert_eq!(result.items.len(), 10);
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
pub fn evaluate(
    scorer: &dyn Scorer,
    task: &Task,
    options: &Options,
    execution: &Execution<'_>,
) -> Result<TaskResult> {
    let task = match options.fewshot {
        Some(count) => &task.clone().with_fewshot(count)?,
        None => task,
    };
    let dataset = Dataset::load(task, &Folders::of(options.data_dir.as_deref()))?;
    Prepared::new(task, &dataset, scorer, options.limit)?.evaluate(scorer, execution)
}

impl Prepared {
    /// Scores all items with `scorer`, whose tokenizer must be the one the task was prepared with.
    ///
    /// # Errors
    ///
    /// When the scorer fails, or returns other than one log-probability per token, and when the journal
    /// cannot be read or written.
    pub fn evaluate(&self, scorer: &dyn Scorer, execution: &Execution<'_>) -> Result<TaskResult> {
        let results = self.run(scorer, execution)?;
        let items = self
            .items
            .iter()
            .enumerate()
            .map(|(doc, item)| self.item(doc, item, &results));
        let items = items.collect::<Result<Vec<_>>>()?;
        Ok(TaskResult {
            summary: self.summary(&items),
            items,
        })
    }

    fn run(&self, scorer: &dyn Scorer, execution: &Execution<'_>) -> Result<Results> {
        let mut results = Results {
            scores: vec![None; self.requests.len()],
            answers: vec![None; self.generations.len()],
        };
        let batches = execution.batch.split(&self.requests);
        let mut journal = self.open_journal(execution, &mut results)?;
        let mut meter = Meter::new(self, execution.progress);
        for batch in batches {
            if results.scores[batch.clone()].iter().any(Option::is_none) {
                let requests = &self.requests[batch.clone()];
                let found = scorer.score(requests);
                let found = found.map_err(|source| self.failed(source))?;
                self.check_counts(requests, &found)?;
                let record = Record::Scores {
                    first: batch.start,
                    scores: found,
                };
                if let Some(journal) = &mut journal {
                    journal.append(&record)?;
                }
                results.take(record);
            }
            meter.add(
                batch.len(),
                self.requests[batch].iter().map(Request::tokens).sum(),
            );
        }
        for (index, request) in self.generations.iter().enumerate() {
            if results.answers[index].is_none() {
                let answer = scorer
                    .generate(request)
                    .map_err(|source| self.failed(source))?;
                let record = Record::Generated { index, answer };
                if let Some(journal) = &mut journal {
                    journal.append(&record)?;
                }
                results.take(record);
            }
            meter.add(1, request.tokens());
        }
        Ok(results)
    }

    /// Opens the journal, if there is to be one, and takes what it holds.
    fn open_journal(
        &self,
        execution: &Execution<'_>,
        results: &mut Results,
    ) -> Result<Option<Journal<Record>>> {
        let Some(JournalFile { path, of }) = execution.journal else {
            return Ok(None);
        };
        let about = format!(
            "{of} {:?} {:?} {:?}",
            execution.batch, self.requests, self.generations
        );
        let (journal, records) = Journal::resume(path, &sha256(about.as_bytes()))?;
        for record in records {
            results.take(record);
        }
        Ok(Some(journal))
    }

    fn failed(&self, source: crate::ScorerError) -> Error {
        Error::Scorer {
            task: self.task.name().to_owned(),
            source,
        }
    }

    fn check_counts(&self, requests: &[Request], results: &[Scores]) -> Result<()> {
        let count = |what, expected, found| {
            let task = self.task.name().to_owned();
            if expected == found {
                Ok(())
            } else {
                Err(Error::ScoreCount {
                    task,
                    what,
                    expected,
                    found,
                })
            }
        };
        count("requests", requests.len(), results.len())?;
        for (request, scores) in requests.iter().zip(results) {
            count(
                "continuations",
                request.continuations.len(),
                scores.continuations.len(),
            )?;
            for (tokens, score) in request.continuations.iter().zip(&scores.continuations) {
                count("log-probabilities", tokens.len(), score.logprobs.len())?;
            }
        }
        Ok(())
    }

    fn item(&self, doc: usize, item: &PreparedItem, results: &Results) -> Result<Item> {
        let mut requests: Vec<usize> = item.slots.iter().map(|slot| slot.request).collect();
        requests.sort_unstable();
        requests.dedup();
        let continuations: Vec<&ContinuationScore> = item
            .slots
            .iter()
            .map(|slot| &results.scores(slot.request).continuations[slot.continuation])
            .collect();
        let sums: Vec<f64> = continuations
            .iter()
            .map(|score| loglikelihood(score))
            .collect();
        if sums.iter().any(|sum| sum.is_nan()) {
            return Err(Error::NotANumber {
                task: self.task.name().to_owned(),
                item: doc,
            });
        }
        let tokens = continuations.iter().map(|score| score.logprobs.len()).sum();
        let greedy = |score: &&ContinuationScore| score.greedy;
        let outcome = match &item.measure {
            Measure::Choice(gold) => choice(gold, sums, continuations.iter().map(greedy).collect()),
            Measure::Target => ItemOutcome::Target {
                loglikelihood: sums.iter().sum(),
                tokens,
                greedy: continuations.iter().all(greedy),
            },
            Measure::Text { words, bytes } => ItemOutcome::Text {
                loglikelihood: sums.iter().sum(),
                tokens,
                words: *words,
                bytes: *bytes,
            },
            Measure::Answer(to) => to.accepted.outcome(&results.answer(to.generation).text),
        };
        let mut sent: Vec<Sent> = requests
            .iter()
            .map(|&request| Sent::of_scores(results.scores(request)))
            .collect();
        let mut prompt_tokens = requests
            .iter()
            .map(|&request| self.requests[request].context.len())
            .sum();
        if let Measure::Answer(answer) = &item.measure {
            sent.push(Sent::of_answer(results.answer(answer.generation)));
            prompt_tokens += self.generations[answer.generation].context.len();
        }
        Ok(Item {
            doc,
            line: item.line,
            prompt_tokens,
            truncated_tokens: item.truncated_tokens,
            one_token: self.is_one_token(item),
            kv_bytes: sent.iter().map(|sent| sent.bytes).sum(),
            kv_positions: sent.iter().map(|sent| sent.positions).sum(),
            trimmed: sent.iter().any(|sent| sent.trimmed),
            outcome,
        })
    }

    fn summary(&self, items: &[Item]) -> TaskSummary {
        let metrics = self.task.metrics().iter();
        let metrics = metrics.filter_map(|&name| Samples::of(items, name).metric());
        TaskSummary {
            task: self.task.name().to_owned(),
            version: self.task.version(),
            task_sha256: self.task.sha256().to_owned(),
            config: self.task.config(),
            groups: self.task.groups().to_vec(),
            fewshot: self.task.fewshot(),
            data: self.files.clone(),
            metrics: metrics.collect(),
            items: items.len(),
            items_total: self.items_total,
            one_token_items: items.iter().filter(|item| item.one_token).count(),
            scored_tokens: self.scored_tokens(),
            truncated_items: items
                .iter()
                .filter(|item| item.truncated_tokens > 0)
                .count(),
            truncated_tokens: items.iter().map(|item| item.truncated_tokens).sum(),
            tokens_left_over: self.tokens_left_over,
            kv: KvTraffic::of(items, self.requests.len() + self.generations.len()),
        }
    }

    fn scored_tokens(&self) -> usize {
        self.requests
            .iter()
            .flat_map(|request| &request.continuations)
            .map(Vec::len)
            .sum()
    }
}

impl Results {
    /// A record of another request list cannot come here: the journal's first line names the list.
    fn take(&mut self, record: Record) {
        match record {
            Record::Scores { first, scores } => {
                for (place, scores) in self.scores.iter_mut().skip(first).zip(scores) {
                    *place = Some(scores);
                }
            }
            Record::Generated { index, answer } => {
                if let Some(place) = self.answers.get_mut(index) {
                    *place = Some(answer);
                }
            }
        }
    }

    fn scores(&self, request: usize) -> &Scores {
        self.scores[request].as_ref().expect("every batch has run")
    }

    fn answer(&self, index: usize) -> &Generated {
        self.answers[index].as_ref().expect("every answer is there")
    }
}

/// What crossed for one request.
struct Sent {
    bytes: Bytes,
    positions: u64,
    trimmed: bool,
}

impl Sent {
    fn of_scores(scores: &Scores) -> Self {
        Self {
            bytes: scores.kv_bytes,
            positions: scores.kv_positions,
            trimmed: scores.trimmed,
        }
    }

    fn of_answer(answer: &Generated) -> Self {
        Self {
            bytes: answer.kv_bytes,
            positions: answer.kv_positions,
            trimmed: answer.trimmed,
        }
    }
}

/// Counts what is done.
struct Meter<'e> {
    at: Progress,
    tell: Option<&'e dyn Fn(Progress)>,
}

impl<'e> Meter<'e> {
    fn new(prepared: &Prepared, tell: Option<&'e dyn Fn(Progress)>) -> Self {
        let at = Progress {
            requests_done: 0,
            requests: prepared.requests.len() + prepared.generations.len(),
            tokens_done: 0,
            tokens: prepared.tokens(),
        };
        Self { at, tell }
    }

    fn add(&mut self, requests: usize, tokens: usize) {
        self.at.requests_done += requests;
        self.at.tokens_done += tokens;
        if let Some(tell) = self.tell {
            tell(self.at);
        }
    }
}

fn loglikelihood(score: &ContinuationScore) -> f64 {
    score
        .logprobs
        .iter()
        .map(|&logprob| f64::from(logprob))
        .sum()
}

fn choice(gold: &Gold, loglikelihoods: Vec<f64>, greedy: Vec<bool>) -> ItemOutcome {
    let per_char = loglikelihoods
        .iter()
        .zip(&gold.chars)
        .map(|(sum, &chars)| sum / chars as f64);
    let acc_norm = (!gold.chars.is_empty()).then(|| best(per_char) == gold.index);
    let acc = best(loglikelihoods.iter().copied()) == gold.index;
    ItemOutcome::Choice {
        loglikelihoods,
        greedy,
        gold: gold.index,
        acc,
        acc_norm,
    }
}
