//! The other servers: how they are found, what is said to them, what is answered.
//!
//! ```text
//!  engine ──▶ network ──▶ link ──▶ connection ══ frames of messages ══▶ serve ──▶ engine, queue
//!  Replica ─▶ forward ──▶   │
//!                       me ─┴─ formation: greet everybody, form or join
//!                              lead: found, record settings, give votes
//! ```
//!
//! A connection has one direction: requests go out of the server that made it, answers come back
//! under their numbers. There are four to each server: what is urgent, what is much, what comes from
//! clients and whole snapshots do not wait for each other.

mod acquaintances;
mod change;
mod clocks;
mod connection;
mod convert;
mod discover;
mod formation;
mod forward;
mod frame;
mod keeper;
mod lead;
mod link;
mod me;
mod message;
mod network;
mod reception;
mod room;
mod serve;
mod standing;
mod tls;
mod transfer;
mod transport;
mod wire;

pub(crate) use change::Leadership;
pub(crate) use connection::CallError;
pub use discover::{DiscoverError, ServerInfo, discover, discover_over};
pub(crate) use formation::Formation;
pub(crate) use forward::Forwarder;
pub(crate) use keeper::Keeper;
pub(crate) use lead::Lead;
pub(crate) use link::Links;
pub(crate) use me::Me;
pub(crate) use message::{Change, Changed, List, Listed, Read, ReadAt, kind};
pub(crate) use reception::listen;
pub(crate) use serve::Service;
pub(crate) use standing::StandingWatch;
pub use tls::{PeersTls, TlsError};
pub(crate) use transfer::{Gathering, Receiver, SegmentRecord};
pub use transport::{PeerStream, TcpTransport, Transport};
