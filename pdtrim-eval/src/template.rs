//! Templates and expressions of a task, rendered on a record.

mod size;

use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};

use pdtrim_core::template::BoundedText;

use crate::cleanup;
use crate::error::{Error, Place, Result};

/// Instructions that a template may take on one record; those of the bundled tasks take a few hundred.
const FUEL: u64 = 1 << 20;
/// Bytes that it may write: more than a prompt ever has.
const LONGEST: usize = 64 << 20;

/// The engine as lm-evaluation-harness sets up Jinja: strict about undefined names, and keeping the
/// template's last newline.
pub(crate) fn environment<'source>() -> Environment<'source> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let mut syntax = minijinja::syntax::SyntaxConfig::builder();
    environment.set_syntax(
        syntax
            .keep_trailing_newline(true)
            .build()
            .expect("the default delimiters are valid"),
    );
    environment.add_filter("hellaswag_text", cleanup::hellaswag);
    environment.add_filter("wikitext_text", cleanup::wikitext);
    environment.add_filter("detokenize", cleanup::detokenize);
    environment.add_function("mark_word", cleanup::mark_word);
    environment.add_function("index_of", index_of);
    environment
}

/// A template or an expression, compiled, with what an error has to name.
pub(crate) struct Compiled<'env, 'source> {
    task: &'source str,
    key: &'static str,
    environment: &'env Environment<'source>,
    code: Code<'env, 'source>,
}

enum Code<'env, 'source> {
    Template(minijinja::Template<'env, 'source>),
    Expression(minijinja::Expression<'env, 'source>),
}

impl<'env, 'source> Compiled<'env, 'source> {
    /// The template `text` of the task's key `key`.
    pub(crate) fn template(
        environment: &'env Environment<'source>,
        task: &'source str,
        key: &'static str,
        text: &'source str,
    ) -> Result<Self> {
        size::check_template(text).map_err(refused(task, key))?;
        let code = environment
            .template_from_named_str(key, text)
            .map_err(|source| syntax(task, key, source))?;
        Ok(Self {
            task,
            key,
            environment,
            code: Code::Template(code),
        })
    }

    /// The expression `text` of the task's key `key`.
    pub(crate) fn expression(
        environment: &'env Environment<'source>,
        task: &'source str,
        key: &'static str,
        text: &'source str,
    ) -> Result<Self> {
        size::check_expression(text).map_err(refused(task, key))?;
        let code = environment
            .compile_expression(text)
            .map_err(|source| syntax(task, key, source))?;
        Ok(Self {
            task,
            key,
            environment,
            code: Code::Expression(code),
        })
    }

    /// What it gives on the record `fields`, as a string.
    pub(crate) fn text(&self, fields: &Value, place: &Place) -> Result<String> {
        let value = self.value(fields, place)?;
        self.string(&value, "a string", place)
    }

    /// What it gives on the record `fields`, as a list of strings with at least one element.
    pub(crate) fn texts(&self, fields: &Value, place: &Place) -> Result<Vec<String>> {
        const EXPECTED: &str = "a list of strings";
        let value = self.value(fields, place)?;
        let list = matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
        if !list || value.len() == Some(0) {
            return Err(self.type_error(EXPECTED, &value, place));
        }
        let items = value
            .try_iter()
            .map_err(|source| self.failed(source, fields, place))?;
        items
            .map(|item| self.string(&item, EXPECTED, place))
            .collect()
    }

    /// What it gives on the record `fields`, as a whole number.
    pub(crate) fn number(&self, fields: &Value, place: &Place) -> Result<i64> {
        let value = self.value(fields, place)?;
        match value.as_i64() {
            Some(number) if value.is_integer() => Ok(number),
            _ => Err(self.type_error("a whole number", &value, place)),
        }
    }

    /// What it gives on the record `fields`, as JSON.
    pub(crate) fn json(&self, fields: &Value, place: &Place) -> Result<serde_json::Value> {
        let value = self.value(fields, place)?;
        if value.kind() == ValueKind::Undefined {
            return Err(self.type_error("a value", &value, place));
        }
        serde_json::to_value(&value).map_err(|_| self.type_error("a value", &value, place))
    }

    fn value(&self, fields: &Value, place: &Place) -> Result<Value> {
        match &self.code {
            Code::Template(template) => {
                let mut text = BoundedText::new(LONGEST);
                let rendered = template.render_captured_to(fields, &mut text).map(drop);
                rendered.map(|()| Value::from(text.into_text()))
            }
            Code::Expression(expression) => expression.eval(fields),
        }
        .map_err(|source| self.failed(source, fields, place))
    }

