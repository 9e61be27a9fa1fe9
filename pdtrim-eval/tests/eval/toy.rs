//! A scorer without a model, and tasks in a temporary folder.

use std::path::Path;
use std::sync::Mutex;

use pdtrim_core::Bytes;
use pdtrim_eval::{
    ContinuationScore, Dataset, Folders, Generated, GenerationRequest, Prepared, Request, Result,
    Scorer, ScorerError, Scores, Task,
};
use tempfile::TempDir;

/// Tokens are bytes. A continuation's first token has the log-probability that `loglikelihood` gives
/// for context and continuation, and the others have 0. The first `sent` prompt positions cross, at
/// ten bytes each.
pub(crate) struct Toy {
    pub(crate) loglikelihood: fn(&str, &str) -> f32,
    pub(crate) sent: usize,
    pub(crate) max_tokens: usize,
    pub(crate) seen: Mutex<Vec<Request>>,
}

impl Toy {
    pub(crate) fn new(loglikelihood: fn(&str, &str) -> f32) -> Self {
        Self {
            loglikelihood,
            sent: usize::MAX,
            max_tokens: 1 << 20,
            seen: Mutex::default(),
        }
    }
}

impl Scorer for Toy {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ScorerError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn prefix_token(&self) -> Option<u32> {
        Some(0)
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn score(&self, requests: &[Request]) -> Result<Vec<Scores>, ScorerError> {
        self.seen.lock().unwrap().extend_from_slice(requests);
        let scores = requests.iter().map(|request| {
            let context = text(&request.context);
            let continuations = request.continuations.iter().map(|tokens| {
                let mut logprobs = vec![0.0; tokens.len()];
                logprobs[0] = (self.loglikelihood)(&context, &text(tokens));
                ContinuationScore {
                    greedy: logprobs[0] > -1.0,
                    logprobs,
                }
            });
            let sent = request.context.len().min(self.sent) as u64;
            Scores {
                continuations: continuations.collect(),
                kv_bytes: Bytes(10 * sent),
                kv_positions: sent,
                trimmed: request.context.len() > self.sent,
            }
        });
        Ok(scores.collect())
    }

    /// Says the context's last word, and goes on.
    fn generate(&self, request: &GenerationRequest) -> Result<Generated, ScorerError> {
        let context = text(&request.context);
        let last = context.split_whitespace().last().unwrap_or_default();
        Ok(Generated {
            text: format!(" {last}. And so on"),
            kv_bytes: Bytes(10),
            kv_positions: 1,
            trimmed: false,
        })
    }
}

/// The text of byte tokens.
pub(crate) fn text(tokens: &[u32]) -> String {
    let bytes = tokens
        .iter()
        .map(|&token| u8::try_from(token).expect("the toy's tokens are bytes"));
    String::from_utf8(bytes.collect()).expect("the toy splits text at characters")
}

/// A folder with these files.
pub(crate) fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    dir
}

/// A multiple-choice task on `t.jsonl` with the fields `q`, `c` and `g`.
pub(crate) fn choice_task() -> Task {
    let task = r#"
        name = "toy"
        version = 3
        description = "A toy."
        [[data]]
        files = ["t.jsonl"]
        [multiple_choice]
        context = "{{q}}"
        choices = "c"
        gold = "g"
    "#;
    Task::parse(task, "toy.toml").unwrap()
}

/// The task on the data in `dir`, encoded by the toy.
pub(crate) fn prepare(task: &Task, dir: &Path) -> Result<Prepared> {
    let dataset = Dataset::load(task, &Folders::of(Some(dir)))?;
    Prepared::new(task, &dataset, &Toy::new(|_, _| 0.0), None)
}

/// Context and continuation of every choice of a prepared task, in the order of the requests.
pub(crate) fn pairs(prepared: &Prepared) -> Vec<(String, String)> {
    let of = |request: &Request| {
        let context = text(&request.context);
        request
            .continuations
            .iter()
            .map(|tokens| (context.clone(), text(tokens)))
            .collect::<Vec<_>>()
    };
    prepared.requests().iter().flat_map(of).collect()
}
