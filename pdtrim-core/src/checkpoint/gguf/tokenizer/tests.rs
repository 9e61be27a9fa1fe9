use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

use super::byte_level::PreTokenization;
use super::*;
use crate::checkpoint::gguf::GgufFile;
use crate::checkpoint::gguf::gguf_writer::GgufWriter;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

fn build(writer: GgufWriter) -> Result<GgufTokenizer, GgufError> {
    let file = GgufFile::from_bytes(writer.build()).unwrap();
    GgufTokenizer::from_metadata(file.metadata())
}

fn refusal(writer: GgufWriter) -> String {
    build(writer).unwrap_err().to_string()
}

/// Tokens, checked against their text: easier to read than ids.
fn pieces(tokenizer: &GgufTokenizer, text: &str) -> Vec<String> {
    let encoding = tokenizer.tokenizer.encode(text, true).unwrap();
    assert_eq!(
        tokenizer
            .tokenizer
            .decode(encoding.get_ids(), false)
            .unwrap(),
        text
    );
    encoding.get_tokens().to_vec()
}

mod pre_tokenization {
    use super::*;

    fn cut(rules: PreTokenization, text: &str) -> Vec<&str> {
        let mut string = PreTokenizedString::from(text);
        let pre_tokenizer = rules.pre_tokenizer().unwrap();
        pre_tokenizer.pre_tokenize(&mut string).unwrap();
        string
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), _)| &text[start..end])
            .collect()
    }

    #[test]
    fn only_gpt2_keeps_all_digits_together_and_llama3_takes_three() {
        let text = "in 12345 ٣٤";
        let expected: [(_, &[&str]); 4] = [
            (PreTokenization::Gpt2, &["in", " 12345", " ٣٤"]),
            (
                PreTokenization::SmolLm,
                &["in", " ", "1", "2", "3", "4", "5", " ", "٣", "٤"],
            ),
            (
                PreTokenization::Qwen2,
                &["in", " ", "1", "2", "3", "4", "5", " ", "٣", "٤"],
            ),
            (
                PreTokenization::Llama3,
                &["in", " ", "123", "45", " ", "٣٤"],
            ),
        ];
        for (rules, expected) in expected {
            assert_eq!(cut(rules, text), expected, "{rules:?}");
        }
    }

    #[test]
    fn contractions_in_capitals_are_known_to_qwen2_and_llama3_only() {
        let text = "it's WE'LL don't";
        for rules in [PreTokenization::Gpt2, PreTokenization::SmolLm] {
            assert_eq!(
                cut(rules, text),
                ["it", "'s", " WE", "'", "LL", " don", "'t"],
                "{rules:?}"
            );
        }
        for rules in [PreTokenization::Qwen2, PreTokenization::Llama3] {
            assert_eq!(
                cut(rules, text),
                ["it", "'s", " WE", "'LL", " don", "'t"],
                "{rules:?}"
            );
        }
    }

    #[test]
    fn line_breaks_end_a_piece_of_space_for_qwen2_and_llama3_only() {
        let text = "a.\n\n  b \r\n c  ";
        for rules in [PreTokenization::Gpt2, PreTokenization::SmolLm] {
            assert_eq!(
                cut(rules, text),
                ["a", ".", "\n\n ", " b", " \r\n", " c", "  "],
                "{rules:?}"
            );
        }
        for rules in [PreTokenization::Qwen2, PreTokenization::Llama3] {
            assert_eq!(
                cut(rules, text),
                ["a", ".\n\n", " ", " b", " \r\n", " c", "  "],
                "{rules:?}"
            );
        }
    }

    #[test]
    fn one_sign_before_a_word_joins_it_for_qwen2_and_llama3_only() {
        let text = "(naïve) 東京/Ωμέγα 🙂!";
        for rules in [PreTokenization::Gpt2, PreTokenization::SmolLm] {
            assert_eq!(
                cut(rules, text),
                ["(", "naïve", ")", " 東京", "/", "Ωμέγα", " 🙂!"],
                "{rules:?}"
            );
        }
        for rules in [PreTokenization::Qwen2, PreTokenization::Llama3] {
            assert_eq!(
                cut(rules, text),
                ["(naïve", ")", " 東京", "/Ωμέγα", " 🙂!"],
                "{rules:?}"
            );
        }
    }

    #[test]
    fn every_byte_of_a_text_is_in_one_piece() {
        let text = "\u{0}\t \u{a0}\u{85}x\u{301}ⅷ½\u{200b}\r\r\n\n \u{3000}'\u{17f} ﬁ\u{10ffff}";
        for rules in [
            PreTokenization::Gpt2,
            PreTokenization::SmolLm,
            PreTokenization::Qwen2,
            PreTokenization::Llama3,
        ] {
            assert_eq!(cut(rules, text).concat(), text, "{rules:?}");
        }
    }
}

