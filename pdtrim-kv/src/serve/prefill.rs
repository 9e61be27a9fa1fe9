//! The process that runs prompts.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use burn::tensor::Tensor;
use pdtrim_core::cache::BlockCache;
use pdtrim_core::pipeline::{CacheTransfer, Received};
use pdtrim_core::{BlockId, Bytes};
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{
    Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel,
};
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::error::{ServeError, ServeResult};
use super::generator::{Tracked, check_prompt};
use super::identity::shown;
use super::limits::{Admission, Due, Limits, Queue};
use super::metrics::Metrics;
use super::proto::prefill_server::{Prefill, PrefillServer as GrpcServer};
use super::proto::{Part, RunRequest};
use super::served::Served;
use super::wire;
use crate::planned::{core_error, observes, retain};

/// Messages that wait for a slow reader; what comes after them stays where it was computed.
const MESSAGES_AHEAD: usize = 2;

/// Runs prompts and streams what decode needs of their KV cache.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_kv::serve::{
///     Limits, Listener, Metrics, PrefillServer, Security, Served, ServedParts,
/// };
///
/// # #[tokio::main]
/// # async fn main() -> pdtrim_kv::serve::ServeResult<()> {
/// let parts = ServedParts::dense(Arc::new(TinyModel::default().build()), "sha256:00");
/// let (served, metrics) = (Arc::new(Served::new(parts)?), Metrics::new());
/// let limits = Limits::default();
/// let server = PrefillServer::new(served, limits, metrics.clone(), false);
/// let listener = Listener::bind(([127, 0, 0, 1], 50051).into(), Security::default()).await?;
/// let router = server.router().await;
/// listener.serve(router, limits, &metrics, std::future::pending()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PrefillServer {
    inner: Arc<Inner>,
}

struct Inner {
    served: Arc<Served>,
    queue: Queue,
    /// One prompt computes at a time: the device has all of its speed.
    compute: Arc<Semaphore>,
    metrics: Metrics,
    zstd: bool,
}

impl PrefillServer {
    /// A server of `served`; with `zstd`, messages that it makes smaller are compressed.
    pub fn new(served: Arc<Served>, limits: Limits, metrics: Metrics, zstd: bool) -> Self {
        let inner = Arc::new(Inner {
            served,
            queue: Queue::new(limits),
            compute: Arc::new(Semaphore::new(1)),
            metrics,
            zstd,
        });
        Self { inner }
    }

    /// The gRPC service, gRPC health, and `/health` and `/metrics` for whoever speaks HTTP only.
    pub async fn router(self) -> Router {
        let (reporter, health) = tonic_health::server::health_reporter();
        let metrics = self.inner.metrics.clone();
        // A request is a prompt, of at most five bytes a token, and two hashes.
        let context = self.inner.served.model().dims().context_length;
        let service = GrpcServer::new(self)
            .max_decoding_message_size(5 * context + wire::FRAME)
            .max_encoding_message_size(wire::CHUNK + wire::FRAME);
        reporter.set_serving::<GrpcServer<Self>>().await;
        let routes = Routes::new(service).add_service(health);
        super::http::with_probes(routes.into_axum_router(), metrics, || true)
    }
}

#[tonic::async_trait]
impl Prefill for PrefillServer {
    type RunStream = Pin<Box<dyn Stream<Item = Result<Part, Status>> + Send>>;

    async fn run(&self, request: Request<RunRequest>) -> Result<Response<Self::RunStream>, Status> {
        let inner = &self.inner;
        let mut tracked = Tracked::new(&inner.metrics);
        let admitted = inner.admit(request.into_inner()).await;
        let (prompt, due, admission) = admitted.map_err(|error| {
            tracked.ended(error.outcome());
            Status::from(error)
        })?;
        tracked.run();
        let (sender, receiver) = channel(MESSAGES_AHEAD);
        let failed = Arc::new(OnceLock::new());
        let parts = Parts {
            receiver,
            failed: Arc::clone(&failed),
            told: false,
        };
        let inner = Arc::clone(inner);
        tokio::spawn(async move {
            let done = inner.send(prompt, due, &sender).await;
            tracked.ended(done.as_ref().map_or_else(ServeError::outcome, |()| "done"));
            if let Err(error) = done {
                let _ = failed.set(Status::from(error));
            }
            drop(admission);
        });
        Ok(Response::new(Box::pin(parts)))
    }
}

impl Inner {
    async fn admit(&self, request: RunRequest) -> ServeResult<(Vec<u32>, Due, Admission)> {
        self.served
            .identity()
            .check_asked(request.identity.as_ref())?;
        let dtype = self.served.held().name();
        if request.dtype != dtype {
            return Err(ServeError::Identity {
                what: "dtype",
                expected: dtype.to_owned(),
                found: shown(&request.dtype),
            });
        }
        check_prompt(&self.served, &request.prompt)?;
        let own = self.queue.limits().deadline;
        let due = Due::after(match request.deadline_ms {
            0 => own,
            asked => own.min(Duration::from_millis(asked)),
        });
        let admission = self.queue.admit(due).await?;
        Ok((request.prompt, due, admission))
    }

