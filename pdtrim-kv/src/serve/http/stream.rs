//! Answers, whole or piece by piece.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::mpsc::{Receiver, channel};
use tokio_stream::wrappers::ReceiverStream;

use super::request::Asked;
use super::response::{Head, Kind, usage};
use super::stop::StopTexts;
use super::{Api, error_body, error_response, now};
use crate::serve::engine::Finish;
use crate::serve::error::{ServeError, ServeResult, with_sources};
use crate::serve::generator::{Event, Events};

/// Pieces that wait for a slow reader; what comes after them waits as tokens.
const PIECES_AHEAD: usize = 16;

pub(super) async fn answer(api: Arc<Api>, asked: Asked, kind: Kind) -> Response {
    let prompt = asked.generate.prompt.len();
    let events = match api.generator.start(asked.generate).await {
        Ok(events) => events,
        Err(error) => return error_response(&error),
    };
    let head = Head::new(kind, now(), api.name.clone());
    let text = Text {
        api,
        prompt,
        events,
        stop: StopTexts::new(asked.stop),
        tokens: 0,
    };
    if asked.stream {
        let pieces = stream(text, head, asked.include_usage);
        let events = Sse::new(ReceiverStream::new(pieces));
        return events.keep_alive(KeepAlive::default()).into_response();
    }
    match text.whole().await {
        Ok((text, finish, usage)) => Json(head.whole(&text, finish, &usage)).into_response(),
        Err(error) => error_response(&error),
    }
}

/// The text of a request as it comes.
struct Text {
    api: Arc<Api>,
    prompt: usize,
    events: Events,
    stop: StopTexts,
    tokens: usize,
}

/// What comes of a token.
enum Piece {
    Text(String),
    End(String, Finish),
}

impl Text {
    async fn whole(mut self) -> ServeResult<(String, Finish, Value)> {
        let mut whole = String::new();
        let api = Arc::clone(&self.api);
        let mut decoder = api.tokenizer.stream();
        loop {
            match self.next(&mut decoder).await? {
                Piece::Text(text) => whole += &text,
                Piece::End(text, finish) => return Ok((whole + &text, finish, self.usage())),
            }
        }
    }

    async fn next(
        &mut self,
        decoder: &mut pdtrim_core::tokenizer::TextStream<'_>,
    ) -> ServeResult<Piece> {
        match self.events.next().await {
            Event::Token(token) => {
                self.tokens += 1;
                let (text, stopped) = self.stop.push(&decoder.push(token)?);
                Ok(if stopped {
                    Piece::End(text, Finish::Stop)
                } else {
                    Piece::Text(text)
                })
            }
            Event::Done(finish) => {
                let (text, stopped) = self.stop.push(&decoder.finish()?);
                if stopped {
                    return Ok(Piece::End(text, Finish::Stop));
                }
                Ok(Piece::End(text + &self.stop.finish(), finish))
            }
            Event::Failed(error) => Err(error),
        }
    }

    fn usage(&self) -> Value {
        usage(self.prompt, self.tokens, self.events.sent())
    }
}

/// Sends pieces until the text ends or nobody reads them; the request is given up then.
fn stream(
    mut text: Text,
    head: Head,
    include_usage: bool,
) -> Receiver<Result<SseEvent, Infallible>> {
    let (sender, receiver) = channel(PIECES_AHEAD);
    let due = text.events.due();
    tokio::spawn(async move {
        let api = Arc::clone(&text.api);
        let mut decoder = api.tokenizer.stream();
        let mut pieces: VecDeque<Value> = head.opening().into_iter().collect();
        let mut ended = false;
        loop {
            while let Some(piece) = pieces.pop_front() {
                let sent = due.within("sending", sender.send(Ok(event(&piece))));
                // Nobody reads, or not fast enough: the answer ends without its last line.
                if !matches!(sent.await, Ok(Ok(()))) {
                    return;
                }
            }
            if ended {
                let done = SseEvent::default().data("[DONE]");
                let _ = due.within("sending", sender.send(Ok(done))).await;
                return;
            }
            let next = tokio::select! {
                next = text.next(&mut decoder) => next,
                () = sender.closed() => return,
            };
            match next {
                Ok(Piece::Text(text)) if text.is_empty() => {}
                Ok(Piece::Text(text)) => pieces.push_back(head.piece(&text)),
                Ok(Piece::End(last, finish)) => {
                    if !last.is_empty() {
                        pieces.push_back(head.piece(&last));
                    }
                    pieces.push_back(head.closing(finish));
                    if include_usage {
                        pieces.push_back(head.usage(&text.usage()));
                    }
                    ended = true;
                }
                Err(error) => {
                    pieces.push_back(failed(&error));
                    ended = true;
                }
            }
        }
    });
    receiver
}

fn failed(error: &ServeError) -> Value {
    error_body("server_error", &with_sources(error), None, 500)
}

fn event(piece: &Value) -> SseEvent {
    SseEvent::default().data(piece.to_string())
}
