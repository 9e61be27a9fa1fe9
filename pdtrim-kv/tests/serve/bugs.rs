//! A panic ends the requests that met it, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{DType, Device, Int, Tensor};
use pdtrim_core::cache::{BlockCache, TokenPosition};
use pdtrim_core::model::{BlockModel, Llama, ModelDims};
use pdtrim_core::testing::TinyModel;
use pdtrim_core::{BlockId, BlockSet, Boundary, KvFill, KvPlan, PerStage};
use pdtrim_kv::serve::{Generator, Limits, Metrics, ServeError, Served, ServedParts};

use crate::stages::{greedy, prompt};

/// A model that panics once where it is told to.
struct Fragile {
    model: Llama,
    /// In the next prompt.
    in_prefill: Arc<AtomicBool>,
    /// At the next token.
    in_decode: Arc<AtomicBool>,
}

fn breaks(here: &AtomicBool) {
    assert!(!here.swap(false, Ordering::SeqCst), "meant to happen");
}

impl BlockModel for Fragile {
    fn dims(&self) -> ModelDims {
        self.model.dims()
    }

    fn device(&self) -> &Device {
        self.model.device()
    }

    fn dtype(&self) -> DType {
        self.model.dtype()
    }

    fn embed(&self, tokens: Tensor<2, Int>, start: TokenPosition) -> Tensor<3> {
        breaks(&self.in_prefill);
        self.model.embed(tokens, start)
    }

    fn run_block(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) -> Tensor<3> {
        self.model.run_block(id, hidden, start, cache)
    }

    fn project_kv(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) {
        self.model.project_kv(id, hidden, start, cache);
    }

    fn queries(&self, id: BlockId, hidden: Tensor<3>, start: TokenPosition) -> Tensor<4> {
        self.model.queries(id, hidden, start)
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        breaks(&self.in_decode);
        self.model.logits(hidden)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_told_to_those_it_hit_and_the_next_are_served() {
    let (in_prefill, in_decode) = (Arc::default(), Arc::default());
    let model: Arc<dyn BlockModel> = Arc::new(Fragile {
        model: TinyModel::default().build(),
        in_prefill: Arc::clone(&in_prefill),
        in_decode: Arc::clone(&in_decode),
    });
    let served = Served::new(ServedParts {
        models: PerStage::both(model),
        removed: PerStage::both(BlockSet::empty(5)),
        kv_fill: KvFill::Nested,
        boundary: Boundary::Prefill,
        kv: KvPlan::send_all(5),
        model_hash: "sha256:fragile".to_owned(),
        weights_hash: None,
    });
    let served = Arc::new(served.unwrap());
    let unified = Generator::unified(served, Limits::default(), Metrics::new()).unwrap();
    let generate = || async {
        let events = unified.start(greedy(prompt(1, 9), 6)).await?;
        Ok::<_, ServeError>(events.all().await?.0)
    };
    let expected = generate().await.unwrap();
    for (here, stage) in [(&in_prefill, "prefill"), (&in_decode, "decode")] {
        here.store(true, Ordering::SeqCst);
        let error = generate().await.unwrap_err();
        assert!(
            matches!(error, ServeError::Panicked { stage: found } if found == stage),
            "{stage}: {error}"
        );
        assert_eq!(generate().await.unwrap(), expected, "after {stage}");
    }
    let text = unified.metrics().text();
    assert!(text.contains("pdtrim_requests_in_flight 0"), "{text}");
    assert!(text.contains("outcome=\"failed\"} 2"), "{text}");
}
