//! What is measured: what a search's blocks may choose from, and what stands beside it.

use pdtrim_core::{BlockKv, KvEncoding, KvPlan, TokenSpan};
use pdtrim_kv::{Goal, KvSizes};

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
        let mut spans = vec![None];
        if menu != KvMenuArg::Encodings {
            spans.extend(self.spans().into_iter().map(Some));
        }
        let mut encodings = vec![KvEncoding::Bf16];
        if menu != KvMenuArg::Positions {
            encodings.extend(self.encodings());
        }
        let choices = spans.into_iter().flat_map(|span| {
            let choice = |&encoding: &KvEncoding| BlockKv { span, encoding };
            encodings.iter().map(choice).collect::<Vec<_>>()
        });
        choices.collect()
    }

    /// From the longest to the shortest; none that trims nothing.
    fn spans(&self) -> Vec<TokenSpan> {
        let mut kept = self.args.spans.clone();
        kept.sort_unstable_by(|a, b| b.cmp(a));
        kept.dedup();
        let fits = |kept: &usize| (1..self.read()).contains(kept);
        kept.into_iter()
            .filter(fits)
            .map(|kept| self.span(kept))
            .collect()
    }

    /// At least one position is a last one: the newest tokens lead the text on.
    fn span(&self, kept: usize) -> TokenSpan {
        let first = self.args.first.first().copied().unwrap_or(0).min(kept - 1);
        TokenSpan {
            first,
            last: kept - first,
        }
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
                    span: Some(self.span(kept)),
                    encoding: KvEncoding::Bf16,
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
                span: None,
                encoding,
            })),
            cost: None,
        }));
        candidates
    }
}
