//! A conversation as a prompt, by the template that the checkpoint brings.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Value;

use super::error::{ServeError, ServeResult};

const NAME: &str = "chat_template";

/// A checkpoint's template, and the texts of the tokens that it may name.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    pub(super) fn new(template: String, bos: String, eos: String) -> ServeResult<Self> {
        let mut environment = Environment::new();
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
        })
    }

    /// The prompt after which the assistant speaks.
    pub(super) fn prompt(&self, messages: &[Value]) -> ServeResult<String> {
        let template = self.environment.get_template(NAME);
        let rendered = template.and_then(|template| {
            template.render(context! {
                messages => minijinja::Value::from(Serde(messages)),
                add_generation_prompt => true,
                bos_token => &self.bos,
                eos_token => &self.eos,
            })
        });
        rendered.map_err(|error| refused(&error))
    }
}

fn refused(error: &Error) -> ServeError {
    let reason = match error.line() {
        Some(line) => format!("line {line}: {error}"),
        None => error.to_string(),
    };
    ServeError::Template { reason }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(text: &str) -> ServeResult<ChatTemplate> {
        ChatTemplate::new(text.to_owned(), "<s>".to_owned(), "</s>".to_owned())
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
}
