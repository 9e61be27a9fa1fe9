//! `pdtrim kv search`: fewer and fewer bytes, each time at the lowest loss that was found.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use pdtrim_core::hash::sha256;
use pdtrim_core::journal::Journal;
use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows, TransferCandidate};
use pdtrim_core::pipeline::{PdModel, SendAll};
use pdtrim_core::plan::{PLAN_VERSION, PlanCalibration, PlanFile, PlanModel, Repair};
use pdtrim_core::{BlockSet, Boundary, KvFill, KvPlan, PerStage, Plan};
use pdtrim_eval::TaskResult;
use pdtrim_kv::{FrontSearch, Goal, KvSizes};
use pdtrim_search::calibration::{CalibrationSet, Corpus, Part, WindowDraw};
use serde_json::json;

use super::choices::Candidate;
use super::page;
use super::report::{Kind, Report, Row};
use super::sends::Sends;
use crate::args::{KvMenuArg, KvPriceArg, KvSearchArgs, PlanArgs};
use crate::commands::load_all;
use crate::progress::Progress;
use crate::run_folder::RunFolder;
use crate::scoring::{Scoring, TaskScore};
use crate::session::{Bound, Session};
use crate::{calibration, output, tables};

pub(super) fn run(args: &KvSearchArgs, progress: Progress) -> Result<()> {
    let factors = factors(args)?;
    let data = args.data.as_deref();
    let corpus = |part| Corpus::read(&args.calibration, data, part);
    let (chosen_on, reported_on) = (corpus(Part::Calibration)?, corpus(Part::HeldOut)?);
    let tasks = if args.tasks.is_empty() {
        Vec::new()
    } else {
        load_all(&args.tasks, data, args.model.offline, None, progress)?
    };
    let folder = RunFolder::open(&args.out, args.force)?;
    let session = Session::open(&args.model, progress)?.for_long_work();
    let plan = PlanArgs {
        plan: args.plan.clone(),
        boundary: args.boundary,
        ..PlanArgs::default()
    };
    let bound = Bound::from_args(&plan, &session)?;
    let windows = |corpus: &Corpus, seed, windows| {
        let set = calibration::draw(&session, corpus, &draw(args, seed, windows), progress)?;
        with_prompt(set, args.prompt_tokens.get())
    };
    let chosen_on = windows(&chosen_on, args.calibration_seed, args.windows.get())?;
    let reported_on = windows(&reported_on, 0, args.held_out_windows.get())?;
    let kept = (&folder, progress);
    let scoring = Scoring::new(&session, kept, Boundary::Decode, tasks, args.limit)?;
    let search = Search {
        args,
        factors,
        session: &session,
        bound: &bound,
        folder: &folder,
        progress,
        chosen_on: &chosen_on,
        reported_on: &reported_on,
    };
    let report = search.run(&scoring)?;
    session.check_unchanged(Some(&folder))?;
    let object = serde_json::to_value(&report)?;
    let text = serde_json::to_string_pretty(&object)?;
    folder.put("front.json", format!("{text}\n").as_bytes())?;
    folder.put("front.csv", &report.to_csv()?)?;
    folder.put("front.html", page::page(&report).render().as_bytes())?;
    if args.json {
        return output::json(&object);
    }
    output::result(&tables::plain(&page::table(&report)))?;
    let out = args.out.display();
    output::result(&format!(
        "\n{}\n{out}: front.json, front.csv, front.html, and a plan for each point of a search",
        report.in_words()
    ))
}

/// The factors asked for, ascending.
fn factors(args: &KvSearchArgs) -> Result<Vec<f64>> {
    for factor in &args.factors {
        ensure!(
            *factor >= 1.0 && factor.is_finite(),
            "factors: expected numbers of at least 1, found {factor}"
        );
    }
    ensure!(
        args.max_rise.is_none() || args.by == KvPriceArg::Loss,
        "--max-rise is a rise of the loss: expected --by loss, found --by {}",
        args.by.in_words()
    );
    let mut factors = args.factors.clone();
    factors.sort_by(f64::total_cmp);
    factors.dedup();
    Ok(factors)
}

