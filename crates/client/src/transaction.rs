//! Events that become one frame, ready to be sent as often as it takes.

use std::fmt;

use bytes::Bytes;
use serde::Deserializer;
use serde::de::{Deserialize, MapAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;
use tidings_event::OwnedNewEvent;
use ulid::Ulid;

/// One transaction as one line of JSON, in which every event bears an id.
///
/// The ids are what makes sending it again harmless: the agent answers a repeat with the index that
/// the first one got.
#[derive(Clone, Debug)]
pub struct Transaction {
    line: Bytes,
    events: usize,
}

/// Text that cannot be a transaction whatever the agent's limits are.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// Not JSON, or an object where another is expected.
    #[error("not one JSON object of an event, nor one with a list of events")]
    Json(#[source] serde_json::Error),
    /// No event in it.
    #[error("a transaction needs at least one event")]
    Empty,
}

impl Transaction {
    /// A transaction of these events; those without an id get a fresh ULID.
    ///
    /// # Errors
    /// [`TransactionError::Empty`] without events.
    pub fn new(events: Vec<OwnedNewEvent>) -> Result<Self, TransactionError> {
        if events.is_empty() {
            return Err(TransactionError::Empty);
        }
        let count = events.len();
        let mut line = br#"{"Events":["#.to_vec();
        for (number, mut event) in events.into_iter().enumerate() {
            if number > 0 {
                line.push(b',');
            }
            event.id.get_or_insert_with(fresh_id);
            serde_json::to_writer(&mut line, &event).map_err(TransactionError::Json)?;
        }
        line.extend_from_slice(b"]}");
        // Only a payload may have come with line ends in it.
        Ok(Self::from_text(line, count))
    }

    /// Reads a transaction as it stands in a file: one event's object, or `{"Events":[…]}`.
    ///
    /// Events without an `Id` get a fresh ULID, those without a `Namespace` get `namespace` when
    /// one is given. All else is left as it is, for the agent to judge.
    ///
    /// # Errors
    /// When it is neither, or holds no event.
    pub fn from_json(json: &str, namespace: Option<&str>) -> Result<Self, TransactionError> {
        let members: Members<'_> = serde_json::from_str(json).map_err(TransactionError::Json)?;
        let Some(list) = members.get("Events") else {
            let mut line = Vec::with_capacity(json.len() + 48);
            members.write_event(namespace, &mut line);
            return Ok(Self::from_text(line, 1));
        };
        let events: Vec<Members<'_>> =
            serde_json::from_str(list.get()).map_err(TransactionError::Json)?;
        if events.is_empty() {
            return Err(TransactionError::Empty);
        }
        let mut line = Vec::with_capacity(json.len() + 48 * events.len());
        line.extend_from_slice(br#"{"Events":["#);
        for (number, event) in events.iter().enumerate() {
            if number > 0 {
                line.push(b',');
            }
            event.write_event(namespace, &mut line);
        }
        line.push(b']');
        for (name, value) in members.0.iter().filter(|(name, _)| name != "Events") {
            line.push(b',');
            write_member(name, value.get(), &mut line);
        }
        line.push(b'}');
        Ok(Self::from_text(line, events.len()))
    }

    /// A transaction that is one line of JSON already and is sent as it is. When its events bear no
    /// ids, only a publisher that [numbers](crate::SenderNumbers) what it sends may repeat it.
    pub fn from_line(line: Bytes, events: usize) -> Self {
        Self { line, events }
    }

    /// How many events it holds.
    pub fn events(&self) -> usize {
        self.events
    }

    /// The JSON, one line without its end.
    pub fn line(&self) -> &Bytes {
        &self.line
    }

    /// A line end in JSON text can only be white space between tokens (inside a string it is
    /// escaped), so a space means the same.
    fn from_text(mut text: Vec<u8>, events: usize) -> Self {
        for byte in &mut text {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        Self {
            line: text.into(),
            events,
        }
    }
}

impl TryFrom<OwnedNewEvent> for Transaction {
    type Error = TransactionError;

    fn try_from(event: OwnedNewEvent) -> Result<Self, TransactionError> {
        Self::new(vec![event])
    }
}

fn fresh_id() -> String {
    Ulid::generate().to_string()
}

/// The members of an object in their order, values as they were written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().find(|(member, _)| member == name);
        found.map(|(_, value)| *value)
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.get() != "null")
    }

    /// Writes the event with an id and a namespace.
    fn write_event(&self, namespace: Option<&str>, out: &mut Vec<u8>) {
        let fresh_id = (!self.has("Id")).then(|| quoted(&fresh_id()));
        let namespace = namespace.filter(|_| !self.has("Namespace")).map(quoted);
        let added = [("Id", &fresh_id), ("Namespace", &namespace)];
        let mut separator = b'{';
        for (name, value) in &added {
            if let Some(value) = value {
                out.push(separator);
                write_member(name, value, out);
                separator = b',';
            }
        }
        for (name, value) in &self.0 {
            // A `null` that was replaced above must not come twice.
            if added
                .iter()
                .any(|(added, value)| added == name && value.is_some())
            {
                continue;
            }
            out.push(separator);
            write_member(name, value.get(), out);
            separator = b',';
        }
        out.push(b'}');
    }
}

