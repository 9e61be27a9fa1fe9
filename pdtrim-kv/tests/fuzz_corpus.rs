//! Every file of the fuzzers' corpus through its target, without a fuzzer.
#![cfg(feature = "serve")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "it is a library beside the fuzz targets")]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pdtrim_kv::serve::replay::{receive, record};
use serde_json::{Value, json};
use targets::PROMPT;

/// Reads an input and returns the memory that this took.
type Target = fn(&[u8]) -> usize;

/// What is read, and the function that reads it.
const TARGETS: [(&str, Target); 2] = [("wire", targets::wire), ("http", targets::http)];

fn corpus(target: &str) -> PathBuf {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    fuzz.join("corpus").join(target)
}

/// Memory is counted for the whole process, so tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_input_is_refused_or_answered_in_bounded_memory() {
    let _turn = alone();
    for (target, run) in TARGETS {
        // What is made once, and kept.
        run(b"\0");
        let files = fs::read_dir(corpus(target)).unwrap();
        let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        assert!(paths.len() >= 12, "{target}: {} files", paths.len());
        for path in paths {
            let (name, input) = (path.file_name().unwrap(), fs::read(&path).unwrap());
            print_taken(target, &name.to_string_lossy(), &input, run);
        }
    }
    for (name, input) in largest_messages() {
        print_taken("wire", name, &input, targets::wire);
    }
    for (name, input) in largest_bodies() {
        print_taken("http", name, &input, targets::http);
    }
    // The bound is one that can be missed.
    let missed = std::panic::catch_unwind(|| {
        targets::bounded(0, 1000, || drop(std::hint::black_box(vec![1_u8; 4000])))
    });
    assert!(missed.is_err());
}

#[expect(
    clippy::print_stderr,
    reason = "says what each input took, where it is asked for"
)]
fn print_taken(target: &str, name: &str, input: &[u8], run: Target) {
    eprintln!("{target}/{name}: {} bytes took {}", input.len(), run(input));
}

/// Numbers of a known course (splitmix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }

    /// One input of the corpus after some changes: bytes that differ, are gone, twice there, or of another input.
    fn mutated(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        const WORDS: [&[u8]; 10] = [
            b"\"",
            b"{",
            b"[[",
            b"null",
            b"-1",
            b"1e309",
            b"\xff\xff\xff\xff",
            b"\0\0\0\0",
            b"\\u0000",
            b",\"stop\":",
        ];
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len());
            let end = (at + self.below(40)).min(input.len());
            match self.below(5) {
                0 if !input.is_empty() => input[at] = self.below(256) as u8,
                1 => drop(input.drain(at..end)),
                2 => input.extend_from_within(at..end),
                3 => drop(input.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
                _ => {
                    let other = &corpus[self.below(corpus.len())];
                    input.truncate(at);
                    input.extend(&other[at.min(other.len())..]);
                }
            }
        }
        input
    }
}

/// `PDTRIM_FUZZ_INPUTS` says how many for each target.
#[test]
fn changed_inputs_are_refused_or_answered_in_bounded_memory_too() {
    let _turn = alone();
    let inputs = std::env::var("PDTRIM_FUZZ_INPUTS");
    let inputs: usize = inputs.map_or(2000, |inputs| inputs.parse().unwrap());
    for (target, run) in TARGETS {
        run(b"\0");
        let files = fs::read_dir(corpus(target)).unwrap();
        let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        let corpus: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        let mut draw = Draw(11);
        for number in 0..inputs {
            let input = draw.mutated(&corpus);
            let caught = std::panic::catch_unwind(|| run(&input));
            assert!(
                caught.is_ok(),
                "{target}, input {number}: {}",
                input.escape_ascii()
            );
        }
    }
}

