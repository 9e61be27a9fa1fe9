//! Counts and times for Prometheus.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// What a server counts, and shows at `/metrics`.
///
/// ```
/// use pdtrim_kv::serve::Metrics;
///
/// // One set of counts for all parts of a server; clones share it.
/// let metrics = Metrics::new();
/// assert!(metrics.clone().text().ends_with("# EOF\n"));
/// ```
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    requests: Family<Outcome, Counter>,
    in_flight: Gauge,
    prompt_tokens: Counter,
    generated_tokens: Counter,
    kv_bytes: Counter,
    wire_bytes: Counter,
    socket_bytes: Family<Direction, Counter>,
    retries: Counter,
    connections: Counter,
    turned_away: Counter,
    prefill: Histogram,
    first_token: Histogram,
    steps: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: Name,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Name(&'static str);

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(&self.0, encoder)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        // 1 ms to 65 s.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let mut inner = Inner {
            registry: Registry::with_prefix("pdtrim"),
            requests: Family::default(),
            in_flight: Gauge::default(),
            prompt_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            kv_bytes: Counter::default(),
            wire_bytes: Counter::default(),
            socket_bytes: Family::default(),
            retries: Counter::default(),
            connections: Counter::default(),
            turned_away: Counter::default(),
            prefill: seconds(),
            first_token: seconds(),
            steps: seconds(),
        };
        let registry = &mut inner.registry;
        registry.register(
            "requests",
            "Requests by how they ended",
            inner.requests.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests that hold a KV cache",
            inner.in_flight.clone(),
        );
        registry.register(
            "prompt_tokens",
            "Prompt tokens run",
            inner.prompt_tokens.clone(),
        );
        registry.register(
            "generated_tokens",
            "Tokens generated",
            inner.generated_tokens.clone(),
        );
        registry.register(
            "kv_bytes",
            "Bytes of keys and values that crossed, as the plan counts them",
            inner.kv_bytes.clone(),
        );
        registry.register(
            "wire_bytes",
            "Bytes of the messages that carried them",
            inner.wire_bytes.clone(),
        );
        registry.register(
            "socket_bytes",
            "Bytes through this server's port",
            inner.socket_bytes.clone(),
        );
        registry.register(
            "prefill_retries",
            "Prompts that prefill was asked for again",
            inner.retries.clone(),
        );
        registry.register(
            "connections",
            "Connections that were let in",
            inner.connections.clone(),
        );
        registry.register(
            "connections_turned_away",
            "Connections that were closed because as many as may be were open",
            inner.turned_away.clone(),
        );
        let mut time = |name, help, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        time(
            "prefill",
            "From the request to decode's having its KV cache, or prefill's having sent it",
            &inner.prefill,
        );
        time(
            "time_to_first_token",
            "From the request to its first token",
            &inner.first_token,
        );
        time("decode_step", "One step of all rows", &inner.steps);
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Prometheus' text form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.inner.registry);
        text
    }

    pub(super) fn ended(&self, outcome: &'static str) {
        let outcome = Name(outcome);
        self.inner
            .requests
            .get_or_create(&Outcome { outcome })
            .inc();
    }

    /// Counts a request as in flight for as long as what it returns lives.
    pub(super) fn in_flight(&self) -> InFlight {
        self.inner.in_flight.inc();
        InFlight(self.inner.in_flight.clone())
    }

    pub(super) fn prefilled(&self, tokens: usize, kv_bytes: u64, time: Duration) {
        self.inner.prompt_tokens.inc_by(tokens as u64);
        self.inner.kv_bytes.inc_by(kv_bytes);
        self.inner.prefill.observe(time.as_secs_f64());
    }

    pub(super) fn crossed(&self, bytes: usize) {
        self.inner.wire_bytes.inc_by(bytes as u64);
    }

    pub(super) fn retried(&self) {
        self.inner.retries.inc();
    }

    pub(super) fn let_in(&self) {
        self.inner.connections.inc();
    }

    pub(super) fn turned_away(&self) {
        self.inner.turned_away.inc();
    }

    pub(super) fn first_token(&self, time: Duration) {
        self.inner.first_token.observe(time.as_secs_f64());
    }

    pub(super) fn stepped(&self, tokens: usize, time: Duration) {
        self.inner.generated_tokens.inc_by(tokens as u64);
        self.inner.steps.observe(time.as_secs_f64());
    }

    /// Counters of bytes that this server's port reads and writes.
    pub(super) fn socket(&self) -> SocketCounters {
        let counter = |direction| {
            let direction = Name(direction);
            self.inner
                .socket_bytes
                .get_or_create(&Direction { direction })
                .clone()
        };
        SocketCounters {
            received: counter("received"),
            sent: counter("sent"),
        }
    }
}

/// See [`Metrics::in_flight`].
#[derive(Debug)]
pub(super) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[derive(Clone, Debug)]
pub(super) struct SocketCounters {
    pub(super) received: Counter<u64, AtomicU64>,
    pub(super) sent: Counter<u64, AtomicU64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown_by_name() {
        let metrics = Metrics::new();
        metrics.ended("done");
        metrics.ended("done");
        metrics.prefilled(7, 512, Duration::from_millis(30));
        let held = metrics.in_flight();
        metrics.socket().sent.inc_by(40);
        let text = metrics.text();
        for line in [
            "pdtrim_requests_total{outcome=\"done\"} 2",
            "pdtrim_requests_in_flight 1",
            "pdtrim_prompt_tokens_total 7",
            "pdtrim_kv_bytes_total 512",
            "pdtrim_socket_bytes_total{direction=\"sent\"} 40",
            "pdtrim_prefill_seconds_count 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        drop(held);
        assert!(metrics.text().contains("pdtrim_requests_in_flight 0"));
    }
}
