//! Which token comes next.

use std::hash::{BuildHasher, RandomState};

use burn::tensor::Tensor;
use pdtrim_core::draw::uniform;
use pdtrim_core::greedy_tokens;
use pdtrim_core::pipeline::Temperature;

use super::error::{ServeError, ServeResult};

/// How tokens are chosen.
///
/// ```
/// use pdtrim_kv::serve::SamplingParams;
///
/// // As it is: always the most likely token.
/// assert_eq!(SamplingParams::default().temperature, 0.0);
/// let drawn = SamplingParams { temperature: 0.8, top_p: 0.95, seed: Some(1) };
/// assert!(drawn.seed.is_some());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 = always the most likely token.
    pub temperature: f64,
    /// Only the most likely tokens that together have this probability, in (0, 1].
    pub top_p: f64,
    /// Where chance starts; another one each time without it.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            seed: None,
        }
    }
}

/// Chooses the tokens of one request.
#[derive(Debug)]
pub(super) struct Sampler {
    /// `None` = the most likely token.
    temperature: Option<Temperature>,
    top_p: f64,
    state: u64,
}

impl Sampler {
    pub(super) fn new(params: SamplingParams) -> ServeResult<Self> {
        let request = |field, expected: &str, found: f64| ServeError::Request {
            field,
            expected: expected.to_owned(),
            found: found.to_string(),
        };
        let SamplingParams {
            temperature, top_p, ..
        } = params;
        // OpenAI's own bounds.
        if !(0.0..=2.0).contains(&temperature) {
            return Err(request("temperature", "a number from 0 to 2", temperature));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(request("top_p", "a number above 0, at most 1", top_p));
        }
        let drawn = (temperature > 0.0).then(|| Temperature::new(temperature));
        Ok(Self {
            temperature: drawn.transpose()?,
            top_p,
            // The hasher's keys differ from process to process and from one to the next.
            state: params
                .seed
                .unwrap_or_else(|| RandomState::new().hash_one(0_u64)),
        })
    }

    fn choose(&mut self, logits: &[f32], temperature: Temperature) -> u32 {
        let chance = uniform(&mut self.state);
        if self.top_p >= 1.0 {
            return temperature.draw(logits, chance) as u32;
        }
        let mut cut = logits.to_vec();
        keep_nucleus(&mut cut, temperature, self.top_p);
        temperature.draw(&cut, chance) as u32
    }
}

/// Leaves of `logits` the most likely tokens that together have the probability `top_p`: the last one that
/// is needed for it stays too.
fn keep_nucleus(logits: &mut [f32], temperature: Temperature, top_p: f64) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let largest = order.first().map_or(0.0, |&token| logits[token]);
    let weight = |token: usize| temperature.weight(logits[token] - largest);
    let total: f64 = order.iter().map(|&token| weight(token)).sum();
    let mut reached = 0.0;
    let kept = order.iter().position(|&token| {
        reached += weight(token) / total;
        reached >= top_p
    });
    for &token in order.iter().skip(kept.map_or(order.len(), |last| last + 1)) {
        logits[token] = f32::NEG_INFINITY;
    }
}

/// The next token of each row of `logits` `[rows, vocab_size]`.
pub(super) fn choose(logits: Tensor<2>, samplers: &mut [&mut Sampler]) -> Vec<u32> {
    if samplers.iter().all(|sampler| sampler.temperature.is_none()) {
        return greedy_tokens(logits);
    }
    let [_, vocab_size] = logits.dims();
    let greedy = greedy_tokens(logits.clone());
    let logits = logits.into_data().convert::<f32>();
    let logits: Vec<f32> = logits.try_into_vec().expect("just converted");
    let rows = logits.chunks(vocab_size).zip(greedy).zip(samplers);
    rows.map(|((logits, greedy), sampler)| match sampler.temperature {
        Some(temperature) => sampler.choose(logits, temperature),
        None => greedy,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f64, top_p: f64) -> Sampler {
        let seed = Some(3);
        Sampler::new(SamplingParams {
            temperature,
            top_p,
            seed,
        })
        .unwrap()
    }

    #[test]
    fn a_nucleus_holds_the_likeliest_tokens_and_no_more_than_needed() {
        // Probabilities 0.1, 0.5, 0.15, 0.25.
        let logits = [0.1_f32, 0.5, 0.15, 0.25].map(f32::ln);
        for (top_p, kept) in [(0.4, vec![1]), (0.6, vec![1, 3]), (0.8, vec![1, 2, 3])] {
            let mut cut = logits;
            keep_nucleus(&mut cut, Temperature::ONE, top_p);
            let left: Vec<usize> = (0..4).filter(|&token| cut[token].is_finite()).collect();
            assert_eq!(left, kept, "{top_p}");
            let mut sampler = sampler(1.0, top_p);
            for _ in 0..50 {
                let token = sampler.choose(&logits, Temperature::ONE) as usize;
                assert!(kept.contains(&token));
            }
        }
    }

    #[test]
    fn rows_are_chosen_each_in_its_own_way() {
        let device = burn::tensor::Device::flex();
        let logits = Tensor::<2>::from_data([[0.0, 3.0, 0.0], [9.0, 0.0, 9.5]], &device);
        let (mut greedy, mut cold) = (sampler(0.0, 1.0), sampler(0.01, 1.0));
        assert_eq!(choose(logits, &mut [&mut greedy, &mut cold]), [1, 2]);
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let logits = [0.0_f32; 50];
        let draw = || {
            let mut sampler = sampler(1.0, 1.0);
            let tokens = (0..20).map(|_| sampler.choose(&logits, Temperature::ONE));
            tokens.collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let refused = |temperature, top_p| {
            let seed = None;
            let params = SamplingParams {
                temperature,
                top_p,
                seed,
            };
            Sampler::new(params).unwrap_err().to_string()
        };
        assert!(refused(-0.1, 1.0).contains("`temperature`"));
        assert!(refused(f64::NAN, 1.0).contains("`temperature`"));
        assert!(refused(1.0, 0.0).contains("`top_p`"));
        assert!(refused(1.0, 1.1).contains("`top_p`"));
    }
}
