//! What KV plans cost, each measured once.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use pdtrim_core::journal::Journal;
use pdtrim_core::objective::{CalibrationLoss, TransferCandidate};
use pdtrim_core::{BlockId, BlockSet, KvGroup, KvPlan, PerStage};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::planned::PlannedTransfer;

/// One KV plan that was measured: the record of the journal and of the trace.
///
/// ```
/// use pdtrim_core::{KvEncoding, KvPlan};
/// use pdtrim_kv::KvEvaluation;
///
/// let plan = KvPlan::send_all(3).encoded_everywhere(KvEncoding::Int8);
/// let line = serde_json::to_string(&KvEvaluation { kv: plan.to_groups(), cost: 3.5 })?;
/// assert_eq!(line, r#"{"kv":[{"blocks":[0,1,2],"encoding":"int8"}],"cost":3.5}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvEvaluation {
    /// The plan.
    pub kv: Vec<KvGroup>,
    /// J with it: mean negative log-likelihood of the continuations, in nats.
    pub cost: f64,
}

/// Costs that an earlier run measured, and where new ones are written down.
///
/// ```
/// use pdtrim_core::journal::Journal;
/// use pdtrim_kv::KvJournal;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let path = folder.path().join("kv.jsonl");
/// let journal: KvJournal = Journal::resume(&path, "model, windows, boundary")?;
/// assert!(journal.1.is_empty());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub type KvJournal = (Journal<KvEvaluation>, Vec<KvEvaluation>);

/// Remembers every cost, on disk if there is a journal.
pub(crate) struct Costs<'a, 'j> {
    loss: &'a CalibrationLoss<'a>,
    removed: &'a PerStage<BlockSet>,
    known: BTreeMap<Vec<KvGroup>, f64>,
    trace: Vec<KvEvaluation>,
    journal: Option<Journal<KvEvaluation>>,
    on_cost: &'j mut (dyn FnMut(&KvEvaluation) + Send),
}

impl<'a, 'j> Costs<'a, 'j> {
    pub(crate) fn new(
        (loss, removed): (&'a CalibrationLoss<'a>, &'a PerStage<BlockSet>),
        journal: Option<KvJournal>,
        on_cost: &'j mut (dyn FnMut(&KvEvaluation) + Send),
    ) -> Self {
        let (journal, trace) = journal.map_or((None, Vec::new()), |(journal, known)| {
            (Some(journal), known)
        });
        let known = trace.iter().map(|known| (known.kv.clone(), known.cost));
        Self {
            loss,
            removed,
            known: known.collect(),
            trace,
            journal,
            on_cost,
        }
    }

    /// Every plan that was measured, in order.
    pub(crate) fn into_trace(self) -> Vec<KvEvaluation> {
        self.trace
    }

    /// The costs of `plans`; only unknown ones are measured. Blocks before the first in which a plan
    /// differs from `base` are run once for all.
    pub(crate) fn of(&mut self, base: &KvPlan, plans: &[KvPlan]) -> Result<Vec<f64>> {
        let wanted: Vec<Vec<KvGroup>> = plans.iter().map(KvPlan::to_groups).collect();
        let mut unknown: Vec<(&KvPlan, &Vec<KvGroup>)> = Vec::new();
        for (plan, groups) in plans.iter().zip(&wanted) {
            let is_planned = unknown.iter().any(|(_, planned)| *planned == groups);
            if !is_planned && !self.known.contains_key(groups) {
                unknown.push((plan, groups));
            }
        }
        let transfers: Vec<PlannedTransfer> = unknown
            .iter()
            .map(|(plan, _)| PlannedTransfer::new((*plan).clone()))
            .collect();
        let kept = self.removed.decode.complement();
        let candidate = |transfer| {
            let differs =
                |id: &BlockId| PlannedTransfer::plan(transfer).block(*id) != base.block(*id);
            let differs_in = kept.iter().filter(differs).map(BlockId::index);
            Ok(TransferCandidate {
                transfer,
                differs_in: BlockSet::from_indices(kept.depth(), differs_in)?,
            })
        };
        let candidates: Result<Vec<_>> = transfers.iter().map(candidate).collect();
        let candidates = candidates?;
        let (loss, removed) = (self.loss, self.removed);
        let (journal, on_cost) = (&mut self.journal, &mut self.on_cost);
        let (known, trace) = (&mut self.known, &mut self.trace);
        let mut failed = None;
        let measured = loss.transfer_costs(
            removed,
            &PlannedTransfer::new(base.clone()),
            &candidates,
            &mut |n, cost| {
                let evaluation = KvEvaluation {
                    kv: unknown[n].1.clone(),
                    cost,
                };
                if let Some(error) = journal
                    .as_mut()
                    .and_then(|journal| journal.append(&evaluation).err())
                {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
                on_cost(&evaluation);
                known.insert(evaluation.kv.clone(), cost);
                trace.push(evaluation);
                ControlFlow::Continue(())
            },
        );
        if let Some(error) = failed {
            return Err(error.into());
        }
        measured?;
        Ok(wanted.iter().map(|groups| self.known[groups]).collect())
    }
}
