//! The metadata of a tokeniser, from its `tokenizer.json`.
//!
//! GGUF names the rules that cut text only by a keyword. As in llama.cpp's converter, the keyword is the one
//! with which a text full of borderline cases gets the same ids; here the metadata is read back by
//! [`GgufTokenizer`] for that, so a tokeniser is written only if the reader of this crate makes it again.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::{
    ADD_BOS_KEY, BOS_KEY, CHAT_TEMPLATE_KEY, EOS_KEY, GgufTokenizer, MODEL_KEY, Metadata,
    TOKEN_TYPE_KEY, TOKENS_KEY,
};
use crate::checkpoint::gguf::metadata::{Array, Value};
use crate::tokenizer::Tokenizer;

const PRE_KEY: &str = "tokenizer.ggml.pre";
const MERGES_KEY: &str = "tokenizer.ggml.merges";
const SCORES_KEY: &str = "tokenizer.ggml.scores";
const SPACE_PREFIX_KEY: &str = "tokenizer.ggml.add_space_prefix";
const UNKNOWN_KEY: &str = "tokenizer.ggml.unknown_token_id";

/// Keywords of the cutting rules that the reader knows, the plainest first.
const PRE_TOKENIZATIONS: [&str; 4] = ["gpt-2", "smollm", "qwen2", "llama-bpe"];

/// Numbers, contractions in both cases, white space, scripts with and without marks, letters in both Unicode
/// normal forms, symbols, and bytes that make no letter.
const BORDERLINE: &str = "Hello  world, it's I'LL don't WE'VE she'd 'Re\n\n  3 33 333 3333 33333 1,234.50 \
    x2y ３４ ²½\t\ttabs \r\nlines\r\n\n \n  end   camelCaseWord HTTPServer snake_case __init__ ->=>!=\n{}();\n\
    https://a.b/c?d=e&f#g 「東京」日本語テキスト 中文，标点。한국어 ไทยภาษา हिन्दी العربية ١٢٣ עברית \
    café cafe\u{301} ﬁ ① ﷺ naïve ÅA\u{30a} ½ 🙂👩‍👩‍👧🏽🇫🇷 \u{a0}nbsp\u{2003}em\u{200b}zero …—‘’“” \u{1}\u{7f} $€£ a'b''c";

/// What a tokeniser's metadata is made from.
pub(in crate::checkpoint) struct TokenizerParts<'t> {
    pub(in crate::checkpoint) tokenizer: &'t Tokenizer,
    /// Rows of the model's embedding.
    pub(in crate::checkpoint) vocab_size: usize,
    pub(in crate::checkpoint) bos: Option<u32>,
    pub(in crate::checkpoint) eos: Option<u32>,
    pub(in crate::checkpoint) chat_template: Option<String>,
}

impl TokenizerParts<'_> {
    /// Puts the tokeniser into `metadata`.
    ///
    /// # Errors
    ///
    /// Why the tokeniser cannot be written, for [`Error::Export`](crate::Error::Export).
    pub(in crate::checkpoint) fn write(self, metadata: &mut Metadata) -> Result<(), String> {
        let json = self
            .tokenizer
            .to_json()
            .map_err(|error| error.to_string())?;
        let json: Json = serde_json::from_str(&json).map_err(|error| error.to_string())?;
        let model = &json["model"];
        if model["type"] != "BPE" {
            return Err(format!(
                "its tokenizer's model is {}, expected BPE",
                model["type"]
            ));
        }
        let pieces = Pieces::new(&json, self.vocab_size)?;
        let is_sentence_piece = model["byte_fallback"] == true;
        metadata.set(
            TOKENS_KEY,
            Value::Array(Array::String(pieces.tokens.clone())),
        );
        metadata.set(
            TOKEN_TYPE_KEY,
            Value::Array(Array::I32(pieces.types.clone())),
        );
        for (key, id) in [(BOS_KEY, self.bos), (EOS_KEY, self.eos)] {
            if let Some(id) = id {
                metadata.set(key, Value::U32(id));
            }
        }
        metadata.set(ADD_BOS_KEY, Value::Bool(self.adds_bos()?));
        if let Some(template) = &self.chat_template {
            metadata.set(CHAT_TEMPLATE_KEY, Value::String(template.clone()));
        }
        if is_sentence_piece {
            self.sentence_piece(metadata, &pieces)
        } else {
            self.byte_level(metadata, &pieces)
        }
    }

    /// Whether a prompt starts with BOS; refused if anything else is put around it.
    fn adds_bos(&self) -> Result<bool, String> {
        let text = "a b";
        let encode = |prompt: bool| {
            let ids = if prompt {
                self.tokenizer.encode_prompt(text)
            } else {
                self.tokenizer.encode(text)
            };
            ids.map_err(|error| error.to_string())
        };
        let (plain, prompt) = (encode(false)?, encode(true)?);
        if plain == prompt {
            return Ok(false);
        }
        match prompt.split_first() {
            Some((first, rest)) if Some(*first) == self.bos && rest == plain => Ok(true),
            _ => Err(
                "its tokenizer puts other tokens around a prompt than one BOS before it".to_owned(),
            ),
        }
    }

    fn byte_level(&self, metadata: &mut Metadata, pieces: &Pieces) -> Result<(), String> {
        metadata.set(MODEL_KEY, Value::String("gpt2".to_owned()));
        let spaced = |(left, right): &(String, String)| left.contains(' ') || right.contains(' ');
        if let Some((left, right)) = pieces.merges.iter().find(|merge| spaced(merge)) {
            return Err(format!(
                "its merge of `{left}` and `{right}` has a space in it"
            ));
        }
        let merges = pieces.merges.iter();
        let merges = merges.map(|(left, right)| format!("{left} {right}"));
        metadata.set(MERGES_KEY, Value::Array(Array::String(merges.collect())));
        let found = PRE_TOKENIZATIONS.into_iter().find(|keyword| {
            metadata.set(PRE_KEY, Value::String((*keyword).to_owned()));
            self.is_read_back(metadata)
        });
        match found {
            Some(_) => Ok(()),
            None => Err(format!(
                "its tokenizer cuts text by none of the rules that are known: {}",
                PRE_TOKENIZATIONS.join(", ")
            )),
        }
    }

    fn sentence_piece(&self, metadata: &mut Metadata, pieces: &Pieces) -> Result<(), String> {
        metadata.set(MODEL_KEY, Value::String("llama".to_owned()));
        metadata.set(PRE_KEY, Value::String("default".to_owned()));
        metadata.set(SCORES_KEY, Value::Array(Array::F32(pieces.scores())));
        if let Some(unknown) = pieces.unknown {
            metadata.set(UNKNOWN_KEY, Value::U32(unknown));
        }
        for prefix in [true, false] {
            metadata.set(SPACE_PREFIX_KEY, Value::Bool(prefix));
            if self.is_read_back(metadata) {
                return Ok(());
            }
        }
        Err("its tokenizer does not cut text as SentencePiece's BPE does".to_owned())
    }

    /// Whether the reader makes the same ids of a text.
    fn is_read_back(&self, metadata: &Metadata) -> bool {
        let Ok(read) = GgufTokenizer::from_metadata(metadata) else {
            return false;
        };
        let theirs = read.tokenizer.encode_fast(BORDERLINE, false);
        let (Ok(theirs), Ok(ours)) = (theirs, self.tokenizer.encode(BORDERLINE)) else {
            return false;
        };
        theirs.get_ids() == ours
    }
}

