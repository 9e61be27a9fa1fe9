//! The HTTP side: OpenAI's API for clients, and probes for those who look after servers.

mod body;
mod request;
mod response;
mod stop;
mod stream;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use pdtrim_core::Tokenizer;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::chat::ChatTemplate;
use super::error::{ServeError, ServeResult, with_sources};
use super::generator::Generator;
use super::identity::shown;
use super::metrics::Metrics;
use request::{Asked, AskedBody};
use response::Kind;

/// A request's longest body: so many bytes, and more for each token of the context, of which text has four to six
/// bytes on the mean. Bodies are in memory before a request has its place in the line.
const BODY: usize = 64 << 10;
const BODY_PER_TOKEN: usize = 16;
/// Texts that are made tokens at once. Meanwhile one takes up to 180 times its length (measured, one word after the
/// other).
const TOKENIZED_AT_ONCE: usize = 2;
/// Whether a server is up.
pub(super) const HEALTH: &str = "/health";

/// What the API tells of the model, and the texts around its tokens.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use pdtrim_core::testing::{TinyModel, tiny_checkpoint};
/// use pdtrim_kv::serve::{
///     ApiModel, Generator, Limits, Listener, Metrics, Security, Served, ServedParts, openai,
/// };
///
/// # #[tokio::main]
/// # async fn main() -> pdtrim_kv::serve::ServeResult<()> {
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let checkpoint = tiny_checkpoint(folder.path())?;
/// # let parts = ServedParts::dense(Arc::new(TinyModel::default().build()), "sha256:00");
/// # let served = Arc::new(Served::new(parts)?);
/// let metrics = Metrics::new();
/// let limits = Limits::default();
/// let generator = Generator::unified(served, limits, metrics.clone())?;
/// let model = ApiModel {
///     name: "tiny".to_owned(),
///     tokenizer: checkpoint.tokenizer()?,
///     chat_template: checkpoint.chat_template()?,
///     bos: checkpoint.config().bos_token_id,
///     eos: checkpoint.config().eos_token_ids.clone(),
/// };
/// let listener = Listener::bind(([127, 0, 0, 1], 8000).into(), Security::default()).await?;
/// let router = openai(generator, model)?;
/// listener.serve(router, limits, &metrics, std::future::pending()).await?;
/// # Ok(())
/// # }
/// ```
pub struct ApiModel {
    /// Its name; requests may name it or leave it out.
    pub name: String,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// The checkpoint's template for conversations.
    pub chat_template: Option<String>,
    /// The token that a text begins with.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

struct Api {
    generator: Generator,
    name: String,
    tokenizer: Tokenizer,
    chat: Option<ChatTemplate>,
    eos: Vec<u32>,
    started: u64,
    tokenizes: Semaphore,
}

/// OpenAI's `/v1/completions`, `/v1/chat/completions` and `/v1/models`, beside `/health` and `/metrics`.
///
/// # Errors
///
/// [`ServeError::Template`] for a chat template that is none.
///
/// ```
/// use std::sync::Arc;
///
/// use pdtrim_core::testing::{TinyModel, tiny_checkpoint};
/// use pdtrim_kv::serve::{
///     ApiModel, Generator, Limits, Metrics, ServeError, Served, ServedParts, openai,
/// };
///
/// # fn main() -> pdtrim_kv::serve::ServeResult<()> {
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let tokenizer = tiny_checkpoint(folder.path())?.tokenizer()?;
/// # let parts = ServedParts::dense(Arc::new(TinyModel::default().build()), "sha256:00");
/// # let served = Arc::new(Served::new(parts)?);
/// let generator = Generator::unified(served, Limits::default(), Metrics::new())?;
/// let model = ApiModel {
///     name: "tiny".to_owned(),
///     tokenizer,
///     chat_template: Some("{% for".to_owned()),
///     bos: None,
///     eos: Vec::new(),
/// };
/// // A broken template is refused before the first client comes.
/// assert!(matches!(openai(generator, model), Err(ServeError::Template { .. })));
/// # Ok(())
/// # }
/// ```
pub fn openai(generator: Generator, model: ApiModel) -> ServeResult<Router> {
    let token = |id: Option<u32>| {
        id.and_then(|id| model.tokenizer.token(id))
            .unwrap_or_default()
    };
    let (bos, eos) = (token(model.bos), token(model.eos.first().copied()));
    let body = BODY + BODY_PER_TOKEN * generator.context_length();
    // What a template puts between messages is short; one that writes more than this writes without end.
    let chat = model
        .chat_template
        .map(|template| ChatTemplate::new(template, bos, eos, 2 * body));
    let metrics = generator.metrics().clone();
    let decodes = generator.clone();
    let api = Api {
        generator,
        name: model.name,
        tokenizer: model.tokenizer,
        chat: chat.transpose()?,
        eos: model.eos,
        started: now(),
        tokenizes: Semaphore::new(TOKENIZED_AT_ONCE),
    };
    let router = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*model}", get(one_model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(body))
        .with_state(Arc::new(api));
    Ok(with_probes(router, metrics, move || decodes.is_running()))
}

