use super::*;

const CHOICE: &str = r#"
name = "t"
version = 1
description = "d"
[[data]]
files = ["t.jsonl"]
[multiple_choice]
context = "{{q}}"
choices = "c"
gold = "g"
"#;

const WINDOWS: &str = r#"
name = "t"
version = 1
description = "d"
[[data]]
files = ["t.txt"]
[perplexity]
window = 8
prompt_share = 0.75
"#;

fn message(text: &str) -> String {
    Task::parse(text, "t.toml").unwrap_err().to_string()
}

fn perplexity(text: &str) -> Perplexity {
    match Task::parse(text, "t.toml").unwrap().kind {
        TaskKind::Perplexity(perplexity) => perplexity,
        other => panic!("expected windows, found {other:?}"),
    }
}

#[test]
fn defaults_are_a_space_and_both_accuracies() {
    let TaskKind::MultipleChoice(choice) = Task::parse(CHOICE, "t.toml").unwrap().kind else {
        panic!("wrong kind")
    };
    assert_eq!(choice.delimiter, " ");
    let metrics = Task::parse(CHOICE, "t.toml").unwrap().metrics;
    assert_eq!(metrics, [MetricName::Acc, MetricName::AccNorm]);
}

#[test]
fn a_prompt_share_becomes_tokens() {
    assert_eq!(
        perplexity(WINDOWS),
        Perplexity {
            window: 8,
            prompt: 6,
            max_windows: None
        }
    );
    let golden = WINDOWS.replace("prompt_share = 0.75", "prompt_tokens = 1\nmax_windows = 2");
    assert_eq!(
        perplexity(&golden),
        Perplexity {
            window: 8,
            prompt: 1,
            max_windows: Some(2)
        }
    );
}

#[test]
fn an_unknown_key_is_an_error_that_names_it() {
    let error = Task::parse(&CHOICE.replace("gold =", "golden ="), "t.toml").unwrap_err();
    assert_eq!(error.to_string(), "task file t.toml is not a valid task");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains("unknown field `golden`") && source.contains("line 10"),
        "{source}"
    );
}

#[test]
fn a_change_of_the_file_changes_its_hash() {
    let changed = CHOICE.replace("version = 1", "version = 2");
    let hash = |text: &str| Task::parse(text, "t.toml").unwrap().sha256().to_owned();
    assert_ne!(hash(CHOICE), hash(&changed));
}

#[test]
fn values_that_make_no_sense_are_refused_by_key() {
    let cases = [
        (
            CHOICE.replace("\"t\"", "\"a task\""),
            "task `a task`, key `name`: expected letters, digits, `_` and `-`, found a task",
        ),
        (
            CHOICE.replace("version = 1", "version = 0"),
            "task `t`, key `version`: expected a number from 1, found 0",
        ),
        (
            CHOICE.replace("t.jsonl", "t.txt"),
            "task `t`, key `data.files`: expected records (.jsonl, .json, .csv or .parquet), by the \
                name of their file, found a text",
        ),
        (
            CHOICE.replace("files = [\"t.jsonl\"]\n", ""),
            "task `t`, key `data`: expected one of `files`, `bundled` and `hub` (with `config` and \
                `split`), found another set of keys",
        ),
        (
            CHOICE.replace("choices = \"c\"\n", "continuation = \"c\"\n"),
            "task `t`, key `multiple_choice`: expected `context` and `choices`, or `contexts` \
                and `continuation`, found context, continuation",
        ),
        (
            format!("{CHOICE}metrics = [\"acc\", \"acc\"]"),
            "task `t`, key `multiple_choice.metrics`: expected each at most once of: acc, \
                acc_norm, found [acc, acc]",
        ),
        (
            CHOICE
                .replace("context = ", "contexts = ")
                .replace("{{q}}", "q")
                .replace("choices = ", "metrics = [\"acc_norm\"]\ncontinuation = "),
            "task `t`, key `multiple_choice.metrics`: expected each at most once of: acc, \
                found [acc_norm]",
        ),
        (
            format!("{CHOICE}[perplexity]\nwindow = 8\nprompt_tokens = 1"),
            "task `t`, key `multiple_choice`: expected exactly one of the tables `multiple_choice`, \
                `loglikelihood`, `rolling`, `perplexity` and `generation`, found several",
        ),
        (
            CHOICE.replace("[multiple", "columns = [\"q\"]\n[multiple"),
            "task `t`, key `data.columns`: expected columns only of .csv files, found others",
        ),
        (
            WINDOWS.replace("0.75", "1.0"),
            "task `t`, key `perplexity.prompt_share`: expected a number between 0 and 1, found 1",
        ),
        (
            WINDOWS.replace("0.75", "0.01"),
            "task `t`, key `perplexity.window`: expected at least one prompt token and one \
                scored token, found a window of 8 with a prompt of 0",
        ),
        (
            WINDOWS.replace("prompt_share = 0.75", "prompt_tokens = 8"),
            "task `t`, key `perplexity.window`: expected at least one prompt token and one \
                scored token, found a window of 8 with a prompt of 8",
        ),
        (
            format!("{WINDOWS}prompt_tokens = 1"),
            "task `t`, key `perplexity.prompt_share`: expected either this key or \
                `prompt_tokens`, found both",
        ),
        (
            format!("{WINDOWS}max_windows = 0"),
            "task `t`, key `perplexity.max_windows`: expected a number from 1, found 0",
        ),
        (
            WINDOWS.replace("[perplexity]", "labels = \"l\"\n[perplexity]"),
            "task `t`, key `data`: expected no key but `files`, `bundled` or `hub`, found others",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(message(&text), expected);
    }
}

#[test]
fn a_template_that_does_not_parse_is_refused_by_key() {
    assert_eq!(
        message(&CHOICE.replace("{{q}}", "{{q")),
        "task `t`, key `context`: the template does not parse"
    );
    assert_eq!(
        message(&CHOICE.replace("\"g\"", "\"g +\"")),
        "task `t`, key `gold`: the template does not parse"
    );
}

#[test]
fn an_unknown_task_is_answered_with_the_nearest_names() {
    let error = Task::bundled("pika").unwrap_err().to_string();
    assert!(
        error.starts_with("unknown task `pika`; did you mean `piqa`?"),
        "{error}"
    );
}

#[test]
fn partial_scoring_is_described_in_the_harness_words() {
    let config = Task::bundled("winogrande").unwrap().config();
    assert_eq!(config["output_type"], "multiple_choice");
    assert_eq!(
        config["doc_to_target"],
        "{{ (sentence | split('_', 1))[1] | trim }}"
    );
    assert_eq!(config["metadata"]["version"], 2);
}