    fn string(&self, value: &Value, expected: &'static str, place: &Place) -> Result<String> {
        match value.as_str() {
            Some(text) if value.kind() == ValueKind::String => Ok(text.to_owned()),
            _ => Err(self.type_error(expected, value, place)),
        }
    }

    fn type_error(&self, expected: &'static str, value: &Value, place: &Place) -> Error {
        let found = if value.kind() == ValueKind::Undefined {
            "nothing".to_owned()
        } else {
            format!("`{value}`")
        };
        Error::ExpressionType {
            place: place.clone(),
            task: self.task.to_owned(),
            key: self.key,
            expected,
            found,
        }
    }

    /// The engine says "undefined value" without a name, so the names are looked for here.
    fn failed(&self, source: minijinja::Error, fields: &Value, place: &Place) -> Error {
        let (place, task, key) = (place.clone(), self.task.to_owned(), self.key);
        let missing = self.missing(fields);
        if source.kind() == ErrorKind::UndefinedError && !missing.is_empty() {
            return Error::MissingField {
                place,
                task,
                key,
                field: missing.join("` or `"),
            };
        }
        Error::Template {
            place,
            task,
            key,
            source: Box::new(source),
        }
    }

    fn missing(&self, fields: &Value) -> Vec<String> {
        let names = match &self.code {
            Code::Template(template) => template.undeclared_variables(true),
            Code::Expression(expression) => expression.undeclared_variables(true),
        };
        let is_missing = |name: &String| {
            let found = name
                .split('.')
                .try_fold(fields.clone(), |value, part| value.get_attr(part).ok());
            !self.environment.globals().any(|(global, _)| global == name)
                && found.is_none_or(|value| value.is_undefined())
        };
        let mut missing: Vec<_> = names.into_iter().filter(is_missing).collect();
        missing.sort();
        missing
    }
}

/// Whether the template `text` parses.
pub(crate) fn check_template(task: &str, key: &'static str, text: &str) -> Result<()> {
    Compiled::template(&environment(), task, key, text).map(|_| ())
}

/// Whether the expression `text` parses.
pub(crate) fn check_expression(task: &str, key: &'static str, text: &str) -> Result<()> {
    Compiled::expression(&environment(), task, key, text).map(|_| ())
}

/// Whether the fields that records are given, each of which may use those before it, stay small enough.
pub(crate) fn check_fields<'f>(
    task: &str,
    key: &'static str,
    fields: impl Iterator<Item = (&'f str, &'f str)>,
) -> Result<()> {
    size::check_fields(fields).map_err(refused(task, key))
}

fn refused(task: &str, field: &'static str) -> impl FnOnce(size::Refusal) -> Error {
    let task = task.to_owned();
    move |source| Error::TemplateRefused {
        task,
        field,
        source: Box::new(source),
    }
}

fn syntax(task: &str, field: &'static str, source: minijinja::Error) -> Error {
    Error::TemplateSyntax {
        task: task.to_owned(),
        field,
        source: Box::new(source),
    }
}

/// The index of `item` in `list`.
fn index_of(list: &Value, item: &Value) -> Result<usize, minijinja::Error> {
    let found = list.try_iter()?.position(|other| &other == item);
    found.ok_or_else(|| {
        minijinja::Error::new(
            ErrorKind::InvalidOperation,
            format!("label {item:?} is not one of {list:?}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_keep_their_last_newline_and_escape_nothing() {
        let environment = environment();
        let template = Compiled::template(&environment, "t", "context", "{{ text }}\n").unwrap();
        let fields = minijinja::context! { text => "a < b & c" };
        assert_eq!(
            template.text(&fields, &Place::new("f", 1)).unwrap(),
            "a < b & c\n"
        );
    }

    #[test]
    fn a_template_that_goes_on_and_on_is_stopped() {
        let environment = environment();
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        let template = Compiled::template(&environment, "t", "context", nested).unwrap();
        let error = template
            .text(&Value::UNDEFINED, &Place::new("f", 1))
            .unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("fuel"), "{source}");
    }

    #[test]
    fn a_label_outside_the_list_is_an_error_that_names_both() {
        let environment = environment();
        let gold =
            Compiled::expression(&environment, "t", "gold", "index_of(['A', 'B'], key)").unwrap();
        let place = Place::new("f", 1);
        assert_eq!(
            gold.number(&minijinja::context! { key => "B" }, &place)
                .unwrap(),
            1
        );
        let error = gold
            .number(&minijinja::context! { key => "C" }, &place)
            .unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            source.contains("label 'C' is not one of ['A', 'B']"),
            "{source}"
        );
    }
}
