//! How large the values of a template can become on a record, told from its text.
//!
//! The engine bounds how many instructions a template takes, and one of them can double a text: a task file of 400
//! bytes could take all memory. So a task may use what lets values grow by a known factor, and nothing
//! else. Sizes are upper bounds, and generous ones.

mod filters;

use std::collections::BTreeMap;

use minijinja::machinery::ast::{
    BinOpKind, CallArg, Expr, Filter, ForLoop, IfExpr, Slice, Stmt, WithBlock,
};
use minijinja::machinery::{parse, parse_expr};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use pdtrim_core::template::{Source, check_nesting};

/// How many times as large as the record a value may become. The bounds are generous: each text that may be a list counts
/// as if it were written with all signs escaped.
const TIMES: u64 = 512;
/// Bytes that it may have beside that.
const FIXED: u64 = 16 << 20;
/// What an item of a list takes beside its text.
const ITEM: u64 = 40;
/// Characters of a number: one in floating point may have as many.
const NUMBER: u64 = 400;
/// Names of `loop` that are numbers.
const LOOP_NUMBERS: [&str; 9] = [
    "index",
    "index0",
    "revindex",
    "revindex0",
    "first",
    "last",
    "length",
    "depth",
    "depth0",
];

/// Why a template is not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It nests too deep.
    #[error(transparent)]
    Nesting(#[from] pdtrim_core::Error),
    /// A value could become too large.
    #[error(
        "line {line}: this could become {} as large as the record, expected at most {TIMES} times and {} MiB",
        times(.found), FIXED >> 20
    )]
    Size { line: usize, found: Amount },
    /// Something whose result has no bound that is known.
    #[error(
        "line {line}: {what} is not for tasks: expected what lets a text grow by a known factor"
    )]
    Unbounded { line: usize, what: String },
}

fn times(found: &Amount) -> String {
    if found.times > TIMES {
        format!("{} times", found.times)
    } else {
        format!("{} MiB and {} times", found.fixed >> 20, found.times)
    }
}

type Result<T, E = Refusal> = std::result::Result<T, E>;

/// At most so many times the record's bytes, and so many more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    times: u64,
    fixed: u64,
}

impl Amount {
    const fn fixed(fixed: u64) -> Self {
        Self { times: 0, fixed }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            times: self.times.saturating_add(other.times),
            fixed: self.fixed.saturating_add(other.fixed),
        }
    }

    fn by(self, factor: u64) -> Self {
        Self {
            times: self.times.saturating_mul(factor),
            fixed: self.fixed.saturating_mul(factor),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            times: self.times.max(other.times),
            fixed: self.fixed.max(other.fixed),
        }
    }
}

/// What is known of a value's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    List,
    Any,
}

/// What a value takes: the text in it, and the items of its lists and maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    kind: Kind,
    text: Amount,
    items: Amount,
}

impl Size {
    const NUMBER: Self = Self {
        kind: Kind::Number,
        text: Amount::fixed(NUMBER),
        items: Amount::fixed(0),
    };
    /// A field of the record, or several.
    const RECORD: Self = Self {
        kind: Kind::Any,
        text: Amount { times: 1, fixed: 0 },
        items: Amount { times: 1, fixed: 0 },
    };

    fn text(text: Amount) -> Self {
        Self {
            kind: Kind::Text,
            text,
            items: Amount::default(),
        }
    }

    /// What both take.
    fn with(self, other: Self) -> Self {
        Self {
            kind: Kind::Any,
            text: self.text.plus(other.text),
            items: self.items.plus(other.items),
        }
    }

    /// One of the two.
    fn or(self, other: Self) -> Self {
        Self {
            kind: if self.kind == other.kind {
                self.kind
            } else {
                Kind::Any
            },
            text: self.text.or(other.text),
            items: self.items.or(other.items),
        }
    }

    /// A part of it; of which kind is not known.
    fn part(self) -> Self {
        Self {
            kind: Kind::Any,
            ..self
        }
    }

    /// A list, or a map, of so many more items.
    fn listed(self, items: u64) -> Self {
        Self {
            kind: Kind::List,
            items: self.items.plus(Amount::fixed(items)),
            ..self
        }
    }

