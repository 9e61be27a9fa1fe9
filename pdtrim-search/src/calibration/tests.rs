use std::cell::Cell;
use std::fs;
use std::path::Path;

use pdtrim_core::objective::{Calibration, Placement};
use pdtrim_core::testing::TinyModel;
use tempfile::TempDir;

use super::*;
use crate::Error;

/// One token for each word, numbered by its letters; samples that count up from their seed.
struct Words;

impl CalibrationModel for Words {
    fn encode(&self, text: &str) -> Result<Vec<u32>, pdtrim_core::Error> {
        let word = |word: &str| {
            word.bytes()
                .fold(7_u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte))
        };
        Ok(text.split_whitespace().map(word).collect())
    }

    fn sample(&self, wanted: SampleDraw) -> Result<Vec<Vec<u32>>, pdtrim_core::Error> {
        let window = |n: usize| {
            let first = wanted.seed as u32 + 1000 * n as u32;
            (first..).take(wanted.window_tokens).collect()
        };
        Ok((0..wanted.windows).map(window).collect())
    }
}

struct Place(TempDir);

impl Place {
    /// A folder with a little of every published set, made up.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("wikitext-2-raw/wiki.test.raw", &numbered("test", 400));
        place.write("wikitext-2-raw/wiki.valid.raw", &numbered("valid", 400));
        let lines = |line: &dyn Fn(usize) -> String| (0..60).map(line).collect::<String>();
        let c4 = |n| format!("{{\"prefix\": \"web{n} ha\", \"gold_completion\": \"lf end{n}\"}}\n");
        place.write("c4/c4.jsonl", &lines(&c4));
        let piqa =
            |n| format!("{{\"goal\": \"goal{n}\", \"sol1\": \"one{n} \", \"sol2\": \"two{n}\"}}\n");
        place.write("piqa/valid.jsonl", &lines(&piqa));
        place.write("piqa/valid-labels.lst", &lines(&|n| format!("{}\n", n % 2)));
        let mmlu = |n| format!("\"line{n}\nbreak, comma\",a{n},b,c,d,C\n");
        place.write("mmlu/test/b_test.csv", &lines(&mmlu));
        place.write("mmlu/test/a_test.csv", "first?,w,x,y,z,A\n");
        place
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.0.path().join(name)).unwrap();
    }

    /// Windows of a source; `*` in its name stands for the folder.
    fn draw(&self, source: &str, part: Part, wanted: WindowDraw) -> Result<CalibrationSet, Error> {
        let folder = self.0.path();
        let source = source.replace('*', &folder.display().to_string());
        Corpus::read(&source.parse()?, Some(folder), part)?.draw(&Words, &wanted)
    }

    fn windows(&self, source: &str, part: Part, seed: u64) -> Vec<Vec<u32>> {
        let set = self.draw(source, part, wanted(seed)).unwrap();
        set.calibration.windows().to_vec()
    }

    fn error(&self, source: &str) -> String {
        let error = self.draw(source, Part::Calibration, wanted(0));
        error.unwrap_err().to_string()
    }
}

fn numbered(name: &str, words: usize) -> String {
    let words: Vec<String> = (0..words).map(|n| format!("{name}{n}")).collect();
    words.join(" ")
}

fn wanted(seed: u64) -> WindowDraw {
    WindowDraw {
        seed,
        items: None,
        windows: 2,
        window_tokens: 12,
    }
}

const EVERY_SOURCE: [&str; 7] = [
    "prose",
    "wikitext2",
    "piqa+mmlu",
    "c4",
    "self",
    "*/wikitext-2-raw/wiki.valid.raw",
    "*/c4/c4.jsonl#prefix+gold_completion",
];

#[test]
fn prose_with_seed_0_is_what_the_default_run_has_always_used() {
    let tokens = Words.encode(BUNDLED_PROSE).unwrap();
    let before = Calibration::from_tokens("", &tokens, 8, 128, Placement::Spread).unwrap();
    let corpus = Corpus::read(&CalibrationSource::Prose, None, Part::Calibration).unwrap();
    let default = WindowDraw {
        windows: 8,
        window_tokens: 128,
        ..wanted(0)
    };
    let set = corpus.draw(&Words, &default).unwrap();
    assert_eq!(set.calibration, before);
    assert_eq!(
        (set.about.source.as_str(), set.about.seed),
        ("bundled prose", 0)
    );
    assert_eq!(set.about.items, None);
    assert_eq!(set.about.prompt_tokens, 96);
}

