//! Rebuilds a tokeniser from GGUF metadata.
//!
//! GGUF stores a vocabulary, token types and either merges or scores, but names the pre-tokeniser
//! only by a keyword. So each keyword has its rules here, as the `tokenizer.json` of the model
//! family states them: [`byte_level`] for GPT-2's scheme (`SmolLM2`, Qwen2, Llama 3),
//! [`sentence_piece`] for Llama 2's.

mod byte_level;
mod sentence_piece;
mod write;

use std::collections::HashMap;

use tokenizers::models::bpe::Vocab;
use tokenizers::{AddedToken, Tokenizer};

pub(in crate::checkpoint) use write::TokenizerParts;

use super::error::GgufError;
use super::metadata::Metadata;

const MODEL_KEY: &str = "tokenizer.ggml.model";
const TOKENS_KEY: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE_KEY: &str = "tokenizer.ggml.token_type";
const BOS_KEY: &str = "tokenizer.ggml.bos_token_id";
const EOS_KEY: &str = "tokenizer.ggml.eos_token_id";
const ADD_BOS_KEY: &str = "tokenizer.ggml.add_bos_token";
const CHAT_TEMPLATE_KEY: &str = "tokenizer.chat_template";

/// Bytes of all tokens, and of all merges; vocabularies of 300 000 tokens have less than 10 MB of each.
const MAX_TEXT_BYTES: usize = 1 << 26;

/// A tokeniser and what its GGUF file says about using it; ids are inside the vocabulary.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::{GgufTokenizer, OutputType};
/// use pdtrim_core::testing::tiny_gguf;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let file = tiny_gguf(folder.path(), OutputType::F16)?;
/// let read = GgufTokenizer::from_metadata(file.metadata()).expect("bytes are tokens");
/// let encoding = read.tokenizer.encode("two", false).expect("text of bytes");
/// assert_eq!(encoding.len(), 3);
/// assert!(!read.add_bos_token);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GgufTokenizer {
    /// Text to ids and back. It never adds a BOS token by itself, whatever `add_bos_token` says.
    /// Control tokens match inside text.
    pub tokenizer: Tokenizer,
    /// The token that begins a sequence.
    pub bos_token_id: Option<u32>,
    /// The token that ends a sequence.
    pub eos_token_id: Option<u32>,
    /// Whether the model expects `bos_token_id` in front of a prompt; never true without one.
    pub add_bos_token: bool,
    /// The Jinja template for conversations.
    pub chat_template: Option<String>,
}

impl GgufTokenizer {
    /// Rebuilds the tokeniser of a GGUF file.
    ///
    /// A file that does not say whether a BOS token is expected gets llama.cpp's default, which is
    /// also what the models' `tokenizer.json` do: yes for Llama 2 and Llama 3, no for the others.
    ///
    /// # Errors
    ///
    /// A variant of [`GgufError`] that names the metadata key which is missing, of another type,
    /// or inconsistent.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, GgufError> {
        let vocabulary = Vocabulary::read(metadata)?;
        // Before the tokeniser is built, which takes more memory than all of this.
        let bos_token_id = vocabulary.token_id(metadata, BOS_KEY)?;
        let eos_token_id = vocabulary.token_id(metadata, EOS_KEY)?;
        let (mut tokenizer, adds_bos_by_default) = match metadata.required(MODEL_KEY)? {
            "gpt2" => byte_level::build(metadata, &vocabulary)?,
            "llama" => (sentence_piece::build(metadata, &vocabulary)?, true),
            found => {
                return Err(GgufError::UnknownTokenizer {
                    key: MODEL_KEY,
                    found: found.to_owned(),
                    known: "gpt2, llama",
                });
            }
        };
        vocabulary.add_special_tokens(&mut tokenizer)?;

        let add_bos_token = metadata
            .optional(ADD_BOS_KEY)?
            .unwrap_or(adds_bos_by_default);
        if add_bos_token && bos_token_id.is_none() {
            return Err(GgufError::MissingKey {
                key: BOS_KEY.to_owned(),
            });
        }
        Ok(Self {
            tokenizer,
            bos_token_id,
            eos_token_id,
            add_bos_token,
            chat_template: chat_template(metadata)?,
        })
    }
}

