use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::digest::RouteHash;
use crate::json_text::{push_json_string, push_minified};
use crate::timestamp::TimeText;
use crate::wire_event::{self, Form};
use crate::{EventError, Limits, Timestamp};

/// An event as a publisher hands it in, borrowed from the request where possible.
///
/// `Topic` and `Type` are required; the rest has defaults. An `Index` is accepted and ignored, so
/// that events taken from a stream can be published again.
#[derive(Clone, Debug)]
pub struct NewEvent<'a> {
    /// What it is about: `Job`, `Volume`, `UserEvent` … Without `:` and not `*`, so that it can be
    /// subscribed to.
    pub topic: Cow<'a, str>,
    /// What happened: `JobRegistered` …
    pub r#type: Cow<'a, str>,
    /// Which one; may be empty.
    pub key: Cow<'a, str>,
    /// Whose; empty for things that belong to no namespace.
    pub namespace: Cow<'a, str>,
    /// Further keys under which it is found. `None` is written as `null`.
    pub filter_keys: Option<Vec<Cow<'a, str>>>,
    /// The publisher's own id: the same again is recognised as a repeat.
    pub id: Option<Cow<'a, str>>,
    /// When it happened, by the publisher's clock.
    pub time: Option<Timestamp>,
    /// The node where it happened.
    pub node: Option<Cow<'a, str>>,
    /// The program that told.
    pub source: Option<Cow<'a, str>>,
    /// An object or null, kept as given.
    pub payload: Cow<'a, RawValue>,
}

/// What an event bears where its publisher said nothing.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// For `Time`.
    pub time: &'a TimeText,
    /// For `Id`.
    pub id: &'a str,
    /// For `Node`.
    pub node: &'a str,
    /// For `Source`.
    pub source: &'a str,
}

/// The hashes by which an event is routed: its topic, then its key, then its filter keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventHashes {
    /// Of the topic.
    pub topic: RouteHash,
    /// Of the key.
    pub key: RouteHash,
    /// Of each filter key.
    pub filter_keys: Vec<RouteHash>,
}

impl<'a> NewEvent<'a> {
    /// Reads one event object.
    ///
    /// # Errors
    /// [`EventError::Malformed`] with the place and the reason; unknown fields are errors too.
    pub fn parse(json: &'a [u8]) -> Result<NewEvent<'a>, EventError> {
        let limits = Limits {
            filter_keys: usize::MAX,
            ..Limits::default()
        };
        wire_event::read_event(json, &limits)
    }

    /// Reads `{"Events":[…]}`.
    ///
    /// # Errors
    /// As [`NewEvent::parse`], and when there are no events or more than the limits allow.
    pub fn parse_transaction(
        json: &'a [u8],
        limits: &Limits,
    ) -> Result<Vec<NewEvent<'a>>, EventError> {
        wire_event::read_events(json, Form::Transaction, limits)
    }

