//! What sources ask of a model: a text's tokens, or texts of its own.

use pdtrim_core::model::BlockModel;
use pdtrim_core::pipeline::{PdModel, Temperature};
use pdtrim_core::{Boundary, Error, Tokenizer};

use pdtrim_core::draw::{draw, stream, uniform};

/// Samples that run in lock-step; more would not be faster and would need more memory.
const SAMPLES_AT_A_TIME: usize = 8;

/// Which samples.
///
/// ```
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_search::calibration::{SampleDraw, sample_windows};
///
/// let model = TinyModel::default().build();
/// let draw = SampleDraw { seed: 1, windows: 2, window_tokens: 16 };
/// let windows = sample_windows(&model, None, draw, &|_| ())?;
/// assert_eq!((windows.len(), windows[0].len()), (2, 16));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleDraw {
    /// Seed of all of them; each has its own stream.
    pub seed: u64,
    /// How many.
    pub windows: usize,
    /// Tokens of each.
    pub window_tokens: usize,
}

/// What a source asks of a model, so that sources are tested without one.
///
/// ```
/// use pdtrim_core::Error;
/// use pdtrim_search::calibration::{
///     CalibrationModel, CalibrationSource, Corpus, Part, SampleDraw, WindowDraw,
/// };
///
/// /// Every byte is a token; it makes nothing up.
/// struct Bytes;
///
/// impl CalibrationModel for Bytes {
///     fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
///         Ok(text.bytes().map(u32::from).collect())
///     }
///
///     fn sample(&self, wanted: SampleDraw) -> Result<Vec<Vec<u32>>, Error> {
///         Ok(vec![vec![0; wanted.window_tokens]; wanted.windows])
///     }
/// }
///
/// let corpus = Corpus::read(&CalibrationSource::Prose, None, Part::HeldOut)?;
/// let draw = WindowDraw { seed: 0, items: None, windows: 2, window_tokens: 64 };
/// assert_eq!(corpus.draw(&Bytes, &draw)?.calibration.window_tokens(), 64);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
pub trait CalibrationModel {
    /// Token ids of a text, without added ones.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`].
    fn encode(&self, text: &str) -> Result<Vec<u32>, Error>;

    /// Texts that the model makes up, the same for the same draw.
    ///
    /// # Errors
    ///
    /// [`Error::ContextLength`] if the model cannot make them so long.
    fn sample(&self, wanted: SampleDraw) -> Result<Vec<Vec<u32>>, Error>;
}

/// A model, its tokenizer, and someone who hears of sampling.
///
/// ```
/// use burn::tensor::{DType, Device};
/// use pdtrim_core::testing::tiny_checkpoint;
/// use pdtrim_search::calibration::{CalibrationModel, ModelWithTokenizer};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let checkpoint = tiny_checkpoint(folder.path())?;
/// let (model, tokenizer) = checkpoint.load_with_tokenizer(DType::F32, &Device::flex())?;
/// let model = ModelWithTokenizer { model: &model, tokenizer: &tokenizer, on_sampled: &|_| () };
/// assert_eq!(model.encode("two")?.len(), 3);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub struct ModelWithTokenizer<'a> {
    /// The model; sampled from dense.
    pub model: &'a dyn BlockModel,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Called with the number of tokens sampled so far.
    pub on_sampled: &'a dyn Fn(usize),
}

impl CalibrationModel for ModelWithTokenizer<'_> {
    fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.tokenizer.encode(text)
    }

    fn sample(&self, wanted: SampleDraw) -> Result<Vec<Vec<u32>>, Error> {
        let start = self.tokenizer.prefix_token();
        sample_windows(self.model, start, wanted, self.on_sampled)
    }
}

/// Windows sampled from the dense model at temperature 1, each a text of its own after `start`, or after
/// a token of the vocabulary that is drawn where there is none. `start` is not part of the window, no
/// token ends a sample, and `on_sampled` hears how many tokens there are.
///
/// # Errors
///
/// As [`PdModel::sample_batch`].
///
/// ```
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_search::calibration::{SampleDraw, sample_windows};
///
/// let model = TinyModel::default().build();
/// let sample = |seed| {
///     let draw = SampleDraw { seed, windows: 1, window_tokens: 12 };
///     sample_windows(&model, Some(0), draw, &|_| ())
/// };
/// assert_eq!(sample(1)?, sample(1)?);
/// assert_ne!(sample(1)?, sample(2)?);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn sample_windows(
    model: &dyn BlockModel,
    start: Option<u32>,
    wanted: SampleDraw,
    on_sampled: &dyn Fn(usize),
) -> Result<Vec<Vec<u32>>, Error> {
    let pd = PdModel::dense(model, Boundary::Prefill);
    let vocab_size = model.dims().vocab_size;
    let numbers: Vec<usize> = (0..wanted.windows).collect();
    let mut windows = Vec::with_capacity(wanted.windows);
    for numbers in numbers.chunks(SAMPLES_AT_A_TIME) {
        let states = numbers.iter().map(|&n| stream(wanted.seed, n));
        let mut states: Vec<u64> = states.collect();
        let first = |state| [start.unwrap_or_else(|| draw(state, vocab_size) as u32)];
        let prompts: Vec<[u32; 1]> = states.iter_mut().map(first).collect();
        let known = windows.len() * wanted.window_tokens;
        windows.extend(pd.sample_batch(
            &prompts,
            wanted.window_tokens,
            Temperature::ONE,
            &mut |row| uniform(&mut states[row]),
            |step| on_sampled(known + (step + 1) * prompts.len()),
        )?);
    }
    Ok(windows)
}
