//! One request from its prompt to its last token.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use pdtrim_core::BlockId;
use pdtrim_core::cache::BlockCache;
use pdtrim_core::pipeline::{CacheTransfer, Handover, Received, SendAll};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::engine::{Engine, Finish, Job};
use super::error::{ServeError, ServeResult};
use super::limits::{Due, Limits, Queue};
use super::metrics::{InFlight, Metrics};
use super::remote::RemotePrefill;
use super::sampler::{Sampler, SamplingParams};
use super::served::Served;
use crate::planned::{PlannedTransfer, core_error};

/// A prompt and how to go on after it.
///
/// ```
/// use pdtrim_kv::serve::{GenerateRequest, SamplingParams};
///
/// let request = GenerateRequest {
///     prompt: vec![1, 2, 3],
///     max_new_tokens: 64,
///     sampling: SamplingParams { temperature: 0.7, seed: Some(1), ..SamplingParams::default() },
///     stop: vec![0],
/// };
/// assert_eq!(request.sampling.top_p, 1.0);
/// ```
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// At most so many new tokens, at least one.
    pub max_new_tokens: usize,
    /// How they are chosen.
    pub sampling: SamplingParams,
    /// Tokens that end the text; they are part of it.
    pub stop: Vec<u32>,
}

/// What happens to a request after prefill.
///
/// ```
/// use pdtrim_kv::serve::{Event, Finish};
///
/// /// The token, or how the text ended.
/// fn shown(event: &Event) -> String {
///     match event {
///         Event::Token(token) => format!("{token}"),
///         Event::Done(finish) => format!("done: {finish:?}"),
///         Event::Failed(error) => format!("failed: {error}"),
///     }
/// }
///
/// assert_eq!(shown(&Event::Token(7)), "7");
/// assert_eq!(shown(&Event::Done(Finish::Stop)), "done: Stop");
/// ```
#[derive(Debug)]
pub enum Event {
    /// The next token.
    Token(u32),
    /// The text is complete.
    Done(Finish),
    /// It will not be.
    Failed(ServeError),
}

/// What crossed from prefill to decode for a prompt.
///
/// ```
/// use std::time::Duration;
///
/// use pdtrim_kv::serve::KvSent;
///
/// let sent = KvSent { kv_bytes: 4_500_000, wire_bytes: 4_600_000, time: Duration::from_millis(40) };
/// let rate = sent.wire_bytes as f64 / sent.time.as_secs_f64();
/// assert_eq!(rate, 115e6);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KvSent {
    /// Bytes of keys and values, as the plan counts them.
    pub kv_bytes: u64,
    /// Bytes of the messages that carried them; 0 if nothing left the process.
    pub wire_bytes: u64,
    /// From the request's turn until decode had everything.
    pub time: Duration,
}

/// The events of one request. Dropping it gives the request up.
///
/// ```
/// # use std::sync::Arc;
/// # use pdtrim_core::testing::TinyModel;
/// # use pdtrim_kv::serve::{GenerateRequest, Generator, Limits, Metrics, SamplingParams, Served, ServedParts, ServeResult};
/// use pdtrim_kv::serve::Event;
///
/// # #[tokio::main]
/// # async fn main() -> ServeResult<()> {
/// # let parts = ServedParts::dense(Arc::new(TinyModel::default().build()), "sha256:00");
/// # let generator = Generator::unified(Arc::new(Served::new(parts)?), Limits::default(), Metrics::new())?;
/// # let sampling = SamplingParams::default();
/// # let request = GenerateRequest { prompt: vec![1, 2, 3], max_new_tokens: 4, sampling, stop: vec![] };
/// let mut events = generator.start(request).await?;
/// let mut tokens = Vec::new();
/// while let Event::Token(token) = events.next().await {
///     tokens.push(token);
/// }
/// assert_eq!(tokens.len(), 4);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Events {
    /// At most as many as new tokens were asked for: a text goes on, and lets its cache go at its end, also while
    /// nobody reads.
    receiver: UnboundedReceiver<Event>,
    sent: KvSent,
    due: Due,
}

impl Events {
    /// The next event; [`ServeError::Stopped`] if decode ends before the text does, [`ServeError::Deadline`] once
    /// the request has had its time, whether or not more is there.
    pub async fn next(&mut self) -> Event {
        match self.due.within("generating", self.receiver.recv()).await {
            Ok(event) => event.unwrap_or(Event::Failed(ServeError::Stopped)),
            Err(late) => Event::Failed(late),
        }
    }

    /// When the request must be done.
    pub(super) fn due(&self) -> Due {
        self.due
    }

    /// What prefill sent.
    pub fn sent(&self) -> KvSent {
        self.sent
    }

