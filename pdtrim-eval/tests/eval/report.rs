//! The three forms of the report, as snapshots.

use pdtrim_core::Boundary;
use pdtrim_eval::{EvalReport, Execution, MetricName, Mode, Prepared, RunInfo, Task};

use crate::toy::{Toy, choice_task, folder, prepare};

const DATA: &str = r#"{"q": "Is water wet?", "c": ["yes", "not at all"], "g": 0}
{"q": "Is fire cold?", "c": ["yes", "not at all"], "g": 1}
{"q": "Is snow a kind of frozen water?", "c": ["yes", "not at all"], "g": 0}
"#;

fn windows() -> Task {
    let task = r#"
        name = "windows"
        version = 1
        description = "Windows of a text."
        [[data]]
        files = ["t.txt"]
        [perplexity]
        window = 8
        prompt_share = 0.75
    "#;
    Task::parse(task, "windows.toml").unwrap()
}

/// Two tasks; the choices with both boundaries, the windows with one.
fn report() -> EvalReport {
    let dir = folder(&[
        ("t.jsonl", DATA.as_bytes()),
        ("t.txt", b"A short text of 33 bytes, or so.\n".as_slice()),
    ]);
    let choices = prepare(&choice_task(), dir.path()).unwrap();
    let windows = prepare(&windows(), dir.path()).unwrap();
    let dense = Toy::new(|context, text| {
        if context.contains("fire") == (text == " yes") {
            -8.0
        } else {
            -2.0
        }
    });
    let trimmed = Toy {
        sent: 20,
        ..Toy::new(|_, text| if text == " yes" { -2.0 } else { -3.0 })
    };
    let run = RunInfo {
        pdtrim_version: "0.1.0".to_owned(),
        model: "org/toy".to_owned(),
        model_sha256: Some("00ff".to_owned()),
        plan: Some("plan.toml".to_owned()),
        device: "flex".to_owned(),
        dtype: "f32".to_owned(),
        limit: Some(3),
        ..RunInfo::default()
    };
    let mut report = EvalReport::new(run);
    let mut add = |prepared: &Prepared, mode, boundary, scorer: &Toy| {
        report.push(
            mode,
            boundary,
            prepared.evaluate(scorer, &Execution::default()).unwrap(),
        );
    };
    add(&choices, Mode::Dense, None, &dense);
    add(&choices, Mode::Pd, Some(Boundary::Prefill), &dense);
    add(&choices, Mode::PdKv, Some(Boundary::Prefill), &dense);
    add(&choices, Mode::Pd, Some(Boundary::Decode), &dense);
    add(&choices, Mode::PdKv, Some(Boundary::Decode), &trimmed);
    add(&windows, Mode::Dense, None, &dense);
    add(&windows, Mode::PdKv, Some(Boundary::Prefill), &trimmed);
    report
}

#[test]
fn table() {
    insta::assert_snapshot!(report().table());
}

#[test]
fn results_json() {
    insta::assert_json_snapshot!(report().to_json());
}

#[test]
fn results_csv() {
    let mut out = Vec::new();
    report().write_csv(&mut out).unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
}

#[test]
fn item_log() {
    let mut out = Vec::new();
    report().write_items(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.lines().count(), 5 * 3 + 2 * 4);
    insta::assert_snapshot!(text.lines().next().unwrap());
}

#[test]
fn the_headline_is_the_most_trimmed_mode_at_the_decode_boundary() {
    let report = report();
    let headline = |task| report.headline(task).map(|row| (row.mode, row.boundary));
    assert_eq!(headline("toy"), Some((Mode::PdKv, Some(Boundary::Decode))));
    assert_eq!(
        headline("windows"),
        Some((Mode::PdKv, Some(Boundary::Prefill)))
    );
    assert_eq!(headline("none"), None);
}

#[test]
fn no_difference_is_given_without_a_dense_row_on_the_same_items() {
    let mut report = report();
    let last = report.rows[4].clone();
    assert!(report.difference_to_dense(&last, MetricName::Acc).is_some());
    report.rows[0].result.summary.items = 2;
    assert_eq!(report.difference_to_dense(&last, MetricName::Acc), None);
    report.rows.remove(0);
    assert_eq!(report.difference_to_dense(&last, MetricName::Acc), None);
}

#[test]
fn an_empty_report_is_still_a_report() {
    let report = EvalReport::default();
    assert!(report.table().contains("task"));
    assert_eq!(report.to_json()["results"], serde_json::json!({}));
}

#[test]
fn a_report_survives_json() {
    let report = report();
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<EvalReport>(&text).unwrap(), report);
}

/// Fails on the first byte.
struct Full;

impl std::io::Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let error = report().write_csv(Full).unwrap_err();
    assert_eq!(error.to_string(), "cannot write the results");
    assert!(report().write_items(Full).is_err());
}
