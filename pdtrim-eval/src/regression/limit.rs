//! How much a metric may get worse.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::error::{Error, Result};
use crate::metric::MetricName;

/// The most that a metric may get worse, as `[TASK:]METRIC=AMOUNT[%]`.
///
/// The metric `perplexity` stands for every kind of perplexity, any other name for itself. Of several
/// limits that apply to a metric, the most specific one holds: one with a task before one without, then
/// one with the exact metric before `perplexity`.
///
/// ```
/// use pdtrim_eval::MetricName;
/// use pdtrim_eval::regression::{Amount, MaxDrop};
///
/// let limit: MaxDrop = "hellaswag:perplexity=2%".parse()?;
/// assert!(limit.applies_to("hellaswag", MetricName::TokenPerplexity));
/// assert_eq!(limit.amount(), Amount::Percent(2.0));
/// # Ok::<(), pdtrim_eval::regression::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MaxDrop {
    task: Option<String>,
    metric: MetricName,
    amount: Amount,
}

/// An amount by which a metric may get worse; finite and not negative.
///
/// ```
/// use pdtrim_eval::regression::Amount;
///
/// // Of a baseline with a perplexity of 25.
/// assert_eq!(Amount::Percent(2.0).of(25.0), 0.5);
/// assert_eq!(Amount::Value(0.01).of(25.0), 0.01);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// In the metric's own unit.
    Value(f64),
    /// In percent of the baseline's value.
    Percent(f64),
}

impl Amount {
    /// The amount in the metric's unit, where the baseline has `baseline`.
    pub fn of(self, baseline: f64) -> f64 {
        match self {
            Self::Value(value) => value,
            Self::Percent(percent) => percent / 100.0 * baseline.abs(),
        }
    }
}

impl MaxDrop {
    /// The task that it is for; none for all of them.
    pub fn task(&self) -> Option<&str> {
        self.task.as_deref()
    }

    /// The metric that it is for, where `perplexity` stands for all of them.
    pub fn metric(&self) -> MetricName {
        self.metric
    }

    /// How much worse the metric may get.
    pub fn amount(&self) -> Amount {
        self.amount
    }

    /// Whether it is for this metric of this task.
    pub fn applies_to(&self, task: &str, metric: MetricName) -> bool {
        let all_perplexities = self.metric == MetricName::Perplexity && metric.is_perplexity();
        self.task().is_none_or(|own| own == task) && (self.metric == metric || all_perplexities)
    }

    /// Orders limits that apply to the same metric: the larger one holds.
    pub(super) fn specificity(&self) -> (bool, bool) {
        (self.task.is_some(), self.metric != MetricName::Perplexity)
    }

    /// Whether both are for the same metric of the same tasks.
    pub(super) fn repeats(&self, other: &Self) -> bool {
        self.task == other.task && self.metric == other.metric
    }
}

impl fmt::Display for MaxDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(task) = &self.task {
            write!(f, "{task}:")?;
        }
        write!(f, "{}={}", self.metric, self.amount)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{value}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for MaxDrop {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for MaxDrop {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let syntax = |expected, found: &str| Error::LimitSyntax {
            limit: text.to_owned(),
            expected,
            found: found.to_owned(),
        };
        let (selector, amount) = text
            .rsplit_once('=')
            .ok_or_else(|| syntax("[TASK:]METRIC=AMOUNT[%]", "no `=`"))?;
        let (task, metric) = match selector.rsplit_once(':') {
            Some(("", _)) => return Err(syntax("a task before `:`", "nothing")),
            Some((task, metric)) => (Some(task.to_owned()), metric),
            None => (None, selector),
        };
        if metric.is_empty() {
            return Err(syntax("a metric before `=`", "nothing"));
        }
        let metric = metric
            .parse()
            .map_err(|error: crate::Error| Error::LimitMetric {
                limit: text.to_owned(),
                reason: error.to_string(),
            })?;
        let amount = parse_amount(amount).ok_or_else(|| {
            let found = if amount.is_empty() { "nothing" } else { amount };
            syntax(
                "an amount of 0 or more after `=`, such as 0.01 or 2%",
                found,
            )
        })?;
        Ok(Self {
            task,
            metric,
            amount,
        })
    }
}

fn parse_amount(text: &str) -> Option<Amount> {
    let (number, percent) = text
        .strip_suffix('%')
        .map_or((text, false), |number| (number, true));
    let number: f64 = number.parse().ok()?;
    let valid = number.is_finite() && number >= 0.0;
    valid.then_some(if percent {
        Amount::Percent(number)
    } else {
        Amount::Value(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(text: &str) -> MaxDrop {
        text.parse().unwrap()
    }

    fn message(text: &str) -> String {
        text.parse::<MaxDrop>().unwrap_err().to_string()
    }

    #[test]
    fn a_limit_parses_with_and_without_task_and_percent() {
        let plain = limit("acc=0.01");
        assert_eq!((plain.task(), plain.metric()), (None, MetricName::Acc));
        assert_eq!(plain.amount(), Amount::Value(0.01));
        let full = limit("group:hellaswag:acc_norm=2%");
        assert_eq!(full.task(), Some("group:hellaswag"));
        assert_eq!(full.amount(), Amount::Percent(2.0));
        for text in ["acc=0.01", "perplexity=7%", "hellaswag:acc_norm=0.02"] {
            assert_eq!(limit(text).to_string(), text);
        }
    }

    #[test]
    fn a_percentage_is_of_the_baselines_value() {
        assert!((limit("perplexity=2%").amount().of(50.0) - 1.0).abs() < 1e-12);
        assert!((limit("perplexity=2").amount().of(50.0) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn perplexity_is_every_perplexity_and_nothing_else() {
        let all = limit("perplexity=1");
        for metric in MetricName::ALL {
            assert_eq!(all.applies_to("any", metric), metric.is_perplexity());
        }
        let one = limit("text:word_perplexity=1");
        assert!(one.applies_to("text", MetricName::WordPerplexity));
        assert!(!one.applies_to("text", MetricName::Perplexity));
        assert!(!one.applies_to("other", MetricName::WordPerplexity));
    }

    #[test]
    fn a_wrong_limit_is_refused_with_what_is_wrong() {
        let amount = "an amount of 0 or more after `=`, such as 0.01 or 2%";
        for (text, found) in [
            ("acc=", "nothing"),
            ("acc=-0.1", "-0.1"),
            ("acc=NaN", "NaN"),
            ("acc=inf", "inf"),
            ("acc=%", "%"),
            ("acc=1 %", "1 %"),
        ] {
            let expected = format!("limit `{text}`: expected {amount}, found {found}");
            assert_eq!(message(text), expected);
        }
        assert_eq!(
            message("acc"),
            "limit `acc`: expected [TASK:]METRIC=AMOUNT[%], found no `=`"
        );
        assert_eq!(
            message(":acc=1"),
            "limit `:acc=1`: expected a task before `:`, found nothing"
        );
        assert_eq!(
            message("toy:=1"),
            "limit `toy:=1`: expected a metric before `=`, found nothing"
        );
    }

    #[test]
    fn an_unknown_metric_is_answered_with_the_nearest() {
        assert_eq!(
            message("acc_nrom=0.1"),
            "limit `acc_nrom=0.1`: unknown metric `acc_nrom`; did you mean `acc_norm`?"
        );
    }
}