#[test]
fn the_same_seed_draws_the_same_windows_and_another_seed_others() {
    let place = Place::new();
    for source in EVERY_SOURCE {
        let windows = |seed| place.windows(source, Part::Calibration, seed);
        assert_eq!(windows(0), windows(0), "{source}");
        assert_eq!(windows(5), windows(5), "{source}");
        assert_ne!(windows(0), windows(1), "{source}");
        assert_ne!(windows(1), windows(2), "{source}");
    }
}

#[test]
fn held_out_windows_are_no_seeds_and_share_no_token_place_with_one() {
    let place = Place::new();
    for source in EVERY_SOURCE {
        let held_out = place.windows(source, Part::HeldOut, 0);
        assert_eq!(
            held_out,
            place.windows(source, Part::HeldOut, 9),
            "{source}"
        );
        for seed in 0..8 {
            let drawn = place.windows(source, Part::Calibration, seed);
            assert!(drawn.iter().all(|window| !held_out.contains(window)));
        }
    }
    // Every word of these stands in one place only.
    for source in ["wikitext2", "*/wikitext-2-raw/wiki.valid.raw"] {
        let held_out = place.windows(source, Part::HeldOut, 0).concat();
        for seed in 0..8 {
            let drawn = place.windows(source, Part::Calibration, seed).concat();
            assert!(
                drawn.iter().all(|token| !held_out.contains(token)),
                "{source}"
            );
        }
    }
}

#[test]
fn a_plan_is_told_the_source_its_files_its_hash_its_seed_and_its_items() {
    let place = Place::new();
    let about = |source: &str| {
        place
            .draw(source, Part::Calibration, wanted(3))
            .unwrap()
            .about
    };
    for (source, name, items) in [
        (
            "wikitext2",
            "wikitext2 (wikitext-2-raw/wiki.valid.raw)",
            None,
        ),
        ("c4", "c4 (c4/c4.jsonl)", Some(48)),
        (
            "piqa+mmlu",
            "piqa+mmlu (piqa/valid.jsonl, mmlu/test)",
            Some(96),
        ),
        ("self", "self", None),
        ("*/wikitext-2-raw/wiki.test.raw", "wiki.test.raw", None),
        ("*/c4/c4.jsonl#prefix", "c4.jsonl#prefix", Some(48)),
    ] {
        let about = about(source);
        assert_eq!((about.source.as_str(), about.items), (name, items));
        assert_eq!((about.seed, about.windows, about.window_tokens), (3, 2, 12));
        assert_eq!(about.hash.len(), "sha256:".len() + 64);
    }
    let few = WindowDraw {
        items: Some(10),
        ..wanted(0)
    };
    let set = place.draw("piqa+mmlu", Part::Calibration, few).unwrap();
    assert_eq!(set.about.items, Some(10));
}

#[test]
fn the_hash_changes_with_any_file_that_is_read() {
    let place = Place::new();
    let hash = |source: &str| {
        place
            .draw(source, Part::Calibration, wanted(0))
            .unwrap()
            .about
            .hash
    };
    for (source, file, text) in [
        (
            "wikitext2",
            "wikitext-2-raw/wiki.valid.raw",
            numbered("v", 400),
        ),
        ("piqa+mmlu", "piqa/valid-labels.lst", "1\n".repeat(60)),
        (
            "piqa+mmlu",
            "mmlu/test/a_test.csv",
            "second?,w,x,y,z,A\n".to_owned(),
        ),
        (
            "c4",
            "c4/c4.jsonl",
            "{\"text\": \"as it is published\"}\n".repeat(20),
        ),
    ] {
        let before = hash(source);
        assert_eq!(hash(source), before);
        place.write(file, &text);
        assert_ne!(hash(source), before, "{file}");
    }
    let sampled = |seed| {
        place
            .draw("self", Part::Calibration, wanted(seed))
            .unwrap()
            .about
            .hash
    };
    assert_eq!(sampled(1), sampled(1));
    assert_ne!(sampled(1), sampled(2));
}

