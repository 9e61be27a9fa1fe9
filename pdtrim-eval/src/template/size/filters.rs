//! What filters make of a value's size.

use super::{Amount, Argument, Kind, Size};

/// The size of what the filter `name` makes of `of`; none if there is no bound on it, or none that is known.
pub(super) fn size(name: &str, of: Size, arguments: &[Argument<'_>]) -> Option<Size> {
    let given = arguments
        .iter()
        .fold(of, |all, argument| all.with(argument.size));
    match name {
        "default" | "d" => Some(given),
        "join" => join(of, arguments),
        "replace" => replace(of, arguments),
        "map" => map(of, arguments),
        "round" => Some(Size::NUMBER),
        // Their arguments say where to look, not what to add.
        "split" | "attr" | "trim" | "sort" | "unique" | "dictsort" | "select" | "reject"
        | "selectattr" | "rejectattr" | "min" | "max" => simple(name, of),
        _ if arguments.is_empty() => simple(name, of),
        _ => None,
    }
}

/// Filters whose arguments add nothing.
fn simple(name: &str, of: Size) -> Option<Size> {
    Some(match name {
        "length" | "count" | "int" | "float" | "abs" | "bool" => Size::NUMBER,
        "safe" => of,
        "first" | "last" | "min" | "max" | "sum" | "attr" => of.part(),
        "string" => of.written(),
        // Some letters are three bytes instead of one in the other case.
        "trim" | "lower" | "upper" | "title" | "capitalize" => Size::text(of.written().text.by(3)),
        "escape" | "e" | "tojson" | "urlencode" => {
            let quotes = Amount::fixed(2);
            Size::text(of.written().text.by(8).plus(quotes))
        }
        "hellaswag_text" | "wikitext_text" | "detokenize" => Size::text(of.written().text.by(2)),
        "split" => apart(of),
        "list" | "lines" | "reverse" | "sort" | "unique" | "select" | "reject" | "selectattr"
        | "rejectattr" => items(of),
        "items" | "dictsort" => Size {
            items: of.items.by(4),
            ..listed(of)
        },
        _ => return None,
    })
}

/// A list as it is; a text as the list of its signs.
fn items(of: Size) -> Size {
    match of.kind {
        Kind::List => of,
        Kind::Number | Kind::Text | Kind::Any => apart(of),
    }
}

/// Falls apart into as many items as it has bytes, and one at each end.
fn apart(of: Size) -> Size {
    Size {
        items: of.items.plus(of.text).plus(Amount::fixed(2)),
        ..listed(of)
    }
}

fn listed(of: Size) -> Size {
    Size {
        kind: Kind::List,
        ..of
    }
}

/// A text between all items.
fn join(of: Size, arguments: &[Argument<'_>]) -> Option<Size> {
    let between = match arguments {
        [] => 0,
        [
            Argument {
                name: None,
                constant: Some(between),
                ..
            },
        ] => between.as_str()?.len() as u64,
        _ => return None,
    };
    // A text is joined sign by sign; lists in the list are written with all signs escaped.
    let items = of.items.plus(of.text).by(between);
    let written = match of.kind {
        Kind::Number | Kind::Text => of.text,
        Kind::List | Kind::Any => of.text.by(8).plus(of.items.by(8)),
    };
    Some(Size::text(
        written.plus(items).plus(Amount::fixed(super::NUMBER)),
    ))
}

/// A text for each time that another one is found, at most once for each byte and once more.
fn replace(of: Size, arguments: &[Argument<'_>]) -> Option<Size> {
    let [
        _,
        Argument {
            name: None,
            constant: Some(to),
            ..
        },
    ] = arguments
    else {
        return None;
    };
    let text = of.written().text;
    let to = to.as_str()?.len() as u64;
    Some(Size::text(text.by(1 + to).plus(Amount::fixed(to))))
}

/// An attribute of each item, or a filter of each.
fn map(of: Size, arguments: &[Argument<'_>]) -> Option<Size> {
    let of = items(of);
    match arguments {
        [
            Argument {
                name: Some("attribute"),
                ..
            },
        ] => Some(of),
        [
            Argument {
                name: None,
                constant: Some(filter),
                ..
            },
        ] => {
            let mapped = simple(filter.as_str()?, of.part())?;
            // `1e300` is a number of 301 digits.
            let numbers = if mapped.kind == Kind::Number {
                of.text.by(64)
            } else {
                mapped.text
            };
            Some(Size {
                text: numbers.plus(Amount::fixed(super::NUMBER)),
                items: mapped.items.plus(of.items),
                ..listed(of)
            })
        }
        _ => None,
    }
}
