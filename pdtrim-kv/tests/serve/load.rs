//! More requests than a server takes on.

use std::time::Duration;

use pdtrim_kv::serve::{GenerateRequest, Generator, Limits, ServeError};
use tokio::net::TcpListener;

use crate::proxy::{self, Fate};
use crate::stages::{Setup, eventually, greedy, metric, prompt};

/// A decode of one request at a time, whose prefill says nothing: who has a turn keeps it.
async fn stuck(limits: Limits) -> (Generator, TcpListener) {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let setup = Setup {
        limits,
        ..Setup::tiny()
    };
    (setup.decode(mute.local_addr().unwrap(), 1), mute)
}

fn short() -> GenerateRequest {
    greedy(prompt(1, 5), 2)
}

fn ended(decode: &Generator, outcome: &str) -> f64 {
    let line = format!("pdtrim_requests_total{{outcome=\"{outcome}\"}}");
    metric(decode.metrics(), &line)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_turn_in_time_is_refused_long_before_the_deadline() {
    let limits = Limits {
        in_flight: 1,
        waiting: 1,
        max_wait: Duration::from_millis(600),
        batch: 1,
        deadline: Duration::from_mins(10),
    };
    let (decode, _mute) = stuck(limits).await;
    let first = tokio::spawn({
        let decode = decode.clone();
        async move { decode.start(short()).await.map(|_| ()) }
    });
    let in_flight = || metric(decode.metrics(), "pdtrim_requests_in_flight");
    eventually("the first has its turn", || in_flight() > 0.5).await;
    let waits = decode.start(short());
    let beyond = async {
        // Once the other one stands in line.
        tokio::time::sleep(Duration::from_millis(200)).await;
        decode.start(short()).await
    };
    let (waited, beyond) = tokio::join!(waits, beyond);
    let waited = waited.unwrap_err();
    assert!(matches!(waited, ServeError::Waited { .. }), "{waited}");
    let beyond = beyond.unwrap_err();
    assert!(matches!(beyond, ServeError::Busy { limit: 2 }), "{beyond}");
    assert!((ended(&decode, "busy") - 2.0).abs() < 0.5);
    // The one that has its turn goes on until it is given up.
    assert!(in_flight() > 0.5);
    first.abort();
    eventually("nothing is in flight", || in_flight() < 0.5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_longer_than_the_deadline_ends_with_it() {
    let limits = Limits {
        in_flight: 1,
        waiting: 1,
        max_wait: Duration::from_mins(10),
        batch: 1,
        deadline: Duration::from_millis(500),
    };
    let (decode, _mute) = stuck(limits).await;
    let (first, second) = tokio::join!(decode.start(short()), decode.start(short()));
    for late in [first, second] {
        let late = late.unwrap_err();
        assert!(matches!(late, ServeError::Deadline { .. }), "{late}");
    }
    assert!((ended(&decode, "deadline") - 2.0).abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_any_size_are_limits() {
    let limits = Limits {
        in_flight: usize::MAX,
        waiting: usize::MAX,
        ..Limits::default()
    };
    assert!(limits.open() <= 1 << 20);
    let setup = Setup {
        limits,
        ..Setup::tiny()
    };
    let (prefill, _) = setup.start_prefill().await;
    let decode = setup.decode(prefill, 1);
    assert!(decode.start(short()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefill_that_is_busy_is_load_and_no_fault() {
    let mut setup = Setup::wide();
    setup.limits = Limits {
        in_flight: 1,
        waiting: 0,
        batch: 1,
        deadline: Duration::from_secs(20),
        ..setup.limits
    };
    let (prefill, counted) = setup.start_prefill().await;
    // Takes a megabyte of tens, and no more.
    let stalled = proxy::start(prefill, vec![Fate::Stall(1 << 20)]).await;
    let slow = setup.decode(stalled, 1);
    let holds =
        tokio::spawn(async move { slow.start(greedy(prompt(1, 512), 4)).await.map(|_| ()) });
    eventually("the only place is taken", || {
        metric(&counted, "pdtrim_requests_in_flight") > 0.5
    })
    .await;
    let decode = setup.decode(prefill, 3);
    let error = decode.start(short()).await.unwrap_err();
    assert!(matches!(error, ServeError::PrefillBusy { .. }), "{error}");
    assert!(error.to_string().contains("try again later"), "{error}");
    assert!((ended(&decode, "busy") - 1.0).abs() < 0.5);
    let retries = metric(decode.metrics(), "pdtrim_prefill_retries_total");
    assert!(retries < 0.5, "asking at once would only add to it");
    holds.abort();
    eventually("it is given back", || {
        metric(&counted, "pdtrim_requests_in_flight") < 0.5
    })
    .await;
    assert!(decode.start(short()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_closed_while_nobody_asked_is_made_again() {
    let mut setup = Setup::tiny();
    // A connection without a request is kept no longer than that.
    setup.limits.deadline = Duration::from_secs(1);
    let (prefill, counted) = setup.start_prefill().await;
    setup.limits.deadline = Duration::from_mins(1);
    let decode = setup.decode(prefill, 1);
    for _ in 0..2 {
        let events = decode.start(short()).await.unwrap();
        assert_eq!(events.all().await.unwrap().0.len(), 2);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let retries = metric(decode.metrics(), "pdtrim_prefill_retries_total");
    assert!(retries < 0.5, "that is no fault");
    // Nothing was open when the second request came, or it would not have shown.
    assert!(metric(&counted, "pdtrim_connections_total") > 1.5);
}
