//! Paired tests: did the model get worse on the same items?

use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, StudentsT};

use crate::metric::Samples;

/// The probability, if the model in truth did not get worse than `baseline`, of results that speak at
/// least as strongly for it; 1 where nothing does, and for fewer than two items.
///
/// Both must be the same metric of the same items, with equal weights and finite values.
pub(super) fn p_worse(baseline: &Samples, current: &Samples) -> f64 {
    if baseline.values.len() < 2 || baseline.values == current.values {
        return 1.0;
    }
    let share = baseline.metric.higher_is_better();
    if share && is_zero_or_one(baseline) && is_zero_or_one(current) {
        return mc_nemar(&baseline.values, &current.values);
    }
    let sign = if share { -1.0 } else { 1.0 };
    let pairs = baseline.values.iter().zip(&current.values);
    let losses: Vec<f64> = pairs.map(|(old, new)| sign * (new - old)).collect();
    students_t(&losses, &baseline.weights)
}

fn is_zero_or_one(samples: &Samples) -> bool {
    samples
        .values
        .iter()
        .all(|value| matches!(value, 0.0 | 1.0))
}

/// The probability of at least as many lost items among those that changed, each of which is lost or won
/// with equal probability.
fn mc_nemar(baseline: &[f64], current: &[f64]) -> f64 {
    let lost = baseline.iter().zip(current).filter(|(old, new)| old > new);
    let won = baseline.iter().zip(current).filter(|(old, new)| old < new);
    let (lost, won) = (lost.count() as u64, won.count() as u64);
    if lost == 0 {
        return 1.0;
    }
    let lost_of_changed =
        Binomial::new(0.5, lost + won).expect("one half is a probability of success");
    lost_of_changed.sf(lost - 1)
}

/// The probability of at least as large a rate Σ losses / Σ weights, if the true one is 0.
fn students_t(losses: &[f64], weights: &[f64]) -> f64 {
    let count = losses.len() as f64;
    let weight: f64 = weights.iter().sum();
    let rate = losses.iter().sum::<f64>() / weight;
    let residuals = losses
        .iter()
        .zip(weights)
        .map(|(loss, own)| loss - rate * own);
    let squares: f64 = residuals.map(|residual| residual * residual).sum();
    let stderr = (count / (count - 1.0) * squares).sqrt() / weight;
    if stderr == 0.0 {
        // Every item got worse, or better, by the same rate: there is no noise in that.
        return if rate > 0.0 { 0.0 } else { 1.0 };
    }
    let student =
        StudentsT::new(0.0, 1.0, count - 1.0).expect("two items or more leave a degree of freedom");
    student.sf(rate / stderr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::MetricName;

    fn samples(metric: MetricName, values: &[f64], weights: &[f64]) -> Samples {
        Samples {
            metric,
            values: values.to_vec(),
            weights: weights.to_vec(),
        }
    }

    fn hits(digits: &str) -> Samples {
        let values: Vec<f64> = digits
            .chars()
            .map(|digit| f64::from(u8::from(digit == '1')))
            .collect();
        samples(MetricName::Acc, &values, &vec![1.0; values.len()])
    }

    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
    }

    #[test]
    fn eight_lost_and_one_won_have_ten_chances_in_512() {
        // Of 2⁹ = 512 ways in which nine items can go, 9 lose eight and 1 loses all nine.
        let (old, new) = (hits("111111110110"), hits("000000001110"));
        assert_close(p_worse(&old, &new), 10.0 / 512.0);
        // The other way round: at least one lost of nine.
        assert_close(p_worse(&new, &old), 511.0 / 512.0);
    }

    #[test]
    fn nothing_lost_is_certainly_no_loss() {
        assert_close(p_worse(&hits("0011"), &hits("1111")), 1.0);
        assert_close(p_worse(&hits("0011"), &hits("0011")), 1.0);
    }

    #[test]
    fn one_item_is_not_tested() {
        assert_close(p_worse(&hits("1"), &hits("0")), 1.0);
    }

    #[test]
    fn three_equal_weights_give_the_plain_t_test() {
        // Losses 1, 2, 3: mean 2, standard deviation 1, t = 2 √3. With two degrees of freedom
        // P(T > t) = 1/2 - t / (2 √(2 + t²)) = 1/2 - √3 / √14 = 0.037090...
        let old = samples(MetricName::Perplexity, &[1.0, 1.0, 1.0], &[1.0; 3]);
        let new = samples(MetricName::Perplexity, &[2.0, 3.0, 4.0], &[1.0; 3]);
        assert_close(p_worse(&old, &new), 0.5 - (3.0_f64 / 14.0).sqrt());
        assert_close(p_worse(&new, &old), 0.5 + (3.0_f64 / 14.0).sqrt());
    }

    #[test]
    fn weights_make_it_the_test_of_a_ratio() {
        // Losses 1 and 1 over weights 1 and 3: rate 1/2; residuals 1 - 1/2 and 1 - 3/2; standard error
        // √(2 (1/4 + 1/4)) / 4 = 1/4; t = 2. With one degree of freedom P(T > 2) = 1/2 - atan(2) / π.
        let old = samples(MetricName::TokenPerplexity, &[1.0, 5.0], &[1.0, 3.0]);
        let new = samples(MetricName::TokenPerplexity, &[2.0, 6.0], &[1.0, 3.0]);
        let expected = 0.5 - 2.0_f64.atan() / std::f64::consts::PI;
        assert_close(p_worse(&old, &new), expected);
    }

    #[test]
    fn the_same_rate_lost_on_every_item_is_certain() {
        let old = samples(MetricName::TokenPerplexity, &[1.0, 2.0], &[1.0, 2.0]);
        let new = samples(MetricName::TokenPerplexity, &[2.0, 4.0], &[1.0, 2.0]);
        assert_close(p_worse(&old, &new), 0.0);
        assert_close(p_worse(&new, &old), 1.0);
    }

    #[test]
    fn a_share_in_parts_falls_to_the_t_test() {
        // Losses 1/2, 1/4, 0: mean 1/4, standard deviation 1/4, t = √3; 1/2 - √3 / (2 √5).
        let old = samples(MetricName::ExactMatch, &[1.0, 0.5, 0.0], &[1.0; 3]);
        let new = samples(MetricName::ExactMatch, &[0.5, 0.25, 0.0], &[1.0; 3]);
        assert_close(p_worse(&old, &new), 0.5 - (3.0_f64 / 20.0).sqrt());
    }
}
