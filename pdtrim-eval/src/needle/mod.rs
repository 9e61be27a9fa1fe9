//! A fact at every depth of prompts of several lengths: what decode still reads of a prompt's middle.
//!
//! Benchmarks with short prompts never show what it costs when the middle of a prompt does not cross to
//! decode. Here a sentence such as "The code word of Oslo is velvet." stands somewhere in prose of our own,
//! the prompt ends with the question about it, and decode generates the answer on the KV that it
//! received. Question, answer and what counts as right are those of the bundled task `needle`, and the
//! prompts run as its items do.
//!
//! 1. A [`NeedleGrid`] says which prompts: each length with each depth, some items each, and a seed.
//! 2. A [`NeedleTest`] is the grid's prompts for one tokenizer. A length is in tokens and has room for the
//!    answer, so that a model's context length may be asked for. Prose comes in whole sentences: a
//!    prompt with its answer takes at most the length, and less than one sentence below it.
//! 3. A depth is the share of the prose in front of the fact, in percent of its tokens: 0 is the prompt's
//!    beginning, 100 stands right before the question. The fact goes between the two sentences that are
//!    nearest.
//! 4. [`NeedleTest::evaluate`] has a [`Scorer`](crate::Scorer) answer; a [`NeedleResult`] is reduced to a
//!    [`NeedleScore`] for whatever prompts are picked, and two results on the same prompts are compared pair by pair.
//!
//! Every prompt has prose in its own order, first of the held-out passages, then of the calibration passages, and from
//! the start again where both are used up. What a prompt looks like follows from the seed and its own
//! length, depth and item alone: another depth in the grid changes no other cell. Each prompt is drawn by itself, so
//! standard errors over prompts hold for a row, a column and the whole.
//!
//! The rejected alternative: cutting the prose to the exact token. It would break a sentence in each
//! prompt, at the place where the first positions are that a KV plan sends.

mod draw;
mod fact;
mod filler;
mod grid;
mod prompt;
mod result;
mod test;
#[cfg(test)]
mod tests;

pub use grid::NeedleGrid;
pub use prompt::NeedlePrompt;
pub use result::{NeedleAnswer, NeedleResult, NeedleScore};
pub use test::NeedleTest;
