//! What a filter may contain, so that evaluating it costs little more than reading its event.
//!
//! The engine has no budget of its own: `Payload.a.map(x, Payload.a)` would be as many copies of a
//! list as it has items, and a pattern that comes with the event could be any. So whatever grows by
//! more than the size of the event is refused when the filter is read, by what it is written as:
//!
//! - a loop looks at one list of the event, neither within another loop nor at another loop's result;
//! - inside a loop stand its variable, literals and the short fields of the event, not `Payload`;
//! - lists and maps are written of short things, and few additions may be of unknown size;
//! - patterns are literals, compiled once.
//!
//! What is left takes at most [`Found::cost`] looks at each value of a payload.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedEntryExpr, LiteralValue, operators};

use crate::expression::ExpressionError;

/// Fields of an event whose size has a limit far below that of a payload.
const SHORT_TEXTS: [&str; 8] = [
    "Topic",
    "Type",
    "Key",
    "Namespace",
    "Id",
    "Time",
    "Node",
    "Source",
];

/// The functions that there are: how many arguments each takes as `value.name(…)`, and as
/// `name(…)`.
const FUNCTIONS: [(&str, Option<usize>, Option<usize>); 13] = [
    ("bool", None, Some(1)),
    ("bytes", None, Some(1)),
    ("contains", Some(1), None),
    ("double", None, Some(1)),
    ("dyn", None, Some(1)),
    ("endsWith", Some(1), None),
    ("int", None, Some(1)),
    ("matches", Some(1), Some(2)),
    ("size", Some(0), Some(1)),
    ("startsWith", Some(1), None),
    ("string", None, Some(1)),
    ("type", None, Some(1)),
    ("uint", None, Some(1)),
];

/// What macros are known by, for the list of what there is.
const MACROS: [&str; 6] = ["all", "exists", "exists_one", "filter", "has", "map"];

const OPERATORS: [&str; 18] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::IN,
];

/// Additions that may join lists or long texts: each makes a copy as large as its sides together.
const ADDITIONS_MAX: usize = 8;

/// What a walk through an expression finds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Names that no macro binds.
    pub(crate) names: BTreeSet<String>,
    /// How many loops stand within each other at the deepest place.
    pub(crate) loop_depth: usize,
    /// How deeply the expression is nested: evaluating it takes that many calls within each other.
    pub(crate) depth: usize,
    /// How often each value of a payload is looked at, at most.
    pub(crate) cost: usize,
    /// The first rule that is broken.
    pub(crate) broken: Option<ExpressionError>,
    additions: usize,
}

/// Where a walk is.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    loops: usize,
    depth: usize,
    /// Directly to the right of `in`, where a list may be written even inside a loop.
    is_searched: bool,
}

impl Found {
    /// In a whole expression.
    pub(crate) fn of(expression: &IdedExpr) -> Found {
        let mut found = Found::default();
        if let Some(kind) = not_a_condition(expression) {
            found.refuse(ExpressionError::NotACondition { found: kind });
        }
        found.walk(expression, &mut Vec::new(), Place::default());
        found
    }

    fn refuse(&mut self, error: ExpressionError) {
        self.broken.get_or_insert(error);
    }