    /// As a text: what is in lists is quoted and escaped, with signs between items.
    fn written(self) -> Self {
        match self.kind {
            Kind::Number | Kind::Text => Self::text(self.text),
            Kind::List | Kind::Any => {
                let escaped = self.text.by(8).plus(self.items.by(8));
                Self::text(escaped.plus(Amount::fixed(NUMBER)))
            }
        }
    }

    fn memory(self) -> Amount {
        self.text.plus(self.items.by(ITEM))
    }
}

/// Names that a template has given, and in how many loops it is.
#[derive(Default)]
struct Names<'a> {
    sizes: BTreeMap<&'a str, Size>,
    /// Those given in each block that is open: these are not the record's.
    blocks: Vec<Vec<&'a str>>,
    loops: usize,
}

/// Refuses a template whose values could grow too large. What does not parse is left to the engine.
pub(crate) fn check_template(text: &str) -> Result<()> {
    check_nesting(text, Source::Template)?;
    match parse(text, "", SyntaxConfig::default()) {
        Ok(parsed) => Names::default().statement(&parsed),
        Err(_) => Ok(()),
    }
}

/// The same for an expression.
pub(crate) fn check_expression(text: &str) -> Result<()> {
    check_nesting(text, Source::Expression)?;
    match parse_expr(text) {
        Ok(parsed) => Names::default().size(&parsed).map(drop),
        Err(_) => Ok(()),
    }
}

/// Refuses fields of a record, expressions that parse, each of which may use those before it.
pub(crate) fn check_fields<'f>(fields: impl Iterator<Item = (&'f str, &'f str)>) -> Result<()> {
    let mut names = Names::default();
    for (name, text) in fields {
        if let Ok(parsed) = parse_expr(text) {
            let size = names.size(&parsed)?;
            names.bind(name, size.part());
        }
    }
    // All of them are kept.
    let all = names
        .sizes
        .values()
        .fold(Amount::default(), |all, size| all.plus(size.text));
    fits(1, all)
}

fn unbounded(line: usize, what: impl Into<String>) -> Refusal {
    let what = what.into();
    Refusal::Unbounded { line, what }
}

fn fits(line: usize, found: Amount) -> Result<()> {
    if found.times > TIMES || found.fixed > FIXED {
        return Err(Refusal::Size { line, found });
    }
    Ok(())
}

fn line(expr: &Expr<'_>) -> usize {
    usize::from(expr.span().start_line)
}

