//! Which transformer blocks can prefill do without and, separately, which can decode?
//!
//! A [`Strategy`] answers for one [`Target`]: it sees an [`Objective`](pdtrim_core::objective::Objective)
//! (a set of blocks in, its cost out), the blocks' redundancy and, where it asks for one, their
//! importance; no model, no text, no file. So a strategy is tested on a toy objective, and any model that core can measure can be searched.
//!
//! [`Ledger`] stands between the two: it remembers every cost, writes each down as soon as it is known,
//! and answers from what it has written, so that a killed search goes on where it was. Costs are
//! rounded and ties go to the lowest block, so a resumed search decides what an uninterrupted one does.
//!
//! `pdtrim` is the paper's search ([`PdTrim`]); `sleb`, `shortgpt`, `shortened-ppl`, `shortened-taylor`
//! and `random` are the baselines; `beam` and `exact` are beside it where more can be tried, or all.
//!
//! [`Racing`] spares a search the windows on which a candidate need not be evaluated, for a stated
//! probability of choosing another one.
//!
//! [`Sensitivity`] removes each block by itself from either stage, and from both: what a search is up against.
//!
//! [`repair`] makes up for what was removed; it alone sees the model's hidden states.
//!
//! [`width`] chooses head groups and MLP channels inside the blocks that stay.
//!
//! Beside the search stands [`calibration`], which turns a text, a set of items or the model's own
//! samples into the windows that an objective is measured on; it alone reads data files.
//!
//! On an objective without a model:
//!
//! ```
//! use pdtrim_search::{Ledger, Problem, Sleb, Strategy, Target, Toy};
//!
//! // Block 2 costs least, then block 1.
//! let objective = Toy::new(vec![9.0, 2.0, 1.0, 3.0, 9.0]);
//! let mut ledger = Ledger::in_memory(&objective);
//! let problem = Problem::new(Target::Unified, &[0.5; 5], 2, true)?;
//! let removed = Sleb::default().search(&problem, &mut ledger, &mut |_| {})?;
//! assert_eq!(removed.to_indices(), [1, 2]);
//! # Ok::<(), pdtrim_search::Error>(())
//! ```
//!
//! And on a model, for both stages:
//!
//! ```
//! use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows};
//! use pdtrim_core::testing::TinyModel;
//! use pdtrim_core::{Boundary, PerStage};
//! use pdtrim_search::{Ledger, Sleb, StageProblem};
//!
//! let model = TinyModel::default().build();
//! let calibration = Calibration::new(vec![(1..17).collect(), (40..56).collect()], 12)?;
//! let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Prefill);
//! let problem = StageProblem {
//!     redundancy: &loss.redundancy()?.0,
//!     importance: None,
//!     counts: PerStage { prefill: 1, decode: 2 },
//!     nested: true,
//!     protect_ends: true,
//! };
//! let mut ledger = Ledger::in_memory(&loss);
//! let removed = problem.search(&Sleb::default(), &mut ledger, &mut |_, _| {})?;
//! assert_eq!((removed.prefill.len(), removed.decode.len()), (1, 2));
//! assert!(removed.prefill.is_subset(&removed.decode));
//! # Ok::<(), pdtrim_search::Error>(())
//! ```
//!
//! # What is where
//!
//! - what is asked: [`Problem`] and [`Target`] for one set, [`StageProblem`] for both stages, [`CandidateSets`]
//!   for what may be deleted and what distilled;
//! - who answers: [`Strategy`] and its implementations, [`Annealing`], [`Validation`] and [`Racing`] as their settings;
//! - what is known: [`Ledger`], its [`Evaluation`]s and [`Account`];
//! - what is reported beside: [`Sensitivity`], [`jaccard`] and [`mean_agreement`];
//! - around the search: [`calibration`], [`repair`], [`width`]; and [`Toy`] for examples and tests.

mod agreement;
pub mod calibration;
mod candidates;
mod error;
mod ledger;
mod problem;
mod race;
pub mod repair;
mod sensitivity;
mod stages;
mod strategy;
mod toy;
pub mod width;

pub use agreement::{jaccard, mean_agreement, mean_agreement_within};
pub use candidates::{CandidateSets, DistillThreshold};
pub use error::{Error, Result};
pub use ledger::{Account, Evaluation, Ledger};
pub use problem::{Problem, Target};
pub use race::Racing;
pub use sensitivity::{BlockSensitivity, CostChange, RemovedFrom, Sensitivity};
pub use stages::StageProblem;
pub use strategy::{
    Annealing, Beam, Exact, PdTrim, Random, ShortGpt, ShortenedPpl, ShortenedTaylor, Sleb, Step,
    Strategy, Validation,
};
pub use toy::Toy;
