//! The HTTP side: OpenAI's API for clients, and probes for those who look after servers.

mod request;
mod response;
mod stop;
mod stream;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use pdtrim_core::Tokenizer;
use serde_json::{Value, json};

use super::chat::ChatTemplate;
use super::error::{ServeError, ServeResult};
use super::generator::Generator;
use super::metrics::Metrics;
use request::{Asked, ChatBody, CompletionBody};
use response::Kind;

/// A request's longest body: so many bytes, and more for each token of the context. Bodies are in memory before
/// a request has its place in the line.
const BODY: usize = 64 << 10;
const BODY_PER_TOKEN: usize = 64;

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
/// let generator = Generator::unified(served, Limits::default(), metrics.clone())?;
/// let model = ApiModel {
///     name: "tiny".to_owned(),
///     tokenizer: checkpoint.tokenizer()?,
///     chat_template: checkpoint.chat_template()?,
///     bos: checkpoint.config().bos_token_id,
///     eos: checkpoint.config().eos_token_ids.clone(),
/// };
/// let listener = Listener::bind(([127, 0, 0, 1], 8000).into(), Security::default()).await?;
/// listener.serve(openai(generator, model)?, &metrics, std::future::pending()).await?;
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
    let chat = model
        .chat_template
        .map(|template| ChatTemplate::new(template, bos, eos));
    let metrics = generator.metrics().clone();
    let body = BODY + BODY_PER_TOKEN * generator.context_length();
    let api = Api {
        generator,
        name: model.name,
        tokenizer: model.tokenizer,
        chat: chat.transpose()?,
        eos: model.eos,
        started: now(),
    };
    let router = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*model}", get(one_model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(body))
        .with_state(Arc::new(api));
    Ok(with_probes(router, metrics))
}

/// The same routes, and `/health` and `/metrics`.
pub(super) fn with_probes(router: Router, metrics: Metrics) -> Router {
    let text = [(
        header::CONTENT_TYPE,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )];
    router
        .route("/health", get(async || Json(json!({"status": "ok"}))))
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

async fn completions(
    State(api): State<Arc<Api>>,
    body: Result<Json<CompletionBody>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(body)) => {
            let asked = body.read(&api);
            answer(api, asked, Kind::Completion).await
        }
        Err(rejection) => rejected(&rejection),
    }
}

async fn chat_completions(
    State(api): State<Arc<Api>>,
    body: Result<Json<ChatBody>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(body)) => {
            let asked = body.read(&api);
            answer(api, asked, Kind::Chat).await
        }
        Err(rejection) => rejected(&rejection),
    }
}

async fn answer(api: Arc<Api>, asked: ServeResult<Asked>, kind: Kind) -> Response {
    match asked {
        Ok(asked) => stream::answer(api, asked, kind).await,
        Err(error) => error_response(&error),
    }
}

impl Api {
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
                found: format!("`{name}`"),
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
    let (status, kind) = match error {
        ServeError::Request { field: "model", .. } => {
            (StatusCode::NOT_FOUND, "invalid_request_error")
        }
        _ if error.is_of_request() => (StatusCode::BAD_REQUEST, "invalid_request_error"),
        ServeError::Token => (StatusCode::UNAUTHORIZED, "authentication_error"),
        ServeError::Busy { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
        ServeError::Deadline { .. } => (StatusCode::GATEWAY_TIMEOUT, "timeout_error"),
        ServeError::Prefill { .. } | ServeError::Wire { .. } => {
            (StatusCode::BAD_GATEWAY, "server_error")
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    };
    let field = match error {
        ServeError::Request { field, .. } => Some(*field),
        _ => None,
    };
    failure(status, kind, &super::error::with_sources(error), field)
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
