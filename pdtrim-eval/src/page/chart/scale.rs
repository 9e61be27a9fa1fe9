//! From values to pixels: tick positions a reader would have picked, and the mapping between them.

use super::axis::{Axis, AxisScale};

/// Tick positions `step` apart that enclose a range, with the digits needed to tell them apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ticks {
    /// Strictly rising; the first is at most the range's low end, the last at least its high end.
    pub(super) values: Vec<f64>,
    /// Digits after the point that show every tick exactly.
    pub(super) decimals: usize,
}

/// Ticks 1, 2, 2.5 or 5 times a power of ten apart that enclose `lo..=hi`, about `target` of them.
///
/// An empty or non-finite range is widened to one that can be drawn.
pub(super) fn nice_ticks(lo: f64, hi: f64, target: usize) -> Ticks {
    let (lo, hi) = drawable(lo, hi);
    let raw = (hi - lo) / target.max(1) as f64;
    let mut exponent = raw.log10().floor() as i32;
    let fraction = raw / 10f64.powi(exponent);
    // A hair above each bound: 0.2000001 from rounding must not jump to the next step.
    let (mantissa, extra_digit) = match fraction {
        f if f <= 1.000_001 => (1.0, 0),
        f if f <= 2.000_001 => (2.0, 0),
        f if f <= 2.500_001 => (2.5, 1),
        f if f <= 5.000_001 => (5.0, 0),
        _ => {
            exponent += 1;
            (1.0, 0)
        }
    };
    let decimals = (extra_digit - exponent).clamp(0, 12) as usize;
    let step = mantissa * 10f64.powi(exponent);
    let first = (lo / step + 1e-9).floor();
    let last = (hi / step - 1e-9).ceil().max(first + 1.0);
    // Multiplied, not summed, so that 0.3 is not 0.30000000000000004.
    let values = (0..=(last - first) as usize)
        .map(|i| (first + i as f64) * step)
        .collect();
    Ticks { values, decimals }
}

/// Ticks for a logarithmic axis: powers of ten, with 2 and 5 between them where the range is short.
pub(super) fn log_ticks(lo: f64, hi: f64) -> Vec<f64> {
    let (lo, hi) = (lo.clamp(1e-300, 1e300), hi.clamp(1e-300, 1e300));
    let (lo, hi) = if hi > lo {
        (lo, hi)
    } else {
        (lo / 2.0, lo * 2.0)
    };
    let decades = hi.log10() - lo.log10();
    let mantissas: &[f64] = if decades <= 3.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let stride = (decades / 8.0).ceil().max(1.0) as i32;
    let from = lo.log10().floor() as i32;
    // One stride further, so that the last tick is not short of `hi`.
    let to = hi.log10().ceil() as i32 + stride - 1;
    let all: Vec<f64> = (from..=to)
        .step_by(stride as usize)
        .flat_map(|exponent| mantissas.iter().map(move |m| m * 10f64.powi(exponent)))
        .collect();
    // Keep the last tick at or below `lo` and the first at or above `hi`, and what lies between.
    let start = all
        .iter()
        .rposition(|&tick| tick <= lo * 1.000_001)
        .unwrap_or(0);
    let end = all
        .iter()
        .position(|&tick| tick >= hi * 0.999_999)
        .unwrap_or(all.len() - 1);
    all[start..=end.max(start)].to_vec()
}

/// A finite range with room in it.
fn drawable(lo: f64, hi: f64) -> (f64, f64) {
    if !lo.is_finite() || !hi.is_finite() {
        return (0.0, 1.0);
    }
    let (lo, hi) = (
        lo.min(hi).clamp(-1e300, 1e300),
        lo.max(hi).clamp(-1e300, 1e300),
    );
    let magnitude = lo.abs().max(hi.abs());
    if magnitude < 1e-300 {
        return (0.0, 1.0);
    }
    // A range narrower than rounding noise is one value.
    if hi - lo > magnitude * 1e-9 {
        return (lo, hi);
    }
    (lo - 0.1 * magnitude, hi + 0.1 * magnitude)
}

/// A labelled position on an axis, in pixels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub(super) at: f64,
    pub(super) label: String,
}

/// The mapping of one axis from values to pixels.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    kind: AxisScale,
    lo: f64,
    hi: f64,
    /// Values are shown divided by this (a percent axis multiplies by 100, a KiB axis divides by 1024).
    divisor: f64,
    ticks: Vec<f64>,
    decimals: usize,
    suffix: &'static str,
    /// Pixels of `lo` and `hi`.
    pixels: (f64, f64),
}

