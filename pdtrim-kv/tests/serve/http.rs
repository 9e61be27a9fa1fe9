use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{DType, Device};
use pdtrim_core::checkpoint::{Checkpoint, seeded};
use pdtrim_core::config::Architecture;
use pdtrim_core::pipeline::PdModel;
use pdtrim_core::testing::tiny_config;
use pdtrim_core::{Boundary, ModelConfig};
use pdtrim_kv::serve::{
    ApiModel, Generator, Limits, Listener, Metrics, Security, Served, ServedParts, Token, openai,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stages::{eventually, metric};

const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content.strip() }}{% endfor %}\
    {% if messages[0].role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}>";

/// A server of a seeded model whose tokens are bytes, and that model's own words.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Metrics,
    checkpoint: Checkpoint,
    _folder: tempfile::TempDir,
}

impl Api {
    pub(crate) async fn start(security: Security) -> Self {
        Self::start_with(security, Limits::default()).await
    }

    pub(crate) async fn start_with(security: Security, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = ModelConfig {
            vocab_size: 256,
            context_length: 128,
            eos_token_ids: vec![],
            ..tiny_config(Architecture::Llama)
        };
        seeded::write(&config, 5, DType::F32, folder.path()).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let (model, tokenizer) = checkpoint
            .load_with_tokenizer(DType::F32, &Device::flex())
            .unwrap();
        let served = Served::new(ServedParts::dense(Arc::new(model), "sha256:seeded"));
        let metrics = Metrics::new();
        let served = Arc::new(served.unwrap());
        let generator = Generator::unified(served, limits, metrics.clone()).unwrap();
        let router = openai(
            generator,
            ApiModel {
                name: "seeded".to_owned(),
                tokenizer,
                chat_template: Some(TEMPLATE.to_owned()),
                bos: None,
                eos: Vec::new(),
            },
        );
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(any, security).await.unwrap();
        let address = listener.address();
        let (router, counted) = (router.unwrap(), metrics.clone());
        tokio::spawn(async move {
            let never = std::future::pending();
            listener
                .serve(router, limits, &counted, never)
                .await
                .unwrap();
        });
        Self {
            address,
            metrics,
            checkpoint,
            _folder: folder,
        }
    }

    /// What the model says after `prompt`, and in how many tokens.
    fn expected(&self, prompt: &str, tokens: usize) -> String {
        let loaded = self
            .checkpoint
            .load_with_tokenizer(DType::F32, &Device::flex());
        let (model, tokenizer) = loaded.unwrap();
        let pd = PdModel::dense(&model, Boundary::Prefill);
        let prompt = tokenizer.encode_prompt(prompt).unwrap();
        let generated = pd.generate_greedy(&prompt, tokens, &[], |_| {}).unwrap();
        tokenizer.decode(&generated.tokens).unwrap()
    }

    pub(crate) async fn send(&self, head: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{head}\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, unchunked(head, body))
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let head = format!("POST {path} HTTP/1.1");
        let (status, body) = self.send(&head, &body.to_string()).await;
        (status, serde_json::from_str(&body).unwrap())
    }
}

/// The body without the lengths of its chunks.
fn unchunked(head: &str, body: &str) -> String {
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut whole, mut rest) = (String::new(), body);
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            break;
        }
        whole += &after[..length];
        rest = &after[length + 2..];
    }
    whole
}