    fn walk<'a>(&mut self, expression: &'a IdedExpr, bound: &mut Vec<&'a str>, place: Place) {
        let is_searched = place.is_searched;
        let place = Place {
            depth: place.depth + 1,
            is_searched: false,
            ..place
        };
        self.depth = self.depth.max(place.depth);
        self.cost += usize::from(place.loops > 0);
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => self.name(name, bound, place),
            Expr::Call(call) => self.call(call, bound, place),
            Expr::Select(select) => self.walk(&select.operand, bound, place),
            Expr::List(list) => {
                if place.loops > 0 && !is_searched {
                    self.refuse(ExpressionError::InLoop { what: "a list" });
                }
                for element in &list.elements {
                    if !is_short(element) {
                        self.refuse(ExpressionError::LongElement);
                    }
                    self.walk(element, bound, place);
                }
            }
            Expr::Map(map) => {
                if place.loops > 0 {
                    self.refuse(ExpressionError::InLoop { what: "a map" });
                }
                self.walk_entries(&map.entries, bound, place);
            }
            Expr::Struct(fields) => {
                self.refuse(ExpressionError::UnknownFunction {
                    name: fields.type_name.clone(),
                    known: known_functions(),
                });
                self.walk_entries(&fields.entries, bound, place);
            }
            Expr::Comprehension(each) => {
                if has_loop(&each.iter_range) {
                    self.refuse(ExpressionError::ChainedLoops);
                }
                self.walk(&each.iter_range, bound, place);
                self.walk(&each.accu_init, bound, place);
                self.loop_depth = self.loop_depth.max(place.loops + 1);
                let outside = bound.len();
                bound.push(&each.iter_var);
                bound.extend(each.iter_var2.as_deref());
                bound.push(&each.accu_var);
                for part in [&each.loop_cond, &each.loop_step, &each.result] {
                    let inside = Place {
                        loops: place.loops + 1,
                        ..place
                    };
                    self.walk(part, bound, inside);
                }
                bound.truncate(outside);
            }
        }
    }

    fn name(&mut self, name: &str, bound: &[&str], place: Place) {
        // `@result` is the engine's own.
        if name.starts_with('@') || bound.contains(&name) {
            return;
        }
        if name == "Payload" || name == "FilterKeys" {
            self.cost += 1;
            if place.loops > 0 {
                self.refuse(ExpressionError::InLoop {
                    what: if name == "Payload" {
                        "Payload"
                    } else {
                        "FilterKeys"
                    },
                });
            }
        }
        self.names.insert(name.to_owned());
    }

    fn call<'a>(&mut self, call: &'a CallExpr, bound: &mut Vec<&'a str>, place: Place) {
        match call.func_name.as_str() {
            operators::ADD => {
                // How the macros gather what a loop gives: `@result + [x]`, `@result + 1`.
                if let [accumulated, gathered] = &*call.args
                    && matches!(&accumulated.expr, Expr::Ident(name) if name.starts_with('@'))
                {
                    match &gathered.expr {
                        Expr::List(list) => list
                            .elements
                            .iter()
                            .for_each(|element| self.walk(element, bound, place)),
                        _ => self.walk(gathered, bound, place),
                    }
                    return;
                }
                if !is_short_addition(call) {
                    self.additions += 1;
                    if place.loops > 0 {
                        self.refuse(ExpressionError::InLoop {
                            what: "an addition of two unknown sizes",
                        });
                    } else if self.additions > ADDITIONS_MAX {
                        self.refuse(ExpressionError::TooManyAdditions {
                            limit: ADDITIONS_MAX,
                        });
                    }
                }
            }
            operators::IN => {
                let [value, list] = &*call.args else { return };
                self.walk(value, bound, place);
                if place.loops > 0
                    && !matches!(list.expr, Expr::List(_))
                    && !root_of(list).is_some_and(|root| bound.contains(&root))
                {
                    self.refuse(ExpressionError::InLoop {
                        what: "a search in something else than a literal list",
                    });
                }
                let searched = Place {
                    is_searched: true,
                    ..place
                };
                self.walk(list, bound, searched);
                return;
            }
            operators::NOT_STRICTLY_FALSE => {}
            name if OPERATORS.contains(&name) => {}
            name => self.function(name, call, place),
        }
        if let Some(target) = &call.target {
            self.walk(target, bound, place);
        }
        call.args
            .iter()
            .for_each(|argument| self.walk(argument, bound, place));
    }

    fn function(&mut self, name: &str, call: &CallExpr, place: Place) {
        let Some((_, member, global)) = FUNCTIONS.iter().find(|(known, ..)| *known == name) else {
            self.refuse(ExpressionError::UnknownFunction {
                name: name.to_owned(),
                known: known_functions(),
            });
            return;
        };
        let allowed = if call.target.is_some() {
            member
        } else {
            global
        };
        if *allowed != Some(call.args.len()) {
            self.refuse(ExpressionError::FunctionUse {
                name: name.to_owned(),
                usage: usage(name, *member, *global),
            });
        } else if name == "matches" {
            if place.loops > 0 {
                self.refuse(ExpressionError::InLoop { what: "matches" });
            }
            if pattern_of(call).is_none() {
                self.refuse(ExpressionError::PatternNotLiteral);
            }
        }
    }

    fn walk_entries<'a>(
        &mut self,
        entries: &'a [IdedEntryExpr],
        bound: &mut Vec<&'a str>,
        place: Place,
    ) {
        for entry in entries {
            let (key, value) = match &entry.expr {
                EntryExpr::StructField(field) => (None, &field.value),
                EntryExpr::MapEntry(pair) => (Some(&pair.key), &pair.value),
            };
            for part in key.into_iter().chain([value]) {
                if !is_short(part) {
                    self.refuse(ExpressionError::LongElement);
                }
                self.walk(part, bound, place);
            }
        }
    }
}

