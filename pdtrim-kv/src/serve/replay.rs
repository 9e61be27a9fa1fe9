//! Prefill's answers as bytes, without a connection: what fuzzing reads, and its corpus is made with.

use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc::unbounded_channel;

use super::error::{ServeError, ServeResult};
use super::limits::Due;
use super::prefill::compute;
use super::proto::Part;
use super::served::Served;
use super::wire::{self, Arrived, Assembler};

/// How long a prompt may take.
const WITHIN: Duration = Duration::from_mins(10);

/// What prefill answers to `prompt`, in gRPC's frames: a zero, the length in four bytes, the message.
///
/// # Errors
///
/// What prefill reports.
///
/// ```
/// use std::sync::Arc;
///
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_kv::serve::replay::{receive, record};
/// use pdtrim_kv::serve::{Served, ServedParts};
///
/// let model = Arc::new(TinyModel::default().build());
/// let served = Served::new(ServedParts::dense(model, "sha256:00"))?;
/// let answer = record(&served, &[3, 1, 4], false)?;
/// assert!(receive(&served, 3, &answer)? > 0);
/// # Ok::<(), pdtrim_kv::serve::ServeError>(())
/// ```
pub fn record(served: &Served, prompt: &[u32], zstd: bool) -> ServeResult<Vec<u8>> {
    let (sender, mut blocks) = unbounded_channel();
    let last = compute(served, prompt, Due::after(WITHIN), sender)?;
    let identity = served.identity();
    let read = served.parts().boundary.prompt_positions(prompt.len());
    let (mut parts, mut count, mut kv_bytes) = (Vec::new(), 0, 0);
    while let Ok((id, cache)) = blocks.try_recv() {
        let block = served.block_on_wire(id, read);
        let bytes = wire::encode(&block, &cache)?;
        parts.extend(wire::messages(identity, &block, &bytes, zstd));
        count += 1;
        kv_bytes += bytes.len() as u64;
    }
    parts.extend(last.map(|last| wire::last_hidden(identity, last)));
    parts.push(wire::end(identity, count, kv_bytes));
    let mut frames = Vec::new();
    for part in parts {
        frames.push(0);
        frames.extend((part.encoded_len() as u32).to_be_bytes());
        frames.extend(part.encode_to_vec());
    }
    Ok(frames)
}

/// Takes what [`record`] makes, as decode does for a prompt of `length` tokens; returns the bytes of keys and values.
///
/// # Errors
///
/// [`ServeError::Wire`] for what does not follow from the plan and the prompt.
///
/// ```
/// use std::sync::Arc;
///
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_kv::serve::replay::{receive, record};
/// use pdtrim_kv::serve::{Served, ServedParts};
///
/// let model = Arc::new(TinyModel::default().build());
/// let served = Served::new(ServedParts::dense(model, "sha256:00"))?;
/// let answer = record(&served, &[3, 1, 4], false)?;
/// assert!(receive(&served, 3, &answer[..answer.len() - 1]).is_err());
/// # Ok::<(), pdtrim_kv::serve::ServeError>(())
/// ```
pub fn receive(served: &Served, length: usize, mut frames: &[u8]) -> ServeResult<u64> {
    let (identity, last) = (served.identity().clone(), served.sends_last_hidden());
    let mut assembler = Assembler::new(identity, served.on_wire(length), last);
    let model = served.model();
    while let Some((message, rest)) = split(frames)? {
        frames = rest;
        let part = Part::decode(message);
        let part = part.map_err(|error| broken("a message", error))?;
        match assembler.push(part)? {
            Some(Arrived::Block(block, bytes)) => {
                wire::decode(&block, &bytes, model.dtype(), model.device())?;
            }
            Some(Arrived::Last(values)) => {
                served.last_hidden(values)?;
            }
            Some(Arrived::End) => return Ok(assembler.kv_bytes()),
            None => {}
        }
    }
    Err(broken("the end", "nothing more"))
}

/// The first message, and what comes after it.
fn split(frames: &[u8]) -> ServeResult<Option<(&[u8], &[u8])>> {
    let Some((head, rest)) = frames.split_first_chunk::<5>() else {
        return Ok(None);
    };
    let [flag, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    if flag != 0 || length > wire::CHUNK + wire::FRAME {
        let found = format!("flag {flag}, {length} bytes");
        return Err(broken(
            "a plain message of the largest length or less",
            found,
        ));
    }
    Ok(rest.split_at_checked(length))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "texts and errors alike, mostly made for the call"
)]
fn broken(expected: &str, found: impl ToString) -> ServeError {
    ServeError::Wire {
        field: "message",
        expected: expected.to_owned(),
        found: found.to_string(),
    }
}
