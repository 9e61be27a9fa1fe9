//! Metrics against numbers worked out by hand.

use pdtrim_core::Bytes;
use pdtrim_eval::{
    Execution, ItemOutcome, Metric, MetricName, Options, Task, TaskResult, evaluate,
};

use crate::toy::{Toy, choice_task, folder};

/// Four items; the log-likelihood of each choice is the number in front of it.
const DATA: &str = r#"{"q": "a:", "c": ["-2 no", "-4 certainly"], "g": 0}
{"q": "bb:", "c": ["-2 no", "-3 certainly"], "g": 1}
{"q": "cc:", "c": ["-2 no", "-3 no"], "g": 1}
{"q": "dddd:", "c": ["-1 é", "-1 no"], "g": 0}
"#;

fn number_in_front(_: &str, continuation: &str) -> f32 {
    let number = continuation.trim().split(' ').next().unwrap_or_default();
    number
        .parse()
        .expect("every choice begins with its log-likelihood")
}

fn four_items(sent: usize) -> TaskResult {
    let dir = folder(&[("t.jsonl", DATA.as_bytes())]);
    let toy = Toy {
        sent,
        ..Toy::new(number_in_front)
    };
    let options = Options {
        data_dir: Some(dir.path().to_owned()),
        limit: None,
        fewshot: None,
    };
    evaluate(&toy, &choice_task(), &options, &Execution::default()).unwrap()
}

fn close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() < 1e-12,
        "expected {expected}, found {found}"
    );
}

#[test]
fn acc_and_acc_norm_of_four_items() {
    let result = four_items(usize::MAX);
    // acc: a right (-2 > -4), b wrong, c wrong, d right (equal, the first wins): 2 of 4.
    // The standard error: squares 4 · (1/2)² = 1; / 3; √ = 0.57735; / 2 = 0.288675.
    let acc = result.summary.metric(MetricName::Acc).unwrap();
    close(acc.value, 0.5);
    close(acc.stderr.unwrap(), 0.288_675_134_594_812_9);
    // acc_norm: lengths 5 and 12 characters (`-2 no`, `-4 certainly`), 4 for `-1 é`.
    // a: -2/5 = -0.4, -4/12 = -0.333: wrong. b: -0.4, -3/12 = -0.25: right. c: -0.4, -0.6: wrong.
    // d: -1/4 (by bytes it would be -1/5, equal, and the first would win), -1/5: wrong. 1 of 4.
    // The standard error: squares 3 · (1/4)² + (3/4)² = 3/4; / 3 = 1/4; √ = 1/2; / 2 = 1/4.
    let acc_norm = result.summary.metric(MetricName::AccNorm).unwrap();
    assert_eq!(
        *acc_norm,
        Metric {
            name: MetricName::AccNorm,
            value: 0.25,
            stderr: Some(0.25)
        }
    );
}

#[test]
fn every_item_keeps_its_log_likelihoods_and_verdict() {
    let result = four_items(usize::MAX);
    let outcomes: Vec<_> = result
        .items
        .iter()
        .map(|item| item.outcome.clone())
        .collect();
    let choice = |loglikelihoods: [f64; 2], gold, acc, acc_norm| ItemOutcome::Choice {
        loglikelihoods: loglikelihoods.to_vec(),
        greedy: vec![false, false],
        gold,
        acc,
        acc_norm: Some(acc_norm),
    };
    assert_eq!(
        outcomes,
        [
            choice([-2.0, -4.0], 0, true, false),
            choice([-2.0, -3.0], 1, false, true),
            choice([-2.0, -3.0], 1, false, false),
            choice([-1.0, -1.0], 0, true, false),
        ]
    );
    let lines: Vec<_> = result
        .items
        .iter()
        .map(|item| (item.doc, item.line))
        .collect();
    assert_eq!(
        lines,
        [(0, Some(1)), (1, Some(2)), (2, Some(3)), (3, Some(4))]
    );
}

#[test]
fn kv_traffic_counts_each_context_once() {
    // Contexts of 2, 3, 3 and 5 tokens; at most 3 positions cross, at ten bytes each.
    let kv = four_items(3).summary.kv;
    assert_eq!((kv.contexts, kv.bytes, kv.positions), (4, Bytes(110), 11));
    assert_eq!((kv.trimmed_items, kv.trimmed_share), (1, 0.25));
    close(kv.bytes_per_item, 27.5);
}

#[test]
fn perplexity_counts_only_the_continuation_of_each_window() {
    let task = r#"
        name = "windows"
        version = 1
        description = "d"
        [[data]]
        files = ["t.txt"]
        [perplexity]
        window = 4
        prompt_share = 0.75
    "#;
    let task = Task::parse(task, "t.toml").unwrap();
    let dir = folder(&[("t.txt", b"aaab aac rest".as_slice())]);
    let options = Options {
        data_dir: Some(dir.path().to_owned()),
        limit: None,
        fewshot: None,
    };
    // Windows `aaab`, ` aac`, ` res`, and the token `t` left over; scored are `b`, `c` and `s`.
    let toy = Toy::new(|context, scored| {
        if context == "aaa" && scored == "b" {
            -3.0
        } else {
            -1.5
        }
    });
    let result = evaluate(&toy, &task, &options, &Execution::default()).unwrap();
    assert_eq!((result.summary.items, result.summary.items_total), (3, 3));
    assert_eq!(
        (
            result.summary.scored_tokens,
            result.summary.tokens_left_over
        ),
        (3, Some(1))
    );
    // (3 + 1.5 + 1.5) / 3 = 2
    close(
        result
            .summary
            .metric(MetricName::TokenPerplexity)
            .unwrap()
            .value,
        2.0_f64.exp(),
    );
    assert_eq!(
        result.items[0].outcome,
        ItemOutcome::Text {
            loglikelihood: -3.0,
            tokens: 1,
            words: None,
            bytes: None,
        }
    );
}

#[test]
fn with_one_prompt_token_all_other_tokens_count() {
    let task = r#"
        name = "windows"
        version = 1
        description = "d"
        [[data]]
        files = ["t.txt"]
        [perplexity]
        window = 4
        prompt_tokens = 1
        max_windows = 2
    "#;
    let task = Task::parse(task, "t.toml").unwrap();
    let dir = folder(&[("t.txt", b"abcdefghijkl".as_slice())]);
    let options = Options {
        data_dir: Some(dir.path().to_owned()),
        limit: None,
        fewshot: None,
    };
    let result = evaluate(
        &Toy::new(|_, _| -6.0),
        &task,
        &options,
        &Execution::default(),
    )
    .unwrap();
    assert_eq!(
        (
            result.summary.items,
            result.summary.items_total,
            result.summary.scored_tokens
        ),
        (2, 3, 6)
    );
    // 2 · 6 / 6 = 2
    close(
        result
            .summary
            .metric(MetricName::TokenPerplexity)
            .unwrap()
            .value,
        2.0_f64.exp(),
    );
}
