//! Events as CloudEvents 1.0 in structured JSON, and back.
//!
//! | event      | CloudEvent |
//! | ---------- | ---------- |
//! | Id         | `id`; for an event of another origin, `source#id`, which that format says is unique, or a hash of it when it is longer than 128 bytes |
//! | Node, Source | `source` = `tidings://NODE/SOURCE`, and the attributes `node`, `origin` |
//! | Topic, Type | `type` = `TOPIC.TYPE`, and the attributes `topic`, `eventtype` |
//! | Key        | `subject` |
//! | Time       | `time` |
//! | Namespace  | the attribute `namespace` |
//! | FilterKeys | the attribute `filterkeys`: a JSON list as text |
//! | Index      | the attribute `index`: digits as text, since integers there end at 2³¹ |
//! | Payload    | `data` |
//!
//! Coming in, a CloudEvent without our attributes gets the topic `CloudEvent`, its `type` as Type,
//! its `subject` as Key and its `source` as Source. Data that is no object becomes `{"data": …}`;
//! attributes that have no place in an event are kept in the payload beside it, under `attributes`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_128;

use crate::frame_view::EventView;
use crate::json_text::push_json_string;
use crate::new_event::Text;
use crate::wire_event::{Bounds, Guarded};
use crate::{DEFAULT_NAMESPACE, EventError, Limits, NewEvent};

/// What marks a `source` as our own.
const OWN_SOURCE: &str = "tidings://";
/// The topic of CloudEvents that name none.
const DEFAULT_TOPIC: &str = "CloudEvent";
/// The default limit of an Id: longer ones are hashed.
const ID_BYTES_MAX: usize = 128;
/// Attributes of one CloudEvent, its own extensions included. The specification asks for few.
const ATTRIBUTES_MAX: usize = 256;

/// One event as one JSON object, without a newline.
pub fn to_cloudevent(event: &EventView<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.raw().len() + 256);
    let mut field = |name: &str, text: &str| {
        push_json_string(name, &mut out);
        out.push(b':');
        push_json_string(text, &mut out);
        out.push(b',');
    };
    let (node, source) = (event.node(), event.source());
    let key = event.key();
    field("specversion", "1.0");
    field("id", &event.id());
    field(
        "source",
        &format!("{OWN_SOURCE}{}/{}", uri_part(&node), uri_part(&source)),
    );
    field("type", &format!("{}.{}", event.topic(), event.type_()));
    if !key.is_empty() {
        field("subject", &key);
    }
    field("time", &event.time().to_string());
    field("datacontenttype", "application/json");
    field("topic", &event.topic());
    field("eventtype", &event.type_());
    // Attributes may not be empty text: an absent one stands for it.
    for (name, text) in [
        ("namespace", event.namespace()),
        ("node", node),
        ("origin", source),
    ] {
        if !text.is_empty() {
            field(name, &text);
        }
    }
    if !event.has_null_filter_keys() {
        let keys = serde_json::to_string(&event.filter_keys()).unwrap_or_default();
        field("filterkeys", &keys);
    }
    field("index", &event.index().to_string());
    let mut line = Vec::with_capacity(out.len() + event.payload().len() + 16);
    line.push(b'{');
    line.extend_from_slice(&out);
    line.extend_from_slice(b"\"data\":");
    line.extend_from_slice(event.payload().as_bytes());
    line.push(b'}');
    line
}

/// Percent-encodes what may not stand in a part of a URI.
fn uri_part(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Reads one CloudEvent.
///
/// # Errors
/// When it is not a JSON object with the required attributes of version 1.0.
pub fn from_cloudevent(json: &[u8]) -> Result<NewEvent<'_>, EventError> {
    let limits = Limits::default();
    let bounds = Bounds::new(&limits);
    event_of(bounds.read("CloudEvent", json, AttributesSeed)?)
}

/// Reads a batch: a JSON list of CloudEvents, which becomes one transaction.
///
/// # Errors
/// As [`from_cloudevent`], and when there are none or more than the limits allow.
pub fn from_cloudevent_batch<'a>(
    json: &'a [u8],
    limits: &Limits,
) -> Result<Vec<NewEvent<'a>>, EventError> {
    let bounds = Bounds::new(limits);
    let batch = bounds.read("batch of CloudEvents", json, BatchSeed(&bounds))?;
    if batch.is_empty() {
        return Err(EventError::NoEvents);
    }
    batch.into_iter().map(event_of).collect()
}

type Attributes<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

struct BatchSeed<'l>(&'l Bounds<'l>);

impl<'de> DeserializeSeed<'de> for BatchSeed<'_> {
    type Value = Vec<Attributes<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for BatchSeed<'_> {
    type Value = Vec<Attributes<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of CloudEvents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut batch = Vec::new();
        while let Some(attributes) = list.next_element_seed(Guarded {
            seed: AttributesSeed,
            read: batch.len(),
            bounds: self.0,
        })? {
            batch.push(attributes);
        }
        Ok(batch)
    }
}

struct AttributesSeed;

impl<'de> DeserializeSeed<'de> for AttributesSeed {
    type Value = Attributes<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for AttributesSeed {
    type Value = Attributes<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a CloudEvent: an object with its attributes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut attributes = Attributes::new();
        while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
            attributes.insert(name.0, value);
            if attributes.len() > ATTRIBUTES_MAX {
                return Err(de::Error::custom(format_args!(
                    "it has more than {ATTRIBUTES_MAX} attributes"
                )));
            }
        }
        Ok(attributes)
    }
}