mod byte_level_bpe {
    use super::*;

    /// Two control tokens, a user-defined one, all bytes, and a few merged tokens.
    fn tokens() -> (Vec<String>, Vec<i32>) {
        let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        bytes.sort_unstable();
        let mut tokens: Vec<String> = ["<|start|>", "<|end|>", "<tool>"]
            .map(str::to_owned)
            .to_vec();
        let mut types = vec![CONTROL, CONTROL, USER_DEFINED];
        tokens.extend(bytes.into_iter().map(String::from));
        tokens.extend(["he", "ll", "hell", "Ġhe", "Ã©", "whole"].map(str::to_owned));
        types.resize(tokens.len(), NORMAL);
        (tokens, types)
    }

    fn with_merges(pre: &str, merges: &[&str]) -> GgufWriter {
        let (tokens, types) = tokens();
        GgufWriter::new()
            .string("tokenizer.ggml.model", "gpt2")
            .string("tokenizer.ggml.pre", pre)
            .strings("tokenizer.ggml.tokens", &tokens)
            .i32s("tokenizer.ggml.token_type", &types)
            .strings("tokenizer.ggml.merges", merges)
            .u32("tokenizer.ggml.bos_token_id", 0)
    }

    fn writer(pre: &str) -> GgufWriter {
        with_merges(pre, &["h e", "l l", "he ll", "Ġ he", "Ã ©"])
    }

    #[test]
    fn merges_join_bytes_in_their_order() {
        let tokenizer = build(writer("smollm")).unwrap();
        assert_eq!(pieces(&tokenizer, "hello he"), ["hell", "o", "Ġhe"]);
        assert_eq!(pieces(&tokenizer, "42é"), ["4", "2", "Ã©"]);
    }

    #[test]
    fn tokens_that_are_not_text_match_inside_text() {
        let tokenizer = build(writer("smollm")).unwrap();
        assert_eq!(
            pieces(&tokenizer, "he<|start|>l<tool>l<|end|>"),
            ["he", "<|start|>", "l", "<tool>", "l", "<|end|>"]
        );
        let ids = [0, 2, 1];
        let text = tokenizer.tokenizer.decode(&ids, true).unwrap();
        assert_eq!(text, "<tool>", "control tokens are special, others not");
    }

    #[test]
    fn qwen2_normalises_to_composed_characters() {
        let ids = |pre, text| {
            let encoding = build(writer(pre)).unwrap().tokenizer.encode(text, true);
            encoding.unwrap().get_ids().to_vec()
        };
        assert_eq!(ids("qwen2", "e\u{301}"), ids("qwen2", "é"));
        assert_ne!(ids("smollm", "e\u{301}"), ids("smollm", "é"));
    }

    #[test]
    fn llama3_takes_a_piece_that_is_a_token_without_merges() {
        let llama3 = build(writer("llama-bpe")).unwrap();
        assert_eq!(pieces(&llama3, "whole"), ["whole"]);
        let qwen2 = build(writer("qwen2")).unwrap();
        assert_eq!(pieces(&qwen2, "whole"), ["w", "h", "o", "l", "e"]);
    }

