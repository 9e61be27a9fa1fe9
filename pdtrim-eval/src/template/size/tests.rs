use minijinja::Environment;
use minijinja::value::Serde;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn refusal(template: &str) -> String {
    check_template(template).expect_err(template).to_string()
}

#[test]
fn what_repeats_or_doubles_is_refused() {
    let doubled = |n: usize| format!("{{% set a{} = a{n} ~ a{n} %}}", n + 1);
    let doubled: String = (0..40).map(doubled).collect();
    for (template, reason) in [
        ("{{ 'x' * 99999999 }}", "`*`"),
        ("{{ [a] * 9 }}", "`*`"),
        ("{{ a * 9 }}", "`*`"),
        (&*doubled, "times as large"),
        (
            "{% for b in [a ~ a ~ a ~ a] %}{% for c in [b ~ b ~ b ~ b] %}{% for d in [c ~ c ~ c ~ c] %}{{ d ~ d ~ d ~ d }}\
          {% endfor %}{% endfor %}{% endfor %}",
            "times as large",
        ),
        ("{% set s = namespace(a='x') %}", "the function `namespace`"),
        ("{% set s.a = a %}", "kept in another"),
        ("{% set a %}{{ a }}{{ a }}{% endset %}", "captured"),
        (
            "{% macro m(a) %}{{ m(a ~ a) }}{% endmacro %}",
            "the macro `m`",
        ),
        ("{% filter upper %}{{ a }}{% endfilter %}", "a filter block"),
        ("{{ range(100000) | join(a) }}", "the filter `join`"),
        ("{{ a | replace('', b) }}", "the filter `replace`"),
        (
            "{{ a | batch(99999999, 'x') | list }}",
            "the filter `batch`",
        ),
        ("{{ a | indent(99999999) }}", "the filter `indent`"),
        ("{{ '%99999999d' | format(1) }}", "the filter `format`"),
        ("{{ a | tojson(indent=99999999) }}", "the filter `tojson`"),
        (
            "{{ a | tojson | tojson | tojson | tojson }}",
            "times as large",
        ),
        ("{{ debug() }}", "the function `debug`"),
        ("{{ a.upper() }}", "a call of a value"),
        ("{{ dict(*a) }}", "a list of arguments"),
        ("{% include a %}", "another template"),
        // A field of the record may have that name.
        ("{{ loop.length * 9 }}", "`*`"),
        ("{% for x in a %}{% endfor %}{{ loop.length * 9 }}", "`*`"),
        ("{{ a | join('x' * 99999999) }}", "`*`"),
        (
            "{% for x in a recursive %}{{ loop(x) }}{% endfor %}",
            "recursive",
        ),
    ] {
        let said = refusal(&format!("\n{template}"));
        assert!(
            said.contains(reason) && said.contains("line 2"),
            "{template}: {said}"
        );
    }
    let deep = format!("{{{{ {}a }}}}", "-".repeat(1000));
    assert!(
        refusal(&deep).contains("256 operators"),
        "{}",
        refusal(&deep)
    );
}

#[test]
fn no_other_value_has_the_name_of_a_loop() {
    let environment = Environment::new();
    for template in [
        "{% set loop = a %}",
        "{% for loop in a %}{% endfor %}",
        "{% for x, loop in a %}{% endfor %}",
        "{% with loop = a %}{% endwith %}",
    ] {
        assert!(
            environment.template_from_str(template).is_err(),
            "{template}"
        );
    }
}

#[test]
fn what_tasks_use_is_not() {
    for template in [
        "{{ a.b[0].c[1:] | trim }} {{ (a | length) * 2 if b else (n | int) * 2 }}",
        "{% if a is defined and a | length > 3 %}{{ a }}{% elif not b %}{{ b }}{% endif %}",
        "{% for x in list %}{{ loop.index * 2 }}. {{ x | upper }}\n{% endfor %}",
        "{% set t = a | trim %}{{ t ~ ': ' ~ (t | replace(' ', '_')) }}",
        "{% with t = a %}{{ t }}{% endwith %}",
        "{{ range(10) | list | join(', ') }} {{ a | default('none') }} {{ {'x': a}[b] }}",
    ] {
        check_template(template).unwrap();
    }
}