#[test]
fn items_are_prompts_with_their_right_answers() {
    let place = Place::new();
    let mut reader = records::Reader::default();
    let pools = records::piqa_mmlu(Some(place.0.path()), &mut reader).unwrap();
    assert_eq!(pools[0].items[0], "Question: goal0\nAnswer: one0");
    assert_eq!(pools[0].items[1], "Question: goal1\nAnswer: two1");
    assert_eq!(
        pools[1].items[0],
        "first?\nA. w\nB. x\nC. y\nD. z\nAnswer: A"
    );
    assert_eq!(
        pools[1].items[2],
        "line1\nbreak, comma\nA. a1\nB. b\nC. c\nD. d\nAnswer: C"
    );
    let pools = records::c4(Some(place.0.path()), &mut reader).unwrap();
    assert_eq!(pools[0].items[3], "web3 half end3");
}

#[test]
fn training_parts_are_preferred_to_those_that_models_are_scored_on() {
    let place = Place::new();
    place.write("wikitext-2-raw/wiki.train.raw", &numbered("train", 400));
    place.write(
        "piqa/train.jsonl",
        "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\"}\n",
    );
    place.write("piqa/train-labels.lst", "0\n");
    place.write("mmlu/val/a_val.csv", "q,w,x,y,z,A\n");
    let name = |source: &str| {
        let source = source.parse().unwrap();
        let corpus = Corpus::read(&source, Some(place.0.path()), Part::Calibration);
        corpus.unwrap().name().to_owned()
    };
    assert_eq!(
        name("wikitext2"),
        "wikitext2 (wikitext-2-raw/wiki.train.raw)"
    );
    assert_eq!(name("piqa+mmlu"), "piqa+mmlu (piqa/train.jsonl, mmlu/val)");
}

#[test]
fn blank_records_of_a_jsonl_file_are_left_out() {
    let place = Place::new();
    place.write(
        "x.jsonl",
        "{\"text\": \"a b\"}\n\n{\"text\": \" \"}\n{\"text\": \"c\"}\n",
    );
    let source = format!("{}/x.jsonl", place.0.path().display());
    let corpus = Corpus::read(&source.parse().unwrap(), None, Part::Calibration).unwrap();
    let one = WindowDraw {
        windows: 1,
        window_tokens: 3,
        ..wanted(0)
    };
    assert_eq!(corpus.draw(&Words, &one).unwrap().about.items, Some(2));
}

#[test]
fn a_record_of_millions_of_values_is_refused_before_they_are_made() {
    let place = Place::new();
    let numbers = "0,".repeat(pdtrim_core::limits::RECORD_VALUES as usize);
    place.write("x.jsonl", &format!("{{\"text\": [{numbers}0]}}\n"));
    let source = format!("{}/x.jsonl", place.0.path().display());
    let read = Corpus::read(&source.parse().unwrap(), None, Part::Calibration);
    let error = read.err().unwrap().to_string();
    assert!(
        error.ends_with("expected at most 4194304 JSON values, found more"),
        "{error}"
    );
}

