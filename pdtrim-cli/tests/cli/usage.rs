//! What is refused, and how.

use super::Place;

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn bad_input_gets_one_error_that_says_what_was_expected_and_exit_code_1() {
    let place = Place::new();
    place.file("empty", " \n");
    place.file("latin1", b"caf\xe9");
    place.file("short", "w1 w2 w3");
    place.file("short.jsonl", "{\"text\": \"w1\"}\n{\"text\": 1}\n");
    place.file("prompt", "5 6");
    place.file("long", "5 ".repeat(200));
    let trim = [
        "trim",
        "--model",
        "model",
        "--tasks",
        "heldout",
        "--windows",
        "2",
        "--window-tokens",
        "32",
        "--out",
        "out",
        "--prefill-count",
        "1",
        "--decode-count",
        "2",
    ];
    let logprobs = [
        "logprobs",
        "--model",
        "model",
        "--ids",
        "--continuation-file",
        "prompt",
        "--prompt-file",
    ];
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&trim, &["--calibration", "empty"], &["empty", "is empty"]),
        (
            &trim,
            &["--calibration", "latin1"],
            &["latin1", "UTF-8", "offset 3"],
        ),
        (
            &trim,
            &["--calibration", "short"],
            &["short", "3 tokens", "2 windows of 32"],
        ),
        (
            &trim,
            &["--calibration", "nowhere"],
            &["nowhere", "prose, wikitext2, piqa+mmlu, c4, self"],
        ),
        (&trim, &["--calibration", "c4"], &["c4", "--data"]),
        (
            &trim,
            &["--calibration", "wikitext2", "--data", "model"],
            &["wiki.train.raw", "--data"],
        ),
        (
            &trim,
            &["--calibration-items", "4"],
            &["bundled prose", "no items"],
        ),
        (
            &trim,
            &["--repair", "linear", "--repair-tokens", "99999"],
            &["bundled prose", "--repair-calibration"],
        ),
        (
            &trim,
            &["--calibration", "short.jsonl"],
            &["short.jsonl, line 2", "`text`", "a number"],
        ),
        (
            &trim,
            &["--calibration", "self", "--window-tokens", "129"],
            &["self", "129 tokens", "128"],
        ),
        (
            &[
                "calibrations",
                "--model",
                "model",
                "--sources",
                "prose,nwhere",
            ],
            &[],
            &["nwhere", "wikitext2"],
        ),
        (&trim, &["--decode-count", "5"], &["5 blocks", "3"]),
        (
            &trim,
            &["--prefill-count", "3", "--decode-count", "2"],
            &["decode", "2", "3"],
        ),
        (&trim, &["--tasks", "pika"], &["pika", "piqa"]),
        (
            &trim,
            &["--tasks", "piqa", "--offline"],
            &["piqa", "--data", "hub"],
        ),
        (&trim, &["--kv-factor", "900"], &["900x"]),
        (&trim, &["--kv-factor", "nan"], &["kv-factor"]),
        (&trim, &["--device", "tpu"], &["device", "cuda", "tpu"]),
        (&["eval", "--model", "nowhere/."], &[], &["nowhere"]),
        (
            &["eval", "--model", "modle"],
            &[],
            &["modle", "smollm2-135m-instruct"],
        ),
        (
            &logprobs,
            &["prompt", "--decode-remove", "5"],
            &["block 5", "5 blocks"],
        ),
        (
            &logprobs,
            &["prompt", "--prefill-remove", "1"],
            &["prefill removes", "1"],
        ),
        (
            &logprobs,
            &[
                "prompt",
                "--prefill-remove",
                "0-4",
                "--decode-remove",
                "0-4",
            ],
            &["would keep none"],
        ),
        (&logprobs, &["long"], &["201 tokens", "128"]),
        (&logprobs, &["latin1"], &["latin1", "UTF-8"]),
        (&logprobs, &["short"], &["short", "w1", "token id"]),
        (
            &["bench", "prefill", "--model", "model", "--tokens", "129"],
            &[],
            &["129 tokens", "128"],
        ),
        (
            &["bench", "decode", "--model", "model", "--context", "120"],
            &["--new-tokens", "9"],
            &["129 tokens", "128"],
        ),
        (
            &["bench", "perplexity", "--model", "model", "--tokens", "9"],
            &["--window", "10"],
            &["9", "window of 10"],
        ),
        (
            &["bench", "search", "--model", "model", "--count", "5"],
            &["--windows", "1", "--window-tokens", "8"],
            &["5 blocks"],
        ),
        (
            &["bench", "growth", "--model", "model", "--max-removed", "5"],
            &[],
            &["--max-removed 5", "5 blocks"],
        ),
        (
            &["bench", "growth", "--model", "model", "--order", "1,7"],
            &[],
            &["block 7", "5 blocks"],
        ),
        (
            &["export", "model", "--stage", "decode", "--out", "x"],
            &[],
            &["--stage", "plan"],
        ),
        (
            &["export", "model", "--out", "model"],
            &[],
            &["model", "not empty"],
        ),
    ];
    for (words, more, names) in cases {
        let words = [*words, *more].concat();
        let error = place.failure(&words);
        for name in *names {
            assert!(
                error.contains(name),
                "{words:?}: `{error}` does not name `{name}`"
            );
        }
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let place = Place::new();
    for words in [
        &["trim", "--nonsense"][..],
        &["eval", "--mode", "fast"],
        &["logprobs"],
        &["trim", "--boundary", "middle"],
        &["trim", "--calibration", "items.jsonl#"],
        &["trim", "--calibration-items", "0"],
        &["calibrations", "--seeds", "one"],
        &["bench"],
        &["bench", "prefill", "--batch", "0"],
        &["bench", "decode", "--repeats", "0"],
        &["bench", "decode", "--peak-flops", "-1"],
        &[],
    ] {
        let output = place.pdtrim(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn cuda_without_the_feature_says_in_one_line_what_is_missing() {
    let place = Place::new();
    let error = place.failure(&["generate", "w5", "--model", "model", "--device", "cuda"]);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("--features cuda"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let place = Place::new();
    let words = [
        "eval",
        "--model",
        "model",
        "--tasks",
        "everyday",
        "--limit",
        "2",
        "--items",
        "/dev/full",
    ];
    let error = place.failure(&words);
    assert!(error.contains("/dev/full"), "{error}");
}
