//! How much dearer a candidate has to look before it is beyond doubt.

use pdtrim_core::objective::COST_RESOLUTION;
use statrs::distribution::{ContinuousCDF, StudentsT};
use statrs::function::gamma::digamma;

/// Fewer variances tell nothing about the others.
const VARIANCES: usize = 8;
/// Degrees of freedom beyond which Student's distribution is the normal one.
const MOST_FREEDOM: f64 = 1e4;

/// The test after a round: n of N units, and the probability of each test to be wrong.
pub(super) struct Margin {
    level: f64,
    seen: f64,
    /// Units are drawn without replacement from those that decide.
    correction: f64,
}

impl Margin {
    pub(super) fn new(level: f64, seen: usize, units: usize) -> Self {
        let (seen, units) = (seen as f64, units as f64);
        Self {
            level,
            seen,
            correction: ((1.0 - seen / units) / seen).sqrt(),
        }
    }

    /// Which of `costs` are higher than each of the `winners` cheapest of them beyond doubt;
    /// `[candidate][unit]`.
    pub(super) fn dearer(&self, costs: &[&[f64]], winners: usize) -> Vec<bool> {
        let mean = |costs: &[f64]| costs.iter().sum::<f64>() / self.seen;
        let mut cheapest = costs.to_vec();
        cheapest.sort_by(|a, b| mean(a).total_cmp(&mean(b)));
        cheapest.truncate(winners);
        let mut dearer = vec![true; costs.len()];
        for cheap in cheapest {
            let than_it = self.dearer_than(cheap, costs).into_iter();
            for (dearer, than_it) in dearer.iter_mut().zip(than_it) {
                *dearer &= than_it;
            }
        }
        dearer
    }

    fn dearer_than(&self, other: &[f64], costs: &[&[f64]]) -> Vec<bool> {
        let differences: Vec<Differences> = costs
            .iter()
            .map(|costs| Differences::new(costs, other))
            .collect();
        let freedom = self.seen - 1.0;
        let variances = differences.iter().map(|differences| differences.variance);
        let prior = Prior::fit(variances, freedom);
        let quantile = self.quantile(freedom + prior.freedom);
        differences
            .iter()
            .map(|differences| {
                let deviation = prior.moderate(differences.variance, freedom).sqrt();
                let margin = quantile * deviation * self.correction;
                differences.mean - margin > COST_RESOLUTION
            })
            .collect()
    }

    fn quantile(&self, freedom: f64) -> f64 {
        let freedom = freedom.min(MOST_FREEDOM);
        let student = StudentsT::new(0.0, 1.0, freedom).expect("rounds see more than one unit");
        -student.inverse_cdf(self.level)
    }
}

/// By how much one candidate is dearer than another.
struct Differences {
    mean: f64,
    variance: f64,
}

impl Differences {
    fn new(costs: &[f64], others: &[f64]) -> Self {
        let n = costs.len() as f64;
        let differences = costs.iter().zip(others).map(|(cost, other)| cost - other);
        let mean = differences.clone().sum::<f64>() / n;
        let squares: f64 = differences
            .map(|difference| (difference - mean).powi(2))
            .sum();
        Self {
            mean,
            variance: squares / (n - 1.0),
        }
    }
}

/// What the variances of a race's differences have in common: each is drawn from a scaled inverse
/// chi-squared distribution, the conjugate one (empirical Bayes; Smyth 2004, "Linear models and
/// empirical Bayes methods", section 6.2).
struct Prior {
    freedom: f64,
    variance: f64,
}

impl Prior {
    /// From the mean and the variance of the variances' logarithms; nothing is known from few.
    fn fit(variances: impl Iterator<Item = f64>, freedom: f64) -> Self {
        let half = freedom / 2.0;
        let logarithms: Vec<f64> = variances
            .filter(|&variance| variance > 0.0)
            .map(|variance| variance.ln() - digamma(half) + half.ln())
            .collect();
        if logarithms.len() < VARIANCES {
            return Self {
                freedom: 0.0,
                variance: 0.0,
            };
        }
        let n = logarithms.len() as f64;
        let mean = logarithms.iter().sum::<f64>() / n;
        let squares: f64 = logarithms.iter().map(|value| (value - mean).powi(2)).sum();
        // What is left of the scatter when that of the estimates themselves is taken off.
        let own = squares / (n - 1.0) - trigamma(half);
        let half = inverse_trigamma(own).min(MOST_FREEDOM / 2.0);
        Self {
            freedom: 2.0 * half,
            variance: (mean + digamma(half) - half.ln()).exp(),
        }
    }

    /// The mean of what is known of all variances and of this one.
    fn moderate(&self, variance: f64, freedom: f64) -> f64 {
        (self.freedom * self.variance + freedom * variance) / (self.freedom + freedom)
    }
}

/// The derivative of [`digamma`]: by recurrence to 10 and beyond, from there by the asymptotic series
/// (Abramowitz and Stegun 6.4.6 and 6.4.12).
fn trigamma(mut x: f64) -> f64 {
    let mut sum = 0.0;
    while x < 10.0 {
        sum += 1.0 / (x * x);
        x += 1.0;
    }
    let y = 1.0 / (x * x);
    let series = 1.0 / 6.0 - y * (1.0 / 30.0 - y * (1.0 / 42.0 - y / 30.0));
    sum + 1.0 / x + y / 2.0 + y / x * series
}

