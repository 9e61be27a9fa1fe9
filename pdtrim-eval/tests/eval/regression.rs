//! Runs held against a baseline.

mod properties;
mod refusals;

use pdtrim_core::Boundary;
use pdtrim_eval::regression::{Baseline, Check, Gate, MaxDrop, Status, compare};
use pdtrim_eval::{EvalReport, ItemOutcome, MetricName, Mode, RunInfo, Task, TaskResult};

use crate::toy::{Toy, choice_task, folder, prepare};

/// A multiple choice whose items have these digits as `acc` and `acc_norm`.
fn choices(name: &str, accs: &str, acc_norms: &str) -> TaskResult {
    let line = |item| format!("{{\"q\": \"Item {item}?\", \"c\": [\"yes\", \"no\"], \"g\": 0}}\n");
    let lines: String = (0..accs.len()).map(line).collect();
    let mut result = evaluated(&choice_task(), "t.jsonl", &lines);
    let digits = accs.chars().zip(acc_norms.chars());
    for (item, digits) in result.items.iter_mut().zip(digits) {
        if let ItemOutcome::Choice { acc, acc_norm, .. } = &mut item.outcome {
            *acc = digits.0 == '1';
            *acc_norm = Some(digits.1 == '1');
        }
    }
    named(name, result)
}

/// Windows of a text with these negative log-likelihoods over these numbers of tokens.
fn windows(name: &str, losses: &[(f64, usize)]) -> TaskResult {
    let task = r#"
        name = "windows"
        version = 1
        description = "Windows of a text."
        [[data]]
        files = ["t.txt"]
        [perplexity]
        window = 4
        prompt_tokens = 2
    "#;
    let task = Task::parse(task, "windows.toml").unwrap();
    let mut result = evaluated(&task, "t.txt", &"text".repeat(losses.len()));
    for (item, loss) in result.items.iter_mut().zip(losses) {
        if let ItemOutcome::Text {
            loglikelihood,
            tokens,
            ..
        } = &mut item.outcome
        {
            (*loglikelihood, *tokens) = (-loss.0, loss.1);
        }
    }
    named(name, result)
}

fn evaluated(task: &Task, file: &str, content: &str) -> TaskResult {
    let dir = folder(&[(file, content.as_bytes())]);
    let prepared = prepare(task, dir.path()).unwrap();
    let toy = Toy::new(|_, _| -1.0);
    prepared
        .evaluate(&toy, &pdtrim_eval::Execution::default())
        .unwrap()
}

/// The result under another name, with the metrics that its items now give.
fn named(name: &str, mut result: TaskResult) -> TaskResult {
    name.clone_into(&mut result.summary.task);
    let names = result.summary.metrics.iter().map(|metric| metric.name);
    result.summary.metrics = names
        .filter_map(|name| result.samples(name).metric())
        .collect();
    result
}

fn report(results: impl IntoIterator<Item = TaskResult>) -> EvalReport {
    let mut report = EvalReport::new(RunInfo {
        pdtrim_version: "0.1.0".to_owned(),
        model: "org/toy".to_owned(),
        model_sha256: Some("00ff".to_owned()),
        plan: Some("plan.toml".to_owned()),
        dtype: "f32".to_owned(),
        date: Some(1.0),
        seconds: Some(2.0),
        ..RunInfo::default()
    });
    for result in results {
        report.push(Mode::PdKv, Some(Boundary::Decode), result);
    }
    report
}

fn limits(texts: &[&str]) -> Vec<MaxDrop> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The gate of one task's two results.
fn gate(old: TaskResult, new: TaskResult, limit: &str) -> Gate {
    let baseline = Baseline::of(&report([old])).unwrap();
    compare(&report([new]), &baseline, &limits(&[limit]), 0.05).unwrap()
}

fn check(gate: &Gate, metric: MetricName) -> &Check {
    gate.checks
        .iter()
        .find(|check| check.metric == metric)
        .unwrap()
}

