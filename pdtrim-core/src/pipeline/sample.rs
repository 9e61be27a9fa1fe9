//! Generation by chance: each token is drawn from the model's distribution.

use burn::tensor::{Tensor, TensorData};

use super::PdModel;
use super::greedy::StepDecoder;
use crate::error::{Error, Result};

/// What logits are divided by before they become probabilities: a finite number above 0.
///
/// ```
/// use pdtrim_core::pipeline::Temperature;
///
/// let logits = [1.0, 0.0];
/// // The first token has a probability of 0.73, and of 0.98 where differences count four times.
/// assert_eq!(Temperature::ONE.draw(&logits, 0.9), 1);
/// assert_eq!(Temperature::new(0.25)?.draw(&logits, 0.9), 0);
/// assert!(Temperature::new(0.0).is_err());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature(f64);

impl Temperature {
    /// The model's own distribution.
    pub const ONE: Self = Self(1.0);

    /// Below 1 likely tokens become likelier, above 1 less so.
    ///
    /// # Errors
    ///
    /// [`Error::Temperature`] if `value` is not a finite number above 0.
    pub fn new(value: f64) -> Result<Self> {
        if value > 0.0 && value.is_finite() {
            Ok(Self(value))
        } else {
            Err(Error::Temperature { found: value })
        }
    }

    /// Probability of a token whose logit is `below` (≤ 0) under the largest, in units of the largest's.
    pub fn weight(self, below: f32) -> f64 {
        (f64::from(below) / self.0).exp()
    }

    /// The first token whose probability, added to those before it, exceeds `chance`, a number in 0..1; a
    /// logit of -∞ is never drawn unless all are.
    pub fn draw(self, logits: &[f32], chance: f64) -> usize {
        drawn(logits, self, chance)
    }
}

impl PdModel<'_> {
    /// Draws `max_new_tokens` tokens after each of several prompts of one length; returns a list for
    /// each prompt. All prompts advance together and no token ends one.
    ///
    /// All chance comes from `chance`, which is asked once for each token with the number of its prompt
    /// and answers with a number in 0..1; so the caller has the seeds. `on_step` hears of each step that
    /// is done, by its number from 0.
    ///
    /// # Errors
    ///
    /// As [`generate_greedy`](Self::generate_greedy).
    pub fn sample_batch<R: AsRef<[u32]>>(
        &self,
        prompts: &[R],
        max_new_tokens: usize,
        temperature: Temperature,
        chance: &mut dyn FnMut(usize) -> f64,
        mut on_step: impl FnMut(usize),
    ) -> Result<Vec<Vec<u32>>> {
        let mut decoder = StepDecoder::start(self, prompts, max_new_tokens)?;
        let mut rows = vec![Vec::with_capacity(max_new_tokens); prompts.len()];
        for number in 0..max_new_tokens {
            let logits = decoder.logits();
            let [_, vocab_size] = logits.dims();
            let device = logits.device();
            let logits = read(logits);
            let choices = logits.chunks(vocab_size).enumerate();
            let choices = choices.map(|(row, logits)| drawn(logits, temperature, chance(row)));
            let chosen: Vec<i32> = choices.map(|token| token as i32).collect();
            for (row, &token) in rows.iter_mut().zip(&chosen) {
                row.push(token as u32);
            }
            let shape = [chosen.len(), 1];
            decoder.feed(Tensor::from_data(TensorData::new(chosen, shape), &device));
            on_step(number);
        }
        Ok(rows)
    }
}

/// Values row by row; waits for the device.
fn read(logits: Tensor<2>) -> Vec<f32> {
    let logits = logits.into_data().convert::<f32>();
    logits.try_into_vec().expect("just converted")
}

