//! Bodies of requests, read with patience that ends.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, Request};
use axum::response::Response;
use serde::de::DeserializeOwned;

use super::{Api, error_response, failure, rejected};
use crate::serve::error::ServeError;

/// How long a body may take to come.
const WITHIN: Duration = Duration::from_secs(30);
/// Values of a body beside a number for each token of the context. An empty value costs a byte to send and tens to
/// hold.
const VALUES: usize = 4096;

/// The body of `request`, or the answer that refuses it.
pub(super) async fn read<T: DeserializeOwned>(api: &Api, request: Request) -> Result<T, Response> {
    let (parts, body) = request.into_parts();
    let whole = Bytes::from_request(Request::from_parts(parts.clone(), body), &());
    let limit = WITHIN.min(api.generator.limits().deadline);
    let Ok(whole) = tokio::time::timeout(limit, whole).await else {
        return Err(error_response(&ServeError::Body { limit }));
    };
    let bytes = whole.map_err(|rejection| {
        let (status, message) = (rejection.status(), rejection.body_text());
        failure(status, "invalid_request_error", &message, None)
    })?;
    let (values, limit) = (values(&bytes), api.generator.context_length() + VALUES);
    if values > limit {
        return Err(error_response(&ServeError::Request {
            field: "body",
            expected: format!("at most {limit} values"),
            found: values.to_string(),
        }));
    }
    let json = Json::from_request(Request::from_parts(parts, Body::from(bytes)), &());
    match json.await {
        Ok(Json(body)) => Ok(body),
        Err(rejection) => Err(rejected(&rejection)),
    }
}

/// Values of a JSON text, counted by what separates them: never fewer than there are to hold.
fn values(json: &[u8]) -> usize {
    let (mut values, mut in_text, mut escaped) = (1, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b':' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Values and names of a parsed text.
    fn held(value: &Value) -> usize {
        1 + match value {
            Value::Array(values) => values.iter().map(held).sum(),
            Value::Object(fields) => fields.values().map(|value| 1 + held(value)).sum(),
            _ => 0,
        }
    }

    #[test]
    fn no_fewer_values_are_counted_than_a_text_has() {
        for value in [
            json!(null),
            json!([]),
            json!([[], {}, [0, 1, 2]]),
            json!({"a": [1, {"b": "x,y:[{"}], "c\"d\\": "\\", "e": ","}),
        ] {
            let text = value.to_string();
            let (counted, held) = (values(text.as_bytes()), held(&value));
            assert!(
                held <= counted && counted <= 2 * held,
                "{text}: {counted}, {held}"
            );
        }
        assert_eq!(
            values(b"\"[,[,[,\""),
            1,
            "a text is one value, whatever is in it"
        );
    }
}
