//! Calibration windows, from whatever the user has: one type for texts, item sets and the model itself.
//!
//! A [`CalibrationSource`] is what the user writes; [`Corpus::read`] reads and checks its files before a
//! model is loaded; [`Corpus::draw`] makes windows of it with a seed. What is read keeps its SHA-256, so
//! that a plan says what it was searched on.
//!
//! | source | what it is | what a seed draws |
//! | --- | --- | --- |
//! | `prose` | prose that is part of the binary | windows |
//! | `wikitext2` | WikiText-2 raw: train, else the slice of it, else valid | windows |
//! | a path | a UTF-8 text | windows |
//! | `c4` | published C4 records, or its calibration sample | items |
//! | `piqa+mmlu` | the paper's set: half PIQA, half MMLU, prompts with their answers | items |
//! | a `.jsonl` path | the field `text` of each record, or the fields named after `#` | items |
//! | `self` | text sampled from the model, which needs no data | the samples |
//!
//! **Windows of a text.** The text is cut into as many equal strata as windows are wanted, a stratum into
//! slots of one window. Seed 0 takes the first slot of each, which spreads its windows evenly over the
//! text; any other seed takes one of the others, drawn for each stratum by itself. The last slot is held
//! out (`prose` and `wikitext2` have a text of their own for that). So windows of a seed never overlap, nor do those of seeds 0, 1, … as long as there are slots left,
//! and the held-out ones overlap with no seed's.
//!
//! **Items.** Every fifth item is held out; [`DEFAULT_ITEMS`] of the others are drawn, as many from each
//! part of the source, joined in turn by a blank line, and windows are spread over the joined text. Seeds
//! 0, 1, … have no item in common as long as there are items left.
//!
//! PIQA's and MMLU's training or validation parts are taken where they are; where only parts are there on
//! which models are scored, those are: a score on the drawn items is then one on what the search has seen.
//!
//! The search itself still sees no file and no text: strategies get windows only through the objective.

mod content;
mod corpus;
mod items;
mod model;
mod placement;
mod records;
mod source;
#[cfg(test)]
mod tests;

pub use corpus::{CalibrationSet, Corpus, Part, WindowDraw};
pub use items::DEFAULT_ITEMS;
pub use model::{CalibrationModel, ModelWithTokenizer, SampleDraw, sample_windows};
pub use source::CalibrationSource;

/// Prose written for this project, so that the default run needs no data from outside.
pub const BUNDLED_PROSE: &str = include_str!("../../datasets/calibration/prose.txt");

/// Prose of the same kind that no search sees.
pub const BUNDLED_HELD_OUT_PROSE: &str = include_str!("../../datasets/calibration/heldout.txt");