    #[test]
    fn only_llama3_expects_bos_unless_the_file_says_so() {
        for (pre, expected) in [
            ("smollm", false),
            ("qwen2", false),
            ("default", false),
            ("gpt-2", false),
            ("llama-bpe", true),
            ("llama3", true),
            ("llama-v3", true),
        ] {
            assert_eq!(build(writer(pre)).unwrap().add_bos_token, expected);
            let said = writer(pre).bool("tokenizer.ggml.add_bos_token", !expected);
            assert_eq!(build(said).unwrap().add_bos_token, !expected);
        }
    }

    #[test]
    fn ids_and_template_are_taken_from_the_file() {
        let tokenizer = build(
            writer("smollm")
                .u32("tokenizer.ggml.eos_token_id", 1)
                .string("tokenizer.chat_template", "{{ messages }}"),
        )
        .unwrap();
        assert_eq!(tokenizer.bos_token_id, Some(0));
        assert_eq!(tokenizer.eos_token_id, Some(1));
        assert_eq!(tokenizer.chat_template.as_deref(), Some("{{ messages }}"));
    }

    #[test]
    fn unknown_pre_tokenisers_are_refused_by_name() {
        assert!(
            refusal(writer("tekken"))
                .starts_with("metadata key `tokenizer.ggml.pre` is \"tekken\", known are default")
        );
    }

    #[test]
    fn merges_that_are_no_pair_of_tokens_are_refused() {
        for merge in ["he", "h e l", "h ", " e", "", " "] {
            assert_eq!(
                refusal(with_merges("smollm", &["h e", merge])),
                format!(
                    "tokenizer.ggml.merges has \"{merge}\" at 1, expected two tokens and one space"
                )
            );
        }
    }

    #[test]
    fn merges_of_tokens_that_are_not_there_are_refused() {
        let long = "x".repeat(50);
        let cases = [
            (format!("{long} h"), long.as_str()),
            (format!("h {long}"), &long),
            // Longer than every token: `tokenizers` itself would panic.
            ("<|start|> <|end|>".to_owned(), "<|start|><|end|>"),
        ];
        for (merge, missing) in &cases {
            assert_eq!(
                refusal(with_merges("smollm", &[merge])),
                format!(
                    "tokenizer.ggml.merges has \"{merge}\" at 0, the vocabulary lacks \"{missing}\""
                )
            );
        }
    }

    #[test]
    fn token_ids_outside_the_vocabulary_are_refused() {
        let n_tokens = u32::try_from(tokens().0.len()).unwrap();
        assert_eq!(
            refusal(writer("smollm").u32("tokenizer.ggml.eos_token_id", n_tokens)),
            format!(
                "metadata key `tokenizer.ggml.eos_token_id` is {n_tokens}, the vocabulary has {n_tokens} tokens"
            )
        );
    }
}

mod sentence_piece_bpe {
    use super::*;

    const PIECES: [(&str, f32); 13] = [
        ("▁", -20.0),
        ("h", -21.0),
        ("e", -22.0),
        ("l", -23.0),
        ("o", -24.0),
        ("ll", -1.0),
        ("he", -2.0),
        ("hel", -0.5),
        ("lo", -4.0),
        ("hello", -5.0),
        ("▁he", -7.0),
        ("hell", -6.0),
        ("▁hello", -8.0),
    ];

