//! Policies that drop positions.

use pdtrim_core::cache::BlockCache;

use super::attention::mass;
use super::{Budget, Kept, KvPolicy, last_queries};
use crate::error::Result;

/// The first positions, which attention rests on, and the last ones (`StreamingLLM`, arXiv:2309.17453): in
/// every head alike.
///
/// ```
/// use pdtrim_core::cache::{BlockCache, TokenPosition};
/// use pdtrim_kv::{Budget, Kept, KvPolicy, StreamingLlm};
/// # use burn::tensor::{Device, Tensor};
/// # let rows = Tensor::<4>::zeros([1, 6, 2, 8], &Device::flex());
///
/// let mut cache = BlockCache::with_capacity(6);
/// cache.append(rows.clone(), rows, TokenPosition(0));
/// let policy = StreamingLlm { sinks: 1, budget: Budget::Positions(3) };
/// assert_eq!(policy.keep(&cache)?, Kept::Places(vec![0, 4, 5]));
/// # Ok::<(), pdtrim_kv::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct StreamingLlm {
    /// Positions kept from the start; the authors keep 4.
    pub sinks: usize,
    /// Positions kept in all.
    pub budget: Budget,
}

/// The last positions alone.
///
/// ```
/// use pdtrim_core::cache::{BlockCache, TokenPosition};
/// use pdtrim_kv::{Budget, Kept, KvPolicy, Window};
/// # use burn::tensor::{Device, Tensor};
/// # let rows = Tensor::<4>::zeros([1, 6, 2, 8], &Device::flex());
///
/// let mut cache = BlockCache::with_capacity(6);
/// cache.append(rows.clone(), rows, TokenPosition(0));
/// let policy = Window { budget: Budget::Share(0.5) };
/// assert_eq!(policy.keep(&cache)?, Kept::Places(vec![3, 4, 5]));
/// # Ok::<(), pdtrim_kv::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Positions kept.
    pub budget: Budget,
}

/// The last positions, and those before that the last queries look at most (`SnapKV`, arXiv:2404.14469): each
/// key head its own.
///
/// ```
/// use pdtrim_core::pipeline::PdModel;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockSet, Boundary, KvEncoding, KvFill, PerStage};
/// use pdtrim_kv::{Budget, KvPolicy, PolicyTransfer, SnapKv};
///
/// let policy = SnapKv { budget: Budget::Positions(6), window: 2, kernel: 3 };
/// assert_eq!(policy.observes(), 2);
///
/// let transfer = PolicyTransfer::new(policy, BlockSet::all(5), KvEncoding::Held);
/// let (model, removed) = (TinyModel::default().build(), PerStage::dense(5));
/// let stages = PdModel::new(&model, removed, KvFill::Nested, Boundary::Prefill, &transfer)?;
/// let sent = stages.prefill(&[[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])?;
/// assert_eq!(sent.kv_positions(), 5 * 6);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SnapKv {
    /// Positions kept in all.
    pub budget: Budget,
    /// Last positions whose queries vote and which are kept themselves; the authors use 16 to 64.
    pub window: usize,
    /// Places over which votes are averaged, so that what surrounds an important place stays too; odd.
    pub kernel: usize,
}

/// As [`SnapKv`], but heads share a block's budget out among themselves (`Ada-KV`, arXiv:2407.11550): each keeps a
/// share of it as its own, and the rest goes to the highest votes, whichever head's they are.
///
/// ```
/// use pdtrim_kv::{AdaKv, Budget, KvPolicy, SnapKv};
///
/// // A quarter of the prompt in the mean; a fifth of that is every head's own.
/// let snap = SnapKv { budget: Budget::Share(0.25), window: 32, kernel: 7 };
/// let policy = AdaKv { snap, own: 0.2 };
/// assert_eq!((policy.name(), policy.observes()), ("ada-kv", 32));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct AdaKv {
    /// Positions that a head keeps in the mean, how votes are cast, and the window that every head keeps.
    pub snap: SnapKv,
    /// Share of the budget that is each head's own, in [0, 1]; the authors use 0.2.
    pub own: f64,
}

