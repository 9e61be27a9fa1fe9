//! Prefill and decode as two servers on loopback: the same tokens as in one process, and faults.
#![cfg(feature = "serve")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "tests say what they show by name, and stop at what they do not expect"
)]

mod bugs;
mod faults;
mod frames;
mod hostile;
mod http;
mod load;
mod proxy;
mod security;
mod stages;
mod tokens;
