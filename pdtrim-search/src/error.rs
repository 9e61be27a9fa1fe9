//! What can go wrong in a search.

use std::path::PathBuf;

use pdtrim_core::{BlockId, BlockSet, PerStage, Stage};

/// Result with this crate's [`Error`].
///
/// ```
/// use pdtrim_core::BlockSet;
/// use pdtrim_search::{Ledger, Problem, Result, ShortGpt, Strategy, Target, Toy};
///
/// fn most_redundant(redundancy: &[f64], count: usize) -> Result<BlockSet> {
///     let problem = Problem::new(Target::Unified, redundancy, count, true)?;
///     let unused = Toy::new(vec![0.0; redundancy.len()]);
///     ShortGpt.search(&problem, &mut Ledger::in_memory(&unused), &mut |_| {})
/// }
///
/// assert_eq!(most_redundant(&[0.9, 0.5, 0.8, 0.7, 0.9], 1)?.to_indices(), [2]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A search that cannot be run or continued.
///
/// ```
/// use pdtrim_search::{Error, Problem, Target};
///
/// let error = Problem::new(Target::Unified, &[0.5; 5], 4, true).unwrap_err();
/// assert!(matches!(error, Error::TooMany { count: 4, removable: 3, depth: 5, .. }));
/// let said = "4 blocks are to be removed, but only 3 of the model's 5 may be";
/// assert!(error.to_string().starts_with(said));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The objective could not be evaluated, or its costs could not be written down.
    #[error(transparent)]
    Objective(#[from] pdtrim_core::Error),
    /// More blocks are to be removed than may be.
    #[error(
        "{count} blocks are to be removed, but only {removable} of the model's {depth} may be \
            ({reason})"
    )]
    TooMany {
        /// Blocks asked for.
        count: usize,
        /// Blocks that may be removed.
        removable: usize,
        /// Blocks of the model.
        depth: usize,
        /// Why not all of them.
        reason: &'static str,
    },
    /// Fewer blocks are to be removed than are removed already.
    #[error(
        "{count} blocks are to be removed from decode, but prefill removes {nested} and decode \
            must include them"
    )]
    FewerThanNested {
        /// Blocks asked for.
        count: usize,
        /// Blocks that prefill removes.
        nested: usize,
    },
    /// A probability that is none, or certainty.
    #[error("the error probability of racing must be at least 0 and below 1, found {found}")]
    RaceError {
        /// The number given.
        found: f64,
    },
    /// A journal holds costs on units that the objective does not have.
    #[error("the journal holds a cost on unit {found}, the objective has {units} units")]
    UnknownUnit {
        /// Units of the objective.
        units: usize,
        /// The journal's.
        found: usize,
    },
    /// The objective gave a candidate a cost that is no number to compare.
    #[error(
        "the loss with {} removed from prefill and {} from decode is {found}, not a finite number",
        blocks(&removed.prefill),
        blocks(&removed.decode)
    )]
    CostNotFinite {
        /// The candidate.
        removed: PerStage<BlockSet>,
        /// What the objective said.
        found: f64,
    },
    /// Redundancy that is no number.
    #[error("the redundancy of block {block} is not a number")]
    NanRedundancy {
        /// The block; for a pair its first.
        block: usize,
    },
    /// A threshold with which no pair of blocks, or every one, would be distilled.
    #[error("the distillation threshold d_T must be above 0 and at most 1, found {found}")]
    DistillThreshold {
        /// The number given.
        found: f64,
    },
    /// Temperatures that do not fall.
    #[error(
        "annealing temperatures must fall from a finite one to one above 0, found {start} to {end}"
    )]
    Temperatures {
        /// At the first step.
        start: f64,
        /// At the last step.
        end: f64,
    },
    /// Too many sets to try them all.
    #[error(
        "{count} of {choices} blocks can be chosen in {sets} ways, more than the {limit} that an \
            exact search tries; remove fewer blocks or choose another strategy"
    )]
    TooManySets {
        /// Sets of the asked size.
        sets: u128,
        /// Blocks still to be chosen.
        count: usize,
        /// Blocks to choose from.
        choices: usize,
        /// Most sets that are tried.
        limit: usize,
    },
    /// A share of parameters that cannot be removed inside blocks.
    #[error(
        "{ratio} of the parameters of the blocks' heads and MLP channels cannot be removed: expected at \
            least 0 and less than 1, with a head group and a sixteenth of the channels left in each \
            block, and for decode no less than prefill; whole structures come to {reached:.4}"
    )]
    WidthRatio {
        /// The share asked for.
        ratio: f64,
        /// The nearest.
        reached: f64,
    },
    /// Scores that do not rank what may be removed from a block.
    #[error(
        "the scores of block {block} are not a finite number for each head group and MLP channel"
    )]
    WidthScores {
        /// The block.
        block: usize,
    },
    /// A ridge that is no weight.
    #[error("the ridge of a linear repair must be a finite number of at least 0, found {found}")]
    Ridge {
        /// The number given.
        found: f64,
    },
    /// Hidden states from which no repair can be computed.
    #[error(
        "the hidden states do not determine a linear repair with a ridge of {ridge}: they are not \
            finite, or there are fewer tokens than features; expected a larger ridge or more tokens"
    )]
    NoRepair {
        /// The ridge.
        ridge: f64,
    },
    /// A setting, a model or a kept state that cannot be distilled with.
    #[error("cannot distill: {what}: expected {expected}, found {found}")]
    Distill {
        /// What is wrong.
        what: &'static str,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A training whose loss is no number any more.
    #[error(
        "the distillation of {stage}{} has a loss that is no finite number at step {step}: expected \
            a smaller learning rate", block.map(|block| format!(", block {block},")).unwrap_or_default()
    )]
    Diverged {
        /// The stage.
        stage: Stage,
        /// The block before a run; `None` where all of the stage's are trained.
        block: Option<BlockId>,
        /// The step, from 1.
        step: usize,
    },
    /// Windows of two purposes share text.
    #[error(
        "window {first_window} of {first} and window {second_window} of {second} share text: a fit, \
            the choice of blocks and the report need windows of their own"
    )]
    WindowsOverlap {
        /// What the first is for.
        first: String,
        /// Its number, from 0.
        first_window: usize,
        /// What the second is for.
        second: String,
        /// Its number, from 0.
        second_window: usize,
    },
    /// Too few windows share no text with those taken already.
    #[error(
        "{source_name}: {expected} windows are needed that share no text with those that choose the \
            blocks and report on them, found {found}"
    )]
    TooFewDisjoint {
        /// The source.
        source_name: String,
        /// Windows asked for.
        expected: usize,
        /// Windows that can be used.
        found: usize,
    },
    /// The table of redundancies is for another model.
    #[error("redundancy is given for {found} blocks, the model has {expected}")]
    RedundancyLength {
        /// Blocks of the model.
        expected: usize,
        /// Entries of the table.
        found: usize,
    },
    /// An importance that is no number to compare.
    #[error("the importance of block {block} is {found}, not a finite number")]
    ImportanceNotFinite {
        /// The block.
        block: usize,
        /// Its entry of the table.
        found: f64,
    },
    /// The table of importances is for another model.
    #[error("importance is given for {found} blocks, the model has {expected}")]
    ImportanceLength {
        /// Blocks of the model.
        expected: usize,
        /// Entries of the table.
        found: usize,
    },
    /// A strategy that goes by importance was given none.
    #[error("{strategy} goes by the importance of each block, and the problem gives none")]
    NoImportance {
        /// The strategy.
        strategy: &'static str,
    },
    /// A calibration source that is no file and has no name here.
    #[error("`{found}` is neither a file nor a known calibration source; known are {known}")]
    UnknownSource {
        /// What the user wrote.
        found: String,
        /// The names.
        known: String,
    },
    /// A source that names no field where it says that it does.
    #[error(
        "`{found}`: expected field names after #, separated by +, as in items.jsonl#question+answer"
    )]
    SourceFields {
        /// What the user wrote.
        found: String,
    },
    /// Published files are not where they would be.
    #[error(
        "{source_name} needs {needed}; looked for {looked_for}; name the folder that has it with \
            --data DIR"
    )]
    DataNotFound {
        /// The source.
        source_name: &'static str,
        /// What is missing.
        needed: &'static str,
        /// The paths tried, or that no folder is known.
        looked_for: String,
    },
    /// A line of a JSON-lines file is no JSON object.
    #[error("{}, line {line}: expected a JSON object, found {found}", path.display())]
    RecordSyntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is there.
        found: String,
    },
    /// A field of a record is missing or of another kind.
    #[error("{}, line {line}, field `{field}`: expected {expected}, found {found}", path.display())]
    RecordField {
        /// The file.
        path: PathBuf,
        /// The line on which the record begins, counted from 1.
        line: usize,
        /// The field.
        field: String,
        /// What may stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A labels file is not aligned with its records.
    #[error("{}: expected {expected} labels, one for each record of {}, found {found}", path.display(), records.display())]
    LabelCount {
        /// The labels file.
        path: PathBuf,
        /// The records' file.
        records: PathBuf,
        /// Records.
        expected: usize,
        /// Labels.
        found: usize,
    },
    /// A CSV file is malformed.
    #[error("{} is not a valid CSV file", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// What the parser says; it names the line.
        source: csv::Error,
    },
    /// Items are asked of a source that has none.
    #[error("{source_name} has no items to draw: its windows are cut from one text")]
    NoItems {
        /// The source.
        source_name: String,
    },
    /// A source has fewer items than are to be drawn.
    #[error("{source_name}: {expected} items are to be drawn, but only {found} can be{reason}")]
    TooFewItems {
        /// The source.
        source_name: String,
        /// Items asked for.
        expected: usize,
        /// Items that can be drawn.
        found: usize,
        /// Why not more, with its punctuation.
        reason: &'static str,
    },
    /// A text is long enough for the windows of seed 0, but not for these.
    #[error(
        "{source_name}: {found} tokens are too few for {draw}, which needs {needed}: windows of \
            different seeds do not overlap, and the held-out ones overlap with none"
    )]
    TooFewTokens {
        /// The source.
        source_name: String,
        /// Which windows: "seed 3", "held-out windows".
        draw: String,
        /// Tokens needed.
        needed: usize,
        /// Tokens of the text.
        found: usize,
    },
}

/// A set in a sentence.
fn blocks(set: &BlockSet) -> String {
    if set.is_empty() {
        "no block".to_owned()
    } else {
        format!("blocks {set}")
    }
}
