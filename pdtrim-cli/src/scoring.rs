//! Tasks scored with some blocks removed; each finished score is kept in the run's folder.

use std::num::NonZeroUsize;

use anyhow::Result;
use pdtrim_core::pipeline::{CacheTransfer, PdModel, SendAll};
use pdtrim_core::{BlockSet, Boundary, KvFill, PerStage};
use pdtrim_eval::{Dataset, Difference, Execution, Metric, PdScorer, Prepared, Task, TaskResult};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::progress::Progress;
use crate::run_folder::RunFolder;
use crate::session::{Repaired, Session};
use crate::tables::or_none;
use pdtrim_core::hash::{hex, sha256};

/// A task's first metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskScore {
    pub(crate) task: String,
    #[serde(flatten)]
    pub(crate) metric: Metric,
    pub(crate) items: usize,
    /// On the same items; absent for the dense model itself.
    pub(crate) difference_to_dense: Option<Difference>,
}

impl TaskScore {
    /// The first metric of each task; `dense` are the dense model's results on the same tasks.
    pub(crate) fn of(results: &[TaskResult], dense: Option<&[TaskResult]>) -> Vec<Self> {
        let score = |(n, result): (usize, &TaskResult)| {
            let metric = *result.summary.metrics.first()?;
            let own = result.samples(metric.name);
            let dense = dense.map(|dense| dense[n].samples(metric.name));
            Some(Self {
                task: result.summary.task.clone(),
                metric,
                items: result.summary.items,
                difference_to_dense: dense.and_then(|dense| own.difference(&dense)),
            })
        };
        results.iter().enumerate().filter_map(score).collect()
    }
}

/// What of the model runs, and what crosses.
#[derive(Clone, Copy)]
struct Variant<'v> {
    removed: &'v PerStage<BlockSet>,
    repaired: &'v Repaired,
    transfer: &'v dyn CacheTransfer,
    sends: &'v str,
}

/// Tasks encoded for a model.
pub(crate) struct Scoring<'a> {
    session: &'a Session,
    folder: &'a RunFolder,
    progress: Progress,
    boundary: Boundary,
    tasks: Vec<(Prepared, Dataset)>,
}

