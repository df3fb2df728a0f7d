use thiserror::Error;
use tidings_timeline::Outcome;

/// What became of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The timeline has applied it.
    Outcome(Outcome),
    /// It is on the disk of an agent, which hands it to the timeline when a server can be reached.
    Spooled,
    /// A server refused it for what it is.
    Refused {
        /// Its code.
        code: String,
        /// Its sentence.
        message: String,
    },
}

/// Why nothing was taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotTaken {
    /// The spool keeps as much as it may.
    #[error("the spool is full ({bytes} bytes, at most {limit})")]
    Full {
        /// What it keeps.
        bytes: u64,
        /// What it may.
        limit: u64,
    },
    /// The disk is slower than what comes.
    #[error("more waits for the disk than is kept in memory")]
    Busy,
    /// The disk takes nothing.
    #[error("the spool cannot be written: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

/// The disk failed before anybody knew what becomes of what was taken: it may reach the timeline, or
/// not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("nobody knows what becomes of it: {reason}")]
pub struct Unknown {
    /// How it failed.
    pub reason: String,
}
