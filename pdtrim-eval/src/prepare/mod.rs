//! A task's records as requests.

mod items;

use std::cmp::Reverse;
use std::num::NonZeroUsize;

use crate::answer::Accepted;
use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::format::Content;
use crate::result::DataFile;
use crate::scorer::{GenerationRequest, Request, Scorer};
use crate::source::Dataset;
use crate::task::{Perplexity, Task, TaskKind};

/// A task encoded for one tokenizer: the requests that every mode and boundary is measured on.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use pdtrim_eval::{Dataset, Execution, Folders, Prepared, Task, Uniform};
///
/// // Encoded once; every mode is measured on the same tokens.
/// let task = Task::bundled("everyday")?;
/// let dataset = Dataset::load(&task, &Folders::default())?;
/// let prepared = Prepared::new(&task, &dataset, &Uniform, NonZeroUsize::new(8))?;
/// assert_eq!((prepared.items(), prepared.one_token_items()), (8, 0));
/// let result = prepared.evaluate(&Uniform, &Execution::default())?;
/// assert_eq!(result.items.len(), 8);
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    pub(crate) task: Task,
    pub(crate) files: Vec<DataFile>,
    /// Longest first, so that memory runs out at once or never, and estimates of the time left err
    /// on the safe side.
    pub(crate) requests: Vec<Request>,
    /// Longest first.
    pub(crate) generations: Vec<GenerationRequest>,
    /// In the data's order.
    pub(crate) items: Vec<PreparedItem>,
    pub(crate) items_total: usize,
    /// Tokens of a text that do not fill a window.
    pub(crate) tokens_left_over: Option<usize>,
}

/// One item: a record, or a window of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PreparedItem {
    /// The record's line; none for a window.
    pub(crate) line: Option<usize>,
    /// Where its continuations are.
    pub(crate) slots: Vec<Slot>,
    /// Tokens cut off from the left of its contexts.
    pub(crate) truncated_tokens: usize,
    pub(crate) measure: Measure,
}

/// A continuation among the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) request: usize,
    pub(crate) continuation: usize,
}

/// What is made of an item's scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    Choice(Gold),
    Target,
    Text {
        words: Option<usize>,
        bytes: Option<usize>,
    },
    Answer(AnswerTo),
}

/// What makes an item a multiple choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gold {
    pub(crate) index: usize,
    /// Length of each choice in characters; empty for partial scoring.
    pub(crate) chars: Vec<usize>,
}

/// The answer to one of the generation requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnswerTo {
    pub(crate) generation: usize,
    pub(crate) accepted: Accepted,
}

