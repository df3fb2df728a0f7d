//! What travels between nodes, byte for byte.
//!
//! ```text
//! datagram ─▶ open_packet  ─▶ Message …         Message … ─▶ seal_packet ─▶ datagram
//! stream   ─▶ StreamReader ─▶ StreamMessage     StreamMessage::encode    ─▶ stream
//! Message::User ─▶ serf::SerfMessage::decode, and back by its `encode`
//! ```
//!
//! Whatever is read shares the memory of the bytes that it came in; whoever keeps a small part of it
//! for long copies that part.

mod compress;
mod error;
mod keyring;
mod message;
mod msgpack;
mod packet;
mod push_pull;
pub mod serf;
mod stream;

pub use error::WireError;
pub use keyring::{ENCRYPTION_OVERHEAD_BYTES, KEYS_MAX, Keyring, KeyringError};
pub use message::{Accusation, Ack, Alive, IndirectPing, Message, Ping, Source, Versions};
pub use packet::{
    COMPOUND_HEAD_BYTES, COMPOUND_PART_BYTES, COMPOUND_PARTS_MAX, OpenedPacket, PacketOptions,
    open_packet, seal_packet,
};
pub use push_pull::{NodeState, PUSH_PULL_NODES_MAX, PushPull, State, USER_STATE_BYTES_MAX};
pub use stream::{StreamMessage, StreamOptions, StreamReader};
