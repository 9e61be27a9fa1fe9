//! Windows that share no text: what a repair is fitted on must neither choose the blocks nor report on them.

use std::collections::HashMap;

use pdtrim_core::objective::Calibration;
use pdtrim_core::plan::PlanCalibration;

use crate::calibration::{CalibrationModel, CalibrationSet, Corpus, WindowDraw};
use crate::error::{Error, Result};

/// Windows with this many tokens in a row in common share text.
pub const SHARED_TOKENS: usize = 16;

/// Where the text of some windows is found again.
struct Known<'w> {
    length: usize,
    /// The window of each sequence of `length` tokens.
    windows: HashMap<&'w [u32], usize>,
}

impl<'w> Known<'w> {
    fn new(calibration: &'w Calibration, length: usize) -> Self {
        let numbered = calibration.windows().iter().enumerate();
        let parts =
            numbered.flat_map(|(n, window)| parts(window, length).map(move |part| (part, n)));
        Self {
            length,
            windows: parts.collect(),
        }
    }

    fn find(&self, window: &[u32]) -> Option<usize> {
        parts(window, self.length).find_map(|part| self.windows.get(part).copied())
    }
}

/// Runs of `length` tokens; one token over and over is no text.
fn parts(window: &[u32], length: usize) -> impl Iterator<Item = &[u32]> {
    let parts = window.windows(length);
    parts.filter(|part| part.iter().any(|&token| token != part[0]))
}

/// Shorter windows share text if they are in each other.
fn part_length(windows: &[&Calibration]) -> usize {
    let lengths = windows.iter().map(|windows| windows.window_tokens());
    lengths.fold(SHARED_TOKENS, usize::min)
}

/// Refuses windows that share text. The names are for the message.
///
/// # Errors
///
/// [`Error::WindowsOverlap`] with the first that do.
///
/// ```
/// use pdtrim_core::objective::Calibration;
/// use pdtrim_search::Error;
/// use pdtrim_search::repair::check_disjoint;
///
/// let window = |from: u32| (from..from + 64).collect::<Vec<u32>>();
/// let choosing = Calibration::new(vec![window(0), window(100)], 48)?;
/// let reporting = Calibration::new(vec![window(200), window(120)], 48)?;
/// // The second windows overlap.
/// let refused = check_disjoint(("the report", &reporting), ("the search", &choosing));
/// assert!(matches!(refused, Err(Error::WindowsOverlap { first_window: 1, second_window: 1, .. })));
/// # Ok::<(), Error>(())
/// ```
pub fn check_disjoint(
    (name, windows): (&str, &Calibration),
    (other_name, others): (&str, &Calibration),
) -> Result<()> {
    let known = Known::new(others, part_length(&[windows, others]));
    for (n, window) in windows.windows().iter().enumerate() {
        if let Some(other) = known.find(window) {
            return Err(Error::WindowsOverlap {
                first: name.to_owned(),
                first_window: n,
                second: other_name.to_owned(),
                second_window: other,
            });
        }
    }
    Ok(())
}

