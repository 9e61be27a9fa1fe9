//! GPT-2's scheme: text is cut by a regular expression, bytes become printable characters, and
//! merges join them.
//!
//! `tokenizers` runs the expressions on `fancy-regex` (pure Rust) or on Oniguruma (C, what the
//! Python package uses). Both cut alike: compared on every Unicode scalar value in several
//! contexts, on random mixes and on `WikiText-2`. The one difference known is a run of more than a
//! million white-space characters under the rules of Qwen2 and Llama 3, where `fancy-regex` gives
//! up and the rest of the text stays one piece; its ids then differ, its text does not.

use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use super::{GgufError, Metadata, Vocabulary, build_error, check_bytes};

const PRE_KEY: &str = "tokenizer.ggml.pre";
const MERGES_KEY: &str = "tokenizer.ggml.merges";

/// From the `tokenizer.json` of Qwen2: digits one by one, contractions in any case, line breaks
/// apart from other space.
const QWEN2_REGEX: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// From the `tokenizer.json` of Llama 3: as Qwen2's, with up to three digits together.
const LLAMA3_REGEX: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is cut before merging, by the keyword of the GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreTokenization {
    /// GPT-2's regular expression.
    Gpt2,
    /// Digits one by one, then as GPT-2.
    SmolLm,
    /// [`QWEN2_REGEX`] after Unicode normalisation.
    Qwen2,
    /// [`LLAMA3_REGEX`]; a piece that is a token is not looked at further.
    Llama3,
}

impl PreTokenization {
    fn read(metadata: &Metadata) -> Result<Self, GgufError> {
        match metadata.required(PRE_KEY)? {
            "gpt-2" | "default" => Ok(Self::Gpt2),
            "smollm" => Ok(Self::SmolLm),
            "qwen2" => Ok(Self::Qwen2),
            "llama-bpe" | "llama3" | "llama-v3" => Ok(Self::Llama3),
            found => Err(GgufError::UnknownTokenizer {
                key: PRE_KEY,
                found: found.to_owned(),
                known: "default, gpt-2, smollm, qwen2, llama-bpe, llama3, llama-v3",
            }),
        }
    }

    pub(super) fn pre_tokenizer(self) -> Result<PreTokenizerWrapper, GgufError> {
        let split = |regex: &str| {
            let pattern = SplitPattern::Regex(regex.to_owned());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(build_error)
        };
        let by_gpt2 = ByteLevel::default().add_prefix_space(false);
        let bytes_only = by_gpt2.use_regex(false);
        let steps = match self {
            Self::Gpt2 => return Ok(by_gpt2.into()),
            Self::SmolLm => vec![Digits::new(true).into(), by_gpt2.into()],
            Self::Qwen2 => vec![split(QWEN2_REGEX)?.into(), bytes_only.into()],
            Self::Llama3 => vec![split(LLAMA3_REGEX)?.into(), bytes_only.into()],
        };
        Ok(Sequence::new(steps).into())
    }
}

/// The tokeniser, without special tokens, and whether it expects a BOS token by default.
pub(super) fn build(
    metadata: &Metadata,
    vocabulary: &Vocabulary<'_>,
) -> Result<(Tokenizer, bool), GgufError> {
    let pre_tokenization = PreTokenization::read(metadata)?;
    let merges = read_merges(metadata, vocabulary)?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.to_vocab(), merges)
        .ignore_merges(pre_tokenization == PreTokenization::Llama3)
        .build()
        .map_err(build_error)?;
    let mut tokenizer = Tokenizer::new(bpe);
    if pre_tokenization == PreTokenization::Qwen2 {
        tokenizer.with_normalizer(Some(NFC)).map_err(build_error)?;
    }
    tokenizer
        .with_pre_tokenizer(Some(pre_tokenization.pre_tokenizer()?))
        .with_decoder(Some(ByteLevel::default()));
    Ok((tokenizer, pre_tokenization == PreTokenization::Llama3))
}

/// The merges, best first. All three tokens of a merge are looked up here, since `tokenizers`
/// panics on a merge that is longer than every token.
fn read_merges(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Merges, GgufError> {
    let lines: &[String] = metadata.required(MERGES_KEY)?;
    check_bytes("size in bytes of tokenizer.ggml.merges", lines)?;
    let mut merges = Merges::with_capacity(lines.len());
    for (index, merge) in lines.iter().enumerate() {
        let pair = merge
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '));
        let Some((left, right)) = pair else {
            return Err(GgufError::MergeFormat {
                index,
                merge: merge.clone(),
            });
        };
        let joined = [left, right].concat();
        if let Some(token) = [left, right, &joined]
            .into_iter()
            .find(|token| vocabulary.id(token).is_none())
        {
            return Err(GgufError::MergeToken {
                index,
                merge: merge.clone(),
                token: token.to_owned(),
            });
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    Ok(merges)
}