/// The first token whose probability, added to those before it, exceeds `chance`.
fn drawn(logits: &[f32], temperature: Temperature, chance: f64) -> usize {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |&logit: &f32| temperature.weight(logit - largest);
    let weights: Vec<f64> = logits.iter().map(weight).collect();
    let mut left = chance * weights.iter().sum::<f64>();
    let passed = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    // The sum was rounded: the rest of it belongs to the last token that can be drawn.
    let last = || weights.iter().rposition(|&weight| weight > 0.0);
    passed.or_else(last).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Boundary;
    use crate::testing::TinyModel;

    #[test]
    fn a_token_is_drawn_as_often_as_it_is_likely() {
        let logits = [1.0_f32, 3.0, 2.0].map(f32::ln);
        let count = |temperature, token| {
            let chances = (0..600).map(|n| f64::from(n) / 600.0);
            let drawn = chances.map(|chance| drawn(&logits, temperature, chance));
            drawn.filter(|&found| found == token).count()
        };
        let near = |found: usize, expected: usize| found.abs_diff(expected) <= 1;
        for (token, expected) in [(0, 100), (1, 300), (2, 200)] {
            assert!(near(count(Temperature::ONE, token), expected), "{token}");
        }
        // At half the temperature, probabilities are as the squares: 1, 9, 4 of 14.
        let half = Temperature::new(0.5).unwrap();
        for (token, expected) in [(0, 43), (1, 386), (2, 171)] {
            assert!(near(count(half, token), expected), "{token}");
        }
    }

    #[test]
    fn the_ends_of_chance_are_tokens_that_can_be_drawn() {
        let logits = [f32::NEG_INFINITY, 0.5, -0.5, f32::NEG_INFINITY];
        assert_eq!(drawn(&logits, Temperature::ONE, 0.0), 1);
        assert_eq!(drawn(&logits, Temperature::ONE, 1.0), 2);
    }

    #[test]
    fn a_temperature_near_zero_draws_what_greedy_generation_chooses() {
        let model = TinyModel::default().build();
        for boundary in [Boundary::Prefill, Boundary::Decode] {
            let pd = PdModel::dense(&model, boundary);
            let prompts = [[5, 6, 7], [9, 3, 1]];
            let cold = Temperature::new(1e-6).unwrap();
            let mut steps = 0;
            let sampled = pd
                .sample_batch(&prompts, 6, cold, &mut |_| 0.7, |_| steps += 1)
                .unwrap();
            assert_eq!(
                sampled,
                pd.generate_greedy_batch(&prompts, 6, |_| {}).unwrap()
            );
            assert_eq!(steps, 6);
        }
    }

    #[test]
    fn the_same_chances_draw_the_same_tokens_and_others_draw_others() {
        let model = TinyModel::default().build();
        let pd = PdModel::dense(&model, Boundary::Prefill);
        let sample = |first: f64| {
            let mut at = [first, first / 3.0];
            let chance = &mut |row: usize| {
                at[row] = (at[row] * 7.0 + 0.13).fract();
                at[row]
            };
            pd.sample_batch(&[[5], [5]], 8, Temperature::ONE, chance, |_| {})
                .unwrap()
        };
        let rows = sample(0.4);
        assert_eq!(rows, sample(0.4));
        assert_ne!(rows, sample(0.6));
        assert_ne!(rows[0], rows[1]);
    }

    #[test]
    fn more_tokens_than_the_context_holds_are_refused() {
        let model = TinyModel::default().build();
        let pd = PdModel::dense(&model, Boundary::Prefill);
        let sample =
            |tokens| pd.sample_batch(&[[1]], tokens, Temperature::ONE, &mut |_| 0.5, |_| {});
        assert_eq!(sample(128).unwrap()[0].len(), 128);
        assert!(matches!(
            sample(129),
            Err(Error::ContextLength {
                tokens: 129,
                limit: 128
            })
        ));
    }

    #[test]
    fn temperatures_that_are_none_are_refused() {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = Temperature::new(value).unwrap_err().to_string();
            assert!(error.contains("temperature"), "{error}");
        }
    }
}
