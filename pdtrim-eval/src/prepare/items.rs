//! Rendered records as requests.

use minijinja::value::{Serde, Value};

use super::{AnswerTo, Gold, Measure, Prepared, PreparedItem, Slot};
use crate::encode::Encoder;
use crate::error::{Error, Place, Result};
use crate::format::Doc;
use crate::render::{Rendered, Templates};
use crate::rolling;
use crate::scorer::{GenerationRequest, Request};
use crate::source::{Dataset, Examples};
use crate::task::{Task, TaskKind};
use crate::template;

/// Between worked examples.
const EXAMPLE_END: &str = "\n\n";

/// What stands in front of an item.
struct Shots<'d> {
    preamble: &'d str,
    /// Each example's record and text; one more than are wanted where they come from the task's own data.
    pool: Vec<(&'d Doc, String)>,
    count: usize,
    own: bool,
}

impl Shots<'_> {
    /// The first examples that are not `doc` itself.
    fn before(&self, doc: &Doc) -> String {
        let other = |(example, _): &&(&Doc, String)| !self.own || example.fields != doc.fields;
        let examples = self.pool.iter().filter(other).take(self.count);
        examples.fold(self.preamble.to_owned(), |text, (_, example)| {
            text + example + EXAMPLE_END
        })
    }
}

impl Prepared {
    pub(super) fn add_records(
        &mut self,
        encoder: Encoder<'_>,
        task: &Task,
        dataset: &Dataset,
        docs: &[Doc],
    ) -> Result<()> {
        let environment = template::environment();
        let templates = Templates::new(&environment, encoder.task, task.kind())?
            .expect("a task on records has templates");
        let shots = shots(task, dataset, &templates)?;
        for doc in docs {
            let place = Place::new(&dataset.path, doc.line);
            let fields = Value::from(Serde(&doc.fields));
            let rendered = templates.render(&shots.before(doc), &fields, &place)?;
            let item = self.encoded(encoder, task, rendered, &place)?;
            self.items.push(PreparedItem {
                line: Some(doc.line),
                ..item
            });
        }
        Ok(())
    }

    /// The item that a rendered record is, with its requests added.
    fn encoded(
        &mut self,
        encoder: Encoder<'_>,
        task: &Task,
        rendered: Rendered,
        place: &Place,
    ) -> Result<PreparedItem> {
        let item = |(slots, truncated_tokens), measure| PreparedItem {
            line: None,
            slots,
            truncated_tokens,
            measure,
        };
        Ok(match rendered {
            Rendered::Choice {
                contexts,
                continuations,
                chars,
                gold,
            } => {
                let requests = self.add_requests(encoder, &contexts, &continuations, place)?;
                item(requests, Measure::Choice(Gold { index: gold, chars }))
            }
            Rendered::Target { context, target } => {
                let requests = self.add_requests(encoder, &[context], &[target], place)?;
                item(requests, Measure::Target)
            }
            Rendered::Text { text, words, bytes } => {
                let slots = self.add_rolling(encoder, &text, place)?;
                let measure = Measure::Text {
                    words: Some(words),
                    bytes: Some(bytes),
                };
                item((slots, 0), measure)
            }
            Rendered::Question { context, accepted } => {
                let TaskKind::Generation(settings) = task.kind() else {
                    unreachable!("only a generation task asks questions");
                };
                let mut context = encoder.context(&context, place)?.into_tokens();
                let cut = truncate(encoder, &mut context, settings.max_tokens + 1, place)?;
                self.generations.push(GenerationRequest {
                    context,
                    max_tokens: settings.max_tokens,
                    until: settings.until.clone(),
                });
                let generation = self.generations.len() - 1;
                let answer = AnswerTo {
                    generation,
                    accepted,
                };
                item((Vec::new(), cut), Measure::Answer(answer))
            }
        })
    }

