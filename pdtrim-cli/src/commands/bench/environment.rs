//! What the times depend on, and what the machine could do at best.

use std::time::Instant;

use anyhow::Result;
use burn::tensor::DType;
use pdtrim_core::checkpoint::Checkpoint;
use pdtrim_core::device::{DeviceSpec, host_peak_flops};
use rayon::prelude::*;
use serde::Serialize;

use crate::args::{DtypeArg, MeasureArgs};
use crate::session::Session;

/// Model, machine and limits.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Environment {
    pub(super) pdtrim_version: &'static str,
    pub(super) model: String,
    pub(super) model_sha256: String,
    pub(super) parameters: usize,
    /// Bytes of the loaded weights.
    pub(super) weight_bytes: usize,
    pub(super) device: String,
    pub(super) dtype: String,
    /// Name of the CPU, where the system says.
    pub(super) cpu: Option<String>,
    pub(super) threads: usize,
    pub(super) peak: Peak,
}

impl Environment {
    /// After the runs; `before` was found before them.
    pub(super) fn of(session: &Session, args: &MeasureArgs, before: Peak) -> Result<Self> {
        let Session {
            name,
            checkpoint,
            device,
            dtype,
            ..
        } = session;
        let peak = before.or_better(*device, args);
        Self::new(name, checkpoint, *device, *dtype, peak)
    }

    pub(super) fn new(
        model: &str,
        checkpoint: &Checkpoint,
        device: DeviceSpec,
        dtype: DType,
        peak: Peak,
    ) -> Result<Self> {
        let parameters = checkpoint.config().parameters();
        Ok(Self {
            pdtrim_version: env!("CARGO_PKG_VERSION"),
            model: model.to_owned(),
            model_sha256: checkpoint.hash()?,
            parameters,
            weight_bytes: parameters * dtype.size(),
            device: device.to_string(),
            dtype: format!("{dtype:?}").to_lowercase(),
            cpu: cpu_name(),
            threads: rayon::current_num_threads(),
            peak,
        })
    }
}

/// The physical limits that achieved work is held against.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Peak {
    pub(super) flops_per_second: Option<f64>,
    pub(super) bytes_per_second: Option<f64>,
    /// Whether the run measured the limit itself.
    pub(super) flops_measured: bool,
    pub(super) bytes_measured: bool,
}

impl Peak {
    /// The limits that the user gave; those that were not given are measured on the CPU and unknown
    /// on an accelerator.
    pub(super) fn find(device: DeviceSpec, args: &MeasureArgs) -> Self {
        let on_host = device == DeviceSpec::Cpu;
        let measure =
            |given: Option<f64>, measure: &dyn Fn() -> f64| given.or_else(|| on_host.then(measure));
        let dtype = args.model.dtype.map_or(DType::F32, DtypeArg::dtype);
        Self {
            flops_per_second: measure(args.peak_flops, &|| host_peak_flops(dtype)),
            bytes_per_second: measure(args.peak_bandwidth, &read_bandwidth),
            flops_measured: on_host && args.peak_flops.is_none(),
            bytes_measured: on_host && args.peak_bandwidth.is_none(),
        }
    }

    /// The higher of these limits and of those found now: a busy machine reaches its limits now and then.
    pub(super) fn or_better(self, device: DeviceSpec, args: &MeasureArgs) -> Self {
        let now = Self::find(device, args);
        let higher = |before: Option<f64>, now: Option<f64>| before.zip(now).map(|(a, b)| a.max(b));
        Self {
            flops_per_second: higher(self.flops_per_second, now.flops_per_second),
            bytes_per_second: higher(self.bytes_per_second, now.bytes_per_second),
            ..now
        }
    }
}

/// Runs of which the best counts: the others were disturbed.
const TRIES: usize = 24;

/// Bytes/s of a sum over a buffer that no cache holds, by all threads.
fn read_bandwidth() -> f64 {
    const WORDS: usize = (256 << 20) / 8;
    let words = vec![1_u64; WORDS];
    let sum = || -> u64 {
        let part = |words: &[u64]| {
            words
                .iter()
                .fold(0_u64, |sum, word| sum.wrapping_add(*word))
        };
        std::hint::black_box(&words)
            .par_chunks(1 << 17)
            .map(part)
            .reduce(|| 0, u64::wrapping_add)
    };
    (WORDS * 8) as f64 / shortest(|| std::hint::black_box(sum()))
}

fn shortest<T>(body: impl Fn() -> T) -> f64 {
    let time = |_| {
        let start = Instant::now();
        drop(body());
        start.elapsed().as_secs_f64()
    };
    (0..TRIES).map(time).fold(f64::INFINITY, f64::min)
}

fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    let (_, name) = line.split_once(':')?;
    Some(name.trim().to_owned())
}
