//! Messages that are passed on to where their sender may not reach.

use std::net::IpAddr;

use bytes::Bytes;

use super::kind;
use crate::name::Name;
use crate::wire::WireError;
use crate::wire::message::write_address;
use crate::wire::msgpack::{Reader, Writer};

/// A message that is to be passed on as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relay {
    /// The address that it goes to.
    pub addr: Option<IpAddr>,
    /// The port that it goes to.
    pub port: u16,
    /// The node that it goes to.
    pub node: Name,
    /// The message, its type byte included.
    pub message: Bytes,
}

impl Relay {
    pub(super) fn read(reader: &mut Reader) -> Result<Relay, WireError> {
        let mut relay = Relay::default();
        reader.structure(&["DestAddr", "DestName"], |reader, field| {
            if field == "DestName" {
                relay.node = reader.name()?;
                return Ok(());
            }
            reader.structure(&["IP", "Port", "Zone"], |reader, field| {
                match field {
                    "IP" => relay.addr = reader.address()?,
                    "Port" => relay.port = reader.uint("Port")?,
                    _ => reader.skip()?,
                }
                Ok(())
            })
        })?;
        relay.message = reader.rest().clone();
        // One that is wrapped again would go round for ever.
        match relay.message.first() {
            Some(&kind::RELAY) => Err(WireError::TooDeep { limit: 1 }),
            Some(_) => Ok(relay),
            None => Err(WireError::Empty),
        }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.map(2);
        writer.key("DestAddr").map(3);
        write_address(writer.key("IP"), self.addr);
        writer.key("Port").uint(self.port);
        writer.key("Zone").raw(b"");
        writer.key("DestName").raw(self.node.as_ref());
        writer.verbatim(&self.message);
    }
}