impl<'a> Names<'a> {
    fn statements(&mut self, body: &[Stmt<'a>]) -> Result<()> {
        self.blocks.push(Vec::new());
        body.iter().try_for_each(|stmt| self.statement(stmt))?;
        self.blocks.pop();
        Ok(())
    }

    fn statement(&mut self, stmt: &Stmt<'a>) -> Result<()> {
        match stmt {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitExpr(emit) => self.size(&emit.expr).map(drop),
            Stmt::EmitRaw(_) => Ok(()),
            Stmt::IfCond(cond) => {
                self.size(&cond.expr)?;
                self.statements(&cond.true_body)?;
                self.statements(&cond.false_body)
            }
            Stmt::ForLoop(each) => self.each(each),
            Stmt::Set(set) => {
                let size = self.size(&set.expr)?;
                self.bind_all(&set.target, size)
            }
            Stmt::WithBlock(with) => self.with(with),
            Stmt::SetBlock(set) => Err(unbounded(line(&set.target), "a block that is captured")),
            Stmt::AutoEscape(block) => Err(unbounded(line(&block.enabled), "`autoescape`")),
            Stmt::FilterBlock(block) => Err(unbounded(line(&block.filter), "a filter block")),
            Stmt::Do(call) => Err(unbounded(
                usize::from(call.span().start_line),
                "a call for nothing but what it does",
            )),
            Stmt::Block(block) => self.statements(&block.body),
            Stmt::Macro(found) => Err(unbounded(
                usize::from(found.span().start_line),
                format!("the macro `{}`", found.name),
            )),
            Stmt::CallBlock(found) => Err(unbounded(
                usize::from(found.span().start_line),
                "a call block",
            )),
            Stmt::Import(found) => Err(unbounded(line(&found.expr), "another template")),
            Stmt::FromImport(found) => Err(unbounded(line(&found.expr), "another template")),
            Stmt::Extends(found) => Err(unbounded(line(&found.name), "another template")),
            Stmt::Include(found) => Err(unbounded(line(&found.name), "another template")),
        }
    }

    fn each(&mut self, each: &ForLoop<'a>) -> Result<()> {
        let at = line(&each.iter);
        if each.recursive {
            return Err(unbounded(at, "a recursive loop"));
        }
        let size = self.size(&each.iter)?.part();
        self.blocks.push(Vec::new());
        self.bind_all(&each.target, size)?;
        if let Some(filter) = &each.filter_expr {
            self.size(filter)?;
        }
        // Its neighbours are items too.
        self.bind("loop", size);
        self.loops += 1;
        self.statements(&each.body)?;
        self.loops -= 1;
        self.blocks.pop();
        self.statements(&each.else_body)
    }

    fn with(&mut self, with: &WithBlock<'a>) -> Result<()> {
        self.blocks.push(Vec::new());
        for (target, expr) in &with.assignments {
            let size = self.size(expr)?;
            self.bind_all(target, size)?;
        }
        self.statements(&with.body)?;
        self.blocks.pop();
        Ok(())
    }

    /// A name may be given again, and not on every way: the largest counts.
    fn bind(&mut self, name: &'a str, size: Size) {
        let known = self.sizes.entry(name).or_insert(size);
        *known = known.or(size);
        if let Some(block) = self.blocks.last_mut() {
            block.push(name);
        }
    }

    fn bind_all(&mut self, target: &Expr<'a>, size: Size) -> Result<()> {
        match target {
            Expr::Var(var) => self.bind(var.id, size),
            Expr::List(list) => {
                for item in &list.items {
                    self.bind_all(item, size.part())?;
                }
            }
            Expr::Tuple(tuple) => {
                for item in &tuple.items {
                    self.bind_all(item, size.part())?;
                }
            }
            other => {
                return Err(unbounded(
                    line(other),
                    "a value that is kept in another one",
                ));
            }
        }
        Ok(())
    }

    /// How large the value of an expression may be, and that of each of its parts.
    fn size(&self, expr: &Expr<'a>) -> Result<Size> {
        let size = self.of(expr)?;
        fits(line(expr), size.memory())?;
        Ok(size)
    }

    fn of(&self, expr: &Expr<'a>) -> Result<Size> {
        Ok(match expr {
            Expr::Var(var) => match self.sizes.get(var.id) {
                Some(size) if self.blocks.iter().flatten().any(|name| *name == var.id) => *size,
                // Where it was not set it is the record's.
                Some(size) => size.or(Size::RECORD),
                None => Size::RECORD,
            },
            Expr::Const(found) => constant(&found.value),
            Expr::Slice(slice) => self.slice(slice)?,
            Expr::UnaryOp(op) => {
                self.size(&op.expr)?;
                Size::NUMBER
            }
            Expr::BinOp(op) => {
                let sides = (self.size(&op.left)?, self.size(&op.right)?);
                binary(op.op, sides)
                    .ok_or_else(|| unbounded(line(expr), "`*`, which repeats texts and lists,"))?
            }
            Expr::Compare(chain) => {
                self.size(&chain.expr)?;
                for next in &chain.ops {
                    self.size(&next.expr)?;
                }
                Size::NUMBER
            }
            Expr::IfExpr(choice) => self.choice(choice)?,
            Expr::Filter(filter) => self.filtered(filter, line(expr))?,
            Expr::Test(test) => {
                self.size(&test.expr)?;
                self.arguments(&test.args, line(expr))?;
                Size::NUMBER
            }
            Expr::GetAttr(get) if self.is_loop(&get.expr) && LOOP_NUMBERS.contains(&get.name) => {
                Size::NUMBER
            }
            Expr::GetAttr(get) => self.size(&get.expr)?.part(),
            Expr::GetItem(get) => {
                self.size(&get.subscript_expr)?;
                self.size(&get.expr)?.part()
            }
            Expr::Call(call) => self.call(&call.expr, &call.args, line(expr))?,
            Expr::List(list) => self.all(&list.items)?.listed(list.items.len() as u64),
            Expr::Tuple(tuple) => self.all(&tuple.items)?.listed(tuple.items.len() as u64),
            Expr::Map(map) => {
                let both = self.all(&map.keys)?.with(self.all(&map.values)?);
                both.listed(2 * map.keys.len() as u64)
            }
        })
    }

    /// Whether it is what a loop tells of itself, and not a field of the record.
    fn is_loop(&self, expr: &Expr<'a>) -> bool {
        self.loops > 0 && matches!(expr, Expr::Var(var) if var.id == "loop")
    }

    fn slice(&self, slice: &Slice<'a>) -> Result<Size> {
        let bounds = [&slice.start, &slice.stop, &slice.step];
        for bound in bounds.into_iter().flatten() {
            self.size(bound)?;
        }
        self.size(&slice.expr)
    }

    fn choice(&self, choice: &IfExpr<'a>) -> Result<Size> {
        self.size(&choice.test_expr)?;
        let size = self.size(&choice.true_expr)?;
        match &choice.false_expr {
            Some(other) => Ok(size.or(self.size(other)?)),
            None => Ok(size),
        }
    }

    fn filtered(&self, filter: &Filter<'a>, at: usize) -> Result<Size> {
        let Some(of) = &filter.expr else {
            return Err(unbounded(at, "a filter without a value"));
        };
        let of = self.size(of)?;
        let arguments = self.arguments(&filter.args, at)?;
        filters::size(filter.name, of, &arguments).ok_or_else(|| {
            let what = format!("the filter `{}`, used like this,", filter.name);
            unbounded(at, what)
        })
    }

    fn all(&self, items: &[Expr<'a>]) -> Result<Size> {
        let nothing = Size::text(Amount::default()).part();
        items
            .iter()
            .try_fold(nothing, |all, item| Ok(all.with(self.size(item)?)))
    }

    fn arguments(&self, args: &[CallArg<'a>], at: usize) -> Result<Vec<Argument<'a>>> {
        let argument = |arg: &CallArg<'a>| {
            let (name, expr) = match arg {
                CallArg::Pos(expr) => (None, expr),
                CallArg::Kwarg(name, expr) => (Some(*name), expr),
                CallArg::PosSplat(_) | CallArg::KwargSplat(_) => {
                    return Err(unbounded(at, "a list of arguments"));
                }
            };
            Ok(Argument {
                name,
                // First: the engine makes a constant of `'x' * 9` by repeating it.
                size: self.size(expr)?,
                constant: expr.as_const(),
            })
        };
        args.iter().map(argument).collect()
    }

    fn call(&self, called: &Expr<'a>, args: &[CallArg<'a>], at: usize) -> Result<Size> {
        let arguments = self.arguments(args, at)?;
        let nothing = Size::text(Amount::fixed(NUMBER));
        let all = arguments
            .iter()
            .fold(nothing, |all, argument| all.with(argument.size));
        match called {
            Expr::Var(function) if !self.sizes.contains_key(function.id) => match function.id {
                "index_of" => Ok(Size::NUMBER),
                "mark_word" => Ok(Size::text(all.text)),
                "dict" => Ok(all.part()),
                // The engine makes no longer ones.
                "range" => Ok(Size {
                    kind: Kind::List,
                    text: Amount::fixed(6 * 100_000),
                    items: Amount::fixed(100_000),
                }),
                name => Err(unbounded(at, format!("the function `{name}`"))),
            },
            Expr::GetAttr(get) if get.name == "cycle" && self.is_loop(&get.expr) => Ok(all.part()),
            _ => Err(unbounded(at, "a call of a value")),
        }
    }
}

/// What a filter was given.
struct Argument<'a> {
    name: Option<&'a str>,
    size: Size,
    constant: Option<Value>,
}

fn constant(value: &Value) -> Size {
    match value.kind() {
        ValueKind::String => Size::text(Amount::fixed(value.as_str().map_or(0, str::len) as u64)),
        _ => Size::NUMBER,
    }
}

/// None for what would repeat a text.
fn binary(op: BinOpKind, (left, right): (Size, Size)) -> Option<Size> {
    let numbers = left.kind == Kind::Number && right.kind == Kind::Number;
    Some(match op {
        BinOpKind::ScAnd | BinOpKind::ScOr => left.or(right),
        BinOpKind::Concat => Size::text(left.written().text.plus(right.written().text)),
        BinOpKind::Add if !numbers => {
            let both = left.with(right);
            match (left.kind, right.kind) {
                (Kind::Text, Kind::Text) => Size::text(both.text),
                _ => both,
            }
        }
        BinOpKind::Mul if !numbers => return None,
        _ => Size::NUMBER,
    })
}

#[cfg(test)]
mod tests;