/// Every status: eight items lost and one won in `acc`, two and one in `acc_norm`; a text that stayed,
/// one that got better and one without limit; a task that went and one that came.
fn every_status() -> Gate {
    let flat = [(4.0, 2), (6.0, 2), (8.0, 4), (2.0, 1)];
    let better = [(3.0, 2), (4.9, 2), (6.1, 4), (1.5, 1)];
    let mut old = report([
        choices("toy", "11111111011111111111", "11111111110000000000"),
        windows("same", &flat),
        windows("better", &flat),
        windows("free", &flat),
        choices("gone", "10", "10"),
    ]);
    // Rows that are not the headline are not compared.
    old.push(Mode::Dense, None, choices("toy", "00", "00"));
    let new = report([
        choices("toy", "00000000111111111111", "11111111001000000000"),
        windows("same", &flat),
        windows("better", &better),
        windows("free", &better),
        choices("fresh", "10", "10"),
    ]);
    let limits = limits(&[
        "acc=0.01",
        "toy:acc_norm=2%",
        "same:perplexity=2%",
        "better:token_perplexity=0.1",
    ]);
    compare(&new, &Baseline::of(&old).unwrap(), &limits, 0.05).unwrap()
}

#[test]
fn every_status_is_found() {
    use MetricName::{Acc, AccNorm, TokenPerplexity};

    let gate = every_status();
    let found: Vec<(&str, MetricName, Status, bool)> = gate
        .checks
        .iter()
        .map(|check| {
            (
                check.task.as_str(),
                check.metric,
                check.status,
                check.fails(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("toy", Acc, Status::Worse, true),
            ("toy", AccNorm, Status::WithinNoise, false),
            ("same", TokenPerplexity, Status::Ok, false),
            ("better", TokenPerplexity, Status::Improved, false),
            ("free", TokenPerplexity, Status::Unlimited, false),
            ("gone", Acc, Status::Missing, true),
            ("gone", AccNorm, Status::Missing, false),
            ("fresh", Acc, Status::New, false),
            ("fresh", AccNorm, Status::New, false),
        ]
    );
    assert!(!gate.passed());
}

#[test]
fn table() {
    insta::assert_snapshot!(every_status().table());
}

#[test]
fn junit() {
    insta::assert_snapshot!(every_status().junit());
}

#[test]
fn github_annotations() {
    insta::assert_snapshot!(every_status().github_annotations());
}

#[test]
fn gate_json() {
    let mut json = every_status().to_json();
    assert_eq!(json["passed"], false);
    // (2 + 1 + 1) / 2³, up to rounding that need not be the same everywhere.
    let p = json["checks"][1]["paired"]["p"].take().as_f64().unwrap();
    assert!((p - 0.5).abs() < 1e-12, "{p}");
    insta::assert_snapshot!(serde_json::to_string_pretty(&json["checks"][1]).unwrap());
}

#[test]
fn baseline_json() {
    let results = [
        choices("toy", "110", "100"),
        windows("text", &[(4.5, 2), (6.0, 1)]),
        windows("even", &[(4.5, 1), (6.0, 1)]),
    ];
    insta::assert_snapshot!(Baseline::of(&report(results)).unwrap().to_json());
}

#[test]
fn eight_lost_and_one_won_are_worse_by_the_exact_test() {
    let gate = every_status();
    let paired = check(&gate, MetricName::Acc).paired.unwrap();
    // 19 of 20 and 12 of 20; (9 + 1) / 2⁹.
    assert!((paired.drop - 7.0 / 20.0).abs() < 1e-12, "{paired:?}");
    assert!((paired.p - 10.0 / 512.0).abs() < 1e-12, "{paired:?}");
    assert_eq!(paired.items, 20);
}

#[test]
fn a_drop_of_exactly_the_limit_passes() {
    // 0.9 - 0.89 is 0.010000000000000009 in binary.
    let (old, new) = (
        "1".repeat(90) + &"0".repeat(10),
        "1".repeat(89) + &"0".repeat(11),
    );
    let gate = gate(
        choices("toy", &old, &old),
        choices("toy", &new, &new),
        "acc=0.01",
    );
    let check = check(&gate, MetricName::Acc);
    assert!(check.paired.unwrap().drop > 0.01);
    assert_eq!(check.status, Status::Ok);
}

#[test]
fn a_single_item_is_never_certain() {
    let gate = gate(
        choices("toy", "1", "1"),
        choices("toy", "0", "0"),
        "acc=0.01",
    );
    let check = check(&gate, MetricName::Acc);
    assert_eq!(check.status, Status::WithinNoise);
    let paired = check.paired.unwrap();
    assert_eq!((paired.drop, paired.stderr, paired.p), (1.0, None, 1.0));
    assert!(gate.passed());
}

#[test]
fn a_percentage_is_of_the_baselines_perplexity() {
    // Both windows get worse by 0.01 per token: 1.005 % of e², and certain.
    let old = || windows("text", &[(4.0, 2), (8.0, 4)]);
    let new = || windows("text", &[(4.02, 2), (8.04, 4)]);
    let status = |limit| check(&gate(old(), new(), limit), MetricName::TokenPerplexity).status;
    assert_eq!(status("perplexity=1%"), Status::Worse);
    assert_eq!(status("perplexity=1.01%"), Status::Ok);
    assert_eq!(status("perplexity=0.07"), Status::Worse);
    assert_eq!(status("perplexity=0.08"), Status::Ok);
}

#[test]
fn a_perplexity_too_large_for_a_number_counts_as_not_measured() {
    let (finite, infinite) = (windows("text", &[(2.0, 1)]), windows("text", &[(1e4, 1)]));
    let gate = gate(finite, infinite.clone(), "perplexity=1%");
    let check = check(&gate, MetricName::TokenPerplexity);
    assert_eq!((check.status, gate.passed()), (Status::Missing, false));
    let baseline = Baseline::of(&report([infinite])).unwrap();
    let read = Baseline::parse(&baseline.to_json(), "b.json".as_ref()).unwrap();
    assert_eq!(read, baseline);
}

#[test]
fn the_most_specific_limit_holds() {
    let (old, new) = ("1".repeat(10), "1".repeat(3) + "0000000");
    let baseline = Baseline::of(&report([choices("toy", &old, &old)])).unwrap();
    let now = report([choices("toy", &new, &new)]);
    let limits = limits(&["toy:acc=0.9", "acc=0.01", "acc_norm=0.1"]);
    let gate = compare(&now, &baseline, &limits, 0.05).unwrap();
    assert_eq!(check(&gate, MetricName::Acc).status, Status::Ok);
    assert_eq!(check(&gate, MetricName::AccNorm).status, Status::Worse);
}

#[test]
fn a_trimmed_run_may_be_held_against_the_dense_model() {
    let mut dense = EvalReport::default();
    dense.push(Mode::Dense, None, choices("toy", "11", "11"));
    let baseline = Baseline::of(&dense).unwrap();
    let now = report([choices("toy", "11", "11")]);
    let gate = compare(&now, &baseline, &limits(&["acc=0"]), 0.05).unwrap();
    assert!(gate.passed());
    assert!(
        gate.table().contains("dense -> pd+kv, decode"),
        "{}",
        gate.table()
    );
}

#[test]
fn equal_gates_are_written_as_equal_bytes() {
    let (one, two) = (every_status(), every_status());
    assert_eq!(one.junit(), two.junit());
    assert_eq!(one.to_json().to_string(), two.to_json().to_string());
    assert_eq!(one.table(), two.table());
}

#[test]
fn a_gate_without_failures_and_warnings_annotates_nothing() {
    let gate = gate(
        choices("toy", "10", "10"),
        choices("toy", "10", "10"),
        "acc=0",
    );
    assert_eq!(gate.github_annotations(), "");
    assert!(!gate.junit().contains("<failure"));
}

#[test]
fn a_baseline_survives_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new").join("baseline.json");
    let baseline = Baseline::of(&report([choices("toy", "10", "11")])).unwrap();
    baseline.write(&path).unwrap();
    let read = Baseline::read(&path).unwrap();
    assert_eq!(read, baseline);
    assert_eq!(read.tasks().collect::<Vec<&str>>(), ["toy"]);
    assert_eq!(read.run().model, "org/toy");
}

#[test]
fn a_later_run_at_another_time_writes_the_same_baseline() {
    let one = report([choices("toy", "10", "11")]);
    let mut two = one.clone();
    (two.run.date, two.run.seconds) = (Some(3.0), None);
    assert_eq!(
        Baseline::of(&one).unwrap().to_json(),
        Baseline::of(&two).unwrap().to_json()
    );
}
