//! User events.

use bytes::Bytes;

use super::LamportTime;
use crate::name::Name;
use crate::wire::WireError;
use crate::wire::msgpack::{Reader, Writer};

/// Something happened, says somebody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserEvent {
    /// When it was sent.
    pub ltime: LamportTime,
    /// What it is called.
    pub name: Name,
    /// What it says.
    pub payload: Bytes,
    /// Whether of several with one name the last one is enough.
    pub coalesce: bool,
}

impl UserEvent {
    pub(super) fn read(reader: &mut Reader) -> Result<UserEvent, WireError> {
        let mut event = UserEvent::default();
        reader.structure(&["LTime", "Name", "Payload", "CC"], |reader, field| {
            match field {
                "LTime" => event.ltime = LamportTime::read(reader, "LTime")?,
                "Name" => event.name = reader.name()?,
                "Payload" => event.payload = reader.raw()?,
                _ => event.coalesce = reader.bool()?,
            }
            Ok(())
        })?;
        Ok(event)
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.map(4);
        writer.key("CC").bool(self.coalesce);
        writer.key("LTime").uint(self.ltime.0);
        writer.key("Name").raw(self.name.as_ref());
        writer.key("Payload").raw(&self.payload);
    }
}
