//! What a training tells while it runs, what it leaves, and where it is kept meanwhile.

use std::path::Path;
use std::time::Duration;

use pdtrim_core::repair::RepairWeights;
use pdtrim_core::{BlockId, PerStage, Stage};
use serde::{Deserialize, Serialize};

use crate::repair::runs::Run;

/// What a step of training belongs to.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_search::repair::DistillPart;
///
/// let heading = |part| match part {
///     DistillPart::Run(before) => format!("block {before}"),
///     DistillPart::Predictions => "predictions".to_owned(),
/// };
/// assert_eq!(heading(DistillPart::Run(BlockId::new(1))), "block 1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DistillPart {
    /// The block before one run, by mean squared error.
    Run(BlockId),
    /// All of the stage's, by KL divergence in nats.
    Predictions,
}

/// A step of training that was taken.
///
/// ```
/// use pdtrim_core::{BlockId, Stage};
/// use pdtrim_search::repair::{DistillPart, DistillStep};
///
/// /// For a progress bar.
/// fn line(step: &DistillStep) -> String {
///     format!("{} {}/{}: {:.4}", step.stage, step.done, step.steps, step.loss)
/// }
///
/// let part = DistillPart::Run(BlockId::new(1));
/// let (stage, part_steps, steps) = (Stage::Decode, 10, 40);
/// let step = DistillStep { stage, part, step: 3, part_steps, done: 13, steps, loss: 0.25 };
/// assert_eq!(line(&step), "decode 13/40: 0.2500");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistillStep {
    /// The stage.
    pub stage: Stage,
    /// What is trained.
    pub part: DistillPart,
    /// Steps taken in this part, this one included.
    pub step: usize,
    /// Steps of this part.
    pub part_steps: usize,
    /// Steps taken in all parts of both stages.
    pub done: usize,
    /// Steps of all parts.
    pub steps: usize,
    /// Loss before the step.
    pub loss: f64,
}

/// The loss of a part of the training.
///
/// ```
/// use pdtrim_core::Stage;
/// use pdtrim_search::repair::DistillLoss;
///
/// let loss = DistillLoss { stage: Stage::Prefill, block: None, first: 0.5, last: 0.125 };
/// assert_eq!(1.0 - loss.last / loss.first, 0.75);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DistillLoss {
    /// The stage.
    pub stage: Stage,
    /// The block before a run; `None` for the predictions.
    pub block: Option<BlockId>,
    /// Mean over the first tenth of the steps.
    pub first: f64,
    /// Mean over the last tenth.
    pub last: f64,
}

/// What was trained.
///
/// ```
/// use pdtrim_core::{PerStage, Stage};
/// use pdtrim_core::repair::RepairWeights;
/// use pdtrim_search::repair::{DistillFit, DistillLoss};
///
/// let loss = DistillLoss { stage: Stage::Prefill, block: None, first: 0.5, last: 0.125 };
/// let fit = DistillFit {
///     weights: RepairWeights::default(),
///     unrepaired: PerStage::default(),
///     losses: vec![loss],
/// };
/// assert!(fit.losses.iter().all(|loss| loss.last < loss.first));
/// ```
#[derive(Clone, Debug)]
pub struct DistillFit {
    /// The new weights.
    pub weights: RepairWeights,
    /// Runs that no kept block is before, so that nothing makes up for them.
    pub unrepaired: PerStage<Vec<Run>>,
    /// How the loss fell, in the order of training.
    pub losses: Vec<DistillLoss>,
}

/// Where progress is kept.
///
/// ```
/// use std::path::Path;
/// use std::time::Duration;
///
/// use pdtrim_search::repair::DistillResume;
///
/// let resume = DistillResume {
///     path: Path::new("out/distill.safetensors"),
///     fingerprint: "sha256:00, 64 windows, prefill 2, decode 2,3",
///     every: Duration::from_mins(1),
/// };
/// assert_eq!(resume.every.as_secs(), 60);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DistillResume<'p> {
    /// The file; it is left behind when the training is finished.
    pub path: &'p Path,
    /// What the file belongs to (model, windows, sets, boundary): another one's is replaced.
    pub fingerprint: &'p str,
    /// How long a part goes on before it is written again; a finished part is written at once.
    pub every: Duration,
}

/// Called after each step.
///
/// ```
/// use pdtrim_search::repair::{DistillStep, OnStep};
///
/// let mut losses = Vec::new();
/// let on_step: &mut OnStep<'_> = &mut |step: &DistillStep| losses.push(step.loss);
/// # let part = pdtrim_search::repair::DistillPart::Predictions;
/// # let stage = pdtrim_core::Stage::Prefill;
/// # let step = DistillStep { stage, part, step: 1, part_steps: 9, done: 1, steps: 9, loss: 0.5 };
/// on_step(&step);
/// assert_eq!(losses, [0.5]);
/// ```
pub type OnStep<'f> = dyn FnMut(&DistillStep) + 'f;