/// One message of the largest length, of what is small on the wire and larger once it is read.
fn largest_messages() -> [(&'static str, Vec<u8>); 2] {
    let length = (1 << 20) + (60 << 10);
    let ranges = message(&b"\x3a\0".repeat(length / 2));
    // A frame of zstd's that says that it holds 2^56 bytes.
    let zstd = b"\x28\xb5\x2f\xfd\xe0\0\0\0\0\0\0\0\x01".to_vec();
    let data = [
        &[0x52, zstd.len() as u8],
        &zstd[..],
        b"\x58\xff\xff\xff\x7f",
    ]
    .concat();
    [("ranges", ranges), ("inflates", message(&data))]
}

/// A message whose content is a chunk of these bytes, for the first plan.
fn message(chunk: &[u8]) -> Vec<u8> {
    let mut kv = vec![0x12];
    varint(chunk.len(), &mut kv);
    kv.extend(chunk);
    let head = (kv.len() as u32).to_be_bytes();
    [&[0, 0][..], &head, &kv].concat()
}

/// Bodies of the longest length, and one that is longer.
fn largest_bodies() -> [(&'static str, Vec<u8>); 5] {
    let length = (64 << 10) + 16 * 32 - 40;
    let text = |path: u8, text: String| [&[path], text.as_bytes()].concat();
    let prompt = |prompt: &str| text(0, json!({"prompt": prompt}).to_string());
    let lists = format!("{{\"prompt\":{}", "[0,".repeat(length / 3));
    let stops = json!({"prompt": "Hi", "stop": vec!["s".repeat(500); 100]}).to_string();
    [
        ("words", prompt(&"a ".repeat(length / 2))),
        ("letters", prompt(&"\u{e9}".repeat(length / 2))),
        ("lists", text(0, lists)),
        ("stops", text(0, stops)),
        ("too-long", prompt(&"a".repeat(10 * length))),
    ]
}

#[test]
fn what_prefill_answers_is_received_and_what_was_changed_is_not() {
    let _turn = alone();
    for number in 0..targets::PLANS {
        let served = targets::served(number);
        let prompt: Vec<u32> = (5..5 + PROMPT as u32).collect();
        for zstd in [false, true] {
            let frames = record(&served, &prompt, zstd).unwrap();
            let received = receive(&served, PROMPT, &frames).unwrap();
            assert_eq!(received, served.kv_bytes(PROMPT));
            assert!(receive(&served, PROMPT + 1, &frames).is_err());
            assert!(receive(&served, PROMPT, &frames[..frames.len() - 3]).is_err());
            let other = targets::served((number + 1) % targets::PLANS);
            assert!(receive(&other, PROMPT, &frames).is_err());
        }
    }
}

/// Messages that prefill sends, and each of several things wrong with them. The first byte is the plan's number.
fn wire_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![
        ("empty".to_owned(), vec![0]),
        (
            "length-beyond-all".to_owned(),
            [&[0, 0], &[255; 4][..]].concat(),
        ),
        ("compressed-flag".to_owned(), vec![0, 1, 0, 0, 0, 0]),
        ("empty-message".to_owned(), vec![0; 6]),
    ];
    let prompt: Vec<u32> = (5..5 + PROMPT as u32).collect();
    for number in 0..targets::PLANS {
        let served = targets::served(number);
        for (name, zstd) in [("plain", false), ("zstd", true)] {
            let frames = record(&served, &prompt, zstd).unwrap();
            let mut seed = |what: &str, frames: &[u8]| {
                let bytes = [&[number as u8], frames].concat();
                seeds.push((format!("{number}-{name}-{what}"), bytes));
            };
            seed("whole", &frames);
            if zstd {
                continue;
            }
            seed("cut", &frames[..frames.len() / 2]);
            let length = u32::from_be_bytes([frames[1], frames[2], frames[3], frames[4]]);
            let (first, rest) = frames.split_at(5 + length as usize);
            seed("without-the-first", rest);
            seed("first-twice", &[first, first, rest].concat());
            let mut flipped = first.to_vec();
            flipped[first.len() / 2] ^= 4;
            seed("flipped", &[&flipped, rest].concat());
        }
    }
    // A field of the message's fields that is a list, as long as a message may be: two bytes each.
    let ranges = b"\x3a\0".repeat(2000);
    seeds.push(("many-ranges".to_owned(), message(&ranges)));
    seeds
}

fn varint(mut length: usize, bytes: &mut Vec<u8>) {
    while length > 127 {
        bytes.push((length % 128) as u8 | 128);
        length /= 128;
    }
    bytes.push(length as u8);
}

fn http_seeds() -> Vec<(String, Vec<u8>)> {
    let completion = |change: Value| {
        let mut body = json!({"prompt": "Hi", "max_tokens": 3, "temperature": 0});
        for (field, value) in change.as_object().unwrap() {
            body[field] = value.clone();
        }
        [b"\0".as_slice(), body.to_string().as_bytes()].concat()
    };
    let chat = |body: Value| [b"\x01".as_slice(), body.to_string().as_bytes()].concat();
    let raw = |body: &[u8]| [b"\0".as_slice(), body].concat();
    let user = |content: Value| json!({"max_tokens": 3, "messages": [{"role": "user", "content": content}]});
    let seeds = [
        ("plain", completion(json!({}))),
        (
            "streamed",
            completion(json!({"stream": true, "stream_options": {"include_usage": true}})),
        ),
        ("tokens", completion(json!({"prompt": [1, 2, 3]}))),
        ("token-beyond", completion(json!({"prompt": [300]}))),
        ("two-prompts", completion(json!({"prompt": ["a", "b"]}))),
        ("token-lists", completion(json!({"prompt": [[1, 2]]}))),
        (
            "sampled",
            completion(json!({"temperature": 0.7, "top_p": 0.5, "seed": -3})),
        ),
        ("stops", completion(json!({"stop": ["a", "\u{e9}", "ab"]}))),
        ("empty-stop", completion(json!({"stop": ""}))),
        ("many-tokens", completion(json!({"max_tokens": u64::MAX}))),
        ("no-tokens", completion(json!({"max_tokens": 0}))),
        ("negative", completion(json!({"max_tokens": -1}))),
        ("hot", completion(json!({"temperature": 1e300}))),
        (
            "other-model",
            completion(json!({"model": "\u{1f600}".repeat(50)})),
        ),
        ("too-long", completion(json!({"prompt": "x".repeat(40)}))),
        (
            "many-values",
            completion(json!({"logit_bias": vec![0; 4200]})),
        ),
        (
            "fills-the-context",
            completion(json!({"prompt": "x".repeat(30), "max_tokens": 3})),
        ),
        ("chat", chat(user(json!("Hi")))),
        (
            "chat-parts",
            chat(user(json!([{"type": "text", "text": " Hi "}]))),
        ),
        ("chat-image", chat(user(json!([{"type": "image_url"}])))),
        (
            "chat-streamed",
            chat(json!({"stream": true, "max_completion_tokens": 2,
            "messages": [{"role": "user", "content": null, "name": "n"}]})),
        ),
        (
            "chat-refused",
            chat(json!({"messages": [{"role": "tool", "content": "x"}]})),
        ),
        ("chat-empty", chat(json!({"messages": []}))),
        ("nothing", raw(b"")),
        ("no-object", raw(b"[1]")),
        ("cut", raw(b"{\"prompt\": \"Hi")),
        ("no-text", raw(b"{\"prompt\":\"\xff\"}")),
        ("surrogate", raw(b"{\"prompt\":\"\\ud800\"}")),
        (
            "beyond-numbers",
            raw(b"{\"prompt\":\"Hi\",\"top_p\":1e999}"),
        ),
        (
            "deep",
            raw(&[b"{\"prompt\":".as_slice(), &b"[".repeat(300)].concat()),
        ),
        ("field-twice", raw(b"{\"prompt\":\"a\",\"prompt\":\"b\"}")),
    ];
    seeds.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}

/// `cargo test --release --workspace --test fuzz_corpus -- --ignored` writes the seeds anew.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_seeds() {
    for (target, seeds) in [("wire", wire_seeds()), ("http", http_seeds())] {
        fs::create_dir_all(corpus(target)).unwrap();
        for (name, bytes) in seeds {
            fs::write(corpus(target).join(name), bytes).unwrap();
        }
    }
}
