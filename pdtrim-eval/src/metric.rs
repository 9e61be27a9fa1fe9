//! The numbers a task is reduced to, and their standard errors.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A metric by its name in lm-evaluation-harness.
///
/// ```
/// use pdtrim_eval::MetricName;
///
/// let metric: MetricName = "acc_norm".parse()?;
/// assert!(metric.higher_is_better() && !metric.is_perplexity());
/// assert!("accuracy".parse::<MetricName>().is_err());
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricName {
    /// Share of items whose gold choice has the highest log-likelihood, or whose target is what greedy
    /// decoding gives. Higher is better.
    Acc,
    /// As `acc`, with the log-likelihood divided by the choice's length in characters. Higher is
    /// better.
    AccNorm,
    /// Share of items whose generated answer is an accepted one. Higher is better.
    ExactMatch,
    /// exp(mean negative log-likelihood of an item's target). Lower is better.
    Perplexity,
    /// exp(total negative log-likelihood / total tokens). Lower is better.
    TokenPerplexity,
    /// exp(total negative log-likelihood / total words of the original text). Lower is better.
    WordPerplexity,
    /// exp(total negative log-likelihood / total bytes of the original text). Lower is better.
    BytePerplexity,
    /// Total negative log-likelihood in bits / total bytes of the original text. Lower is better.
    BitsPerByte,
}

impl MetricName {
    /// All metrics, in order.
    pub const ALL: [Self; 8] = [
        Self::Acc,
        Self::AccNorm,
        Self::ExactMatch,
        Self::Perplexity,
        Self::TokenPerplexity,
        Self::WordPerplexity,
        Self::BytePerplexity,
        Self::BitsPerByte,
    ];

    /// Whether a larger value is the better one.
    pub fn higher_is_better(self) -> bool {
        matches!(self, Self::Acc | Self::AccNorm | Self::ExactMatch)
    }

    /// Whether it is a perplexity of any kind: only ratios of two of them mean something.
    pub fn is_perplexity(self) -> bool {
        matches!(
            self,
            Self::Perplexity | Self::TokenPerplexity | Self::WordPerplexity | Self::BytePerplexity
        )
    }

    /// The name of its aggregation in lm-evaluation-harness.
    pub(crate) fn aggregation(self) -> &'static str {
        match self {
            Self::Acc | Self::AccNorm | Self::ExactMatch => "mean",
            Self::Perplexity => "perplexity",
            Self::TokenPerplexity | Self::WordPerplexity | Self::BytePerplexity => {
                "weighted_perplexity"
            }
            Self::BitsPerByte => "bits_per_byte",
        }
    }

    /// Digits after the point in a table.
    pub(crate) fn digits(self) -> usize {
        if self.is_perplexity() { 3 } else { 4 }
    }

    /// The value that belongs to a rate (total of the items' values / total of their weights), and its
    /// derivative there.
    fn of_rate(self, rate: f64) -> (f64, f64) {
        match self {
            Self::Acc | Self::AccNorm | Self::ExactMatch => (rate, 1.0),
            Self::BitsPerByte => (rate / std::f64::consts::LN_2, std::f64::consts::LOG2_E),
            _ => (rate.exp(), rate.exp()),
        }
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::ExactMatch => "exact_match",
            Self::Perplexity => "perplexity",
            Self::TokenPerplexity => "token_perplexity",
            Self::WordPerplexity => "word_perplexity",
            Self::BytePerplexity => "byte_perplexity",
            Self::BitsPerByte => "bits_per_byte",
        })
    }
}

impl FromStr for MetricName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|name| name.to_string() == text)
            .ok_or_else(|| {
                let known = Self::ALL.map(|name| name.to_string());
                Error::UnknownMetric {
                    hint: crate::nearest::hint(text, known.iter().map(String::as_str)),
                    name: text.to_owned(),
                }
            })
    }
}

/// A measured value.
///
/// ```
/// use pdtrim_eval::{Metric, MetricName};
///
/// let metric = Metric { name: MetricName::Acc, value: 0.64, stderr: Some(0.034) };
/// let json = r#"{"name":"acc","value":0.64,"stderr":0.034}"#;
/// assert_eq!(serde_json::to_string(&metric)?, json);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What was measured.
    pub name: MetricName,
    /// The value.
    pub value: f64,
    /// Its standard error; none for a single item.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stderr: Option<f64>,
}

/// A difference of two values measured on the same items.
///
/// ```
/// use pdtrim_eval::Difference;
///
/// let difference = Difference { value: -0.07, stderr: Some(0.05) };
/// // Beyond twice its standard error?
/// let is_clear = difference.stderr.is_some_and(|stderr| difference.value.abs() > 2.0 * stderr);
/// assert!(!is_clear);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The one minus the other.
    pub value: f64,
    /// The standard error of the difference, from the items' own differences; none for a single item.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stderr: Option<f64>,
}

