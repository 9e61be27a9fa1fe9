use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pdtrim_kv::serve::{Generator, Limits, Metrics, ServeError};
use tokio::net::TcpListener;

use crate::proxy::{self, Fate};
use crate::stages::{Setup, eventually, greedy, metric, prompt};

/// A prompt whose KV is tens of MiB, and what comes after it.
async fn generate(decode: &Generator) -> Result<Vec<u32>, ServeError> {
    let events = decode.start(greedy(prompt(1, 512), 4)).await?;
    Ok(events.all().await?.0)
}

async fn alone(setup: &Setup) -> Vec<u32> {
    let unified = Generator::unified(setup.served(), setup.limits, Metrics::new()).unwrap();
    generate(&unified).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_or_is_damaged_is_asked_for_again() {
    let setup = Setup::wide();
    let expected = alone(&setup).await;
    let (prefill, _) = setup.start_prefill().await;
    // A connection that ends before anything has come is made again, which is no second try.
    for (fate, counted) in [
        (Fate::Flip(3 << 20), 1.0),
        (Fate::Cut(3 << 20), 1.0),
        (Fate::Cut(10), 0.0),
    ] {
        let proxy = proxy::start(prefill, vec![fate]).await;
        let decode = setup.decode(proxy, 2);
        assert_eq!(generate(&decode).await.unwrap(), expected, "{fate:?}");
        let retries = metric(decode.metrics(), "pdtrim_prefill_retries_total");
        assert!((retries - counted).abs() < 0.5, "{fate:?}: {retries}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_try_each_fault_is_one_clear_error_and_the_next_request_is_unharmed() {
    let setup = Setup::wide();
    let expected = alone(&setup).await;
    let (prefill, _) = setup.start_prefill().await;
    for fate in [Fate::Flip(5 << 20), Fate::Cut(5 << 20)] {
        let proxy = proxy::start(prefill, vec![fate]).await;
        let decode = setup.decode(proxy, 1);
        let error = generate(&decode).await.unwrap_err();
        match (fate, &error) {
            (Fate::Flip(_), ServeError::Wire { .. }) => {
                assert!(error.to_string().contains("crc32"), "{error}");
            }
            (_, ServeError::Prefill { address, .. }) => {
                assert!(error.to_string().contains(address), "{error}");
            }
            _ => panic!("{fate:?}: {error}"),
        }
        assert_eq!(generate(&decode).await.unwrap(), expected, "{fate:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefill_that_is_not_there_or_says_nothing_costs_no_more_than_the_deadline() {
    let mut setup = Setup::tiny();
    setup.limits.deadline = Duration::from_secs(1);
    // Bound and let go: nobody listens there.
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody: SocketAddr = unused.local_addr().unwrap();
    drop(unused);
    let began = Instant::now();
    let error = generate_short(&setup.decode(nobody, 2)).await.unwrap_err();
    assert!(matches!(error, ServeError::Prefill { .. }), "{error}");

    // Takes connections, and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap();
    let decode = setup.decode(address, 2);
    let error = generate_short(&decode).await.unwrap_err();
    assert!(matches!(error, ServeError::Deadline { .. }), "{error}");

    // Falls silent in the middle of an answer.
    let setup = Setup {
        limits: setup.limits,
        ..Setup::wide()
    };
    let (prefill, counted) = Setup::wide().start_prefill().await;
    let proxy = proxy::start(prefill, vec![Fate::Stall(1 << 20)]).await;
    let decode = setup.decode(proxy, 2);
    let error = generate(&decode).await.unwrap_err();
    assert!(matches!(error, ServeError::Deadline { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20));
    // Prefill was told how long decode waits, and has let go of the prompt as well.
    eventually("prefill holds nothing", || {
        metric(&counted, "pdtrim_requests_in_flight") < 0.5
    })
    .await;
}

async fn generate_short(decode: &Generator) -> Result<Vec<u32>, ServeError> {
    let events = decode.start(greedy(prompt(1, 9), 4)).await?;
    Ok(events.all().await?.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_given_up_leaves_nothing_behind() {
    let setup = Setup::wide();
    let (prefill, there) = setup.start_prefill().await;
    let decode = setup.decode(prefill, 1);
    let in_flight = |metrics: &Metrics| metric(metrics, "pdtrim_requests_in_flight");
    // In the middle of prefill's answer.
    for wait in [5, 20, 60] {
        let asked = decode.start(greedy(prompt(2, 512), 100));
        let _ = tokio::time::timeout(Duration::from_millis(wait), asked).await;
    }
    // In the middle of the text.
    let mut events = decode.start(greedy(prompt(3, 512), 400)).await.unwrap();
    events.next().await;
    drop(events);
    eventually("nothing is in flight", || {
        in_flight(decode.metrics()) < 0.5 && in_flight(&there) < 0.5
    })
    .await;
    let cancelled = metric(
        decode.metrics(),
        "pdtrim_requests_total{outcome=\"cancelled\"}",
    );
    assert!(cancelled > 0.5, "{}", decode.metrics().text());
    assert_eq!(generate(&decode).await.unwrap(), alone(&setup).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_served_in_turn_and_what_is_beyond_the_line_is_refused() {
    let mut setup = Setup::tiny();
    setup.limits = Limits {
        in_flight: 4,
        waiting: 150,
        max_wait: Duration::from_mins(2),
        batch: 4,
        deadline: Duration::from_mins(2),
    };
    let (prefill, _) = setup.start_prefill().await;
    let decode = setup.decode(prefill, 1);
    let requests: Vec<_> = (0..200)
        .map(|number| {
            let decode = decode.clone();
            tokio::spawn(async move {
                let request = greedy(prompt(number, 2 + number % 30), 8);
                match decode.start(request).await {
                    Ok(events) => events.all().await.map(|(tokens, _)| Some(tokens)),
                    Err(ServeError::Busy { limit: 154 }) => Ok(None),
                    Err(error) => Err(error),
                }
            })
        })
        .collect();
    let (mut served, mut busy) = (0, 0);
    for request in requests {
        match request.await.unwrap().unwrap() {
            Some(tokens) => {
                assert_eq!(tokens.len(), 8);
                served += 1;
            }
            None => busy += 1,
        }
    }
    assert_eq!(served + busy, 200);
    assert!(
        served >= 154 && busy <= 46,
        "{served} served, {busy} refused"
    );
    let done = metric(decode.metrics(), "pdtrim_requests_total{outcome=\"done\"}");
    assert!((done - f64::from(served)).abs() < 0.5);
    assert!(metric(decode.metrics(), "pdtrim_requests_in_flight") < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_or_plan_is_refused_by_hash_before_anything_runs() {
    let setup = Setup::tiny();
    let (prefill, counted) = setup.start_prefill().await;
    let other_model = Setup {
        model_hash: "sha256:other",
        ..setup.clone()
    };
    let stale = Setup {
        removed: pdtrim_core::PerStage {
            prefill: Vec::new(),
            decode: vec![1],
        },
        ..setup.clone()
    };
    for (decode, named) in [
        (other_model, "model: prefill serves sha256:tiny"),
        (stale, "plan: prefill serves"),
    ] {
        let decode = decode.decode(prefill, 2);
        let said = generate_short(&decode).await.unwrap_err().to_string();
        assert!(said.contains(named), "{said}");
        let retries = metric(decode.metrics(), "pdtrim_prefill_retries_total");
        assert!(retries < 0.5, "asking again does not help");
    }
    assert!(metric(&counted, "pdtrim_prompt_tokens_total") < 0.5);
    assert!(generate_short(&setup.decode(prefill, 1)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_answered_are_refused_before_they_wait() {
    let setup = Setup::tiny();
    let unified = Generator::unified(setup.served(), setup.limits, Metrics::new()).unwrap();
    for (request, named) in [
        (greedy(Vec::new(), 4), "prompt"),
        (greedy(prompt(1, 129), 1), "129"),
        (greedy(prompt(1, 120), 10), "129"),
        (greedy(vec![96], 1), "96"),
        (greedy(vec![5], 0), "max_tokens"),
    ] {
        let said = unified.start(request).await.unwrap_err().to_string();
        assert!(said.contains(named), "{named}: {said}");
    }
    let refused = metric(
        unified.metrics(),
        "pdtrim_requests_total{outcome=\"refused\"}",
    );
    assert!((refused - 5.0).abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_up_itself_only() {
    let mut setup = Setup::wide();
    setup.limits.deadline = Duration::from_secs(4);
    let expected = alone(&setup).await;
    let (prefill, counted) = setup.start_prefill().await;
    // Takes a megabyte of tens, and no more.
    let slow = proxy::start(prefill, vec![Fate::Stall(1 << 20); 3]).await;
    let slow: Vec<_> = (0..3)
        .map(|_| {
            let decode = setup.decode(slow, 1);
            tokio::spawn(async move { generate(&decode).await })
        })
        .collect();
    eventually("all three are being sent", || {
        metric(&counted, "pdtrim_requests_in_flight") > 2.5
    })
    .await;
    let decode = setup.decode(prefill, 1);
    assert_eq!(generate(&decode).await.unwrap(), expected);
    for reader in slow {
        let error = reader.await.unwrap().unwrap_err();
        assert!(matches!(error, ServeError::Deadline { .. }), "{error}");
    }
    eventually("their keys and values are let go", || {
        metric(&counted, "pdtrim_requests_in_flight") < 0.5
    })
    .await;
    let late = metric(&counted, "pdtrim_requests_total{outcome=\"deadline\"}");
    let gone = metric(&counted, "pdtrim_requests_total{outcome=\"cancelled\"}");
    assert!((late + gone - 3.0).abs() < 0.5, "{late} {gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_prompt_can_be_is_refused_by_its_length() {
    let setup = Setup::tiny();
    let (prefill, counted) = setup.start_prefill().await;
    let mut longer = setup.clone();
    longer.config.context_length = 1 << 20;
    let decode = longer.decode(prefill, 2);
    let asked = decode.start(greedy(prompt(1, 500_000), 1)).await;
    let said = asked.unwrap_err().to_string();
    assert!(said.contains("too large") && said.contains("500"), "{said}");
    // Within the message's length, but not the model's context.
    let asked = decode.start(greedy(prompt(1, 200), 1)).await;
    let said = asked.unwrap_err().to_string();
    assert!(said.contains("200") && said.contains("128"), "{said}");
    assert!(metric(&counted, "pdtrim_prompt_tokens_total") < 0.5);
}
