//! A conversation as a prompt, by the template that the checkpoint brings.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use pdtrim_core::template::{BoundedText, Source, check_nesting};
use serde_json::Value;

use super::error::{ServeError, ServeResult};

const NAME: &str = "chat_template";
/// Instructions that a template may take on one conversation: a message takes a hundred or so. A checkpoint is somebody
/// else's, and its template could loop as long as it likes.
const FUEL: u64 = 1 << 24;

/// A checkpoint's template, and the texts of the tokens that it may name.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    /// Bytes that a prompt may have.
    longest: usize,
}

impl ChatTemplate {
    /// Prompts are refused that are longer than `longest` bytes, before they are written to their end.
    pub(super) fn new(
        template: String,
        bos: String,
        eos: String,
        longest: usize,
    ) -> ServeResult<Self> {
        check_nesting(&template, Source::Template).map_err(|error| ServeError::Template {
            reason: error.to_string(),
        })?;
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        // As transformers sets Jinja up for these templates.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(|error| refused(&error))?);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", |message: String| {
            Err::<(), _>(Error::new(ErrorKind::InvalidOperation, message))
        });
        let added = environment.add_template_owned(NAME, template);
        added.map_err(|error| refused(&error))?;
        Ok(Self {
            environment,
            bos,
            eos,
            longest,
        })
    }

    /// The prompt after which the assistant speaks.
    pub(super) fn prompt(&self, messages: &[Value]) -> ServeResult<String> {
        let mut prompt = BoundedText::new(self.longest);
        let template = self.environment.get_template(NAME);
        let rendered = template.and_then(|template| {
            let context = context! {
                messages => minijinja::Value::from(Serde(messages)),
                add_generation_prompt => true,
                bos_token => &self.bos,
                eos_token => &self.eos,
            };
            template.render_captured_to(context, &mut prompt).map(drop)
        });
        rendered.map_err(|error| refused(&error))?;
        Ok(prompt.into_text())
    }
}

fn refused(error: &Error) -> ServeError {
    // What a writer said comes as the source.
    let said = std::error::Error::source(error)
        .map_or_else(|| error.to_string(), <dyn std::error::Error>::to_string);
    let reason = match error.line() {
        Some(line) => format!("line {line}: {said}"),
        None => said,
    };
    ServeError::Template { reason }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(text: &str) -> ServeResult<ChatTemplate> {
        ChatTemplate::new(text.to_owned(), "<s>".to_owned(), "</s>".to_owned(), 1000)
    }

    #[test]
    fn a_template_of_the_usual_kind_makes_a_prompt() {
        let chat_ml = "{% for message in messages %}\n\
            {% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}\n\
            {{ '<|im_start|>' + message['role'] + '\\n' + message['content'].strip() + '<|im_end|>' + '\\n' }}\n\
            {% endfor %}\n\
            {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
        let prompt = template(chat_ml)
            .unwrap()
            .prompt(&[json!({"role": "user", "content": " Hi "})])
            .unwrap();
        assert_eq!(
            prompt,
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn what_a_template_refuses_is_told_and_a_broken_one_too() {
        let strict = template("{{ raise_exception('roles must alternate') }}").unwrap();
        let said = strict.prompt(&[]).unwrap_err().to_string();
        assert!(said.contains("roles must alternate"), "{said}");
        let said = template("{% if %}").unwrap_err().to_string();
        assert!(said.contains("chat template"), "{said}");
    }

    #[test]
    fn a_template_that_goes_on_and_on_is_stopped() {
        let loops =
            "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}";
        for (body, reason) in [("", "fuel"), ("{{ bos_token }}", "longer than 1000 bytes")] {
            let endless = template(&loops.replace("BODY", body)).unwrap();
            let said = endless.prompt(&[]).unwrap_err().to_string();
            assert!(said.contains(reason), "{said}");
        }
    }

    #[test]
    fn a_template_that_nests_without_end_is_refused() {
        let said = template(&format!("{{{{ {}1 }}}}", "-".repeat(100_000)));
        let said = said.unwrap_err().to_string();
        assert!(said.contains("chat template: line 1"), "{said}");
    }

    #[test]
    fn a_prompt_may_be_as_long_as_allowed_and_no_longer() {
        let as_asked = template("{{ messages[0].content }}").unwrap();
        let said = |n: usize| as_asked.prompt(&[json!({"content": "a".repeat(n)})]);
        assert_eq!(said(1000).unwrap().len(), 1000);
        assert!(said(1001).is_err());
    }
}
