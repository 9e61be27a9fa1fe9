//! What a source has to draw windows from, and the draw.

use std::path::Path;

use pdtrim_core::objective::{Calibration, Placement};
use pdtrim_core::plan::PlanCalibration;
use sha2::{Digest, Sha256};

use super::content::{self, Content, Shared};
use super::items::joined;
use super::placement::{Slot, Strata};
use super::records::{Reader, hash_name};
use super::{CalibrationModel, CalibrationSource, SampleDraw};
use crate::error::{Error, Result};

/// Seed of the held-out samples; nobody would think of it.
const HELD_OUT_SAMPLES: u64 = 0x6865_6c64_206f_7574;

/// Which windows of a source.
///
/// ```
/// use pdtrim_search::calibration::{CalibrationSource, Corpus, Part};
///
/// // The bundled prose has a text of its own to report on.
/// let read = |part| Corpus::read(&CalibrationSource::Prose, None, part);
/// assert_ne!(read(Part::Calibration)?.name(), read(Part::HeldOut)?.name());
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// To search on, drawn by a seed.
    Calibration,
    /// To report losses on: the same for every seed, and none that a seed draws.
    HeldOut,
}

/// Which windows to draw, and how many.
///
/// ```
/// use pdtrim_search::calibration::WindowDraw;
///
/// // Eight windows of 128 tokens; another seed draws others.
/// let draw = WindowDraw { seed: 0, items: None, windows: 8, window_tokens: 128 };
/// let other = WindowDraw { seed: 1, ..draw };
/// assert_ne!(draw, other);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowDraw {
    /// The seed; held-out windows are the same for all.
    pub seed: u64,
    /// Items to draw first, for a source that has some.
    pub items: Option<usize>,
    /// Number of windows.
    pub windows: usize,
    /// Tokens of each; three quarters are its prompt.
    pub window_tokens: usize,
}

/// Windows, and what a plan says of them.
///
/// ```
/// # use pdtrim_core::testing::{TinyModel, tiny_checkpoint};
/// use pdtrim_search::calibration::{
///     CalibrationSource, Corpus, ModelWithTokenizer, Part, WindowDraw,
/// };
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let tokenizer = tiny_checkpoint(folder.path())?.tokenizer()?;
/// # let model = TinyModel::default().build();
/// # let model = ModelWithTokenizer { model: &model, tokenizer: &tokenizer, on_sampled: &|_| () };
/// let corpus = Corpus::read(&CalibrationSource::Prose, None, Part::Calibration)?;
/// let draw = WindowDraw { seed: 3, items: None, windows: 4, window_tokens: 32 };
/// let set = corpus.draw(&model, &draw)?;
/// assert_eq!(set.calibration.windows().len(), 4);
/// // What a plan says of them.
/// assert_eq!((set.about.seed, set.about.prompt_tokens), (3, 24));
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CalibrationSet {
    /// The windows.
    pub calibration: Calibration,
    /// Source, hash, seed, items and sizes.
    pub about: PlanCalibration,
}

/// One part of a source, read and checked.
///
/// ```
/// use pdtrim_search::Error;
/// use pdtrim_search::calibration::{CalibrationSource, Corpus, Part};
///
/// let corpus = Corpus::read(&CalibrationSource::Prose, None, Part::Calibration)?;
/// assert!(!corpus.has_items());
/// // Published files are looked for in a folder, and none was named.
/// let refused = Corpus::read(&CalibrationSource::WikiText2, None, Part::Calibration).err();
/// assert!(matches!(refused, Some(Error::DataNotFound { .. })));
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
pub struct Corpus {
    name: String,
    part: Part,
    hash: String,
    content: Content,
}

impl Corpus {
    /// Reads the files of `part` of `source`; `data` is the folder with the published ones.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownSource`], [`Error::DataNotFound`], what a broken file gives, or
    /// [`Error::Objective`] for one that cannot be read, is empty or not UTF-8.
    pub fn read(source: &CalibrationSource, data: Option<&Path>, part: Part) -> Result<Self> {
        let mut reader = Reader::default();
        let (name, content) = content::read(source, data, part, &mut reader)?;
        Ok(Self {
            name,
            part,
            hash: reader.hash(),
            content,
        })
    }

    /// What plans and reports call it: the source and the files that were read of it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether windows are cut from items that are drawn first.
    pub fn has_items(&self) -> bool {
        matches!(self.content, Content::Items(_))
    }

    /// Draws windows. The same draw from the same files and tokenizer gives the same windows.
    ///
    /// # Errors
    ///
    /// [`Error::NoItems`], [`Error::TooFewItems`], [`Error::TooFewTokens`], or [`Error::Objective`] if a
    /// text is too short for any windows, or the model refuses it.
    pub fn draw(
        &self,
        model: &dyn CalibrationModel,
        wanted: &WindowDraw,
    ) -> Result<CalibrationSet> {
        if wanted.items.is_some() && !self.has_items() {
            return Err(Error::NoItems {
                source_name: self.name.clone(),
            });
        }
        let seed = match self.part {
            Part::Calibration => wanted.seed,
            Part::HeldOut => 0,
        };
        let (mut items, mut hash) = (None, self.hash.clone());
        let calibration = match &self.content {
            Content::Text { text, shared } => {
                let slot = match (self.part, shared) {
                    (Part::HeldOut, Shared::Both) => Slot::HeldOut,
                    _ => Slot::Seed(seed),
                };
                self.cut(&model.encode(text)?, slot, wanted)?
            }
            Content::Items(pools) => {
                let (drawn, text) = joined(&self.name, pools, self.part, (seed, wanted.items))?;
                items = Some(drawn);
                let (tokens, n) = (model.encode(&text)?, wanted.windows);
                let length = wanted.window_tokens;
                Calibration::from_tokens(&self.name, &tokens, n, length, Placement::Spread)?
            }
            Content::Model => {
                let windows = model.sample(self.samples(seed, wanted))?;
                hash = hash_of(&windows);
                Calibration::new(windows, prompt_tokens(wanted))?
            }
        };
        let about = PlanCalibration {
            source: self.name.clone(),
            hash,
            seed,
            items,
            windows: wanted.windows,
            window_tokens: wanted.window_tokens,
            prompt_tokens: calibration.prompt_tokens(),
        };
        Ok(CalibrationSet { calibration, about })
    }

    fn cut(&self, tokens: &[u32], slot: Slot, wanted: &WindowDraw) -> Result<Calibration> {
        let strata = Strata {
            source_name: &self.name,
            tokens: tokens.len(),
            windows: wanted.windows,
            window_tokens: wanted.window_tokens,
        };
        let starts = strata.starts(slot)?;
        let window = |start: usize| tokens[start..start + wanted.window_tokens].to_vec();
        let windows = starts.into_iter().map(window).collect();
        Ok(Calibration::new(windows, prompt_tokens(wanted))?)
    }

    fn samples(&self, seed: u64, wanted: &WindowDraw) -> SampleDraw {
        SampleDraw {
            seed: match self.part {
                Part::Calibration => seed,
                Part::HeldOut => HELD_OUT_SAMPLES,
            },
            windows: wanted.windows,
            window_tokens: wanted.window_tokens,
        }
    }
}

fn prompt_tokens(wanted: &WindowDraw) -> usize {
    wanted.window_tokens * 3 / 4
}

fn hash_of(windows: &[Vec<u32>]) -> String {
    let mut hasher = Sha256::new();
    for token in windows.iter().flatten() {
        hasher.update(token.to_le_bytes());
    }
    hash_name(hasher)
}
