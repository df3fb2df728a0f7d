use thiserror::Error;
use tidings_event::Index;

/// What became of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The transaction is a frame now.
    Published {
        /// Of the frame.
        index: Index,
    },
    /// The transaction had been published before, under the same Ids.
    Duplicate {
        /// Of the first time.
        index: Index,
    },
    /// The entry was written.
    Stored {
        /// Of the frame that tells of it.
        index: Index,
    },
    /// The entry was removed.
    Deleted {
        /// Of the frame that tells of it.
        index: Index,
    },
    /// A setting, a seal or a cut took effect; no frame tells of it.
    Done,
    /// Nothing was changed.
    Refused(Box<Refusal>),
}

impl Outcome {
    /// The index that answers the command, where there is one.
    pub fn index(&self) -> Option<Index> {
        match self {
            Outcome::Published { index }
            | Outcome::Duplicate { index }
            | Outcome::Stored { index }
            | Outcome::Deleted { index } => Some(*index),
            Outcome::Done | Outcome::Refused(_) => None,
        }
    }
}

/// Why a command changed nothing, though it was well formed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The entry is not as the caller thought.
    #[error("the entry's ModifyIndex is {current}, not {expected}: read it again and retry")]
    CasMismatch {
        /// What the caller gave.
        expected: u64,
        /// What it is; 0 when there is no such entry.
        current: u64,
    },
    /// There is nothing to delete.
    #[error("there is no such entry")]
    NoEntry,
    /// Some events of the transaction are known, others not.
    #[error(
        "some events of this transaction were published before (at index {index}), others not: \
         publish the new ones alone, or all again with the Ids that they had"
    )]
    PartlyDuplicate {
        /// Where the first known one is.
        index: Index,
    },
}

impl Refusal {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::CasMismatch { .. } => "cas_mismatch",
            Refusal::NoEntry => "no_entry",
            Refusal::PartlyDuplicate { .. } => "partly_duplicate",
        }
    }
}
