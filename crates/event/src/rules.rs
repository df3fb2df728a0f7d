//! The names that an expression takes from its surroundings, and how deeply its loops are nested.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr};

/// What a walk through an expression finds.
#[derive(Debug, Default)]
pub(crate) struct FreeNames {
    /// Names that no macro binds.
    pub(crate) names: BTreeSet<String>,
    /// How many loops stand within each other at the deepest place.
    pub(crate) loop_depth: usize,
    /// How deeply the expression is nested: evaluating it takes that many calls within each other.
    pub(crate) depth: usize,
}

/// Where a walk is.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    loops: usize,
    depth: usize,
}

impl FreeNames {
    /// Of a whole expression.
    pub(crate) fn of(expression: &IdedExpr) -> FreeNames {
        let mut found = FreeNames::default();
        found.walk(expression, &mut Vec::new(), Place::default());
        found
    }

    fn walk<'a>(&mut self, expression: &'a IdedExpr, bound: &mut Vec<&'a str>, place: Place) {
        let place = Place {
            depth: place.depth + 1,
            ..place
        };
        self.depth = self.depth.max(place.depth);
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => {
                // `@result` is the engine's own.
                if !name.starts_with('@') && !bound.contains(&name.as_str()) {
                    self.names.insert(name.clone());
                }
            }
            Expr::Call(call) => {
                if let Some(target) = &call.target {
                    self.walk(target, bound, place);
                }
                call.args
                    .iter()
                    .for_each(|argument| self.walk(argument, bound, place));
            }
            Expr::Select(select) => self.walk(&select.operand, bound, place),
            Expr::List(list) => {
                list.elements
                    .iter()
                    .for_each(|element| self.walk(element, bound, place));
            }
            Expr::Map(map) => self.walk_entries(&map.entries, bound, place),
            Expr::Struct(fields) => self.walk_entries(&fields.entries, bound, place),
            Expr::Comprehension(each) => {
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

    fn walk_entries<'a>(
        &mut self,
        entries: &'a [IdedEntryExpr],
        bound: &mut Vec<&'a str>,
        place: Place,
    ) {
        for entry in entries {
            match &entry.expr {
                EntryExpr::StructField(field) => self.walk(&field.value, bound, place),
                EntryExpr::MapEntry(pair) => {
                    self.walk(&pair.key, bound, place);
                    self.walk(&pair.value, bound, place);
                }
            }
        }
    }
}
