//! The main job: search, KV plan, scores, plan file and report. Each part that is finished is kept in
//! the run's folder, so that the same command goes on where a kill stopped it and reuses the rest.

mod kv;
mod repair;
mod report;
mod score;
mod search;
mod width;

use anyhow::{Context, Result};
use pdtrim_core::objective::{Calibration, CalibrationLoss, Redundancy, Rows};
use pdtrim_core::plan::{PLAN_VERSION, PlanCalibration, PlanFile, PlanModel, Repair};
use pdtrim_core::repair::REPAIR_FILE;
use pdtrim_core::{KvPlan, PerStage, Plan};
use pdtrim_eval::{Dataset, EvalReport, Prepared, Task};
use pdtrim_search::calibration::{Corpus, Part};

use crate::args::{StrategyArg, TrimArgs, TrimConfig};
use crate::calibration;
use crate::commands::load_all;
use crate::output;
use crate::progress::Progress;
use crate::repair::RepairSettings;
use crate::run_folder::RunFolder;
use crate::session::{Bound, Session};
use pdtrim_core::hash::sha256;

pub(crate) fn run(args: TrimArgs, progress: Progress) -> Result<()> {
    let (force, json) = (args.force, args.json);
    let config = TrimConfig::resolve(args)?;
    let trimmed = Run::prepare(config, force, progress)?.finish()?;
    if json {
        return output::json(&trimmed.scores.to_json());
    }
    output::result(&trimmed.scores.table())?;
    output::result(&trimmed.summary)
}

/// Everything that is known before anything is measured.
struct Run {
    config: TrimConfig,
    progress: Progress,
    folder: RunFolder,
    session: Session,
    tasks: Vec<(Task, Dataset)>,
    calibration: Calibration,
    about_calibration: PlanCalibration,
    /// The calibration windows and others, where `pdtrim` decides on more.
    validation: Option<Calibration>,
    repair: Option<repair::Windows>,
}

/// What the run measured and chose.
struct Measured {
    redundancy: Redundancy,
    search: search::Found,
    repair: Option<repair::Repair>,
    width: Option<width::Width>,
    kv: Option<pdtrim_kv::KvChoice>,
    scores: EvalReport,
    plan: Plan,
    /// Prefilled positions of each scored prompt.
    prompt_lengths: Vec<usize>,
}

/// What the run says at its end.
struct Trimmed {
    scores: EvalReport,
    summary: String,
}

impl Run {
    /// Reads and checks every input: what is wrong with one of them is said before the first hour of work.
    fn prepare(config: TrimConfig, force: bool, progress: Progress) -> Result<Self> {
        let names = config.tasks.clone().unwrap_or_default();
        let tasks = load_all(
            &names,
            config.data.as_deref(),
            config.offline,
            None,
            progress,
        )?;
        let corpus = Corpus::read(
            &config.calibration,
            config.data.as_deref(),
            Part::Calibration,
        )?;
        let repair = repair::Sources::read(&config)?;
        let folder = RunFolder::open(&config.out, force)?;
        let session = Session::open(&config.model_args(), progress)?.for_long_work();
        RepairSettings::check_dtype(config.repair, session.dtype)?;
        let set = calibration::draw(&session, &corpus, &config.window_draw(), progress)?;
        let more = config.validation_windows;
        let validates = config.strategy == StrategyArg::Pdtrim && more > 0;
        let wanted = config.window_draw();
        let validation = validates
            .then(|| calibration::draw_beside(&session, &corpus, &set, &wanted, more, progress));
        let validation = validation.transpose()?;
        let selection = validation.as_ref().unwrap_or(&set.calibration);
        let repair = repair.map(|sources| sources.draw(&session, &config, selection, progress));
        Ok(Self {
            repair: repair.transpose()?,
            validation,
            config,
            progress,
            folder,
            session,
            tasks,
            calibration: set.calibration,
            about_calibration: set.about,
        })
    }

    fn finish(self) -> Result<Trimmed> {
        let measured = self.measure()?;
        self.session.check_unchanged(Some(&self.folder))?;
        let out = &self.config.out;
        let results = serde_json::to_string_pretty(&measured.scores.to_json())?;
        pdtrim_core::write_atomically(
            &out.join("results.json"),
            format!("{results}\n").as_bytes(),
        )?;
        let mut csv = Vec::new();
        measured.scores.write_csv(&mut csv)?;
        pdtrim_core::write_atomically(&out.join("results.csv"), &csv)?;
        let page = report::page(&self, &measured).render();
        pdtrim_core::write_atomically(&out.join("report.html"), page.as_bytes())?;
        // Last: a folder with a plan has everything that belongs to it.
        measured.plan.write(&out.join("plan.toml"))?;
        if measured.repair.is_none() {
            // An earlier run's, which no plan names any more.
            self.folder.take_away(REPAIR_FILE)?;
        }
        let summary = report::summary(&self, &measured);
        Ok(Trimmed {
            scores: measured.scores,
            summary,
        })
    }