/// What a metric is reduced from: a value and a weight per item, in the data's order.
///
/// A share of items has a 0 or 1 for each and the weight 1; a perplexity has the item's negative
/// log-likelihood, and how many tokens, words or bytes it is spread over. Both are a function of one rate,
/// Σ values / Σ weights, and their standard errors are the rate's, carried over by the function's
/// derivative (for a share that is the sample standard deviation / √n, as lm-evaluation-harness has it).
///
/// ```
/// use pdtrim_eval::{MetricName, Samples};
///
/// let right = |values: [f64; 4]| Samples {
///     metric: MetricName::Acc,
///     values: values.to_vec(),
///     weights: vec![1.0; 4],
/// };
/// let (dense, trimmed) = (right([1.0, 1.0, 0.0, 1.0]), right([1.0, 0.0, 0.0, 1.0]));
/// assert_eq!(dense.metric().map(|metric| metric.value), Some(0.75));
/// // Item by item: three did not change, one was lost.
/// assert_eq!(trimmed.difference(&dense).map(|difference| difference.value), Some(-0.25));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// What is measured.
    pub metric: MetricName,
    /// Each item's value.
    pub values: Vec<f64>,
    /// Each item's weight, above 0.
    pub weights: Vec<f64>,
}

impl Samples {
    /// The metric; none without items.
    pub fn metric(&self) -> Option<Metric> {
        let rate = self.rate()?;
        let (value, slope) = self.metric.of_rate(rate);
        let stderr = stderr_of_sum(&self.influences(rate, slope));
        Some(Metric {
            name: self.metric,
            value,
            stderr,
        })
    }

    /// This metric's value minus `other`'s, with the standard error of a paired comparison.
    ///
    /// None without items, and unless both are the same metric of equally many items.
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        if self.metric != other.metric || self.values.len() != other.values.len() {
            return None;
        }
        let (mine, theirs) = (self.rate()?, other.rate()?);
        let (value, slope) = self.metric.of_rate(mine);
        let (other_value, other_slope) = self.metric.of_rate(theirs);
        let influences: Vec<f64> = self
            .influences(mine, slope)
            .into_iter()
            .zip(other.influences(theirs, other_slope))
            .map(|(one, two)| one - two)
            .collect();
        Some(Difference {
            value: value - other_value,
            stderr: stderr_of_sum(&influences),
        })
    }

    /// All items of several samples of one metric, one after the other.
    pub(crate) fn concat(metric: MetricName, parts: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self {
            metric,
            values: Vec::new(),
            weights: Vec::new(),
        };
        for part in parts {
            all.values.extend(part.values);
            all.weights.extend(part.weights);
        }
        all
    }

    /// Σ values / Σ weights; none without items.
    pub fn rate(&self) -> Option<f64> {
        let weight: f64 = self.weights.iter().sum();
        (weight > 0.0).then(|| self.values.iter().sum::<f64>() / weight)
    }

    /// By how much each item moves the value, to first order; they sum to 0.
    fn influences(&self, rate: f64, slope: f64) -> Vec<f64> {
        let weight: f64 = self.weights.iter().sum();
        let items = self.values.iter().zip(&self.weights);
        items
            .map(|(value, own)| slope * (value - rate * own) / weight)
            .collect()
    }
}

/// The standard error of a sum of independent terms with the mean 0. None below two terms.
fn stderr_of_sum(terms: &[f64]) -> Option<f64> {
    let count = terms.len() as f64;
    let squares: f64 = terms.iter().map(|term| term * term).sum();
    (terms.len() > 1).then(|| (count / (count - 1.0) * squares).sqrt())
}

