//! Reads requests in one pass and within limits: a list is given up at the first entry that is one
//! too many, before memory is taken for the rest. `{},` is three bytes, the event that it would
//! become some hundred.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::new_event::Text;
use crate::{DEFAULT_NAMESPACE, EventError, Limits, NewEvent, Timestamp};

/// The form that a text is expected to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One event.
    Event,
    /// `{"Events":[…]}`.
    Transaction,
    /// One or the other.
    Line,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Form::Event => "event",
            Form::Transaction => "transaction",
            Form::Line => "line",
        }
    }
}

/// What limits a reading, and which of the limits it met.
pub(crate) struct Bounds<'l> {
    limits: &'l Limits,
    exceeded: Cell<Option<EventError>>,
}

impl<'l> Bounds<'l> {
    pub(crate) fn new(limits: &'l Limits) -> Bounds<'l> {
        Bounds {
            limits,
            exceeded: Cell::new(None),
        }
    }

    /// Ends the reading with an error that the parser could not carry.
    pub(crate) fn exceed<E: de::Error>(&self, error: EventError) -> E {
        let text = E::custom(&error);
        self.exceeded.set(Some(error));
        text
    }

    pub(crate) fn check_events<E: de::Error>(&self, read: usize) -> Result<(), E> {
        let limit = self.limits.transaction_events;
        if read < limit {
            return Ok(());
        }
        Err(self.exceed(EventError::TooManyEvents { limit }))
    }

    /// Reads a whole text.
    pub(crate) fn read<'de, S: DeserializeSeed<'de>>(
        &self,
        what: &'static str,
        json: &'de [u8],
        seed: S,
    ) -> Result<S::Value, EventError> {
        // Checked once as a whole, not again for each string in it.
        let text = std::str::from_utf8(json).map_err(|source| EventError::Malformed {
            what,
            detail: format!("it is not UTF-8 from byte {} on", source.valid_up_to()),
        })?;
        let mut parser = serde_json::Deserializer::from_str(text);
        let read = seed
            .deserialize(&mut parser)
            .and_then(|value| parser.end().map(|()| value));
        read.map_err(|source| {
            self.exceeded
                .take()
                .unwrap_or_else(|| EventError::Malformed {
                    what,
                    detail: source.to_string(),
                })
        })
    }
}

/// Reads the events of a text of this form.
pub(crate) fn read_events<'a>(
    json: &'a [u8],
    form: Form,
    limits: &Limits,
) -> Result<Vec<NewEvent<'a>>, EventError> {
    let bounds = Bounds::new(limits);
    let seed = FormSeed {
        form,
        bounds: &bounds,
    };
    let events = bounds.read(form.name(), json, seed)?;
    if events.is_empty() {
        return Err(EventError::NoEvents);
    }
    Ok(events)
}

/// Reads one event.
pub(crate) fn read_event<'a>(json: &'a [u8], limits: &Limits) -> Result<NewEvent<'a>, EventError> {
    let bounds = Bounds::new(limits);
    bounds.read(Form::Event.name(), json, EventSeed(&bounds))
}

/// The names on the wire.
#[derive(Deserialize)]
#[serde(field_identifier)]
enum Field {
    Topic,
    Type,
    Key,
    Namespace,
    FilterKeys,
    Id,
    Time,
    Node,
    Source,
    Payload,
    Index,
    Events,
}

struct FormSeed<'l> {
    form: Form,
    bounds: &'l Bounds<'l>,
}

impl<'de> DeserializeSeed<'de> for FormSeed<'_> {
    type Value = Vec<NewEvent<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FormSeed<'_> {
    type Value = Vec<NewEvent<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.form {
            Form::Event => "an event: an object with Topic and Type",
            Form::Transaction => "an object with Events",
            Form::Line => "an object with Events, or an event",
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut event = None::<NewEvent<'de>>;
        let mut events = None;
        let mut seen = 0;
        while let Some(field) = map.next_key::<Field>()? {
            seen = see(seen, &field)?;
            match field {
                Field::Events if self.form != Form::Event => {
                    events = map.next_value_seed(Optional(EventsSeed(self.bounds)))?;
                }
                Field::Index => {
                    map.next_value::<IgnoredAny>()?;
                }
                field if self.form != Form::Transaction => {
                    let event = event.get_or_insert_with(blank);
                    read_field(event, field, &mut map, self.bounds)?;
                }
                _ => return Err(de::Error::custom("it has fields beside Events")),
            }
        }
        match (event, events) {
            (None, Some(events)) => Ok(events),
            (Some(_), Some(_)) => Err(de::Error::custom(
                "it has both Events and the fields of an event: use one of them",
            )),
            (None, None) if self.form == Form::Transaction => {
                Err(de::Error::missing_field("Events"))
            }
            (event, None) => Ok(vec![event.unwrap_or_else(blank)]),
        }
    }
}

