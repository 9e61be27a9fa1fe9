//! Rotary position embedding: frequencies, their scaling, and the angles of a run of positions.

use std::f32::consts::PI;
use std::sync::RwLock;

use burn::tensor::{Device, Tensor, TensorData};

use crate::cache::TokenPosition;
use crate::config::{ModelConfig, RopeScaling};

/// Cosines and sines of consecutive positions, each `[seq, head_dim / 2]` in f32.
#[derive(Clone, Debug)]
pub(crate) struct Angles {
    /// Cosines.
    pub(crate) cos: Tensor<2>,
    /// Sines.
    pub(crate) sin: Tensor<2>,
}

/// Angles computed so far, from position 0 on; grows by doubling, so that a model with a context of
/// 131072 does not pay for it before it is used.
#[derive(Debug)]
pub(super) struct RopeTable {
    frequencies: Vec<f32>,
    device: Device,
    known: RwLock<Option<Angles>>,
}

impl RopeTable {
    pub(super) fn new(config: &ModelConfig, device: &Device) -> Self {
        Self {
            frequencies: frequencies(config),
            device: device.clone(),
            known: RwLock::new(None),
        }
    }

    /// Angles of `seq` positions from `start` on.
    pub(super) fn angles(&self, start: TokenPosition, seq: usize) -> Angles {
        let end = start.0 + seq;
        let covers = |known: &Option<Angles>| {
            known
                .as_ref()
                .filter(|angles| angles.cos.dims()[0] >= end)
                .cloned()
        };
        let read = covers(
            &self
                .known
                .read()
                .expect("no code panics while it holds this lock"),
        );
        let angles = read.unwrap_or_else(|| {
            let mut known = self
                .known
                .write()
                .expect("no code panics while it holds this lock");
            covers(&known).unwrap_or_else(|| {
                let grown = self.compute(end.next_power_of_two().max(256));
                known.insert(grown).clone()
            })
        });
        Angles {
            cos: angles.cos.narrow(0, start.0, seq),
            sin: angles.sin.narrow(0, start.0, seq),
        }
    }

    fn compute(&self, n_positions: usize) -> Angles {
        // f32 throughout, as transformers computes them: position times frequency, then cosine.
        let angle = |position: usize| {
            self.frequencies
                .iter()
                .map(move |frequency| position as f32 * frequency)
        };
        let shape = [n_positions, self.frequencies.len()];
        let table = |function: fn(f32) -> f32| {
            let values: Vec<f32> = (0..n_positions).flat_map(angle).map(function).collect();
            Tensor::from_data(TensorData::new(values, shape), &self.device)
        };
        Angles {
            cos: table(f32::cos),
            sin: table(f32::sin),
        }
    }
}

/// What each of the `head_dim / 2` frequencies is divided by, where it is not the same for all: what
/// GGUF's `rope_freqs.weight` stores.
pub(crate) fn frequency_divisors(config: &ModelConfig) -> Option<Vec<f32>> {
    match &config.rope.scaling {
        RopeScaling::None | RopeScaling::Linear { .. } => None,
        RopeScaling::Factors(factors) => Some(factors.clone()),
        RopeScaling::Llama3 { .. } => {
            let mut plain = config.clone();
            plain.rope.scaling = RopeScaling::None;
            let scaled = frequencies(config).into_iter();
            let ratios = frequencies(&plain).into_iter().zip(scaled);
            Some(ratios.map(|(plain, scaled)| plain / scaled).collect())
        }
    }
}

/// The `head_dim / 2` frequencies, in radians per position.
fn frequencies(config: &ModelConfig) -> Vec<f32> {
    let half = config.head_dim / 2;
    let base = (0..half).map(|i| {
        1.0 / config
            .rope
            .theta
            .powf(2.0 * i as f32 / config.head_dim as f32)
    });
    match &config.rope.scaling {
        RopeScaling::None => base.collect(),
        RopeScaling::Linear { factor } => base.map(|frequency| frequency / factor).collect(),
        RopeScaling::Factors(factors) => base
            .zip(factors)
            .map(|(frequency, factor)| frequency / factor)
            .collect(),
        &RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => {
            let context = original_context as f32;
            base.map(|frequency| {
                frequency
                    / llama3_factor(
                        frequency,
                        factor,
                        low_freq_factor,
                        high_freq_factor,
                        context,
                    )
            })
            .collect()
        }
    }
}

/// The divisor of one frequency in Llama 3.1's scheme.
fn llama3_factor(frequency: f32, factor: f32, low: f32, high: f32, context: f32) -> f32 {
    let wavelength = 2.0 * PI / frequency;
    if wavelength < context / high {
        1.0
    } else if wavelength > context / low {
        factor
    } else {
        let smooth = (context / wavelength - low) / (high - low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}

/// Finds the Llama 3.1 parameters that give these per-frequency divisors, so that a GGUF of such a
/// model can be written as a Hugging Face config.
pub(crate) fn llama3_from_factors(theta: f32, factors: &[f32]) -> Option<RopeScaling> {
    let factor = factors.iter().copied().fold(1.0_f32, f32::max);
    // The published Llama 3.1, 3.2 and 3.3 checkpoints all use these three.
    let (low_freq_factor, high_freq_factor, original_context) = (1.0, 4.0, 8192);
    let fits = factors.iter().enumerate().all(|(i, found)| {
        let frequency = 1.0 / theta.powf(i as f32 / factors.len() as f32);
        let expected = llama3_factor(
            frequency,
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context as f32,
        );
        (expected - found).abs() <= 1e-3 * expected
    });
    fits.then_some(RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_context,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Llama;
    use crate::testing::{TinyModel, tiny_config};

    #[test]
    fn angles_do_not_depend_on_how_the_table_grew() {
        let model: Llama = TinyModel::default().build();
        let table = RopeTable::new(model.config(), &Device::flex());
        let late = table.angles(TokenPosition(300), 3).cos.into_data();
        let whole = table
            .angles(TokenPosition(0), 303)
            .cos
            .narrow(0, 300, 3)
            .into_data();
        assert_eq!(late, whole);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_divides_long_ones() {
        // wavelength = 2π / frequency; context 8192: below 2048 kept, above 8192 divided by 8.
        assert!((llama3_factor(2.0 * PI / 1000.0, 8.0, 1.0, 4.0, 8192.0) - 1.0).abs() < 1e-6);
        assert!((llama3_factor(2.0 * PI / 10000.0, 8.0, 1.0, 4.0, 8192.0) - 8.0).abs() < 1e-6);
        // at 4096: smooth = (2 - 1) / 3 = 1/3, divisor = 1 / ((2/3)/8 + 1/3) = 2.4
        assert!((llama3_factor(2.0 * PI / 4096.0, 8.0, 1.0, 4.0, 8192.0) - 2.4).abs() < 1e-4);
    }

    #[test]
    fn llama3_parameters_are_found_from_their_factors() {
        let mut config = tiny_config(crate::config::Architecture::Llama);
        config.head_dim = 64;
        config.rope.theta = 500_000.0;
        let base = frequencies(&config);
        config.rope.scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        let factors = frequency_divisors(&config).unwrap();
        for ((base, scaled), factor) in base.iter().zip(frequencies(&config)).zip(&factors) {
            assert!((base / factor - scaled).abs() <= 1e-6 * scaled);
        }
        assert_eq!(
            llama3_from_factors(500_000.0, &factors),
            Some(config.rope.scaling)
        );
        assert_eq!(llama3_from_factors(500_000.0, &[1.5; 32]), None);
    }
}