/// The standard error of a group's mean over the items of all its members, from each member's standard
/// error and size, as lm-evaluation-harness' `pooled_sample_stderr`. None where a member has none.
pub(crate) fn pooled_stderr(members: &[(Option<f64>, usize)]) -> Option<f64> {
    let items: usize = members.iter().map(|(_, size)| size).sum();
    let squares = members.iter().map(|&(stderr, size)| {
        let size = size as f64;
        Some((size - 1.0) * stderr?.powi(2) * size)
    });
    let squares: f64 = squares.sum::<Option<f64>>()?;
    let freedom = items.checked_sub(members.len()).filter(|&left| left > 0)?;
    Some((squares / freedom as f64 / items as f64).sqrt())
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

    fn hits(hits: &[u8]) -> Samples {
        Samples {
            metric: MetricName::Acc,
            values: hits.iter().copied().map(f64::from).collect(),
            weights: vec![1.0; hits.len()],
        }
    }

    fn perplexity(items: &[(f64, f64)]) -> Samples {
        Samples {
            metric: MetricName::TokenPerplexity,
            values: items.iter().map(|item| item.0).collect(),
            weights: items.iter().map(|item| item.1).collect(),
        }
    }

    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
    }

    #[test]
    fn accuracy_of_three_in_four_has_a_quarter_as_standard_error() {
        // mean 3/4; squares 3·(1/4)² + (3/4)² = 12/16; / 3 = 1/4; √ = 1/2; / √4 = 1/4
        let acc = hits(&[1, 1, 0, 1]).metric().unwrap();
        assert_eq!((acc.value, acc.stderr), (0.75, Some(0.25)));
    }

    #[test]
    fn a_single_item_has_no_standard_error() {
        let acc = hits(&[1]).metric().unwrap();
        assert_eq!((acc.value, acc.stderr), (1.0, None));
    }

    #[test]
    fn no_items_give_no_metric() {
        assert_eq!(hits(&[]).metric(), None);
        assert_eq!(hits(&[]).difference(&hits(&[])), None);
    }

    #[test]
    fn perplexity_is_the_exponential_of_the_mean_over_tokens() {
        // Two windows of 1 and 3 tokens with log-likelihoods -ln 2 and -3 ln 4: exp((ln 2 + 3 ln 4) / 4)
        // = (2 · 4³)^(1/4) = 128^(1/4) = 3.3636; the mean of the windows' perplexities would be 3.
        let (ln2, ln4) = (2.0_f64.ln(), 4.0_f64.ln());
        let metric = perplexity(&[(ln2, 1.0), (3.0 * ln4, 3.0)])
            .metric()
            .unwrap();
        assert_close(metric.value, 128.0_f64.powf(0.25));
        // The rate is 7/4 ln 2; the residuals are ∓3/4 ln 2; √(2/1 · 2 · (3/4 ln 2)²) / 4 = 3/8 ln 2.
        assert_close(
            metric.stderr.unwrap(),
            128.0_f64.powf(0.25) * 3.0 / 8.0 * ln2,
        );
    }

    #[test]
    fn bits_are_nats_over_ln_2() {
        let mut samples = perplexity(&[(2.0_f64.ln(), 1.0), (3.0 * 4.0_f64.ln(), 3.0)]);
        samples.metric = MetricName::BitsPerByte;
        assert_close(samples.metric().unwrap().value, 7.0 / 4.0);
    }

    #[test]
    fn a_paired_difference_knows_only_the_items_that_differ() {
        // Differences 0, 0, 1, 0: mean 1/4, squares 3·(1/4)² + (3/4)² = 3/4, / 3 = 1/4, √ / 2 = 1/4.
        let found = hits(&[1, 1, 1, 0])
            .difference(&hits(&[1, 1, 0, 0]))
            .unwrap();
        assert_eq!((found.value, found.stderr), (0.25, Some(0.25)));
        let none = hits(&[1, 0]).difference(&hits(&[1, 0])).unwrap();
        assert_eq!((none.value, none.stderr), (0.0, Some(0.0)));
        assert_eq!(hits(&[1, 0]).difference(&hits(&[1])), None);
    }

    #[test]
    fn the_first_of_equal_scores_wins() {
        assert_eq!(best([-2.0, -1.0, -1.0]), 1);
        assert_eq!(best([f64::NEG_INFINITY, f64::NEG_INFINITY]), 0);
    }

    #[test]
    fn every_metric_parses_from_what_it_prints() {
        for name in MetricName::ALL {
            assert_eq!(name.to_string().parse::<MetricName>().unwrap(), name);
            assert_eq!(serde_json::to_value(name).unwrap(), name.to_string());
        }
    }

    #[test]
    fn an_unknown_metric_is_answered_with_the_nearest() {
        let error = "acc_nrom"
            .parse::<MetricName>()
            .err()
            .map(|error| error.to_string());
        assert_eq!(
            error.as_deref(),
            Some("unknown metric `acc_nrom`; did you mean `acc_norm`?")
        );
    }

    #[test]
    fn a_groups_standard_error_is_pooled_over_its_members() {
        // √((1 · 0.25 · 2 + 3 · 0.0625 · 4) / (6 - 2) / 6) = √(1.25 / 24)
        let found = pooled_stderr(&[(Some(0.5), 2), (Some(0.25), 4)]).unwrap();
        assert_close(found, (1.25_f64 / 24.0).sqrt());
        assert_eq!(pooled_stderr(&[(None, 1), (Some(0.25), 4)]), None);
    }
}
