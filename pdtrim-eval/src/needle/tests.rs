//! The prompts are what was asked for, and answers are scored where they belong.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Mutex;

use pdtrim_core::Bytes;
use proptest::prelude::*;

use super::fact::{Fact, PLACES, WORDS};
use super::filler::split;
use super::*;
use crate::bundled;
use crate::runner::Execution;
use crate::scorer::{Generated, GenerationRequest, Request, Scorer, ScorerError, Scores};

/// The task's longest answer.
const ROOM: usize = 6;

/// A token is a word with the white space in front of it, or a piece of one of so many letters. It answers
/// with what the prompt says, as far as it reads it.
struct Toy {
    letters: usize,
    context: usize,
    /// First and last tokens that it reads; none for all.
    reads: Option<(usize, usize)>,
    vocabulary: Mutex<Vocabulary>,
}

#[derive(Default)]
struct Vocabulary {
    pieces: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Toy {
    fn new(letters: usize) -> Self {
        Self {
            letters,
            context: 1 << 20,
            reads: None,
            vocabulary: Mutex::default(),
        }
    }

    fn id(&self, piece: String) -> u32 {
        let Vocabulary { pieces, ids } = &mut *self.vocabulary.lock().unwrap();
        *ids.entry(piece).or_insert_with_key(|piece| {
            pieces.push(piece.clone());
            pieces.len() as u32 - 1
        })
    }

    fn text(&self, tokens: &[u32]) -> String {
        let pieces = &self.vocabulary.lock().unwrap().pieces;
        tokens
            .iter()
            .map(|&token| &*pieces[token as usize])
            .collect()
    }

    fn kept(&self, tokens: &[u32]) -> Vec<u32> {
        match self.reads {
            Some((first, last)) if first + last < tokens.len() => {
                [&tokens[..first], &tokens[tokens.len() - last..]].concat()
            }
            _ => tokens.to_vec(),
        }
    }
}

impl Scorer for Toy {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ScorerError> {
        let mut tokens = Vec::new();
        let mut piece = String::new();
        for letter in text.chars() {
            let starts_word = letter.is_whitespace() && !piece.ends_with(char::is_whitespace);
            if !piece.is_empty() && (starts_word || piece.trim_start().len() >= self.letters) {
                tokens.push(self.id(std::mem::take(&mut piece)));
            }
            piece.push(letter);
        }
        if !piece.is_empty() {
            tokens.push(self.id(piece));
        }
        Ok(tokens)
    }

    fn prefix_token(&self) -> Option<u32> {
        None
    }

    fn max_tokens(&self) -> usize {
        self.context + 1
    }

    fn score(&self, _: &[Request]) -> Result<Vec<Scores>, ScorerError> {
        Err("this test only generates".into())
    }

