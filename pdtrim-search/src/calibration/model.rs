//! What sources ask of a model: a text's tokens, or texts of its own.

use pdtrim_core::model::BlockModel;
use pdtrim_core::pipeline::{PdModel, Temperature};
use pdtrim_core::{Boundary, Error, Tokenizer};

use pdtrim_core::draw::{draw, stream, uniform};

/// Samples that run in lock-step; more would not be faster and would need more memory.
const SAMPLES_AT_A_TIME: usize = 8;

/// Which samples.
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
