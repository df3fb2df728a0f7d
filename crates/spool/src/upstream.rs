//! What is asked of whoever carries transactions to a server.

use std::future::Future;

use bytes::Bytes;
use thiserror::Error;

use crate::answer::Answer;

/// Under which name and numbers transactions are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Whose numbers these are: a ULID.
    pub id: String,
    /// The count that they belong to.
    pub epoch: u64,
    /// The number of the first transaction; each further one has the next.
    pub first: u64,
}

/// The servers, however they are spoken with: over HTTP, or over the network of a simulation.
pub trait Upstream: Send + Sync + 'static {
    /// Takes transactions.
    type Sending: Sending;
    /// Gives answers.
    type Answers: Answers;

    /// Begins to send transactions under these numbers, as soon as a server is known. What is not
    /// answered when a connection breaks is sent again under the same numbers, to any server, in
    /// order and for as long as somebody answers now and then.
    fn send(&self, numbers: Numbers)
    -> impl Future<Output = (Self::Sending, Self::Answers)> + Send;
}

/// Takes transactions to send. Dropped when no more will come.
pub trait Sending: Send + Sync {
    /// Takes one, and waits while too much is on its way.
    ///
    /// # Errors
    /// [`Ended`] when nothing more is sent: the answers say why.
    fn take(&self, line: Bytes) -> impl Future<Output = Result<(), Ended>> + Send;
}

/// Gives the answers to what was sent, in order. Dropped, nothing more is sent.
pub trait Answers: Send {
    /// The next one. `None` when everything is answered and no more will come, or after an error.
    ///
    /// # Errors
    /// When no server took what is not answered. It may have been taken all the same.
    fn next(&mut self) -> impl Future<Output = Option<Result<Answer, NoServer>>> + Send;
}

/// Nothing more is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("nothing more is sent")]
pub struct Ended;

/// No server takes what is sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct NoServer {
    /// Why, as a sentence.
    pub reason: String,
    /// Whether it may be different soon without anybody doing something.
    pub passes: bool,
}
