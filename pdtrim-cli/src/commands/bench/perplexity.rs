//! One pass of log-likelihoods over windows.

use anyhow::{Context, Result, ensure};
use pdtrim_core::PerStage;
use pdtrim_core::objective::{CalibrationLoss, Objective, Rows};

use super::environment::{Environment, Peak};
use super::measure::{Point, Rounds, timed};
use super::report::{BenchReport, Measurement, settings};
use super::work::Stages;
use super::{Subject, subjects, text};
use crate::args::PerplexityBenchArgs;
use crate::progress::Progress;
use crate::session::{Bound, Session};

pub(super) fn run(args: &PerplexityBenchArgs, progress: Progress) -> Result<()> {
    let (tokens, window) = (args.tokens.get(), args.window.get());
    ensure!(
        tokens >= window,
        "--tokens {tokens} do not fill a window of {window}"
    );
    let session = Session::open(&args.measure.model, progress)?.for_long_work();
    let before = Peak::find(session.device, &args.measure);
    let bound = Bound::from_args(&args.plan, &session)?;
    let rounds = Rounds::new(&args.measure, 1, 5);
    let (calibration, about) = text::windows(&session, &args.text, tokens / window, window)?;
    let subjects = subjects(&bound, &session)?;
    let points = subjects.iter().map(|subject| -> Point<'_, (f64, f64)> {
        let Subject { pd, .. } = subject;
        let candidate = [PerStage::both(pd.removed().decode.clone())];
        let (calibration, boundary) = (&calibration, bound.boundary);
        let model = pd.model();
        Box::new(move || {
            timed(model.device(), || {
                // Anew each time: what an earlier run kept would make this one look cheaper.
                let loss = CalibrationLoss::new(model, calibration, Rows::All, boundary);
                let costs =
                    loss.costs(&candidate, &mut |_, _| std::ops::ControlFlow::Continue(()))?;
                costs.first().copied().context("no cost came back")
            })
        })
    });
    let mut points: Vec<_> = points.collect();
    let runs = rounds.run("perplexity", progress, &mut points)?;
    let environment = Environment::of(&session, &args.measure, before)?;
    let windows = calibration.windows().len();
    let found = subjects.iter().zip(runs).map(|(subject, runs)| {
        let (samples, costs): (Vec<f64>, Vec<f64>) = runs.into_iter().unzip();
        let work = Stages::new(&session, &subject.pd).windows(window, windows);
        let nll = costs[0];
        Measurement::new(subject.name, samples)
            .of(&subject.pd)
            .with_tokens(windows * window)
            .with_work(work, &environment.peak)
            .with_fact("nll", nll)
            .with_fact("perplexity", nll.exp())
    });
    let found = found.collect();
    BenchReport::new("perplexity", environment, settings(about, rounds), found)
        .finish(&args.measure)
}
