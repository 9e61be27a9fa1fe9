//! Text to token ids and back.

use std::path::Path;

use crate::caught::caught;
use crate::error::{Error, Result};
use crate::limits;
use crate::text::count_json_values;

/// A checkpoint's tokenizer; every id it makes has a row in the model's embedding.
///
/// ```
/// use pdtrim_core::testing::tiny_checkpoint;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let tokenizer = tiny_checkpoint(folder.path())?.tokenizer()?;
/// let ids = tokenizer.encode("two words")?;
/// assert_eq!(tokenizer.decode(&ids)?, "two words");
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    prefix_token: Option<u32>,
    bos_for_prompts: Option<u32>,
}

impl Tokenizer {
    /// Checks a tokenizer against a model's vocabulary.
    ///
    /// `bos` and `eos` are the model's; `add_bos` says whether a prompt starts with `bos` even if the
    /// tokenizer's own post-processor does not add it.
    pub(crate) fn new(
        inner: tokenizers::Tokenizer,
        path: &Path,
        vocab_size: usize,
        (bos, eos): (Option<u32>, Option<u32>),
        add_bos: bool,
    ) -> Result<Self> {
        let largest_id = inner.get_vocab(true).values().copied().max().unwrap_or(0) as usize;
        if largest_id >= vocab_size {
            return Err(Error::TokenizerVocabulary {
                path: path.to_owned(),
                largest_id,
                vocab_size,
            });
        }
        Ok(Self {
            inner,
            prefix_token: bos.or(eos),
            bos_for_prompts: bos.filter(|_| add_bos),
        })
    }

    pub(crate) fn read(
        path: &Path,
        vocab_size: usize,
        ends: (Option<u32>, Option<u32>),
    ) -> Result<Self> {
        let text = crate::text::read_text(path, limits::TOKENIZER)?;
        check_values(path, &text)?;
        let refused = |reason: String| Error::Tokenizer {
            path: path.to_owned(),
            reason,
        };
        // A prefix longer than a merge's second token is a panic, for example.
        let inner = caught(|| text.parse::<tokenizers::Tokenizer>()).map_err(refused)?;
        let inner = inner.map_err(|reason| refused(reason.to_string()))?;
        Self::new(inner, path, vocab_size, ends, false)
    }

    /// Token ids of `text`, without any added token. Control tokens written out in `text` are matched.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, false)
    }

    /// Token ids of a prompt: with the tokens that the tokenizer puts around text (BOS for Llama).
    ///
    /// # Errors
    ///
    /// [`Error::Encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode_with(text, true)?;
        if let Some(bos) = self.bos_for_prompts.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Text of token ids; control tokens are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, true)
            .map_err(|reason| Error::Encode {
                reason: reason.to_string(),
            })
    }

    /// The text of tokens that come one at a time, in pieces of whole characters.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream {
            tokenizer: self,
            ids: Vec::new(),
            said: 0,
        }
    }

    /// The token that stands for an empty context: BOS, else EOS, as lm-evaluation-harness chooses.
    pub fn prefix_token(&self) -> Option<u32> {
        self.prefix_token
    }

    /// Text of one token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The tokenizer as a Hugging Face `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`] if it cannot be written as one.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(|reason| Error::Encode {
            reason: reason.to_string(),
        })
    }

    fn encode_with(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        let encoding = encoding.map_err(|reason| Error::Encode {
            reason: reason.to_string(),
        })?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// Refuses what is no JSON, or has more values than a vocabulary and its merges: the library makes several
/// objects of each before it looks at them.
fn check_values(path: &Path, text: &str) -> Result<()> {
    let values = count_json_values(text).map_err(|reason| Error::Tokenizer {
        path: path.to_owned(),
        reason: reason.to_string(),
    })?;
    if values <= limits::TOKENIZER_VALUES {
        return Ok(());
    }
    Err(Error::TooMany {
        path: path.to_owned(),
        what: "JSON values",
        limit: limits::TOKENIZER_VALUES,
    })
}

/// Text as its tokens come; see [`Tokenizer::stream`]. A token is decoded beside few of those before it, so a
/// long text costs no more for each token than a short one.
///
/// ```
/// use pdtrim_core::testing::tiny_checkpoint;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// // This tokenizer's tokens are bytes, of which an "é" has two.
/// let tokenizer = tiny_checkpoint(folder.path())?.tokenizer()?;
/// let mut stream = tokenizer.stream();
/// let mut pieces = Vec::new();
/// for token in tokenizer.encode("né")? {
///     pieces.push(stream.push(token)?);
/// }
/// assert_eq!(pieces, ["n", "", "é"]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    /// Tokens whose text was given, of which the next one's text may depend, and those whose was not.
    ids: Vec<u32>,
    /// How many of them were.
    said: usize,
}

impl TextStream<'_> {
    /// The text that `token` completes; empty in the middle of a character.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`].
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.ids.push(token);
        let text = self.tokenizer.decode(&self.ids)?;
        if text.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        self.say(&text)
    }

    /// What is left at the end of the text: bytes that make no character are replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`].
    pub fn finish(&mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        self.say(&text)
    }

    fn say(&mut self, text: &str) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.said])?;
        let new = text.get(before.len()..).unwrap_or_default().to_owned();
        if !new.is_empty() {
            self.ids.drain(..self.said);
            self.said = self.ids.len();
        }
        Ok(new)
    }
}