#[test]
fn a_name_that_is_no_file_gets_the_known_names() {
    let error = Place::new().error("wikitxt2");
    for word in ["wikitxt2", "prose", "wikitext2", "piqa+mmlu", "c4", "self"] {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn missing_published_files_are_named_with_the_flag_that_helps() {
    let empty = tempfile::tempdir().unwrap();
    for (source, part, looked_for) in [
        ("wikitext2", Part::Calibration, "wiki.train.raw"),
        ("wikitext2", Part::HeldOut, "wiki.test.raw"),
        ("piqa+mmlu", Part::Calibration, "valid.jsonl"),
        ("c4", Part::Calibration, "c4"),
    ] {
        for data in [None, Some(empty.path())] {
            let source = source.parse().unwrap();
            let error = Corpus::read(&source, data, part).err().unwrap().to_string();
            assert!(
                error.contains("--data") && error.contains(looked_for),
                "{error}"
            );
        }
    }
    let place = Place::new();
    place.remove("c4/c4.jsonl");
    assert!(place.error("c4").contains("*.jsonl"));
    place.remove("mmlu/test/a_test.csv");
    place.remove("mmlu/test/b_test.csv");
    assert!(place.error("piqa+mmlu").contains("*.csv"));
    place.remove("piqa/valid-labels.lst");
    assert!(place.error("piqa+mmlu").contains("valid-labels.lst"));
}

#[test]
fn broken_records_are_named_by_file_line_and_field() {
    let piqa = "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": 3}\n";
    for (file, text, words) in [
        (
            "c4/c4.jsonl",
            "{\"text\": \"a\"}\n[1]\n",
            &["c4.jsonl, line 2", "an array"][..],
        ),
        (
            "c4/c4.jsonl",
            "{\"text\": \"a}\n",
            &["c4.jsonl, line 1", "JSON object", "column"],
        ),
        (
            "c4/c4.jsonl",
            "{\"body\": \"a\"}\n",
            &["line 1", "`text`", "a string", "body"],
        ),
        ("c4/c4.jsonl", " \n", &["c4.jsonl", "empty"]),
        (
            "piqa/valid-labels.lst",
            "0\n1\n",
            &["valid-labels.lst", "60", "2"],
        ),
        (
            "piqa/valid-labels.lst",
            &"2\n".repeat(60),
            &["valid-labels.lst, line 1", "0 or 1", "`2`"],
        ),
        (
            "piqa/valid.jsonl",
            &piqa.repeat(60),
            &["valid.jsonl, line 2", "`sol2`", "a number"],
        ),
        (
            "mmlu/test/a_test.csv",
            "q,a,b,c,d,A\nq,a,b,D\n",
            &["a_test.csv, line 2", "6 fields", "4 fields"],
        ),
        (
            "mmlu/test/a_test.csv",
            "q,a,b,c,d,E\n",
            &["a_test.csv, line 1", "`answer`", "`E`"],
        ),
    ] {
        let place = Place::new();
        place.write(file, text);
        let source = if file.starts_with("c4") {
            "c4"
        } else {
            "piqa+mmlu"
        };
        let error = place.error(source);
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn items_are_refused_by_a_source_without_and_windows_by_items_without_enough_text() {
    let place = Place::new();
    let few = |items| WindowDraw {
        items: Some(items),
        ..wanted(0)
    };
    for source in ["prose", "wikitext2", "self"] {
        let error = place.draw(source, Part::Calibration, few(8)).unwrap_err();
        assert!(matches!(error, Error::NoItems { .. }), "{error}");
    }
    let error = place.draw("c4", Part::Calibration, few(49)).unwrap_err();
    assert!(matches!(
        error,
        Error::TooFewItems {
            expected: 49,
            found: 48,
            ..
        }
    ));
    let error = place
        .draw("c4", Part::Calibration, few(2))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("c4.jsonl") && error.contains("2 windows of 12"),
        "{error}"
    );
}

#[test]
fn a_text_that_is_too_short_for_another_seed_says_so() {
    let place = Place::new();
    place.write("short.txt", &numbered("w", 30));
    let draw = |seed| place.draw("*/short.txt", Part::Calibration, wanted(seed));
    assert!(draw(0).is_ok());
    let error = draw(1).unwrap_err().to_string();
    assert!(
        error.contains("short.txt") && error.contains("seed 1"),
        "{error}"
    );
}

#[test]
fn a_model_is_sampled_the_same_for_a_seed_in_as_many_windows_as_asked() {
    let model = TinyModel::default().build();
    let sample = |start, seed, windows| {
        let (known, total) = (Cell::new(0), windows * 5);
        let wanted = SampleDraw {
            seed,
            windows,
            window_tokens: 5,
        };
        let samples = sample_windows(&model, start, wanted, &|tokens| {
            assert!(tokens > known.replace(tokens) && tokens <= total);
        });
        assert_eq!(known.get(), total);
        samples.unwrap()
    };
    let windows = sample(Some(0), 4, 11);
    assert_eq!(windows.len(), 11);
    assert!(windows.iter().all(|window| window.len() == 5));
    assert_eq!(sample(Some(0), 4, 11), windows);
    assert_ne!(sample(Some(0), 5, 11), windows);
    assert_ne!(windows[0], windows[1]);
    assert_ne!(sample(None, 4, 11), windows);
    assert_eq!(sample(None, 4, 3), sample(None, 4, 3));
}

#[test]
fn an_empty_or_foreign_file_is_refused() {
    let place = Place::new();
    place.write("empty.txt", " \n");
    assert!(place.error("*/empty.txt").contains("empty.txt is empty"));
    fs::write(place.0.path().join("latin1.txt"), b"caf\xe9").unwrap();
    assert!(place.error("*/latin1.txt").contains("offset 3"));
    let folder: &Path = place.0.path();
    assert!(place.error("*").contains(&folder.display().to_string()));
}
