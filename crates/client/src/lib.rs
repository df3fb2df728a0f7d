//! The Rust client of a tidings agent's HTTP surface.
//!
//! ```text
//!                 ┌─ publish          one transaction, retried until acknowledged or given up
//!   Client ───────┼─ publish_stream   many transactions in flight, acknowledged in order
//!  (cheap clone)  ├─ stream           follows the timeline for ever: no loss, no repeats
//!                 ├─ state_*          entries: get, put, delete, list, watch
//!                 ├─ servers, …       who holds the timeline, and changes of that
//!                 └─ status, health
//! ```
//!
//! Two things make it more than an HTTP client. Every event that is published bears an id, so a
//! retry after a lost answer is the same event and not a second one. And a follower knows up to
//! which index it has seen *everything*, so it goes on after a broken connection exactly there.
//!
//! Several addresses are one cluster: a server that does not answer is left for another, and those
//! that were not given are learned from one that answers. Every server answers every request, so none
//! has to be known as the leader.

mod addresses;
mod backoff;
mod client;
mod config;
mod digests;
mod error;
mod frame_line;
mod health;
mod learn;
mod lines;
mod pass;
mod publish;
mod publish_stream;
mod servers;
mod snapshot;
mod state;
mod state_list;
mod state_watch;
mod status;
mod stream;
mod stream_request;
mod transaction;

pub use backoff::Backoff;
pub use client::Client;
pub use config::{ClientConfig, DEFAULT_ADDRESS, Token};
pub use digests::{DamagedFrame, DigestRequest, Digests};
pub use error::{ClientError, ConfigError, TransportCause, Tried};
pub use frame_line::FrameLine;
pub use health::Health;
pub use lines::LINE_BYTES_MAX;
pub use pass::{PassedAnswer, PassedRequest};
pub use publish::Published;
pub use publish_stream::{
    Acknowledgement, Acknowledgements, PublishStreamConfig, Refused, SenderNumbers, StreamClosed,
    TransactionSender,
};
pub use reqwest::Url;
pub use servers::{Server, Servers, ServersChanged};
pub use snapshot::{SaveFreshness, SaveRequest, SnapshotPieces, StateRestored};
pub use state::{Entry, PutOptions};
pub use state_list::{ListRequest, StatePage, StatePages};
pub use state_watch::{StateView, StateWatch};
pub use status::Status;
pub use stream::{EventStream, StreamEvent};
pub use stream_request::{From, StreamRequest};
pub use transaction::{Transaction, TransactionError};
