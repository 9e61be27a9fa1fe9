//! Candidates on their way through the blocks, sharing what they have in common.

use std::cmp::Reverse;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use super::OnUnitCosts;
use super::stream::Stream;
use crate::block::BlockId;
use crate::error::{Error, Result};

/// Passes costs on to the caller, from whichever thread has one.
pub(super) struct Report<'f, 'c> {
    on_costs: Mutex<&'f mut OnUnitCosts<'c>>,
}

impl<'f, 'c> Report<'f, 'c> {
    pub(super) fn new(on_costs: &'f mut OnUnitCosts<'c>) -> Self {
        Self {
            on_costs: Mutex::new(on_costs),
        }
    }

    fn send(&self, candidate: usize, costs: &[f64]) -> Result<()> {
        let mut on_costs = self.on_costs.lock().unwrap_or_else(PoisonError::into_inner);
        match on_costs(candidate, costs) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped),
        }
    }
}

/// Moves candidates through the stack: a block runs once for all that agree up to and with it. Where some
/// of them part, one goes on and the others start from there. Branches run in parallel, or, where going to
/// another block costs reading it, all together block by block.
pub(super) struct Sweep<'s, C, D, S, L> {
    pub(super) by_block: bool,
    /// On the CPU; an accelerator has one queue for each thread, and gains nothing from several.
    pub(super) in_parallel: bool,
    /// The block before which all of them start.
    pub(super) start: usize,
    pub(super) depth: usize,
    pub(super) candidates: &'s [C],
    /// The first block that runs otherwise with the one than with the other; the depth if there is none.
    pub(super) first_difference: &'s D,
    pub(super) step: &'s S,
    pub(super) leave: &'s L,
}

/// Candidates that have agreed so far and part from now on.
struct Branch {
    at: usize,
    candidates: Vec<usize>,
    streams: Vec<Stream>,
}

/// A candidate on its way, and those that are still with it.
struct Walk {
    leader: usize,
    /// The block in which each of them leaves, and which it is; the last leaves first.
    followers: Vec<(usize, usize)>,
    streams: Vec<Stream>,
}

impl Walk {
    /// Those that leave at `block`.
    fn part(&mut self, block: usize) -> Option<Branch> {
        let staying = self.followers.partition_point(|&(at, _)| at > block);
        let leaving = self.followers.split_off(staying);
        (!leaving.is_empty()).then(|| Branch {
            at: block,
            candidates: leaving.into_iter().map(|(_, id)| id).collect(),
            streams: self.streams.clone(),
        })
    }
}

/// What became known, by candidate, and the first thing that went wrong.
struct Found {
    costs: Vec<Vec<f64>>,
    failure: Option<Error>,
}

impl<C, D, S, L> Sweep<'_, C, D, S, L>
where
    C: Sync,
    D: Fn(&C, &C) -> usize + Sync,
    S: Fn(BlockId, &C, &mut Vec<Stream>) -> Result<()> + Sync,
    L: Fn(Vec<Stream>) -> Vec<f64> + Sync,
{
    pub(super) fn run(
        &self,
        streams: Vec<Stream>,
        report: &Report<'_, '_>,
    ) -> Result<Vec<Vec<f64>>> {
        if self.candidates.is_empty() {
            return Ok(Vec::new());
        }
        let all = Branch {
            at: self.start,
            candidates: (0..self.candidates.len()).collect(),
            streams,
        };
        let found = Mutex::new(Found {
            costs: vec![Vec::new(); self.candidates.len()],
            failure: None,
        });
        if self.by_block {
            self.run_by_block(all, &found, report);
        } else if self.in_parallel {
            rayon::scope(|scope| self.spawn(scope, all, &found, report));
        } else {
            let mut waiting = vec![all];
            while let Some(branch) = waiting.pop() {
                self.walk(branch, &found, report, &mut |branch| waiting.push(branch));
            }
        }
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.failure.map_or(Ok(found.costs), Err)
    }

    fn spawn<'scope>(
        &'scope self,
        scope: &rayon::Scope<'scope>,
        branch: Branch,
        found: &'scope Mutex<Found>,
        report: &'scope Report<'_, '_>,
    ) {
        self.walk(branch, found, report, &mut |branch| {
            scope.spawn(move |scope| self.spawn(scope, branch, found, report));
        });
    }

    /// Takes one of the branch's candidates to the end, and tells of the branches on the way.
    fn walk(
        &self,
        branch: Branch,
        found: &Mutex<Found>,
        report: &Report<'_, '_>,
        on_branch: &mut dyn FnMut(Branch),
    ) {
        let first = branch.at;
        let mut walk = self.start(branch);
        for block in first..self.depth {
            if let Some(branch) = walk.part(block) {
                on_branch(branch);
            }
            if lock(found).failure.is_some() {
                return;
            }
            let leader = &self.candidates[walk.leader];
            if let Err(error) = (self.step)(BlockId::new(block), leader, &mut walk.streams) {
                lock(found).failure.get_or_insert(error);
                return;
            }
        }
        self.arrive(walk, found, report);
    }

    fn start(&self, branch: Branch) -> Walk {
        let Branch {
            at,
            candidates,
            streams,
        } = branch;
        let leader = candidates[0];
        let of =
            |id: usize| (self.first_difference)(&self.candidates[leader], &self.candidates[id]);
        let followers = candidates[1..].iter().map(|&id| (of(id), id));
        let mut followers: Vec<_> = followers.collect();
        debug_assert!(followers.iter().all(|&(leaves, _)| leaves >= at));
        followers.sort_unstable_by_key(|&(leaves, id)| (Reverse(leaves), id));
        Walk {
            leader,
            followers,
            streams,
        }
    }

    /// The costs of a candidate, and of those that differ from it in nothing.
    fn arrive(&self, walk: Walk, found: &Mutex<Found>, report: &Report<'_, '_>) {
        let costs = (self.leave)(walk.streams);
        let same = walk.followers.iter().map(|&(_, id)| id);
        for id in std::iter::once(walk.leader).chain(same) {
            let sent = report.send(id, &costs);
            let mut found = lock(found);
            found.costs[id].clone_from(&costs);
            if let Err(error) = sent {
                found.failure.get_or_insert(error);
            }
        }
    }

    /// Each block is run by everything that needs it before the next one is. Costs are known at the end
    /// only.
    fn run_by_block(&self, all: Branch, found: &Mutex<Found>, report: &Report<'_, '_>) {
        let mut walks: Vec<Walk> = Vec::new();
        let mut waiting = vec![all];
        for block in self.start..self.depth {
            waiting.extend(walks.iter_mut().filter_map(|walk| walk.part(block)));
            while let Some(branch) = waiting.pop() {
                let mut walk = self.start(branch);
                waiting.extend(walk.part(block));
                walks.push(walk);
            }
            for walk in &mut walks {
                let leader = &self.candidates[walk.leader];
                if let Err(error) = (self.step)(BlockId::new(block), leader, &mut walk.streams) {
                    lock(found).failure.get_or_insert(error);
                    return;
                }
            }
        }
        for walk in walks {
            self.arrive(walk, found, report);
        }
    }
}

