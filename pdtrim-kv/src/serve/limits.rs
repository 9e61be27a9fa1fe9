//! How much a server takes on at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ServeError, ServeResult};

/// Bounds on what a server takes on.
///
/// ```
/// use std::time::Duration;
///
/// use pdtrim_kv::serve::Limits;
///
/// // One request at a time, and none that waits.
/// let limits = Limits { in_flight: 1, waiting: 0, ..Limits::default() };
/// assert_eq!(limits.deadline, Duration::from_mins(5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests whose KV cache is held at once.
    pub in_flight: usize,
    /// Requests that may wait for that; more are refused at once.
    pub waiting: usize,
    /// How long a request may wait for that; then it is refused too. With what it takes to run, this bounds how long
    /// an answer takes at any load.
    pub max_wait: Duration,
    /// Rows that decode steps together.
    pub batch: usize,
    /// How long a request may take in all.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 16,
            waiting: 240,
            max_wait: Duration::from_secs(30),
            batch: 16,
            deadline: Duration::from_mins(5),
        }
    }
}

/// Connections beside those whose requests run or wait: probes, and clients that are about to be refused.
const SPARE: usize = 64;
/// Open connections at any limits; file descriptors end before that.
const MOST: usize = 1 << 20;
/// How long a client may leave a server waiting.
const PATIENCE: Duration = Duration::from_secs(10);

impl Limits {
    /// Connections, and requests on all of them, that may be open at once: as many as may run or wait, and some for
    /// probes and for being told that there are too many.
    pub fn open(&self) -> usize {
        let requests = self.in_flight.saturating_add(self.waiting);
        requests.saturating_add(SPARE).min(MOST)
    }

    /// How long a client may take to agree on TLS, to send a request's head, and to read the rest of an answer after
    /// the deadline.
    pub(super) fn patience(&self) -> Duration {
        PATIENCE.min(self.deadline)
    }

    /// Requests that may run or wait.
    fn places(&self) -> usize {
        let places = self.in_flight.saturating_add(self.waiting);
        places.min(Semaphore::MAX_PERMITS)
    }
}

/// The line in front of a server.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    limits: Limits,
    /// One for each request that runs or waits.
    places: Arc<Semaphore>,
    /// One for each request that runs.
    running: Arc<Semaphore>,
}

/// A request's right to hold a KV cache; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    _place: OwnedSemaphorePermit,
    _running: OwnedSemaphorePermit,
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            places: Arc::new(Semaphore::new(limits.places())),
            running: Arc::new(Semaphore::new(limits.in_flight.min(Semaphore::MAX_PERMITS))),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits until the request may run.
    pub(super) async fn admit(&self, due: Due) -> ServeResult<Admission> {
        let limit = self.limits.places();
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| ServeError::Busy { limit })?;
        let turn = Due::after(self.limits.max_wait.min(due.left()));
        let running = Arc::clone(&self.running).acquire_owned();
        let Ok(running) = turn.within("waiting for its turn", running).await else {
            due.check("waiting for its turn")?;
            return Err(ServeError::Waited {
                limit: self.limits.max_wait,
            });
        };
        let running = running.map_err(|_| ServeError::Stopped)?;
        Ok(Admission {
            _place: place,
            _running: running,
        })
    }
}

/// When a request must be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    at: Instant,
    limit: Duration,
}

impl Due {
    pub(super) fn after(limit: Duration) -> Self {
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }

    pub(super) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub(super) fn error(self, stage: &'static str) -> ServeError {
        let limit = self.limit;
        ServeError::Deadline { limit, stage }
    }

    pub(super) fn check(self, stage: &'static str) -> ServeResult<()> {
        if self.left().is_zero() {
            Err(self.error(stage))
        } else {
            Ok(())
        }
    }

    /// What `work` gives, unless it takes too long.
    pub(super) async fn within<T>(
        self,
        stage: &'static str,
        work: impl Future<Output = T>,
    ) -> ServeResult<T> {
        let done = tokio::time::timeout_at(self.at.into(), work).await;
        done.map_err(|_| self.error(stage))
    }
}
