//! The messages of memberlist that fit a datagram.
//!
//! ```text
//! type u8 │ structure (msgpack)          user: type u8 │ bytes of the layer above
//! ```

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::WireError;
use super::msgpack::{Reader, Writer};
use crate::name::Name;

/// The first byte of a message. Wire values: append only.
pub(crate) mod kind {
    pub(crate) const PING: u8 = 0;
    pub(crate) const INDIRECT_PING: u8 = 1;
    pub(crate) const ACK: u8 = 2;
    pub(crate) const SUSPECT: u8 = 3;
    pub(crate) const ALIVE: u8 = 4;
    pub(crate) const DEAD: u8 = 5;
    pub(crate) const PUSH_PULL: u8 = 6;
    pub(crate) const COMPOUND: u8 = 7;
    pub(crate) const USER: u8 = 8;
    pub(crate) const COMPRESS: u8 = 9;
    pub(crate) const ENCRYPT: u8 = 10;
    pub(crate) const NACK: u8 = 11;
    pub(crate) const HAS_CRC: u8 = 12;
    pub(crate) const ERROR: u8 = 13;
    pub(crate) const HAS_LABEL: u8 = 244;
}

/// What a datagram holds, one or several.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Are you there?
    Ping(Ping),
    /// Is somebody else there?
    IndirectPing(IndirectPing),
    /// The answer to a ping.
    Ack(Ack),
    /// The helper's answer to an indirect ping that got none.
    Nack {
        /// The number of the indirect ping.
        seq: u32,
    },
    /// A node does not answer.
    Suspect(Accusation),
    /// A node says that it is there.
    Alive(Alive),
    /// A node is gone; when it says so itself, it has left.
    Dead(Accusation),
    /// A message of the layer above, its first byte included.
    User(Bytes),
}

/// Who asks, so that the answer goes to where that node listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Its address, when it says so.
    pub addr: Option<IpAddr>,
    /// Its port; 0 when it does not say.
    pub port: u16,
    /// Its name; empty when it does not say.
    pub node: Name,
}

impl Source {
    /// Where to answer: what the message says, or where the datagram came from.
    pub fn answer_to(&self, datagram_from: SocketAddr) -> SocketAddr {
        match self.addr {
            Some(addr) if self.port > 0 => SocketAddr::new(addr, self.port),
            _ => datagram_from,
        }
    }

    /// How many of its fields are written: empty ones are left out.
    fn fields(&self) -> usize {
        usize::from(self.addr.is_some())
            + usize::from(self.port > 0)
            + usize::from(!self.node.is_empty())
    }

    fn write(&self, writer: &mut Writer) {
        if let Some(addr) = self.addr {
            write_address(writer.key("SourceAddr"), Some(addr));
        }
        if !self.node.is_empty() {
            writer.key("SourceNode").raw(self.node.as_ref());
        }
        if self.port > 0 {
            writer.key("SourcePort").uint(self.port);
        }
    }

    fn read_field(&mut self, reader: &mut Reader, field: &str) -> Result<(), WireError> {
        match field {
            "SourceAddr" => self.addr = reader.address()?,
            "SourcePort" => self.port = reader.uint("SourcePort")?,
            "SourceNode" => self.node = reader.name()?,
            _ => reader.skip()?,
        }
        Ok(())
    }
}

/// Are you there?
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ping {
    /// Comes back in the answer.
    pub seq: u32,
    /// Whom it is for; empty for whoever is there.
    pub node: Name,
    /// Who asks.
    pub source: Source,
}

impl Ping {
    pub(super) fn read(reader: &mut Reader) -> Result<Ping, WireError> {
        let mut ping = Ping::default();
        let fields = ["SeqNo", "Node", "SourceAddr", "SourcePort", "SourceNode"];
        reader.structure(&fields, |reader, field| {
            match field {
                "SeqNo" => ping.seq = reader.uint("SeqNo")?,
                "Node" => ping.node = reader.name()?,
                other => ping.source.read_field(reader, other)?,
            }
            Ok(())
        })?;
        Ok(ping)
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.map(2 + self.source.fields());
        writer.key("Node").raw(self.node.as_ref());
        writer.key("SeqNo").uint(self.seq);
        self.source.write(writer);
    }
}

/// Is somebody else there?
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndirectPing {
    /// Comes back in the answer.
    pub seq: u32,
    /// The address of the one in question.
    pub target: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Its name.
    pub node: Name,
    /// Whether to answer, too, when it does not.
    pub nack: bool,
    /// Who asks.
    pub source: Source,
}

