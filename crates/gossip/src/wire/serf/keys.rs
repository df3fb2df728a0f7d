//! Changing the keys of all members by a query.

use bytes::Bytes;

use super::{kind, read_payload};
use crate::name::Name;
use crate::wire::msgpack::{Reader, Writer};
use crate::wire::{KEYS_MAX, WireError};

/// Keys in an answer: more than our own ring holds, so that others' are read.
const RESPONSE_KEYS_MAX: usize = 64 * KEYS_MAX;

/// The key that a query is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRequest {
    /// The key itself; empty when keys are listed.
    pub key: Bytes,
}

impl KeyRequest {
    /// Reads a query's payload.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn decode(bytes: &Bytes) -> Result<KeyRequest, WireError> {
        read_payload(bytes, kind::KEY_REQUEST, "a key request", |reader| {
            let mut request = KeyRequest::default();
            reader.structure(&["Key"], |reader, _| {
                request.key = reader.raw()?;
                Ok(())
            })?;
            Ok(request)
        })
    }

    /// Its bytes, the type byte first.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_type(kind::KEY_REQUEST);
        writer.map(1);
        writer.key("Key").raw_or_nil(&self.key);
        Bytes::from(writer.into_bytes())
    }
}

/// What a member says of its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyResponse {
    /// Whether it did what was asked.
    pub done: bool,
    /// Why not, or what else there is to say.
    pub message: Name,
    /// Its keys in base64, when they were asked for.
    pub keys: Vec<Name>,
    /// Its primary key in base64, when keys were asked for.
    pub primary: Name,
}

impl KeyResponse {
    /// Reads a query's answer.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn decode(bytes: &Bytes) -> Result<KeyResponse, WireError> {
        read_payload(bytes, kind::KEY_RESPONSE, "a key response", |reader| {
            let mut response = KeyResponse::default();
            let fields = ["Result", "Message", "Keys", "PrimaryKey"];
            reader.structure(&fields, |reader, field| {
                match field {
                    "Result" => response.done = reader.bool()?,
                    "Message" => response.message = reader.name()?,
                    "Keys" => {
                        response.keys = reader.list("keys", RESPONSE_KEYS_MAX, Reader::name)?;
                    }
                    _ => response.primary = reader.name()?,
                }
                Ok(())
            })?;
            Ok(response)
        })
    }

    /// Its bytes, the type byte first.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_type(kind::KEY_RESPONSE);
        writer.map(4);
        writer.key("Keys");
        if self.keys.is_empty() {
            writer.nil();
        } else {
            writer.array(self.keys.len());
            for key in &self.keys {
                writer.raw(key.as_ref());
            }
        }
        writer.key("Message").raw(self.message.as_ref());
        writer.key("PrimaryKey").raw(self.primary.as_ref());
        writer.key("Result").bool(self.done);
        Bytes::from(writer.into_bytes())
    }
}