fn draw(args: &KvSearchArgs, seed: u64, windows: usize) -> WindowDraw {
    WindowDraw {
        seed,
        items: None,
        windows,
        window_tokens: args.prompt_tokens.get() + args.continuation_tokens.get(),
    }
}

/// The same windows with a prompt of another length.
fn with_prompt(set: CalibrationSet, prompt_tokens: usize) -> Result<CalibrationSet> {
    Ok(CalibrationSet {
        calibration: Calibration::new(set.calibration.windows().to_vec(), prompt_tokens)?,
        about: PlanCalibration {
            prompt_tokens,
            ..set.about
        },
    })
}

/// A model, its plan, and the windows.
pub(super) struct Search<'a> {
    pub(super) args: &'a KvSearchArgs,
    pub(super) factors: Vec<f64>,
    pub(super) session: &'a Session,
    bound: &'a Bound,
    folder: &'a RunFolder,
    progress: Progress,
    chosen_on: &'a CalibrationSet,
    reported_on: &'a CalibrationSet,
}

impl Search<'_> {
    fn run(&self, scoring: &Scoring<'_>) -> Result<Report> {
        let sizes = KvSizes::new(self.bound.models(self.session).decode, vec![self.read()])?;
        let mut candidates = Vec::new();
        for &menu in &self.args.menus {
            candidates.extend(self.front(menu, &sizes)?);
        }
        candidates.extend(self.uniform(&sizes));
        let loss = self.loss(self.reported_on)?;
        let everything = Sends::Plan(KvPlan::send_all(self.session.depth()));
        let base = self.window_costs(&loss, &everything)?;
        let dense = self.score(scoring, &everything)?;
        let mut rows = Vec::new();
        for candidate in candidates {
            let sends = &candidate.sends;
            let costs = self.window_costs(&loss, sends)?;
            let tasks = self.score(scoring, sends)?;
            let bytes = self.bytes(sends)?;
            let mut row = Row::new(candidate.kind, (&base, &costs));
            row.ask(candidate.goal);
            row.factor = sizes.dense_bf16_bytes() / bytes;
            row.bytes = bytes;
            row.calibration_loss = candidate.cost.filter(|_| self.args.by == KvPriceArg::Loss);
            row.kv = sends.groups();
            row.sends = sends.in_words();
            row.tasks = TaskScore::of(&tasks, Some(&dense));
            row.plan = self.write_plan(&candidate)?;
            rows.push(row);
        }
        Ok(Report::new(
            self.settings()?,
            (&base, TaskScore::of(&dense, None)),
            rows,
        ))
    }

    /// Prompt positions that prefill reads.
    pub(super) fn read(&self) -> usize {
        let prompt = self.args.prompt_tokens.get();
        match self.bound.boundary {
            Boundary::Prefill => prompt,
            Boundary::Decode => prompt - 1,
        }
    }

    fn removed(&self) -> &PerStage<BlockSet> {
        self.bound.removed_blocks()
    }

    pub(super) fn decode_removed(&self) -> &BlockSet {
        &self.removed().decode
    }

    fn loss<'s>(&'s self, set: &'s CalibrationSet) -> Result<CalibrationLoss<'s>> {
        let models = self.bound.models(self.session);
        let (rows, boundary) = (Rows::Continuation, self.bound.boundary);
        Ok(CalibrationLoss::per_stage(
            models,
            &set.calibration,
            rows,
            boundary,
        )?)
    }

    fn front(&self, menu: KvMenuArg, sizes: &KvSizes) -> Result<Vec<Candidate>> {
        let loss = self.loss(self.chosen_on)?;
        let (loss, measured) = match self.args.by {
            KvPriceArg::Loss => (loss, "front"),
            KvPriceArg::Divergence => (loss.divergence()?, "front by divergence"),
        };
        let choices = self.menu(menu);
        let mut search = FrontSearch {
            loss: &loss,
            removed: self.removed(),
            sizes,
            menu: &choices,
            factors: &[],
            rounds: self.args.rounds,
            max_rise: self.args.max_rise.map(|percent| (percent / 100.0).ln_1p()),
            firsts: self.args.first.get(1..).unwrap_or_default(),
            heavies: match menu {
                KvMenuArg::Heavy | KvMenuArg::HeavyBoth => {
                    self.args.heavy.get(1..).unwrap_or_default()
                }
                _ => &[],
            },
        };
        let most = search.most();
        let within: Vec<f64> = self
            .factors
            .iter()
            .copied()
            .filter(|&factor| factor <= most)
            .collect();
        let kind = Kind::of(menu);
        if within.len() < self.factors.len() {
            self.progress.say(&format!(
                "{kind}: no plan for factors above {most:.2}, the most that these choices allow"
            ));
        }
        search.factors = &within;
        let journal = self.folder.journal("kv");
        let journal = Journal::resume(&journal, &self.fingerprint(measured, self.chosen_on)?)?;
        let planned = search.planned_evaluations();
        let step = self.progress.step(&format!("search {kind}"), planned);
        let front = search.run(Some(journal), &mut |_| step.advance())?;
        drop(step);
        let points = front.points.into_iter().map(|point| {
            self.progress.say(&format!(
                "{kind}: {:.2}x fewer bytes at a {} of {:.4} ({:+.4})",
                point.factor,
                self.args.by.in_words(),
                point.cost,
                point.cost - front.base_cost
            ));
            Candidate {
                kind,
                goal: Some(point.goal),
                sends: Sends::Plan(point.plan),
                cost: Some(point.cost),
            }
        });
        Ok(points.collect())
    }

    /// Bytes of a prompt of the held-out windows, counted where they cross.
    fn bytes(&self, sends: &Sends) -> Result<f64> {
        let transfer = sends.transfer();
        let model = PdModel::per_stage(
            self.bound.models(self.session),
            self.removed().clone(),
            KvFill::Project,
            self.bound.boundary,
            &*transfer,
        )?;
        let window = &self.reported_on.calibration.windows()[0];
        let prompt = &window[..self.args.prompt_tokens.get()];
        Ok(model.prefill(&[prompt])?.kv_bytes().0 as f64)
    }

    /// The held-out loss of each window; what an earlier run measured is kept.
    fn window_costs(&self, loss: &CalibrationLoss<'_>, sends: &Sends) -> Result<Vec<f64>> {
        let words = sends.in_words_and_blocks();
        let fingerprint = self.fingerprint(&words, self.reported_on)?;
        let name = format!("held-out-{}", &fingerprint[7..23]);
        if let Some(costs) = self.folder.kept(&name, &fingerprint) {
            return Ok(costs);
        }
        let transfer = sends.transfer();
        let whole = TransferCandidate {
            transfer: &*transfer,
            differs_in: self.decode_removed().complement(),
        };
        let heard = &mut |_, _: &[f64]| ControlFlow::Continue(());
        let costs = loss.transfer_window_costs(self.removed(), &SendAll, &[whole], heard)?;
        let costs = costs.into_iter().next().unwrap_or_default();
        self.folder.keep(&name, &fingerprint, &costs)?;
        Ok(costs)
    }

    fn score(&self, scoring: &Scoring<'_>, sends: &Sends) -> Result<Vec<TaskResult>> {
        let (transfer, words) = (sends.transfer(), sends.in_words_and_blocks());
        scoring.score_with(self.removed(), self.bound.repaired(), (&*transfer, &words))
    }

    /// Writes the plan of a search's point, and what it needs beside it; returns its name.
    fn write_plan(&self, candidate: &Candidate) -> Result<Option<String>> {
        let (Some(goal), Some(_), Sends::Plan(kv)) =
            (candidate.goal, candidate.cost, &candidate.sends)
        else {
            return Ok(None);
        };
        self.session.check_unchanged(Some(self.folder))?;
        let base = self.bound.plan.as_ref();
        let file = match base {
            Some((_, plan)) => plan.file().clone(),
            None => self.dense_plan()?,
        };
        let plan = Plan::new(PlanFile {
            boundary: self.bound.boundary,
            kv: kv.to_groups(),
            kv_method: self.args.by.in_words().to_owned(),
            scores: Vec::new(),
            ..file
        })?;
        if let Some((path, _)) = base {
            let beside = path.parent().unwrap_or(Path::new("."));
            for name in plan.file().files_beside() {
                let (from, to) = (beside.join(name), self.args.out.join(name));
                if from != to {
                    let bytes = fs::read(&from);
                    let bytes = bytes.with_context(|| format!("cannot read {}", from.display()))?;
                    self.folder.put(name, &bytes)?;
                }
            }
        }
        let goal = match goal {
            Goal::Factor(factor) => format!("{factor}x"),
            Goal::Rise(_) => "within".to_owned(),
        };
        let name = format!("plan-{}-{goal}.toml", candidate.kind.file_name());
        self.folder.put(&name, plan.to_toml().as_bytes())?;
        Ok(Some(name))
    }

    /// The plan that removes nothing.
    fn dense_plan(&self) -> Result<PlanFile> {
        Ok(PlanFile {
            version: PLAN_VERSION,
            method: "manual".to_owned(),
            seed: self.args.calibration_seed,
            race_error: 0.0,
            boundary: self.bound.boundary,
            kv_fill: KvFill::Nested,
            repair: Repair::None,
            kv_method: String::new(),
            model: PlanModel {
                name: self.session.name.clone(),
                hash: self.session.checkpoint.hash()?,
                blocks: self.session.depth(),
            },
            removed: PerStage::both(Vec::new()),
            calibration: Some(self.chosen_on.about.clone()),
            repair_file: None,
            repair_calibration: None,
            pairs: None,
            width: None,
            kv: Vec::new(),
            scores: Vec::new(),
        })
    }

    /// Of everything that a measurement on `set` depends on.
    fn fingerprint(&self, what: &str, set: &CalibrationSet) -> Result<String> {
        let about = json!({
            "pdtrim": env!("CARGO_PKG_VERSION"),
            "model": self.session.checkpoint.hash()?,
            "dtype": format!("{:?}", self.session.dtype),
            "device": self.session.device.to_string(),
            "removed": [self.removed().prefill.to_indices(), self.removed().decode.to_indices()],
            "repair": self.bound.repaired().sha256(),
            "boundary": self.bound.boundary,
            "windows": set.about,
            "measured": what,
        });
        Ok(sha256(about.to_string().as_bytes()))
    }

    fn settings(&self) -> Result<serde_json::Value> {
        Ok(json!({
            "pdtrim_version": env!("CARGO_PKG_VERSION"),
            "model": self.session.name,
            "model_sha256": self.session.checkpoint.hash()?,
            "dtype": format!("{:?}", self.session.dtype).to_lowercase(),
            "device": self.session.device.to_string(),
            "removed": {
                "prefill": self.removed().prefill.to_indices(),
                "decode": self.removed().decode.to_indices(),
            },
            "boundary": self.bound.boundary,
            "calibration": self.chosen_on.about,
            "held_out": self.reported_on.about,
            "factors": self.factors,
            "spans": self.args.spans,
            "first": self.args.first,
            "heavy": self.args.heavy,
            "encodings": self.encodings(),
            "policies": self.args.policies.iter().filter_map(|policy| Some(policy.to_possible_value()?.get_name().to_owned())).collect::<Vec<_>>(),
            "by": self.args.by.in_words(),
            "rounds": self.args.rounds,
            "tasks": self.args.tasks,
            "limit": self.args.limit,
        }))
    }
}
