//! What a measurement found: one struct behind the object and the table.

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use pdtrim_core::pipeline::PdModel;
use pdtrim_core::{PerStage, write_atomically};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::environment::{Environment, Peak};
use super::measure::median;
use super::work::Work;
use crate::args::MeasureArgs;
use crate::output;

/// Everything that one `pdtrim bench` measured.
#[derive(Debug, Serialize)]
pub(super) struct BenchReport {
    pub(super) bench: &'static str,
    pub(super) environment: Environment,
    pub(super) settings: Value,
    pub(super) measurements: Vec<Measurement>,
    /// Trimmed over dense where both were measured: the median over the rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ratio: Option<f64>,
    /// What is there besides times.
    #[serde(flatten)]
    pub(super) facts: Map<String, Value>,
    /// Lines under the table.
    #[serde(skip)]
    pub(super) remarks: Vec<String>,
}

/// The times of one thing.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measurement {
    pub(super) name: String,
    /// Blocks that each stage runs without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) removed: Option<PerStage<Vec<usize>>>,
    /// Seconds, in the order of measuring.
    pub(super) samples: Vec<f64>,
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) mean: f64,
    /// Of the samples; `None` for one.
    pub(super) standard_deviation: Option<f64>,
    /// Tokens that one sample reads or makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tokens_per_second: Option<f64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) achieved: Option<Achieved>,
    #[serde(flatten)]
    pub(super) facts: Map<String, Value>,
}

/// The work of a sample, and how fast the median sample did it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Achieved {
    pub(super) work: Work,
    pub(super) flops_per_second: f64,
    pub(super) bytes_per_second: f64,
    pub(super) share_of_peak_flops: Option<f64>,
    pub(super) share_of_peak_bandwidth: Option<f64>,
}

impl Measurement {
    pub(super) fn new(name: impl Into<String>, samples: Vec<f64>) -> Self {
        let count = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / count;
        let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
        Self {
            name: name.into(),
            removed: None,
            median: median(&samples),
            min: samples.iter().copied().fold(f64::INFINITY, f64::min),
            mean,
            standard_deviation: (samples.len() > 1).then(|| (squares / (count - 1.0)).sqrt()),
            samples,
            tokens: None,
            tokens_per_second: None,
            achieved: None,
            facts: Map::new(),
        }
    }

    /// The same, of this model's stages.
    pub(super) fn of(mut self, pd: &PdModel<'_>) -> Self {
        let removed = pd.removed();
        self.removed = Some(PerStage {
            prefill: removed.prefill.to_indices(),
            decode: removed.decode.to_indices(),
        });
        self
    }

    /// The same, with the tokens of a sample.
    pub(super) fn with_tokens(mut self, tokens: usize) -> Self {
        self.tokens = Some(tokens);
        self.tokens_per_second = Some(tokens as f64 / self.median);
        self
    }

    /// The same, with the work of a sample.
    pub(super) fn with_work(mut self, work: Work, peak: &Peak) -> Self {
        let flops_per_second = work.flops / self.median;
        let bytes_per_second = work.bytes() / self.median;
        self.achieved = Some(Achieved {
            work,
            flops_per_second,
            bytes_per_second,
            share_of_peak_flops: peak.flops_per_second.map(|peak| flops_per_second / peak),
            share_of_peak_bandwidth: peak.bytes_per_second.map(|peak| bytes_per_second / peak),
        });
        self
    }

    /// The same, with a further fact.
    pub(super) fn with_fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}

impl BenchReport {
    pub(super) fn new(
        bench: &'static str,
        environment: Environment,
        settings: Value,
        measurements: Vec<Measurement>,
    ) -> Self {
        let named = |name: &str| measurements.iter().find(|found| found.name == name);
        let ratio = named("dense")
            .zip(named("trimmed"))
            .map(|(dense, trimmed)| median(&ratios(trimmed, dense)));
        Self {
            bench,
            environment,
            settings,
            measurements,
            ratio,
            facts: Map::new(),
            remarks: Vec::new(),
        }
    }