    /// Adds one request for each distinct context of an item; says where the continuations are, and how
    /// many tokens the longest cut took.
    fn add_requests(
        &mut self,
        encoder: Encoder<'_>,
        contexts: &[String],
        continuations: &[String],
        place: &Place,
    ) -> Result<(Vec<Slot>, usize)> {
        let first = self.requests.len();
        let (mut slots, mut longest_cut) = (Vec::new(), 0);
        for context in contexts {
            let context = encoder.context(context, place)?;
            for text in continuations {
                let continuation = context.continuation(text)?;
                if continuation.is_empty() {
                    return Err(Error::EmptyContinuation {
                        place: place.clone(),
                        choice: slots.len(),
                    });
                }
                let mut context = context.tokens().to_vec();
                let cut = truncate(encoder, &mut context, continuation.len(), place)?;
                longest_cut = longest_cut.max(cut);
                slots.push(self.slot(first, context, continuation));
            }
        }
        Ok((slots, longest_cut))
    }

    /// Adds a continuation to the request with this context among those from `first` on, or a new one.
    fn slot(&mut self, first: usize, context: Vec<u32>, continuation: Vec<u32>) -> Slot {
        let mut shared = self.requests[first..].iter();
        match shared.position(|request| request.context == context) {
            None => self.push(context, continuation),
            Some(offset) => {
                let request: &mut Request = &mut self.requests[first + offset];
                request.continuations.push(continuation);
                Slot {
                    request: first + offset,
                    continuation: request.continuations.len() - 1,
                }
            }
        }
    }

    fn add_rolling(
        &mut self,
        encoder: Encoder<'_>,
        text: &str,
        place: &Place,
    ) -> Result<Vec<Slot>> {
        let tokens = encoder.encode(text)?;
        if tokens.is_empty() {
            return Err(Error::EmptyContinuation {
                place: place.clone(),
                choice: 0,
            });
        }
        let windows = rolling::windows(tokens.len(), encoder.scorer.max_tokens() - 1);
        windows
            .into_iter()
            .map(|window| {
                let context = match window.context {
                    Some(context) => tokens[context].to_vec(),
                    None => vec![encoder.prefix_token(place)?],
                };
                Ok(self.push(context, tokens[window.scored].to_vec()))
            })
            .collect()
    }
}

/// Cuts `context` from the left until `others` tokens more fit the model; says by how many.
fn truncate(
    encoder: Encoder<'_>,
    context: &mut Vec<u32>,
    others: usize,
    place: &Place,
) -> Result<usize> {
    let max = encoder.scorer.max_tokens();
    if others >= max {
        return Err(Error::TooLong {
            place: place.clone(),
            continuation: others,
            max,
        });
    }
    let cut = (context.len() + others).saturating_sub(max);
    context.drain(..cut);
    Ok(cut)
}

fn shots<'d>(
    task: &'d Task,
    dataset: &'d Dataset,
    templates: &Templates<'_, '_>,
) -> Result<Shots<'d>> {
    let count = task.fewshot();
    let own = dataset.examples == Examples::Own;
    let (path, docs) = match &dataset.examples {
        Examples::None => (&dataset.path, &[][..]),
        Examples::Own => (&dataset.path, dataset.content.records()),
        Examples::Other { path, docs } => (path, &docs[..]),
    };
    let wanted = count + usize::from(own);
    if count > 0 && docs.len() < wanted {
        return Err(Error::TooFewExamples {
            path: path.clone(),
            task: task.name().to_owned(),
            expected: wanted,
            found: docs.len(),
        });
    }
    let example = |doc: &'d Doc| {
        let place = Place::new(path, doc.line);
        let fields = Value::from(Serde(&doc.fields));
        Ok((doc, templates.example(&fields, &place)?))
    };
    let pool = if count == 0 { 0 } else { wanted };
    Ok(Shots {
        preamble: task.preamble(),
        pool: docs.iter().take(pool).map(example).collect::<Result<_>>()?,
        count,
        own,
    })
}
