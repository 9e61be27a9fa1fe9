//! Remembers every cost, on disk if asked to.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use pdtrim_core::journal::Journal;
use pdtrim_core::objective::Objective;
use pdtrim_core::{BlockSet, PerStage};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// One evaluated candidate: the record of the journal and of the search trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Blocks removed from each stage.
    pub removed: PerStage<Vec<usize>>,
    /// Its cost.
    pub cost: f64,
}

/// Costs known so far, in the order in which they became known.
pub struct Ledger<'a> {
    objective: &'a dyn Objective,
    known: BTreeMap<PerStage<BlockSet>, f64>,
    trace: Vec<Evaluation>,
    journal: Option<Journal<Evaluation>>,
    reused: usize,
}

impl<'a> Ledger<'a> {
    /// A ledger that forgets with the process.
    pub fn in_memory(objective: &'a dyn Objective) -> Self {
        Self {
            objective,
            known: BTreeMap::new(),
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
    /// [`Error::Objective`](crate::Error::Objective) if the journal cannot be opened or holds blocks that do not exist.
    pub fn resume(objective: &'a dyn Objective, path: &Path, fingerprint: &str) -> Result<Self> {
        let (journal, evaluations) = Journal::<Evaluation>::resume(path, fingerprint)?;
        let mut ledger = Self::in_memory(objective);
        for evaluation in evaluations {
            let set = |indices: &[usize]| {
                BlockSet::from_indices(objective.depth(), indices.iter().copied())
            };
            let removed = PerStage {
                prefill: set(&evaluation.removed.prefill)?,
                decode: set(&evaluation.removed.decode)?,
            };
            ledger.remember(removed, evaluation.cost);
        }
        ledger.reused = ledger.trace.len();
        ledger.journal = Some(journal);
        Ok(ledger)
    }

    /// Costs that an earlier run had already measured.
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// Every evaluation, in the order in which it became known.
    pub fn trace(&self) -> &[Evaluation] {
        &self.trace
    }

    /// The costs of `candidates`; only unknown ones are evaluated. `on_cost` hears of each that was.
    ///
    /// # Errors
    ///
    /// [`Error::Objective`](crate::Error::Objective).
    pub fn costs(
        &mut self,
        candidates: &[PerStage<BlockSet>],
        on_cost: &mut (dyn FnMut(&Evaluation) + Send),
    ) -> Result<Vec<f64>> {
        let mut unknown: Vec<PerStage<BlockSet>> = Vec::new();
        for candidate in candidates {
            if !self.known.contains_key(candidate) && !unknown.contains(candidate) {
                unknown.push(candidate.clone());
            }
        }
        let mut failed = None;
        let objective = self.objective;
        let evaluated = objective.costs(&unknown, &mut |index, cost| {
            let evaluation = self.remember(unknown[index].clone(), cost);
            on_cost(&evaluation);
            match self.append(&evaluation) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        evaluated?;
        Ok(candidates
            .iter()
            .map(|candidate| self.known[candidate])
            .collect())
    }

    fn remember(&mut self, removed: PerStage<BlockSet>, cost: f64) -> Evaluation {
        let indices = PerStage {
            prefill: removed.prefill.to_indices(),
            decode: removed.decode.to_indices(),
        };
        let evaluation = Evaluation {
            removed: indices,
            cost,
        };
        self.known.insert(removed, cost);
        self.trace.push(evaluation.clone());
        evaluation
    }

    fn append(&mut self, evaluation: &Evaluation) -> Result<()> {
        Ok(self
            .journal
            .as_mut()
            .map_or(Ok(()), |journal| journal.append(evaluation))?)
    }
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
        let mut evaluated = Vec::new();
        let costs = resumed.costs(&[candidate(2), candidate(3)], &mut |evaluation| {
            evaluated.push(evaluation.cost);
        });
        assert_eq!(costs.unwrap(), [3.0, 4.0]);
        assert_eq!(evaluated, [4.0]);
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