fn lock(found: &Mutex<Found>) -> std::sync::MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::{Device, Tensor};

    use super::*;

    /// What a candidate does in each of four blocks.
    type Path = [u8; 4];

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as a sweep calls it")]
    fn first_difference(a: &Path, b: &Path) -> usize {
        a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(4)
    }

    /// Costs of `paths`, each its digits read as a number, and how often each beginning was run.
    fn sweep(
        paths: &[Path],
        (by_block, in_parallel): (bool, bool),
    ) -> (Vec<Vec<f64>>, BTreeMap<Vec<u8>, usize>) {
        let device = Device::flex();
        let runs = Mutex::new(BTreeMap::new());
        let step = |id: BlockId, path: &Path, streams: &mut Vec<Stream>| {
            let begun = path[..=id.index()].to_vec();
            *runs.lock().unwrap().entry(begun).or_insert(0) += 1;
            for stream in streams {
                let hidden = stream.continuation.take().unwrap();
                stream.continuation = Some(hidden * 10.0 + f32::from(path[id.index()]));
            }
            Ok(())
        };
        let leave = |streams: Vec<Stream>| {
            let number = |stream: Stream| stream.continuation.unwrap().into_scalar::<f32>();
            streams
                .into_iter()
                .map(|stream| f64::from(number(stream)))
                .collect()
        };
        let sweep = Sweep {
            by_block,
            in_parallel,
            start: 0,
            depth: 4,
            candidates: paths,
            first_difference: &first_difference,
            step: &step,
            leave: &leave,
        };
        let stream = Stream {
            prompt: None,
            continuation: Some(Tensor::zeros([1, 1, 1], &device)),
        };
        let mut told = Vec::new();
        let costs = sweep.run(
            vec![stream],
            &Report::new(&mut |id, costs| {
                told.push((id, costs.to_vec()));
                ControlFlow::Continue(())
            }),
        );
        let costs = costs.unwrap();
        told.sort_by_key(|&(id, _)| id);
        let expected: Vec<_> = costs.iter().cloned().enumerate().collect();
        assert_eq!(told, expected, "each is told of once");
        (costs, runs.into_inner().unwrap())
    }

    #[test]
    fn what_candidates_have_in_common_is_run_once() {
        let paths = [
            [1, 2, 3, 4],
            [1, 2, 3, 5],
            [2, 2, 3, 4],
            [1, 2, 4, 4],
            [2, 2, 3, 4],
            [2, 2, 3, 6],
            [1, 3, 3, 4],
        ];
        for mode in [(false, false), (false, true), (true, false)] {
            let (costs, runs) = sweep(&paths, mode);
            let digits = |path: &Path| {
                path.iter()
                    .fold(0.0, |n, &digit| n * 10.0 + f64::from(digit))
            };
            let expected: Vec<_> = paths.iter().map(|path| vec![digits(path)]).collect();
            assert_eq!(costs, expected, "{mode:?}");
            let beginnings = paths
                .iter()
                .flat_map(|path| (1..=4).map(|n| path[..n].to_vec()));
            let once: BTreeMap<_, _> = beginnings.map(|begun| (begun, 1)).collect();
            assert_eq!(runs, once, "{mode:?}");
        }
        assert!(sweep(&[], (false, true)).0.is_empty());
    }

    #[test]
    fn a_caller_who_breaks_off_is_asked_no_more() {
        for (by_block, in_parallel) in [(false, false), (false, true), (true, false)] {
            let sweep = Sweep {
                by_block,
                in_parallel,
                start: 0,
                depth: 4,
                candidates: &[[1, 2, 3, 4], [2, 2, 3, 4]],
                first_difference: &first_difference,
                step: &|_, _: &Path, _: &mut Vec<Stream>| Ok(()),
                leave: &|_| vec![0.0],
            };
            let stopped = sweep.run(Vec::new(), &Report::new(&mut |_, _| ControlFlow::Break(())));
            assert!(matches!(stopped, Err(Error::Stopped)));
        }
    }
}
