//! Tasks that are no multiple choice, worked examples, groups, and Parquet.

use std::path::{Path, PathBuf};

use pdtrim_eval::{
    Dataset, EvalReport, Execution, Folders, HubFile, ItemOutcome, MetricName, Mode, Prepared,
    RunInfo, ScorerError, Task, TaskResult,
};

use crate::toy::{Toy, folder, pairs, prepare};

fn task(kind: &str) -> Task {
    let text = format!(
        "name = \"t\"\nversion = 1\ndescription = \"d\"\n[[data]]\nfiles = [\"t.jsonl\"]\n{kind}"
    );
    Task::parse(&text, "t.toml").unwrap()
}

fn result(task: &Task, data: &str, toy: &Toy) -> TaskResult {
    let dir = folder(&[("t.jsonl", data.as_bytes())]);
    let prepared = prepare(task, dir.path()).unwrap();
    prepared.evaluate(toy, &Execution::default()).unwrap()
}

fn value(result: &TaskResult, name: MetricName) -> f64 {
    result.summary.metric(name).unwrap().value
}

#[test]
fn lambada_scores_the_last_word() {
    let data = "{\"text\": \"1 the cat drank its milk\"}\n{\"text\": \"2 he ate the bread\"}\n\
                {\"text\": \"3 she rode her horse\"}\n";
    let dir = folder(&[("lambada/test.jsonl", data.as_bytes())]);
    let task = Task::bundled("lambada_openai").unwrap();
    let prepared = prepare(&task, dir.path()).unwrap();
    let mut all = pairs(&prepared);
    all.sort();
    assert_eq!(
        all[0],
        ("1 the cat drank its".to_owned(), " milk".to_owned())
    );
    // The toy is greedy above -1: two of three; exp((0.5 + 0.5 + 2) / 3) = e.
    let toy = Toy::new(|_, word| if word == " horse" { -2.0 } else { -0.5 });
    let result = prepared.evaluate(&toy, &Execution::default()).unwrap();
    assert!((value(&result, MetricName::Acc) - 2.0 / 3.0).abs() < 1e-12);
    assert!((value(&result, MetricName::Perplexity) - 1.0_f64.exp()).abs() < 1e-12);
}

#[test]
fn rolling_counts_words_and_bytes_of_the_original() {
    let task =
        task("[rolling]\ntext = \"{{page | replace(' , ', ', ')}}\"\noriginal = \"{{page}}\"\n");
    let toy = Toy::new(|_, _| -6.0);
    let found = result(&task, "{\"page\": \"one , two\"}\n", &toy);
    // 8 bytes are scored after the prefix token; the original has 9 bytes and 3 words.
    assert_eq!(
        found.items[0].outcome,
        ItemOutcome::Text {
            loglikelihood: -6.0,
            tokens: 8,
            words: Some(3),
            bytes: Some(9),
        }
    );
    assert!((value(&found, MetricName::WordPerplexity) - 2.0_f64.exp()).abs() < 1e-12);
    assert!((value(&found, MetricName::TokenPerplexity) - 0.75_f64.exp()).abs() < 1e-12);
    assert!((value(&found, MetricName::BytePerplexity) - (6.0_f64 / 9.0).exp()).abs() < 1e-12);
    let bits = 6.0 / 9.0 / std::f64::consts::LN_2;
    assert!((value(&found, MetricName::BitsPerByte) - bits).abs() < 1e-12);
    assert_eq!(toy.seen.lock().unwrap()[0].context, [0]);
}