/// The Jinja template for conversations that a file has, even if it has no tokeniser that can be rebuilt.
///
/// # Errors
///
/// [`GgufError`] if it is no text.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::{OutputType, chat_template};
/// use pdtrim_core::testing::tiny_gguf;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let file = tiny_gguf(folder.path(), OutputType::F16)?;
/// assert_eq!(chat_template(file.metadata()).ok(), Some(None));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn chat_template(metadata: &Metadata) -> Result<Option<String>, GgufError> {
    let template = metadata.optional::<&str>(CHAT_TEMPLATE_KEY)?;
    Ok(template.map(str::to_owned))
}

/// What GGUF says about a token, in its own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenType {
    /// Part of ordinary text; "undefined" (0) is taken for this, as llama.cpp does.
    Normal,
    /// Stands for text that the vocabulary cannot spell.
    Unknown,
    /// Has a meaning instead of a text, such as the end of a turn.
    Control,
    /// Ordinary text that is never split.
    UserDefined,
    /// Fills up the vocabulary.
    Unused,
    /// One byte, `<0x00>` to `<0xFF>`.
    Byte,
}

impl TokenType {
    fn new(number: i32) -> Option<Self> {
        Some(match number {
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// The tokens and their types, equally many; tokens are unique.
struct Vocabulary<'a> {
    tokens: &'a [String],
    types: Vec<TokenType>,
    id_by_token: HashMap<&'a str, u32>,
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata) -> Result<Self, GgufError> {
        let tokens: &[String] = metadata.required(TOKENS_KEY)?;
        check_bytes("size in bytes of tokenizer.ggml.tokens", tokens)?;
        let mut id_by_token = HashMap::with_capacity(tokens.len());
        for (id, token) in (0..).zip(tokens) {
            if let Some(first) = id_by_token.insert(token.as_str(), id) {
                return Err(GgufError::DuplicateToken {
                    token: token.clone(),
                    first,
                    second: id,
                });
            }
        }
        let numbers: &[i32] = metadata.required(TOKEN_TYPE_KEY)?;
        check_length(TOKEN_TYPE_KEY, numbers.len(), tokens.len())?;
        let types = numbers
            .iter()
            .enumerate()
            .map(|(id, &found)| TokenType::new(found).ok_or(GgufError::TokenType { id, found }))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            tokens,
            types,
            id_by_token,
        })
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.id_by_token.get(token).copied()
    }

    /// The vocabulary in the form that `tokenizers` takes.
    fn to_vocab(&self) -> Vocab {
        self.id_by_token
            .iter()
            .map(|(&token, &id)| (token.to_owned(), id))
            .collect()
    }

    /// The optional token id under `key`.
    fn token_id(&self, metadata: &Metadata, key: &'static str) -> Result<Option<u32>, GgufError> {
        let id: Option<u32> = metadata.optional(key)?;
        match id {
            Some(found) if found as usize >= self.tokens.len() => Err(GgufError::TokenId {
                key,
                found,
                vocab_len: self.tokens.len(),
            }),
            id => Ok(id),
        }
    }

    /// Makes the tokens that are not ordinary text match as a whole, in the text as it was given,
    /// before any normalisation, as llama.cpp and the models' `tokenizer.json` have it.
    fn add_special_tokens(&self, tokenizer: &mut Tokenizer) -> Result<(), GgufError> {
        let added = self
            .tokens
            .iter()
            .zip(&self.types)
            .filter_map(|(token, t)| {
                let special = match t {
                    TokenType::Unknown | TokenType::Control => true,
                    TokenType::UserDefined => false,
                    TokenType::Normal | TokenType::Unused | TokenType::Byte => return None,
                };
                Some(AddedToken::from(token, special).normalized(false))
            });
        tokenizer.add_tokens(added).map_err(build_error)?;
        Ok(())
    }
}

fn check_length(key: &'static str, found: usize, expected: usize) -> Result<(), GgufError> {
    if found == expected {
        Ok(())
    } else {
        Err(GgufError::VocabularyLength {
            key,
            found,
            expected,
        })
    }
}

/// Refuses longer texts than any vocabulary has: `tokenizers` keeps several copies of each.
fn check_bytes(field: &'static str, texts: &[String]) -> Result<(), GgufError> {
    let found = texts.iter().map(String::len).sum();
    if found <= MAX_TEXT_BYTES {
        return Ok(());
    }
    Err(GgufError::TooMany {
        field,
        limit: MAX_TEXT_BYTES,
        found,
    })
}

fn build_error(source: tokenizers::Error) -> GgufError {
    GgufError::BuildTokenizer { source }
}

#[cfg(test)]
mod tests;
