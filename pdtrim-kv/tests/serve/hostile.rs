//! Clients that mean no good: each costs a bounded time and place, and others are served.

use std::time::Duration;

use pdtrim_kv::serve::{Limits, Security};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::frames::{Frames, GO_AWAY};
use crate::http::Api;
use crate::security::certificate;
use crate::stages::{eventually, metric};

/// Waits for a silent client no longer than a second, and has 66 connections.
fn impatient() -> Limits {
    Limits {
        in_flight: 1,
        waiting: 1,
        batch: 1,
        deadline: Duration::from_secs(1),
        ..Limits::default()
    }
}

async fn impatient_api() -> Api {
    Api::start_with(Security::default(), impatient()).await
}

/// What the server says until it closes the connection.
async fn to_the_end(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let end = stream.read_to_end(&mut said);
    let ended = tokio::time::timeout(Duration::from_secs(30), end).await;
    // A connection that is reset has ended as well.
    assert!(ended.is_ok(), "the server closes the connection");
    String::from_utf8_lossy(&said).into_owned()
}

async fn is_served(api: &Api) {
    let body = json!({"prompt": "Hi", "max_tokens": 2});
    let (status, answer) = api.post("/v1/completions", body).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_are_counted_turned_away_and_closed() {
    let api = impatient_api().await;
    let limit = impatient().open();
    let beginnings: [&[u8]; 4] = [
        b"",
        b"P",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: lo",
    ];
    let mut held = Vec::new();
    for beginning in beginnings.iter().cycle().take(limit) {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        held.push(stream);
    }
    // They are let in in the order in which they came.
    let mut late = TcpStream::connect(api.address).await.unwrap();
    let said = to_the_end(&mut late).await;
    assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
    assert!(
        said.contains("retry-after: 1") && said.contains(&limit.to_string()),
        "{said}"
    );
    let (_, body) = said.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["error"]["code"], 503);
    let turned_away = metric(&api.metrics, "pdtrim_connections_turned_away_total");
    assert!(turned_away > 0.5);
    for stream in &mut held {
        to_the_end(stream).await;
    }
    is_served(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_stops_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, _) = certificate(folder.path());
    let (tls, token) = (Some(tls), None);
    let api = Api::start_with(Security { tls, token }, impatient()).await;
    for beginning in [&b""[..], b"\x16\x03\x01\x02\0"] {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        to_the_end(&mut stream).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_is_not_waited_for() {
    let api = impatient_api().await;
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
    let begun = format!("{head}\r\ncontent-length: 40\r\n\r\n{{\"prompt\":");
    stream.write_all(begun.as_bytes()).await.unwrap();
    let said = to_the_end(&mut stream).await;
    assert!(
        said.starts_with("HTTP/1.1 408 ") && said.contains("within 1 s"),
        "{said}"
    );
    is_served(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_reads_nothing_lets_its_cache_go_at_once_and_is_cut_off() {
    let api = impatient_api().await;
    let body = json!({"prompt": "Hi", "max_tokens": 100, "stream": true}).to_string();
    let mut client = Frames::connect(api.address, 0).await;
    assert!(client.post(1, "/v1/completions", Some(&body)).await);
    eventually("the text is complete, and nothing of it held", || {
        let done = metric(&api.metrics, "pdtrim_requests_total{outcome=\"done\"}");
        done > 0.5 && metric(&api.metrics, "pdtrim_requests_in_flight") < 0.5
    })
    .await;
    // The only place is free for others, before and after the connection is closed.
    is_served(&api).await;
    client.until_end().await;
    is_served(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_has_its_answer_if_it_reads_in_time() {
    let api = Api::start(Security::default()).await;
    let body = json!({"prompt": "Hi", "max_tokens": 20, "stream": true}).to_string();
    let mut client = Frames::connect(api.address, 0).await;
    assert!(client.post(1, "/v1/completions", Some(&body)).await);
    eventually("the text is complete", || {
        metric(&api.metrics, "pdtrim_requests_total{outcome=\"done\"}") > 0.5
    })
    .await;
    client.open_window(1, 1 << 20).await;
    let said = String::from_utf8(client.answer(1).await).unwrap();
    assert!(said.ends_with("data: [DONE]\n\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_opened_and_left_or_reset_harm_nobody_else() {
    let api = impatient_api().await;
    // More requests than may be open: those beyond are refused, and the rest end with their bodies' time.
    let mut many = Frames::connect(api.address, 1 << 16).await;
    for stream in 0..200 {
        many.post(2 * stream + 1, "/v1/completions", None).await;
    }
    is_served_or_crowded(&api).await;
    many.until_end().await;
    // A stream that is reset before it is answered costs next to nothing to send; too many end the connection.
    let mut flood = Frames::connect(api.address, 1 << 16).await;
    for stream in 0..20_000 {
        let id = 2 * stream + 1;
        let sent = flood.post(id, "/v1/completions", None).await && flood.reset(id).await;
        if !sent {
            break;
        }
    }
    let kinds = flood.until_end().await;
    assert!(kinds.contains(&GO_AWAY) || kinds.is_empty(), "{kinds:?}");
    is_served(&api).await;
}

/// There may be no room at the moment; there is nothing else that may happen.
async fn is_served_or_crowded(api: &Api) {
    let body = json!({"prompt": "Hi", "max_tokens": 2});
    let (status, answer) = api.post("/v1/completions", body).await;
    assert!(status == 200 || status == 503, "{status} {answer}");
}

/// The status of the answer to these bytes.
async fn status(api: &Api, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    // A server that has refused the head does not read the rest.
    let _ = stream.write_all(bytes).await;
    let said = to_the_end(&mut stream).await;
    let status = said
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{said}")), said)
}

fn posted(body: &[u8]) -> Vec<u8> {
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close";
    let length = body.len();
    let head =
        format!("{head}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_none_are_refused_with_a_4xx() {
    let api = Api::start(Security::default()).await;
    let get = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}\r\n")
            .into_bytes()
    };
    let long = "x".repeat(100_000);
    for (bytes, expected) in [
        (b"\x16\x03\x01 this is TLS, say\r\n\r\n".to_vec(), 400),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), 400),
        (get("/v1/models/%ff%fe", ""), 400),
        (get(&format!("/{long}"), ""), 431),
        (get("/health", &format!("x: {long}\r\n")), 431),
        (get("/health", &"x: y\r\n".repeat(500)), 431),
        (get("/v1/completions", ""), 405),
        (get("/..%2f..%2fetc/passwd", ""), 404),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: -1\r\n\r\n".to_vec(), 400),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_vec(), 400),
        (b"POST /v1/completions HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\ncontent-type: application/json\r\n\r\nzz\r\n".to_vec(), 400),
    ] {
        let (found, said) = status(&api, &bytes).await;
        assert_eq!(found, expected, "{said}");
    }
    is_served(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_none_are_refused_with_a_4xx_and_not_repeated() {
    let api = Api::start(Security::default()).await;
    let text = |value: Value| value.to_string().into_bytes();
    let nested = [b"{\"prompt\":".as_slice(), &b"[".repeat(3000)].concat();
    let many = text(json!({"prompt": "Hi", "logit_bias": vec![0; 5000]}));
    let most = u64::MAX;
    for (body, expected, named) in [
        (Vec::new(), 400, "EOF"),
        (b"{\"prompt\":\"\xff\xfe\"}".to_vec(), 400, "invalid"),
        (b"{\"prompt\":\"\\ud800\"}".to_vec(), 400, "hex escape"),
        (
            b"{\"prompt\":\"Hi\",\"max_tokens\":1e999}".to_vec(),
            400,
            "number",
        ),
        (
            text(json!({"prompt": "Hi", "max_tokens": most})),
            400,
            "context",
        ),
        (
            text(json!({"prompt": "Hi", "max_tokens": 1e20})),
            422,
            "max_tokens: invalid type",
        ),
        (
            text(json!({"prompt": "Hi", "max_tokens": -1})),
            422,
            "max_tokens: invalid value",
        ),
        (text(json!({"max_tokens": 1})), 400, "prompt"),
        (text(json!({"prompt": ["a", "b", "c"]})), 400, "found 3"),
        (text(json!({"prompt": [most]})), 422, "prompt"),
        (text(json!({"prompt": []})), 400, "prompt"),
        (
            text(json!({"prompt": "Hi", "model": "m".repeat(5000)})),
            404,
            "mmm…",
        ),
        (
            text(json!({"prompt": "Hi", "suffix": "s".repeat(5000)})),
            400,
            "sss…",
        ),
        (
            text(json!({"prompt": "Hi", "stop": "s".repeat(2000)})),
            400,
            "1024 bytes",
        ),
        (nested, 400, "recursion"),
        (many, 400, "4224 values"),
        (b"null".to_vec(), 422, "null"),
    ] {
        let (found, said) = status(&api, &posted(&body)).await;
        assert_eq!(found, expected, "{said}");
        assert!(said.contains(named), "{named}: {said}");
        assert!(said.len() < 2000, "{} bytes", said.len());
    }
    let plain = String::from_utf8(posted(b"{}")).unwrap();
    let plain = plain.replace("application/json", "text/plain");
    assert_eq!(status(&api, plain.as_bytes()).await.0, 415);
    is_served(&api).await;
}
