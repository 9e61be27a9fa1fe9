//! What a fuzzer does with an input, and a test with each file of the corpus: everything that a user's command
//! would do with it. Refusals are fine; a panic, or more memory than [`bounded`] allows, is not.

use std::fs;
use std::num::NonZeroUsize;
use std::panic;
use std::path::Path;
use std::sync::Once;

use pdtrim_eval::regression::Baseline;
use pdtrim_eval::{
    ContinuationScore, Dataset, Execution, Folders, Generated, GenerationRequest, Prepared,
    Request, Scorer, ScorerError, Scores, Task,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What any input may take beside twice its size.
pub const FIXED_BYTES: usize = 64 << 20;

/// Between a task and its records.
pub const SEPARATOR: &[u8] = b"\n%%\n";

/// Names of the data file, by the first byte of an input of [`records`].
const FORMATS: [(u8, &str); 4] = [
    (b'j', "data.jsonl"),
    (b'c', "data.csv"),
    (b'p', "data.parquet"),
    (b't', "data.txt"),
];

/// Lets a panic unwind to where it is caught, in the libraries' readers: libFuzzer's hook ends the process before. One
/// that nobody catches still does.
pub fn unwind() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| panic::set_hook(Box::new(|panic| eprintln!("{panic}"))));
}

/// Runs `work` on an input of `len` bytes, and panics if it took more memory than `2 * len + fixed` at any
/// time. Returns how much it took.
pub fn bounded(len: usize, fixed: usize, work: impl FnOnce()) -> usize {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    work();
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    let most = 2 * len + fixed;
    assert!(
        taken <= most,
        "{len} bytes took {taken}, at most {most} are allowed"
    );
    taken
}

/// A task file and, after [`SEPARATOR`], its records: those are there under the names that [`records`] has.
pub fn task(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let end = data
        .windows(SEPARATOR.len())
        .position(|window| window == SEPARATOR);
    let (text, records) = match end {
        Some(end) => (&data[..end], &data[end + SEPARATOR.len()..]),
        None => (data, &[][..]),
    };
    let path = folder.path().join("task.toml");
    write(&path, text);
    for (_, name) in FORMATS {
        write(&folder.path().join(name), records);
    }
    bounded(data.len(), FIXED_BYTES, || {
        for task in Task::from_file(&path).into_iter().flatten().take(4) {
            evaluate(&task, folder.path());
        }
    });
}

/// A data file; the first byte says of which format.
pub fn records(data: &[u8]) {
    let Some((kind, records)) = data.split_first() else {
        return;
    };
    let Some((_, name)) = FORMATS.iter().find(|(format, _)| format == kind) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    write(&folder.path().join(name), records);
    let text = if *kind == b't' {
        "[rolling]\ntext = '{{ page }}'\n[[data]]\nfiles = ['data.txt']\npages = true".to_owned()
    } else {
        format!(
            "[loglikelihood]\ncontext = '{{{{ text }}}}'\ntarget = ' x'\n[[data]]\nfiles = ['{name}']"
        )
    };
    let text = format!("name = 'x'\nversion = 1\ndescription = ''\n{text}\n");
    let task = Task::parse(&text, "task.toml").expect("the task is valid");
    bounded(data.len(), FIXED_BYTES, || evaluate(&task, folder.path()));
}

/// A baseline, as `pdtrim eval` keeps it.
pub fn baseline(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("baseline.json");
    write(&path, data);
    bounded(data.len(), FIXED_BYTES, || {
        let Ok(read) = Baseline::read(&path) else {
            return;
        };
        let text = read.to_json();
        let again = Baseline::parse(&text, &path).expect("a baseline that was written can be read");
        assert_eq!(again.to_json(), text);
    });
}

fn evaluate(task: &Task, folder: &Path) {
    let Ok(dataset) = Dataset::load(task, &Folders::of(Some(folder))) else {
        return;
    };
    let limit = NonZeroUsize::new(8);
    if let Ok(prepared) = Prepared::new(task, &dataset, &Bytes, limit) {
        let _ = prepared.evaluate(&Bytes, &Execution::default());
    }
}

/// Bytes are tokens, and all are equally likely.
struct Bytes;

impl Scorer for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ScorerError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn prefix_token(&self) -> Option<u32> {
        Some(0)
    }

    fn max_tokens(&self) -> usize {
        1 << 12
    }

    fn score(&self, requests: &[Request]) -> Result<Vec<Scores>, ScorerError> {
        let score = |request: &Request| Scores {
            continuations: request
                .continuations
                .iter()
                .map(|tokens| ContinuationScore {
                    logprobs: vec![-1.0; tokens.len()],
                    greedy: false,
                })
                .collect(),
            ..Scores::default()
        };
        Ok(requests.iter().map(score).collect())
    }

    fn generate(&self, _: &GenerationRequest) -> Result<Generated, ScorerError> {
        Ok(Generated::default())
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a temporary file can be written");
}
