//! One run: a search, and what its blocks cost on held-out windows and tasks.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use anyhow::{Error, Result, anyhow};
use pdtrim_core::model::BlockModel;
use pdtrim_core::objective::{Calibration, CalibrationLoss, Objective, Rows};
use pdtrim_core::pipeline::{PdModel, SendAll};
use pdtrim_core::{BlockSet, Boundary, KvFill, PerStage};
use pdtrim_eval::TaskResult;
use pdtrim_search::calibration::{CalibrationSet, Corpus};
use pdtrim_search::{CostChange, Ledger};
use serde_json::json;

use super::config::{Configuration, Job};
use super::repair::RepairCost;
use super::report::{Dense, Found, Saved, Saving, SearchCost};
use crate::args::{MethodArg, ValidationLedger};
use crate::commands::bench::Stages;
use crate::progress::Progress;
use crate::run_folder::RunFolder;
use crate::scoring::{Scoring, TaskScore};
use crate::session::{Repaired, Session};
use pdtrim_core::hash::sha256;

/// What all runs share.
pub(super) struct Comparison<'a> {
    pub(super) configuration: &'a Configuration,
    pub(super) session: &'a Session,
    /// What calibration and repair windows are drawn from.
    pub(super) corpus: &'a Corpus,
    pub(super) folder: &'a RunFolder,
    pub(super) progress: Progress,
    pub(super) scoring: &'a Scoring<'a>,
    /// By seed.
    pub(super) calibration: &'a BTreeMap<u64, CalibrationSet>,
    /// J on the calibration windows, by seed.
    pub(super) losses: &'a BTreeMap<u64, CalibrationLoss<'a>>,
    /// What is known of it.
    pub(super) ledgers: RefCell<BTreeMap<u64, Ledger<'a>>>,
    /// J on these windows and those that `pdtrim` decides on, by seed; empty where it needs none.
    pub(super) validation: &'a BTreeMap<u64, CalibrationLoss<'a>>,
    pub(super) validation_ledgers: RefCell<BTreeMap<u64, ValidationLedger<'a>>>,
    pub(super) held_out: &'a CalibrationSet,
    pub(super) known: RefCell<Known<'a>>,
    pub(super) baseline: OnceCell<Baseline>,
    /// Seconds that a pass took which an earlier search had made for this one too.
    pub(super) passes_before: Cell<f64>,
}

/// What a run makes of the model.
pub(super) struct Trimmed {
    pub(super) removed: PerStage<BlockSet>,
    /// The stages' models.
    pub(super) repaired: Repaired,
    pub(super) search: SearchCost,
    pub(super) repair: Option<RepairCost>,
    /// Parameters that narrower blocks do without.
    pub(super) width: Option<PerStage<usize>>,
}

/// What runs found of the model as it is: several seeds and strategies choose the same blocks.
pub(super) struct Known<'a> {
    /// On the held-out windows.
    held_out: Ledger<'a>,
    /// On the calibration windows, by seed. Searches have ledgers of their own, where a window's cost
    /// may have been measured beside other windows.
    calibration: BTreeMap<u64, Ledger<'a>>,
}

/// The dense model on what every run is measured on.
pub(super) struct Baseline {
    /// On each held-out window.
    losses: Vec<f64>,
    results: Vec<TaskResult>,
}

impl<'a> Comparison<'a> {
    pub(super) fn dense(&self) -> Result<Dense> {
        let baseline = self.baseline()?;
        Ok(Dense {
            held_out_loss: pdtrim_core::objective::mean_cost(&baseline.losses),
            tasks: TaskScore::of(&baseline.results, None),
        })
    }

