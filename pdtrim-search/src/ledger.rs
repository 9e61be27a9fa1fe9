//! Remembers every cost, on disk if asked to.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use pdtrim_core::journal::Journal;
use pdtrim_core::objective::{Objective, mean_cost};
use pdtrim_core::{BlockSet, PerStage};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One evaluated candidate.
///
/// ```
/// use pdtrim_core::{BlockSet, PerStage};
/// use pdtrim_search::{Ledger, Toy};
///
/// let objective = Toy::new(vec![9.0, 2.0, 1.0]);
/// let mut ledger = Ledger::in_memory(&objective);
/// ledger.costs(&[PerStage::both(BlockSet::from_indices(3, [1])?)], &mut |_| {})?;
/// let evaluation = &ledger.trace()[0];
/// assert_eq!((&evaluation.removed.decode[..], evaluation.cost), (&[1][..], 2.0));
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Blocks removed from each stage.
    pub removed: PerStage<Vec<usize>>,
    /// Its cost.
    pub cost: f64,
}

/// A line of the journal: a candidate evaluated in full, or on some of the objective's units.
#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Record {
    Whole {
        removed: PerStage<Vec<usize>>,
        cost: f64,
        #[serde(default)]
        seconds: f64,
    },
    Units {
        removed: PerStage<Vec<usize>>,
        /// Unit and cost.
        unit_costs: Vec<(usize, f64)>,
        #[serde(default)]
        seconds: f64,
    },
}

/// What the candidates took that were asked for since an account was opened, whether they were
/// evaluated then or earlier: the same for a search that was killed and went on, and for one that
/// shares its ledger with others.
///
/// ```
/// use pdtrim_core::{BlockSet, PerStage};
/// use pdtrim_search::{Ledger, Toy};
///
/// let objective = Toy::new(vec![9.0, 2.0, 1.0]);
/// let mut ledger = Ledger::in_memory(&objective);
/// let candidate = [PerStage::both(BlockSet::from_indices(3, [1])?)];
/// ledger.costs(&candidate, &mut |_| {})?;
/// // What is known already counts for who asks again.
/// ledger.open_account();
/// ledger.costs(&candidate, &mut |_| {})?;
/// assert_eq!(ledger.account().evaluations, 1);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Account {
    /// Candidates.
    pub evaluations: usize,
    /// The same, counted for each unit on which one was evaluated.
    pub unit_evaluations: usize,
    /// Wall time of their evaluation.
    pub seconds: f64,
}

/// Costs known so far, and the order in which they were asked for.
///
/// ```
/// use pdtrim_core::{BlockSet, PerStage};
/// use pdtrim_search::{Error, Ledger, Toy};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let path = folder.path().join("costs.jsonl");
/// let objective = Toy::new(vec![9.0, 2.0, 1.0]);
/// let without = |block| Ok::<_, Error>(PerStage::both(BlockSet::from_indices(3, [block])?));
/// let candidates = [without(1)?, without(2)?];
/// let mut ledger = Ledger::resume(&objective, &path, "toy")?;
/// assert_eq!(ledger.costs(&candidates, &mut |_| {})?, [2.0, 1.0]);
/// drop(ledger);
///
/// // A search that was killed finds both costs there.
/// let ledger = Ledger::resume(&objective, &path, "toy")?;
/// assert_eq!((ledger.reused(), ledger.cost(&candidates[0])), (2, Some(2.0)));
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
pub struct Ledger<'a> {
    objective: &'a dyn Objective,
    known: BTreeMap<PerStage<BlockSet>, f64>,
    /// Costs on single units, of candidates that were raced.
    on_units: BTreeMap<PerStage<BlockSet>, BTreeMap<usize, f64>>,
    /// Seconds that each candidate took.
    seconds: BTreeMap<PerStage<BlockSet>, f64>,
    /// Candidates in the open account.
    asked: BTreeSet<PerStage<BlockSet>>,
    /// Candidates in the trace.
    traced: BTreeSet<PerStage<BlockSet>>,
    trace: Vec<Evaluation>,
    journal: Option<Journal<Record>>,
    reused: usize,
}

impl<'a> Ledger<'a> {
    /// A ledger that forgets with the process.
    pub fn in_memory(objective: &'a dyn Objective) -> Self {
        Self {
            objective,
            known: BTreeMap::new(),
            on_units: BTreeMap::new(),
            seconds: BTreeMap::new(),
            asked: BTreeSet::new(),
            traced: BTreeSet::new(),
            trace: Vec::new(),
            journal: None,
            reused: 0,
        }
    }

