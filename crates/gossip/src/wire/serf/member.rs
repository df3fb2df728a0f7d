//! A member as it is told of when two bear one name.

use std::net::IpAddr;

use bytes::Bytes;

use super::tags::Tags;
use super::{kind, read_payload};
use crate::name::Name;
use crate::wire::WireError;
use crate::wire::message::{Versions, write_address};
use crate::wire::msgpack::{Reader, Writer};

/// What a member is held for. Wire values: append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MemberStatus {
    /// Nothing is known.
    #[default]
    None = 0,
    /// It is there.
    Alive = 1,
    /// It has said that it leaves.
    Leaving = 2,
    /// It has left.
    Left = 3,
    /// It is gone without a word.
    Failed = 4,
}

impl MemberStatus {
    /// The word that Serf's tools use.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberStatus::None => "none",
            MemberStatus::Alive => "alive",
            MemberStatus::Leaving => "leaving",
            MemberStatus::Left => "left",
            MemberStatus::Failed => "failed",
        }
    }

    fn read(reader: &mut Reader) -> Result<MemberStatus, WireError> {
        Ok(match reader.uint::<u8>("Status")? {
            0 => MemberStatus::None,
            1 => MemberStatus::Alive,
            2 => MemberStatus::Leaving,
            3 => MemberStatus::Left,
            4 => MemberStatus::Failed,
            found => {
                let what = "a member's status";
                return Err(WireError::UnknownType { what, found });
            }
        })
    }
}

/// A member, as somebody sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its name.
    pub name: Name,
    /// Its address.
    pub addr: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Its tags.
    pub tags: Tags,
    /// What it is held for.
    pub status: MemberStatus,
    /// What it speaks.
    pub versions: Versions,
}

/// The answer to the question whom one believes to bear a name: a member, or nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConflictResponse(pub Option<MemberRecord>);

impl ConflictResponse {
    /// Reads a query's answer.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn decode(bytes: &Bytes) -> Result<ConflictResponse, WireError> {
        let what = "a conflict response";
        read_payload(bytes, kind::CONFLICT_RESPONSE, what, |reader| {
            if reader.take_nil()? {
                return Ok(ConflictResponse(None));
            }
            MemberRecord::read(reader).map(|member| ConflictResponse(Some(member)))
        })
    }

    /// Its bytes, the type byte first.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_type(kind::CONFLICT_RESPONSE);
        match &self.0 {
            Some(member) => member.write(&mut writer),
            None => writer.nil(),
        }
        Bytes::from(writer.into_bytes())
    }
}

impl MemberRecord {
    fn read(reader: &mut Reader) -> Result<MemberRecord, WireError> {
        let mut member = MemberRecord::default();
        let fields = [
            "Name",
            "Addr",
            "Port",
            "Tags",
            "Status",
            "ProtocolMin",
            "ProtocolMax",
            "ProtocolCur",
            "DelegateMin",
            "DelegateMax",
            "DelegateCur",
        ];
        reader.structure(&fields, |reader, field| {
            let versions = &mut member.versions;
            match field {
                "Name" => member.name = reader.name()?,
                "Addr" => member.addr = reader.address()?,
                "Port" => member.port = reader.uint("Port")?,
                "Tags" => member.tags = Tags::read(reader)?,
                "Status" => member.status = MemberStatus::read(reader)?,
                "ProtocolMin" => versions.protocol_min = reader.uint("ProtocolMin")?,
                "ProtocolMax" => versions.protocol_max = reader.uint("ProtocolMax")?,
                "ProtocolCur" => versions.protocol_current = reader.uint("ProtocolCur")?,
                "DelegateMin" => versions.delegate_min = reader.uint("DelegateMin")?,
                "DelegateMax" => versions.delegate_max = reader.uint("DelegateMax")?,
                _ => versions.delegate_current = reader.uint("DelegateCur")?,
            }
            Ok(())
        })?;
        Ok(member)
    }

    fn write(&self, writer: &mut Writer) {
        writer.map(11);
        write_address(writer.key("Addr"), self.addr);
        writer
            .key("DelegateCur")
            .uint(self.versions.delegate_current);
        writer.key("DelegateMax").uint(self.versions.delegate_max);
        writer.key("DelegateMin").uint(self.versions.delegate_min);
        writer.key("Name").raw(self.name.as_ref());
        writer.key("Port").uint(self.port);
        writer
            .key("ProtocolCur")
            .uint(self.versions.protocol_current);
        writer.key("ProtocolMax").uint(self.versions.protocol_max);
        writer.key("ProtocolMin").uint(self.versions.protocol_min);
        writer.key("Status").uint(self.status as u8);
        self.tags.write(writer.key("Tags"));
    }
}