    fn generate(&self, request: &GenerationRequest) -> Result<Generated, ScorerError> {
        let kept = self.kept(&request.context);
        let read = self.text(&kept);
        let (_, fact) = read.split_once("The code word of ").unwrap_or_default();
        let said = fact
            .split_once(" is ")
            .and_then(|(_, rest)| rest.split_once('.'));
        let word = said.map_or("unknown", |(word, _)| word);
        Ok(Generated {
            text: format!(" {word}. The code"),
            kv_bytes: Bytes(10 * kept.len() as u64),
            kv_positions: kept.len() as u64,
            trimmed: kept.len() < request.context.len(),
        })
    }
}

fn grid(lengths: &[usize], depths: &[f64], items: usize, seed: u64) -> NeedleGrid {
    NeedleGrid::new(lengths, depths, NonZeroUsize::new(items).unwrap(), seed).unwrap()
}

fn answers(grid: &NeedleGrid, toy: &Toy) -> NeedleResult {
    let test = NeedleTest::new(grid, toy).unwrap();
    test.evaluate(toy, &Execution::default()).unwrap()
}

fn refusal(lengths: &[usize], toy: &Toy) -> String {
    let grid = grid(lengths, &[50.0], 3, 0);
    NeedleTest::new(&grid, toy).unwrap_err().to_string()
}

fn prose() -> String {
    let files = ["calibration/heldout.txt", "calibration/prose.txt"];
    files.map(|file| bundled::data(file).unwrap()).concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_prompt_has_its_length_and_the_fact_once_at_its_depth(
        letters in prop::sample::select(vec![4, 7, 100]),
        length in 500usize..4000,
        depth in 0.0..=100.0f64,
        seed in any::<u64>(),
    ) {
        let toy = Toy::new(letters);
        let longest = prose().lines().flat_map(split).map(|sentence| toy.encode(sentence).unwrap().len()).max();
        let longest = longest.unwrap() + 2;
        for answer in answers(&grid(&[length], &[depth], 2, seed), &toy).answers {
            let taken = answer.prompt_tokens + ROOM;
            prop_assert!(taken <= length && length < taken + longest, "{taken} of {length}");

            let NeedlePrompt { text, place, word, reached_depth, .. } = answer.prompt;
            prop_assert_eq!(text.matches("code word").count(), 1);
            let (before, after) = text.split_once(&format!("The code word of {place} is {word}.")).unwrap();
            prop_assert!(before.is_empty() || before.trim_end().ends_with(['.', '!', '?', '"']), "{before}");

            let tokens = |text: &str| toy.encode(text.trim()).unwrap().len() as f64;
            let all = tokens(before) + tokens(after);
            let found = 100.0 * tokens(before) / all;
            // Half a sentence to either side, and a token where texts are counted in parts.
            let tolerance = 100.0 * (longest as f64 / 2.0 + 2.0) / all;
            prop_assert!((found - depth).abs() <= tolerance, "{found} for {depth}");
            prop_assert!((found - reached_depth).abs() < 2.0, "{found} and {reached_depth}");
        }
    }
}

#[test]
fn depths_0_and_100_are_the_beginning_and_right_before_the_question() {
    for answer in answers(&grid(&[400], &[0.0, 100.0], 3, 1), &Toy::new(7)).answers {
        let prompt = answer.prompt;
        let fact = format!("The code word of {} is {}.", prompt.place, prompt.word);
        let at_end = prompt.depth > 0.0;
        assert_eq!(prompt.text.starts_with(&fact), !at_end);
        assert_eq!(prompt.text.ends_with(&fact), at_end);
    }
}

#[test]
fn what_is_not_read_is_not_answered() {
    let grid = grid(&[300, 600], &[0.0, 50.0, 100.0], 4, 0);
    let dense = answers(&grid, &Toy::new(100));
    let trimmed = Toy {
        reads: Some((20, 40)),
        ..Toy::new(100)
    };
    let trimmed = answers(&grid, &trimmed);
    let all = |_: &NeedlePrompt| true;
    let score = dense.score(all).unwrap();
    assert_eq!((score.prompts, score.trimmed_prompts), (24, 0));
    assert!((score.exact_match - 1.0).abs() < 1e-12);
    assert!((score.kv_bytes - 10.0 * score.prompt_tokens).abs() < 1e-9);
    for (depth, share) in [(0.0, 1.0), (50.0, 0.0), (100.0, 1.0)] {
        let at = |prompt: &NeedlePrompt| (prompt.depth - depth).abs() < 1e-9;
        let score = trimmed.score(at).unwrap();
        assert_eq!((score.prompts, score.trimmed_prompts), (8, 8));
        assert!((score.exact_match - share).abs() < 1e-12, "depth {depth}");
        assert!((score.kv_bytes - 600.0).abs() < 1e-9);
        let difference = trimmed.difference(&dense, at).unwrap();
        assert!((difference.value - (share - 1.0)).abs() < 1e-12);
    }
    assert_eq!(dense.score(|prompt| prompt.length == 5), None);
}

#[test]
fn a_seed_makes_the_same_prompts_and_another_depth_changes_no_cell() {
    let toy = Toy::new(100);
    let prompts = |depths: &[f64], seed| {
        let test = NeedleTest::new(&grid(&[300], depths, 4, seed), &toy).unwrap();
        test.prompts().to_vec()
    };
    let both = prompts(&[50.0, 25.0, 50.0], 3);
    assert_eq!(both, prompts(&[25.0, 50.0], 3));
    assert_eq!(both[..4], prompts(&[25.0], 3));
    assert_eq!(both[4..], prompts(&[50.0], 3));
    assert_ne!(both, prompts(&[25.0, 50.0], 4));
    // Different prose, place and word in each item of a cell.
    let differs = |of: fn(&NeedlePrompt) -> &str| {
        let mut of: Vec<&str> = both[..4].iter().map(of).collect();
        of.sort_unstable();
        of.dedup();
        of.len() == 4
    };
    assert!(differs(|prompt| prompt.text.split_once(". ").unwrap().0));
    assert!(differs(|prompt| &prompt.place) && differs(|prompt| &prompt.word));
}

#[test]
fn more_items_than_places_are_other_facts() {
    let mut facts: Vec<String> = (0..64)
        .map(|item| Fact::draw("key", item).sentence())
        .collect();
    facts.sort_unstable();
    facts.dedup();
    assert_eq!(facts.len(), 64);
}

#[test]
fn prompts_longer_than_the_prose_begin_it_again() {
    let toy = Toy::new(100);
    let words = prose().split_whitespace().count();
    let answers = answers(&grid(&[2 * words], &[50.0], 1, 0), &toy).answers;
    assert!(answers[0].exact_match && answers[0].prompt_tokens > words);
}

#[test]
fn a_grid_that_makes_no_sense_is_refused_by_name() {
    let items = NonZeroUsize::MIN;
    let refused = |lengths: &[usize], depths: &[f64]| {
        NeedleGrid::new(lengths, depths, items, 0)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(&[], &[0.0]),
        "needle test, `lengths`: expected at least one, found none"
    );
    assert_eq!(
        refused(&[256], &[]),
        "needle test, `depths`: expected at least one, found none"
    );
    for (depth, shown) in [(100.5, "100.5"), (-1.0, "-1"), (f64::NAN, "NaN")] {
        assert_eq!(
            refused(&[256], &[50.0, depth]),
            format!("needle test, `depths`: expected percentages from 0 to 100, found {shown}")
        );
    }
}

#[test]
fn lengths_that_the_model_or_the_question_leave_no_room_for_are_refused() {
    let toy = Toy {
        context: 700,
        ..Toy::new(100)
    };
    assert_eq!(
        refusal(&[300, 701], &toy),
        "needle test, `lengths`: expected at most 700 tokens, the model's context, found 701"
    );
    let error = refusal(&[20, 300], &toy);
    assert!(
        error.contains("expected at least") && error.ends_with("found 20"),
        "{error}"
    );
    // The length that the message names is enough, and the model's context is.
    let least = error
        .split_whitespace()
        .find_map(|word| word.parse::<usize>().ok());
    let (least, items) = (least.unwrap(), 3);
    let test = NeedleTest::new(&grid(&[least, 700], &[50.0], items, 0), &toy).unwrap();
    assert_eq!(test.prompts().len(), 2 * items);
    assert!(refusal(&[least - 1], &toy).contains(&format!("at least {least} tokens")));
}

#[test]
fn no_place_and_no_word_is_in_the_prose() {
    let prose = prose().to_lowercase();
    for word in PLACES.iter().chain(&WORDS) {
        let word = word.to_lowercase();
        let mut words = prose.split(|letter: char| !letter.is_alphabetic());
        assert!(words.all(|other| other != word), "{word}");
    }
}

#[test]
fn passages_are_split_at_the_ends_of_sentences_but_not_in_speech() {
    let passage = "A b. \"I see. You,\" said Mrs. C. \"Well?\" \"No.\" The end";
    let sentences = [
        "A b.",
        "\"I see. You,\" said Mrs. C.",
        "\"Well?\"",
        "\"No.\"",
        "The end",
    ];
    assert_eq!(split(passage), sentences);
}
