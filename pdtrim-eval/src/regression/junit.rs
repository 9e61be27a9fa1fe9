//! The checks as a `JUnit` file, which most build servers show test by test.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::gate::{Check, Gate, Status};
use super::wording::{mode, number, probability, sentence};

pub(super) fn render(gate: &Gate) -> String {
    let mut report = Report::new("pdtrim eval");
    let mut tasks: Vec<&str> = Vec::new();
    for check in &gate.checks {
        if !tasks.contains(&check.task.as_str()) {
            tasks.push(&check.task);
        }
    }
    for task in tasks {
        let own = gate.checks.iter().filter(|check| check.task == task);
        let mut suite = TestSuite::new(task);
        suite.add_test_cases(own.map(|check| case(check, gate.alpha)));
        report.add_test_suite(suite);
    }
    report
        .to_string()
        .expect("memory takes what is written to it")
}

fn case(check: &Check, alpha: f64) -> TestCase {
    let mut case = TestCase::new(check.metric.to_string(), status(check, alpha));
    case.set_classname(&check.task);
    case.add_properties(properties(check, alpha));
    case
}

fn status(check: &Check, alpha: f64) -> TestCaseStatus {
    let sentence = sentence(check, alpha);
    let mut status = match check.status {
        _ if check.fails() => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Status::Unlimited | Status::New | Status::Missing => TestCaseStatus::skipped(),
        _ => return TestCaseStatus::success(),
    };
    status.set_message(sentence);
    status.set_type(check.status.to_string());
    if check.fails() {
        status.set_description(details(check, alpha));
    }
    status
}

/// The properties once more, a line each: some servers show only this.
fn details(check: &Check, alpha: f64) -> String {
    let lines = properties(check, alpha).into_iter();
    let lines = lines.map(|(name, value)| format!("{name}: {value}"));
    lines.collect::<Vec<String>>().join("\n")
}

/// What is known of the check.
fn properties(check: &Check, alpha: f64) -> Vec<(String, String)> {
    let number = |value| number(check.metric, value);
    let mut known = vec![("status", check.status.to_string())];
    for (name, mode_name, side) in [
        ("baseline", "baseline mode", check.baseline),
        ("current", "current mode", check.current),
    ] {
        if let Some(side) = side {
            known.push((name, number(side.value)));
            known.push((mode_name, mode(&side)));
        }
    }
    if let Some(paired) = check.paired {
        known.push(("items", paired.items.to_string()));
        known.push(("worse by", number(paired.drop)));
        if let Some(stderr) = paired.stderr {
            known.push(("standard error", number(stderr)));
        }
        known.push(("p", probability(paired.p)));
        known.push(("alpha", alpha.to_string()));
    }
    if let Some(limit) = &check.limit {
        known.push(("limit", limit.to_string()));
    }
    if let Some(most) = check.max_drop() {
        known.push(("largest drop allowed", number(most)));
    }
    let known = known.into_iter();
    known
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
