//! `pdtrim eval --baseline`: fails a build when the model got worse.

use anyhow::{Context, Result, bail};
use pdtrim_eval::EvalReport;
use pdtrim_eval::regression::{Baseline, Gate, compare};

use crate::args::GateArgs;
use crate::output;

/// Compares with the baseline, if one is named, and writes what a CI system reads.
pub(super) fn hold(args: &GateArgs, report: &EvalReport) -> Result<Option<Gate>> {
    let Some(path) = &args.baseline else {
        return Ok(None);
    };
    let baseline = Baseline::read(path)?;
    let gate = compare(report, &baseline, &args.max_drop, args.alpha)
        .with_context(|| format!("cannot compare with {}", path.display()))?;
    if let Some(junit) = &args.junit {
        pdtrim_core::write_atomically(junit, gate.junit().as_bytes())?;
    }
    Ok(Some(gate))
}

/// Says what a CI system wants to hear, and fails if the gate does.
pub(super) fn close(args: &GateArgs, gate: &Gate) -> Result<()> {
    // Set to `true` by GitHub in every workflow; the runner reads annotations from either stream.
    let in_workflow = std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true");
    let annotations = gate.github_annotations();
    if (args.github || in_workflow) && !annotations.is_empty() {
        output::note(annotations.trim_end());
    }
    if gate.passed() {
        return Ok(());
    }
    let failing = gate.checks.iter().filter(|check| check.fails());
    let names = failing.map(|check| format!("{} of {}", check.metric, check.task));
    bail!(
        "worse than the baseline: {}",
        names.collect::<Vec<_>>().join(", ")
    )
}