fn write_member(name: &str, value: &str, out: &mut Vec<u8>) {
    tidings_event::push_json_string(name, out);
    out.push(b':');
    out.extend_from_slice(value.as_bytes());
}

fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    tidings_event::push_json_string(text, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn value(transaction: &Transaction) -> Value {
        serde_json::from_slice(transaction.line()).unwrap()
    }

    #[test]
    fn events_without_an_id_get_one_and_keep_it() {
        let mut named = OwnedNewEvent::new("Job", "Registered");
        named.id = Some("mine".to_owned());
        let transaction =
            Transaction::new(vec![named, OwnedNewEvent::new("Job", "Stopped")]).unwrap();
        let value = value(&transaction);
        assert_eq!(transaction.events(), 2);
        assert_eq!(value["Events"][0]["Id"], "mine");
        assert_eq!(value["Events"][1]["Id"].as_str().unwrap().len(), 26);
    }

    #[test]
    fn a_bare_event_keeps_what_it_had() {
        let text = "{\"Topic\":\"T\",\"Type\":\"t\",\n \"Payload\":{\"n\":1.00,\"big\":123456789012345678901}}";
        let line = Transaction::from_json(text, Some("ops")).unwrap();
        let text = std::str::from_utf8(line.line()).unwrap();
        assert!(text.starts_with(r#"{"Id":""#), "{text}");
        assert!(
            text.contains(r#""Namespace":"ops","Topic":"T","Type":"t","#),
            "{text}"
        );
        assert!(
            text.contains(r#"{"n":1.00,"big":123456789012345678901}"#),
            "{text}"
        );
        assert!(!text.contains('\n'));
    }

    #[test]
    fn given_ids_and_namespaces_stay_and_nulls_are_filled() {
        let text = r#"{"Events":[{"Id":"a","Namespace":"x","Topic":"T"},{"Id":null,"Topic":"T"}],"More":1}"#;
        let value = value(&Transaction::from_json(text, Some("ops")).unwrap());
        assert_eq!(value["Events"][0]["Id"], "a");
        assert_eq!(value["Events"][0]["Namespace"], "x");
        assert!(value["Events"][1]["Id"].is_string());
        assert_eq!(value["Events"][1]["Namespace"], "ops");
        assert_eq!(value["More"], 1);
    }

    #[test]
    fn what_is_no_transaction_is_refused() {
        for text in [
            "",
            "[]",
            "7",
            "{",
            r#"{"Events":7}"#,
            r#"{"Events":[7]}"#,
            r#"{"Events":[]}"#,
        ] {
            assert!(Transaction::from_json(text, None).is_err(), "{text}");
        }
        assert!(Transaction::new(Vec::new()).is_err());
    }
}
