//! What clients ask for.

use serde::Deserialize;
use serde_json::Value;

use super::Api;
use crate::serve::error::{ServeError, ServeResult};
use crate::serve::generator::GenerateRequest;
use crate::serve::identity::shown;
use crate::serve::sampler::SamplingParams;

/// New tokens of a completion that does not say how many, as OpenAI has it.
const COMPLETION_TOKENS: usize = 16;
/// Texts that may end an answer, and bytes of each: what may become one of them is held back and searched at
/// every token.
const STOPS: usize = 16;
const STOP_BYTES: usize = 1024;

/// The body of `/v1/completions` or `/v1/chat/completions`, each of which ignores what only the other has. It is flat:
/// an error names its field then, and no value is held in between.
#[derive(Deserialize)]
pub(super) struct AskedBody {
    // Completions.
    prompt: Option<Prompt>,
    echo: Option<bool>,
    suffix: Option<String>,
    best_of: Option<usize>,
    // Conversations.
    messages: Option<Vec<Message>>,
    max_completion_tokens: Option<usize>,
    tools: Option<Vec<Value>>,
    response_format: Option<ResponseFormat>,
    // Both.
    model: Option<String>,
    max_tokens: Option<usize>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    seed: Option<i64>,
    n: Option<usize>,
    stop: Option<Stop>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    logprobs: Option<Value>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct ResponseFormat {
    r#type: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Some(Vec<String>),
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Option<Content>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Deserialize)]
struct ContentPart {
    r#type: String,
    text: Option<String>,
}

/// A request that has been checked.
pub(super) struct Asked {
    pub(super) generate: GenerateRequest,
    /// Texts that end the answer and are not part of it.
    pub(super) stop: Vec<String>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

impl AskedBody {
    pub(super) fn completion(mut self, api: &Api) -> ServeResult<Asked> {
        refuse("echo", "false", self.echo.filter(|&echo| echo))?;
        refuse("suffix", "none", self.suffix.take())?;
        refuse("best_of", "1", self.best_of.filter(|&n| n != 1))?;
        let prompt = match self.prompt.take() {
            None => return Err(request("prompt", "a text, or token ids", "none")),
            Some(Prompt::Text(text)) => api.tokenizer.encode_prompt(&text)?,
            Some(Prompt::Tokens(tokens)) => tokens,
            Some(Prompt::Texts(texts)) => api.tokenizer.encode_prompt(&one(texts)?)?,
            Some(Prompt::TokenLists(lists)) => one(lists)?,
        };
        self.read(api, prompt, Some(COMPLETION_TOKENS))
    }

    pub(super) fn chat(mut self, api: &Api) -> ServeResult<Asked> {
        let tools = self.tools.take().map(|tools| tools.len());
        refuse("tools", "none", tools.filter(|&tools| tools > 0))?;
        let format = self.response_format.take().map(|format| format.r#type);
        refuse(
            "response_format",
            "text",
            format.filter(|format| format != "text"),
        )?;
        let Some(template) = &api.chat else {
            return Err(request(
                "messages",
                "a checkpoint with a chat template; use /v1/completions with this one",
                "none",
            ));
        };
        let messages = self.messages.take().unwrap_or_default();
        if messages.is_empty() {
            return Err(request("messages", "at least one", 0));
        }
        let messages = messages.into_iter().map(Message::read);
        let messages: Vec<Value> = messages.collect::<ServeResult<_>>()?;
        // The template writes the tokens that begin a text itself.
        let prompt = api.tokenizer.encode(&template.prompt(&messages)?)?;
        self.max_tokens = self.max_completion_tokens.or(self.max_tokens);
        self.read(api, prompt, None)
    }

    fn read(
        self,
        api: &Api,
        prompt: Vec<u32>,
        default_tokens: Option<usize>,
    ) -> ServeResult<Asked> {
        api.check_name(self.model.as_deref())?;
        refuse("n", "1", self.n.filter(|&n| n != 1))?;
        let logprobs = self
            .logprobs
            .filter(|asked| !matches!(asked, Value::Null | Value::Bool(false)));
        refuse("logprobs", "none", logprobs)?;
        let penalty = |value: Option<f64>| value.filter(|&value| value != 0.0);
        refuse("presence_penalty", "0", penalty(self.presence_penalty))?;
        refuse("frequency_penalty", "0", penalty(self.frequency_penalty))?;
        let stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text],
            Some(Stop::Some(texts)) => texts,
        };
        if stop.len() > STOPS {
            return Err(request(
                "stop",
                &format!("at most {STOPS} texts"),
                stop.len(),
            ));
        }
        if stop.iter().any(String::is_empty) {
            return Err(request("stop", "texts that are not empty", "an empty one"));
        }
        if let Some(long) = stop.iter().find(|text| text.len() > STOP_BYTES) {
            let expected = format!("texts of at most {STOP_BYTES} bytes");
            return Err(request("stop", &expected, format!("{} bytes", long.len())));
        }
        // A context of n positions holds n + 1 tokens: the last one is chosen, never fed.
        let room = (api.generator.context_length() + 1).saturating_sub(prompt.len());
        let max_new_tokens = self.max_tokens.or(default_tokens).unwrap_or(room);
        Ok(Asked {
            generate: GenerateRequest {
                prompt,
                max_new_tokens,
                sampling: SamplingParams {
                    temperature: self.temperature.unwrap_or(1.0),
                    top_p: self.top_p.unwrap_or(1.0),
                    seed: self.seed.map(i64::cast_unsigned),
                },
                stop: api.eos.clone(),
            },
            stop,
            stream: self.stream.unwrap_or(false),
            include_usage: self
                .stream_options
                .and_then(|options| options.include_usage)
                .unwrap_or(false),
        })
    }
}

impl Message {
    fn read(self) -> ServeResult<Value> {
        let text = match self.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let texts = parts.into_iter().map(|part| match part.text {
                    Some(text) if part.r#type == "text" => Ok(text),
                    _ => Err(request("messages", "content of the type text", part.r#type)),
                });
                texts.collect::<ServeResult<String>>()?
            }
        };
        let mut message = self.rest;
        message.insert("role".to_owned(), self.role.into());
        message.insert("content".to_owned(), text.into());
        Ok(Value::Object(message))
    }
}

/// The only one.
fn one<T>(mut prompts: Vec<T>) -> ServeResult<T> {
    match (prompts.pop(), prompts.len()) {
        (Some(prompt), 0) => Ok(prompt),
        (last, others) => {
            let found = others + usize::from(last.is_some());
            Err(request("prompt", "one prompt a request", found))
        }
    }
}

/// Refuses a field that asks for what is not there.
fn refuse<T: ToString>(field: &'static str, expected: &str, found: Option<T>) -> ServeResult<()> {
    match found {
        Some(found) => Err(request(field, expected, found)),
        None => Ok(()),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "numbers and texts alike, mostly made for the call"
)]
fn request(field: &'static str, expected: &str, found: impl ToString) -> ServeError {
    ServeError::Request {
        field,
        expected: expected.to_owned(),
        found: shown(&found.to_string()),
    }
}