    fn measure(&self) -> Result<Measured> {
        let config = &self.config;
        let loss = CalibrationLoss::new(
            &self.session.model,
            &self.calibration,
            Rows::Continuation,
            config.boundary,
        );
        let redundancy = loss.redundancy()?;
        let search = search::run(self, &loss, &redundancy)?;
        let removed = &search.removed;
        let windows = self.repair.as_ref();
        let repair = windows.map(|windows| repair::run(self, windows, removed));
        let (repair, repaired) = repair.transpose()?.flatten().unzip();
        let (width, narrow) = width::run(self, removed)?.unzip();
        // From here on everything is measured with the weights that the plan will have.
        let repaired = narrow.or(repaired).unwrap_or_default();

        let dense = Bound::new(
            PerStage::dense(self.session.depth()),
            config.kv_fill(),
            self.send_all(),
            config.boundary,
        );
        let prepared = score::prepare(self, &dense)?;
        let prompt_lengths = score::prompt_lengths(&prepared, config.boundary);
        let kv = kv::run(self, &repaired, removed, &prompt_lengths)?;
        let kv_plan = kv
            .as_ref()
            .map_or_else(|| self.send_all(), |choice| choice.plan.clone());

        let bound = Bound::new(removed.clone(), config.kv_fill(), kv_plan, config.boundary)
            .with_repaired(repaired);
        let scores = score::run(self, &bound, &prepared)?;
        let chosen = (&search, repair.as_ref(), width.as_ref(), kv.as_ref());
        let plan = self.plan(chosen, &scores)?;
        Ok(Measured {
            redundancy,
            search,
            repair,
            width,
            kv,
            scores,
            plan,
            prompt_lengths,
        })
    }

    fn send_all(&self) -> KvPlan {
        KvPlan::send_all(self.session.depth())
    }

    fn plan(
        &self,
        (search, repair, width, kv): (
            &search::Found,
            Option<&repair::Repair>,
            Option<&width::Width>,
            Option<&pdtrim_kv::KvChoice>,
        ),
        scores: &EvalReport,
    ) -> Result<Plan> {
        let config = &self.config;
        let indices = PerStage {
            prefill: search.removed.prefill.to_indices(),
            decode: search.removed.decode.to_indices(),
        };
        let file = PlanFile {
            version: PLAN_VERSION,
            method: search.method.to_owned(),
            seed: config.seed,
            race_error: config.race_error,
            boundary: config.boundary,
            kv_fill: config.kv_fill(),
            repair: repair.map_or(Repair::None, repair::Repair::method),
            kv_method: kv
                .map(|_| kv::method(config).to_owned())
                .unwrap_or_default(),
            model: PlanModel {
                name: self.session.name.clone(),
                hash: self.session.checkpoint.hash()?,
                blocks: self.session.depth(),
            },
            removed: indices,
            calibration: Some(self.about_calibration.clone()),
            repair_file: repair.map(|repair| repair.file.clone()),
            repair_calibration: repair.map(|repair| repair.about.clone()),
            // Without a run to repair no block stands for anything.
            pairs: search.pairs.clone().filter(|_| repair.is_some()),
            width: width.map(|width| width.section.clone()),
            kv: kv.map(|choice| choice.plan.to_groups()).unwrap_or_default(),
            scores: score::plan_scores(config.boundary, (search, repair, width), kv, scores),
        };
        Plan::new(file).context("the search made a plan that is not valid; this is a bug")
    }

    /// What every measurement of this run depends on.
    fn fingerprint(&self) -> Result<String> {
        let about = serde_json::json!({
            "pdtrim": env!("CARGO_PKG_VERSION"),
            "model": self.session.checkpoint.hash()?,
            "dtype": format!("{:?}", self.session.dtype),
            "device": self.session.device.to_string(),
            "calibration": self.about_calibration,
            "boundary": self.config.boundary,
        });
        Ok(sha256(about.to_string().as_bytes()))
    }
}

fn prepared_name(prepared: &Prepared) -> &str {
    prepared.task().name()
}
