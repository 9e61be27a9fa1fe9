//! Fewer and fewer bytes, each time at the lowest loss that was found.

mod knapsack;

use pdtrim_core::objective::CalibrationLoss;
use pdtrim_core::{BlockId, BlockKv, BlockSet, KvPlan, PerStage, TokenSpan};

use crate::costs::{Costs, KvEvaluation, KvJournal};
use crate::error::{Error, Result};
use crate::sizes::KvSizes;

/// A search for the plans of lowest J at several numbers of bytes.
///
/// A block's price for a choice is by how much J rises if it alone makes it. Prices of different blocks
/// nearly add up as long as they are small, so the plan of lowest J for some bytes is nearly the
/// solution of a knapsack problem: one choice for each block, the lowest sum of prices that fits. That
/// plan is measured; then prices are measured again around it, where they are what they are beside
/// the other blocks' choices, and the problem is solved anew, until the plan that comes out is no better. At
/// last the spans' positions are shared out between a prompt's start and its end.
/// Ours; the paper chooses blocks by a threshold on attention.
///
/// ```
/// use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockKv, Boundary, KvEncoding, PerStage};
/// use pdtrim_kv::{FrontSearch, KvSizes};
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..49).collect()], 40)?;
/// let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Prefill);
/// // Each block may send bf16, int8 or int4 of all positions.
/// let encodings = [KvEncoding::Bf16, KvEncoding::Int8, KvEncoding::Int4];
/// let search = FrontSearch {
///     loss: &loss,
///     removed: &PerStage::dense(5),
///     sizes: &KvSizes::new(&model, vec![40])?,
///     menu: &encodings.map(|encoding| BlockKv { encoding, ..BlockKv::default() }),
///     factors: &[1.5],
///     rounds: 1,
///     max_rise: None,
///     firsts: &[],
///     heavies: &[],
/// };
/// let front = search.run(None, &mut |_| ())?;
/// assert!(front.points[0].factor >= 1.5);
/// # Ok::<(), pdtrim_kv::Error>(())
/// ```
pub struct FrontSearch<'a> {
    /// Measures J.
    pub loss: &'a CalibrationLoss<'a>,
    /// Blocks removed from each stage.
    pub removed: &'a PerStage<BlockSet>,
    /// What plans take on the wire.
    pub sizes: &'a KvSizes,
    /// What a block may send; the first is what all send to begin with.
    pub menu: &'a [BlockKv],
    /// How many times fewer bytes than the dense model's in bf16, ascending.
    pub factors: &'a [f64],
    /// How often prices are measured again for each factor, at most.
    pub rounds: usize,
    /// By how much J may rise: a plan of the fewest bytes that were found for it is looked for as well.
    pub max_rise: Option<f64>,
    /// How many of a span's positions may be first ones, to be tried at the end in all blocks together.
    pub firsts: &'a [usize],
    /// Which share of the others attention may choose, to be tried after that in all blocks that let it choose.
    pub heavies: &'a [f64],
}

/// What a plan was looked for.
///
/// ```
/// use pdtrim_kv::Goal;
///
/// let heading = |goal| match goal {
///     Goal::Factor(factor) => format!("{factor}x fewer bytes"),
///     Goal::Rise(nats) => format!("at most {nats} nats more"),
/// };
/// assert_eq!(heading(Goal::Factor(4.95)), "4.95x fewer bytes");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At least so many times fewer bytes.
    Factor(f64),
    /// At most this rise of J, in nats.
    Rise(f64),
}

/// Plans that are tried on the way to the fewest bytes for a rise.
const HALVINGS: usize = 6;

/// A plan of the front.
///
/// ```
/// use pdtrim_core::KvPlan;
/// use pdtrim_kv::{FrontPoint, Goal};
///
/// let plan = KvPlan::send_all(5);
/// let point = FrontPoint { goal: Goal::Factor(2.0), factor: 2.25, bytes: 4096.0, plan, cost: 3.5 };
/// assert!(matches!(point.goal, Goal::Factor(asked) if point.factor >= asked));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct FrontPoint {
    /// What was asked for.
    pub goal: Goal,
    /// How many times fewer bytes it takes than the dense model's KV in bf16.
    pub factor: f64,
    /// Mean bytes of a prompt.
    pub bytes: f64,
    /// The plan.
    pub plan: KvPlan,
    /// J with it.
    pub cost: f64,
}