impl<'a> Scoring<'a> {
    pub(crate) fn new(
        session: &'a Session,
        (folder, progress): (&'a RunFolder, Progress),
        boundary: Boundary,
        tasks: Vec<(Task, Dataset)>,
        limit: Option<NonZeroUsize>,
    ) -> Result<Self> {
        let dense = PdModel::dense(&session.model, boundary);
        let scorer = PdScorer::new(dense, &session.tokenizer);
        let prepare = |(task, data): (Task, Dataset)| {
            Ok((Prepared::new(&task, &data, &scorer, limit)?, data))
        };
        let tasks = tasks.into_iter().map(prepare).collect::<Result<_>>()?;
        Ok(Self {
            session,
            folder,
            progress,
            boundary,
            tasks,
        })
    }

    /// Every task with `removed`, what was `repaired`, and all KV sent.
    pub(crate) fn score(
        &self,
        removed: &PerStage<BlockSet>,
        repaired: &Repaired,
    ) -> Result<Vec<TaskResult>> {
        self.score_with(removed, repaired, (&SendAll, ""))
    }

    /// The same with what a transfer lets through, which has a name for each thing that it may do; nothing
    /// for sending everything.
    pub(crate) fn score_with(
        &self,
        removed: &PerStage<BlockSet>,
        repaired: &Repaired,
        (transfer, sends): (&dyn CacheTransfer, &str),
    ) -> Result<Vec<TaskResult>> {
        let variant = Variant {
            removed,
            repaired,
            transfer,
            sends,
        };
        let one = |(prepared, data): &_| self.one(prepared, data, variant);
        self.tasks.iter().map(one).collect()
    }

    /// Of everything but the model that scores depend on.
    pub(crate) fn hash(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        hasher.update(self.boundary.to_string());
        for (prepared, data) in &self.tasks {
            hasher.update(tokens_hash(prepared, data)?);
        }
        Ok(hex(&hasher.finalize()))
    }

    fn one(&self, prepared: &Prepared, data: &Dataset, variant: Variant<'_>) -> Result<TaskResult> {
        let fingerprint = self.fingerprint(prepared, data, variant)?;
        let Variant {
            removed,
            repaired,
            transfer,
            ..
        } = variant;
        let task = prepared.task().name();
        let name = format!("{}-{}", task.replace(['/', '\\'], "_"), &fingerprint[..16]);
        let name = format!("score-{name}");
        if let Some(result) = self.folder.kept(&name, &fingerprint) {
            return Ok(result);
        }
        let label = format!("score {task} {}", in_words(removed, variant.sends));
        let step = self.progress.step(&label, prepared.tokens());
        let model = PdModel::per_stage(
            repaired.models(self.session),
            removed.clone(),
            KvFill::Project,
            self.boundary,
            transfer,
        )?;
        let scorer = PdScorer::new(model, &self.session.tokenizer)
            .with_stop(&self.session.model.config().eos_token_ids);
        let progress = |at: pdtrim_eval::Progress| step.set_done(at.tokens_done);
        let execution = Execution {
            progress: Some(&progress),
            ..Execution::default()
        };
        let result = prepared.evaluate(&scorer, &execution)?;
        self.folder.keep(&name, &fingerprint, &result)?;
        Ok(result)
    }

    fn fingerprint(
        &self,
        prepared: &Prepared,
        data: &Dataset,
        variant: Variant<'_>,
    ) -> Result<String> {
        let session = self.session;
        let about = format!(
            "{} {} {:?} {} {} {:?} {} {:?}{}",
            env!("CARGO_PKG_VERSION"),
            session.checkpoint.hash()?,
            session.dtype,
            session.device,
            self.boundary,
            variant.removed,
            tokens_hash(prepared, data)?,
            variant.repaired.sha256(),
            variant.sends
        );
        Ok(sha256(about.as_bytes()))
    }
}

/// What of a task a score depends on: the task, its files (a label that changed is in no request) and
/// the tokens.
pub(crate) fn tokens_hash(prepared: &Prepared, data: &Dataset) -> Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(format!("{:?} {:?}", prepared.task(), data.files()));
    for request in prepared.requests() {
        hasher.update(serde_json::to_vec(&(
            &request.context,
            &request.continuations,
        ))?);
    }
    hasher.update(format!("{:?}", prepared.generations()));
    Ok(hex(&hasher.finalize()))
}

/// What runs and crosses, for progress.
fn in_words(removed: &PerStage<BlockSet>, sends: &str) -> String {
    let kv = if sends.is_empty() {
        ""
    } else {
        ", fewer bytes of KV"
    };
    let PerStage { prefill, decode } = removed;
    if prefill.is_empty() && decode.is_empty() {
        return format!("with all blocks{kv}");
    }
    let [prefill, decode] = [prefill, decode].map(|blocks| or_none(blocks.to_string()));
    format!("without {prefill} / {decode}{kv}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_what_runs_and_crosses_where_no_block_is_removed_too() {
        let set = |blocks: &[usize]| BlockSet::from_indices(30, blocks.iter().copied()).unwrap();
        let removed = |prefill, decode| PerStage {
            prefill: set(prefill),
            decode: set(decode),
        };
        assert_eq!(in_words(&removed(&[], &[]), ""), "with all blocks");
        assert_eq!(
            in_words(&removed(&[], &[]), "first 4, last 32"),
            "with all blocks, fewer bytes of KV"
        );
        assert_eq!(in_words(&removed(&[], &[3, 4]), ""), "without none / 3,4");
        assert_eq!(
            in_words(&removed(&[17], &[6, 17]), "first 4, last 32"),
            "without 17 / 6,17, fewer bytes of KV"
        );
    }
}