    /// All tokens, and why they ended.
    ///
    /// # Errors
    ///
    /// What [`Event::Failed`] brings.
    pub async fn all(mut self) -> ServeResult<(Vec<u32>, Finish)> {
        let mut tokens = Vec::new();
        loop {
            match self.next().await {
                Event::Token(token) => tokens.push(token),
                Event::Done(finish) => return Ok((tokens, finish)),
                Event::Failed(error) => return Err(error),
            }
        }
    }
}

/// Has prompts run, here or by another process, and decodes.
///
/// ```
/// use std::sync::Arc;
///
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_kv::serve::{
///     Finish, GenerateRequest, Generator, Limits, Metrics, SamplingParams, Served, ServedParts,
/// };
///
/// # #[tokio::main]
/// # async fn main() -> pdtrim_kv::serve::ServeResult<()> {
/// let parts = ServedParts::dense(Arc::new(TinyModel::default().build()), "sha256:00");
/// let served = Arc::new(Served::new(parts)?);
/// let generator = Generator::unified(served, Limits::default(), Metrics::new())?;
/// let request = GenerateRequest {
///     prompt: vec![1, 2, 3],
///     max_new_tokens: 4,
///     sampling: SamplingParams::default(),
///     stop: Vec::new(),
/// };
/// let (tokens, finish) = generator.start(request).await?.all().await?;
/// assert_eq!((tokens.len(), finish), (4, Finish::Length));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Generator {
    inner: Arc<Inner>,
}

struct Inner {
    served: Arc<Served>,
    prefill: Prefill,
    engine: Engine,
    queue: Queue,
    metrics: Metrics,
}

enum Prefill {
    /// In this process, one prompt after the other.
    Here(Arc<Semaphore>),
    There(Box<RemotePrefill>),
}

impl Generator {
    /// Both stages in this process. `served` describes one machine: both stages are without the same blocks.
    ///
    /// # Errors
    ///
    /// [`ServeError::Server`] if no thread can be started.
    pub fn unified(served: Arc<Served>, limits: Limits, metrics: Metrics) -> ServeResult<Self> {
        let here = Prefill::Here(Arc::new(Semaphore::new(1)));
        Self::new(served, here, limits, metrics)
    }

    /// Decode in this process, prefill in another.
    ///
    /// # Errors
    ///
    /// [`ServeError::Server`] if no thread can be started.
    pub fn decode(
        served: Arc<Served>,
        prefill: RemotePrefill,
        limits: Limits,
        metrics: Metrics,
    ) -> ServeResult<Self> {
        Self::new(served, Prefill::There(Box::new(prefill)), limits, metrics)
    }

    fn new(
        served: Arc<Served>,
        prefill: Prefill,
        limits: Limits,
        metrics: Metrics,
    ) -> ServeResult<Self> {
        let engine = Engine::start(Arc::clone(&served), limits.batch, metrics.clone())?;
        let inner = Arc::new(Inner {
            served,
            prefill,
            engine,
            queue: Queue::new(limits),
            metrics,
        });
        Ok(Self { inner })
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// What is taken on.
    pub(super) fn limits(&self) -> &Limits {
        self.inner.queue.limits()
    }

    /// Whether anything is decoded any more.
    pub(super) fn is_running(&self) -> bool {
        self.inner.engine.is_running()
    }

    /// Longest sequence, prompt and new tokens together.
    pub fn context_length(&self) -> usize {
        self.inner.served.model().dims().context_length
    }

    /// Waits for the request's turn, has its prompt run, and starts to decode. Dropping the future gives the
    /// request up wherever it is.
    ///
    /// # Errors
    ///
    /// [`ServeError::Request`] and the like for a request that cannot be answered, [`ServeError::Busy`],
    /// [`ServeError::Deadline`], and what prefill reports.
    pub async fn start(&self, request: GenerateRequest) -> ServeResult<Events> {
        let inner = &self.inner;
        let mut tracked = Tracked::new(&inner.metrics);
        let started = inner.start(request, &mut tracked).await;
        match started {
            Ok((job, events)) => {
                inner.engine.submit(Job { tracked, ..job })?;
                Ok(events)
            }
            Err(error) => {
                tracked.ended(error.outcome());
                Err(error)
            }
        }
    }
}

impl Inner {
    async fn start(
        &self,
        request: GenerateRequest,
        tracked: &mut Tracked,
    ) -> ServeResult<(Job, Events)> {
        let came = Instant::now();
        let due = Due::after(self.queue.limits().deadline);
        let sampler = Sampler::new(request.sampling)?;
        self.check(&request)?;
        let admission = self.queue.admit(due).await?;
        tracked.run();
        let began = Instant::now();
        let (handover, wire_bytes) = self.prefill(&request.prompt, due).await?;
        let sent = KvSent {
            kv_bytes: handover.kv_bytes().0,
            wire_bytes,
            time: began.elapsed(),
        };
        let length = request.prompt.len();
        self.metrics.prefilled(length, sent.kv_bytes, sent.time);
        let pd = self.served.pd(&SendAll);
        let row = pd.decode_row(&request.prompt, handover, request.max_new_tokens)?;
        let (sender, receiver) = unbounded_channel();
        let job = Job {
            row,
            sampler,
            stop: request.stop,
            left: request.max_new_tokens,
            events: sender,
            due,
            came: Some(came),
            tracked: Tracked::default(),
            _admission: admission,
        };
        Ok((
            job,
            Events {
                receiver,
                sent,
                due,
            },
        ))
    }