    /// A ledger that appends every cost to the journal at `path` and starts from what it holds.
    ///
    /// `fingerprint` names what the costs are measured with (model, windows, boundary): a journal of
    /// another objective is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Objective`] if the journal cannot be opened or holds blocks that do not exist;
    /// [`Error::UnknownUnit`] if it holds units that do not.
    pub fn resume(objective: &'a dyn Objective, path: &Path, fingerprint: &str) -> Result<Self> {
        let (journal, records) = Journal::<Record>::resume(path, fingerprint)?;
        let mut ledger = Self::in_memory(objective);
        let depth = objective.depth();
        for record in records {
            match record {
                Record::Whole {
                    removed,
                    cost,
                    seconds,
                } => {
                    let removed = sets(depth, &removed)?;
                    ledger.add_seconds(&removed, seconds);
                    ledger.remember(removed, cost);
                }
                Record::Units {
                    removed,
                    unit_costs,
                    seconds,
                } => {
                    let units = objective.units();
                    if let Some(&(found, _)) = unit_costs.iter().find(|(unit, _)| *unit >= units) {
                        return Err(Error::UnknownUnit { units, found });
                    }
                    let removed = sets(depth, &removed)?;
                    ledger.add_seconds(&removed, seconds);
                    ledger.remember_units(&removed, unit_costs);
                }
            }
        }
        ledger.reused = ledger.known.len();
        ledger.journal = Some(journal);
        Ok(ledger)
    }

    /// Costs that an earlier run had already measured.
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// The candidates that were asked for and evaluated in full, now or by an earlier run, in the order of
    /// asking: the same on any number of threads, and for a search that was killed and went on.
    pub fn trace(&self) -> &[Evaluation] {
        &self.trace
    }

    /// Candidates that were evaluated on some units only, and on how many.
    pub fn dropped(&self) -> impl Iterator<Item = (&PerStage<BlockSet>, usize)> {
        self.on_units
            .iter()
            .filter(|(removed, _)| !self.known.contains_key(removed))
            .map(|(removed, costs)| (removed, costs.len()))
    }

    /// Opens an account; what was asked before is not in it.
    pub fn open_account(&mut self) {
        self.asked.clear();
    }

    /// The open account; without [`open_account`](Self::open_account), of everything that was asked.
    pub fn account(&self) -> Account {
        let mut account = Account::default();
        for candidate in &self.asked {
            let whole = self.known.contains_key(candidate);
            let on_units = self.on_units.get(candidate).map_or(0, BTreeMap::len);
            let units = if whole { self.units() } else { on_units };
            account.evaluations += usize::from(whole);
            account.unit_evaluations += units;
            account.seconds += self.seconds.get(candidate).copied().unwrap_or(0.0);
        }
        account
    }

    /// Wall time of all evaluations, in this run and those that it goes on from, in seconds.
    pub fn seconds(&self) -> f64 {
        self.seconds.values().sum()
    }

    /// Puts candidates into the account.
    pub(crate) fn ask(&mut self, candidates: &[PerStage<BlockSet>]) {
        self.asked.extend(candidates.iter().cloned());
    }

    /// Number of blocks of the model.
    pub fn depth(&self) -> usize {
        self.objective.depth()
    }

    /// Number of units of which a cost is the mean.
    pub fn units(&self) -> usize {
        self.objective.units()
    }

    /// The cost of a candidate that was evaluated in full.
    pub fn cost(&self, candidate: &PerStage<BlockSet>) -> Option<f64> {
        self.known.get(candidate).copied()
    }

    /// Whether nothing would be evaluated twice if the candidate's costs on units were asked for.
    pub(crate) fn can_race(&self, candidate: &PerStage<BlockSet>) -> bool {
        let on_units = self.on_units.get(candidate).map_or(0, BTreeMap::len);
        on_units == self.units() || !self.known.contains_key(candidate)
    }