/// The literal pattern of a call of `matches`.
pub(crate) fn pattern_of(call: &CallExpr) -> Option<&str> {
    match &call.args.last()?.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

fn known_functions() -> String {
    let mut names: Vec<&str> = FUNCTIONS.iter().map(|(name, ..)| *name).collect();
    names.extend(MACROS);
    names.sort_unstable();
    names.join(", ")
}

fn usage(name: &str, member: Option<usize>, global: Option<usize>) -> String {
    let arguments = |count| ["", "x", "x, y"][std::cmp::min(count, 2)];
    let member = member.map(|count| format!("value.{name}({})", arguments(count)));
    let global = global.map(|count| format!("{name}({})", arguments(count)));
    let ways: Vec<String> = member.into_iter().chain(global).collect();
    ways.join(" or ")
}

fn has_loop(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Comprehension(_) => true,
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => false,
        Expr::Select(select) => has_loop(&select.operand),
        Expr::Call(call) => {
            call.target.as_deref().is_some_and(has_loop) || call.args.iter().any(has_loop)
        }
        Expr::List(list) => list.elements.iter().any(has_loop),
        // Only short things may stand in these.
        Expr::Map(_) | Expr::Struct(_) => false,
    }
}

/// The name at which `a.b[0].c` begins.
fn root_of(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Ident(name) => Some(name),
        Expr::Select(select) => root_of(&select.operand),
        Expr::Call(call) if call.func_name == operators::INDEX => root_of(call.args.first()?),
        _ => None,
    }
}

fn is_short(expression: &IdedExpr) -> bool {
    is_number(expression)
        || match &expression.expr {
            Expr::Literal(_) => true,
            Expr::Ident(name) => SHORT_TEXTS.contains(&name.as_str()),
            Expr::Call(call) if call.func_name == operators::ADD => call.args.iter().all(is_short),
            _ => false,
        }
}

/// Whether a sum is a number, or a short text.
fn is_short_addition(call: &CallExpr) -> bool {
    call.args.iter().any(is_number) || call.args.iter().all(is_short)
}

/// Whether it is a number, or has no answer.
fn is_number(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_)) => {
            true
        }
        Expr::Ident(name) => name == "Index",
        Expr::Call(call) => match call.func_name.as_str() {
            "size" | "int" | "uint" | "double" => true,
            operators::NEGATE
            | operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO => true,
            operators::ADD => call.args.iter().any(is_number),
            _ => false,
        },
        _ => false,
    }
}

/// What the expression plainly is, when that is neither true nor false whatever the event.
fn not_a_condition(expression: &IdedExpr) -> Option<&'static str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::Boolean(_)) => None,
        Expr::Literal(LiteralValue::Null) => Some("null"),
        Expr::Literal(LiteralValue::String(_) | LiteralValue::Bytes(_)) => Some("a text"),
        _ if is_number(expression) => Some("a number"),
        Expr::Ident(name) if SHORT_TEXTS.contains(&name.as_str()) => Some("a text"),
        Expr::Ident(name) if name == "FilterKeys" => Some("a list"),
        Expr::Ident(name) if name == "Payload" => Some("an object"),
        Expr::List(_) => Some("a list"),
        Expr::Map(_) | Expr::Struct(_) => Some("a map"),
        Expr::Comprehension(each) if matches!(each.accu_init.expr, Expr::List(_)) => Some("a list"),
        Expr::Call(call) => match call.func_name.as_str() {
            operators::ADD => Some("a sum"),
            "string" | "bytes" => Some("a text"),
            "type" => Some("a type"),
            operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {
                call.args.iter().find_map(not_a_condition)
            }
            operators::CONDITIONAL => call.args.iter().find_map(not_a_condition),
            _ => None,
        },
        _ => None,
    }
}
