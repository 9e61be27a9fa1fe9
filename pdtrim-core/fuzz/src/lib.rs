//! What a fuzzer does with an input, and a test with each file of the corpus: everything that a user's command
//! would do with it. Refusals are fine; a panic, or more memory than [`bounded`] allows, is not.

use std::fs;
use std::panic;
use std::path::Path;
use std::sync::Once;

use burn::tensor::{DType, Device};
use pdtrim_core::checkpoint::Checkpoint;
use pdtrim_core::config::Architecture;
use pdtrim_core::import::{BlockSource, StageFolder};
use pdtrim_core::pipeline::PdModel;
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::testing::tiny_config;
use pdtrim_core::width::Widths;
use pdtrim_core::{Boundary, ModelConfig, Plan, Tokenizer};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What any input may take beside twice its size: tables of 4096 blocks, the thread pool, regular expressions.
pub const FIXED_BYTES: usize = 64 << 20;

/// Between the files of an input.
pub const SEPARATOR: &[u8] = b"\n%%\n";

/// Stands in a plan for the hash of the weights beside it.
pub const HASH: &str = "@sha256@";

const TEXTS: [&str; 4] = [
    "",
    "a word  and 123 'll\n",
    "\u{feff}é▁世界\u{1f600}\0",
    "<s></s><|im_end|>",
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

/// A GGUF file.
pub fn gguf(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("model.gguf");
    write(&path, data);
    bounded(data.len(), FIXED_BYTES, || checkpoint(&path));
}

/// A Hugging Face folder: `config.json`, its index, `tokenizer.json`, `tokenizer_config.json` and the weights,
/// with [`SEPARATOR`] between them; an empty file is left out.
pub fn folder(data: &[u8]) {
    const FILES: [&str; 5] = [
        "config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ];
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (name, part) in FILES.into_iter().zip(parts(data, FILES.len())) {
        if !part.is_empty() {
            write(&folder.path().join(name), part);
        }
    }
    bounded(data.len(), FIXED_BYTES, || checkpoint(folder.path()));
}

/// A plan, and the weights beside it, whose hash stands in for [`HASH`].
pub fn plan(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut files = parts(data, 2);
    let text = String::from_utf8_lossy(files.next().unwrap_or_default());
    let weights = files.next().unwrap_or_default();
    let hash = format!("sha256:{}", pdtrim_core::hash::sha256(weights));
    let path = folder.path().join("plan.toml");
    write(&path, text.replace(HASH, &hash).as_bytes());
    for name in ["repair.safetensors", "width.safetensors"] {
        write(&folder.path().join(name), weights);
    }
    bounded(data.len(), FIXED_BYTES, || {
        let Ok(plan) = Plan::read(&path) else {
            return;
        };
        let again = folder.path().join("again.toml");
        plan.write(&again)
            .expect("a plan that was read can be written");
        let again = Plan::read(&again).expect("a plan that was written can be read");
        assert_eq!(again.to_toml(), plan.to_toml());
        let config = tiny_config(Architecture::Llama);
        let _ = RepairWeights::of_plan(&plan, &path, &config);
        let _ = Widths::of_plan(&plan, &path, &config);
    });
}

/// A file of another tool, read as each kind that there is.
pub fn import(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for name in ["merge.yml", "list.txt", "config.json"] {
        write(&folder.path().join(name), data);
    }
    bounded(data.len(), FIXED_BYTES, || {
        let _ = BlockSource::read(&folder.path().join("merge.yml"), 8);
        let _ = BlockSource::read(&folder.path().join("list.txt"), 8);
        let _ = StageFolder::read(folder.path(), 8);
    });
}

/// What commands do with a checkpoint.
pub fn checkpoint(path: &Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else {
        return;
    };
    let _ = checkpoint.format();
    let _ = checkpoint.hash();
    let _ = checkpoint.licence();
    let _ = checkpoint.chat_template();
    let _ = checkpoint.listing();
    if let Ok(tokenizer) = checkpoint.tokenizer() {
        tokenize(&tokenizer);
    }
    let config = checkpoint.config();
    if let Ok(model) = checkpoint.load(DType::F32, &Device::flex())
        && is_small(config)
    {
        let last = (config.vocab_size - 1) as u32;
        let _ = PdModel::dense(&model, Boundary::Decode).score(&[0, last, 0], &[[last, 0]]);
    }
}

/// Whether a forward pass takes no time.
fn is_small(config: &ModelConfig) -> bool {
    config.parameters() <= 1 << 20 && config.n_blocks <= 8 && config.n_heads <= 64
}

fn tokenize(tokenizer: &Tokenizer) {
    for text in TEXTS {
        let Ok(ids) = tokenizer.encode(text) else {
            continue;
        };
        let _ = tokenizer.encode_prompt(text);
        let _ = tokenizer.decode(&ids);
        let mut stream = tokenizer.stream();
        for id in ids {
            let _ = stream.push(id);
            let _ = tokenizer.token(id);
        }
        let _ = stream.finish();
    }
    let _ = tokenizer.decode(&[0, u32::MAX]);
    let _ = tokenizer.to_json();
}

/// The files of an input; the last one has all that is left.
fn parts(data: &[u8], n: usize) -> impl Iterator<Item = &[u8]> {
    let mut left = Some(data);
    (1..=n).map_while(move |place| {
        let data = left?;
        let end = data
            .windows(SEPARATOR.len())
            .position(|window| window == SEPARATOR)
            .filter(|_| place < n);
        left = end.map(|end| &data[end + SEPARATOR.len()..]);
        Some(&data[..end.unwrap_or(data.len())])
    })
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a temporary file can be written");
}
