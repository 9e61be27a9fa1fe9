//! Blocks for prefill, then blocks for decode, or one set for both.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use pdtrim_core::objective::{CalibrationLoss, Redundancy, Rows};
use pdtrim_core::{BlockSet, PerStage, Stage};
use pdtrim_search::{CandidateSets, Evaluation, Ledger, Problem, StageProblem, Strategy, Target};

use super::Run;
use crate::args::StrategyArg;
use crate::repair::{Pairs, PairsJob, RepairSettings};
use crate::taylor;

/// What was found, and how.
pub(super) struct Found {
    pub(super) method: &'static str,
    pub(super) removed: PerStage<BlockSet>,
    /// J of the dense model, with P removed only, and with P and D.
    pub(super) cost_dense: f64,
    pub(super) cost_prefill: f64,
    pub(super) cost: f64,
    pub(super) trace: Vec<Evaluation>,
    /// On how many windows each candidate was evaluated that a race dropped.
    pub(super) dropped: Vec<usize>,
    /// How large the two candidate sets of each search were; none for a strategy without them.
    pub(super) candidate_sets: Vec<String>,
    /// First blocks of the pairs for which one repaired block stands, if there were any to choose.
    pub(super) pairs: Option<PerStage<Vec<usize>>>,
}

pub(super) fn run(run: &Run, loss: &CalibrationLoss<'_>, redundancy: &Redundancy) -> Result<Found> {
    let (sets, pairs) = candidates(run, loss, redundancy)?.unwrap_or_default();
    let with_pairs = |windows| {
        let pairs = pairs.as_ref();
        pairs
            .map(|pairs| pairs.loss(&run.session, windows, run.config.boundary))
            .transpose()
    };
    let paired_loss = with_pairs(&run.calibration)?;
    let loss = paired_loss.as_ref().unwrap_or(loss);
    // Without pairs as ever: what was kept by an earlier version is found again.
    let measured_with = match &pairs {
        Some(pairs) => format!("{} pairs {}", run.fingerprint()?, pairs.sha256),
        None => run.fingerprint()?,
    };
    let ledger = Ledger::resume(loss, &run.folder.journal("search"), &measured_with)?;
    let reused = ledger.reused();
    if reused > 0 {
        run.progress.say(&format!(
            "reusing {reused} evaluations of an earlier run (--force starts over)"
        ));
    }
    let validation = run.validation.as_ref().map(|windows| {
        let (rows, boundary) = (Rows::Continuation, run.config.boundary);
        let plain = CalibrationLoss::new(&run.session.model, windows, rows, boundary);
        Ok::<_, anyhow::Error>(with_pairs(windows)?.unwrap_or(plain))
    });
    let validation = validation.transpose()?;
    let validation = validation.as_ref().map(|loss| {
        let (journal, windows) = (
            run.folder.journal("validation"),
            run.config.validation_windows,
        );
        let fingerprint = format!("{measured_with} and {windows} windows");
        let ledger = Ledger::resume(loss, &journal, &fingerprint)?;
        Ok::<_, anyhow::Error>(Arc::new(Mutex::new(ledger)))
    });
    let mut search = Search {
        run,
        strategy: run.config.search_strategy(validation.transpose()?)?,
        redundancy: &redundancy.0,
        ledger,
        candidate_sets: sets,
    };
    let removed = if run.config.unified {
        PerStage::both(search.unified()?)
    } else {
        search.by_stage()?
    };
    let standing = pairs.as_ref().map(|pairs| pairs.standing(&removed));
    Ok(Found {
        pairs: standing,
        ..search.into_found(removed)?
    })
}

/// The sizes of `pdtrim`'s two candidate sets, in words, and its pairs, if they are to be repaired.
fn candidates(
    run: &Run,
    loss: &CalibrationLoss<'_>,
    redundancy: &Redundancy,
) -> Result<Option<(Vec<String>, Option<Pairs>)>> {
    let config = &run.config;
    if config.strategy != StrategyArg::Pdtrim {
        return Ok(None);
    }
    let pairs = loss.pair_redundancy()?.0;
    let threshold = config.distill_threshold()?;
    let sets = |target, stage: Stage| -> Result<CandidateSets> {
        let (redundancy, pairs) = (redundancy.0.of(stage), pairs.of(stage));
        let problem = Problem::new(target, redundancy, 0, !config.unprotected_ends)?;
        Ok(CandidateSets::new(&problem, pairs, threshold)?)
    };
    let decode = Target::Decode {
        prefill: BlockSet::empty(run.session.depth()),
        nested: !config.independent,
    };
    let sets = PerStage {
        prefill: sets(Target::Prefill, Stage::Prefill)?,
        decode: sets(decode, Stage::Decode)?,
    };
    let windows = run.repair.as_ref();
    let windows = windows.map(|windows| &windows.fit().calibration);
    let settings = windows.and_then(|windows| {
        let count = windows.windows().len();
        RepairSettings::of(config, config.pairs, count)
    });
    let pairs = match (windows, settings) {
        (Some(windows), Some(settings)) => PairsJob {
            session: &run.session,
            firsts: PerStage {
                prefill: sets.prefill.distillation().clone(),
                decode: sets.decode.distillation().clone(),
            },
            boundary: config.boundary,
            windows,
            settings,
            folder: &run.folder,
            name: "pairs",
            fingerprint: &run.repair_fingerprint()?,
        }
        .fit(run.progress)?,
        _ => None,
    };
    let in_words = |what, sets: &CandidateSets| {
        let sizes = format!(
            "{what}: {} blocks in the pruning set, {} pairs of joint redundancy {threshold} or more \
                in the distillation set{}",
            sets.pruning().len(),
            sets.distillation().len(),
            match &pairs {
                Some(_) => "; a block stands for a pair where it stays and the next one goes",
                None => ", which is for --pairs",
            }
        );
        run.progress.say(&sizes);
        sizes
    };
    let sizes = vec![
        in_words("prefill", &sets.prefill),
        in_words("decode", &sets.decode),
    ];
    Ok(Some((sizes, pairs)))
}