/// The same routes, and `/health` and `/metrics`.
pub(super) fn with_probes(
    router: Router,
    metrics: Metrics,
    is_up: impl Fn() -> bool + Clone + Send + Sync + 'static,
) -> Router {
    let health = async move || {
        if is_up() {
            Json(json!({"status": "ok"})).into_response()
        } else {
            error_response(&ServeError::Stopped)
        }
    };
    let text = [(
        header::CONTENT_TYPE,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )];
    router
        .route(HEALTH, get(health))
        .route("/metrics", get(async move || (text, metrics.text())))
}

async fn models(State(api): State<Arc<Api>>) -> Json<Value> {
    Json(json!({"object": "list", "data": [api.model()]}))
}

async fn one_model(
    State(api): State<Arc<Api>>,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> Response {
    match api.check_name(Some(&name)) {
        Ok(()) => Json(api.model()).into_response(),
        Err(error) => error_response(&error),
    }
}

async fn not_found() -> Response {
    let message = "expected /v1/completions, /v1/chat/completions, /v1/models, /health or /metrics";
    failure(
        StatusCode::NOT_FOUND,
        "invalid_request_error",
        message,
        None,
    )
}

async fn wrong_method() -> Response {
    let message = "expected GET for /v1/models, /health and /metrics, POST for completions";
    let status = StatusCode::METHOD_NOT_ALLOWED;
    failure(status, "invalid_request_error", message, None)
}

async fn completions(State(api): State<Arc<Api>>, request: Request) -> Response {
    match body::read::<AskedBody>(&api, request).await {
        Ok(body) => {
            let asked = api.tokenize(|| body.completion(&api)).await;
            answer(api, asked, Kind::Completion).await
        }
        Err(refused) => refused,
    }
}

async fn chat_completions(State(api): State<Arc<Api>>, request: Request) -> Response {
    match body::read::<AskedBody>(&api, request).await {
        Ok(body) => {
            let asked = api.tokenize(|| body.chat(&api)).await;
            answer(api, asked, Kind::Chat).await
        }
        Err(refused) => refused,
    }
}

async fn answer(api: Arc<Api>, asked: ServeResult<Asked>, kind: Kind) -> Response {
    match asked {
        Ok(asked) => stream::answer(api, asked, kind).await,
        Err(error) => error_response(&error),
    }
}

impl Api {
    /// Reads a body's text when it is its turn.
    async fn tokenize(&self, read: impl FnOnce() -> ServeResult<Asked>) -> ServeResult<Asked> {
        let limit = self.generator.limits().max_wait;
        let turn = tokio::time::timeout(limit, self.tokenizes.acquire()).await;
        let turn = turn.map_err(|_| ServeError::Waited { limit })?;
        let _turn = turn.map_err(|_| ServeError::Stopped)?;
        read()
    }

    fn model(&self) -> Value {
        json!({"id": self.name, "object": "model", "created": self.started, "owned_by": "pdtrim",
            "max_model_len": self.generator.context_length()})
    }

    /// Refuses a request for another model.
    fn check_name(&self, name: Option<&str>) -> ServeResult<()> {
        match name {
            Some(name) if name != self.name => Err(ServeError::Request {
                field: "model",
                expected: format!("`{}`", self.name),
                found: format!("`{}`", shown(name)),
            }),
            _ => Ok(()),
        }
    }
}

fn rejected(rejection: &JsonRejection) -> Response {
    let message = rejection.body_text();
    failure(rejection.status(), "invalid_request_error", &message, None)
}

/// An error in the form that OpenAI's clients read.
pub(super) fn error_response(error: &ServeError) -> Response {
    let (status, kind) = status(error);
    let mut response = failure(status, kind, &with_sources(error), field(error));
    if error.is_of_load() {
        // Being refused is cheap on both sides; clients back off further by themselves.
        let soon = HeaderValue::from_static("1");
        response.headers_mut().insert(header::RETRY_AFTER, soon);
    }
    response
}

/// The body of such an answer.
pub(super) fn error_text(error: &ServeError) -> String {
    let (status, kind) = status(error);
    error_body(kind, &with_sources(error), field(error), status.as_u16()).to_string()
}

fn status(error: &ServeError) -> (StatusCode, &'static str) {
    match error {
        ServeError::Request { field: "model", .. } => {
            (StatusCode::NOT_FOUND, "invalid_request_error")
        }
        _ if error.is_of_request() => (StatusCode::BAD_REQUEST, "invalid_request_error"),
        ServeError::Token => (StatusCode::UNAUTHORIZED, "authentication_error"),
        ServeError::Body { .. } => (StatusCode::REQUEST_TIMEOUT, "timeout_error"),
        ServeError::Busy { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
        _ if error.is_of_load() => (StatusCode::SERVICE_UNAVAILABLE, "overloaded_error"),
        ServeError::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "server_error"),
        ServeError::Deadline { .. } => (StatusCode::GATEWAY_TIMEOUT, "timeout_error"),
        ServeError::Prefill { .. } | ServeError::Wire { .. } => {
            (StatusCode::BAD_GATEWAY, "server_error")
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    }
}

fn field(error: &ServeError) -> Option<&'static str> {
    match error {
        ServeError::Request { field, .. } => Some(field),
        _ => None,
    }
}

fn failure(status: StatusCode, kind: &str, message: &str, field: Option<&str>) -> Response {
    (
        status,
        Json(error_body(kind, message, field, status.as_u16())),
    )
        .into_response()
}

fn error_body(kind: &str, message: &str, field: Option<&str>, code: u16) -> Value {
    json!({"error": {"message": message, "type": kind, "param": field, "code": code}})
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_error_has_its_status_and_load_says_when_to_come_again() {
        let limit = Duration::from_secs(3);
        let (address, reason) = ("http://localhost:1".to_owned(), "busy".to_owned());
        let request = |field| ServeError::Request {
            field,
            expected: "a".to_owned(),
            found: "b".to_owned(),
        };
        let prefill = ServeError::Prefill {
            address: address.clone(),
            reason: reason.clone(),
            retry: false,
        };
        for (error, expected, again) in [
            (request("top_p"), 400, false),
            (request("model"), 404, false),
            (ServeError::Token, 401, false),
            (ServeError::Body { limit }, 408, false),
            (ServeError::Busy { limit: 2 }, 429, true),
            (ServeError::Waited { limit }, 503, true),
            (ServeError::Crowded { limit: 2 }, 503, true),
            (ServeError::PrefillBusy { address, reason }, 503, true),
            (ServeError::Stopped, 503, false),
            (ServeError::Panicked { stage: "decode" }, 500, false),
            (prefill, 502, false),
            (
                ServeError::Deadline {
                    limit,
                    stage: "generating",
                },
                504,
                false,
            ),
        ] {
            let response = error_response(&error);
            assert_eq!(response.status().as_u16(), expected, "{error}");
            let header = response.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(header, again, "{error}");
            let text: Value = serde_json::from_str(&error_text(&error)).unwrap();
            assert_eq!(text["error"]["code"], expected, "{error}");
        }
    }
}