/// What was found.
///
/// ```
/// use pdtrim_core::KvPlan;
/// use pdtrim_kv::{Front, FrontPoint, Goal};
///
/// let point = |factor, bytes, cost| FrontPoint {
///     goal: Goal::Factor(factor),
///     factor,
///     bytes,
///     plan: KvPlan::send_all(5),
///     cost,
/// };
/// let points = vec![point(2.0, 8192.0, 3.01), point(4.0, 4096.0, 3.2)];
/// let front = Front { base_cost: 3.0, points, trace: Vec::new() };
/// // The fewest bytes that cost at most 0.05 nats more than the menu's first choice.
/// let cheap = front.points.iter().filter(|point| point.cost <= front.base_cost + 0.05);
/// let fewest = cheap.min_by(|a, b| a.bytes.total_cmp(&b.bytes));
/// assert_eq!(fewest.map(|point| point.factor), Some(2.0));
/// ```
#[derive(Clone, Debug)]
pub struct Front {
    /// J where every block sends the menu's first choice.
    pub base_cost: f64,
    /// A plan for each factor.
    pub points: Vec<FrontPoint>,
    /// Every plan that was measured, in order.
    pub trace: Vec<KvEvaluation>,
}

/// By how much J rises if a block makes a choice, `[block][choice]`, and what it then takes.
struct Prices {
    blocks: Vec<BlockId>,
    rise: Vec<Vec<f64>>,
    bytes: Vec<Vec<f64>>,
    /// The choices that each block is left with.
    open: Vec<Vec<usize>>,
}