#[test]
fn a_long_text_is_rolled_over_and_every_token_scored_once() {
    let task = task("[rolling]\ntext = \"{{page}}\"\n");
    let toy = Toy {
        max_tokens: 5,
        ..Toy::new(|_, _| -1.0)
    };
    let dir = folder(&[("t.jsonl", br#"{"page": "abcdefghij"}"#.as_slice())]);
    let dataset = Dataset::load(&task, &Folders::of(Some(dir.path()))).unwrap();
    let prepared = Prepared::new(&task, &dataset, &toy, None).unwrap();
    let mut windows = pairs(&prepared);
    windows.sort();
    let pair = |context: &str, scored: &str| (context.to_owned(), scored.to_owned());
    assert_eq!(
        windows,
        [pair("\0", "abcd"), pair("d", "efgh"), pair("fgh", "ij")]
    );
    let result = prepared.evaluate(&toy, &Execution::default()).unwrap();
    assert_eq!((result.items.len(), result.summary.scored_tokens), (1, 10));
}

#[test]
fn an_answer_is_right_if_it_is_an_accepted_one() {
    let task = task(
        "[generation]\ncontext = \"{{q}}\"\nanswers = \"a\"\nmax_tokens = 4\nuntil = [\".\"]\nignore_case = true\n",
    );
    let data = "{\"q\": \"say one\", \"a\": [\"two\", \"One\"]}\n{\"q\": \"say two please\", \"a\": [\"two\"]}\n";
    let found = result(&task, data, &Toy::new(|_, _| 0.0));
    assert!((value(&found, MetricName::ExactMatch) - 0.5).abs() < 1e-12);
    assert_eq!(found.items[0].prompt_tokens, 7);
    assert_eq!(
        found.items[1].outcome,
        ItemOutcome::Answer {
            answer: "please".to_owned(),
            accepted: vec!["two".to_owned()],
            exact_match: false,
        }
    );
}

const EXAMPLES: &str =
    "[multiple_choice]\ncontext = \"Q {{q}}\"\nchoices = \"['yes', 'no']\"\ngold = \"g\"\n";
const ITEMS: &str =
    "{\"q\": \"1\", \"g\": 0}\n{\"q\": \"22\", \"g\": 1}\n{\"q\": \"333\", \"g\": 0}\n";

#[test]
fn worked_examples_are_the_first_ones_that_are_not_the_item() {
    let task = task(EXAMPLES).with_fewshot(2).unwrap();
    let dir = folder(&[("t.jsonl", ITEMS.as_bytes())]);
    let prepared = prepare(&task, dir.path()).unwrap();
    let mut contexts: Vec<_> = pairs(&prepared).into_iter().map(|pair| pair.0).collect();
    contexts.sort();
    contexts.dedup();
    assert_eq!(
        contexts,
        [
            "Q 1 yes\n\nQ 22 no\n\nQ 333",
            "Q 1 yes\n\nQ 333 yes\n\nQ 22",
            "Q 22 no\n\nQ 333 yes\n\nQ 1",
        ]
    );
    let error = prepare(&task.with_fewshot(3).unwrap(), dir.path()).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("t.jsonl: expected 4 records for the worked examples of task `t`, found 3"),
        "{error}"
    );
}

#[test]
fn neighbours_with_a_field_in_common_become_one_record() {
    let text = "name = \"t\"\nversion = 1\ndescription = \"d\"\n[[data]]\nfiles = [\"t.jsonl\"]\ngroup_by = \"on\"\n\
        [multiple_choice]\ncontext = \"{{on}}{% for row in rows %} {{row.q}}{% endfor %}\"\nchoices = \"['y']\"\ngold = \"0\"\n";
    let task = Task::parse(text, "t.toml").unwrap();
    let data = "{\"on\": \"a\", \"q\": 1}\n{\"on\": \"a\", \"q\": 2}\n{\"on\": \"bb\", \"q\": 3}\n";
    let dir = folder(&[("t.jsonl", data.as_bytes())]);
    let prepared = prepare(&task, dir.path()).unwrap();
    let mut contexts: Vec<_> = pairs(&prepared).into_iter().map(|pair| pair.0).collect();
    contexts.sort();
    assert_eq!(contexts, ["a 1 2", "bb 3"]);
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/eval/fixtures")
        .join(name)
}

/// The task's contexts and golds on a file that the hub serves.
fn from_hub(task: &str, file: &'static str, expected: &'static str) -> (Vec<String>, Vec<usize>) {
    let fetch = move |asked: &HubFile| -> Result<PathBuf, ScorerError> {
        assert_eq!(
            format!("{}@{}/{}", asked.repo, asked.revision, asked.file),
            expected
        );
        Ok(fixture(file))
    };
    let folders = Folders {
        data_dir: None,
        fetch: Some(&fetch),
    };
    let task = Task::bundled(task).unwrap();
    let dataset = Dataset::load(&task, &folders).unwrap();
    let toy = Toy::new(|_, _| -1.0);
    let prepared = Prepared::new(&task, &dataset, &toy, None).unwrap();
    let mut contexts: Vec<_> = pairs(&prepared).into_iter().map(|pair| pair.0).collect();
    contexts.sort();
    contexts.dedup();
    let result = prepared.evaluate(&toy, &Execution::default()).unwrap();
    let gold = |item: &pdtrim_eval::Item| match item.outcome {
        ItemOutcome::Choice { gold, .. } => gold,
        _ => usize::MAX,
    };
    (contexts, result.items.iter().map(gold).collect())
}

#[test]
fn the_hubs_parquet_files_hold_the_same_fields() {
    let (contexts, golds) = from_hub(
        "arc_challenge",
        "arc.parquet",
        "allenai/ai2_arc@refs/convert/parquet/ARC-Challenge/test/0000.parquet",
    );
    assert_eq!(contexts[0], "Question: 1 What is wet?\nAnswer:");
    assert_eq!(golds, [1, 0, 1]);
    let (contexts, golds) = from_hub(
        "mmlu_astronomy",
        "mmlu.parquet",
        "cais/mmlu@refs/convert/parquet/astronomy/test/0000.parquet",
    );
    assert_eq!(golds, [0, 1, 2]);
    assert!(
        contexts[1]
            .ends_with("\n\n2 Which is a star?\nA. Venus\nB. Sirius\nC. Titan\nD. Halley\nAnswer:"),
        "{contexts:?}"
    );
}

#[test]
fn a_broken_parquet_file_and_a_hub_that_fails_are_named() {
    let task = Task::bundled("arc_challenge").unwrap();
    let dir = folder(&[("x.parquet", b"PAR1 and no more".as_slice())]);
    let path = dir.path().join("x.parquet");
    let fetch = |_: &HubFile| Ok(path.clone());
    let folders = Folders {
        data_dir: None,
        fetch: Some(&fetch),
    };
    let error = Dataset::load(&task, &folders).unwrap_err().to_string();
    assert!(
        error.ends_with("x.parquet is not a valid Parquet file"),
        "{error}"
    );
    let down = |_: &HubFile| -> Result<PathBuf, ScorerError> { Err("no network".into()) };
    let folders = Folders {
        data_dir: Some(dir.path()),
        fetch: Some(&down),
    };
    let error = Dataset::load(&task, &folders).unwrap_err().to_string();
    assert!(
        error.starts_with("task `arc_challenge`: no data at "),
        "{error}"
    );
    assert!(
        error.contains("arc-challenge/ARC-Challenge-Test.jsonl, ")
            && error.ends_with(
                "and allenai/ai2_arc/ARC-Challenge/test/0000.parquet cannot be fetched from the hub"
            ),
        "{error}"
    );
}

/// Three subjects' tables, with the answers that the toy gets right.
fn family_report() -> EvalReport {
    let text = "name = \"f\"\nversion = 1\ndescription = \"about <subject words>\"\n\
        [subjects]\nnear = [\"a_one\", \"b\"]\nfar = [\"c\"]\n\
        [[data]]\nfiles = [\"<subject>.jsonl\"]\n\
        [multiple_choice]\ncontext = \"{{q}}\"\nchoices = \"['yes', 'no']\"\ngold = \"g\"\n";
    let lines = |golds: &[u8]| -> String {
        let line = |(at, gold): (usize, &u8)| format!("{{\"q\": \"{at}\", \"g\": {gold}}}\n");
        golds.iter().enumerate().map(line).collect()
    };
    let (one, two, three) = (lines(&[0, 0]), lines(&[0, 1, 1, 1]), lines(&[1, 0]));
    let dir = folder(&[
        ("a_one.jsonl", one.as_bytes()),
        ("b.jsonl", two.as_bytes()),
        ("c.jsonl", three.as_bytes()),
    ]);
    let yes = Toy::new(|_, text| if text == " yes" { -1.0 } else { -2.0 });
    let no = Toy::new(|_, text| if text == " no" { -1.0 } else { -2.0 });
    let mut report = EvalReport::new(RunInfo::default());
    for task in Task::parse_all(text, "f.toml").unwrap() {
        let prepared = prepare(&task, dir.path()).unwrap();
        let run = |toy| prepared.evaluate(toy, &Execution::default()).unwrap();
        report.push(Mode::Dense, None, run(&yes));
        report.push(Mode::Unified, None, run(&no));
    }
    report
}

#[test]
fn a_familys_groups_are_weighted_by_size() {
    let report = family_report();
    assert_eq!(report.tasks(), ["f_a_one", "f_b", "f_c"]);
    let groups = report.groups();
    let find = |name: &str, mode| {
        let group = groups
            .iter()
            .find(|row| row.group == name && row.mode == mode)
            .unwrap();
        (
            group.items,
            group.metrics[0].metric.value,
            group.metrics[0].difference_to_dense,
        )
    };
    // Right with yes: 2 of 2, 1 of 4, 1 of 2.
    let (items, acc, difference) = find("f", Mode::Dense);
    assert_eq!((items, acc, difference), (8, 0.5, None));
    let (items, acc, difference) = find("f_near", Mode::Unified);
    assert_eq!((items, acc), (6, 0.5));
    assert!(difference.unwrap().value.abs() < 1e-12);
    assert_eq!(find("f_far", Mode::Dense).0, 2);
}

#[test]
fn groups_stand_in_the_results_as_the_harness_has_them() {
    let file = family_report().to_json();
    assert_eq!(
        file["group_subtasks"]["f"],
        serde_json::json!(["f_near", "f_far"])
    );
    assert_eq!(
        file["group_subtasks"]["f_near"],
        serde_json::json!(["f_a_one", "f_b"])
    );
    assert_eq!(file["results"]["f"]["acc,none"], 0.5);
    assert_eq!(file["groups"]["f"], file["results"]["f"]);
    assert!(family_report().table().contains("(3 tasks)"));
}