fn events(body: &str) -> Vec<&str> {
    let data = body.split("\n\n").filter(|event| !event.is_empty());
    data.map(|event| event.strip_prefix("data: ").unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_is_what_the_model_says_whole_and_in_pieces() {
    let api = Api::start(Security::default()).await;
    let expected = api.expected("Once", 12);
    let mut body = json!({"model": "seeded", "prompt": "Once", "max_tokens": 12, "temperature": 0});
    let (status, whole) = api.post("/v1/completions", body.clone()).await;
    assert_eq!(status, 200, "{whole}");
    assert_eq!(whole["choices"][0]["text"], json!(expected));
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["usage"]["prompt_tokens"], 4);
    assert_eq!(whole["usage"]["completion_tokens"], 12);

    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let (status, streamed) = api
        .send("POST /v1/completions HTTP/1.1", &body.to_string())
        .await;
    assert_eq!(status, 200);
    let mut pieces = events(&streamed);
    assert_eq!(pieces.pop(), Some("[DONE]"));
    let pieces: Vec<Value> = pieces
        .into_iter()
        .map(|piece| serde_json::from_str(piece).unwrap())
        .collect();
    let (usage, pieces) = pieces.split_last().unwrap();
    assert_eq!(usage["usage"]["total_tokens"], 16);
    let text = pieces
        .iter()
        .map(|piece| piece["choices"][0]["text"].as_str().unwrap());
    assert_eq!(text.collect::<String>(), expected);
    let last = pieces.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");

    // Token ids instead of text, and a text that ends the answer.
    let tokens: Vec<u32> = api.checkpoint.tokenizer().unwrap().encode("Once").unwrap();
    body = json!({"prompt": tokens, "max_tokens": 12, "temperature": 0});
    let (_, same) = api.post("/v1/completions", body.clone()).await;
    assert_eq!(same["choices"][0]["text"], json!(expected));
    let stop = expected.chars().nth(3).unwrap().to_string();
    body["stop"] = json!([stop]);
    let (_, stopped) = api.post("/v1/completions", body).await;
    let before = expected.split(&stop).next().unwrap();
    assert_eq!(stopped["choices"][0]["text"], json!(before));
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_through_the_checkpoints_template() {
    let api = Api::start(Security::default()).await;
    let expected = api.expected("[system]Be brief.[user]Hi>", 8);
    let body = json!({"max_completion_tokens": 8, "temperature": 0, "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": " Hi "}]},
    ]});
    let (status, whole) = api.post("/v1/chat/completions", body.clone()).await;
    assert_eq!(status, 200, "{whole}");
    assert_eq!(whole["choices"][0]["message"]["content"], json!(expected));
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    let mut body = body;
    body["stream"] = json!(true);
    let head = "POST /v1/chat/completions HTTP/1.1";
    let (_, streamed) = api.send(head, &body.to_string()).await;
    let mut pieces = events(&streamed);
    assert_eq!(pieces.pop(), Some("[DONE]"));
    let delta =
        |piece: &&str| serde_json::from_str::<Value>(piece).unwrap()["choices"][0]["delta"].clone();
    let deltas: Vec<Value> = pieces.iter().map(delta).collect();
    assert_eq!(deltas[0]["role"], "assistant");
    let text = deltas.iter().filter_map(|delta| delta["content"].as_str());
    assert_eq!(text.collect::<String>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_refused_by_its_field() {
    let api = Api::start(Security::default()).await;
    let chat = "/v1/chat/completions";
    for (path, change, status, named) in [
        ("/v1/completions", json!({"model": "other"}), 404, "model"),
        (
            "/v1/completions",
            json!({"max_tokens": 500}),
            400,
            "context",
        ),
        (
            "/v1/completions",
            json!({"max_tokens": 0}),
            400,
            "max_tokens",
        ),
        (
            "/v1/completions",
            json!({"temperature": 3}),
            400,
            "temperature",
        ),
        ("/v1/completions", json!({"top_p": 0}), 400, "top_p"),
        ("/v1/completions", json!({"n": 2}), 400, "`n`"),
        ("/v1/completions", json!({"logprobs": 3}), 400, "logprobs"),
        ("/v1/completions", json!({"echo": true}), 400, "echo"),
        ("/v1/completions", json!({"prompt": [300]}), 400, "300"),
        (
            "/v1/completions",
            json!({"prompt": ["a", "b"]}),
            400,
            "prompt",
        ),
        ("/v1/completions", json!({"stop": [""]}), 400, "stop"),
        (
            "/v1/completions",
            json!({"presence_penalty": 1.5}),
            400,
            "presence_penalty",
        ),
        (
            "/v1/completions",
            json!({"prompt": {"no": "text"}}),
            422,
            "prompt",
        ),
        (chat, json!({"messages": []}), 400, "messages"),
        (chat, json!({"tools": [{}]}), 400, "tools"),
        (
            chat,
            json!({"response_format": {"type": "json_object"}}),
            400,
            "response_format",
        ),
        (
            chat,
            json!({"messages": [{"role": "tool", "content": "x"}]}),
            400,
            "no tools here",
        ),
        (
            chat,
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            400,
            "image_url",
        ),
    ] {
        let mut body = json!({"prompt": "Hi", "max_tokens": 4,
            "messages": [{"role": "user", "content": "Hi"}]});
        for (field, value) in change.as_object().unwrap() {
            body[field] = value.clone();
        }
        let (found, answer) = api.post(path, body).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert_eq!(found, status, "{change}: {message}");
        assert!(message.contains(named), "{change}: {message}");
    }
    let (status, said) = api.send("POST /v1/completions HTTP/1.1", "{").await;
    assert!(status == 400 && said.contains("error"), "{status} {said}");
    // More than 128 tokens can be, however they are spelled.
    let long = json!({"prompt": "x".repeat(100_000)}).to_string();
    let (status, said) = api.send("POST /v1/completions HTTP/1.1", &long).await;
    assert!(status == 413 && said.contains("error"), "{status} {said}");
    let (status, said) = api.send("GET /v2/nothing HTTP/1.1", "").await;
    assert!(status == 404 && said.contains("/v1/completions"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_health_and_metrics_are_there_and_only_health_is_open() {
    let api = Api::start(Security {
        tls: None,
        token: Token::new("secret"),
    })
    .await;
    let get = |path: &str, token: &str| {
        let head = format!("GET {path} HTTP/1.1{token}");
        let api = &api;
        async move { api.send(&head, "").await }
    };
    let bearer = "\r\nauthorization: Bearer secret";
    assert_eq!(get("/health", "").await.0, 200);
    for path in ["/v1/models", "/metrics", "/v1/models/seeded"] {
        let (status, said) = get(path, "").await;
        assert!(status == 401 && said.contains("bearer token"), "{said}");
        assert_eq!(get(path, bearer).await.0, 200);
    }
    let (_, models) = get("/v1/models", bearer).await;
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!(models["data"][0]["id"], "seeded");
    assert_eq!(models["data"][0]["max_model_len"], 128);
    assert_eq!(get("/v1/models/other", bearer).await.0, 404);
    let (_, metrics) = get("/metrics", bearer).await;
    assert!(metrics.contains("pdtrim_requests_in_flight 0"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_in_the_middle_of_a_text_is_noticed() {
    let api = Api::start(Security::default()).await;
    let body = json!({"prompt": "Hi", "max_tokens": 120, "stream": true}).to_string();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let length = body.len();
        let head =
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
        let request = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut some = [0; 200];
        stream.read_exact(&mut some).await.unwrap();
        drop(stream);
    }
    eventually("nothing is in flight", || {
        metric(&api.metrics, "pdtrim_requests_in_flight") < 0.5
    })
    .await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (status, _) = api
        .post("/v1/completions", json!({"prompt": "Hi", "max_tokens": 2}))
        .await;
    assert_eq!(status, 200);
}