impl IndirectPing {
    fn read(reader: &mut Reader) -> Result<IndirectPing, WireError> {
        let mut ping = IndirectPing::default();
        let fields = [
            "SeqNo",
            "Target",
            "Port",
            "Node",
            "Nack",
            "SourceAddr",
            "SourcePort",
            "SourceNode",
        ];
        reader.structure(&fields, |reader, field| {
            match field {
                "SeqNo" => ping.seq = reader.uint("SeqNo")?,
                "Target" => ping.target = reader.address()?,
                "Port" => ping.port = reader.uint("Port")?,
                "Node" => ping.node = reader.name()?,
                "Nack" => ping.nack = reader.bool()?,
                other => ping.source.read_field(reader, other)?,
            }
            Ok(())
        })?;
        Ok(ping)
    }

    fn write(&self, writer: &mut Writer) {
        writer.map(5 + self.source.fields());
        writer.key("Nack").bool(self.nack);
        writer.key("Node").raw(self.node.as_ref());
        writer.key("Port").uint(self.port);
        writer.key("SeqNo").uint(self.seq);
        self.source.write(writer);
        write_address(writer.key("Target"), self.target);
    }
}

/// The answer to a ping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// The number of the ping.
    pub seq: u32,
    /// What the layer above adds; an answer that was relayed has none.
    pub payload: Option<Bytes>,
}

impl Ack {
    pub(super) fn read(reader: &mut Reader) -> Result<Ack, WireError> {
        let mut ack = Ack::default();
        reader.structure(&["SeqNo", "Payload"], |reader, field| {
            match field {
                "SeqNo" => ack.seq = reader.uint("SeqNo")?,
                _ if reader.take_nil()? => ack.payload = None,
                _ => ack.payload = Some(reader.raw()?),
            }
            Ok(())
        })?;
        Ok(ack)
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.map(2);
        match (&self.payload, writer.key("Payload")) {
            (Some(payload), writer) => writer.raw(payload),
            (None, writer) => writer.nil(),
        }
        writer.key("SeqNo").uint(self.seq);
    }
}

/// What is said about a node that does not answer, or is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accusation {
    /// Which of the node's own announcements it is about.
    pub incarnation: u32,
    /// The node.
    pub node: Name,
    /// Who says so.
    pub from: Name,
}

impl Accusation {
    fn read(reader: &mut Reader) -> Result<Accusation, WireError> {
        let mut said = Accusation::default();
        reader.structure(&["Incarnation", "Node", "From"], |reader, field| {
            match field {
                "Incarnation" => said.incarnation = reader.uint("Incarnation")?,
                "Node" => said.node = reader.name()?,
                _ => said.from = reader.name()?,
            }
            Ok(())
        })?;
        Ok(said)
    }

    fn write(&self, writer: &mut Writer) {
        writer.map(3);
        writer.key("From").raw(self.from.as_ref());
        writer.key("Incarnation").uint(self.incarnation);
        writer.key("Node").raw(self.node.as_ref());
    }
}

/// Which protocols a node speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// Oldest version of memberlist's protocol that it understands.
    pub protocol_min: u8,
    /// Newest version of memberlist's protocol that it understands.
    pub protocol_max: u8,
    /// The version that it speaks.
    pub protocol_current: u8,
    /// Oldest version of the layer above that it understands.
    pub delegate_min: u8,
    /// Newest version of the layer above that it understands.
    pub delegate_max: u8,
    /// The version of the layer above that it speaks.
    pub delegate_current: u8,
}

impl Versions {
    /// What Serf says of itself since its protocol 5.
    pub const SERF: Versions = Versions {
        protocol_min: 1,
        protocol_max: 5,
        protocol_current: 2,
        delegate_min: 2,
        delegate_max: 5,
        delegate_current: 5,
    };

    pub(super) fn read(reader: &mut Reader) -> Result<Versions, WireError> {
        // One that is short says nothing; checking versions refuses it later, as it must.
        let raw = reader.raw()?;
        Ok(<[u8; 6]>::try_from(&raw[..]).map_or_else(|_| Versions::default(), Versions::from))
    }

    pub(super) fn write(self, writer: &mut Writer) {
        writer.raw(&<[u8; 6]>::from(self));
    }
}

impl From<[u8; 6]> for Versions {
    fn from(bytes: [u8; 6]) -> Versions {
        let [
            protocol_min,
            protocol_max,
            protocol_current,
            delegate_min,
            delegate_max,
            delegate_current,
        ] = bytes;
        Versions {
            protocol_min,
            protocol_max,
            protocol_current,
            delegate_min,
            delegate_max,
            delegate_current,
        }
    }
}

