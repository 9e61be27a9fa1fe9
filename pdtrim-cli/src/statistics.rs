//! Mean and spread over seeds.

use serde::Serialize;

/// Mean and standard deviation of the values of several seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) mean: f64,
    /// With n - 1 below the line; `None` for one value.
    pub(crate) standard_deviation: Option<f64>,
}

impl Spread {
    /// `None` without a value.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let mean = (!values.is_empty()).then(|| values.iter().sum::<f64>() / n)?;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self {
            mean,
            standard_deviation: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
        })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.mean)?;
        match self.standard_deviation {
            Some(deviation) => write!(f, " ± {deviation:.3}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_by_hand() {
        let spread = Spread::of(&[1.0, 2.0, 6.0]).unwrap();
        let by_hand = Spread {
            mean: 3.0,
            standard_deviation: Some(7.0_f64.sqrt()),
        };
        assert_eq!(spread, by_hand);
        assert_eq!(spread.to_string(), "3.000 ± 2.646");
        assert_eq!(Spread::of(&[4.0]).unwrap().to_string(), "4.000");
        assert_eq!(Spread::of(&[]), None);
    }
}
