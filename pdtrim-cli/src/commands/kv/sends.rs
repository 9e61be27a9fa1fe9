//! What may cross: a plan's choice for each block, or a published policy in every block.

use pdtrim_core::pipeline::CacheTransfer;
use pdtrim_core::{BlockKv, BlockSet, KvEncoding, KvGroup, KvPlan, TokenSpan};
use pdtrim_kv::{
    AdaKv, Budget, H2o, KvPolicy, PlannedTransfer, PolicyTransfer, SnapKv, Think, Window,
};

use super::report::Kind;
use crate::args::KvPolicyArg;

/// Last positions whose queries decide, and the places that votes are averaged over, as published.
const WINDOW: usize = 32;
const KERNEL: usize = 5;
/// Share of its budget that `Ada-KV` leaves each head, as published.
const OWN: f64 = 0.2;

pub(super) enum Sends {
    Plan(KvPlan),
    Policy(Policy, BlockSet),
}

/// A policy and how much it keeps.
#[derive(Clone, Copy, Debug)]
pub(super) enum Policy {
    Window(Window),
    SnapKv(SnapKv),
    AdaKv(AdaKv),
    H2o(H2o),
    Think(Think),
}

impl Policy {
    /// One that sends `share` of the bytes of everything; none where it cannot.
    pub(super) fn new(policy: KvPolicyArg, share: f64) -> Option<Self> {
        let budget = Budget::Share(share);
        let snap = SnapKv {
            budget,
            window: WINDOW,
            kernel: KERNEL,
        };
        Some(match policy {
            KvPolicyArg::Window => Self::Window(Window { budget }),
            KvPolicyArg::Snapkv => Self::SnapKv(snap),
            KvPolicyArg::AdaKv => Self::AdaKv(AdaKv { snap, own: OWN }),
            KvPolicyArg::H2o => Self::H2o(H2o { budget }),
            KvPolicyArg::Think => {
                // Values cross in full.
                let channels = 2.0 * share - 1.0;
                (channels > 0.0).then_some(Self::Think(Think {
                    channels,
                    window: WINDOW,
                }))?
            }
        })
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Window(_) => Kind::Window,
            Self::SnapKv(_) => Kind::SnapKv,
            Self::AdaKv(_) => Kind::AdaKv,
            Self::H2o(_) => Kind::H2o,
            Self::Think(_) => Kind::Think,
        }
    }

    fn boxed(self) -> Box<dyn KvPolicy> {
        match self {
            Self::Window(policy) => Box::new(policy),
            Self::SnapKv(policy) => Box::new(policy),
            Self::AdaKv(policy) => Box::new(policy),
            Self::H2o(policy) => Box::new(policy),
            Self::Think(policy) => Box::new(policy),
        }
    }
}

impl Sends {
    pub(super) fn transfer(&self) -> Box<dyn CacheTransfer> {
        match self {
            Self::Plan(plan) => Box::new(PlannedTransfer::new(plan.clone())),
            Self::Policy(policy, blocks) => Box::new(PolicyTransfer::new(
                policy.boxed(),
                blocks.clone(),
                KvEncoding::Bf16,
            )),
        }
    }

    /// What a plan says of each block; nothing for a policy.
    pub(super) fn groups(&self) -> Vec<KvGroup> {
        match self {
            Self::Plan(plan) => plan.to_groups(),
            Self::Policy(..) => Vec::new(),
        }
    }

    /// How many blocks send what.
    pub(super) fn in_words(&self) -> String {
        let group = |group: KvGroup| {
            let BlockKv {
                span,
                heavy,
                encoding,
            } = group.sends;
            let positions = match (span, heavy) {
                (None, _) => "all".to_owned(),
                (Some(TokenSpan { first, last }), 0) => format!("{first}+{last}"),
                (Some(TokenSpan { first, last }), heavy) => format!("{first}+{heavy}+{last}"),
            };
            format!("{} x {positions} {encoding}", group.blocks.len())
        };
        match self {
            Self::Plan(plan) => {
                let groups: Vec<String> = plan.to_groups().into_iter().map(group).collect();
                groups.join(", ")
            }
            Self::Policy(policy, blocks) => {
                let share = match policy {
                    Policy::Window(Window { budget })
                    | Policy::SnapKv(SnapKv { budget, .. })
                    | Policy::AdaKv(AdaKv {
                        snap: SnapKv { budget, .. },
                        ..
                    })
                    | Policy::H2o(H2o { budget }) => match budget {
                        Budget::Share(share) => format!("{:.1} % of positions", 100.0 * share),
                        Budget::Positions(kept) => format!("{kept} positions"),
                    },
                    Policy::Think(Think { channels, .. }) => {
                        format!("{:.1} % of key channels", 100.0 * channels)
                    }
                };
                format!("{} x {share} bf16", blocks.len())
            }
        }
    }

    /// Everything that a measurement depends on; nothing for a plan that sends everything.
    pub(super) fn in_words_and_blocks(&self) -> String {
        match self {
            Self::Plan(plan) if plan.sends_all() => String::new(),
            Self::Plan(plan) => format!("{:?}", plan.to_groups()),
            Self::Policy(policy, blocks) => format!("{policy:?} in {blocks}"),
        }
    }
}
