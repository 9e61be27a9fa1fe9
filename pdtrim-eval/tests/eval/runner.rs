//! Order, sharing, progress, and what a scorer can get wrong.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pdtrim_eval::{
    BatchSize, Error, Execution, Generated, GenerationRequest, ItemOutcome, JournalFile, Options,
    Progress, Request, Result, Scorer, ScorerError, Scores, Task, TaskResult, evaluate,
};

use crate::toy::{Toy, choice_task, folder, pairs, prepare, text};

const DATA: &str = r#"{"q": "short", "c": ["y", "nn"], "g": 0}
{"q": "the longest context", "c": ["y", "nn"], "g": 1}
{"q": "in between", "c": ["y", "n"], "g": 0}
"#;

fn run(scorer: &dyn Scorer, limit: Option<usize>) -> Result<TaskResult> {
    let dir = folder(&[("t.jsonl", DATA.as_bytes())]);
    let options = Options {
        data_dir: Some(dir.path().to_owned()),
        limit: limit.and_then(NonZeroUsize::new),
        fewshot: None,
    };
    evaluate(scorer, &choice_task(), &options, &Execution::default())
}

#[test]
fn requests_come_longest_first_and_results_in_the_datas_order() {
    let toy = Toy::new(|context, _| -(context.len() as f32));
    let result = run(&toy, None).unwrap();
    let contexts: Vec<_> = toy
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|request| text(&request.context))
        .collect();
    assert_eq!(contexts, ["the longest context", "in between", "short"]);
    let sums = result.items.iter().map(|item| match &item.outcome {
        ItemOutcome::Choice { loglikelihoods, .. } => loglikelihoods[0],
        _ => f64::NAN,
    });
    assert_eq!(sums.collect::<Vec<_>>(), [-5.0, -19.0, -10.0]);
}

#[test]
fn the_choices_of_an_item_share_one_request() {
    let toy = Toy::new(|_, _| -1.0);
    run(&toy, None).unwrap();
    let seen = toy.seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    let continuations: Vec<_> = seen[0]
        .continuations
        .iter()
        .map(|tokens| text(tokens))
        .collect();
    assert_eq!(continuations, [" y", " nn"]);
}

#[test]
fn partial_scoring_shares_equal_contexts_and_counts_their_kv_once() {
    let task = r#"
        name = "partial"
        version = 1
        description = "d"
        [[data]]
        files = ["t.jsonl"]
        [multiple_choice]
        contexts = "contexts"
        continuation = "end"
        gold = "0"
    "#;
    let task = Task::parse(task, "t.toml").unwrap();
    let dir = folder(&[(
        "t.jsonl",
        br#"{"contexts": ["one", "fifteen", "one"]}"#.as_slice(),
    )]);
    let prepared = prepare(&task, dir.path()).unwrap();
    assert_eq!(prepared.requests().len(), 2);
    let result = prepared
        .evaluate(
            &Toy::new(|context, _| -(context.len() as f32)),
            &Execution::default(),
        )
        .unwrap();
    let ItemOutcome::Choice {
        loglikelihoods,
        acc_norm,
        ..
    } = &result.items[0].outcome
    else {
        panic!("wrong kind")
    };
    assert_eq!(*loglikelihoods, [-3.0, -7.0, -3.0]);
    assert_eq!(*acc_norm, None);
    assert_eq!(
        (result.items[0].prompt_tokens, result.items[0].kv_positions),
        (10, 10)
    );
}

#[test]
fn a_limit_scores_the_first_items_only() {
    let summary = run(&Toy::new(|_, _| -1.0), Some(2)).unwrap().summary;
    assert_eq!((summary.items, summary.items_total), (2, 3));
}

#[test]
fn items_with_one_token_answers_are_counted_from_the_tokens() {
    let dir = folder(&[("t.jsonl", DATA.as_bytes())]);
    let task = choice_task();
    // Without a delimiter `y` and `n` are one byte; only the third item has no longer answer.
    assert_eq!(prepare(&task, dir.path()).unwrap().one_token_items(), 0);
    let bare = Task::parse(
        "name = \"t\"\nversion = 1\ndescription = \"d\"\n[[data]]\nfiles = [\"t.jsonl\"]\n\
         [multiple_choice]\ncontext = \"{{q}}\"\nchoices = \"c\"\ngold = \"g\"\ndelimiter = \"\"\n",
        "t.toml",
    );
    let prepared = prepare(&bare.unwrap(), dir.path()).unwrap();
    assert_eq!(prepared.one_token_items(), 1);
    let result = prepared
        .evaluate(&Toy::new(|_, _| -1.0), &Execution::default())
        .unwrap();
    assert_eq!(
        result
            .items
            .iter()
            .map(|item| item.one_token)
            .collect::<Vec<_>>(),
        [false, false, true]
    );
    assert_eq!(result.summary.one_token_items, 1);
}