    /// `<unk> <s> </s>`, 256 bytes, then [`PIECES`], as Llama 2 has them.
    fn writer() -> GgufWriter {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
        let mut types = vec![UNKNOWN, CONTROL, CONTROL];
        tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
        types.resize(tokens.len(), BYTE);
        let mut scores = vec![0.0; tokens.len()];
        tokens.extend(PIECES.iter().map(|(piece, _)| (*piece).to_owned()));
        scores.extend(PIECES.iter().map(|(_, score)| score));
        types.resize(tokens.len(), NORMAL);
        GgufWriter::new()
            .string("tokenizer.ggml.model", "llama")
            .strings("tokenizer.ggml.tokens", &tokens)
            .i32s("tokenizer.ggml.token_type", &types)
            .f32s("tokenizer.ggml.scores", &scores)
            .u32("tokenizer.ggml.bos_token_id", 1)
            .u32("tokenizer.ggml.eos_token_id", 2)
    }

    #[test]
    fn the_best_scored_pair_is_joined_first() {
        let tokenizer = build(writer()).unwrap();
        // ll (-1) before lo (-4).
        assert_eq!(pieces(&tokenizer, "llo"), ["▁", "ll", "o"]);
        // he (-2), then hel (-0.5) before ▁he (-7).
        assert_eq!(pieces(&tokenizer, "hel"), ["▁", "hel"]);
        // ll, he, hell, hello, ▁hello; hel would have come before hell, but ll was first.
        assert_eq!(pieces(&tokenizer, "hello"), ["▁hello"]);
        assert_eq!(pieces(&tokenizer, "he"), ["▁he"]);
    }

    #[test]
    fn spaces_become_marks_and_one_is_put_in_front() {
        let tokenizer = build(writer()).unwrap();
        assert_eq!(pieces(&tokenizer, "he  he"), ["▁he", "▁", "▁he"]);
        assert_eq!(pieces(&tokenizer, " he"), ["▁", "▁he"]);
        let without = writer().bool("tokenizer.ggml.add_space_prefix", false);
        let without = build(without).unwrap();
        assert_eq!(pieces(&without, "he he"), ["he", "▁he"]);
    }

    #[test]
    fn characters_outside_the_vocabulary_become_bytes() {
        let tokenizer = build(writer()).unwrap();
        assert_eq!(
            pieces(&tokenizer, "oé\n"),
            ["▁", "o", "<0xC3>", "<0xA9>", "<0x0A>"]
        );
    }

    #[test]
    fn control_tokens_match_inside_text_and_bos_is_expected() {
        let tokenizer = build(writer()).unwrap();
        let encoding = tokenizer.tokenizer.encode("<s>he</s>", true).unwrap();
        assert_eq!(encoding.get_tokens(), ["<s>", "▁he", "</s>"]);
        assert!(tokenizer.add_bos_token);
    }

    #[test]
    fn scores_must_be_there_and_as_many_as_tokens() {
        let base = || {
            GgufWriter::new()
                .string("tokenizer.ggml.model", "llama")
                .strings("tokenizer.ggml.tokens", &["a", "b"])
                .i32s("tokenizer.ggml.token_type", &[NORMAL, NORMAL])
        };
        assert_eq!(
            refusal(base()),
            "metadata key `tokenizer.ggml.scores` is missing"
        );
        assert_eq!(
            refusal(base().f32s("tokenizer.ggml.scores", &[0.0])),
            "metadata key `tokenizer.ggml.scores` has 1 entries, the vocabulary has 2"
        );
    }

    #[test]
    fn pieces_of_absurd_length_are_refused() {
        let long = "x".repeat(2000);
        let file = GgufWriter::new()
            .string("tokenizer.ggml.model", "llama")
            .strings("tokenizer.ggml.tokens", &["x", &long])
            .i32s("tokenizer.ggml.token_type", &[NORMAL, NORMAL])
            .f32s("tokenizer.ggml.scores", &[0.0, 0.0]);
        assert_eq!(
            refusal(file),
            "tokenizer.ggml.tokens has 2000 bytes at 1, at most 1024 are allowed"
        );
    }
}

