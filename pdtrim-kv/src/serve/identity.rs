//! What both sides must mean alike.

use super::error::{ServeError, ServeResult};
use super::proto;
use crate::encoding::Held;

impl proto::Identity {
    /// Refuses what belongs to another model or plan than `self`, prefill's.
    pub(super) fn check_asked(&self, asked: Option<&Self>) -> ServeResult<()> {
        let nothing = Self::default();
        let asked = asked.unwrap_or(&nothing);
        for (what, ours, theirs) in [
            ("model", &self.model, &asked.model),
            ("plan", &self.plan, &asked.plan),
        ] {
            if ours != theirs {
                return Err(ServeError::Identity {
                    what,
                    expected: ours.clone(),
                    found: shown(theirs),
                });
            }
        }
        Ok(())
    }
}

/// A text as a peer sent it: it is not shown at any length.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        _ if text.is_empty() => "nothing".to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Held {
    /// Its name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}