    /// Computes and sends, both at once. Stops computing when nobody reads any more.
    async fn send(
        self: &Arc<Self>,
        prompt: Vec<u32>,
        due: Due,
        parts: &Sender<Part>,
    ) -> ServeResult<()> {
        let began = Instant::now();
        let length = prompt.len();
        let slot = Arc::clone(&self.compute).acquire_owned();
        let slot = due.within("waiting to compute", slot).await?;
        let slot = slot.map_err(|_| ServeError::Stopped)?;
        let (sender, blocks) = unbounded_channel();
        let served = Arc::clone(&self.served);
        let computing = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            compute(&served, &prompt, due, sender)
        });
        let read = self.served.parts().boundary.prompt_positions(length);
        let (count, kv_bytes) = self.send_blocks(blocks, read, due, parts).await?;
        let computed = due.within("prefill", computing).await?;
        let last = computed.map_err(|error| ServeError::of_work(&error, "prefill"))??;
        let identity = self.served.identity();
        if let Some(last) = last {
            let message = wire::last_hidden(identity, last);
            self.send_part(message, due, parts).await?;
        }
        let message = wire::end(identity, count, kv_bytes);
        self.send_part(message, due, parts).await?;
        self.metrics.prefilled(length, kv_bytes, began.elapsed());
        Ok(())
    }

    async fn send_blocks(
        self: &Arc<Self>,
        mut blocks: UnboundedReceiver<(BlockId, BlockCache)>,
        read: usize,
        due: Due,
        parts: &Sender<Part>,
    ) -> ServeResult<(usize, u64)> {
        let (mut count, mut kv_bytes) = (0, 0);
        // The sender lives until prefill is done, or has failed.
        while let Some((id, cache)) = due.within("prefill", blocks.recv()).await? {
            let inner = Arc::clone(self);
            let encoding = tokio::task::spawn_blocking(move || inner.encode(id, read, &cache));
            let encoded = due.within("encoding", encoding).await?;
            let (messages, bytes) =
                encoded.map_err(|error| ServeError::of_work(&error, "encoding"))??;
            for message in messages {
                self.send_part(message, due, parts).await?;
            }
            count += 1;
            kv_bytes += bytes;
        }
        Ok((count, kv_bytes))
    }

    fn encode(
        &self,
        id: BlockId,
        read: usize,
        cache: &BlockCache,
    ) -> ServeResult<(Vec<Part>, u64)> {
        let block = self.served.block_on_wire(id, read);
        let bytes = wire::encode(&block, cache)?;
        let messages = wire::messages(self.served.identity(), &block, &bytes, self.zstd);
        Ok((messages.collect(), bytes.len() as u64))
    }

    async fn send_part(&self, part: Part, due: Due, parts: &Sender<Part>) -> ServeResult<()> {
        let bytes = part.encoded_len();
        let sent = due.within("sending to a reader that is too slow", parts.send(part));
        sent.await?.map_err(|_| ServeError::Cancelled)?;
        self.metrics.crossed(bytes);
        Ok(())
    }
}

/// Runs a prompt and hands on each block that decode runs; returns the hidden state of the last token if the
/// boundary asks for it.
pub(super) fn compute(
    served: &Served,
    prompt: &[u32],
    due: Due,
    blocks: UnboundedSender<(BlockId, BlockCache)>,
) -> ServeResult<Option<Tensor<2>>> {
    let transfer = ToWire {
        served,
        due,
        blocks,
    };
    let handover = served.pd(&transfer).prefill(&[prompt])?;
    Ok(handover.last_hidden().cloned())
}

/// Hands blocks to the task that encodes and sends them.
struct ToWire<'s> {
    served: &'s Served,
    due: Due,
    blocks: UnboundedSender<(BlockId, BlockCache)>,
}

impl ToWire<'_> {
    fn hand_on(&self, id: BlockId, cache: BlockCache) -> ServeResult<()> {
        self.due.check("prefill")?;
        let handed = self.blocks.send((id, cache));
        handed.map_err(|_| ServeError::Cancelled)
    }
}

impl CacheTransfer for ToWire<'_> {
    fn observes(&self) -> usize {
        observes(&self.served.parts().kv)
    }

    fn transfer(&self, id: BlockId, mut cache: BlockCache) -> pdtrim_core::Result<Received> {
        let read = cache.len();
        retain(self.served.parts().kv.block(id), &mut cache).map_err(core_error)?;
        let bytes = Bytes(self.served.block_on_wire(id, read).bytes() as u64);
        self.hand_on(id, cache.unobserved()).map_err(core_error)?;
        let cache = BlockCache::with_capacity(0);
        Ok(Received { cache, bytes })
    }
}

/// The messages of one answer, and at their end what went wrong.
#[derive(Debug)]
struct Parts {
    receiver: Receiver<Part>,
    failed: Arc<OnceLock<Status>>,
    told: bool,
}

impl Stream for Parts {
    type Item = Result<Part, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.receiver.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(part)) => Poll::Ready(Some(Ok(part))),
            Poll::Ready(None) if self.told => Poll::Ready(None),
            Poll::Ready(None) => {
                self.told = true;
                Poll::Ready(self.failed.get().cloned().map(Err))
            }
        }
    }
}
