//! The numbers a task is reduced to, and their standard errors.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A metric by its name in lm-evaluation-harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricName {
    /// Share of items whose gold choice has the highest log-likelihood. Higher is better.
    Acc,
    /// As `acc`, with the log-likelihood divided by the choice's length in characters. Higher is
    /// better.
    AccNorm,
    /// exp(total negative log-likelihood / total tokens). Lower is better.
    TokenPerplexity,
}

impl MetricName {
    /// Whether a larger value is the better one.
    pub fn higher_is_better(self) -> bool {
        !matches!(self, Self::TokenPerplexity)
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::TokenPerplexity => "token_perplexity",
        })
    }
}

/// A measured value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What was measured.
    pub name: MetricName,
    /// The value.
    pub value: f64,
    /// Its standard error; none for a single item and for perplexity.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stderr: Option<f64>,
}

impl Metric {
    /// The share of `correct` items, with its standard error. None without items.
    pub(crate) fn accuracy(name: MetricName, correct: &[bool]) -> Option<Self> {
        let values: Vec<f64> = correct
            .iter()
            .map(|&hit| f64::from(u8::from(hit)))
            .collect();
        Some(Self {
            name,
            value: mean(&values)?,
            stderr: mean_stderr(&values),
        })
    }

    /// The perplexity of `tokens` tokens with the summed log-likelihood `loglikelihood`. None
    /// without tokens.
    pub(crate) fn token_perplexity(loglikelihood: f64, tokens: usize) -> Option<Self> {
        let value = (-loglikelihood / tokens as f64).exp();
        (tokens > 0).then_some(Self {
            name: MetricName::TokenPerplexity,
            value,
            stderr: None,
        })
    }
}

/// The mean. None of nothing.
pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard error of the mean: sample standard deviation / √n, as lm-evaluation-harness'
/// `mean_stderr`. None below two values.
pub(crate) fn mean_stderr(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt() / count.sqrt())
}

/// The index of the largest score; the first one when several are equal, as `numpy.argmax`.
pub(crate) fn best(scores: impl IntoIterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, score) in scores.into_iter().enumerate() {
        if score > best.1 {
            best = (index, score);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_of_three_in_four_has_a_quarter_as_standard_error() {
        // mean 3/4; squares 3·(1/4)² + (3/4)² = 12/16; / 3 = 1/4; √ = 1/2; / √4 = 1/4
        let acc = Metric::accuracy(MetricName::Acc, &[true, true, false, true]).unwrap();
        assert_eq!((acc.value, acc.stderr), (0.75, Some(0.25)));
    }

    #[test]
    fn a_single_item_has_no_standard_error() {
        let acc = Metric::accuracy(MetricName::Acc, &[true]).unwrap();
        assert_eq!((acc.value, acc.stderr), (1.0, None));
    }

    #[test]
    fn no_items_give_no_metric() {
        assert_eq!(Metric::accuracy(MetricName::Acc, &[]), None);
        assert_eq!(Metric::token_perplexity(0.0, 0), None);
    }

    #[test]
    fn perplexity_is_the_exponential_of_the_mean_over_tokens() {
        // Two windows of 1 and 3 tokens with log-likelihoods -ln 2 and -3 ln 4: exp((ln 2 + 3 ln 4) / 4)
        // = (2 · 4³)^(1/4) = 128^(1/4) = 3.3636; the mean of the windows' perplexities would be 3.
        let total = -(2.0_f64.ln() + 3.0 * 4.0_f64.ln());
        let perplexity = Metric::token_perplexity(total, 4).unwrap();
        assert!(
            (perplexity.value - 3.363_585_661).abs() < 1e-8,
            "{perplexity:?}"
        );
    }

    #[test]
    fn the_first_of_equal_scores_wins() {
        assert_eq!(best([-2.0, -1.0, -1.0]), 1);
        assert_eq!(best([f64::NEG_INFINITY, f64::NEG_INFINITY]), 0);
    }
}