    /// The costs of `candidates`; only unknown ones are evaluated. `on_cost` hears of each that was.
    ///
    /// # Errors
    ///
    /// [`Error::Objective`]; [`Error::CostNotFinite`], and that cost is not remembered.
    pub fn costs(
        &mut self,
        candidates: &[PerStage<BlockSet>],
        on_cost: &mut (dyn FnMut(&Evaluation) + Send),
    ) -> Result<Vec<f64>> {
        self.ask(candidates);
        let mut unknown: Vec<PerStage<BlockSet>> = Vec::new();
        for candidate in candidates {
            if !self.known.contains_key(candidate) && !unknown.contains(candidate) {
                unknown.push(candidate.clone());
            }
        }
        let mut failed = None;
        let mut watch = Stopwatch::start();
        let objective = self.objective;
        let evaluated = objective.costs(&unknown, &mut |index, cost| {
            if let Err(error) = check_finite(&unknown[index], &[cost]) {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            let seconds = watch.lap();
            self.add_seconds(&unknown[index], seconds);
            let evaluation = self.remember(unknown[index].clone(), cost);
            on_cost(&evaluation);
            let record = Record::Whole {
                removed: evaluation.removed,
                cost,
                seconds,
            };
            self.append(&record, &mut failed)
        });
        if let Some(error) = failed {
            return Err(error);
        }
        evaluated?;
        self.follow(candidates);
        Ok(candidates
            .iter()
            .map(|candidate| self.known[candidate])
            .collect())
    }

    /// The costs of `candidates` on `units`, `[candidate][unit]`; only unknown ones are evaluated. A
    /// candidate whose last unit this was has its cost from then on.
    ///
    /// `on_units` hears for each candidate how many units were evaluated, and of its cost if it has one now.
    ///
    /// # Errors
    ///
    /// As [`costs`](Self::costs).
    pub fn unit_costs(
        &mut self,
        candidates: &[PerStage<BlockSet>],
        units: &[usize],
        on_units: &mut (dyn FnMut(usize, Option<&Evaluation>) + Send),
    ) -> Result<Vec<Vec<f64>>> {
        self.ask(candidates);
        // Candidates that lack the same units are evaluated together.
        let mut lacking: BTreeMap<Vec<usize>, Vec<PerStage<BlockSet>>> = BTreeMap::new();
        for candidate in candidates {
            let known = self.on_units.entry(candidate.clone()).or_default();
            let unknown = units.iter().filter(|unit| !known.contains_key(unit));
            let unknown: Vec<usize> = unknown.copied().collect();
            let together = lacking.entry(unknown).or_default();
            if !together.contains(candidate) {
                together.push(candidate.clone());
            }
        }
        for (units, candidates) in lacking.iter().filter(|(units, _)| !units.is_empty()) {
            self.evaluate_units(candidates, units, on_units)?;
        }
        self.follow(candidates);
        let costs = |candidate| {
            let known = &self.on_units[candidate];
            units.iter().map(|unit| known[unit]).collect()
        };
        Ok(candidates.iter().map(costs).collect())
    }

    fn evaluate_units(
        &mut self,
        candidates: &[PerStage<BlockSet>],
        units: &[usize],
        on_units: &mut (dyn FnMut(usize, Option<&Evaluation>) + Send),
    ) -> Result<()> {
        let mut failed = None;
        let mut watch = Stopwatch::start();
        let objective = self.objective;
        let evaluated = objective.unit_costs(candidates, units, &mut |index, costs| {
            let removed = &candidates[index];
            if let Err(error) = check_finite(removed, costs) {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            let seconds = watch.lap();
            self.add_seconds(removed, seconds);
            let costs: Vec<_> = units.iter().copied().zip(costs.iter().copied()).collect();
            let whole = self.remember_units(removed, costs.clone());
            on_units(costs.len(), whole.as_ref());
            let record = Record::Units {
                removed: indices(removed),
                unit_costs: costs,
                seconds,
            };
            self.append(&record, &mut failed)
        });
        if let Some(error) = failed {
            return Err(error);
        }
        evaluated?;
        Ok(())
    }

    /// Returns the whole evaluation if these units complete it.
    fn remember_units(
        &mut self,
        removed: &PerStage<BlockSet>,
        unit_costs: Vec<(usize, f64)>,
    ) -> Option<Evaluation> {
        let known = self.on_units.entry(removed.clone()).or_default();
        known.extend(unit_costs);
        if known.len() < self.objective.units() || self.known.contains_key(removed) {
            return None;
        }
        let costs: Vec<f64> = known.values().copied().collect();
        Some(self.remember(removed.clone(), mean_cost(&costs)))
    }

    fn remember(&mut self, removed: PerStage<BlockSet>, cost: f64) -> Evaluation {
        let evaluation = Evaluation {
            removed: indices(&removed),
            cost,
        };
        self.known.insert(removed, cost);
        evaluation
    }

    /// Puts those of `candidates` that have a cost into the trace.
    fn follow(&mut self, candidates: &[PerStage<BlockSet>]) {
        for candidate in candidates {
            if let Some(&cost) = self.known.get(candidate)
                && self.traced.insert(candidate.clone())
            {
                self.trace.push(Evaluation {
                    removed: indices(candidate),
                    cost,
                });
            }
        }
    }

    fn add_seconds(&mut self, removed: &PerStage<BlockSet>, seconds: f64) {
        *self.seconds.entry(removed.clone()).or_default() += seconds;
    }

    /// Breaks off with the error in `failed` if the record cannot be written.
    fn append(&mut self, record: &Record, failed: &mut Option<Error>) -> ControlFlow<()> {
        let journal = self.journal.as_mut();
        match journal.map_or(Ok(()), |journal| journal.append(record)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                *failed = Some(error.into());
                ControlFlow::Break(())
            }
        }
    }
}

/// Shares out the time of a call of the objective: each candidate has what passed since the one before.
struct Stopwatch(Instant);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = (now - self.0).as_secs_f64();
        self.0 = now;
        seconds
    }
}