/// The searches of a run.
struct Search<'s> {
    run: &'s Run,
    strategy: Box<dyn Strategy + 's>,
    redundancy: &'s PerStage<Vec<f64>>,
    ledger: Ledger<'s>,
    candidate_sets: Vec<String>,
}

impl Search<'_> {
    fn unified(&mut self) -> Result<BlockSet> {
        let (redundancy, count) = (self.of_both(self.redundancy), self.run.config.decode_count);
        // One machine: the loss of all tokens, as the strategy's authors measure it.
        let importance = self.importance(Rows::All)?;
        let protect_ends = !self.run.config.unprotected_ends;
        let mut problem = Problem::new(Target::Unified, &redundancy, count, protect_ends)?;
        if let Some(table) = &importance {
            problem = problem.with_importance(&table.decode)?;
        }
        let progress = self.run.progress;
        let mut step = progress.search("search both stages");
        let on_step = &mut |event| step.hear(&event);
        let removed = self.strategy.search(&problem, &mut self.ledger, on_step)?;
        drop(step);
        progress.say(&format!("search both stages: blocks {removed}"));
        Ok(removed)
    }

    /// A table for both stages together: their means, by their tokens in a window.
    fn of_both(&self, table: &PerStage<Vec<f64>>) -> Vec<f64> {
        let windows = &self.run.calibration;
        let share = windows.prompt_tokens() as f64 / windows.window_tokens() as f64;
        let stages = table.prefill.iter().zip(&table.decode);
        stages
            .map(|(prefill, decode)| share * prefill + (1.0 - share) * decode)
            .collect()
    }

    fn by_stage(&mut self) -> Result<PerStage<BlockSet>> {
        let config = &self.run.config;
        let mut problem = StageProblem {
            redundancy: self.redundancy,
            importance: None,
            counts: PerStage {
                prefill: config.prefill_count,
                decode: config.decode_count,
            },
            nested: !config.independent,
            protect_ends: !config.unprotected_ends,
        };
        problem.check(self.strategy.as_ref())?;
        let importance = self.importance(Rows::Continuation)?;
        problem.importance = importance.as_ref();
        let progress = self.run.progress;
        let mut step = progress.search("search");
        let on_step = &mut |_, event| step.hear(&event);
        let removed = problem.search(self.strategy.as_ref(), &mut self.ledger, on_step)?;
        drop(step);
        for stage in [Stage::Prefill, Stage::Decode] {
            progress.say(&format!("search {stage}: blocks {}", removed.of(stage)));
        }
        Ok(removed)
    }

    /// The importance of each block, if the strategy goes by it; an earlier run's where that was kept.
    fn importance(&self, rows: Rows) -> Result<Option<PerStage<Vec<f64>>>> {
        if !self.strategy.wants_importance() {
            return Ok(None);
        }
        let Run {
            config,
            folder,
            session,
            calibration,
            progress,
            ..
        } = self.run;
        let fingerprint = format!("{} {rows:?}", self.run.fingerprint()?);
        if let Some(kept) = folder.kept("taylor", &fingerprint) {
            return Ok(Some(kept));
        }
        let loss = (rows, config.boundary);
        let importance = taylor::importance(session, calibration, loss, *progress)?;
        folder.keep("taylor", &fingerprint, &importance)?;
        Ok(Some(importance))
    }

    fn into_found(mut self, removed: PerStage<BlockSet>) -> Result<Found> {
        let none = BlockSet::empty(self.run.session.depth());
        let prefill_only = PerStage {
            prefill: removed.prefill.clone(),
            decode: none.clone(),
        };
        // One at a time: candidates of one call are measured from what they share, which costs the same here.
        let mut cost =
            |candidate| Ok::<_, anyhow::Error>(self.ledger.costs(&[candidate], &mut |_| {})?[0]);
        Ok(Found {
            method: self.strategy.name(),
            cost_dense: cost(PerStage::both(none))?,
            cost_prefill: cost(prefill_only)?,
            cost: cost(removed.clone())?,
            removed,
            trace: self.ledger.trace().to_vec(),
            dropped: self.ledger.dropped().map(|(_, windows)| windows).collect(),
            candidate_sets: self.candidate_sets,
            pairs: None,
        })
    }
}
