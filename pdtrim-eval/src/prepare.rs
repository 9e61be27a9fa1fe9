//! A task's records as requests.

use std::cmp::Reverse;
use std::num::NonZeroUsize;
use std::path::Path;

use minijinja::value::{Serde, Value};

use crate::encode::Encoder;
use crate::error::{Error, Place, Result};
use crate::format::{Content, Doc};
use crate::metric::MetricName;
use crate::render::{Rendered, Templates};
use crate::result::DataFile;
use crate::scorer::{Request, Scorer};
use crate::source::Dataset;
use crate::task::{MultipleChoice, Perplexity, Task, TaskKind};
use crate::template;

/// A task encoded for one tokenizer: the requests that every mode and boundary is measured on.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    pub(crate) task: Task,
    pub(crate) metrics: Vec<MetricName>,
    pub(crate) files: Vec<DataFile>,
    /// Longest first, so that memory runs out at once or never, and estimates of the time left err
    /// on the safe side.
    pub(crate) requests: Vec<Request>,
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
    pub(crate) gold: Option<Gold>,
}

/// A continuation among the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) request: usize,
    pub(crate) continuation: usize,
}

/// What makes an item a multiple choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gold {
    pub(crate) index: usize,
    /// Length of each choice in characters; empty for partial scoring.
    pub(crate) chars: Vec<usize>,
}

impl Prepared {
    /// Renders and encodes the first `limit` items of `dataset` with the tokenizer of `scorer`.
    ///
    /// # Errors
    ///
    /// When a record lacks a field or has a wrong label, when an item does not fit the model's
    /// context (nothing is truncated), and when the tokenizer fails.
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
            metrics: Vec::new(),
            files: dataset.files.clone(),
            requests: Vec::new(),
            items: Vec::new(),
            items_total: 0,
            tokens_left_over: None,
        };
        match (task.kind(), &dataset.content) {
            (TaskKind::MultipleChoice(choice), Content::Records(docs)) => {
                prepared.metrics.clone_from(&choice.metrics);
                prepared.items_total = docs.len();
                prepared.add_records(
                    encoder,
                    choice,
                    &dataset.path,
                    &docs[..docs.len().min(limit)],
                )?;
            }
            (TaskKind::Perplexity(windows), Content::Text(text)) => {
                prepared.metrics.push(MetricName::TokenPerplexity);
                prepared.add_windows(encoder, windows, &dataset.path, text, limit)?;
            }
            (_, content) => {
                let found = if matches!(content, Content::Text(_)) {
                    "a text"
                } else {
                    "records"
                };
                let expected = "the data that this task names";
                let (task, found) = (task.name().to_owned(), found.to_owned());
                return Err(Error::TaskField {
                    task,
                    field: "data",
                    expected: expected.to_owned(),
                    found,
                });
            }
        }
        prepared.sort_longest_first();
        Ok(prepared)
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The requests, longest first.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The number of items.
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// Items whose scored continuations are all one token long. With the boundary `prefill` nothing
    /// done to decode can change them, so a task that has any is to be reported with both boundaries.
    pub fn one_token_items(&self) -> usize {
        self.items
            .iter()
            .filter(|item| self.is_one_token(item))
            .count()
    }

    pub(crate) fn is_one_token(&self, item: &PreparedItem) -> bool {
        item.slots
            .iter()
            .all(|slot| self.requests[slot.request].continuations[slot.continuation].len() == 1)
    }

    fn add_records(
        &mut self,
        encoder: Encoder<'_>,
        choice: &MultipleChoice,
        path: &Path,
        docs: &[Doc],
    ) -> Result<()> {
        let environment = template::environment();
        let templates = Templates::new(&environment, encoder.task, choice)?;
        for doc in docs {
            let place = Place::new(path, doc.line);
            let item = templates.render(&Value::from(Serde(&doc.fields)), &place)?;
            let slots = self.add_requests(encoder, &item, &place)?;
            let gold = Gold {
                index: item.gold,
                chars: item.chars,
            };
            self.items.push(PreparedItem {
                line: Some(doc.line),
                slots,
                gold: Some(gold),
            });
        }
        Ok(())
    }

    /// Adds one request for each distinct context of an item.
    fn add_requests(
        &mut self,
        encoder: Encoder<'_>,
        item: &Rendered,
        place: &Place,
    ) -> Result<Vec<Slot>> {
        let first = self.requests.len();
        let mut slots = Vec::new();
        for context in &item.contexts {
            let context = encoder.context(context, place)?;
            let texts = item.continuations.iter();
            let continuations = texts
                .map(|text| context.continuation(text))
                .collect::<Result<Vec<_>>>()?;
            let context = context.into_tokens();
            let shared = self.requests[first..]
                .iter()
                .position(|request| request.context == context);
            let request = shared.map_or(self.requests.len(), |offset| first + offset);
            if shared.is_none() {
                self.requests.push(Request {
                    context,
                    continuations: Vec::new(),
                });
            }
            for tokens in continuations {
                check_lengths(
                    encoder,
                    &self.requests[request].context,
                    &tokens,
                    slots.len(),
                    place,
                )?;
                slots.push(Slot {
                    request,
                    continuation: self.requests[request].continuations.len(),
                });
                self.requests[request].continuations.push(tokens);
            }
        }
        Ok(slots)
    }

    fn add_windows(
        &mut self,
        encoder: Encoder<'_>,
        windows: &Perplexity,
        path: &Path,
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
                path: path.to_owned(),
                window,
                found: tokens.len(),
            });
        }
        self.items_total = tokens.len() / window;
        self.tokens_left_over = Some(tokens.len() % window);
        for tokens in tokens
            .chunks_exact(window)
            .take(limit.min(max_windows.unwrap_or(usize::MAX)))
        {
            let (context, continuation) = tokens.split_at(prompt);
            let slots = vec![Slot {
                request: self.requests.len(),
                continuation: 0,
            }];
            self.items.push(PreparedItem {
                line: None,
                slots,
                gold: None,
            });
            self.requests.push(Request {
                context: context.to_vec(),
                continuations: vec![continuation.to_vec()],
            });
        }
        Ok(())
    }

    fn sort_longest_first(&mut self) {
        let mut requests: Vec<_> = std::mem::take(&mut self.requests)
            .into_iter()
            .enumerate()
            .collect();
        requests.sort_by_key(|(_, request)| Reverse(request.tokens()));
        let mut sorted = vec![0; requests.len()];
        for (place, (index, _)) in requests.iter().enumerate() {
            sorted[*index] = place;
        }
        self.requests = requests.into_iter().map(|(_, request)| request).collect();
        for slot in self.items.iter_mut().flat_map(|item| &mut item.slots) {
            slot.request = sorted[slot.request];
        }
    }
}

fn check_lengths(
    encoder: Encoder<'_>,
    context: &[u32],
    continuation: &[u32],
    choice: usize,
    place: &Place,
) -> Result<()> {
    let max = encoder.scorer.max_tokens();
    if continuation.is_empty() {
        return Err(Error::EmptyContinuation {
            place: place.clone(),
            choice,
        });
    }
    if context.len() + continuation.len() > max {
        let (context, continuation) = (context.len(), continuation.len());
        return Err(Error::TooLong {
            place: place.clone(),
            context,
            continuation,
            max,
        });
    }
    Ok(())
}
