//! What a client keeps a connection for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::limits::Limits;

/// How long a connection may be kept without a request.
const IDLE: Duration = Duration::from_mins(2);

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When each open request came, in order.
    open: BTreeMap<u64, Instant>,
    /// Requests so far.
    asked: u64,
    /// When the connection came, or the last request ended.
    quiet: Instant,
}

/// A request, open until this is dropped.
#[derive(Debug)]
pub(super) struct Open {
    activity: Arc<Activity>,
    number: u64,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                open: BTreeMap::new(),
                asked: 0,
                quiet: Instant::now(),
            }),
        }
    }

    pub(super) fn begin(self: &Arc<Self>) -> Open {
        let mut state = self.state();
        let number = state.asked;
        state.asked += 1;
        state.open.insert(number, Instant::now());
        Open {
            activity: Arc::clone(self),
            number,
        }
    }

    /// Ends when the connection has been without a request for too long, or has one that should have ended long ago:
    /// its client does not read.
    pub(super) async fn over(&self, limits: Limits) {
        loop {
            let now = Instant::now();
            let ends = self.state().ends(&limits);
            if ends <= now {
                return;
            }
            // A request that ends early brings its connection's end forward.
            let look = now + IDLE.min(limits.patience());
            tokio::time::sleep_until(ends.min(look).into()).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When the connection has lasted long enough, as things are.
    fn ends(&self, limits: &Limits) -> Instant {
        match self.open.first_key_value() {
            Some((_, &came)) => came + limits.deadline + limits.patience(),
            None if self.asked == 0 => self.quiet + limits.patience(),
            None => self.quiet + IDLE.min(limits.deadline),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.open.remove(&self.number);
        state.quiet = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_lasts_as_long_as_what_it_is_kept_for() {
        let limits = Limits::default();
        let activity = Arc::new(Activity::new());
        let came = activity.state().quiet;
        let ends = || activity.state().ends(&limits);
        assert_eq!(ends(), came + Duration::from_secs(10), "nothing asked");
        let first = activity.begin();
        let second = activity.begin();
        let oldest = activity.state().open[&0];
        let late = limits.deadline + limits.patience();
        assert_eq!(ends(), oldest + late, "the oldest decides");
        drop(first);
        let other = activity.state().open[&1];
        assert_eq!(ends(), other + late);
        drop(second);
        assert_eq!(ends(), activity.state().quiet + IDLE);
    }
}
