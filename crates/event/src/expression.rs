use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::types::CelString;
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, IdedExpr, Value};
use thiserror::Error;

use crate::frame_view::EventView;
use crate::patterns::{self, Pattern};
use crate::rules::Found;

/// How long an expression may be: 2 KiB of text.
pub const EXPRESSION_BYTES_MAX: usize = 2_048;

/// The stack of the thread that reads an expression. The parser recurses; 2 KiB of brackets need
/// more than a worker's stack.
const PARSER_STACK_BYTES: usize = 64 << 20;

/// The fields of an event, by the names that they bear on the wire.
const VARIABLES: [&str; 11] = [
    "Topic",
    "Type",
    "Key",
    "Namespace",
    "FilterKeys",
    "Index",
    "Id",
    "Time",
    "Node",
    "Source",
    "Payload",
];

/// The names of types, for `type(Payload.x) == int`.
const TYPE_NAMES: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];

/// How many loops (`exists`, `all`, `map`, `filter`) may stand within each other: with each, the
/// work grows by the size of the payload, and one more than this would be its square.
const LOOP_DEPTH_MAX: usize = 1;

/// How deeply an expression may be nested. Evaluating takes about 4 KiB of stack a level in an
/// unoptimised build, and a worker has 2 MiB.
const DEPTH_MAX: usize = 100;

/// How many times a value of a payload may be looked at for one event, all values together: an event
/// for which a filter might need more has no answer. A look takes 50 to 100 ns, so this is less than
/// half a second; a filter of ten comparisons is far from it even with the largest event.
const EVALUATION_LOOKS_MAX: usize = 4_000_000;

/// A condition on an event in the Common Expression Language, such as
/// `Type == "JobRegistered" && Payload.Job.Priority > 50`.
///
/// An event for which the expression has no answer (a field that it lacks, a comparison of unlike
/// types, more values to look at than is allowed) does not match.
///
/// ```text
/// text ──parse──▶ tree ──rules──▶ refused, or: patterns compiled, cost known ──▶ evaluated
/// ```
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    program: Arc<Program>,
}

struct Program {
    root: IdedExpr,
    patterns: Vec<Pattern>,
    reads_payload: bool,
    /// How often each value of a payload is looked at, at most.
    cost: usize,
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExpressionError {
    /// It is too long.
    #[error("the filter has {bytes} bytes: at most {EXPRESSION_BYTES_MAX} are allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// It is not CEL.
    #[error("the filter is not a valid CEL expression: {detail}")]
    Syntax {
        /// Where and how, from the parser.
        detail: String,
    },
    /// It names something that events do not have.
    #[error("the filter uses {name}, which events do not have: use one of {}", VARIABLES.join(", "))]
    UnknownVariable {
        /// The name.
        name: String,
    },
    /// Evaluating it could take more stack than there is.
    #[error(
        "the filter is nested {depth} levels deep: at most {DEPTH_MAX} are allowed, shorten its chains of operators"
    )]
    TooDeep {
        /// How deep it is.
        depth: usize,
    },
    /// It calls what is no function.
    #[error("the filter uses {name}, which is no function here: use one of {known}")]
    UnknownFunction {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// It calls a function as that cannot be called.
    #[error("the filter calls {name} with other arguments than it takes: write {usage}")]
    FunctionUse {
        /// The function.
        name: String,
        /// How it is called.
        usage: String,
    },
    /// It can be neither true nor false, so it would match nothing.
    #[error("the filter has {found} where it needs a condition: compare it, as in Key == \"web\"")]
    NotACondition {
        /// What it has instead.
        found: &'static str,
    },
    /// The result of one loop would be the range of another.
    #[error(
        "the filter loops over the result of a loop: a loop may go over a list of the event only, put both conditions into one loop"
    )]
    ChainedLoops,
    /// Inside a loop it would cost its size for each item.
    #[error(
        "the filter has {what} inside a loop: only the loop's variable, literals, short fields such as Key, comparisons and `in` with a literal list or a list of the variable are allowed there"
    )]
    InLoop {
        /// What stands there.
        what: &'static str,
    },
    /// A list or a map would hold copies of what may be large.
    #[error(
        "the filter writes a list or a map of things whose size is unknown: only literals, numbers and short fields such as Key are allowed in it"
    )]
    LongElement,
    /// Sums of lists or long texts are copies.
    #[error(
        "the filter has too many additions of unknown size: at most {limit} are allowed that are neither of numbers nor of short texts, write int(x) + int(y) for numbers"
    )]
    TooManyAdditions {
        /// How many there may be.
        limit: usize,
    },
    /// A pattern from an event could be anything, and would be compiled for each.
    #[error(
        "the filter calls matches with a pattern that is no literal: only a text such as \"^web-[0-9]+$\" is allowed"
    )]
    PatternNotLiteral,
    /// A pattern is no regular expression, or too large as one.
    #[error("the filter's pattern {pattern:?} is refused: {detail}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        detail: String,
    },
    /// Too many patterns.
    #[error("the filter has {count} patterns: at most {limit} are allowed, join them by |")]
    TooManyPatterns {
        /// How many it has.
        count: usize,
        /// How many it may have.
        limit: usize,
    },
    /// Loops within loops could keep a server busy with one event.
    #[error("the filter nests {depth} loops: at most {LOOP_DEPTH_MAX} may stand within each other")]
    LoopsTooDeep {
        /// How many it nests.
        depth: usize,
    },
}