impl Prepared {
    /// Renders and encodes the first `limit` items of `dataset` with the tokenizer of `scorer`.
    ///
    /// A context that is longer than the model is cut from the left, as lm-evaluation-harness does, and
    /// counted; a continuation never is.
    ///
    /// # Errors
    ///
    /// When a record lacks a field or has a wrong label, when there are too few worked examples, when a
    /// continuation alone does not fit the model's context, and when the tokenizer fails.
    pub fn new(
        task: &Task,
        dataset: &Dataset,
        scorer: &dyn Scorer,
        limit: Option<NonZeroUsize>,
    ) -> Result<Self> {
        let limit = limit.map_or(usize::MAX, NonZeroUsize::get);
        let encoder = Encoder {
            scorer,
            task: task.name(),
        };
        let mut prepared = Self {
            task: task.clone(),
            files: dataset.files.clone(),
            requests: Vec::new(),
            generations: Vec::new(),
            items: Vec::new(),
            items_total: 0,
            tokens_left_over: None,
        };
        match (task.kind(), &dataset.content) {
            (TaskKind::Perplexity(windows), Content::Text(text)) => {
                prepared.add_windows(encoder, windows, dataset, text, limit)?;
            }
            (TaskKind::Perplexity(_), Content::Records(_)) => {
                return Err(other_data(task, "records"));
            }
            (_, Content::Text(_)) => return Err(other_data(task, "a text")),
            (_, Content::Records(docs)) => {
                prepared.items_total = docs.len();
                prepared.add_records(encoder, task, dataset, &docs[..docs.len().min(limit)])?;
            }
        }
        prepared.sort_longest_first();
        Ok(prepared)
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The requests for log-likelihoods, longest first.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The requests for answers, longest first.
    pub fn generations(&self) -> &[GenerationRequest] {
        &self.generations
    }

    /// Tokens of all prompts, one list for each context that crosses to decode.
    pub fn prompts(&self) -> impl Iterator<Item = &[u32]> {
        let scored = self.requests.iter().map(|request| &request.context[..]);
        let asked = self.generations.iter().map(|request| &request.context[..]);
        scored.chain(asked)
    }

    /// The number of items.
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// Positions to compute in all, answers at their longest.
    pub fn tokens(&self) -> usize {
        let scored: usize = self.requests.iter().map(Request::tokens).sum();
        let generated: usize = self.generations.iter().map(GenerationRequest::tokens).sum();
        scored + generated
    }

    /// Items whose scored continuations are all one token long. With the boundary `prefill` nothing
    /// done to decode can change them, so a task that has any is to be reported with both boundaries.
    pub fn one_token_items(&self) -> usize {
        self.items
            .iter()
            .filter(|item| self.is_one_token(item))
            .count()
    }

    /// Items of which tokens were cut off to fit the model's context.
    pub fn truncated_items(&self) -> usize {
        let cut = |item: &&PreparedItem| item.truncated_tokens > 0;
        self.items.iter().filter(cut).count()
    }

    pub(crate) fn is_one_token(&self, item: &PreparedItem) -> bool {
        let one =
            |slot: &Slot| self.requests[slot.request].continuations[slot.continuation].len() == 1;
        match &item.measure {
            Measure::Answer(answer) => self.generations[answer.generation].max_tokens == 1,
            _ => item.slots.iter().all(one),
        }
    }

    fn add_windows(
        &mut self,
        encoder: Encoder<'_>,
        windows: &Perplexity,
        dataset: &Dataset,
        text: &str,
        limit: usize,
    ) -> Result<()> {
        let Perplexity {
            window,
            prompt,
            max_windows,
        } = *windows;
        let max = encoder.scorer.max_tokens();
        if window > max {
            return Err(Error::WindowTooLong {
                task: encoder.task.to_owned(),
                window,
                max,
            });
        }
        let tokens = encoder.encode(text)?;
        if tokens.len() < window {
            return Err(Error::TextTooShort {
                path: dataset.path.clone(),
                window,
                found: tokens.len(),
            });
        }
        self.items_total = tokens.len() / window;
        self.tokens_left_over = Some(tokens.len() % window);
        let most = limit.min(max_windows.unwrap_or(usize::MAX));
        for tokens in tokens.chunks_exact(window).take(most) {
            let (context, continuation) = tokens.split_at(prompt);
            let slot = self.push(context.to_vec(), continuation.to_vec());
            self.items.push(PreparedItem {
                line: None,
                slots: vec![slot],
                truncated_tokens: 0,
                measure: Measure::Text {
                    words: None,
                    bytes: None,
                },
            });
        }
        Ok(())
    }

    /// Adds a request with one continuation.
    fn push(&mut self, context: Vec<u32>, continuation: Vec<u32>) -> Slot {
        self.requests.push(Request {
            context,
            continuations: vec![continuation],
        });
        Slot {
            request: self.requests.len() - 1,
            continuation: 0,
        }
    }

    fn sort_longest_first(&mut self) {
        let requests = sort_longest_first(&mut self.requests, Request::tokens);
        let generations = sort_longest_first(&mut self.generations, GenerationRequest::tokens);
        for item in &mut self.items {
            for slot in &mut item.slots {
                slot.request = requests[slot.request];
            }
            if let Measure::Answer(answer) = &mut item.measure {
                answer.generation = generations[answer.generation];
            }
        }
    }
}

/// Sorts, and says where each went.
fn sort_longest_first<T>(list: &mut Vec<T>, tokens: fn(&T) -> usize) -> Vec<usize> {
    let mut numbered: Vec<_> = std::mem::take(list).into_iter().enumerate().collect();
    numbered.sort_by_key(|(_, one)| Reverse(tokens(one)));
    let mut places = vec![0; numbered.len()];
    for (place, (index, _)) in numbered.iter().enumerate() {
        places[*index] = place;
    }
    *list = numbered.into_iter().map(|(_, one)| one).collect();
    places
}

fn other_data(task: &Task, found: &str) -> Error {
    Error::TaskField {
        task: task.name().to_owned(),
        field: "data",
        expected: "the data that this task names".to_owned(),
        found: found.to_owned(),
    }
}
