//! Chooses the blocks whose KV is trimmed, and how the kept positions split into first and last.

use pdtrim_core::objective::{AttentionProfile, CalibrationLoss};
use pdtrim_core::{BlockId, BlockSet, KvPlan, PerStage, TokenSpan};

use crate::costs::{Costs, KvEvaluation, KvJournal};
use crate::error::Result;
use crate::target::PositionTarget;

/// How blocks are ranked.
///
/// ```
/// use pdtrim_kv::Selection;
///
/// // Attention takes one pass over the windows, loss one for each plan that is tried.
/// assert_eq!(Selection::default(), Selection::Loss);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// By the attention that continuation queries leave on what is kept (arXiv:2509.04467v3, after
    /// `SimLayerKV`, arXiv:2410.13846): one pass over the windows. Attention on decode's own tokens
    /// counts as kept, since those are never trimmed.
    Attention,
    /// By loss: the set grows by the block whose trimming costs least. After each choice only the
    /// eight blocks that cost least when they were last measured are measured again (lazy greedy).
    #[default]
    Loss,
}

/// What was chosen.
///
/// ```
/// use pdtrim_core::{BlockSet, KvPlan, TokenSpan};
/// use pdtrim_kv::KvChoice;
///
/// let blocks = BlockSet::from_indices(5, [1, 2, 3])?;
/// let choice = KvChoice {
///     plan: KvPlan::uniform(&blocks, TokenSpan { first: 4, last: 60 }),
///     cost: 3.25,
///     cost_all: 3.0,
///     sent_share: 0.5,
///     trace: Vec::new(),
/// };
/// // Half of the positions for a rise of perplexity by 28 %.
/// assert!(((choice.cost - choice.cost_all).exp() - 1.284).abs() < 1e-3);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct KvChoice {
    /// The plan.
    pub plan: KvPlan,
    /// J with it.
    pub cost: f64,
    /// J with all KV sent.
    pub cost_all: f64,
    /// Share of the target's positions that it sends, in [0, 1].
    pub sent_share: f64,
    /// Every plan that was measured, in order.
    pub trace: Vec<KvEvaluation>,
}

/// A search for a KV plan.
///
/// ```
/// use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{Boundary, PerStage};
/// use pdtrim_kv::{KvSearch, PositionTarget, Selection, search};
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..49).collect()], 40)?;
/// let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Prefill);
/// let asked = KvSearch {
///     loss: &loss,
///     removed: &PerStage::dense(5),
///     target: &PositionTarget::new(2.0, vec![40])?,
///     selection: Selection::Attention,
/// };
/// let choice = search(&asked, None, &mut |_| ())?;
/// assert!(choice.sent_share <= 0.5);
/// assert!(choice.trace.len() <= asked.planned_evaluations());
/// # Ok::<(), pdtrim_kv::Error>(())
/// ```
pub struct KvSearch<'a> {
    /// Measures J.
    pub loss: &'a CalibrationLoss<'a>,
    /// Blocks removed from each stage.
    pub removed: &'a PerStage<BlockSet>,
    /// How many positions may cross.
    pub target: &'a PositionTarget,
    /// How blocks are ranked.
    pub selection: Selection,
}

impl KvSearch<'_> {
    /// Most plans that [`search`] will measure; ties between options make it fewer.
    pub fn planned_evaluations(&self) -> usize {
        let kept = self.removed.decode.complement().len();
        let options = options(self.target, kept);
        let splits: usize = options.iter().map(|option| splits(option.span).len()).sum();
        let partial = options
            .iter()
            .map(|option| option.trimmed)
            .filter(|&trimmed| trimmed < kept)
            .max();
        let greedy = match self.selection {
            Selection::Attention => 0,
            Selection::Loss => (0..partial.unwrap_or(0))
                .map(|chosen| {
                    if chosen == 0 {
                        kept
                    } else {
                        SHORTLIST.min(kept - chosen)
                    }
                })
                .sum(),
        };
        greedy + splits + 1
    }
}