/// The standard functions; building them costs tens of microseconds, so it is done once.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    patterns::declare(&mut environment);
    Arc::new(environment)
});

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// When it is too long, not CEL, names what events do not have, is no condition, or could cost
    /// more than reading its event.
    pub fn compile(text: &str) -> Result<Expression, ExpressionError> {
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(ExpressionError::TooLong { bytes: text.len() });
        }
        let source = text.to_owned();
        #[allow(clippy::disallowed_methods)] // a deep stack, not concurrency: it is joined at once
        let parser = std::thread::Builder::new()
            .name("cel-parser".into())
            .stack_size(PARSER_STACK_BYTES)
            .spawn(move || {
                ENVIRONMENT
                    .compile(&source)
                    .map(|program| {
                        let root = program.expression();
                        (Found::of(root), root.clone())
                    })
                    .map_err(|errors| errors.to_string())
            });
        let compiled = match parser.map(|thread| thread.join()) {
            Ok(Ok(compiled)) => compiled,
            Ok(Err(_)) => Err("the parser gave up on it".to_owned()),
            Err(source) => Err(format!("no thread could be started to read it ({source})")),
        };
        let (found, mut root) = compiled.map_err(|detail| ExpressionError::Syntax {
            detail: first_line(&detail),
        })?;
        let known = |name: &str| VARIABLES.contains(&name) || TYPE_NAMES.contains(&name);
        if let Some(name) = found.names.iter().find(|name| !known(name)) {
            return Err(ExpressionError::UnknownVariable { name: name.clone() });
        }
        if found.depth > DEPTH_MAX {
            return Err(ExpressionError::TooDeep { depth: found.depth });
        }
        if found.loop_depth > LOOP_DEPTH_MAX {
            return Err(ExpressionError::LoopsTooDeep {
                depth: found.loop_depth,
            });
        }
        if let Some(broken) = found.broken {
            return Err(broken);
        }
        let patterns = patterns::compile(&mut root)?;
        Ok(Expression {
            text: text.into(),
            program: Arc::new(Program {
                root,
                patterns,
                reads_payload: found.names.contains("Payload"),
                cost: found.cost,
            }),
        })
    }

    /// The text as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the expression is true of the event.
    pub fn matches(&self, event: &EventView<'_>) -> bool {
        let program = &*self.program;
        let payload = if program.reads_payload {
            let values = 1 + memchr::memchr_iter(b',', event.payload().as_bytes()).count();
            if values.saturating_mul(program.cost) > EVALUATION_LOOKS_MAX {
                return false;
            }
            let Ok(decoded) = serde_json::from_str::<serde_json::Value>(event.payload()) else {
                return false;
            };
            let Ok(value) = to_cel(decoded).try_into() else {
                return false;
            };
            Some(value)
        } else {
            None
        };
        let fields = Fields {
            event: *event,
            payload,
            patterns: &program.patterns,
        };
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.set_variable_resolver(&fields);
        matches!(
            Value::resolve(&program.root, &context),
            Ok(Value::Bool(true))
        )
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("no reason given").to_owned()
}

/// Numbers become signed where they can, so that they compare with the literals people write.
fn to_cel(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::Int(value),
            (None, Some(value)) => Value::UInt(value),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::String(Arc::new(text)),
        serde_json::Value::Array(items) => {
            Value::List(Arc::new(items.into_iter().map(to_cel).collect()))
        }
        serde_json::Value::Object(fields) => Value::Map(
            #[allow(clippy::disallowed_types)] // the engine's own type; nothing iterates over it
            fields
                .into_iter()
                .map(|(name, value)| (name, to_cel(value)))
                .collect::<std::collections::HashMap<String, Value>>()
                .into(),
        ),
    }
}

struct Fields<'a> {
    event: EventView<'a>,
    payload: Option<Box<dyn Val>>,
    patterns: &'a [Pattern],
}

impl VariableResolver for Fields<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let text = |text: std::borrow::Cow<'_, str>| {
            Some(CowVal::owned(CelString::from(text.into_owned())))
        };
        match variable {
            "Topic" => text(self.event.topic()),
            "Type" => text(self.event.type_()),
            "Key" => text(self.event.key()),
            "Namespace" => text(self.event.namespace()),
            "Id" => text(self.event.id()),
            "Time" => text(self.event.time().to_string().into()),
            "Node" => text(self.event.node()),
            "Source" => text(self.event.source()),
            "Index" => owned(Value::Int(
                i64::try_from(self.event.index().get()).unwrap_or(i64::MAX),
            )),
            "FilterKeys" => owned(Value::List(Arc::new(
                self.event
                    .filter_keys()
                    .into_iter()
                    .map(|key| Value::String(Arc::new(key.into_owned())))
                    .collect(),
            ))),
            "Payload" => self.payload.as_deref().map(CowVal::Borrowed),
            name => {
                let pattern = patterns::find(self.patterns, name)?;
                Some(CowVal::Borrowed(pattern))
            }
        }
    }
}

fn owned<'b>(value: Value) -> Option<CowVal<'b, 'b>> {
    value.try_into().ok().map(CowVal::Owned)
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}
