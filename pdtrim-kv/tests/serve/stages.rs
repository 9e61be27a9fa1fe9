//! Models, and servers of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pdtrim_core::model::BlockModel;
use pdtrim_core::testing::{TinyModel, tiny_config};
use pdtrim_core::{BlockSet, Boundary, KvFill, KvPlan, PerStage};
use pdtrim_kv::serve::{
    GenerateRequest, Generator, Limits, Listener, Metrics, PrefillAddress, PrefillServer,
    RemotePrefill, SamplingParams, Security, Served, ServedParts,
};

/// What tests change about both stages.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) config: pdtrim_core::ModelConfig,
    pub(crate) removed: PerStage<Vec<usize>>,
    pub(crate) boundary: Boundary,
    pub(crate) kv: KvPlan,
    pub(crate) model_hash: &'static str,
    pub(crate) limits: Limits,
}

impl Setup {
    pub(crate) fn tiny() -> Self {
        Self::of(tiny_config(pdtrim_core::config::Architecture::Llama))
    }

    /// Few computations and much KV: 2 MiB in each block for 512 positions, more than sockets hold.
    pub(crate) fn wide() -> Self {
        let config = tiny_config(pdtrim_core::config::Architecture::Llama);
        Self::of(pdtrim_core::ModelConfig {
            n_blocks: 24,
            n_heads: 8,
            n_kv_heads: 8,
            head_dim: 64,
            context_length: 1024,
            ..config
        })
    }

    fn of(config: pdtrim_core::ModelConfig) -> Self {
        Self {
            kv: KvPlan::send_all(config.n_blocks),
            config,
            removed: PerStage::default(),
            boundary: Boundary::Prefill,
            model_hash: "sha256:tiny",
            limits: Limits {
                deadline: Duration::from_mins(1),
                ..Limits::default()
            },
        }
    }

    pub(crate) fn removed(&self) -> PerStage<BlockSet> {
        let set = |blocks: &[usize]| {
            BlockSet::from_indices(self.config.n_blocks, blocks.iter().copied()).unwrap()
        };
        PerStage {
            prefill: set(&self.removed.prefill),
            decode: set(&self.removed.decode),
        }
    }

    pub(crate) fn model(&self) -> Arc<dyn BlockModel> {
        let config = self.config.clone();
        let tiny = TinyModel {
            config,
            ..TinyModel::default()
        };
        Arc::new(tiny.build())
    }

    pub(crate) fn served(&self) -> Arc<Served> {
        let parts = ServedParts {
            models: PerStage::both(self.model()),
            removed: self.removed(),
            kv_fill: KvFill::Nested,
            boundary: self.boundary,
            kv: self.kv.clone(),
            model_hash: self.model_hash.to_owned(),
            weights_hash: None,
        };
        Arc::new(Served::new(parts).unwrap())
    }

    /// Starts prefill on a free port; it goes on for as long as the runtime.
    pub(crate) async fn start_prefill(&self) -> (SocketAddr, Metrics) {
        self.start_prefill_with(Security::default()).await
    }

    pub(crate) async fn start_prefill_with(&self, security: Security) -> (SocketAddr, Metrics) {
        let metrics = Metrics::new();
        let server = PrefillServer::new(self.served(), self.limits, metrics.clone(), false);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(any, security).await.unwrap();
        let address = listener.address();
        let (router, counted) = (server.router().await, metrics.clone());
        let limits = self.limits;
        tokio::spawn(async move {
            let never = std::future::pending();
            listener
                .serve(router, limits, &counted, never)
                .await
                .unwrap();
        });
        (address, metrics)
    }

    /// Decode, whose prefill is at `address`.
    pub(crate) fn decode(&self, address: SocketAddr, tries: usize) -> Generator {
        let address = PrefillAddress {
            uri: format!("http://{address}"),
            ca: None,
            token: None,
        };
        self.decode_at(address, tries)
    }

    pub(crate) fn decode_at(&self, address: PrefillAddress, tries: usize) -> Generator {
        let remote = RemotePrefill::new(address, tries).unwrap();
        Generator::decode(self.served(), remote, self.limits, Metrics::new()).unwrap()
    }
}

/// Always the most likely token.
pub(crate) fn greedy(prompt: Vec<u32>, max_new_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt,
        max_new_tokens,
        sampling: SamplingParams::default(),
        stop: Vec::new(),
    }
}

/// A prompt of `length` tokens that differs from number to number.
pub(crate) fn prompt(number: usize, length: usize) -> Vec<u32> {
    let token = |at: usize| (7 * number + 13 * at + number * at) % 90 + 3;
    (0..length).map(|at| token(at) as u32).collect()
}

/// The value of a metric, by the start of its line.
pub(crate) fn metric(metrics: &Metrics, line: &str) -> f64 {
    let text = metrics.text();
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    found.map_or(0.0, |value| value.trim().parse().unwrap())
}

/// Waits until `is_so`; for what happens a moment after an answer.
pub(crate) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..400 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not so within 10 s: {what}");
}
