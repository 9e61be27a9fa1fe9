//! Llama 2's scheme: a `SentencePiece` model of type BPE, which has scores where GPT-2 has merges.

use std::cmp::Reverse;

use tokenizers::Tokenizer;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};

use super::{GgufError, Metadata, TokenType, Vocabulary, build_error, check_length};

const SCORES_KEY: &str = "tokenizer.ggml.scores";
const ADD_SPACE_PREFIX_KEY: &str = "tokenizer.ggml.add_space_prefix";
const UNKNOWN_KEY: &str = "tokenizer.ggml.unknown_token_id";
/// `SentencePiece`'s mark for a space.
const SPACE: &str = "▁";
/// Real pieces have at most a few dozen bytes; the work per piece grows with the square.
const MAX_PIECE_BYTES: usize = 1024;

/// Merges of a vocabulary: 300 000 pieces give about 700 000.
const MAX_MERGES: usize = 1 << 21;
/// Bytes of the pieces that merges make. A chain of pieces, each a letter longer than the one before,
/// gives a hundred times the vocabulary's size; real ones give about four times.
const MAX_MERGE_BYTES: usize = 1 << 26;

/// The tokeniser, without special tokens.
pub(super) fn build(
    metadata: &Metadata,
    vocabulary: &Vocabulary<'_>,
) -> Result<Tokenizer, GgufError> {
    let scores: &[f32] = metadata.required(SCORES_KEY)?;
    check_length(SCORES_KEY, scores.len(), vocabulary.tokens.len())?;
    let mut bpe = BPE::builder()
        .vocab_and_merges(vocabulary.to_vocab(), merges_by_score(vocabulary, scores)?)
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unknown) = unknown_token(metadata, vocabulary)? {
        bpe = bpe.unk_token(unknown.to_owned());
    }
    let mut tokenizer = Tokenizer::new(bpe.build().map_err(build_error)?);

    let mut normalizers: Vec<NormalizerWrapper> =
        vec![Replace::new(" ", SPACE).map_err(build_error)?.into()];
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(build_error)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if metadata.optional(ADD_SPACE_PREFIX_KEY)?.unwrap_or(true) {
        normalizers.insert(0, Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer
        .with_normalizer(Some(Sequence::new(normalizers)))
        .map_err(build_error)?
        .with_decoder(Some(DecoderSequence::new(decoders)));
    Ok(tokenizer)
}

/// The token for what cannot be spelled: the one that the file names, else the one of that type.
fn unknown_token<'a>(
    metadata: &Metadata,
    vocabulary: &Vocabulary<'a>,
) -> Result<Option<&'a str>, GgufError> {
    let by_type = || {
        let mut types = vocabulary.types.iter();
        types.position(|&t| t == TokenType::Unknown)
    };
    let id = match vocabulary.token_id(metadata, UNKNOWN_KEY)? {
        Some(id) => Some(id as usize),
        None => by_type(),
    };
    Ok(id.map(|id| vocabulary.tokens[id].as_str()))
}

/// Refuses more merges than any vocabulary gives, a piece late at most.
fn check_limits(merges: usize, bytes: usize) -> Result<(), GgufError> {
    let refused = |field, limit, found| {
        Err(GgufError::TooMany {
            field,
            limit,
            found,
        })
    };
    if merges > MAX_MERGES {
        return refused("number of merges of the tokens", MAX_MERGES, merges);
    }
    if bytes > MAX_MERGE_BYTES {
        return refused(
            "size in bytes of the tokens' merges",
            MAX_MERGE_BYTES,
            bytes,
        );
    }
    Ok(())
}

/// One way to make a piece, with what decides its rank.
struct ScoredMerge<'a> {
    score: f32,
    left: &'a str,
    right: &'a str,
}

/// Merges in the order that `SentencePiece` would prefer them: every split of a piece into two
/// pieces is a merge, ranked by the score of the whole. Ties are broken as transformers'
/// `generate_merges` does: longer left parts first, then longer right parts, then by id.
///
/// Only ordinary pieces take part. `SentencePiece` keeps the others apart from the pieces that it
/// merges, and user-defined ones are matched before.
fn merges_by_score(vocabulary: &Vocabulary<'_>, scores: &[f32]) -> Result<Merges, GgufError> {
    let is_ordinary = |token: &str| {
        let id = vocabulary.id(token);
        id.is_some_and(|id| vocabulary.types[id as usize] == TokenType::Normal)
    };
    let mut merges = Vec::new();
    let mut merge_bytes = 0;
    for (id, (token, &score)) in vocabulary.tokens.iter().zip(scores).enumerate() {
        if vocabulary.types[id] != TokenType::Normal {
            continue;
        }
        if token.len() > MAX_PIECE_BYTES {
            return Err(GgufError::TokenLength {
                id,
                found: token.len(),
                limit: MAX_PIECE_BYTES,
            });
        }
        check_limits(merges.len(), merge_bytes)?;
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if is_ordinary(left) && is_ordinary(right) {
                merge_bytes += token.len();
                merges.push(ScoredMerge { score, left, right });
            }
        }
    }
    // Stable, so merges of equal rank stay in the order of the vocabulary.
    merges.sort_by(|a, b| {
        b.score.total_cmp(&a.score).then_with(|| {
            let lengths = |merge: &ScoredMerge<'_>| {
                Reverse((merge.left.chars().count(), merge.right.chars().count()))
            };
            lengths(a).cmp(&lengths(b))
        })
    });
    Ok(merges
        .into_iter()
        .map(|merge| (merge.left.to_owned(), merge.right.to_owned()))
        .collect())
}
