//! What clients are answered.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::serve::engine::Finish;
use crate::serve::generator::KvSent;

/// Which of the two endpoints answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Completion,
    Chat,
}

/// What all answers to one request have in common.
#[derive(Clone, Debug)]
pub(super) struct Head {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
}

impl Head {
    pub(super) fn new(kind: Kind, created: u64, model: String) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = match kind {
            Kind::Completion => "cmpl",
            Kind::Chat => "chatcmpl",
        };
        Self {
            kind,
            id: format!("{prefix}-{created:x}-{number:x}"),
            created,
            model,
        }
    }

    /// The whole answer.
    pub(super) fn whole(&self, text: &str, finish: Finish, usage: &Value) -> Value {
        let mut choice = match self.kind {
            Kind::Completion => json!({"text": text}),
            Kind::Chat => json!({"message": {"role": "assistant", "content": text}}),
        };
        choice["index"] = json!(0);
        choice["logprobs"] = Value::Null;
        choice["finish_reason"] = json!(finish);
        let object = match self.kind {
            Kind::Completion => "text_completion",
            Kind::Chat => "chat.completion",
        };
        let mut answer = self.object(object, &json!([choice]));
        answer["usage"] = usage.clone();
        answer
    }

    /// The first piece of a streamed chat says who speaks.
    pub(super) fn opening(&self) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        (self.kind == Kind::Chat).then(|| self.chunk(json!({"delta": delta}), None))
    }

    /// A piece of the text.
    pub(super) fn piece(&self, text: &str) -> Value {
        let choice = match self.kind {
            Kind::Completion => json!({"text": text}),
            Kind::Chat => json!({"delta": {"content": text}}),
        };
        self.chunk(choice, None)
    }

    /// The end of the text.
    pub(super) fn closing(&self, finish: Finish) -> Value {
        let choice = match self.kind {
            Kind::Completion => json!({"text": ""}),
            Kind::Chat => json!({"delta": {}}),
        };
        self.chunk(choice, Some(finish))
    }

    /// What was used, after the end.
    pub(super) fn usage(&self, usage: &Value) -> Value {
        let mut answer = self.object(self.chunk_object(), &json!([]));
        answer["usage"] = usage.clone();
        answer
    }

    fn chunk(&self, mut choice: Value, finish: Option<Finish>) -> Value {
        choice["index"] = json!(0);
        choice["logprobs"] = Value::Null;
        choice["finish_reason"] = json!(finish);
        self.object(self.chunk_object(), &json!([choice]))
    }

    fn chunk_object(&self) -> &'static str {
        match self.kind {
            Kind::Completion => "text_completion",
            Kind::Chat => "chat.completion.chunk",
        }
    }

    fn object(&self, object: &str, choices: &Value) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices})
    }
}

/// Tokens, and beside OpenAI's fields what crossed between the stages.
pub(super) fn usage(prompt: usize, completion: usize, sent: KvSent) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "pdtrim": {"kv_bytes": sent.kv_bytes, "wire_bytes": sent.wire_bytes,
            "prefill_seconds": sent.time.as_secs_f64()}})
}
