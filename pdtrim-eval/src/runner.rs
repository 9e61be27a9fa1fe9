//! Has the requests scored and reduces the scores to a result.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::metric::{Metric, MetricName, best};
use crate::prepare::{Gold, Prepared, PreparedItem};
use crate::result::{Item, ItemOutcome, KvTraffic, TaskResult, TaskSummary};
use crate::scorer::{ContinuationScore, Request, Scorer, Scores};
use crate::source::Dataset;
use crate::task::Task;

/// How to evaluate a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The folder with the user's data files.
    pub data_dir: Option<PathBuf>,
    /// Score only this many items from the start of the data.
    pub limit: Option<NonZeroUsize>,
}

/// How far an evaluation is. Tokens tell more about the time left than requests do.
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

/// Loads, prepares and evaluates `task` in one go.
///
/// To measure several modes, load and prepare once and call [`Prepared::evaluate`] for each.
///
/// # Errors
///
/// As [`Dataset::load`], [`Prepared::new`] and [`Prepared::evaluate`].
pub fn evaluate(
    scorer: &dyn Scorer,
    task: &Task,
    options: &Options,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<TaskResult> {
    let dataset = Dataset::load(task, options.data_dir.as_deref())?;
    Prepared::new(task, &dataset, scorer, options.limit)?.evaluate(scorer, progress)
}

impl Prepared {
    /// Scores all items with `scorer`, whose tokenizer must be the one the task was prepared with.
    /// `progress` is called after each request, from the scorer's threads.
    ///
    /// # Errors
    ///
    /// When the scorer fails, or returns other than one log-probability per token.
    pub fn evaluate(
        &self,
        scorer: &dyn Scorer,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<TaskResult> {
        let tokens: Vec<usize> = self.requests.iter().map(Request::tokens).collect();
        let total = tokens.iter().sum();
        let (requests_done, tokens_done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let done = |index: usize| {
            let size = tokens.get(index).copied().unwrap_or_default();
            progress(Progress {
                requests_done: requests_done.fetch_add(1, Ordering::Relaxed) + 1,
                requests: tokens.len(),
                tokens_done: tokens_done.fetch_add(size, Ordering::Relaxed) + size,
                tokens: total,
            });
        };
        let results = scorer.score(&self.requests, &done);
        let results = results.map_err(|source| Error::Scorer {
            task: self.task.name().to_owned(),
            source,
        })?;
        self.check_counts(&results)?;
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

    fn check_counts(&self, results: &[Scores]) -> Result<()> {
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
        count("requests", self.requests.len(), results.len())?;
        for (request, scores) in self.requests.iter().zip(results) {
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

    fn item(&self, doc: usize, item: &PreparedItem, results: &[Scores]) -> Result<Item> {
        let mut requests: Vec<usize> = item.slots.iter().map(|slot| slot.request).collect();
        requests.sort_unstable();
        requests.dedup();
        let continuations: Vec<&ContinuationScore> = item
            .slots
            .iter()
            .map(|slot| &results[slot.request].continuations[slot.continuation])
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
        let outcome = match &item.gold {
            Some(gold) => choice(
                gold,
                sums,
                continuations.iter().map(|score| score.greedy).collect(),
            ),
            None => ItemOutcome::Window {
                loglikelihood: sums.iter().sum(),
                tokens: continuations.iter().map(|score| score.logprobs.len()).sum(),
            },
        };
        Ok(Item {
            doc,
            line: item.line,
            prompt_tokens: requests
                .iter()
                .map(|&index| self.requests[index].context.len())
                .sum(),
            one_token: self.is_one_token(item),
            kv_bytes: requests.iter().map(|&index| results[index].kv_bytes).sum(),
            kv_positions: requests
                .iter()
                .map(|&index| results[index].kv_positions)
                .sum(),
            trimmed: requests.iter().any(|&index| results[index].trimmed),
            outcome,
        })
    }

    fn summary(&self, items: &[Item]) -> TaskSummary {
        TaskSummary {
            task: self.task.name().to_owned(),
            version: self.task.version(),
            task_sha256: self.task.sha256().to_owned(),
            config: self.task.config(),
            data: self.files.clone(),
            metrics: self
                .metrics
                .iter()
                .filter_map(|&name| metric(name, items))
                .collect(),
            items: items.len(),
            items_total: self.items_total,
            one_token_items: self.one_token_items(),
            scored_tokens: self
                .requests
                .iter()
                .flat_map(|request| &request.continuations)
                .map(Vec::len)
                .sum(),
            tokens_left_over: self.tokens_left_over,
            kv: KvTraffic::of(items, self.requests.len()),
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
    let per_char = || {
        loglikelihoods
            .iter()
            .zip(&gold.chars)
            .map(|(sum, &chars)| sum / chars as f64)
    };
    let acc_norm = (!gold.chars.is_empty()).then(|| best(per_char()) == gold.index);
    let acc = best(loglikelihoods.iter().copied()) == gold.index;
    ItemOutcome::Choice {
        loglikelihoods,
        greedy,
        gold: gold.index,
        acc,
        acc_norm,
    }
}

fn metric(name: MetricName, items: &[Item]) -> Option<Metric> {
    match name {
        MetricName::Acc | MetricName::AccNorm => {
            let correct: Vec<bool> = items
                .iter()
                .filter_map(|item| correct(name, &item.outcome))
                .collect();
            Metric::accuracy(name, &correct)
        }
        MetricName::TokenPerplexity => {
            let (sum, tokens) =
                items
                    .iter()
                    .fold((0.0, 0), |(sum, count), item| match item.outcome {
                        ItemOutcome::Window {
                            loglikelihood,
                            tokens,
                        } => (sum + loglikelihood, count + tokens),
                        ItemOutcome::Choice { .. } => (sum, count),
                    });
            Metric::token_perplexity(sum, tokens)
        }
    }
}

fn correct(name: MetricName, outcome: &ItemOutcome) -> Option<bool> {
    match outcome {
        ItemOutcome::Choice { acc, acc_norm, .. } => {
            if name == MetricName::AccNorm {
                *acc_norm
            } else {
                Some(*acc)
            }
        }
        ItemOutcome::Window { .. } => None,
    }
}
