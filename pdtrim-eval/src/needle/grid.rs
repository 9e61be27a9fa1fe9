//! Which prompts.

use std::num::NonZeroUsize;

use crate::error::{Error, Result};

/// Each length with each depth, some items each. There is one length and one depth at least; both ascend, and
/// none is there twice; depths are in 0..=100.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use pdtrim_eval::needle::NeedleGrid;
///
/// // Two lengths and three depths, four prompts for each pair.
/// let items = NonZeroUsize::new(4).expect("4 is not 0");
/// let grid = NeedleGrid::new(&[512, 1024], &[0.0, 50.0, 100.0], items, 1)?;
/// assert_eq!(grid.lengths().len() * grid.depths().len() * grid.items(), 24);
/// assert!(NeedleGrid::new(&[512], &[120.0], items, 1).is_err());
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct NeedleGrid {
    lengths: Vec<usize>,
    depths: Vec<f64>,
    items: NonZeroUsize,
    seed: u64,
}

/// A prompt of the grid before it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) length: usize,
    pub(super) depth: f64,
    pub(super) item: usize,
}

impl NeedleGrid {
    /// Prompts of `lengths` tokens with the fact at `depths` percent, `items` for each pair.
    ///
    /// # Errors
    ///
    /// [`Error::NeedleSetting`] without a length or a depth, and when a depth is outside 0..=100.
    pub fn new(lengths: &[usize], depths: &[f64], items: NonZeroUsize, seed: u64) -> Result<Self> {
        refuse_empty("lengths", lengths.is_empty())?;
        refuse_empty("depths", depths.is_empty())?;
        if let Some(depth) = depths.iter().find(|depth| !(0.0..=100.0).contains(*depth)) {
            return Err(Error::NeedleSetting {
                setting: "depths",
                expected: "percentages from 0 to 100".to_owned(),
                found: depth.to_string(),
            });
        }
        let mut lengths = lengths.to_vec();
        lengths.sort_unstable();
        lengths.dedup();
        // -0 is 0, so that both name the same cell.
        let mut depths: Vec<f64> = depths.iter().map(|depth| depth + 0.0).collect();
        depths.sort_by(f64::total_cmp);
        depths.dedup();
        Ok(Self {
            lengths,
            depths,
            items,
            seed,
        })
    }

    /// Tokens of a prompt and its answer, ascending.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Percent of the prose in front of the fact, ascending.
    pub fn depths(&self) -> &[f64] {
        &self.depths
    }

    /// Prompts for each length and depth.
    pub fn items(&self) -> usize {
        self.items.get()
    }

    /// What facts and prose are drawn with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Every prompt: by length, then by depth.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Wanted> {
        let cells = self
            .lengths
            .iter()
            .flat_map(|&length| self.depths.iter().map(move |&depth| (length, depth)));
        cells.flat_map(|(length, depth)| {
            (0..self.items.get()).map(move |item| Wanted {
                length,
                depth,
                item,
            })
        })
    }

    /// What a cell's prompts are drawn with.
    pub(super) fn key(&self, wanted: Wanted) -> String {
        format!("{} {} {}", self.seed, wanted.length, wanted.depth)
    }
}

fn refuse_empty(setting: &'static str, is_empty: bool) -> Result<()> {
    if is_empty {
        return Err(Error::NeedleSetting {
            setting,
            expected: "at least one".to_owned(),
            found: "none".to_owned(),
        });
    }
    Ok(())
}