impl FrontSearch<'_> {
    /// Most plans that [`run`](Self::run) measures.
    pub fn planned_evaluations(&self) -> usize {
        let kept = self.removed.decode.complement().len();
        let prices = kept * self.menu.len().saturating_sub(1);
        let halvings = self.max_rise.map_or(0, |_| HALVINGS);
        let splits = self.firsts.len() + self.heavies.len();
        let factors = self.factors.len() * (1 + self.rounds * (1 + prices) + splits);
        1 + prices + factors + halvings
    }

    /// Finds a plan for each factor.
    ///
    /// `journal` holds costs that an earlier run measured; `on_cost` hears of each new one.
    ///
    /// # Errors
    ///
    /// [`Error::FrontUnreachable`] if the fewest bytes that the menu allows are too many, before anything
    /// is measured, and what measuring J can fail with.
    pub fn run(
        &self,
        journal: Option<KvJournal>,
        on_cost: &mut (dyn FnMut(&KvEvaluation) + Send),
    ) -> Result<Front> {
        self.check()?;
        let mut costs = Costs::new((self.loss, self.removed), journal, on_cost);
        let base = self.everywhere(self.menu[0]);
        let base_cost = costs.of(&base, std::slice::from_ref(&base))?[0];
        let mut prices = self.prices(&mut costs, (&base, base_cost), None)?;
        prices.close_dominated();
        let mut points = Vec::new();
        for &asked in self.factors {
            let budget = self.sizes.dense_bf16_bytes() / asked;
            let mut plan = self.solve(&prices, budget);
            let mut cost = costs.of(&base, std::slice::from_ref(&plan))?[0];
            for _ in 0..self.rounds {
                prices = self.prices(&mut costs, (&plan, cost), Some(&prices.open))?;
                let next = self.solve(&prices, budget);
                let next_cost = costs.of(&base, std::slice::from_ref(&next))?[0];
                if next_cost >= cost {
                    break;
                }
                (plan, cost) = (next, next_cost);
            }
            let (plan, cost) = self.split(&mut costs, &base, (plan, cost))?;
            points.push(self.point(Goal::Factor(asked), plan, cost));
        }
        if let Some(rise) = self.max_rise {
            points.extend(self.within(&mut costs, (&base, base_cost), &prices, rise, &points)?);
        }
        Ok(Front {
            base_cost,
            points,
            trace: costs.into_trace(),
        })
    }

    fn point(&self, goal: Goal, plan: KvPlan, cost: f64) -> FrontPoint {
        let bytes = self.sizes.plan_bytes(&plan, &self.removed.decode);
        FrontPoint {
            goal,
            factor: self.sizes.dense_bf16_bytes() / bytes,
            bytes,
            plan,
            cost,
        }
    }

    /// The plan of the fewest bytes that was found for this rise of J: from the best of `points` towards the
    /// next, by halves. `None` if nothing beyond the menu's first choice is within it.
    fn within(
        &self,
        costs: &mut Costs<'_, '_>,
        (base, base_cost): (&KvPlan, f64),
        prices: &Prices,
        rise: f64,
        points: &[FrontPoint],
    ) -> Result<Option<FrontPoint>> {
        let is_within = |cost: f64| cost - base_cost <= rise;
        let found = points.iter().filter(|point| is_within(point.cost));
        let best = found.max_by(|a, b| a.factor.total_cmp(&b.factor));
        let mut best = best.map(|point| (point.plan.clone(), point.cost));
        let of_plan = |plan: &KvPlan| {
            let bytes = self.sizes.plan_bytes(plan, &self.removed.decode);
            self.sizes.dense_bf16_bytes() / bytes
        };
        let mut low = best
            .as_ref()
            .map_or_else(|| of_plan(base), |(plan, _)| of_plan(plan));
        let beyond = points.iter().map(|point| point.factor);
        let beyond = beyond.filter(|&factor| factor > low);
        let mut high = beyond.fold(self.most(), f64::min);
        for _ in 0..HALVINGS {
            let middle = (low * high).sqrt();
            let plan = self.solve(prices, self.sizes.dense_bf16_bytes() / middle);
            let cost = costs.of(base, std::slice::from_ref(&plan))?[0];
            if is_within(cost) {
                low = of_plan(&plan).max(middle);
                best = Some((plan, cost));
            } else {
                high = middle;
            }
        }
        Ok(best.map(|(plan, cost)| self.point(Goal::Rise(rise), plan, cost)))
    }

    /// How many times fewer bytes than the dense model's KV in bf16 the menu allows; 0 for an empty menu.
    pub fn most(&self) -> f64 {
        let kept = self.removed.decode.complement();
        let fewest = kept.iter().map(|id| {
            let bytes = |&sends: &BlockKv| self.sizes.block_bytes(id, sends);
            self.menu.iter().map(bytes).fold(f64::INFINITY, f64::min)
        });
        self.sizes.dense_bf16_bytes() / fewest.sum::<f64>()
    }

    fn check(&self) -> Result<()> {
        if self.menu.is_empty() {
            return Err(Error::EmptyMenu);
        }
        let most = self.most();
        let beyond = |factor: &&f64| !(**factor > 0.0 && **factor <= most);
        match self.factors.iter().find(beyond) {
            Some(&found) => Err(Error::FrontUnreachable { found, most }),
            None => Ok(()),
        }
    }

    fn everywhere(&self, sends: BlockKv) -> KvPlan {
        let kept = self.removed.decode.complement();
        let plan = KvPlan::send_all(self.sizes.depth());
        kept.iter()
            .fold(plan, |plan, id| plan.with_block(id, sends))
    }

    /// What each choice costs beside the others' of `plan`. Choices that are not `open` are not asked for.
    fn prices(
        &self,
        costs: &mut Costs<'_, '_>,
        (plan, cost): (&KvPlan, f64),
        open: Option<&[Vec<usize>]>,
    ) -> Result<Prices> {
        let blocks: Vec<BlockId> = self.removed.decode.complement().iter().collect();
        let all: Vec<usize> = (0..self.menu.len()).collect();
        let open = open.map_or_else(|| vec![all; blocks.len()], <[Vec<usize>]>::to_vec);
        let asked = blocks.iter().zip(&open).flat_map(|(&id, open)| {
            let choices = open.iter().map(|&choice| self.menu[choice]);
            choices.map(move |sends| plan.clone().with_block(id, sends))
        });
        let asked: Vec<KvPlan> = asked.collect();
        let mut measured = costs.of(plan, &asked)?.into_iter();
        let rises = |open: &Vec<usize>| {
            let mut rises = vec![f64::INFINITY; self.menu.len()];
            for (&choice, cost_with) in open.iter().zip(measured.by_ref()) {
                rises[choice] = cost_with - cost;
            }
            rises
        };
        let bytes = |&id: &BlockId| {
            let choices = self.menu.iter();
            choices
                .map(|&sends| self.sizes.block_bytes(id, sends))
                .collect()
        };
        Ok(Prices {
            rise: open.iter().map(rises).collect(),
            bytes: blocks.iter().map(bytes).collect(),
            blocks,
            open,
        })
    }

    /// The best way to share the positions out between a prompt's start and its end, and then to attention.
    fn split(
        &self,
        costs: &mut Costs<'_, '_>,
        base: &KvPlan,
        found: (KvPlan, f64),
    ) -> Result<(KvPlan, f64)> {
        let splits = self.firsts.iter();
        let splits = splits.map(|&first| changed(&found.0, |sends| with_first(sends, first)));
        let found = best(costs, base, splits.collect(), found)?;
        let shares = self.heavies.iter();
        let shares = shares.map(|&share| {
            let of_block = |sends: BlockKv| match sends.heavy {
                0 => sends,
                _ => with_heavy(sends, share),
            };
            changed(&found.0, of_block)
        });
        best(costs, base, shares.collect(), found)
    }

    /// The plan of the lowest sum of prices that fits.
    fn solve(&self, prices: &Prices, budget: f64) -> KvPlan {
        let items: Vec<Vec<knapsack::Choice>> = prices
            .open
            .iter()
            .enumerate()
            .map(|(block, open)| {
                let choice = |&choice: &usize| knapsack::Choice {
                    price: prices.rise[block][choice],
                    size: prices.bytes[block][choice],
                };
                open.iter().map(choice).collect()
            })
            .collect();
        let chosen = knapsack::solve(&items, budget);
        let plan = KvPlan::send_all(self.sizes.depth());
        let chosen = prices.blocks.iter().zip(&prices.open).zip(chosen);
        chosen.fold(plan, |plan, ((&id, open), chosen)| {
            plan.with_block(id, self.menu[open[chosen]])
        })
    }
}