/// The vocabulary in the order of ids, and the merges, best first.
struct Pieces {
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<(String, String)>,
    unknown: Option<u32>,
}

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

impl Pieces {
    fn new(json: &Json, vocab_size: usize) -> Result<Self, String> {
        let model = &json["model"];
        // A row of the embedding without a token, as llama.cpp's converter names it.
        let mut tokens: Vec<String> = (0..vocab_size).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; vocab_size];
        let mut put = |token: &str, id: &Json, kind: i32| {
            let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
            let Some(id) = id.filter(|&id| id < vocab_size) else {
                return Err(format!("its token `{token}` has no id below {vocab_size}"));
            };
            token.clone_into(&mut tokens[id]);
            types[id] = kind;
            Ok(id)
        };
        let falls_back = model["byte_fallback"] == true;
        let vocab = model["vocab"].as_object().into_iter().flatten();
        for (token, id) in vocab {
            let is_byte = falls_back && is_byte(token);
            put(token, id, if is_byte { BYTE } else { NORMAL })?;
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            let kind = if added["special"] == true {
                CONTROL
            } else {
                USER_DEFINED
            };
            put(
                added["content"].as_str().unwrap_or_default(),
                &added["id"],
                kind,
            )?;
        }
        let mut unknown = None;
        if let Some(token) = model["unk_token"].as_str().filter(|_| falls_back) {
            let id = put(token, &model["vocab"][token], UNKNOWN)?;
            unknown = u32::try_from(id).ok();
        }
        Ok(Self {
            tokens,
            types,
            merges: merges(model)?,
            unknown,
        })
    }

    /// SentencePiece's scores: a merge comes before another if what it makes has the higher one. So the piece
    /// of the first merge has 0, the next new one -1, and what no merge makes lies below them all.
    fn scores(&self) -> Vec<f32> {
        let mut rank = HashMap::new();
        for (left, right) in &self.merges {
            let next = rank.len();
            rank.entry([left.as_str(), right].concat()).or_insert(next);
        }
        let score = |(token, &kind): (&String, &i32)| match rank.get(token.as_str()) {
            Some(&rank) => -(rank as f32),
            None if kind == NORMAL => -(rank.len() as f32),
            None => 0.0,
        };
        self.tokens.iter().zip(&self.types).map(score).collect()
    }
}

/// `<0x00>` to `<0xFF>`.
fn is_byte(token: &str) -> bool {
    let digits = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Merges are written as pairs, or as two words.
fn merges(model: &Json) -> Result<Vec<(String, String)>, String> {
    let merges = model["merges"].as_array().into_iter().flatten();
    let pair = |merge: &Json| {
        let pair = match merge {
            Json::String(words) => words.split_once(' '),
            pair => pair[0].as_str().zip(pair[1].as_str()),
        };
        let pair = pair.map(|(left, right)| (left.to_owned(), right.to_owned()));
        pair.ok_or_else(|| format!("its merge {merge} is no pair of tokens"))
    };
    merges.map(pair).collect()
}