impl Scale {
    /// A scale for `axis` that shows `lo..=hi` (already cut to the axis limit) with about `target` ticks.
    pub(super) fn new(axis: &Axis, lo: f64, hi: f64, target: usize) -> Self {
        let shown = axis.unit.shown(lo.abs().max(hi.abs()));
        let (ticks, decimals) = match axis.scale {
            AxisScale::Linear => {
                let ticks = nice_ticks(lo / shown.divisor, hi / shown.divisor, target);
                (ticks.values, ticks.decimals)
            }
            AxisScale::Log => {
                let ticks = log_ticks(lo / shown.divisor, hi / shown.divisor);
                let smallest = ticks.first().copied().unwrap_or(1.0);
                let decimals = (-smallest.log10().floor()).clamp(0.0, 6.0) as usize;
                (ticks, decimals)
            }
        };
        let lo = ticks.first().copied().unwrap_or(0.0);
        let hi = ticks.last().copied().unwrap_or(1.0);
        let (divisor, suffix) = (shown.divisor, shown.tick_suffix);
        Self {
            kind: axis.scale,
            lo,
            hi,
            divisor,
            ticks,
            decimals,
            suffix,
            pixels: (0.0, 1.0),
        }
    }

    /// The same scale from `lo` to `hi` alone, without the ticks beyond them.
    ///
    /// Ranges too narrow for two ticks, and ends that cannot be drawn, are left as they are.
    pub(super) fn tight(mut self, lo: f64, hi: f64) -> Self {
        if !(self.draws(lo) && self.draws(hi)) {
            return self;
        }
        let (lo, hi) = (lo / self.divisor, hi / self.divisor);
        let slack = (hi - lo) * 1e-9;
        let inside = |tick: &&f64| (lo - slack..=hi + slack).contains(*tick);
        if self.ticks.iter().filter(inside).count() > 1 {
            self.ticks = self.ticks.iter().filter(inside).copied().collect();
            (self.lo, self.hi) = (lo, hi);
        }
        self
    }

    /// The same scale over the pixels `from` (low end) to `to` (high end).
    pub(super) fn over(mut self, from: f64, to: f64) -> Self {
        self.pixels = (from, to);
        self
    }

    /// The pixel of `value`, clamped to the axis.
    pub(super) fn at(&self, value: f64) -> f64 {
        self.at_shown(value / self.divisor)
    }

    /// Whether `value` lies beyond the high end, where it can only be drawn cut off.
    pub(super) fn cuts(&self, value: f64) -> bool {
        value / self.divisor > self.hi * (1.0 + 1e-9 * self.hi.signum())
    }

    /// Whether `value` can be drawn on this axis at all.
    pub(super) fn draws(&self, value: f64) -> bool {
        value.is_finite() && (self.kind == AxisScale::Linear || value > 0.0)
    }

    /// Every tick with its pixel and its label.
    pub(super) fn ticks(&self) -> Vec<Tick> {
        let label = |value: f64| match self.kind {
            AxisScale::Linear => format!("{}{}", number(value, self.decimals), self.suffix),
            // Powers of ten need no common number of digits: 0.1, 1, 10.
            AxisScale::Log => format!("{}{}", trimmed(value, self.decimals), self.suffix),
        };
        self.ticks
            .iter()
            .map(|&value| Tick {
                at: self.at_shown(value),
                label: label(value),
            })
            .collect()
    }

    fn at_shown(&self, value: f64) -> f64 {
        let (lo, hi) = (self.lo, self.hi);
        let value = value.clamp(lo, hi);
        let share = match self.kind {
            // Halved first: the difference of two huge numbers must not overflow.
            AxisScale::Linear => (value / 2.0 - lo / 2.0) / (hi / 2.0 - lo / 2.0),
            // Logarithms first: the ratio of two extremes would overflow.
            AxisScale::Log => (value.ln() - lo.ln()) / (hi.ln() - lo.ln()),
        };
        let (from, to) = self.pixels;
        from + share.clamp(0.0, 1.0) * (to - from)
    }
}

/// `value` with `decimals` digits and a real minus sign; very large and very small ones in powers of ten.
pub(in crate::page) fn number(value: f64, decimals: usize) -> String {
    let text = if value.abs() >= 1e7 || (value != 0.0 && value.abs() < 1e-6) {
        format!("{value:.3e}")
    } else {
        format!("{value:.decimals$}")
    };
    // "-0.00" is zero.
    let is_zero = text.bytes().all(|byte| matches!(byte, b'-' | b'0' | b'.'));
    if is_zero {
        text.trim_start_matches('-').to_owned()
    } else {
        text.replace('-', "\u{2212}")
    }
}

/// As [`number`], without trailing zeros.
fn trimmed(value: f64, decimals: usize) -> String {
    let text = number(value, decimals);
    if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// The lowest and highest of the finite `values`; `None` when there is none.
pub(super) fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .into_iter()
        .filter(|value| value.is_finite())
        .fold(None, |range, value| {
            Some(range.map_or((value, value), |(lo, hi): (f64, f64)| {
                (lo.min(value), hi.max(value))
            }))
        })
}