/// A vocabulary of two with everything but the parts under test.
fn two_tokens(tokens: &[&str], types: &[i32]) -> GgufWriter {
    GgufWriter::new()
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "default")
        .strings("tokenizer.ggml.tokens", tokens)
        .i32s("tokenizer.ggml.token_type", types)
        .strings::<&str>("tokenizer.ggml.merges", &[])
}

#[test]
fn vocabulary_faults_are_refused() {
    assert!(build(two_tokens(&["a", "b"], &[1, 1])).is_ok());
    assert_eq!(
        refusal(two_tokens(&["a", "a"], &[1, 1])),
        "tokenizer.ggml.tokens has \"a\" at 0 and at 1"
    );
    assert_eq!(
        refusal(two_tokens(&["a", "b"], &[1])),
        "metadata key `tokenizer.ggml.token_type` has 1 entries, the vocabulary has 2"
    );
    assert_eq!(
        refusal(two_tokens(&["a", "b"], &[1, 7])),
        "tokenizer.ggml.token_type is 7 at 1, GGUF defines 0 to 6"
    );
}

#[test]
fn a_bos_token_that_is_expected_must_be_named() {
    let file = two_tokens(&["a", "b"], &[1, 1]).bool("tokenizer.ggml.add_bos_token", true);
    assert_eq!(
        refusal(file),
        "metadata key `tokenizer.ggml.bos_token_id` is missing"
    );
}

#[test]
fn every_needed_key_is_missed_by_name() {
    type Add = fn(GgufWriter) -> GgufWriter;
    let add: [(&str, Add); 5] = [
        ("tokens", |file| {
            file.strings("tokenizer.ggml.tokens", &["a"])
        }),
        ("token_type", |file| {
            file.i32s("tokenizer.ggml.token_type", &[1])
        }),
        ("model", |file| file.string("tokenizer.ggml.model", "gpt2")),
        ("pre", |file| file.string("tokenizer.ggml.pre", "smollm")),
        ("merges", |file| {
            file.strings::<&str>("tokenizer.ggml.merges", &[])
        }),
    ];
    let with_first = |n: usize| {
        add[..n]
            .iter()
            .fold(GgufWriter::new(), |file, (_, add)| add(file))
    };
    for (n, (key, _)) in add.iter().enumerate() {
        assert_eq!(
            refusal(with_first(n)),
            format!("metadata key `tokenizer.ggml.{key}` is missing")
        );
    }
    assert!(build(with_first(add.len())).is_ok());
}

#[test]
fn an_unknown_model_is_refused_by_name() {
    let file = GgufWriter::new()
        .string("tokenizer.ggml.model", "bert")
        .strings("tokenizer.ggml.tokens", &["a"])
        .i32s("tokenizer.ggml.token_type", &[1]);
    assert_eq!(
        refusal(file),
        "metadata key `tokenizer.ggml.model` is \"bert\", known are gpt2, llama"
    );
}

#[test]
fn texts_and_merges_beyond_any_vocabulary_are_refused() {
    let half = "x".repeat((1 << 25) + 1);
    let long = two_tokens(&[&half, &format!("y{half}")], &[NORMAL, NORMAL]);
    let said = refusal(long);
    let expected = "size in bytes of tokenizer.ggml.tokens is 67108867, expected at most 67108864";
    assert_eq!(said, expected);

    // Pieces that are each a letter longer than the one before: each merges in as many ways as it has letters.
    let chain = |letter: char| (1..=1000).map(move |n| letter.to_string().repeat(n));
    let tokens: Vec<String> = ('a'..='z').flat_map(chain).collect();
    let types = vec![NORMAL; tokens.len()];
    let writer = GgufWriter::new()
        .string("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &tokens)
        .f32s("tokenizer.ggml.scores", &vec![0.0; tokens.len()])
        .i32s("tokenizer.ggml.token_type", &types);
    let said = refusal(writer);
    assert!(
        said.starts_with("size in bytes of the tokens' merges is 67"),
        "{said}"
    );
}