/// The cheapest; ties go to what was found before.
fn best(
    costs: &mut Costs<'_, '_>,
    base: &KvPlan,
    others: Vec<KvPlan>,
    found: (KvPlan, f64),
) -> Result<(KvPlan, f64)> {
    let measured = costs.of(base, &others)?;
    let all = others.into_iter().zip(measured);
    Ok(all.fold(
        found,
        |best, other| {
            if other.1 < best.1 { other } else { best }
        },
    ))
}

/// The same plan with other spans.
fn changed(plan: &KvPlan, change: impl Fn(BlockKv) -> BlockKv) -> KvPlan {
    let spanned = plan.spanned();
    spanned.iter().fold(plan.clone(), |plan, id| {
        let sends = change(plan.block(id));
        plan.with_block(id, sends)
    })
}

/// As many positions, `first` of them first ones where there are more.
fn with_first(sends: BlockKv, first: usize) -> BlockKv {
    let span = sends.span.map(|span| {
        let kept = span.first + span.last;
        let first = first.min(kept.saturating_sub(1));
        TokenSpan {
            first,
            last: kept - first,
        }
    });
    BlockKv { span, ..sends }
}

/// As many positions, of which attention chooses this share of those that are no first ones; at least one stays a last
/// one.
///
/// ```
/// use pdtrim_core::{BlockKv, TokenSpan};
/// use pdtrim_kv::with_heavy;
///
/// let span = Some(TokenSpan { first: 4, last: 60 });
/// let sends = with_heavy(BlockKv { span, ..BlockKv::default() }, 0.5);
/// assert_eq!((sends.span, sends.heavy), (Some(TokenSpan { first: 4, last: 30 }), 30));
/// assert_eq!(with_heavy(sends, 0.0).span, span);
/// ```
pub fn with_heavy(sends: BlockKv, share: f64) -> BlockKv {
    let Some(span) = sends.span else {
        return sends;
    };
    let others = span.last + sends.heavy;
    let heavy = (others as f64 * share + 1e-9) as usize;
    let heavy = heavy.min(others.saturating_sub(1));
    let span = TokenSpan {
        last: others - heavy,
        ..span
    };
    BlockKv {
        span: Some(span),
        heavy,
        ..sends
    }
}

impl Prices {
    /// Closes choices beside which another one costs less and takes less: they could only win by noise.
    fn close_dominated(&mut self) {
        for ((open, rise), bytes) in self.open.iter_mut().zip(&self.rise).zip(&self.bytes) {
            let better = |a: usize, b: usize| {
                (rise[a], bytes[a]) != (rise[b], bytes[b])
                    && rise[a] <= rise[b]
                    && bytes[a] <= bytes[b]
            };
            let all = open.clone();
            open.retain(|&choice| !all.iter().any(|&other| better(other, choice)));
        }
    }
}
