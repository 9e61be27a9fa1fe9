//! The secret that clients show.

use std::fmt;
use std::path::Path;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use pdtrim_core::hash::sha256;
use subtle::ConstantTimeEq as _;
use tonic::metadata::{Ascii, MetadataValue};

use super::super::error::{ServeError, ServeResult};
use super::super::http::HEALTH;
use super::refusal;

/// A secret that a client shows with each request. Neither it nor its header is shown by `Debug`.
///
/// ```
/// use pdtrim_kv::serve::Token;
///
/// let token = Token::new("a-secret").expect("visible characters");
/// // It is not printed by mistake.
/// assert!(!format!("{token:?}").contains("a-secret"));
/// assert!(Token::new("two words").is_none());
/// ```
#[derive(Clone)]
pub struct Token {
    header: MetadataValue<Ascii>,
    sha256: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// The token in a file, without the white space around it.
    ///
    /// # Errors
    ///
    /// [`ServeError::File`] if it cannot be read, is empty, or is not of visible ASCII characters.
    pub fn read(path: &Path) -> ServeResult<Self> {
        let text = pdtrim_core::read_text(path, pdtrim_core::limits::CONFIG)?;
        Self::new(text.trim()).ok_or_else(|| ServeError::File {
            path: path.to_owned(),
            reason: "expected a token of visible ASCII characters".to_owned(),
        })
    }

    /// `None` for one that is empty or not of visible ASCII characters.
    pub fn new(token: &str) -> Option<Self> {
        let visible = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let bearer = visible.then(|| format!("Bearer {token}"))?;
        let mut header: MetadataValue<Ascii> = bearer.parse().ok()?;
        // Kept out of `Debug` and of the tables by which HTTP/2 compresses headers.
        header.set_sensitive(true);
        Some(Self {
            header,
            sha256: sha256(bearer.as_bytes()),
        })
    }

    pub(in super::super) fn bearer(&self) -> MetadataValue<Ascii> {
        self.header.clone()
    }

    /// Whether a request shows it. Hashes are compared, and all of their bytes each time: how long that takes says
    /// nothing of the token, nor of its length.
    fn is_shown(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION);
        shown.is_some_and(|shown| {
            let shown = sha256(shown.as_bytes());
            shown.as_bytes().ct_eq(self.sha256.as_bytes()).into()
        })
    }
}

/// Refuses requests without the token. Whether a server is up is no secret.
pub(super) async fn check(State(token): State<Token>, request: Request, next: Next) -> Response {
    if request.uri().path() == HEALTH || token.is_shown(request.headers()) {
        return next.run(request).await;
    }
    let mut response = refusal(request.headers(), ServeError::Token);
    let scheme = HeaderValue::from_static("Bearer");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, scheme);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        let value = HeaderValue::from_static(value);
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[test]
    fn only_the_whole_token_opens() {
        let token = Token::new("sesame").unwrap();
        assert!(token.is_shown(&headers("Bearer sesame")));
        for wrong in [
            "Bearer sesam",
            "Bearer sesamee",
            "Bearer Sesame",
            "sesame",
            "Basic sesame",
            "",
        ] {
            assert!(!token.is_shown(&headers(wrong)), "{wrong}");
        }
        assert!(!token.is_shown(&HeaderMap::new()));
    }

    #[test]
    fn neither_the_token_nor_its_header_is_shown() {
        let token = Token::new("sesame").unwrap();
        let shown = format!("{token:?} {:?}", token.bearer());
        assert!(!shown.contains("sesame"), "{shown}");
    }
}