    /// The run, or what an earlier one kept of it.
    pub(super) fn run(&self, job: Job) -> Result<Found> {
        let set = self.calibration.get(&job.seed);
        let set = set.ok_or_else(|| unknown_seed(job.seed))?;
        let name = format!("run-{}", job.file_name());
        let fingerprint = self.fingerprint(
            set,
            &json!([job, self.configuration.settings(job), self.scoring.hash()?]),
        )?;
        if let Some(found) = self.folder.kept(&name, &fingerprint) {
            self.progress
                .say(&format!("{job}: kept from an earlier run"));
            return Ok(found);
        }
        let found = self.measure(job, set)?;
        self.folder.keep(&name, &fingerprint, &found)?;
        self.progress.say(&format!(
            "{job}: held-out loss {:.4} ({:+.4})",
            found.held_out.cost, found.held_out.rise
        ));
        Ok(found)
    }

    fn measure(&self, job: Job, set: &CalibrationSet) -> Result<Found> {
        let Trimmed {
            removed,
            repaired,
            search,
            repair,
            width,
        } = self.trim(job, set)?;
        let dense = PerStage::dense(self.session.depth());
        let baseline = self.baseline()?;
        let before = self.known.borrow_mut().calibration(job.seed, &dense)?;
        let (after, held_out) = if repaired.sha256().is_none() {
            let mut known = self.known.borrow_mut();
            let after = known.calibration(job.seed, &removed)?;
            (after, known_costs(&mut known.held_out, &removed)?)
        } else {
            let models = repaired.models(self.session);
            let on = |windows| unit_costs(&self.loss(models, windows)?, &removed);
            (on(&set.calibration)?, on(&self.held_out.calibration)?)
        };
        let results = self.scoring.score(&removed, &repaired)?;
        Ok(Found {
            removed: PerStage {
                prefill: removed.prefill.to_indices(),
                decode: removed.decode.to_indices(),
            },
            calibration: set.about.clone(),
            on_calibration: CostChange::paired(&before, &after),
            held_out: CostChange::paired(&baseline.losses, &held_out),
            saved: self.saved(&removed, width)?,
            search,
            repair,
            width,
            tasks: TaskScore::of(&results, Some(&baseline.results)),
        })
    }

    fn trim(&self, job: Job, set: &CalibrationSet) -> Result<Trimmed> {
        match job.row.strategy {
            MethodArg::Blocks(strategy) => {
                let pairs = self.pairs(job, set)?;
                // The same blocks for each repair, but for those of a search with pairs.
                let searched = pairs.as_ref().map_or_else(|| job.unrepaired(), |_| job);
                let (removed, search) = self.search((searched, strategy), set, pairs.as_ref())?;
                let (repaired, repair) = self.repair(job, set, &removed)?;
                Ok(Trimmed {
                    removed,
                    repaired,
                    search,
                    repair,
                    width: None,
                })
            }
            MethodArg::Width(method) => self.narrow(job, method, set),
        }
    }

