//! What is measured: what a search's blocks may choose from, and what stands beside it.

use pdtrim_core::{BlockKv, KvEncoding, KvPlan, TokenSpan};
use pdtrim_kv::{Goal, KvSizes, with_heavy};

use super::report::Kind;
use super::search::Search;
use super::sends::{Policy, Sends};
use crate::args::KvMenuArg;

/// A plan or a policy before it is reported on.
pub(super) struct Candidate {
    pub(super) kind: Kind,
    pub(super) goal: Option<Goal>,
    pub(super) sends: Sends,
    /// On the windows that chose it.
    pub(super) cost: Option<f64>,
}

impl Search<'_> {
    /// What a block may send; everything in bf16 comes first.
    pub(super) fn menu(&self, menu: KvMenuArg) -> Vec<BlockKv> {
        let mut positions = vec![BlockKv::default()];
        if menu != KvMenuArg::Encodings {
            let heavy = match menu {
                KvMenuArg::Heavy | KvMenuArg::HeavyBoth => self.args.heavy.first().copied(),
                _ => None,
            };
            let choice = |kept| self.kept(kept, heavy.unwrap_or(0.0));
            positions.extend(self.spans().into_iter().map(choice));
        }
        let mut encodings = vec![KvEncoding::Bf16];
        if !matches!(menu, KvMenuArg::Positions | KvMenuArg::Heavy) {
            encodings.extend(self.encodings());
        }
        let choices = positions.into_iter().flat_map(|sends| {
            let choice = |&encoding: &KvEncoding| BlockKv { encoding, ..sends };
            encodings.iter().map(choice).collect::<Vec<_>>()
        });
        choices.collect()
    }

    /// Numbers of positions, from the highest to the lowest; none that trims nothing.
    fn spans(&self) -> Vec<usize> {
        let mut kept = self.args.spans.clone();
        kept.sort_unstable_by(|a, b| b.cmp(a));
        kept.dedup();
        kept.retain(|kept| (1..self.read()).contains(kept));
        kept
    }

    /// First positions, and of the others this share by attention. At least one position is a last one: the
    /// newest tokens lead the text on.
    fn kept(&self, kept: usize, heavy: f64) -> BlockKv {
        let first = self.args.first.first().copied().unwrap_or(0).min(kept - 1);
        with_heavy(
            BlockKv {
                span: Some(TokenSpan {
                    first,
                    last: kept - first,
                }),
                ..BlockKv::default()
            },
            heavy,
        )
    }

    pub(super) fn encodings(&self) -> Vec<KvEncoding> {
        let asked = |encoding: &KvEncoding| self.args.encodings.contains(encoding);
        let lossy = KvEncoding::ALL.into_iter().filter(asked);
        lossy
            .filter(|encoding| !matches!(encoding, KvEncoding::Held | KvEncoding::Bf16))
            .collect()
    }

    /// The same in every block that decode runs: the first and last positions that each factor allows, each
    /// encoding, and the policies.
    pub(super) fn uniform(&self, sizes: &KvSizes) -> Vec<Candidate> {
        let blocks = self.decode_removed().complement();
        let everywhere = |sends: BlockKv| {
            let plan = KvPlan::send_all(self.session.depth());
            blocks
                .iter()
                .fold(plan, |plan, id| plan.with_block(id, sends))
        };
        let mut candidates = Vec::new();
        for &factor in &self.factors {
            let plan = |kept| {
                everywhere(BlockKv {
                    encoding: KvEncoding::Bf16,
                    ..self.kept(kept, 0.0)
                })
            };
            let fits = |kept: &usize| {
                let bytes = sizes.plan_bytes(&plan(*kept), self.decode_removed());
                bytes <= sizes.dense_bf16_bytes() / factor + 1e-6
            };
            let Some(kept) = (1..self.read()).rev().find(fits) else {
                continue;
            };
            let share = kept as f64 / self.read() as f64;
            let candidate = |kind, sends| Candidate {
                kind,
                goal: Some(Goal::Factor(factor)),
                sends,
                cost: None,
            };
            candidates.push(candidate(Kind::SameSpan, Sends::Plan(plan(kept))));
            candidates.extend(self.args.policies.iter().filter_map(|&policy| {
                let sends = Policy::new(policy, share)?;
                let blocks = blocks.clone();
                Some(candidate(sends.kind(), Sends::Policy(sends, blocks)))
            }));
        }
        let encodings = [KvEncoding::Bf16].into_iter().chain(self.encodings());
        candidates.extend(encodings.map(|encoding| Candidate {
            kind: Kind::SameEncoding,
            goal: None,
            sends: Sends::Plan(everywhere(BlockKv {
                encoding,
                ..BlockKv::default()
            })),
            cost: None,
        }));
        candidates
    }
}
