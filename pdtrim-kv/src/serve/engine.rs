//! Decode: one thread on which the rows of all requests step together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use pdtrim_core::pipeline::{DecodeRow, PdModel, SendAll};
use serde::Serialize;
use tokio::sync::mpsc::UnboundedSender;

use super::error::{ServeError, ServeResult};
use super::generator::{Event, Tracked};
use super::limits::{Admission, Due};
use super::metrics::Metrics;
use super::sampler::{Sampler, choose};
use super::served::Served;

/// Why a text ended.
///
/// ```
/// use pdtrim_kv::serve::Finish;
///
/// // As OpenAI's API has it in `finish_reason`.
/// assert_eq!(serde_json::to_string(&Finish::Length)?, "\"length\"");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// At a token that ends texts.
    Stop,
    /// At the number of tokens that were asked for.
    Length,
}

/// A text to go on with.
pub(super) struct Job {
    pub(super) row: DecodeRow,
    pub(super) sampler: Sampler,
    pub(super) stop: Vec<u32>,
    /// New tokens that may still come, at least one.
    pub(super) left: usize,
    pub(super) events: UnboundedSender<Event>,
    pub(super) due: Due,
    /// When the request came, until its first token.
    pub(super) came: Option<Instant>,
    pub(super) tracked: Tracked,
    /// Held until the text ends.
    pub(super) _admission: Admission,
}

/// The thread's end that takes jobs.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    jobs: Sender<Job>,
    thread: Arc<JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread; it ends when nobody can submit any more and all rows are done.
    pub(super) fn start(served: Arc<Served>, batch: usize, metrics: Metrics) -> ServeResult<Self> {
        let (sender, jobs) = channel();
        let thread = std::thread::Builder::new().name("decode".to_owned());
        let run = move || run(&served.pd(&SendAll), &jobs, batch, &metrics);
        let thread = thread.spawn(run).map_err(|source| ServeError::Server {
            source: source.into(),
        })?;
        Ok(Self {
            jobs: sender,
            thread: Arc::new(thread),
        })
    }

    /// Whether anything is decoded any more.
    pub(super) fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    pub(super) fn submit(&self, job: Job) -> ServeResult<()> {
        self.jobs.send(job).map_err(|_| ServeError::Stopped)
    }
}

fn run(pd: &PdModel<'_>, jobs: &Receiver<Job>, batch: usize, metrics: &Metrics) {
    let mut active: Vec<Job> = Vec::new();
    loop {
        if active.is_empty() {
            match jobs.recv() {
                Ok(job) => active.push(job),
                Err(_) => return,
            }
        }
        while active.len() < batch {
            match jobs.try_recv() {
                Ok(job) => active.push(job),
                Err(_) => break,
            }
        }
        active.retain_mut(is_wanted);
        if !active.is_empty() {
            active = step(pd, active, metrics);
        }
    }
}

/// Whether somebody still waits for the text, and may.
fn is_wanted(job: &mut Job) -> bool {
    if job.events.is_closed() {
        job.tracked.ended("cancelled");
        return false;
    }
    if let Err(error) = job.due.check("generating") {
        job.tracked.ended(error.outcome());
        // Nobody waits any more if this fails.
        let _ = job.events.send(Event::Failed(error));
        return false;
    }
    true
}

/// One token more for each; returns those that go on.
fn step(pd: &PdModel<'_>, mut active: Vec<Job>, metrics: &Metrics) -> Vec<Job> {
    let began = Instant::now();
    // A panic ends the texts of this step and no others: a step changes nothing but its rows.
    let chosen = catch_unwind(AssertUnwindSafe(|| next_tokens(pd, &mut active)));
    let tokens = match chosen {
        Ok(Ok(tokens)) => tokens,
        Ok(Err(error)) => {
            let reason = error.to_string();
            let source = || reason.clone().into();
            fail(active, || ServeError::Server { source: source() });
            return Vec::new();
        }
        Err(_) => {
            fail(active, || ServeError::Panicked { stage: "decode" });
            return Vec::new();
        }
    };
    metrics.stepped(tokens.len(), began.elapsed());
    let chosen = active.into_iter().zip(tokens);
    let going_on = chosen.filter_map(|(mut job, token)| {
        if let Some(came) = job.came.take() {
            metrics.first_token(came.elapsed());
        }
        job.row.feed(token);
        job.left -= 1;
        let finish = if job.stop.contains(&token) {
            Some(Finish::Stop)
        } else {
            (job.left == 0).then_some(Finish::Length)
        };
        if finish.is_some() {
            job.tracked.ended("done");
        }
        // A request that nobody waits for is dropped before the next step.
        let _ = job.events.send(Event::Token(token));
        let Some(finish) = finish else {
            return Some(job);
        };
        // Its cache and its place are free before its reader hears of the end.
        let events = job.events.clone();
        drop(job);
        let _ = events.send(Event::Done(finish));
        None
    });
    going_on.collect()
}

fn next_tokens(pd: &PdModel<'_>, active: &mut [Job]) -> pdtrim_core::Result<Vec<u32>> {
    let mut rows: Vec<&mut DecodeRow> = active.iter_mut().map(|job| &mut job.row).collect();
    let logits = pd.decode_step(&mut rows)?;
    let mut samplers: Vec<&mut Sampler> = active.iter_mut().map(|job| &mut job.sampler).collect();
    Ok(choose(logits, &mut samplers))
}

/// Ends all of them.
fn fail(jobs: Vec<Job>, error: impl Fn() -> ServeError) {
    for mut job in jobs {
        job.tracked.ended("failed");
        // Nobody waits any more if this fails.
        let _ = job.events.send(Event::Failed(error()));
    }
}