/// Half of the budget for the last positions, half for those that all queries together looked at most (H2O,
/// arXiv:2306.14048): each key head its own.
///
/// ```
/// use pdtrim_kv::{Budget, H2o, KvPolicy};
///
/// // It looks at the queries of all positions.
/// let policy = H2o { budget: Budget::Share(0.25) };
/// assert_eq!((policy.name(), policy.observes()), ("h2o", usize::MAX));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct H2o {
    /// Positions kept in all.
    pub budget: Budget,
}

/// The first and the last places of `n`.
fn first_last(first: usize, kept: usize, n: usize) -> Vec<usize> {
    let first = first.min(kept.saturating_sub(1));
    (0..first).chain(n - (kept - first)..n).collect()
}

impl KvPolicy for StreamingLlm {
    fn name(&self) -> &'static str {
        "streaming-llm"
    }

    fn keep(&self, cache: &BlockCache) -> Result<Kept> {
        let n = cache.len();
        let kept = self.budget.of(n);
        Ok(Kept::Places(first_last(self.sinks, kept, n)))
    }
}

impl KvPolicy for Window {
    fn name(&self) -> &'static str {
        "window"
    }

    fn keep(&self, cache: &BlockCache) -> Result<Kept> {
        let n = cache.len();
        Ok(Kept::Places((n - self.budget.of(n)..n).collect()))
    }
}

impl KvPolicy for SnapKv {
    fn name(&self) -> &'static str {
        "snapkv"
    }

    fn observes(&self) -> usize {
        self.window
    }

    fn keep(&self, cache: &BlockCache) -> Result<Kept> {
        let n = cache.len();
        let (kept, recent) = self.sizes(n);
        let votes = self.votes(cache)?;
        let head = |votes: &Vec<f32>| with_recent(highest(votes, kept - recent), recent, n);
        Ok(by_head(&votes, head))
    }
}

impl SnapKv {
    /// Places that are kept of `n`, and how many of them are the last ones.
    fn sizes(&self, n: usize) -> (usize, usize) {
        let kept = self.budget.of(n);
        (kept, self.window.min(kept))
    }

    /// Of each key head for the places before the last ones, `[batch][n_kv_heads][place]`.
    fn votes(&self, cache: &BlockCache) -> Result<Vec<Vec<Vec<f32>>>> {
        let (_, recent) = self.sizes(cache.len());
        let queries = last_queries(cache, self.window)?;
        let before = cache.len() - recent;
        let votes = |mass: &Vec<f32>| smoothed(&mass[..before], self.kernel);
        let mass = mass(&queries, &cache.keys(), usize::MAX);
        let row = |row: &Vec<Vec<f32>>| row.iter().map(votes).collect();
        Ok(mass.iter().map(row).collect())
    }
}

impl KvPolicy for AdaKv {
    fn name(&self) -> &'static str {
        "ada-kv"
    }

    fn observes(&self) -> usize {
        self.snap.window
    }

    fn keep(&self, cache: &BlockCache) -> Result<Kept> {
        let n = cache.len();
        let (kept, recent) = self.snap.sizes(n);
        let own = ((kept - recent) as f64 * self.own + 1e-9) as usize;
        let row = |votes: &Vec<Vec<f32>>| {
            let shared = (kept - recent - own) * votes.len();
            let heads = shared_out(votes, own, shared).into_iter();
            heads.map(|places| with_recent(places, recent, n)).collect()
        };
        let votes = self.snap.votes(cache)?;
        Ok(Kept::ByHead(votes.iter().map(row).collect()))
    }
}

/// The places of each head's `own` highest votes, and those of the `shared` highest of all others.
fn shared_out(votes: &[Vec<f32>], own: usize, shared: usize) -> Vec<Vec<usize>> {
    let mut heads: Vec<Vec<usize>> = votes.iter().map(|votes| highest(votes, own)).collect();
    let mut others: Vec<(usize, usize)> = Vec::new();
    for (head, votes) in votes.iter().enumerate() {
        let left = (0..votes.len()).filter(|place| heads[head].binary_search(place).is_err());
        others.extend(left.map(|place| (head, place)));
    }
    let vote = |&(head, place): &(usize, usize)| votes[head][place];
    others.sort_by(|a, b| vote(b).total_cmp(&vote(a)).then(a.cmp(b)));
    for (head, place) in others.into_iter().take(shared) {
        heads[head].push(place);
    }
    for places in &mut heads {
        places.sort_unstable();
    }
    heads
}

