//! From a checkpoint on disk to the first token, beside merely reading its weights. After the warm-up
//! the files are in the system's cache.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use burn::tensor::{DType, Device};
use pdtrim_core::Boundary;
use pdtrim_core::checkpoint::Checkpoint;
use pdtrim_core::device::DeviceSpec;
use pdtrim_core::pipeline::PdModel;
use serde_json::json;

use super::environment::{Environment, Peak};
use super::measure::{Point, Rounds, timed};
use super::report::{BenchReport, Measurement, settings};
use super::work::Work;
use crate::args::{DEFAULT_MODEL, DtypeArg, LoadBenchArgs};
use crate::progress::Progress;
use crate::session;

/// The parts of a load, in order.
const PARTS: [&str; 3] = ["open", "weights and tokenizer", "first token"];

pub(super) fn run(args: &LoadBenchArgs, progress: Progress) -> Result<()> {
    let model = &args.measure.model;
    let name = model.model.as_deref().unwrap_or(DEFAULT_MODEL);
    let spec: DeviceSpec = model.device.as_deref().unwrap_or("cpu").parse()?;
    let device = spec.open()?;
    let dtype = model
        .dtype
        .map_or_else(|| spec.default_dtype(), DtypeArg::dtype);
    let path = session::fetch(name, model.offline, progress)?;
    let files = weight_files(&path)?;
    let before = Peak::find(spec, &args.measure);
    let rounds = Rounds::new(&args.measure, 1, 5);
    let loaded: Point<'_, Vec<f64>> = Box::new(|| load(&path, &args.prompt, dtype, &device));
    let read: Point<'_, Vec<f64>> = Box::new(|| {
        let (seconds, _) = timed(&Device::flex(), || read_all(&files))?;
        Ok(vec![seconds])
    });
    let mut runs = rounds
        .run("load", progress, &mut [loaded, read])?
        .into_iter();
    let (loaded, read) = (
        runs.next().unwrap_or_default(),
        runs.next().unwrap_or_default(),
    );
    let checkpoint = Checkpoint::open(&path)?;
    let peak = before.or_better(spec, &args.measure);
    let environment = Environment::new(name, &checkpoint, spec, dtype, peak)?;
    let file_bytes = read_all(&files)?;
    let work = Work {
        weight_bytes: file_bytes as f64,
        ..Work::default()
    };
    let totals = |runs: &[Vec<f64>]| runs.iter().map(|parts| parts.iter().sum()).collect();
    let found = vec![
        Measurement::new("load", totals(&loaded))
            .with_work(work, &environment.peak)
            .with_fact("part_names", json!(PARTS))
            .with_fact("parts", json!(loaded)),
        Measurement::new("read", totals(&read)).with_work(work, &environment.peak),
    ];
    let what = json!({"prompt": args.prompt, "file_bytes": file_bytes});
    BenchReport::new("load", environment, settings(what, rounds), found).finish(&args.measure)
}

/// Seconds of each part.
fn load(path: &Path, prompt: &str, dtype: DType, device: &Device) -> Result<Vec<f64>> {
    let (open, checkpoint) = timed(device, || Ok(Checkpoint::open(path)?))?;
    let (loading, (model, tokenizer)) =
        timed(
            device,
            || Ok(checkpoint.load_with_tokenizer(dtype, device)?),
        )?;
    let start = Instant::now();
    let prompt = tokenizer.encode_prompt(prompt)?;
    PdModel::dense(&model, Boundary::Prefill).generate_greedy(&prompt, 1, &[], |_| {})?;
    let first_token = start.elapsed().as_secs_f64();
    Ok(vec![open, loading, first_token])
}

/// The files that hold a checkpoint's weights.
fn weight_files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let cannot = || format!("cannot read {}", path.display());
    let mut files = Vec::new();
    for entry in path.read_dir().with_context(cannot)? {
        let file = entry.with_context(cannot)?.path();
        if file.extension().is_some_and(|end| end == "safetensors") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads the files to their ends; returns their bytes.
fn read_all(files: &[PathBuf]) -> Result<u64> {
    let mut buffer = vec![0; 1 << 22];
    let mut bytes = 0;
    for path in files {
        let cannot = || format!("cannot read {}", path.display());
        let mut file = File::open(path).with_context(cannot)?;
        loop {
            match file.read(&mut buffer).with_context(cannot)? {
                0 => break,
                read => bytes += read as u64,
            }
        }
    }
    Ok(bytes)
}
