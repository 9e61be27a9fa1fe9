//! The searches, and the losses of what they chose.

use std::ops::ControlFlow;

use anyhow::Result;
use pdtrim_core::objective::{CalibrationLoss, Objective, Rows};
use pdtrim_core::plan::PlanCalibration;
use pdtrim_core::{BlockSet, PerStage};
use pdtrim_search::calibration::{CalibrationSet, Corpus, WindowDraw};
use pdtrim_search::{Ledger, Random, Sleb, StageProblem, Strategy};

use super::domains::Domain;
use crate::args::CalibrationsArgs;
use crate::calibration;
use crate::progress::Progress;
use crate::session::Session;

/// Everything that all rows share.
pub(super) struct Comparison<'c> {
    pub(super) args: &'c CalibrationsArgs,
    pub(super) session: &'c Session,
    pub(super) progress: Progress,
}

/// What one source and seed chose.
pub(super) struct Searched {
    /// The source, or `random`.
    pub(super) source: String,
    pub(super) seed: u64,
    pub(super) removed: PerStage<BlockSet>,
    /// `None` for blocks that no windows chose.
    pub(super) own: Option<OwnWindows>,
}

/// The windows that a search saw, and J on them.
pub(super) struct OwnWindows {
    pub(super) about: PlanCalibration,
    pub(super) cost_dense: f64,
    pub(super) cost: f64,
}

impl Comparison<'_> {
    /// The held-out windows of every domain.
    pub(super) fn draw_held_out(&self, domains: Vec<(String, Corpus)>) -> Result<Vec<Domain>> {
        let wanted = WindowDraw {
            windows: self.args.held_out_windows.get(),
            ..self.wanted(0, false)
        };
        let draw = |(name, corpus): (String, Corpus)| {
            let set = self.draw(&corpus, &wanted)?;
            Ok(Domain { name, set })
        };
        domains.into_iter().map(draw).collect()
    }

    /// Searches once for each source and seed, and draws random blocks once for each seed.
    pub(super) fn search(&self, corpora: &[(String, Corpus)]) -> Result<Vec<Searched>> {
        let mut searched = Vec::new();
        for (source, corpus) in corpora {
            for &seed in &self.args.seeds {
                searched.push(self.search_one(source, corpus, seed)?);
            }
        }
        for &seed in &self.args.seeds {
            searched.push(self.random(seed)?);
        }
        Ok(searched)
    }

    /// The loss of the dense model, then of every row, on a domain's windows.
    pub(super) fn losses(&self, domain: &Domain, searched: &[Searched]) -> Result<Vec<f64>> {
        let model = &self.session.model;
        let windows = &domain.set.calibration;
        let loss = CalibrationLoss::new(model, windows, Rows::Continuation, self.args.boundary);
        let dense = PerStage::dense(self.session.depth());
        let removed = searched.iter().map(|row| row.removed.clone());
        let candidates: Vec<_> = std::iter::once(dense).chain(removed).collect();
        let what = format!("held-out loss, {}", domain.name);
        let step = self.progress.step(&what, candidates.len());
        Ok(loss.costs(&candidates, &mut |_, _| {
            step.advance();
            ControlFlow::Continue(())
        })?)
    }

    fn wanted(&self, seed: u64, has_items: bool) -> WindowDraw {
        let items = self.args.calibration_items.filter(|_| has_items);
        WindowDraw {
            seed,
            items: items.map(Into::into),
            windows: self.args.windows.get(),
            window_tokens: self.args.window_tokens.get(),
        }
    }

    fn draw(&self, corpus: &Corpus, wanted: &WindowDraw) -> Result<CalibrationSet> {
        calibration::draw(self.session, corpus, wanted, self.progress)
    }

    fn search_one(&self, source: &str, corpus: &Corpus, seed: u64) -> Result<Searched> {
        let set = self.draw(corpus, &self.wanted(seed, corpus.has_items()))?;
        let (model, boundary) = (&self.session.model, self.args.boundary);
        let loss = CalibrationLoss::new(model, &set.calibration, Rows::Continuation, boundary);
        let mut ledger = Ledger::in_memory(&loss);
        let what = format!("{source}, seed {seed}");
        let removed = self.choose(&what, &Sleb::default(), &mut ledger)?;
        let dense = PerStage::dense(self.session.depth());
        // One at a time, so that no two candidates share what they are measured from: as `trim` does.
        let mut cost = |of| Ok::<_, anyhow::Error>(ledger.costs(&[of], &mut |_| {})?[0]);
        let own = OwnWindows {
            about: set.about,
            cost_dense: cost(dense)?,
            cost: cost(removed.clone())?,
        };
        self.progress.say(&format!(
            "{what}: prefill without {}, decode without {}, J {:.4}",
            removed.prefill, removed.decode, own.cost
        ));
        Ok(Searched {
            source: source.to_owned(),
            seed,
            removed,
            own: Some(own),
        })
    }

    fn random(&self, seed: u64) -> Result<Searched> {
        let nothing = pdtrim_search::Toy::new(vec![0.0; self.session.depth()]);
        let strategy = Random { seed };
        let removed = self.choose("random", &strategy, &mut Ledger::in_memory(&nothing))?;
        Ok(Searched {
            source: strategy.name().to_owned(),
            seed,
            removed,
            own: None,
        })
    }

    fn choose(
        &self,
        what: &str,
        strategy: &dyn Strategy,
        ledger: &mut Ledger<'_>,
    ) -> Result<PerStage<BlockSet>> {
        let problem = StageProblem {
            // Neither strategy looks at it.
            redundancy: &PerStage::both(vec![0.0; self.session.depth()]),
            importance: None,
            counts: PerStage {
                prefill: self.args.prefill_count,
                decode: self.args.decode_count,
            },
            nested: true,
            protect_ends: !self.args.unprotected_ends,
        };
        let mut step = self.progress.search(what);
        Ok(problem.search(strategy, ledger, &mut |_, event| step.hear(&event))?)
    }
}