struct EventSeed<'l>(&'l Bounds<'l>);

impl<'de> DeserializeSeed<'de> for EventSeed<'_> {
    type Value = NewEvent<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<NewEvent<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EventSeed<'_> {
    type Value = NewEvent<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event: an object with Topic and Type")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NewEvent<'de>, A::Error> {
        let mut event = blank();
        let mut seen = 0;
        while let Some(field) = map.next_key::<Field>()? {
            seen = see(seen, &field)?;
            read_field(&mut event, field, &mut map, self.0)?;
        }
        Ok(event)
    }
}

fn blank<'a>() -> NewEvent<'a> {
    NewEvent {
        topic: Cow::Borrowed(""),
        r#type: Cow::Borrowed(""),
        key: Cow::Borrowed(""),
        namespace: Cow::Borrowed(DEFAULT_NAMESPACE),
        filter_keys: None,
        id: None,
        time: None,
        node: None,
        source: None,
        payload: Cow::Borrowed(RawValue::NULL),
    }
}

/// Remembers that a field was there; twice is an error.
fn see<E: de::Error>(seen: u16, field: &Field) -> Result<u16, E> {
    let (bit, name) = match field {
        Field::Topic => (0, "Topic"),
        Field::Type => (1, "Type"),
        Field::Key => (2, "Key"),
        Field::Namespace => (3, "Namespace"),
        Field::FilterKeys => (4, "FilterKeys"),
        Field::Id => (5, "Id"),
        Field::Time => (6, "Time"),
        Field::Node => (7, "Node"),
        Field::Source => (8, "Source"),
        Field::Payload => (9, "Payload"),
        Field::Index => (10, "Index"),
        Field::Events => (11, "Events"),
    };
    if seen & (1 << bit) != 0 {
        return Err(E::duplicate_field(name));
    }
    Ok(seen | (1 << bit))
}

fn read_field<'de, A: MapAccess<'de>>(
    event: &mut NewEvent<'de>,
    field: Field,
    map: &mut A,
    bounds: &Bounds<'_>,
) -> Result<(), A::Error> {
    // `null` is the same as nothing.
    let mut text = || {
        map.next_value::<Option<Text<'de>>>()
            .map(|text| text.map(|text| text.0))
    };
    match field {
        Field::Topic => event.topic = text()?.unwrap_or_default(),
        Field::Type => event.r#type = text()?.unwrap_or_default(),
        Field::Key => event.key = text()?.unwrap_or_default(),
        Field::Namespace => {
            event.namespace = text()?.unwrap_or(Cow::Borrowed(DEFAULT_NAMESPACE));
        }
        Field::Id => event.id = text()?,
        Field::Node => event.node = text()?,
        Field::Source => event.source = text()?,
        Field::FilterKeys => {
            event.filter_keys = map.next_value_seed(Optional(KeysSeed(bounds)))?;
        }
        Field::Time => event.time = map.next_value::<Option<Timestamp>>()?,
        Field::Payload => {
            let payload: &'de RawValue = map.next_value()?;
            event.payload = Cow::Borrowed(payload);
        }
        Field::Index => {
            map.next_value::<IgnoredAny>()?;
        }
        Field::Events => return Err(de::Error::custom("an event has no Events of its own")),
    }
    Ok(())
}

struct EventsSeed<'l>(&'l Bounds<'l>);

impl<'de> DeserializeSeed<'de> for EventsSeed<'_> {
    type Value = Vec<NewEvent<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for EventsSeed<'_> {
    type Value = Vec<NewEvent<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while let Some(event) = list.next_element_seed(Guarded {
            seed: EventSeed(self.0),
            read: events.len(),
            bounds: self.0,
        })? {
            events.push(event);
        }
        Ok(events)
    }
}

/// An entry of a list of events, looked at only when there is a place for it.
pub(crate) struct Guarded<'l, S> {
    pub(crate) seed: S,
    pub(crate) read: usize,
    pub(crate) bounds: &'l Bounds<'l>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Guarded<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.bounds.check_events(self.read)?;
        self.seed.deserialize(deserializer)
    }
}

struct KeysSeed<'l>(&'l Bounds<'l>);

impl<'de> DeserializeSeed<'de> for KeysSeed<'_> {
    type Value = Vec<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for KeysSeed<'_> {
    type Value = Vec<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let limit = self.0.limits.filter_keys;
        let mut keys = Vec::new();
        while let Some(key) = list.next_element::<Text<'de>>()? {
            if keys.len() >= limit {
                return Err(self.0.exceed(EventError::TooManyFilterKeys { limit }));
            }
            keys.push(key.0);
        }
        Ok(keys)
    }
}

/// What may be `null`.
struct Optional<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Optional<S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Optional<S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or null")
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.deserialize(deserializer).map(Some)
    }
}