/// Infinite for what is not positive: no scatter but that of the estimates.
fn inverse_trigamma(value: f64) -> f64 {
    if value <= trigamma(MOST_FREEDOM) {
        return f64::INFINITY;
    }
    // It falls, from infinity to 0.
    let (mut low, mut high) = (0.0, MOST_FREEDOM);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if trigamma(middle) > value {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_candidates_are_told_apart_by_students_t_with_the_correction_for_a_finite_population() {
        // t(0.975, 4) = 2.776445, from a table; 5 of 10 units. Differences of standard deviation 1.58, so
        // that the margin is 2.776 × 1.58 × √(0.5 / 5) = 1.388.
        let margin = Margin::new(0.025, 5, 10);
        let noise = [-2.0, -1.0, 0.0, 1.0, 2.0];
        let shifted = |by: f64| noise.map(|noise| noise + by);
        let dearer = |costs: &[&[f64]]| margin.dearer(costs, 1);
        assert_eq!(dearer(&[&shifted(1.4), &[0.0; 5]]), [true, false]);
        assert_eq!(dearer(&[&shifted(1.37), &[0.0; 5]]), [false, false]);
        assert_eq!(dearer(&[&[0.0; 5], &shifted(1.4)]), [false, true]);
    }

    #[test]
    fn of_several_winners_each_has_to_be_cheaper() {
        let margin = Margin::new(0.05, 5, 10);
        let noise = [-0.2, -0.1, 0.0, 0.1, 0.2];
        let shifted = |by: f64| noise.map(|noise| noise + by);
        let level = |by: f64| [by; 5];
        let costs = [level(0.0), shifted(1.0), level(2.0), shifted(3.0)];
        let costs: Vec<&[f64]> = costs.iter().map(|costs| &costs[..]).collect();
        assert_eq!(margin.dearer(&costs, 1), [false, true, true, true]);
        assert_eq!(margin.dearer(&costs, 2), [false, false, true, true]);
        assert_eq!(margin.dearer(&costs, 4), [false; 4]);
        assert_eq!(margin.dearer(&costs, 9), [false; 4]);
        // Beyond doubt dearer than the cheapest, but not than the second.
        let (near, wide) = (level(2.0), noise.map(|noise| 10.0 * noise + 1.9));
        let costs: [&[f64]; 3] = [&level(0.0), &wide, &near];
        assert_eq!(margin.dearer(&costs, 2), [false, false, false]);
    }

    #[test]
    fn equal_costs_are_never_told_apart() {
        let margin = Margin::new(0.5, 4, 8);
        let dearer = |a: f64| margin.dearer(&[&[a; 4], &[1.0; 4]], 1);
        assert_eq!(dearer(1.0), [false, false]);
        // Less than the resolution of costs is a tie, too.
        assert_eq!(dearer(1.000_000_5), [false, false]);
        assert_eq!(dearer(1.000_01), [true, false]);
    }

    #[test]
    fn trigamma_and_its_inverse_are_those_of_the_tables() {
        // ψ'(1) = π² / 6, ψ'(1/2) = π² / 2, ψ'(3/2) = π² / 2 - 4.
        let squared = std::f64::consts::PI.powi(2);
        let table = [
            (1.0, squared / 6.0),
            (0.5, squared / 2.0),
            (1.5, squared / 2.0 - 4.0),
        ];
        for (x, expected) in table {
            assert!((trigamma(x) - expected).abs() < 1e-9, "{x}");
            assert!((inverse_trigamma(expected) - x).abs() < 1e-9, "{x}");
        }
        assert!(inverse_trigamma(0.0).is_infinite());
        assert!(inverse_trigamma(-0.1).is_infinite());
    }

    #[test]
    fn a_prior_is_found_again_from_variances_that_were_drawn_from_it() {
        // Quantiles of F(4, 10) x 3 are what variances of 4 degrees look like under 10 degrees of 3.
        let f = statrs::distribution::FisherSnedecor::new(4.0, 10.0).unwrap();
        let n = 4000;
        let variances = (0..n).map(|k| 3.0 * f.inverse_cdf((f64::from(k) + 0.5) / f64::from(n)));
        let prior = Prior::fit(variances, 4.0);
        assert!((prior.freedom - 10.0).abs() < 0.5, "{}", prior.freedom);
        assert!((prior.variance - 3.0).abs() < 0.05, "{}", prior.variance);
        // Equal ones leave no doubt about any.
        let same = Prior::fit([2.0; 9].into_iter(), 4.0);
        assert!(same.freedom >= MOST_FREEDOM);
    }

    #[test]
    fn few_variances_moderate_nothing() {
        let prior = Prior::fit([1.0; 7].into_iter(), 3.0);
        assert!((prior.moderate(5.0, 3.0) - 5.0).abs() < 1e-12);
        // Nor do those of candidates that differ by the same on every unit.
        let prior = Prior::fit([0.0; 20].into_iter(), 3.0);
        assert!(prior.moderate(0.0, 3.0).abs() < 1e-12);
    }
}