    /// Refuses what cannot be answered before anything waits for it.
    fn check(&self, request: &GenerateRequest) -> ServeResult<()> {
        if request.max_new_tokens == 0 {
            return Err(ServeError::Request {
                field: "max_tokens",
                expected: "at least 1".to_owned(),
                found: "0".to_owned(),
            });
        }
        check_prompt(&self.served, &request.prompt)?;
        let limit = self.served.model().dims().context_length;
        // Both come from clients; the sum of a prompt and the largest number there is fits no number.
        let tokens = request
            .prompt
            .len()
            .saturating_add(request.max_new_tokens - 1);
        if tokens > limit {
            return Err(pdtrim_core::Error::ContextLength { tokens, limit }.into());
        }
        Ok(())
    }

    async fn prefill(&self, prompt: &[u32], due: Due) -> ServeResult<(Handover, u64)> {
        let slot = match &self.prefill {
            Prefill::There(remote) => {
                return remote
                    .prefill(&self.served, prompt, due, &self.metrics)
                    .await;
            }
            Prefill::Here(slots) => Arc::clone(slots).acquire_owned(),
        };
        let slot = due.within("waiting for prefill", slot).await?;
        let slot = slot.map_err(|_| ServeError::Stopped)?;
        let (served, prompt) = (Arc::clone(&self.served), prompt.to_vec());
        // Gone with this future, if the request is given up.
        let wanted = Arc::new(());
        let transfer = WhileWanted {
            planned: PlannedTransfer::new(served.parts().kv.clone()),
            wanted: Arc::downgrade(&wanted),
        };
        let run = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            served.pd(&transfer).prefill(&[prompt])
        });
        let handover = due.within("prefill", run).await?;
        drop(wanted);
        let handover = handover.map_err(|error| ServeError::of_work(&error, "prefill"))?;
        Ok((handover?, 0))
    }
}

/// Hands over as planned for as long as somebody waits; then prefill stops at the next block.
struct WhileWanted {
    planned: PlannedTransfer,
    wanted: Weak<()>,
}

impl CacheTransfer for WhileWanted {
    fn transfer(&self, id: BlockId, cache: BlockCache) -> pdtrim_core::Result<Received> {
        if self.wanted.strong_count() == 0 {
            return Err(core_error(ServeError::Cancelled));
        }
        self.planned.transfer(id, cache)
    }
}

/// Refuses a prompt that the model cannot read.
pub(super) fn check_prompt(served: &Served, prompt: &[u32]) -> ServeResult<()> {
    let dims = served.model().dims();
    if prompt.is_empty() {
        return Err(pdtrim_core::Error::NoTokens { what: "the prompt" }.into());
    }
    let (tokens, limit) = (prompt.len(), dims.context_length);
    if tokens > limit {
        return Err(pdtrim_core::Error::ContextLength { tokens, limit }.into());
    }
    let vocab_size = dims.vocab_size;
    match prompt.iter().find(|&&token| token as usize >= vocab_size) {
        Some(&token) => Err(pdtrim_core::Error::TokenOutOfRange { token, vocab_size }.into()),
        None => Ok(()),
    }
}

/// Counts a request once, however it ends; one that is dropped was given up.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    metrics: Option<Metrics>,
    in_flight: Option<InFlight>,
}

impl Tracked {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            metrics: Some(metrics.clone()),
            in_flight: None,
        }
    }

    /// It has its turn.
    pub(super) fn run(&mut self) {
        self.in_flight = self.metrics.as_ref().map(Metrics::in_flight);
    }

    pub(super) fn ended(&mut self, outcome: &'static str) {
        self.in_flight = None;
        if let Some(metrics) = self.metrics.take() {
            metrics.ended(outcome);
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.ended("cancelled");
    }
}