impl KvPolicy for H2o {
    fn name(&self) -> &'static str {
        "h2o"
    }

    fn observes(&self) -> usize {
        usize::MAX
    }

    fn keep(&self, cache: &BlockCache) -> Result<Kept> {
        let n = cache.len();
        let kept = self.budget.of(n);
        let recent = kept.div_ceil(2);
        let queries = last_queries(cache, n)?;
        let mass = mass(&queries, &cache.keys(), usize::MAX);
        let head =
            |mass: &Vec<f32>| with_recent(highest(&mass[..n - recent], kept - recent), recent, n);
        Ok(by_head(&mass, head))
    }
}

fn by_head(mass: &[Vec<Vec<f32>>], places: impl Fn(&Vec<f32>) -> Vec<usize>) -> Kept {
    let row = |row: &Vec<Vec<f32>>| row.iter().map(&places).collect();
    Kept::ByHead(mass.iter().map(row).collect())
}

/// The places of the `k` highest votes, ascending; ties go to the first.
pub(crate) fn highest(votes: &[f32], k: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..votes.len()).collect();
    places.sort_by(|&a, &b| votes[b].total_cmp(&votes[a]).then(a.cmp(&b)));
    places.truncate(k);
    places.sort_unstable();
    places
}

fn with_recent(mut places: Vec<usize>, recent: usize, n: usize) -> Vec<usize> {
    places.extend(n - recent..n);
    places
}

/// Means over `kernel` places around each, fewer at the ends.
fn smoothed(votes: &[f32], kernel: usize) -> Vec<f32> {
    let reach = kernel / 2;
    let mean = |place: usize| {
        let around = &votes[place.saturating_sub(reach)..votes.len().min(place + reach + 1)];
        around.iter().sum::<f32>() / kernel.max(1) as f32
    };
    (0..votes.len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_shares_or_numbers_and_at_least_one() {
        assert_eq!(Budget::Share(0.25).of(40), 10);
        assert_eq!(Budget::Share(1.0 / 3.0).of(9), 3);
        assert_eq!(Budget::Share(0.001).of(40), 1);
        assert_eq!(Budget::Positions(50).of(40), 40);
        assert_eq!(Budget::Positions(0).of(40), 1);
    }

    #[test]
    fn the_last_position_is_always_kept() {
        assert_eq!(first_last(4, 6, 10), [0, 1, 2, 3, 8, 9]);
        assert_eq!(first_last(4, 2, 10), [0, 9]);
        assert_eq!(first_last(4, 1, 10), [9]);
        assert_eq!(first_last(4, 10, 10), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn the_highest_votes_win_and_ties_go_to_the_first() {
        assert_eq!(highest(&[1.0, 3.0, 2.0, 3.0, 0.0], 2), [1, 3]);
        assert_eq!(highest(&[1.0; 4], 2), [0, 1]);
        assert_eq!(highest(&[1.0], 0), [0_usize; 0]);
    }

    #[test]
    fn heads_share_out_what_is_not_their_own() {
        let votes = [vec![9.0, 8.0, 7.0, 0.1], vec![0.3, 0.2, 0.1, 0.4]];
        assert_eq!(shared_out(&votes, 0, 4), [vec![0, 1, 2], vec![3]]);
        assert_eq!(shared_out(&votes, 2, 0), [[0, 1], [0, 3]]);
        assert_eq!(shared_out(&votes, 1, 2), [vec![0, 1, 2], vec![3]]);
        assert_eq!(shared_out(&votes, 0, 9).concat().len(), 8);
    }

    #[test]
    fn votes_spread_to_their_neighbours() {
        assert_eq!(
            smoothed(&[0.0, 0.0, 3.0, 0.0, 0.0], 3),
            [0.0, 1.0, 1.0, 1.0, 0.0]
        );
        assert_eq!(smoothed(&[3.0, 0.0], 1), [3.0, 0.0]);
        assert_eq!(smoothed(&[], 3), [0.0_f32; 0]);
    }
}
