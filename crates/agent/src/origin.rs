use std::fmt;
use std::path::PathBuf;

/// Where a setting came from. Later ones win: default, file, environment, flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A configuration file; line and column count from 1.
    File {
        /// The file.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
    },
    /// An environment variable, by its name.
    Environment(String),
    /// A flag, with its dashes.
    Flag(String),
}

/// One thing that is wrong with the configuration: where, and a sentence that says what is wrong
/// and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {sentence}")]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// What is wrong and what would be right.
    pub sentence: String,
}

impl Origin {
    pub(crate) fn problem(self, sentence: String) -> Problem {
        Problem {
            origin: self,
            sentence,
        }
    }

    /// Position in a file, for ordering.
    pub(crate) fn line(&self) -> (usize, usize) {
        match self {
            Origin::File { line, column, .. } => (*line, *column),
            _ => (0, 0),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line, column } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}