fn event_of(mut attributes: Attributes<'_>) -> Result<NewEvent<'_>, EventError> {
    let mut text = |name: &'static str| -> Result<Option<String>, EventError> {
        match attributes.remove(name) {
            None => Ok(None),
            Some(raw) if raw.get() == "null" => Ok(None),
            Some(raw) => {
                serde_json::from_str(raw.get())
                    .map(Some)
                    .map_err(|_| EventError::Malformed {
                        what: "CloudEvent",
                        detail: format!("{name} is not a string"),
                    })
            }
        }
    };
    let required = |field: &'static str, value: Option<String>| {
        value
            .filter(|text| !text.is_empty())
            .ok_or(EventError::Missing { field })
    };
    let version = required("specversion", text("specversion")?)?;
    if version != "1.0" {
        return Err(EventError::CloudEventVersion { found: version });
    }
    let id = required("id", text("id")?)?;
    let source = required("source", text("source")?)?;
    let r#type = required("type", text("type")?)?;
    let own = source.starts_with(OWN_SOURCE);
    let key = text("subject")?.unwrap_or_default();
    let time = text("time")?.map(|time| time.parse()).transpose().map_err(
        |source: crate::TimestampError| EventError::Malformed {
            what: "CloudEvent",
            detail: format!("time: {source}"),
        },
    )?;
    // What others call so and mean otherwise stays among their attributes.
    let mut ours = |name: &'static str| -> Option<String> {
        let value: Option<String> = serde_json::from_str(attributes.get(name)?.get()).ok()?;
        attributes.remove(name);
        value
    };
    let topic = ours("topic").unwrap_or_else(|| DEFAULT_TOPIC.to_owned());
    let event_type = ours("eventtype").unwrap_or(r#type);
    let namespace = ours("namespace");
    let node = ours("node");
    let origin = ours("origin");
    let filter_keys = ours("filterkeys")
        .map(|keys| serde_json::from_str::<Vec<String>>(&keys))
        .transpose()
        .map_err(|_| EventError::Malformed {
            what: "CloudEvent",
            detail: "filterkeys is not a JSON list of strings, written as text".into(),
        })?;
    if own {
        // It is given anew.
        attributes.remove("index");
    }
    // A payload is JSON, so that this need not be said; anything else is kept.
    if attributes
        .get("datacontenttype")
        .is_some_and(|kind| is_json(kind))
    {
        attributes.remove("datacontenttype");
    }
    let payload = payload_of(attributes)?;
    // Our own events leave out an empty namespace; others belong to the default one.
    let namespace = namespace.unwrap_or_else(|| {
        if own {
            String::new()
        } else {
            DEFAULT_NAMESPACE.to_owned()
        }
    });
    Ok(NewEvent {
        topic: topic.into(),
        r#type: event_type.into(),
        key: key.into(),
        namespace: namespace.into(),
        filter_keys: filter_keys.map(|keys| keys.into_iter().map(Cow::Owned).collect()),
        id: Some(if own { id } else { id_of(&source, &id) }.into()),
        time,
        node: node.or_else(|| own.then(String::new)).map(Cow::Owned),
        source: Some(
            origin
                .unwrap_or(if own { String::new() } else { source })
                .into(),
        ),
        payload,
    })
}

/// The Id of an event of another origin: the same for the same `source` and `id`, and never longer
/// than an Id may be.
fn id_of(source: &str, id: &str) -> String {
    let plain = format!("{source}#{id}");
    if plain.len() <= ID_BYTES_MAX {
        return plain;
    }
    format!("cloudevent-{:032x}", xxh3_128(plain.as_bytes()))
}

fn is_json(kind: &RawValue) -> bool {
    let Ok(kind) = serde_json::from_str::<Option<Cow<'_, str>>>(kind.get()) else {
        return false;
    };
    let Some(kind) = kind else { return true };
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json")
}

/// `data` where it is an object and nothing else is left; otherwise an object around what is left.
fn payload_of(mut attributes: Attributes<'_>) -> Result<Cow<'_, RawValue>, EventError> {
    let data = attributes.remove("data");
    let plain = data.is_none_or(|data| matches!(data.get().as_bytes().first(), Some(b'{' | b'n')));
    if plain && attributes.is_empty() {
        return Ok(Cow::Borrowed(data.unwrap_or(RawValue::NULL)));
    }
    let mut wrapped: BTreeMap<&str, Box<RawValue>> = BTreeMap::new();
    if let Some(data) = data {
        wrapped.insert("data", data.to_owned());
    }
    if let Some(binary) = attributes.remove("data_base64") {
        wrapped.insert("data_base64", binary.to_owned());
    }
    let wrong = |source: serde_json::Error| EventError::Malformed {
        what: "CloudEvent",
        detail: source.to_string(),
    };
    if !attributes.is_empty() {
        wrapped.insert(
            "attributes",
            serde_json::value::to_raw_value(&attributes).map_err(wrong)?,
        );
    }
    Ok(Cow::Owned(
        serde_json::value::to_raw_value(&wrapped).map_err(wrong)?,
    ))
}