/// How to run requests one by one, with whatever else.
fn one_by_one() -> Execution<'static> {
    Execution {
        batch: BatchSize::Requests(NonZeroUsize::MIN),
        ..Execution::default()
    }
}

#[test]
fn progress_ends_with_everything_done() {
    let dir = folder(&[("t.jsonl", DATA.as_bytes())]);
    let seen = Mutex::new(Vec::new());
    let prepared = prepare(&choice_task(), dir.path()).unwrap();
    let execution = Execution {
        progress: Some(&|progress| seen.lock().unwrap().push(progress)),
        ..one_by_one()
    };
    prepared
        .evaluate(&Toy::new(|_, _| -1.0), &execution)
        .unwrap();
    // Contexts of 5, 19 and 10 bytes; continuations of 2 + 3, 2 + 3 and 2 + 2.
    let last = Progress {
        requests_done: 3,
        requests: 3,
        tokens_done: 48,
        tokens: 48,
    };
    let first = Progress {
        requests_done: 1,
        requests: 3,
        tokens_done: 24,
        tokens: 48,
    };
    let seen = seen.into_inner().unwrap();
    assert_eq!((seen.len(), seen[0], seen[2]), (3, first, last));
}

/// The toy, until its strength leaves it.
struct Dying {
    toy: Toy,
    requests_left: AtomicUsize,
}

impl Scorer for Dying {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ScorerError> {
        self.toy.encode(text)
    }

    fn prefix_token(&self) -> Option<u32> {
        None
    }

    fn max_tokens(&self) -> usize {
        1000
    }

    fn score(&self, requests: &[Request]) -> Result<Vec<Scores>, ScorerError> {
        let left = self.requests_left.fetch_sub(1, Ordering::Relaxed);
        if left == 0 {
            return Err("killed".into());
        }
        self.toy.score(requests)
    }

    fn generate(&self, request: &GenerationRequest) -> Result<Generated, ScorerError> {
        self.toy.generate(request)
    }
}

#[test]
fn a_killed_evaluation_goes_on_where_it_was_and_ends_the_same() {
    let dir = folder(&[("t.jsonl", DATA.as_bytes())]);
    let prepared = prepare(&choice_task(), dir.path()).unwrap();
    let toy = || Toy::new(|context, _| -(context.len() as f32) / 3.0);
    let whole = prepared.evaluate(&toy(), &one_by_one()).unwrap();
    let path = dir.path().join("journal.jsonl");
    let journal = |of| JournalFile { path: &path, of };
    let execution = |of| Execution {
        journal: Some(journal(of)),
        ..one_by_one()
    };
    let dying = Dying {
        toy: toy(),
        requests_left: AtomicUsize::new(2),
    };
    prepared
        .evaluate(&dying, &execution("a model"))
        .unwrap_err();
    // A kill in the middle of a line.
    let mut written = std::fs::read(&path).unwrap();
    written.extend_from_slice(b"{\"scores\": {\"first");
    std::fs::write(&path, written).unwrap();
    let again = toy();
    let resumed = prepared.evaluate(&again, &execution("a model")).unwrap();
    assert_eq!(resumed, whole);
    assert_eq!(again.seen.lock().unwrap().len(), 1);
    // Another model's scores are not taken.
    let other = toy();
    prepared.evaluate(&other, &execution("another")).unwrap();
    assert_eq!(other.seen.lock().unwrap().len(), 3);
}

