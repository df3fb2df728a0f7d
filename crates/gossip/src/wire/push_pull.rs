//! What two nodes tell each other on a stream: all the nodes that they know.

use std::net::IpAddr;

use bytes::Bytes;

use super::WireError;
use super::message::{Versions, write_address};
use super::msgpack::{Reader, Writer};
use crate::name::Name;

/// Nodes in one exchange. The largest pool that was ever reported had 66,000.
pub const PUSH_PULL_NODES_MAX: usize = 1 << 17;

/// Bytes of the layer above in one exchange (memberlist: net.go `maxPushStateBytes`).
pub const USER_STATE_BYTES_MAX: usize = 20 << 20;

/// What a node is held for. Wire values: append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// It answers.
    #[default]
    Alive = 0,
    /// It did not answer somebody.
    Suspect = 1,
    /// It is gone.
    Dead = 2,
    /// It said that it goes.
    Left = 3,
}

impl State {
    /// Whether nobody expects an answer from it.
    pub fn is_gone(self) -> bool {
        matches!(self, State::Dead | State::Left)
    }
}

impl TryFrom<u8> for State {
    type Error = WireError;

    fn try_from(byte: u8) -> Result<State, WireError> {
        Ok(match byte {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Dead,
            3 => State::Left,
            found => {
                let what = "a node's state";
                return Err(WireError::UnknownType { what, found });
            }
        })
    }
}

/// One node, as the sender sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// The node.
    pub name: Name,
    /// Its address.
    pub addr: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// What the layer above says about it.
    pub meta: Bytes,
    /// Its newest announcement that is known.
    pub incarnation: u32,
    /// What it is held for.
    pub state: State,
    /// What it speaks.
    pub versions: Versions,
}

impl NodeState {
    pub(super) fn read(reader: &mut Reader) -> Result<NodeState, WireError> {
        let mut node = NodeState::default();
        let fields = [
            "Name",
            "Addr",
            "Port",
            "Meta",
            "Incarnation",
            "State",
            "Vsn",
        ];
        reader.structure(&fields, |reader, field| {
            match field {
                "Name" => node.name = reader.name()?,
                "Addr" => node.addr = reader.address()?,
                "Port" => node.port = reader.uint("Port")?,
                "Meta" => node.meta = reader.raw()?,
                "Incarnation" => node.incarnation = reader.uint("Incarnation")?,
                "State" => node.state = reader.uint::<u8>("State")?.try_into()?,
                _ => node.versions = Versions::read(reader)?,
            }
            Ok(())
        })?;
        Ok(node)
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.map(7);
        write_address(writer.key("Addr"), self.addr);
        writer.key("Incarnation").uint(self.incarnation);
        writer.key("Meta").raw_or_nil(&self.meta);
        writer.key("Name").raw(self.name.as_ref());
        writer.key("Port").uint(self.port);
        writer.key("State").uint(self.state as u8);
        self.versions.write(writer.key("Vsn"));
    }
}

/// All that one side of an exchange says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushPull {
    /// Whether the one who began the exchange is joining; the answer repeats it.
    pub join: bool,
    /// The nodes that it knows.
    pub nodes: Vec<NodeState>,
    /// What the layer above adds.
    pub user_state: Bytes,
}

/// What stands before the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) join: bool,
    pub(super) nodes: usize,
    pub(super) user_state_bytes: usize,
}

impl Header {
    pub(super) fn read(reader: &mut Reader) -> Result<Header, WireError> {
        let mut header = Header::default();
        reader.structure(&["Nodes", "UserStateLen", "Join"], |reader, field| {
            match field {
                "Nodes" => header.nodes = reader.uint("Nodes")?,
                "UserStateLen" => header.user_state_bytes = reader.uint("UserStateLen")?,
                _ => header.join = reader.bool()?,
            }
            Ok(())
        })?;
        for (what, length, limit) in [
            ("nodes in an exchange", header.nodes, PUSH_PULL_NODES_MAX),
            (
                "bytes of user state",
                header.user_state_bytes,
                USER_STATE_BYTES_MAX,
            ),
        ] {
            if length > limit {
                let (length, limit) = (length as u64, limit as u64);
                return Err(WireError::TooLong {
                    what,
                    length,
                    limit,
                });
            }
        }
        Ok(header)
    }
}

impl PushPull {
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.map(3);
        writer.key("Join").bool(self.join);
        writer.key("Nodes").uint(self.nodes.len() as u64);
        writer
            .key("UserStateLen")
            .uint(self.user_state.len() as u64);
        for node in &self.nodes {
            node.write(writer);
        }
        writer.verbatim(&self.user_state);
    }
}