    fn loss<'s>(
        &self,
        models: PerStage<&'s dyn BlockModel>,
        windows: &'s Calibration,
    ) -> Result<CalibrationLoss<'s>> {
        let (rows, boundary) = (Rows::Continuation, self.configuration.boundary);
        Ok(CalibrationLoss::per_stage(models, windows, rows, boundary)?)
    }

    /// J on the calibration windows of a seed.
    pub(super) fn loss_of(&self, seed: u64) -> Result<&'a CalibrationLoss<'a>> {
        let loss = self.losses.get(&seed);
        loss.ok_or_else(|| unknown_seed(seed))
    }

    fn baseline(&self) -> Result<&Baseline> {
        if let Some(known) = self.baseline.get() {
            return Ok(known);
        }
        let dense = PerStage::dense(self.session.depth());
        let unrepaired = Repaired::default();
        let losses = known_costs(&mut self.known.borrow_mut().held_out, &dense)?;
        let results = self.scoring.score(&dense, &unrepaired)?;
        Ok(self.baseline.get_or_init(|| Baseline { losses, results }))
    }

    /// The work that the removed blocks were, for a prompt as long as a window's and a step of decode.
    fn saved(&self, removed: &PerStage<BlockSet>, width: Option<PerStage<usize>>) -> Result<Saved> {
        let prompt = self.held_out.calibration.prompt_tokens();
        let work = |removed: PerStage<BlockSet>| -> Result<(f64, f64)> {
            let model = &self.session.model;
            // Where the boundary stands changes neither the blocks of a stage nor what they take.
            let boundary = Boundary::Prefill;
            let pd = PdModel::new(model, removed, KvFill::Project, boundary, &SendAll)?;
            let stages = Stages::new(self.session, &pd);
            let step = stages.later_token(1, 0, 1);
            Ok((stages.first_token(prompt, 1, 0).flops, step.weight_bytes))
        };
        let (flops, bytes) = work(PerStage::dense(self.session.depth()))?;
        let (mut flops_left, mut bytes_left) = work(removed.clone())?;
        if let Some(width) = width {
            // A multiplication and an addition for each parameter and token; attention's own products
            // and the logits stay.
            flops_left -= 2.0 * width.prefill as f64 * prompt as f64;
            bytes_left -= width.decode as f64 * self.session.dtype.size() as f64;
        }
        let saving = |of: f64, left: f64| Saving {
            amount: of - left,
            share: 1.0 - left / of,
        };
        Ok(Saved {
            prefill_flops: saving(flops, flops_left),
            decode_weight_bytes: saving(bytes, bytes_left),
        })
    }

    /// What `about` depends on.
    pub(super) fn fingerprint(
        &self,
        set: &CalibrationSet,
        about: &serde_json::Value,
    ) -> Result<String> {
        let configuration = self.configuration;
        let about = json!({
            "pdtrim": configuration.pdtrim_version,
            "model": configuration.model_sha256,
            "dtype": configuration.dtype,
            "device": configuration.device,
            "calibration": set.about,
            "held_out": configuration.held_out,
            "boundary": configuration.boundary,
            "protect_ends": configuration.protect_ends,
            "of": about,
        });
        Ok(sha256(&serde_json::to_vec(&about)?))
    }
}

impl<'a> Known<'a> {
    /// Nothing yet; `calibration` is by seed.
    pub(super) fn new(
        held_out: &'a CalibrationLoss<'a>,
        calibration: &'a BTreeMap<u64, CalibrationLoss<'a>>,
    ) -> Self {
        let of_seed =
            |(&seed, loss): (&u64, &'a CalibrationLoss<'a>)| (seed, Ledger::in_memory(loss));
        Self {
            held_out: Ledger::in_memory(held_out),
            calibration: calibration.iter().map(of_seed).collect(),
        }
    }

    fn calibration(&mut self, seed: u64, removed: &PerStage<BlockSet>) -> Result<Vec<f64>> {
        let ledger = self.calibration.get_mut(&seed);
        known_costs(ledger.ok_or_else(|| unknown_seed(seed))?, removed)
    }
}

fn unknown_seed(seed: u64) -> Error {
    anyhow!("seed {seed} is not in the list of seeds")
}

/// As [`unit_costs`], measured once.
fn known_costs(ledger: &mut Ledger<'_>, removed: &PerStage<BlockSet>) -> Result<Vec<f64>> {
    let units: Vec<usize> = (0..ledger.units()).collect();
    let one = std::slice::from_ref(removed);
    Ok(ledger
        .unit_costs(one, &units, &mut |_, _| {})?
        .swap_remove(0))
}

/// The cost on each window, by itself: candidates of one call share what they are measured from.
fn unit_costs(loss: &CalibrationLoss<'_>, removed: &PerStage<BlockSet>) -> Result<Vec<f64>> {
    let units: Vec<usize> = (0..loss.units()).collect();
    let one = std::slice::from_ref(removed);
    let mut costs = loss.unit_costs(one, &units, &mut |_, _| ControlFlow::Continue(()))?;
    Ok(costs.swap_remove(0))
}
