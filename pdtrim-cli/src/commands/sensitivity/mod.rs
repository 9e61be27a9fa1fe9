//! `pdtrim sensitivity`: what each block is worth to each stage.

mod page;
mod report;

use anyhow::Result;
use pdtrim_core::objective::{CalibrationLoss, Rows};
use pdtrim_core::{BlockId, Boundary, PerStage};
use pdtrim_eval::TaskResult;
use pdtrim_search::calibration::{CalibrationSet, Corpus, Part};
use pdtrim_search::{Ledger, RemovedFrom, Sensitivity};

use super::load_all;
use crate::args::SensitivityArgs;
use crate::progress::Progress;
use crate::run_folder::RunFolder;
use crate::scoring::{Scoring, TaskScore};
use crate::session::{Repaired, Session};
use crate::{calibration, output, tables};
use pdtrim_core::hash::sha256;
use report::Report;

pub(crate) fn run(args: &SensitivityArgs, progress: Progress) -> Result<()> {
    let data = args.windows.data.as_deref();
    let corpus = Corpus::read(&args.windows.calibration, data, Part::Calibration)?;
    // `load_all` reads the default tasks for an empty list.
    let tasks = if args.tasks.is_empty() {
        Vec::new()
    } else {
        load_all(&args.tasks, data, args.model.offline, None, progress)?
    };
    let folder = RunFolder::open(&args.out, args.force)?;
    let session = Session::open(&args.model, progress)?.for_long_work();
    let wanted = args.windows.draw(args.calibration_seed);
    let set = calibration::draw(&session, &corpus, &wanted, progress)?;
    let kept = (&folder, progress);
    let scoring = Scoring::new(&session, kept, Boundary::Decode, tasks, args.limit)?;
    let analysis = Analysis {
        args,
        session: &session,
        folder: &folder,
        progress,
        set: &set,
    };
    let report = analysis.run(&scoring)?;
    session.check_unchanged(Some(&folder))?;
    let object = serde_json::to_value(&report)?;
    let text = serde_json::to_string_pretty(&object)?;
    folder.put("sensitivity.json", format!("{text}\n").as_bytes())?;
    folder.put("sensitivity.csv", &report.to_csv()?)?;
    folder.put("sensitivity.html", page::page(&report).render().as_bytes())?;
    if args.json {
        return output::json(&object);
    }
    output::result(&tables::plain(&page::table(&report)))?;
    if !report.tasks_dense.is_empty() {
        output::result(&format!("\n{}", tables::plain(&page::task_table(&report))))?;
    }
    let out = args.out.display();
    output::result(&format!(
        "\n{}\n{out}: sensitivity.json, sensitivity.csv, sensitivity.html",
        report.in_words()
    ))
}

/// A model and the windows that it is measured on.
struct Analysis<'a> {
    args: &'a SensitivityArgs,
    session: &'a Session,
    folder: &'a RunFolder,
    progress: Progress,
    set: &'a CalibrationSet,
}

impl Analysis<'_> {
    fn run(&self, scoring: &Scoring<'_>) -> Result<Report> {
        let windows = &self.set.calibration;
        let (model, boundary) = (&self.session.model, self.args.boundary);
        let loss = CalibrationLoss::new(model, windows, Rows::Continuation, boundary);
        let by_loss = self.measure("loss", &loss)?;
        let by_divergence = self.measure("divergence", &loss.divergence()?)?;
        let dense = scoring.score(&PerStage::dense(self.session.depth()), &Repaired::default())?;
        let tasks = self.score(scoring, &dense)?;
        let about = &self.set.about;
        let settings = report::settings(self.args, self.session, about)?;
        Ok(Report::new(
            settings,
            &by_loss,
            &by_divergence,
            (TaskScore::of(&dense, None), tasks),
        ))
    }

    /// One objective; what an earlier run in the folder measured is reused.
    fn measure(&self, what: &str, objective: &CalibrationLoss<'_>) -> Result<Sensitivity> {
        let journal = self.folder.journal(what);
        let mut ledger = Ledger::resume(objective, &journal, &self.fingerprint(what)?)?;
        if ledger.reused() > 0 {
            self.progress.say(&format!(
                "{what}: reusing {} evaluations of an earlier run (--force starts over)",
                ledger.reused()
            ));
        }
        let total = Sensitivity::evaluations(&ledger);
        let step = self.progress.step(&format!("sensitivity by {what}"), total);
        let mut done = 0;
        let found = Sensitivity::measure(&mut ledger, &mut |units| {
            done += units;
            step.set_done(done);
        });
        Ok(found?)
    }

    /// The tasks of every removal, in the order of the report's rows.
    fn score(&self, scoring: &Scoring<'_>, dense: &[TaskResult]) -> Result<Vec<Vec<TaskScore>>> {
        let depth = self.session.depth();
        let ids = (0..depth).map(BlockId::new);
        let removals = ids.flat_map(|id| RemovedFrom::ALL.map(|from| from.stages(depth, id)));
        removals
            .map(|removed| {
                Ok(TaskScore::of(
                    &scoring.score(&removed, &Repaired::default())?,
                    Some(dense),
                ))
            })
            .collect()
    }

    fn fingerprint(&self, what: &str) -> Result<String> {
        let about = serde_json::json!({
            "pdtrim": env!("CARGO_PKG_VERSION"),
            "model": self.session.checkpoint.hash()?,
            "dtype": format!("{:?}", self.session.dtype),
            "device": self.session.device.to_string(),
            "calibration": self.set.about,
            "boundary": self.args.boundary,
            "measured": what,
        });
        Ok(sha256(about.to_string().as_bytes()))
    }
}