/// Refuses costs that could not be compared, nor read back from a journal.
fn check_finite(removed: &PerStage<BlockSet>, costs: &[f64]) -> Result<()> {
    match costs.iter().find(|cost| !cost.is_finite()) {
        Some(&found) => Err(Error::CostNotFinite {
            removed: removed.clone(),
            found,
        }),
        None => Ok(()),
    }
}

fn indices(removed: &PerStage<BlockSet>) -> PerStage<Vec<usize>> {
    PerStage {
        prefill: removed.prefill.to_indices(),
        decode: removed.decode.to_indices(),
    }
}

fn sets(depth: usize, removed: &PerStage<Vec<usize>>) -> Result<PerStage<BlockSet>> {
    let set = |indices: &[usize]| BlockSet::from_indices(depth, indices.iter().copied());
    Ok(PerStage {
        prefill: set(&removed.prefill)?,
        decode: set(&removed.decode)?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::toy::Toy;

    fn candidate(block: usize) -> PerStage<BlockSet> {
        PerStage::both(BlockSet::from_indices(4, [block]).unwrap())
    }

    #[test]
    fn a_resumed_ledger_evaluates_only_what_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let toy = Toy::new(vec![1.0, 2.0, 3.0, 4.0]);
        let mut ledger = Ledger::resume(&toy, &path, "toy").unwrap();
        ledger
            .costs(&[candidate(1), candidate(2)], &mut |_| {})
            .unwrap();
        // A kill in the middle of a line.
        let mut torn = fs::read(&path).unwrap();
        torn.extend(br#"{"removed":{"prefill":[3],"dec"#);
        fs::write(&path, torn).unwrap();

        let mut resumed = Ledger::resume(&toy, &path, "toy").unwrap();
        assert_eq!(resumed.reused(), 2);
        assert!(resumed.trace().is_empty());
        let mut evaluated = Vec::new();
        let costs = resumed.costs(&[candidate(2), candidate(3)], &mut |evaluation| {
            evaluated.push(evaluation.cost);
        });
        assert_eq!(costs.unwrap(), [3.0, 4.0]);
        assert_eq!(evaluated, [4.0]);
        // As asked, known or not; what nobody asked for is not in it.
        let traced: Vec<f64> = resumed.trace().iter().map(|found| found.cost).collect();
        assert_eq!(traced, [3.0, 4.0]);
        // What was asked, not what was evaluated.
        let account = resumed.account();
        assert_eq!((account.evaluations, account.unit_evaluations), (2, 2));
        assert!(account.seconds <= resumed.seconds());
        resumed.open_account();
        assert_eq!(resumed.account(), Account::default());
        assert_eq!(Ledger::resume(&toy, &path, "toy").unwrap().reused(), 3);
    }

    #[test]
    fn a_journal_of_another_objective_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let toy = Toy::new(vec![1.0; 4]);
        Ledger::resume(&toy, &path, "one")
            .unwrap()
            .costs(&[candidate(1)], &mut |_| {})
            .unwrap();
        assert_eq!(Ledger::resume(&toy, &path, "two").unwrap().reused(), 0);
        assert_eq!(Ledger::resume(&toy, &path, "one").unwrap().reused(), 0);
    }

    #[test]
    fn a_journal_with_blocks_that_do_not_exist_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        fs::write(
            &path,
            "\
            {\"journal_of\":\"toy\"}\n{\"removed\":{\"prefill\":[],\"decode\":[9]},\"cost\":1.0}\n",
        )
        .unwrap();
        let toy = Toy::new(vec![1.0; 4]);
        let error = Ledger::resume(&toy, &path, "toy")
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("block 9"), "{error}");
    }
}
