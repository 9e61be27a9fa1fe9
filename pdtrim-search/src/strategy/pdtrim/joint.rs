//! Both stages' sets together: what prefill is without shows in decode, too.

use pdtrim_core::{BlockSet, PerStage};

use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::{Problem, Target};
use crate::race::Racing;
use crate::stages::StageProblem;
use crate::strategy::measuring::raced_costs;
use crate::strategy::{Sleb, Step, Strategy};

/// A set for each stage and what the two cost together.
#[derive(Clone, Debug, PartialEq)]
struct Pair {
    removed: PerStage<BlockSet>,
    cost: f64,
}

/// Pairs of sets of the asked sizes, measured as they will run.
pub(super) struct Joint<'s, 'o> {
    pub(super) problem: &'s StageProblem<'s>,
    pub(super) racing: Racing,
    pub(super) ledger: &'s mut Ledger<'o>,
    pub(super) on_step: &'s mut (dyn FnMut(Step) + Send + 's),
}

impl Joint<'_, '_> {
    /// The better of `found` and decode's own choice with prefill's taken out of it, then all moves of
    /// one block until none is better.
    pub(super) fn refine(mut self, found: PerStage<BlockSet>) -> Result<PerStage<BlockSet>> {
        let mut best = self.measure(vec![found])?;
        if self.problem.nested {
            best.extend(self.decode_first()?);
        }
        let mut best = cheapest(best);
        loop {
            // Decode's moves are cheapest: prefill's side stays.
            let mut pairs = vec![best.clone()];
            for moves in [
                self.in_decode(&best)?,
                self.in_prefill(&best)?,
                self.in_both(&best)?,
            ] {
                for mut together in moves {
                    together.push(best.removed.clone());
                    pairs.extend(self.measure(together)?);
                }
            }
            let next = cheapest(pairs);
            if next == best {
                return Ok(best.removed);
            }
            best = next;
        }
    }

    /// SLEB's choice for decode with a whole prefill, then prefill's from it, greedily.
    fn decode_first(&mut self) -> Result<Vec<Pair>> {
        let depth = self.ledger.depth();
        let target = Target::Decode {
            prefill: BlockSet::empty(depth),
            nested: true,
        };
        let counts = self.problem.counts;
        let problem = self.decode_problem(target, counts.decode)?;
        let racing = self.racing;
        let on_step = &mut self.on_step;
        let decode = Sleb { racing }.search(&problem, self.ledger, &mut |step| {
            if !matches!(step, Step::Chosen { .. }) {
                on_step(step);
            }
        })?;
        let mut prefill = BlockSet::empty(depth);
        let mut pairs = Vec::new();
        while prefill.len() < counts.prefill {
            let left = decode.difference(&prefill);
            let grown = left.iter().map(|id| PerStage {
                prefill: prefill.with(id),
                decode: decode.clone(),
            });
            let best = cheapest(self.measure(grown.collect())?);
            prefill = best.removed.prefill.clone();
            pairs = vec![best];
        }
        Ok(pairs)
    }

    /// A block that only decode is without for one that it keeps: a list for each that comes back.
    fn in_decode(&self, pair: &Pair) -> Result<Vec<Vec<PerStage<BlockSet>>>> {
        let PerStage { prefill, decode } = &pair.removed;
        let target = Target::Decode {
            prefill: prefill.clone(),
            nested: self.problem.nested,
        };
        let problem = self.decode_problem(target, decode.len())?;
        let own = decode.difference(problem.given());
        let moves = own.iter().map(|back| {
            let gone = problem.choices(decode).into_iter();
            let moved = gone.map(|gone| PerStage {
                prefill: prefill.clone(),
                decode: decode.without(back).with(gone),
            });
            moved.collect()
        });
        Ok(moves.collect())
    }

    /// A block that prefill is without for another one that it may be without as decode is.
    fn in_prefill(&self, pair: &Pair) -> Result<Vec<Vec<PerStage<BlockSet>>>> {
        let PerStage { prefill, decode } = &pair.removed;
        let problem = self.prefill_problem()?;
        let may_go = |gone| !self.problem.nested || decode.contains(gone);
        let moves = prefill.iter().map(|back| {
            let gone = problem.choices(prefill).into_iter();
            let moved = gone.filter(|&gone| may_go(gone)).map(|gone| PerStage {
                prefill: prefill.without(back).with(gone),
                decode: decode.clone(),
            });
            moved.collect()
        });
        Ok(moves.collect())
    }

    /// Where decode's include prefill's: a block that both are without for one that both keep.
    fn in_both(&self, pair: &Pair) -> Result<Vec<Vec<PerStage<BlockSet>>>> {
        if !self.problem.nested {
            return Ok(Vec::new());
        }
        let PerStage { prefill, decode } = &pair.removed;
        let problem = self.prefill_problem()?;
        let moves = prefill.iter().map(|back| {
            let gone = problem.choices(decode).into_iter();
            let moved = gone.map(|gone| PerStage {
                prefill: prefill.without(back).with(gone),
                decode: decode.without(back).with(gone),
            });
            moved.collect()
        });
        Ok(moves.collect())
    }

    fn prefill_problem(&self) -> Result<Problem> {
        let redundancy = &self.problem.redundancy.prefill;
        let (count, protect) = (self.problem.counts.prefill, self.problem.protect_ends);
        Problem::new(Target::Prefill, redundancy, count, protect)
    }

    fn decode_problem(&self, target: Target, count: usize) -> Result<Problem> {
        let redundancy = &self.problem.redundancy.decode;
        Problem::new(target, redundancy, count, self.problem.protect_ends)
    }

    /// What a race left over.
    fn measure(&mut self, pairs: Vec<PerStage<BlockSet>>) -> Result<Vec<Pair>> {
        (self.on_step)(Step::Planned(pairs.len() * self.ledger.units()));
        let costs = raced_costs(&self.racing, &pairs, self.ledger, self.on_step)?;
        let pairs = pairs.into_iter().zip(costs);
        let known = |(removed, cost)| {
            Some(Pair {
                removed,
                cost: cost?,
            })
        };
        Ok(pairs.filter_map(known).collect())
    }
}

/// Ties go to the lowest blocks.
fn cheapest(pairs: Vec<Pair>) -> Pair {
    let order = |a: &Pair, b: &Pair| {
        let by_cost = a.cost.total_cmp(&b.cost);
        by_cost.then_with(|| a.removed.cmp(&b.removed))
    };
    pairs.into_iter().min_by(order).expect("a pair at least")
}