#[test]
fn a_space_at_the_end_of_the_context_moves_to_the_choice() {
    let dir = folder(&[("t.jsonl", br#"{"q": "a: ", "c": ["y"], "g": 0}"#.as_slice())]);
    let prepared = prepare(&choice_task(), dir.path()).unwrap();
    assert_eq!(pairs(&prepared), [("a:".to_owned(), "  y".to_owned())]);
}

#[test]
fn an_empty_context_is_the_prefix_token() {
    let dir = folder(&[("t.jsonl", br#"{"q": "", "c": ["y"], "g": 0}"#.as_slice())]);
    let prepared = prepare(&choice_task(), dir.path()).unwrap();
    assert_eq!(pairs(&prepared), [("\0".to_owned(), " y".to_owned())]);
}

#[test]
fn a_context_longer_than_the_model_is_cut_from_the_left_and_counted() {
    let toy = |max_tokens| Toy {
        max_tokens,
        ..Toy::new(|_, _| -1.0)
    };
    let whole = run(&toy(22), None).unwrap();
    assert_eq!(whole.summary.truncated_items, 0);
    // The second item has 19 + 3; its shorter choice keeps one token more of the context.
    let short = toy(20);
    let cut = run(&short, None).unwrap();
    let summary = &cut.summary;
    assert_eq!((summary.truncated_items, summary.truncated_tokens), (1, 2));
    let truncated: Vec<_> = cut.items.iter().map(|item| item.truncated_tokens).collect();
    assert_eq!(truncated, [0, 2, 0]);
    let seen = short.seen.lock().unwrap();
    let contexts: Vec<_> = seen.iter().map(|request| text(&request.context)).collect();
    assert!(
        contexts.contains(&"e longest context".to_owned()),
        "{contexts:?}"
    );
    assert!(
        contexts.contains(&"he longest context".to_owned()),
        "{contexts:?}"
    );
}

#[test]
fn a_continuation_longer_than_the_model_is_refused() {
    let toy = Toy {
        max_tokens: 3,
        ..Toy::new(|_, _| -1.0)
    };
    let error = run(&toy, None).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "t.jsonl, line 1: continuation of 3 tokens, but the model takes 3 with its context"
        ),
        "{error}"
    );
}

#[test]
fn a_result_survives_json() {
    let result = run(&Toy::new(|_, _| -1.5), None).unwrap();
    let text = serde_json::to_string(&result).unwrap();
    assert_eq!(serde_json::from_str::<TaskResult>(&text).unwrap(), result);
}

type Change = fn(Vec<Scores>) -> Result<Vec<Scores>, ScorerError>;

/// Changes what the toy returns.
struct Broken(Change);

impl Scorer for Broken {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ScorerError> {
        Toy::new(|_, _| -1.0).encode(text)
    }

    fn prefix_token(&self) -> Option<u32> {
        None
    }

    fn max_tokens(&self) -> usize {
        100
    }

    fn score(&self, requests: &[Request]) -> Result<Vec<Scores>, ScorerError> {
        (self.0)(Toy::new(|_, _| -1.0).score(requests)?)
    }
}

#[test]
fn a_scorer_that_returns_the_wrong_number_of_results_is_caught() {
    let cases: [(Change, &str); 3] = [
        (
            |scores| Ok(scores[1..].to_vec()),
            "task `toy`: expected 3 requests from the scorer, found 2",
        ),
        (
            |mut scores| {
                scores[0].continuations.pop();
                Ok(scores)
            },
            "task `toy`: expected 2 continuations from the scorer, found 1",
        ),
        (
            |mut scores| {
                scores[0].continuations[1].logprobs.push(0.0);
                Ok(scores)
            },
            "task `toy`: expected 3 log-probabilities from the scorer, found 4",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(
            run(&Broken(change), None).unwrap_err().to_string(),
            expected
        );
    }
}

#[test]
fn a_nan_is_an_error_and_not_a_score() {
    let nan = Broken(|mut scores| {
        scores[2].continuations[0].logprobs[0] = f32::NAN;
        Ok(scores)
    });
    // The shortest item is the last request and the first item.
    let error = run(&nan, None).unwrap_err().to_string();
    assert_eq!(
        error,
        "task `toy`, item 0: expected a log-probability, found NaN"
    );
}

#[test]
fn a_failing_scorer_is_the_source_of_the_error() {
    let error = run(&Broken(|_| Err("out of memory".into())), None).unwrap_err();
    assert!(
        matches!(&error, Error::Scorer { source, .. } if source.to_string() == "out of memory"),
        "{error:?}"
    );
}
