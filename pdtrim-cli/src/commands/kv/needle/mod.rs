//! `pdtrim kv needle`: a fact at every depth of prompts of several lengths, dense beside what the plan sends.

mod page;
mod report;

use anyhow::{Error, Result, anyhow};
use pdtrim_core::Boundary;
use pdtrim_eval::needle::{NeedleGrid, NeedleResult, NeedleTest};
use pdtrim_eval::{Error as EvalError, Execution, JournalFile, Mode, PdScorer};

use crate::args::{KvNeedleArgs, PlanArgs};
use crate::progress::Progress;
use crate::run_folder::RunFolder;
use crate::session::{Bound, Session};
use crate::{output, tables};
use report::Report;

pub(super) fn run(args: &KvNeedleArgs, progress: Progress) -> Result<()> {
    let grid = NeedleGrid::new(&args.lengths, &args.depths, args.items, args.seed);
    let grid = grid.map_err(by_flag)?;
    let session = Session::open(&args.model, progress)?.for_long_work();
    let bound = Bound::from_args(&plan(args), &session)?;
    let test = NeedleTest::new(&grid, &scorer(&session, &bound, Mode::Dense)?);
    let test = test.map_err(by_flag)?;
    let folder = RunFolder::open(&args.out, args.force)?;
    let measuring = Measuring {
        session: &session,
        bound: &bound,
        test: &test,
        folder: &folder,
        progress,
    };
    let report = measuring.run(&modes(args, &bound), &grid)?;
    session.check_unchanged(Some(&folder))?;
    measuring.write(&report)?;
    if args.json {
        return output::json(&serde_json::to_value(&report)?);
    }
    output::result(&tables::plain(&page::table(&report)))?;
    let out = args.out.display();
    output::result(&format!(
        "\n{}\n{out}: needle.json, needle.csv, needle.html",
        report.in_words()
    ))
}

/// The plan, with the boundary at which every token of an answer comes from what crossed.
fn plan(args: &KvNeedleArgs) -> PlanArgs {
    PlanArgs {
        boundary: Some(args.plan.boundary.unwrap_or(Boundary::Decode)),
        ..args.plan.clone()
    }
}

/// A setting that makes no sense, by the name of its flag.
fn by_flag(error: EvalError) -> Error {
    match error {
        EvalError::NeedleSetting {
            setting,
            expected,
            found,
        } => anyhow!("--{setting}: expected {expected}, found {found}"),
        error => error.into(),
    }
}

/// From nothing to all of the plan.
fn modes(args: &KvNeedleArgs, bound: &Bound) -> Vec<Mode> {
    let mut modes: Vec<Mode> = args.modes.iter().map(|mode| mode.mode()).collect();
    if modes.is_empty() {
        modes.push(Mode::Dense);
        modes.extend((!bound.is_dense()).then_some(Mode::PdKv));
    }
    modes.sort_unstable();
    modes.dedup();
    modes
}

fn scorer<'a>(session: &'a Session, bound: &'a Bound, mode: Mode) -> Result<PdScorer<'a>> {
    let model = bound.model(session, mode, bound.boundary)?;
    let scorer = PdScorer::new(model, &session.tokenizer);
    Ok(scorer.with_stop(&session.model.config().eos_token_ids))
}

/// A model, its plan, and the prompts.
struct Measuring<'a> {
    session: &'a Session,
    bound: &'a Bound,
    test: &'a NeedleTest,
    folder: &'a RunFolder,
    progress: Progress,
}

impl Measuring<'_> {
    fn run(&self, modes: &[Mode], grid: &NeedleGrid) -> Result<Report> {
        let settings = report::settings(self.session, self.bound, self.test, grid)?;
        let results = modes.iter().map(|&mode| Ok((mode, self.answers(mode)?)));
        let results = results.collect::<Result<Vec<_>>>()?;
        let report = Report::new(settings, grid, results);
        if let Some(note) = &report.note {
            self.progress.say(note);
        }
        Ok(report)
    }

    /// The answers in a mode; those that an earlier run in the folder has are kept.
    fn answers(&self, mode: Mode) -> Result<NeedleResult> {
        let step = self
            .progress
            .step(&format!("needle {mode}"), self.test.tokens());
        let path = self.folder.journal(&format!("needle-{mode}"));
        let of = self.fingerprint(mode)?;
        let tell = |at: pdtrim_eval::Progress| step.set_done(at.tokens_done);
        let execution = Execution {
            journal: Some(JournalFile {
                path: &path,
                of: &of,
            }),
            progress: Some(&tell),
            ..Execution::default()
        };
        let scorer = scorer(self.session, self.bound, mode)?;
        Ok(self.test.evaluate(&scorer, &execution)?)
    }

    /// What answers depend on beside the prompts.
    fn fingerprint(&self, mode: Mode) -> Result<String> {
        let session = self.session;
        Ok(format!(
            "{} {} {:?} {} {} {}",
            env!("CARGO_PKG_VERSION"),
            session.checkpoint.hash()?,
            session.dtype,
            session.device,
            self.bound.boundary,
            self.bound.in_force(mode)
        ))
    }

    /// Results first, the page last: a folder with a page has everything that belongs to it.
    fn write(&self, report: &Report) -> Result<()> {
        let text = serde_json::to_string_pretty(report)?;
        self.folder
            .put("needle.json", format!("{text}\n").as_bytes())?;
        self.folder.put("needle.csv", &report.to_csv()?)?;
        let page = page::page(report).render();
        self.folder.put("needle.html", page.as_bytes())
    }
}