impl From<Versions> for [u8; 6] {
    fn from(versions: Versions) -> [u8; 6] {
        [
            versions.protocol_min,
            versions.protocol_max,
            versions.protocol_current,
            versions.delegate_min,
            versions.delegate_max,
            versions.delegate_current,
        ]
    }
}

/// A node says that it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alive {
    /// Counted up by the node itself with every announcement that is to replace earlier ones.
    pub incarnation: u32,
    /// The node.
    pub node: Name,
    /// Its address.
    pub addr: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// What the layer above says about it.
    pub meta: Bytes,
    /// What it speaks.
    pub versions: Versions,
}

impl Alive {
    fn read(reader: &mut Reader) -> Result<Alive, WireError> {
        let mut alive = Alive::default();
        let fields = ["Incarnation", "Node", "Addr", "Port", "Meta", "Vsn"];
        reader.structure(&fields, |reader, field| {
            match field {
                "Incarnation" => alive.incarnation = reader.uint("Incarnation")?,
                "Node" => alive.node = reader.name()?,
                "Addr" => alive.addr = reader.address()?,
                "Port" => alive.port = reader.uint("Port")?,
                "Meta" => alive.meta = reader.raw()?,
                _ => alive.versions = Versions::read(reader)?,
            }
            Ok(())
        })?;
        Ok(alive)
    }

    fn write(&self, writer: &mut Writer) {
        writer.map(6);
        write_address(writer.key("Addr"), self.addr);
        writer.key("Incarnation").uint(self.incarnation);
        writer.key("Meta").raw_or_nil(&self.meta);
        writer.key("Node").raw(self.node.as_ref());
        writer.key("Port").uint(self.port);
        self.versions.write(writer.key("Vsn"));
    }
}

impl Message {
    /// Reads a message that is neither compound nor compressed.
    ///
    /// # Errors
    ///
    /// What stands there is no such message.
    pub fn decode(bytes: &Bytes) -> Result<Message, WireError> {
        let kind = *bytes.first().ok_or(WireError::Empty)?;
        let reader = &mut Reader::new(bytes.slice(1..));
        Ok(match kind {
            kind::PING => Message::Ping(Ping::read(reader)?),
            kind::INDIRECT_PING => Message::IndirectPing(IndirectPing::read(reader)?),
            kind::ACK => Message::Ack(Ack::read(reader)?),
            kind::NACK => Message::Nack {
                seq: Ack::read(reader)?.seq,
            },
            kind::SUSPECT => Message::Suspect(Accusation::read(reader)?),
            kind::ALIVE => Message::Alive(Alive::read(reader)?),
            kind::DEAD => Message::Dead(Accusation::read(reader)?),
            kind::USER => Message::User(reader.rest().clone()),
            kind::HAS_LABEL => return Err(WireError::Labelled),
            found => {
                let what = "a message in a datagram";
                return Err(WireError::UnknownType { what, found });
            }
        })
    }

    /// Its bytes, the type byte first.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_type(self.kind());
        match self {
            Message::Ping(ping) => ping.write(&mut writer),
            Message::IndirectPing(ping) => ping.write(&mut writer),
            Message::Ack(ack) => ack.write(&mut writer),
            Message::Nack { seq } => {
                writer.map(1);
                writer.key("SeqNo").uint(*seq);
            }
            Message::Suspect(said) | Message::Dead(said) => said.write(&mut writer),
            Message::Alive(alive) => alive.write(&mut writer),
            Message::User(bytes) => writer.verbatim(bytes),
        }
        Bytes::from(writer.into_bytes())
    }

    fn kind(&self) -> u8 {
        match self {
            Message::Ping(_) => kind::PING,
            Message::IndirectPing(_) => kind::INDIRECT_PING,
            Message::Ack(_) => kind::ACK,
            Message::Nack { .. } => kind::NACK,
            Message::Suspect(_) => kind::SUSPECT,
            Message::Alive(_) => kind::ALIVE,
            Message::Dead(_) => kind::DEAD,
            Message::User(_) => kind::USER,
        }
    }
}

/// 4 bytes for IPv4, 16 for IPv6, `nil` for none.
pub(super) fn write_address(writer: &mut Writer, addr: Option<IpAddr>) {
    match addr {
        Some(IpAddr::V4(four)) => writer.raw(&four.octets()),
        Some(IpAddr::V6(sixteen)) => writer.raw(&sixteen.octets()),
        None => writer.nil(),
    }
}