#[test]
fn fields_that_double_each_other_are_refused() {
    let names: Vec<String> = (0..20).map(|n| format!("f{n:02}")).collect();
    let texts: Vec<String> = (0..20)
        .map(|n| match n {
            0 => "a ~ a".to_owned(),
            n => format!("f{:02} ~ f{:02}", n - 1, n - 1),
        })
        .collect();
    let fields = names
        .iter()
        .zip(&texts)
        .map(|(name, text)| (&**name, &**text));
    let said = check_fields(fields).unwrap_err().to_string();
    assert!(said.contains("times as large"), "{said}");
    check_fields([("b", "a | trim"), ("c", "b ~ a")].into_iter()).unwrap();
}

/// Expressions over the fields `a`, `list` and `n`, deeper ones made of less deep ones.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("a".to_owned()),
        Just("list".to_owned()),
        Just("n".to_owned()),
        Just("''".to_owned()),
        Just("'\u{df}'".to_owned()),
        Just("7".to_owned()),
        Just("1e300".to_owned()),
        Just("none".to_owned()),
    ];
    leaf.prop_recursive(5, 24, 3, |inner| {
        let filters = prop_oneof![
            Just("trim"),
            Just("upper"),
            Just("lower"),
            Just("title"),
            Just("list"),
            Just("length"),
            Just("string"),
            Just("first"),
            Just("last"),
            Just("sort"),
            Just("unique"),
            Just("reverse"),
            Just("escape"),
            Just("tojson"),
            Just("lines"),
            Just("split"),
            Just("split(' ')"),
            Just("split('')"),
            Just("join"),
            Just("join('__')"),
            Just("replace('a', 'xyz')"),
            Just("replace('', '--')"),
            Just("default('none')"),
            Just("map('upper')"),
            Just("map('float')"),
            Just("map('list')"),
            Just("map('string')"),
            Just("select"),
            Just("float"),
            Just("urlencode"),
        ];
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} ~ {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} + {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} or {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{'k': {a}, {b}: 1}}")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("({a} if {b} else {c})")),
            inner.clone().prop_map(|a| format!("({a})[1:]")),
            inner.clone().prop_map(|a| format!("({a})[0]")),
            (inner, filters).prop_map(|(a, filter)| format!("({a}) | {filter}")),
        ]
    })
}

fn holds(expression: &str, a: &str, list: &[String]) {
    let parsed = parse_expr(expression).unwrap();
    let Ok(size) = Names::default().size(&parsed) else {
        return;
    };
    let record = json!({"a": a, "list": list, "n": 12.5});
    let bytes = record.to_string().len() as u64;
    let environment = Environment::new();
    let compiled = environment.compile_expression(expression).unwrap();
    let Ok(value) = compiled.eval(Value::from(Serde(&record))) else {
        return;
    };
    let most = |amount: Amount| amount.times * bytes + amount.fixed;
    let text = value.to_string().len() as u64;
    let most_text = most(size.written().text);
    assert!(
        text <= most_text,
        "{expression}: {text} bytes, expected {most_text}"
    );
    if !matches!(value.kind(), ValueKind::String) {
        let items = value.len().unwrap_or(0) as u64;
        assert!(items <= most(size.items), "{expression}: {items} items");
    }
}

#[test]
fn no_filter_makes_more_of_a_value_than_was_told() {
    for filter in [
        "map('tojson') | list",
        "map('float') | list | string",
        "split('') | join('__')",
        "items | list",
    ] {
        for of in ["a", "list", "[list, a]", "{'k': list}"] {
            let expression = format!("{of} | {filter}");
            holds(
                &expression,
                "\u{1}\"a b\u{df}\n",
                &["1e300".to_owned(), "\"\u{7f}".to_owned()],
            );
        }
    }
}

proptest! {
    #[test]
    fn values_are_no_larger_than_told(
        expression in expression(),
        a in "[a\u{1}\"\u{df} \n]{0,12}",
        list in prop::collection::vec("[1e\u{7f}' ]{0,5}", 0..5),
    ) {
        holds(&expression, &a, &list);
    }
}