/// Finds the plan of lowest J that meets the target: for several numbers of trimmed blocks, the blocks
/// by [`Selection`], the span by the target, and the split into first and last by J.
///
/// `journal` holds costs that an earlier run measured; `on_cost` hears of each new one.
///
/// # Errors
///
/// [`Error::Unreachable`](crate::Error::Unreachable) if no span meets the target, and what measuring J can fail with.
///
/// # Panics
///
/// Never: a target that can be met has an option, and every option a split.
///
/// ```
/// use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{Boundary, PerStage};
/// use pdtrim_kv::{Error, KvSearch, PositionTarget, Selection, search};
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Prefill);
/// // A prompt of 12 positions cannot be made a hundred times shorter.
/// let asked = KvSearch {
///     loss: &loss,
///     removed: &PerStage::dense(5),
///     target: &PositionTarget::new(100.0, vec![12])?,
///     selection: Selection::Loss,
/// };
/// let refused = search(&asked, None, &mut |_| ()).unwrap_err();
/// assert!(matches!(refused, Error::Unreachable { prompts: 1, positions: 12, .. }));
/// # Ok::<(), Error>(())
/// ```
pub fn search(
    search: &KvSearch<'_>,
    journal: Option<KvJournal>,
    on_cost: &mut (dyn FnMut(&KvEvaluation) + Send),
) -> Result<KvChoice> {
    let mut costs = Costs::new((search.loss, search.removed), journal, on_cost);
    let kept = search.removed.decode.complement();
    let options = options(search.target, kept.len());
    if options.is_empty() {
        return Err(search.target.unreachable(kept.len()));
    }
    let order = match search.selection {
        Selection::Attention => None,
        Selection::Loss => Some(greedy_order(&mut costs, &kept, &options)?),
    };
    let profile = search.loss.attention_profile(search.removed)?;
    let depth = kept.depth();
    let all = KvPlan::send_all(depth);
    let cost_all = costs.of(&all, std::slice::from_ref(&all))?[0];
    let mut plans = Vec::new();
    for option in options {
        for span in splits(option.span) {
            let ranked = match &order {
                Some(order) => order.clone(),
                None => by_attention(&profile, &kept, span),
            };
            let rest = kept.iter().filter(|id| !ranked.contains(id));
            let blocks = ranked
                .iter()
                .copied()
                .chain(rest)
                .take(option.trimmed)
                .map(BlockId::index);
            plans.push(KvPlan::uniform(
                &BlockSet::from_indices(depth, blocks)?,
                span,
            ));
        }
    }
    let measured = costs.of(&all, &plans)?;
    // Ties go to the first: more blocks with longer spans, fewer first positions.
    let best = plans
        .into_iter()
        .zip(measured)
        .min_by(|(_, a), (_, b)| a.total_cmp(b));
    let (plan, cost) = best.expect("there is an option, and every option has a split");
    let sent_share = search.target.sent_share(&plan, &search.removed.decode);
    Ok(KvChoice {
        plan,
        cost,
        cost_all,
        sent_share,
        trace: costs.into_trace(),
    })
}

/// Blocks that are measured again after each choice: on SmolLM2 the plan is the one that measuring all
/// of them gives, in two thirds of the time.
const SHORTLIST: usize = 8;

/// Cheapest first; ties go to the lowest block.
fn by_cost(a: &(f64, BlockId), b: &(f64, BlockId)) -> std::cmp::Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

/// A number of trimmed blocks and the positions that each may then send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice {
    trimmed: usize,
    span: usize,
}

/// All blocks that decode keeps, and seven, six, five and four eighths of them, as far as the target allows.
fn options(target: &PositionTarget, kept: usize) -> Vec<Choice> {
    let mut options: Vec<Choice> = Vec::new();
    for eighths in (4..=8).rev() {
        let trimmed = (kept * eighths).div_ceil(8);
        if options.iter().all(|option| option.trimmed != trimmed)
            && let Some(span) = target.span_positions(trimmed, kept)
        {
            options.push(Choice { trimmed, span });
        }
    }
    options
}

