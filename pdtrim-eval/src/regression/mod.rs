//! A gate for builds: has the model become worse than a kept baseline?
//!
//! 1. A [`Baseline`] is a file with every item's result, made from an [`EvalReport`](crate::EvalReport).
//!    It holds no dates: two equal runs write equal bytes, so it can be kept under version control.
//! 2. A [`MaxDrop`] is how much a metric may get worse: `acc=0.01`, `perplexity=2%`,
//!    `hellaswag:acc_norm=0.02`.
//! 3. [`compare`] pairs a report's items with the baseline's and gives a [`Gate`], which says whether the
//!    run [passed](Gate::passed) and writes itself as a table, as JSON, as a `JUnit` file and as
//!    annotations of a GitHub workflow.
//!
//! # When the gate fails
//!
//! A metric fails when its drop is larger than its limit **and** a paired test says that the model got
//! worse. A drop alone would not do. The items are a sample of what the model will be asked, and a
//! change that is neither good nor bad (another order of summation, another element type, another plan
//! of equal quality) flips some answers in either direction. On 100 items of which it flips ten, the
//! accuracy falls by 0.02 or more with probability 386/1024: a gate at 0.01 without a test would stop
//! three harmless builds in eight, and would soon be ignored.
//!
//! The test asks for the probability p of results that speak at least as strongly for "worse", if the
//! model in truth did not change for the worse. It is one-sided: getting better never fails. It is
//! paired: items that both runs answer alike carry no noise, so far smaller drops are found than by
//! comparing the two standard errors.
//!
//! - Shares of items (`acc`, `acc_norm`, `exact_match`): the exact `McNemar` test. Of the n items that
//!   exactly one of the two runs has right, the number that were lost follows the binomial distribution
//!   of n and 1/2; p is the probability of at least as many as were found.
//! - Perplexities and bits per byte: Student's t with n - 1 degrees of freedom, on the difference D of
//!   the logarithms, D = Σ (value - baseline value) / Σ weight. Its standard error is that of a ratio,
//!   to first order: √(n / (n - 1) Σ d²) / Σ weight, with d = (value - baseline value) - D weight.
//!
//! # What alpha means
//!
//! A metric whose p is below alpha is believed to have got worse. So alpha is the probability that a
//! metric of a model that did *not* get worse fails all the same, on other items of the same kind. It
//! holds per metric: with k metrics under limits, at most k alpha of the harmless builds fail. A
//! smaller alpha gives fewer false alarms and overlooks larger drops; more items help with both. With
//! alpha = 1 every drop beyond its limit fails, as without a test.
//!
//! A drop beyond its limit with p of alpha or more is reported as [`Status::WithinNoise`]: either it is
//! noise, or there are too few items to tell. A single item is never tested; its p is 1.
//!
//! The rejected alternative, to test whether the drop is larger than the *limit*: a model that certainly
//! lost 2 % would pass a limit of 1 % until there are items enough to tell the two apart. The price of
//! our choice is that alpha does not cover models that did get worse, but by less than the limit: the
//! nearer they are to it, the more often (up to every second time) chance carries them beyond.

mod baseline;
mod compare;
mod error;
mod gate;
mod github;
mod junit;
mod limit;
mod limits;
mod paired;
mod table;
mod wording;

pub use baseline::{Baseline, BaselineRun};
pub use compare::compare;
pub use error::{Error, Result};
pub use gate::{Check, Gate, Paired, Side, Status};
pub use limit::{Amount, MaxDrop};
