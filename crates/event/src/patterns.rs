//! The regular expressions of a filter: compiled once, and handed to the engine as values.
//!
//! The engine's own `matches(text, pattern)` compiles its pattern at every call. In the tree of a
//! filter each literal pattern is replaced by a name, `@pattern0`, which stands for a value that
//! holds what was compiled.

use std::any::Any;
use std::fmt;

use cel::common::ast::Expr;
use cel::common::types::{CelBool, CelString, STRING_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::{Env, ExecutionError, IdedExpr};
use regex::{Regex, RegexBuilder};

use crate::expression::ExpressionError;
use crate::rules::pattern_of;

/// Patterns of one filter.
const PATTERNS_MAX: usize = 4;

/// Memory of one compiled pattern, and of what the engine remembers while it searches. The second
/// is what makes searching fast; both are held by every subscriber.
const PATTERN_BYTES_MAX: usize = 256 << 10;

/// What the names of patterns begin with. No name that can be written does.
const NAME: &str = "@pattern";

static PATTERN_TYPE: Type = Type::new_unspecified_type("pattern");

/// A compiled pattern, as a value of the engine.
#[derive(Clone)]
pub(crate) struct Pattern(Regex);

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.0.as_str()).finish()
    }
}

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &PATTERN_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

/// Teaches the environment to match a text with a compiled pattern.
pub(crate) fn declare(environment: &mut Env) {
    let arguments = vec![STRING_TYPE, PATTERN_TYPE.to_owned()];
    let global = environment.add_overload("matches", "compiled", arguments, matches_compiled);
    let member = environment.add_member_overload(
        "matches",
        "string_compiled",
        STRING_TYPE,
        vec![PATTERN_TYPE.to_owned()],
        matches_compiled,
    );
    debug_assert!(global.is_ok() && member.is_ok());
}

fn matches_compiled<'b, 'v>(
    arguments: Vec<CowVal<'b, 'v>>,
) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [text, pattern] = &arguments[..] else {
        return Err(ExecutionError::missing_argument_or_target());
    };
    match (
        text.downcast_ref::<CelString>(),
        pattern.downcast_ref::<Pattern>(),
    ) {
        (Some(text), Some(pattern)) => Ok(CowVal::owned(CelBool::from(
            pattern.0.is_match(text.inner()),
        ))),
        _ => Err(ExecutionError::missing_argument_or_target()),
    }
}

/// Compiles the literal patterns of an expression and puts names in their places.
///
/// # Errors
/// When one is no regular expression or takes too much memory, or when there are too many.
pub(crate) fn compile(root: &mut IdedExpr) -> Result<Vec<Pattern>, ExpressionError> {
    let mut patterns = Vec::new();
    replace(root, &mut patterns)?;
    if patterns.len() > PATTERNS_MAX {
        return Err(ExpressionError::TooManyPatterns {
            count: patterns.len(),
            limit: PATTERNS_MAX,
        });
    }
    Ok(patterns)
}

/// The pattern that `name` stands for.
pub(crate) fn find<'a>(patterns: &'a [Pattern], name: &str) -> Option<&'a Pattern> {
    patterns.get(name.strip_prefix(NAME)?.parse::<usize>().ok()?)
}

fn replace(expression: &mut IdedExpr, patterns: &mut Vec<Pattern>) -> Result<(), ExpressionError> {
    match &mut expression.expr {
        Expr::Call(call) => {
            if call.func_name == "matches"
                && let Some(pattern) = pattern_of(call)
            {
                patterns.push(one(pattern)?);
                let name = format!("{NAME}{}", patterns.len() - 1);
                if let Some(literal) = call.args.last_mut() {
                    literal.expr = Expr::Ident(name);
                }
            }
            if let Some(target) = &mut call.target {
                replace(target, patterns)?;
            }
            call.args
                .iter_mut()
                .try_for_each(|argument| replace(argument, patterns))
        }
        Expr::Select(select) => replace(&mut select.operand, patterns),
        // Inside a loop there are none, but what it goes over may have one.
        Expr::Comprehension(each) => replace(&mut each.iter_range, patterns),
        // Only short things stand in lists and maps.
        _ => Ok(()),
    }
}

fn one(pattern: &str) -> Result<Pattern, ExpressionError> {
    RegexBuilder::new(pattern)
        .size_limit(PATTERN_BYTES_MAX)
        .dfa_size_limit(PATTERN_BYTES_MAX)
        .build()
        .map(Pattern)
        .map_err(|error| ExpressionError::Pattern {
            pattern: pattern.chars().take(64).collect(),
            detail: match error {
                regex::Error::CompiledTooBig(limit) => {
                    format!("it takes more than {limit} bytes when compiled, make it shorter")
                }
                // The last line says what is wrong; those before it draw where.
                error => error
                    .to_string()
                    .lines()
                    .last()
                    .unwrap_or("it is no regular expression")
                    .to_owned(),
            },
        })
}
