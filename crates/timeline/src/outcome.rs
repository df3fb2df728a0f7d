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
    /// The transaction had been published before, under the same Ids or the same number of its
    /// sender.
    Duplicate {
        /// Of the first time. [`Index::ZERO`] for a number so long ago that its index is not
        /// remembered.
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
    /// What is between was not taken, and never could be after this.
    #[error(
        "transaction {number} of the sender's epoch comes before its transaction {expected}: send all from {expected} on, or begin a new epoch with 1"
    )]
    SenderGap {
        /// The next number.
        expected: u64,
        /// The one that came.
        number: u64,
    },
    /// It may have been taken already by those who have forgotten.
    #[error(
        "the sender is not known (any more) and its epoch {epoch} began too long ago to be sure that nothing of it was taken: begin a new epoch, by a clock that is right"
    )]
    SenderForgotten {
        /// When it began, in microseconds since 1970.
        epoch: u64,
    },
    /// The sender's clock is wrong.
    #[error(
        "the sender's epoch {epoch} is in the future, more than a day: set its clock, then begin a new epoch"
    )]
    SenderAhead {
        /// When it is to begin, in microseconds since 1970.
        epoch: u64,
    },
    /// No more can be remembered.
    #[error(
        "{limit} senders are remembered, as many as are allowed: one is forgotten when it was silent for 30 days"
    )]
    TooManySenders {
        /// How many.
        limit: u64,
    },
}

impl Refusal {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::CasMismatch { .. } => "cas_mismatch",
            Refusal::NoEntry => "no_entry",
            Refusal::PartlyDuplicate { .. } => "partly_duplicate",
            Refusal::SenderGap { .. } => "sender_gap",
            Refusal::SenderForgotten { .. } => "sender_forgotten",
            Refusal::SenderAhead { .. } => "sender_ahead",
            Refusal::TooManySenders { .. } => "too_many_senders",
        }
    }
}