    /// Reads a line of a stream of transactions: `{"Events":[…]}`, or one bare event.
    ///
    /// # Errors
    /// As [`NewEvent::parse_transaction`].
    pub fn parse_line(json: &'a [u8], limits: &Limits) -> Result<Vec<NewEvent<'a>>, EventError> {
        wire_event::read_events(json, Form::Line, limits)
    }

    /// Checks everything but the event's total size and its payload's depth, which
    /// [`NewEvent::push_body`] sees.
    ///
    /// # Errors
    /// The first rule that the event breaks.
    pub fn check(&self, limits: &Limits) -> Result<(), EventError> {
        for (field, text, allowed) in [
            (
                "Topic",
                &self.topic,
                "use letters, digits and punctuation other than ':'",
            ),
            ("Type", &self.r#type, "use printable text"),
        ] {
            if text.is_empty() {
                return Err(EventError::Missing { field });
            }
            check_text(field, text, limits.name_bytes, allowed)?;
        }
        if self.topic.contains(':') || self.topic == "*" {
            return Err(EventError::FieldText {
                field: "Topic",
                value: beginning(&self.topic),
                found: if self.topic == "*" {
                    "the wildcard"
                } else {
                    "a colon"
                },
                allowed: "subscribers separate topic and key by ':' and ask for all by '*', use other text",
            });
        }
        check_text(
            "Namespace",
            &self.namespace,
            limits.name_bytes,
            "use printable text",
        )?;
        if self.namespace == "*" {
            return Err(EventError::FieldText {
                field: "Namespace",
                value: beginning(&self.namespace),
                found: "the wildcard",
                allowed: "name one namespace, or none",
            });
        }
        check_text("Key", &self.key, limits.key_bytes, "use printable text")?;
        if let Some(keys) = &self.filter_keys {
            if keys.len() > limits.filter_keys {
                return Err(EventError::TooManyFilterKeys {
                    limit: limits.filter_keys,
                });
            }
            for key in keys {
                check_text("FilterKeys", key, limits.key_bytes, "use printable text")?;
            }
        }
        for (field, text) in [
            ("Id", &self.id),
            ("Node", &self.node),
            ("Source", &self.source),
        ] {
            if let Some(text) = text {
                check_text(field, text, limits.id_bytes, "use printable text")?;
            }
        }
        if self.id.as_deref() == Some("") {
            return Err(EventError::Missing {
                field: "Id text (leave Id out to be given one)",
            });
        }
        match self.payload.get().trim_start().as_bytes().first() {
            Some(b'{' | b'n') => Ok(()),
            Some(b'[') => Err(EventError::PayloadKind { found: "an array" }),
            Some(b'"') => Err(EventError::PayloadKind { found: "a string" }),
            Some(b't' | b'f') => Err(EventError::PayloadKind { found: "a boolean" }),
            _ => Err(EventError::PayloadKind { found: "a number" }),
        }
    }

    /// Appends the event body: everything of the event's object that follows its index, up to and
    /// including its closing brace.
    ///
    /// # Errors
    /// [`EventError::EventTooLarge`] and [`EventError::PayloadDepth`]; `out` is then as before.
    pub fn push_body(
        &self,
        stamp: &Stamp<'_>,
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Result<(), EventError> {
        let start = out.len();
        let pushed = self.push_body_unchecked(stamp, limits, out).and_then(|()| {
            let bytes = out.len() - start;
            if bytes > limits.event_bytes {
                return Err(EventError::EventTooLarge {
                    bytes,
                    limit: limits.event_bytes,
                });
            }
            Ok(())
        });
        if pushed.is_err() {
            out.truncate(start);
        }
        pushed
    }

    fn push_body_unchecked(
        &self,
        stamp: &Stamp<'_>,
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Result<(), EventError> {
        out.reserve(self.payload.get().len() + 256);
        for (name, text) in [
            (&b"\"Topic\":"[..], &*self.topic),
            (b",\"Type\":", &self.r#type),
            (b",\"Key\":", &self.key),
            (b",\"Namespace\":", &self.namespace),
        ] {
            out.extend_from_slice(name);
            push_json_string(text, out);
        }
        out.extend_from_slice(b",\"FilterKeys\":");
        match &self.filter_keys {
            None => out.extend_from_slice(b"null"),
            Some(keys) => {
                out.push(b'[');
                for (at, key) in keys.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    push_json_string(key, out);
                }
                out.push(b']');
            }
        }
        out.extend_from_slice(b",\"Id\":");
        push_json_string(self.id.as_deref().unwrap_or(stamp.id), out);
        out.extend_from_slice(b",\"Time\":\"");
        match self.time {
            None => out.extend_from_slice(stamp.time),
            Some(time) => out.extend_from_slice(&time.text()),
        }
        out.extend_from_slice(b"\",\"Node\":");
        push_json_string(self.node.as_deref().unwrap_or(stamp.node), out);
        out.extend_from_slice(b",\"Source\":");
        push_json_string(self.source.as_deref().unwrap_or(stamp.source), out);
        out.extend_from_slice(b",\"Payload\":");
        push_minified(self.payload.get(), limits.payload_depth, out)?;
        out.push(b'}');
        Ok(())
    }

    /// The hashes by which the event is routed.
    pub fn hashes(&self) -> EventHashes {
        EventHashes {
            topic: RouteHash::of_text(&self.topic),
            key: RouteHash::of_text(&self.key),
            filter_keys: self
                .filter_keys
                .iter()
                .flatten()
                .map(|key| RouteHash::of_text(key))
                .collect(),
        }
    }
}

/// The beginning of a refused text, for the sentence about it.
pub(crate) fn beginning(text: &str) -> String {
    text.chars().take(64).collect()
}

fn check_text(
    field: &'static str,
    text: &str,
    limit: usize,
    allowed: &'static str,
) -> Result<(), EventError> {
    if text.len() > limit {
        return Err(EventError::FieldTooLong {
            field,
            bytes: text.len(),
            limit,
        });
    }
    let control = text.bytes().fold(false, |control, byte| {
        control | (byte < 0x20) | (byte == 0x7f)
    });
    if control {
        return Err(EventError::FieldText {
            field,
            value: beginning(text),
            found: "a control character",
            allowed,
        });
    }
    Ok(())
}

/// A string borrowed from the request unless it has escapes. serde borrows a bare `Cow` only as a
/// field of its own, not inside `Option` and `Vec`.
#[derive(Clone, Debug)]
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl Serialize for NewEvent<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("Topic", &self.topic)?;
        map.serialize_entry("Type", &self.r#type)?;
        map.serialize_entry("Key", &self.key)?;
        map.serialize_entry("Namespace", &self.namespace)?;
        if let Some(keys) = &self.filter_keys {
            map.serialize_entry("FilterKeys", keys)?;
        }
        if let Some(id) = &self.id {
            map.serialize_entry("Id", id)?;
        }
        if let Some(time) = &self.time {
            map.serialize_entry("Time", time)?;
        }
        if let Some(node) = &self.node {
            map.serialize_entry("Node", node)?;
        }
        if let Some(source) = &self.source {
            map.serialize_entry("Source", source)?;
        }
        map.serialize_entry("Payload", &*self.payload)?;
        map.end()
    }
}