    /// Prints the report, and writes it where the arguments say.
    pub(super) fn finish(&self, args: &MeasureArgs) -> Result<()> {
        let object = self.to_json()?;
        if let Some(path) = &args.output {
            let text = serde_json::to_string_pretty(&object)?;
            write_atomically(path, format!("{text}\n").as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if args.json {
            output::json(&object)
        } else {
            output::result(&self.table())
        }
    }

    /// What to say of a limit that was passed.
    pub(super) fn doubt(&self) -> Option<&'static str> {
        let passed = |found: &Measurement| {
            let achieved = found.achieved;
            let shares = achieved.map(|a| [a.share_of_peak_flops, a.share_of_peak_bandwidth]);
            shares.is_some_and(|shares| shares.into_iter().flatten().any(|share| share > 1.0))
        };
        self.measurements.iter().any(passed).then_some(
            "More than 100 % of a peak: the machine was busier while its limits were measured than \
             during the runs, or the weights fit its caches. Measure again when it is quiet.",
        )
    }

    pub(super) fn to_json(&self) -> Result<Value> {
        Ok(serde_json::to_value(self)?)
    }

    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header([
            self.bench, "median", "min", "±", "tokens/s", "GFLOP/s", "of peak", "GB/s", "of peak",
        ]);
        for found in &self.measurements {
            table.add_row(row(found));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut lines = vec![table.trim_fmt()];
        if let Some(ratio) = self.ratio {
            lines.push(format!("trimmed takes {ratio:.3} of dense's time"));
        }
        lines.extend(self.remarks.iter().cloned());
        lines.push(self.environment.to_string());
        lines.extend(self.doubt().map(str::to_owned));
        lines.join("\n")
    }
}

/// One time over the other, for each round.
pub(super) fn ratios(of: &Measurement, to: &Measurement) -> Vec<f64> {
    let rounds = of.samples.iter().zip(&to.samples);
    rounds.map(|(of, to)| of / to).collect()
}

fn row(found: &Measurement) -> [String; 9] {
    let achieved = found.achieved;
    let computed = achieved.filter(|achieved| achieved.work.flops > 0.0);
    let giga = |value: Option<f64>| value.map(|value| format!("{:.1}", value / 1e9));
    let share = |value: Option<f64>| value.map(|value| format!("{:.0} %", value * 100.0));
    let dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
    [
        found.name.clone(),
        seconds(found.median),
        seconds(found.min),
        dash(found.standard_deviation.map(seconds)),
        dash(found.tokens_per_second.map(|value| format!("{value:.1}"))),
        dash(giga(computed.map(|achieved| achieved.flops_per_second))),
        dash(share(
            computed.and_then(|achieved| achieved.share_of_peak_flops),
        )),
        dash(giga(achieved.map(|achieved| achieved.bytes_per_second))),
        dash(share(
            achieved.and_then(|achieved| achieved.share_of_peak_bandwidth),
        )),
    ]
}

impl std::fmt::Display for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cpu = self.cpu.as_deref().unwrap_or("an unnamed CPU");
        write!(
            f,
            "{}, {} on {}; {cpu}, {} threads",
            self.model, self.dtype, self.device, self.threads
        )?;
        let Peak {
            flops_per_second,
            bytes_per_second,
            ..
        } = self.peak;
        if let Some(flops) = flops_per_second {
            write!(f, "; peak {:.0} GFLOP/s", flops / 1e9)?;
            f.write_str(source(self.peak.flops_measured))?;
        }
        if let Some(bytes) = bytes_per_second {
            write!(f, "; peak {:.1} GB/s", bytes / 1e9)?;
            f.write_str(source(self.peak.bytes_measured))?;
        }
        Ok(())
    }
}

fn source(measured: bool) -> &'static str {
    if measured { " (measured)" } else { " (given)" }
}

/// A time with the unit that fits it.
pub(super) fn seconds(value: f64) -> String {
    if value < 1e-3 {
        format!("{:.1} µs", value * 1e6)
    } else if value < 1.0 {
        format!("{:.2} ms", value * 1e3)
    } else {
        format!("{value:.3} s")
    }
}

/// `settings` of a report: what was measured, then how often.
pub(super) fn settings(what: Value, rounds: super::measure::Rounds) -> Value {
    let mut what = what;
    what["warmup"] = json!(rounds.warmup);
    what["repeats"] = json!(rounds.repeats);
    what
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_states_its_samples_their_middle_and_what_they_achieved() {
        let work = Work {
            flops: 4e9,
            weight_bytes: 1e9,
            kv_bytes: 1e9,
        };
        let peak = Peak {
            flops_per_second: Some(8e9),
            ..Peak::default()
        };
        let found = Measurement::new("dense", vec![1.0, 3.0, 2.0])
            .with_tokens(10)
            .with_work(work, &peak);
        let object = serde_json::to_value(&found).unwrap();
        assert_eq!(object["samples"], json!([1.0, 3.0, 2.0]));
        assert_eq!(object["median"], 2.0);
        assert_eq!(object["standard_deviation"], 1.0);
        assert_eq!(object["tokens_per_second"], 5.0);
        assert_eq!(object["flops_per_second"], 2e9);
        assert_eq!(object["bytes_per_second"], 1e9);
        assert_eq!(object["share_of_peak_flops"], 0.25);
        assert_eq!(object["share_of_peak_bandwidth"], Value::Null);
    }

    #[test]
    fn times_are_shown_in_the_unit_that_fits() {
        assert_eq!(seconds(0.000_012_3), "12.3 µs");
        assert_eq!(seconds(0.5), "500.00 ms");
        assert_eq!(seconds(61.0), "61.000 s");
    }
}
