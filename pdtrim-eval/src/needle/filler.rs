//! The prose around the fact: our own passages, sentence by sentence.

use pdtrim_core::hash::sha256;

use super::draw::order;
use crate::bundled;
use crate::encode::Encoder;
use crate::error::Result;
use crate::result::DataFile;

/// Held-out prose first: plans are chosen on the other.
const FILES: [&str; 2] = ["calibration/heldout.txt", "calibration/prose.txt"];

/// A sentence of the filler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sentence {
    pub(super) text: &'static str,
    /// About as many as it adds to a text.
    pub(super) tokens: usize,
    pub(super) ends_passage: bool,
}

/// All passages, by file.
pub(super) struct Filler {
    files: [Vec<Vec<Sentence>>; 2],
}

impl Filler {
    /// The bundled prose, counted in the tokens of a scorer.
    pub(super) fn read(encoder: Encoder<'_>) -> Result<Self> {
        let [held_out, more] = FILES.map(|file| passages(encoder, text(file)));
        Ok(Self {
            files: [held_out?, more?],
        })
    }

    /// Sentences without end: passages in the order that `key` decides, file by file, and again.
    pub(super) fn sentences(&self, key: &str) -> impl Iterator<Item = Sentence> {
        let mut shuffled = Vec::new();
        for passages in &self.files {
            let order = order(passages.len(), key);
            shuffled.extend(order.into_iter().flat_map(|index| passages[index].clone()));
        }
        shuffled.into_iter().cycle()
    }

    /// The one with the most tokens.
    pub(super) fn longest(&self) -> Sentence {
        let all = self.files.iter().flatten().flatten();
        let longest = all.max_by_key(|sentence| sentence.tokens);
        *longest.expect("the prose is part of the binary")
    }

    /// What the prose was read from.
    pub(super) fn data_files() -> Vec<DataFile> {
        let file = |path: &str| DataFile {
            path: path.to_owned(),
            sha256: sha256(text(path).as_bytes()),
        };
        FILES.map(file).into()
    }
}

fn text(file: &str) -> &'static str {
    bundled::data(file).expect("the prose is part of the binary")
}

fn passages(encoder: Encoder<'_>, text: &'static str) -> Result<Vec<Vec<Sentence>>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| passage(encoder, line.trim())).collect()
}

fn passage(encoder: Encoder<'_>, text: &'static str) -> Result<Vec<Sentence>> {
    let texts = split(text);
    let last = texts.len() - 1;
    let sentence = |(index, text): (usize, &'static str)| {
        let ends_passage = index == last;
        let tokens = encoder.encode(&format!(" {text}"))?.len() + usize::from(ends_passage);
        Ok(Sentence {
            text,
            tokens,
            ends_passage,
        })
    };
    texts.into_iter().enumerate().map(sentence).collect()
}

/// The sentences of a passage. One ends at a space after a closing mark, but not within quotes, where the
/// fact would be something that somebody says.
pub(super) fn split(passage: &str) -> Vec<&str> {
    let (mut sentences, mut start) = (Vec::new(), 0);
    for (at, _) in passage.match_indices(' ') {
        let sentence = &passage[start..at];
        if ends(sentence) {
            sentences.push(sentence);
            start = at + 1;
        }
    }
    sentences.push(&passage[start..]);
    sentences
}

fn ends(sentence: &str) -> bool {
    const TITLES: [&str; 2] = ["Mr.", "Mrs."];
    let is_title = || TITLES.iter().any(|title| sentence.ends_with(title));
    let is_quote_open = || sentence.matches('"').count() % 2 == 1;
    let closed = sentence.trim_end_matches('"').ends_with(['.', '!', '?']);
    closed && !is_title() && !is_quote_open()
}
