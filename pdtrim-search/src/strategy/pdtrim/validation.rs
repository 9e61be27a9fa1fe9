//! Deciding on more windows than the walk saw.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ledger::Ledger;
use crate::race::Racing;

/// A second objective, of more windows, that decides after the walk.
///
/// The best of many sets on few short windows is partly the luckiest on those. So the walk only
/// proposes: the `among` best sets that it met, and those that it started from, are compared on the
/// second objective, and the closing passes are made on it. [`Racing`] keeps that cheap: a set that paired
/// statistics show to be worse is dropped after a few windows, and a close call sees all of them. Ours;
/// the paper does not say how it guards against this.
///
/// ```
/// use std::num::NonZeroUsize;
/// use std::sync::{Arc, Mutex};
///
/// use pdtrim_search::{
///     Annealing, Ledger, PdTrim, Problem, Racing, Strategy, Target, Toy, Validation,
/// };
///
/// // On few windows block 1 looks cheapest, on more it is block 3.
/// let few = Toy::new(vec![9.0, 1.0, 2.0, 1.5, 9.0]);
/// let more = Toy::new(vec![9.0, 3.0, 2.0, 1.0, 9.0]);
/// let ledger = Arc::new(Mutex::new(Ledger::in_memory(&more)));
/// let among = NonZeroUsize::new(8).expect("8 is not 0");
/// let strategy = PdTrim::new(Annealing::default())?
///     .with_validation(Validation::new(ledger, among, Racing::default()));
/// let problem = Problem::new(Target::Unified, &[0.5; 5], 1, true)?;
/// let removed = strategy.search(&problem, &mut Ledger::in_memory(&few), &mut |_| {})?;
/// assert_eq!(removed.to_indices(), [3]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
pub struct Validation<'v> {
    ledger: Arc<Mutex<Ledger<'v>>>,
    among: NonZeroUsize,
    racing: Racing,
}

impl<'v> Validation<'v> {
    /// `ledger` measures on the other windows and is the caller's too; `among` best sets are compared.
    pub fn new(ledger: Arc<Mutex<Ledger<'v>>>, among: NonZeroUsize, racing: Racing) -> Self {
        Self {
            ledger,
            among,
            racing,
        }
    }

    pub(super) fn among(&self) -> usize {
        self.among.get()
    }

    pub(super) fn racing(&self) -> Racing {
        self.racing
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger<'v>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
