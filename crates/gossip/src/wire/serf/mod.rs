//! Serf's messages: what memberlist carries for it, as user messages, user state and meta.

mod coordinate;
mod event;
mod keys;
mod member;
mod query;
mod relay;
mod state;
mod tags;

use bytes::Bytes;

use super::WireError;
use super::msgpack::{Reader, Writer};
use crate::name::Name;

pub use coordinate::{COORDINATE_DIMENSIONS, Coordinate};
pub use event::UserEvent;
pub use keys::{KeyRequest, KeyResponse};
pub use member::{ConflictResponse, MemberRecord, MemberStatus};
pub use query::{Filter, Query, QueryFlags, QueryResponse};
pub use relay::Relay;
pub use state::{EventSlot, SerfState};
pub use tags::{META_BYTES_MAX, Tags, TagsError};

/// The first byte of a message. Wire values: append only.
mod kind {
    pub(super) const LEAVE: u8 = 0;
    pub(super) const JOIN: u8 = 1;
    pub(super) const PUSH_PULL: u8 = 2;
    pub(super) const USER_EVENT: u8 = 3;
    pub(super) const QUERY: u8 = 4;
    pub(super) const QUERY_RESPONSE: u8 = 5;
    pub(super) const CONFLICT_RESPONSE: u8 = 6;
    pub(super) const KEY_REQUEST: u8 = 7;
    pub(super) const KEY_RESPONSE: u8 = 8;
    pub(super) const RELAY: u8 = 9;
}

/// A moment of one of Serf's logical clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LamportTime(pub u64);

impl LamportTime {
    fn read(reader: &mut Reader, field: &'static str) -> Result<LamportTime, WireError> {
        reader.uint(field).map(LamportTime)
    }
}

impl std::fmt::Display for LamportTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// That a node means to be a member, or means to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// When it was said.
    pub ltime: LamportTime,
    /// The node.
    pub node: Name,
    /// When it leaves: that it is to be forgotten at once.
    pub prune: bool,
}

/// A message of Serf.
#[derive(Clone, Debug, PartialEq)]
pub enum SerfMessage {
    /// A node means to leave.
    Leave(Intent),
    /// A node means to be a member.
    Join(Intent),
    /// What a node knows, in an exchange on a stream.
    State(SerfState),
    /// Something happened.
    UserEvent(UserEvent),
    /// A question to all.
    Query(Query),
    /// Somebody's answer to it.
    QueryResponse(QueryResponse),
    /// A message that is to be passed on.
    Relay(Relay),
}

impl SerfMessage {
    /// Reads the bytes of a user message, or of a user state.
    ///
    /// # Errors
    ///
    /// What stands there is no message of Serf.
    pub fn decode(bytes: &Bytes) -> Result<SerfMessage, WireError> {
        let kind = *bytes.first().ok_or(WireError::Empty)?;
        let reader = &mut Reader::new(bytes.slice(1..));
        Ok(match kind {
            kind::LEAVE => SerfMessage::Leave(Intent::read(reader)?),
            kind::JOIN => SerfMessage::Join(Intent::read(reader)?),
            kind::PUSH_PULL => SerfMessage::State(SerfState::read(reader)?),
            kind::USER_EVENT => SerfMessage::UserEvent(UserEvent::read(reader)?),
            kind::QUERY => SerfMessage::Query(Query::read(reader)?),
            kind::QUERY_RESPONSE => SerfMessage::QueryResponse(QueryResponse::read(reader)?),
            kind::RELAY => SerfMessage::Relay(Relay::read(reader)?),
            found => {
                let what = "a message of Serf";
                return Err(WireError::UnknownType { what, found });
            }
        })
    }

    /// Its bytes, the type byte first.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_type(match self {
            SerfMessage::Leave(_) => kind::LEAVE,
            SerfMessage::Join(_) => kind::JOIN,
            SerfMessage::State(_) => kind::PUSH_PULL,
            SerfMessage::UserEvent(_) => kind::USER_EVENT,
            SerfMessage::Query(_) => kind::QUERY,
            SerfMessage::QueryResponse(_) => kind::QUERY_RESPONSE,
            SerfMessage::Relay(_) => kind::RELAY,
        });
        match self {
            SerfMessage::Leave(intent) => intent.write(&mut writer, true),
            SerfMessage::Join(intent) => intent.write(&mut writer, false),
            SerfMessage::State(state) => state.write(&mut writer),
            SerfMessage::UserEvent(event) => event.write(&mut writer),
            SerfMessage::Query(query) => query.write(&mut writer),
            SerfMessage::QueryResponse(response) => response.write(&mut writer),
            SerfMessage::Relay(relay) => relay.write(&mut writer),
        }
        Bytes::from(writer.into_bytes())
    }
}

impl Intent {
    fn read(reader: &mut Reader) -> Result<Intent, WireError> {
        let mut intent = Intent::default();
        reader.structure(&["LTime", "Node", "Prune"], |reader, field| {
            match field {
                "LTime" => intent.ltime = LamportTime::read(reader, "LTime")?,
                "Node" => intent.node = reader.name()?,
                _ => intent.prune = reader.bool()?,
            }
            Ok(())
        })?;
        Ok(intent)
    }

    fn write(&self, writer: &mut Writer, with_prune: bool) {
        writer.map(2 + usize::from(with_prune));
        writer.key("LTime").uint(self.ltime.0);
        writer.key("Node").raw(self.node.as_ref());
        if with_prune {
            writer.key("Prune").bool(self.prune);
        }
    }
}

/// Checks the type byte of what travels as the payload of a query, and reads what follows it.
fn read_payload<T>(
    bytes: &Bytes,
    kind: u8,
    what: &'static str,
    read: impl FnOnce(&mut Reader) -> Result<T, WireError>,
) -> Result<T, WireError> {
    match bytes.first() {
        Some(&first) if first == kind => read(&mut Reader::new(bytes.slice(1..))),
        Some(&found) => Err(WireError::UnknownType { what, found }),
        None => Err(WireError::Empty),
    }
}