/// Draws windows of `corpus` that share no text with those in `taken`: more than `wanted`, of which those
/// that do are left out.
///
/// # Errors
///
/// [`Error::TooFewDisjoint`] if too few are left; as [`Corpus::draw`].
///
/// ```
/// # use pdtrim_core::testing::{TinyModel, tiny_checkpoint};
/// use pdtrim_search::calibration::{
///     CalibrationSource, Corpus, ModelWithTokenizer, Part, WindowDraw,
/// };
/// use pdtrim_search::repair::{check_disjoint, draw_disjoint};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let tokenizer = tiny_checkpoint(folder.path())?.tokenizer()?;
/// # let model = TinyModel::default().build();
/// # let model = ModelWithTokenizer { model: &model, tokenizer: &tokenizer, on_sampled: &|_| () };
/// let corpus = Corpus::read(&CalibrationSource::Prose, None, Part::Calibration)?;
/// let draw = WindowDraw { seed: 0, items: None, windows: 4, window_tokens: 64 };
/// let choosing = corpus.draw(&model, &draw)?.calibration;
/// let fitting = draw_disjoint(&corpus, &model, &WindowDraw { seed: 1, ..draw }, &[&choosing])?;
/// check_disjoint(("the fit", &fitting.calibration), ("the search", &choosing))?;
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
pub fn draw_disjoint(
    corpus: &Corpus,
    model: &dyn CalibrationModel,
    wanted: &WindowDraw,
    taken: &[&Calibration],
) -> Result<CalibrationSet> {
    // A window lies across at most so many others of a text.
    let crossed = |other: &&Calibration| {
        let each = other.window_tokens().div_ceil(wanted.window_tokens.max(1)) + 1;
        other.windows().len() * each
    };
    let drawn = WindowDraw {
        windows: wanted.windows + taken.iter().map(crossed).sum::<usize>(),
        ..*wanted
    };
    let CalibrationSet { calibration, about } = corpus.draw(model, &drawn)?;
    let known = taken
        .iter()
        .map(|taken| Known::new(taken, part_length(&[taken, &calibration])));
    let known: Vec<_> = known.collect();
    let is_free = |window: &&Vec<u32>| known.iter().all(|known| known.find(window).is_none());
    let windows: Vec<Vec<u32>> = calibration
        .windows()
        .iter()
        .filter(is_free)
        .cloned()
        .collect();
    if windows.len() < wanted.windows {
        return Err(Error::TooFewDisjoint {
            source_name: corpus.name().to_owned(),
            expected: wanted.windows,
            found: windows.len(),
        });
    }
    let windows = windows.into_iter().take(wanted.windows).collect();
    Ok(CalibrationSet {
        calibration: Calibration::new(windows, calibration.prompt_tokens())?,
        about: PlanCalibration {
            windows: wanted.windows,
            ..about
        },
    })
}

/// The same windows with half of each as its prompt. With three quarters decode would be fitted on a
/// quarter of the tokens; on SmolLM2, 3 blocks out of decode, 8192 tokens of `WikiText-2` won back 24 %
/// of the rise in J with a quarter and 31 % with three quarters of them decode's.
///
/// # Errors
///
/// [`Error::Objective`] for windows of one token.
///
/// ```
/// # use pdtrim_core::testing::{TinyModel, tiny_checkpoint};
/// # use pdtrim_search::calibration::{CalibrationSource, Corpus, ModelWithTokenizer, Part, WindowDraw};
/// use pdtrim_search::repair::halved;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let tokenizer = tiny_checkpoint(folder.path())?.tokenizer()?;
/// # let model = TinyModel::default().build();
/// # let model = ModelWithTokenizer { model: &model, tokenizer: &tokenizer, on_sampled: &|_| () };
/// # let corpus = Corpus::read(&CalibrationSource::Prose, None, Part::Calibration)?;
/// # let draw = WindowDraw { seed: 0, items: None, windows: 4, window_tokens: 64 };
/// let set = corpus.draw(&model, &draw)?;
/// assert_eq!(set.calibration.prompt_tokens(), 48);
/// assert_eq!(halved(set)?.calibration.prompt_tokens(), 32);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
pub fn halved(set: CalibrationSet) -> Result<CalibrationSet> {
    let prompt_tokens = set.calibration.window_tokens() / 2;
    Ok(CalibrationSet {
        calibration: Calibration::new(set.calibration.windows().to_vec(), prompt_tokens)?,
        about: PlanCalibration {
            prompt_tokens,
            ..set.about
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration(starts: &[u32], length: u32) -> Calibration {
        let window = |&start: &u32| (start..start + length).collect();
        Calibration::new(starts.iter().map(window).collect(), length as usize / 2).unwrap()
    }

    #[test]
    fn windows_that_share_sixteen_tokens_are_refused_by_number() {
        let (a, b) = (calibration(&[0, 100], 32), calibration(&[200, 116], 32));
        let error = check_disjoint(("repair", &a), ("selection", &b)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "window 1 of repair and window 1 of selection share text: a fit, the choice of blocks and \
                the report need windows of their own"
        );
        let touching = calibration(&[117], 32);
        assert!(check_disjoint(("repair", &a), ("selection", &touching)).is_ok());
    }

    #[test]
    fn short_windows_share_text_if_one_is_in_the_other() {
        let (short, long) = (calibration(&[40], 8), calibration(&[30], 32));
        assert!(check_disjoint(("a", &short), ("b", &long)).is_err());
        assert!(check_disjoint(("a", &short), ("b", &calibration(&[41], 32))).is_ok());
    }

    #[test]
    fn one_token_over_and_over_is_no_text() {
        let padding = Calibration::new(vec![vec![1; 32]], 16).unwrap();
        assert!(check_disjoint(("a", &padding), ("b", &padding)).is_ok());
    }
}
