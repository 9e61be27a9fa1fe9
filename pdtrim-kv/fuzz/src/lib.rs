//! What a fuzzer does with an input, and a test with each file of the corpus: what decode does with prefill's
//! messages, and the server with a client's body. Refusals are fine; a panic, a 5xx, or more memory than [`bounded`]
//! allows, is not.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use burn::tensor::{DType, Device};
use pdtrim_core::checkpoint::{Checkpoint, seeded};
use pdtrim_core::config::Architecture;
use pdtrim_core::model::BlockModel;
use pdtrim_core::testing::{TinyModel, tiny_config};
use pdtrim_core::{
    BlockId, BlockKv, BlockSet, Boundary, KvEncoding, KvFill, KvPlan, ModelConfig, PerStage,
    TokenSpan,
};
use pdtrim_kv::serve::{
    ApiModel, Generator, Limits, Metrics, Router, Served, ServedParts, openai, replay,
};
use peak_alloc::PeakAlloc;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Tokens of the prompt whose keys and values [`wire`] expects.
pub const PROMPT: usize = 12;

/// What messages may take beside twice their size: the largest message in parts, and the keys and values of the
/// prompt.
pub const WIRE_BYTES: usize = 16 << 20;

/// What a body may take beside twice its size: the longest body (64.5 KiB) in tokens of a word each, and a text of
/// 32 tokens.
pub const HTTP_BYTES: usize = 32 << 20;

const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content.strip() }}{% if m.name %}({{ m.name }}){% endif %}\
    {% endfor %}{% if messages[0].role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}>";

/// Runs `work` on an input of `len` bytes, and panics if it took more memory than `2 * len + fixed` at any
/// time. Returns how much it took.
pub fn bounded(len: usize, fixed: usize, work: impl FnOnce()) -> usize {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    work();
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    let most = 2 * len + fixed;
    assert!(
        taken <= most,
        "{len} bytes took {taken}, at most {most} are allowed"
    );
    taken
}

/// An answer of prefill in gRPC's frames. The first byte chooses one of [`served`]. Returns the memory it took.
pub fn wire(data: &[u8]) -> usize {
    static SERVED: OnceLock<Vec<Served>> = OnceLock::new();
    let all = SERVED.get_or_init(|| (0..PLANS).map(served).collect());
    let Some((&first, frames)) = data.split_first() else {
        return 0;
    };
    let served = &all[usize::from(first) % all.len()];
    bounded(data.len(), WIRE_BYTES, || {
        if let Ok(kv_bytes) = replay::receive(served, PROMPT, frames) {
            assert_eq!(kv_bytes, served.kv_bytes(PROMPT), "all of it, and no more");
        }
    })
}

/// Plans that [`served`] has.
pub const PLANS: usize = 3;

/// Three plans: integers, spans and a hidden state; everything as it is held; and positions that attention chooses.
pub fn served(number: usize) -> Served {
    let model: Arc<dyn BlockModel> = Arc::new(TinyModel::default().build());
    let (boundary, kv) = match number {
        0 => {
            let span = TokenSpan { first: 2, last: 5 };
            let spanned = BlockSet::from_indices(5, [0, 3]).expect("within the model");
            let kv = KvPlan::uniform(&spanned, span).encoded_everywhere(KvEncoding::Int8);
            (Boundary::Prefill, kv)
        }
        1 => (Boundary::Decode, KvPlan::send_all(5)),
        _ => {
            let sends = |encoding| BlockKv {
                span: Some(TokenSpan { first: 1, last: 3 }),
                heavy: 4,
                encoding,
            };
            let kv = KvPlan::send_all(5)
                .with_block(BlockId::new(0), sends(KvEncoding::Held))
                .with_block(BlockId::new(4), sends(KvEncoding::Int4));
            (Boundary::Decode, kv)
        }
    };
    let served = Served::new(ServedParts {
        models: PerStage::both(model),
        removed: PerStage {
            prefill: BlockSet::empty(5),
            decode: BlockSet::from_indices(5, [1]).expect("within the model"),
        },
        kv_fill: KvFill::Nested,
        boundary,
        kv,
        model_hash: "sha256:tiny".to_owned(),
        weights_hash: None,
    });
    served.expect("the parts fit")
}

/// A body of a client. The first byte chooses where it is posted. Returns the memory it took.
pub fn http(data: &[u8]) -> usize {
    static SERVER: OnceLock<Mutex<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| Mutex::new(Server::start()));
    let Some((&first, body)) = data.split_first() else {
        return 0;
    };
    let path = match first % 2 {
        0 => "/v1/completions",
        _ => "/v1/chat/completions",
    };
    let server = server.lock().expect("a panic ends the process");
    bounded(data.len(), HTTP_BYTES, || server.post(path, body))
}

/// The API of a seeded model whose tokens are bytes.
struct Server {
    runtime: Runtime,
    router: Router,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let config = ModelConfig {
            vocab_size: 256,
            context_length: 32,
            eos_token_ids: vec![],
            ..tiny_config(Architecture::Llama)
        };
        seeded::write(&config, 5, DType::F32, folder.path()).expect("a checkpoint is written");
        let checkpoint = Checkpoint::open(folder.path()).expect("it was just written");
        let loaded = checkpoint.load_with_tokenizer(DType::F32, &Device::flex());
        let (model, tokenizer) = loaded.expect("it was just written");
        let served = Served::new(ServedParts {
            models: PerStage::both(Arc::new(model)),
            removed: PerStage::dense(config.n_blocks),
            kv_fill: KvFill::Nested,
            boundary: Boundary::Prefill,
            kv: KvPlan::send_all(config.n_blocks),
            model_hash: "sha256:seeded".to_owned(),
            weights_hash: None,
        });
        let limits = Limits {
            deadline: Duration::from_secs(20),
            ..Limits::default()
        };
        let served = Arc::new(served.expect("the parts fit"));
        let generator = Generator::unified(served, limits, Metrics::new());
        let model = ApiModel {
            name: "seeded".to_owned(),
            tokenizer,
            chat_template: Some(TEMPLATE.to_owned()),
            bos: None,
            eos: Vec::new(),
        };
        let router = openai(generator.expect("a thread starts"), model);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        Self {
            runtime: runtime.expect("a runtime starts"),
            router: router.expect("the template is one"),
        }
    }

    /// Every body has an answer to its end, and none is the server's fault.
    fn post(&self, path: &str, body: &[u8]) {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_vec()))
            .expect("path and header are good");
        let (status, answer) = self.runtime.block_on(async {
            let answered = self.router.clone().oneshot(request).await;
            let Ok(response) = answered;
            let status = response.status();
            (status, to_bytes(response.into_body(), usize::MAX).await)
        });
        let answer = answer.expect("the answer has an end");
        let answer = str::from_utf8(&answer).expect("answers are text");
        assert!(!status.is_server_error(), "{status}: {answer}");
        assert_eq!(
            status.is_success(),
            !answer.starts_with("{\"error\""),
            "{status}: {answer}"
        );
        assert!(!answer.contains("\"server_error\""), "{answer}");
    }
}
