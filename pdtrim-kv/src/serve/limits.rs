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
    /// Requests that may wait for that; more are refused.
    pub waiting: usize,
    /// Rows that decode steps together.
    pub batch: usize,
    /// How long a request may take in all.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 16,
            waiting: 1024,
            batch: 16,
            deadline: Duration::from_mins(5),
        }
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
            places: Arc::new(Semaphore::new(limits.in_flight + limits.waiting)),
            running: Arc::new(Semaphore::new(limits.in_flight)),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits until the request may run.
    pub(super) async fn admit(&self, due: Due) -> ServeResult<Admission> {
        let limit = self.limits.in_flight + self.limits.waiting;
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| ServeError::Busy { limit })?;
        let running = due.within(
            "waiting for its turn",
            Arc::clone(&self.running).acquire_owned(),
        );
        let running = running.await?.map_err(|_| ServeError::Stopped)?;
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
