//! What an axis shows: its label, its unit, its scale and where it ends.

/// How values are spread over an axis.
///
/// ```
/// use pdtrim_eval::page::{Axis, AxisScale};
///
/// assert_eq!(Axis::new("loss").scale, AxisScale::Linear);
/// assert_eq!(Axis::new("loss").with_log_scale().scale, AxisScale::Log);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AxisScale {
    /// Equal steps for equal differences.
    #[default]
    Linear,
    /// Equal steps for equal ratios; values at or below zero cannot be drawn and are left out.
    Log,
}

/// The unit of an axis' values.
///
/// ```
/// use pdtrim_eval::page::{Axis, Unit};
///
/// // Shown as 0 % to 100 %.
/// let axis = Axis::new("accuracy").with_unit(Unit::Percent);
/// assert_eq!(axis.unit, Unit::Percent);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    #[default]
    None,
    /// A number of something, such as `nats` or `ms`; shown behind the label.
    Named(String),
    /// A share from 0 to 1, shown as 0 % to 100 %.
    Percent,
    /// A number of bytes, shown with the binary prefix that fits the largest one.
    Bytes,
}

/// How a unit appears on one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shown<'a> {
    pub(super) divisor: f64,
    /// Behind each tick.
    pub(super) tick_suffix: &'static str,
    /// Behind the axis label, in parentheses.
    pub(super) name: Option<&'a str>,
}

impl Unit {
    /// How the unit appears on an axis whose largest value is `largest`.
    pub(super) fn shown(&self, largest: f64) -> Shown<'_> {
        let plain = Shown {
            divisor: 1.0,
            tick_suffix: "",
            name: None,
        };
        match self {
            Self::None => plain,
            Self::Named(name) => Shown {
                name: Some(name),
                ..plain
            },
            Self::Percent => Shown {
                divisor: 0.01,
                tick_suffix: "\u{202f}%",
                name: None,
            },
            Self::Bytes => {
                const PREFIXES: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
                let mut divisor = 1.0;
                let mut prefix = 0;
                while largest / divisor >= 1024.0 && prefix + 1 < PREFIXES.len() {
                    divisor *= 1024.0;
                    prefix += 1;
                }
                Shown {
                    divisor,
                    tick_suffix: "",
                    name: Some(PREFIXES[prefix]),
                }
            }
        }
    }
}

/// One axis of a chart.
///
/// ```
/// use pdtrim_eval::page::Axis;
///
/// // One block that ruins the model would press all others to the floor.
/// let rises = [0.01, 0.02, 0.02, 0.03, 0.04, 0.05, 9.0];
/// let axis = Axis::new("rise of loss").with_unit_name("nats").with_outliers_cut(rises);
/// assert!(axis.limit.is_some_and(|limit| limit < 1.0));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Axis {
    /// What the values are, in a few words.
    pub label: String,
    /// The unit of the values.
    pub unit: Unit,
    /// Linear or logarithmic.
    pub scale: AxisScale,
    /// The highest value the axis has room for; what lies beyond is cut off there, marked and labelled.
    ///
    /// `None` makes room for every value.
    pub limit: Option<f64>,
}

impl Axis {
    /// A linear axis of plain numbers.
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            ..Self::default()
        }
    }

    /// The same axis with values in `unit`.
    #[must_use]
    pub fn with_unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    /// The same axis with values in the unit called `name`.
    #[must_use]
    pub fn with_unit_name(self, name: impl Into<String>) -> Self {
        self.with_unit(Unit::Named(name.into()))
    }

    /// The same axis, logarithmic.
    #[must_use]
    pub fn with_log_scale(mut self) -> Self {
        self.scale = AxisScale::Log;
        self
    }

    /// The same axis, ending at `limit`; a limit that is not a number is none.
    #[must_use]
    pub fn with_limit(mut self, limit: Option<f64>) -> Self {
        self.limit = limit.filter(|limit| limit.is_finite());
        self
    }

    /// The same axis, ending at the bulk of `values` when a few of them lie far above all others.
    ///
    /// Far above means more than three quartile distances over the upper quartile and more than twice the highest
    /// value that is not. One block whose removal ruins the model would otherwise press all others to the floor.
    #[must_use]
    pub fn with_outliers_cut(self, values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        values.sort_by(f64::total_cmp);
        let Some(&highest) = values.last() else {
            return self;
        };
        let quartile = |quarter: usize| values[(values.len() - 1) * quarter / 4];
        let fence = quartile(3) + 3.0 * (quartile(3) - quartile(1));
        let bulk = values
            .iter()
            .rev()
            .find(|&&value| value <= fence)
            .copied()
            .unwrap_or(highest);
        let is_far = highest > fence && highest - values[0] > 2.0 * (bulk - values[0]);
        self.with_limit((is_far && bulk > values[0]).then_some(bulk))
    }

    /// The label with the unit, as shown when the largest value is `largest`.
    pub(super) fn title(&self, largest: f64) -> String {
        match self.unit.shown(largest).name {
            Some(name) => format!("{} ({name})", self.label),
            None => self.label.clone(),
        }
    }

    /// The label with the unit that table cells use: bytes stay bytes, shares are percent.
    pub(super) fn table_heading(&self) -> String {
        match &self.unit {
            Unit::None => self.label.clone(),
            Unit::Named(name) => format!("{} ({name})", self.label),
            Unit::Percent => format!("{} (%)", self.label),
            Unit::Bytes => format!("{} (bytes)", self.label),
        }
    }

    /// What a table cell shows of a value: percent for shares, the value itself otherwise.
    pub(super) fn in_table(&self, value: f64) -> f64 {
        if self.unit == Unit::Percent {
            value * 100.0
        } else {
            value
        }
    }

    /// The value, no higher than the limit.
    pub(super) fn cut(&self, value: f64) -> f64 {
        self.limit.map_or(value, |limit| value.min(limit))
    }
}
