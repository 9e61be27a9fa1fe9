//! What can go wrong between a client, decode and prefill.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinError;
use tonic::{Code, Status};

/// Result with a [`ServeError`].
///
/// ```
/// use pdtrim_kv::serve::{ServeError, ServeResult, Token};
///
/// fn token(text: &str) -> ServeResult<Token> {
///     Token::new(text).ok_or(ServeError::Token)
/// }
///
/// assert!(token("").is_err());
/// ```
pub type ServeResult<T, E = ServeError> = std::result::Result<T, E>;

/// A request that cannot be answered, or a server that cannot be started.
///
/// ```
/// use pdtrim_kv::serve::ServeError;
///
/// let error = ServeError::Busy { limit: 16 };
/// let said = "16 requests are running or waiting, which is the limit; try again later";
/// assert_eq!(error.to_string(), said);
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The model, or its plan.
    #[error(transparent)]
    Core(#[from] pdtrim_core::Error),
    /// The KV cache could not be encoded or decoded.
    #[error(transparent)]
    Kv(#[from] crate::Error),
    /// A request that asks for what is not there.
    #[error("`{field}`: expected {expected}, found {found}")]
    Request {
        /// The request's field.
        field: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        found: String,
    },
    /// Prefill and decode were started with something else.
    #[error("{what}: prefill serves {expected}, decode asked for {found}")]
    Identity {
        /// `model`, `plan` or `dtype`.
        what: &'static str,
        /// Prefill's.
        expected: String,
        /// Decode's.
        found: String,
    },
    /// A message that does not fit the plan, or was damaged on its way.
    #[error("what prefill sent does not fit: {field}: expected {expected}, found {found}")]
    Wire {
        /// The message's field.
        field: &'static str,
        /// What follows from the plan and the prompt.
        expected: String,
        /// What came.
        found: String,
    },
    /// More requests than may wait.
    #[error("{limit} requests are running or waiting, which is the limit; try again later")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// A request whose turn did not come in time.
    #[error("no turn within {} s; try again later", .limit.as_secs_f64())]
    Waited {
        /// How long it may wait.
        limit: Duration,
    },
    /// More connections, or requests on them, than may be open.
    #[error("{limit} connections or requests are open, which is the limit; try again later")]
    Crowded {
        /// The limit.
        limit: usize,
    },
    /// Prefill has more to do than it takes on.
    #[error("prefill at {address} is busy: {reason}")]
    PrefillBusy {
        /// Where it is.
        address: String,
        /// What it said.
        reason: String,
    },
    /// A request whose body comes too slowly.
    #[error("the body was not there within {} s", .limit.as_secs_f64())]
    Body {
        /// How long it may take.
        limit: Duration,
    },
    /// A request that took too long.
    #[error("not done within {} s: {stage}", .limit.as_secs_f64())]
    Deadline {
        /// How long it had.
        limit: Duration,
        /// What it was at.
        stage: &'static str,
    },
    /// Whoever asked is gone.
    #[error("the request was given up")]
    Cancelled,
    /// A missing or wrong bearer token.
    #[error("the `authorization` header has no valid bearer token")]
    Token,
    /// Prefill cannot be reached, or broke off.
    #[error("prefill at {address}: {reason}")]
    Prefill {
        /// Where it is.
        address: String,
        /// What the connection, or prefill, said.
        reason: String,
        /// Whether the same may succeed when it is asked for again.
        retry: bool,
    },
    /// The thread that decodes is gone.
    #[error("decode has stopped")]
    Stopped,
    /// A bug. The request that met it is over; the server goes on.
    #[error("{stage} panicked; the server's log says where")]
    Panicked {
        /// What it was at.
        stage: &'static str,
    },
    /// A conversation that the checkpoint's template does not take.
    #[error("the checkpoint's chat template: {reason}")]
    Template {
        /// What the template said.
        reason: String,
    },
    /// An address that others can reach, and nothing that keeps them out.
    #[error(
        "{address} is not loopback: expected a TLS certificate, its key and a token, found no {missing}"
    )]
    Open {
        /// The address.
        address: String,
        /// What is missing.
        missing: &'static str,
    },
    /// A file that security needs.
    #[error("cannot use {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An address that cannot be used.
    #[error("{address}: {reason}")]
    Address {
        /// As it was given.
        address: String,
        /// Why.
        reason: String,
    },
    /// The server ended by itself.
    #[error("the server failed")]
    Server {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ServeError {
    /// Whether asking prefill again may help.
    pub(super) fn may_be_retried(&self) -> bool {
        match self {
            Self::Wire { .. } => true,
            Self::Prefill { retry, .. } => *retry,
            _ => false,
        }
    }

    /// Whether the request itself is at fault.
    pub(super) fn is_of_request(&self) -> bool {
        match self {
            Self::Request { .. } | Self::Template { .. } => true,
            Self::Core(error) => matches!(
                error,
                pdtrim_core::Error::NoTokens { .. }
                    | pdtrim_core::Error::ContextLength { .. }
                    | pdtrim_core::Error::TokenOutOfRange { .. }
            ),
            _ => false,
        }
    }

    /// Whether the same may succeed when there is less to do.
    pub(super) fn is_of_load(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::Waited { .. }
                | Self::Crowded { .. }
                | Self::PrefillBusy { .. }
        )
    }

    /// What became of work on another thread that gave nothing.
    pub(super) fn of_work(error: &JoinError, stage: &'static str) -> Self {
        if error.is_panic() {
            Self::Panicked { stage }
        } else {
            Self::Stopped
        }
    }

    /// Its name in metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            _ if self.is_of_request() => "refused",
            Self::Identity { .. } | Self::Token => "refused",
            _ if self.is_of_load() => "busy",
            Self::Deadline { .. } => "deadline",
            Self::Cancelled => "cancelled",
            _ => "failed",
        }
    }

    fn code(&self) -> Code {
        match self {
            _ if self.is_of_request() => Code::InvalidArgument,
            Self::Identity { .. } => Code::FailedPrecondition,
            Self::Wire { .. } => Code::DataLoss,
            _ if self.is_of_load() => Code::ResourceExhausted,
            Self::Deadline { .. } | Self::Body { .. } => Code::DeadlineExceeded,
            Self::Cancelled => Code::Cancelled,
            Self::Token => Code::Unauthenticated,
            Self::Prefill { .. } | Self::Stopped => Code::Unavailable,
            _ => Code::Internal,
        }
    }
}

impl From<ServeError> for Status {
    fn from(error: ServeError) -> Self {
        Self::new(error.code(), with_sources(&error))
    }
}

/// An error and what is behind it, in one line.
pub(super) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = inner.source();
    }
    text
}
