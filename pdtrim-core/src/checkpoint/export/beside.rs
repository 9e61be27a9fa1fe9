//! The files beside the weights: tokenizer, generation settings, conversation template, licence.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::end_tokens;
use super::write_json;
use crate::atomic::write_atomically;
use crate::checkpoint::{Checkpoint, Source};
use crate::error::Result;

/// Files that are copied where the source has them; `tokenizer.json` itself must be there.
const COPIED: [&str; 12] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
];

impl Checkpoint {
    /// Writes them: copies of a folder's own, and what a GGUF file says or a folder lacks.
    pub(super) fn write_beside(&self, folder: &Path) -> Result<()> {
        if matches!(self.source, Source::Hf(_)) {
            // Checked as when it is used: a copy must not be worse than what is made.
            self.tokenizer()?;
            for name in COPIED {
                self.copy(name, folder)?;
            }
        } else {
            let tokenizer = self.tokenizer()?.to_json()?;
            write_atomically(&folder.join("tokenizer.json"), tokenizer.as_bytes())?;
        }
        let lacks = |name: &str| !folder.join(name).is_file();
        if lacks("tokenizer_config.json") {
            self.write_tokenizer_config(folder)?;
        }
        if lacks("generation_config.json") {
            let config = self.config();
            let ends =
                json!({"bos_token_id": config.bos_token_id, "eos_token_id": end_tokens(config)});
            write_json(&folder.join("generation_config.json"), &ends)?;
        }
        Ok(())
    }

    fn write_tokenizer_config(&self, folder: &Path) -> Result<()> {
        let tokenizer = self.tokenizer()?;
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        let class = "PreTrainedTokenizerFast";
        let mut config = Map::from_iter([
            ("tokenizer_class".to_owned(), json!(class)),
            (
                "model_max_length".to_owned(),
                json!(self.config().context_length),
            ),
            ("clean_up_tokenization_spaces".to_owned(), json!(false)),
        ]);
        if let Some(template) = self.chat_template()? {
            config.insert("chat_template".to_owned(), json!(template));
        }
        let ends = [
            ("bos_token", self.config().bos_token_id),
            ("eos_token", self.config().eos_token_ids.first().copied()),
        ];
        config.extend(
            ends.into_iter()
                .filter_map(|(key, id)| token(id).map(|text| (key.to_owned(), json!(text)))),
        );
        write_json(
            &folder.join("tokenizer_config.json"),
            &Value::Object(config),
        )
    }

    fn copy(&self, name: &str, folder: &Path) -> Result<()> {
        let source = self.path().join(name);
        if !source.is_file() {
            return Ok(());
        }
        let bytes = crate::text::read_bytes(&source, crate::limits::TOKENIZER)?;
        write_atomically(&folder.join(name), &bytes)
    }
}