/// Splits of `positions` into first and last; at least one is last, for the newest token leads the text on.
fn splits(positions: usize) -> Vec<TokenSpan> {
    let mut firsts: Vec<usize> = [1, 2, 4, 8, positions / 4, positions / 2]
        .into_iter()
        .filter(|&first| first < positions)
        .collect();
    if firsts.is_empty() {
        firsts.push(0);
    }
    firsts.sort_unstable();
    firsts.dedup();
    firsts
        .into_iter()
        .map(|first| TokenSpan {
            first,
            last: positions - first,
        })
        .collect()
}

/// Blocks by the attention that `span` loses, least first; ties go to the lowest.
fn by_attention(profile: &AttentionProfile, kept: &BlockSet, span: TokenSpan) -> Vec<BlockId> {
    let lost = |id: BlockId| {
        let mass = profile.block(id).unwrap_or(&[]);
        let places = span.places(mass.len());
        let all: f64 = mass.iter().sum();
        all - places.iter().map(|&place| mass[place]).sum::<f64>()
    };
    let mut ranked: Vec<(f64, BlockId)> = kept.iter().map(|id| (lost(id), id)).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    ranked.into_iter().map(|(_, id)| id).collect()
}

/// Blocks in the order in which trimming them costs least, with the shortest span of `options`, as
/// far as an option that leaves some block untouched needs them.
fn greedy_order(
    costs: &mut Costs<'_, '_>,
    kept: &BlockSet,
    options: &[Choice],
) -> Result<Vec<BlockId>> {
    let partial = options.iter().filter(|option| option.trimmed < kept.len());
    let Some(longest) = partial.clone().map(|option| option.trimmed).max() else {
        return Ok(Vec::new());
    };
    let positions = partial
        .map(|option| option.span)
        .min()
        .expect("there is one");
    let span = splits(positions)
        .into_iter()
        .rev()
        .find(|span| span.first <= 4)
        .expect("the smallest split has first <= 1");
    let mut order: Vec<BlockId> = Vec::new();
    let mut choices: Vec<(f64, BlockId)> = kept.iter().map(|id| (f64::INFINITY, id)).collect();
    while order.len() < longest {
        let chosen = BlockSet::from_indices(kept.depth(), order.iter().map(|id| id.index()))?;
        let measured = if order.is_empty() {
            choices.len()
        } else {
            SHORTLIST.min(choices.len())
        };
        let with = |&(_, id): &(f64, BlockId)| KvPlan::uniform(&chosen.with(id), span);
        let plans: Vec<KvPlan> = choices[..measured].iter().map(with).collect();
        let measured_costs = costs.of(&KvPlan::uniform(&chosen, span), &plans)?;
        for (choice, cost) in choices.iter_mut().zip(measured_costs) {
            choice.0 = cost;
        }
        // The cheapest of those measured now, then the rest by what they cost when last measured.
        choices[..measured].sort_by(by_cost);
        order.push(choices.remove(0).1);
        choices.sort_by(by_cost);
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_share_out_all_positions_and_keep_a_last_one() {
        for positions in 1..40 {
            let splits = splits(positions);
            assert!(!splits.is_empty());
            assert!(
                splits
                    .iter()
                    .all(|span| span.first + span.last == positions && span.last > 0),
                "{splits:?}"
            );
        }
    }

    #[test]
    fn options_trim_more_blocks_with_longer_spans_first() {
        let target = PositionTarget::new(2.0, vec![80; 2]).unwrap();
        let options = options(&target, 26);
        assert_eq!(
            options[0],
            Choice {
                trimmed: 26,
                span: 40
            }
        );
        assert!(
            options
                .windows(2)
                .all(|pair| pair[0].trimmed > pair[1].trimmed && pair[0].span > pair[1].span)
        );
    }
}
