//! Commands in the one form in which they are queued, logged and applied.
//!
//! ```text
//! command  tag u8 │ length u32 │ body
//!   1 publish   count u32 │ event …
//!   2 put       cas u64 │ topic text │ namespace text │ key text │ event
//!   3 delete    cas u64 │ topic text │ namespace text │ key text │ event
//!   4 settings  JSON
//!   5 seal
//!   6 retain    oldest u64
//!   7 found     timeline u128
//!   8 numbered  sender u128 │ epoch u64 │ number u64 │ count u32 │ event …
//! event    length u32 │ flags u8 │ keys u16 │ topic u64 │ namespace u64 │ [id u128] │ key u64 … │ body
//! text     length u32 │ UTF-8
//! ```
//!
//! An event's body is the JSON that will stand in its frame; the numbers before it are hashes, taken
//! once where the event came in, so that applying and routing it need no look at the JSON.

use bytes::Bytes;
use tidings_event::{EventError, Index, Limits, NewEvent, RouteHash};
use ulid::ULID_LEN;
use xxhash_rust::xxh3::xxh3_128;

use crate::codec::{Reader, Truncated, push_text};
use crate::{SenderNumber, Settings, Stamper, TimelineId};

/// Wire value: append only.
mod tag {
    pub(super) const PUBLISH: u8 = 1;
    pub(super) const PUT_ENTRY: u8 = 2;
    pub(super) const DELETE_ENTRY: u8 = 3;
    pub(super) const CHANGE_SETTINGS: u8 = 4;
    pub(super) const SEAL: u8 = 5;
    pub(super) const RETAIN: u8 = 6;
    pub(super) const FOUND: u8 = 7;
    pub(super) const PUBLISH_NUMBERED: u8 = 8;
}

/// Wire value: append only. The event's Id was given by its publisher, so a repeat is looked for.
const FLAG_GIVEN_ID: u8 = 1;

/// The `cas` of a change that asks for none.
const NO_CAS: u64 = u64::MAX;

/// Commands of one caller: applied in this order, answered together, one outcome each.
#[derive(Clone, Debug, Default)]
pub struct CommandGroup {
    bytes: Vec<u8>,
    count: usize,
}

/// A group that is complete: clones share its bytes.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    bytes: Bytes,
    count: usize,
}

/// Which entry is changed, and under what condition.
#[derive(Clone, Copy, Debug)]
pub struct EntryChange<'a> {
    /// Only when the entry's ModifyIndex is this; 0: only when there is none.
    pub cas: Option<Index>,
    /// The event that tells of the change. Topic, Namespace and Key name the entry.
    pub event: &'a NewEvent<'a>,
}

impl CommandGroup {
    /// No commands yet.
    pub fn new() -> CommandGroup {
        CommandGroup::default()
    }

    /// No commands yet, with room for some.
    pub fn with_capacity(bytes: usize) -> CommandGroup {
        CommandGroup {
            bytes: Vec::with_capacity(bytes),
            count: 0,
        }
    }

    /// How many commands there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes they take.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Makes room for so many bytes in all.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes.saturating_sub(self.bytes.len()));
    }

    /// The encoded commands.
    pub fn into_bytes(self) -> Bytes {
        self.bytes.into()
    }

    /// Nothing more is added.
    pub fn complete(self) -> Commands {
        Commands {
            bytes: self.bytes.into(),
            count: self.count,
        }
    }

    /// Adds a transaction: its events will be one frame.
    ///
    /// # Errors
    /// The first rule that an event or the whole transaction breaks; the group is then as before.
    pub fn publish(
        &mut self,
        events: &[NewEvent<'_>],
        stamper: &mut Stamper,
        limits: &Limits,
    ) -> Result<(), EventError> {
        self.command(tag::PUBLISH, |bytes| {
            push_transaction(events, stamper, limits, bytes)
        })
    }

    /// Adds a transaction that bears a number of its sender: it is taken when it is the next one.
    ///
    /// # Errors
    /// As [`publish`](CommandGroup::publish).
    pub fn publish_numbered(
        &mut self,
        of: SenderNumber,
        events: &[NewEvent<'_>],
        stamper: &mut Stamper,
        limits: &Limits,
    ) -> Result<(), EventError> {
        self.command(tag::PUBLISH_NUMBERED, |bytes| {
            bytes.extend_from_slice(&of.sender.to_le_bytes());
            bytes.extend_from_slice(&of.epoch.to_le_bytes());
            bytes.extend_from_slice(&of.number.to_le_bytes());
            push_transaction(events, stamper, limits, bytes)
        })
    }

    /// Adds the writing of an entry.
    ///
    /// # Errors
    /// The first rule that the event breaks; the group is then as before.
    pub fn put_entry(
        &mut self,
        change: EntryChange<'_>,
        stamper: &mut Stamper,
        limits: &Limits,
    ) -> Result<(), EventError> {
        self.change_entry(tag::PUT_ENTRY, change, stamper, limits)
    }

    /// Adds the removal of an entry.
    ///
    /// # Errors
    /// The first rule that the event breaks; the group is then as before.
    pub fn delete_entry(
        &mut self,
        change: EntryChange<'_>,
        stamper: &mut Stamper,
        limits: &Limits,
    ) -> Result<(), EventError> {
        self.change_entry(tag::DELETE_ENTRY, change, stamper, limits)
    }

    fn change_entry(
        &mut self,
        tag: u8,
        change: EntryChange<'_>,
        stamper: &mut Stamper,
        limits: &Limits,
    ) -> Result<(), EventError> {
        self.command(tag, |bytes| {
            let cas = change.cas.map_or(NO_CAS, Index::get);
            bytes.extend_from_slice(&cas.to_le_bytes());
            push_text(&change.event.topic, bytes);
            push_text(&change.event.namespace, bytes);
            push_text(&change.event.key, bytes);
            push_event(change.event, stamper, limits, bytes)
        })
    }

    /// Adds a change of the settings.
    pub fn change_settings(&mut self, settings: &Settings) {
        let json = serde_json::to_vec(settings).expect("settings are plain numbers");
        let pushed = self.command(tag::CHANGE_SETTINGS, |bytes| {
            bytes.extend_from_slice(&json);
            Ok(())
        });
        debug_assert!(pushed.is_ok());
    }

    /// Adds the sealing of the history's newest segment.
    pub fn seal(&mut self) {
        let pushed = self.command(tag::SEAL, |_| Ok(()));
        debug_assert!(pushed.is_ok());
    }

    /// Adds the dropping of all frames before `oldest`.
    pub fn retain(&mut self, oldest: Index) {
        let pushed = self.command(tag::RETAIN, |bytes| {
            bytes.extend_from_slice(&oldest.get().to_le_bytes());
            Ok(())
        });
        debug_assert!(pushed.is_ok());
    }

    /// Adds the founding of the timeline. The first one counts; later ones change nothing.
    pub fn found(&mut self, timeline: TimelineId) {
        let pushed = self.command(tag::FOUND, |bytes| {
            bytes.extend_from_slice(&timeline.0.to_le_bytes());
            Ok(())
        });
        debug_assert!(pushed.is_ok());
    }

    fn command(
        &mut self,
        tag: u8,
        push_body: impl FnOnce(&mut Vec<u8>) -> Result<(), EventError>,
    ) -> Result<(), EventError> {
        let start = self.bytes.len();
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&[0; 4]);
        let body = self.bytes.len();
        if let Err(error) = push_body(&mut self.bytes) {
            self.bytes.truncate(start);
            return Err(error);
        }
        let length = (self.bytes.len() - body) as u32;
        self.bytes[start + 1..body].copy_from_slice(&length.to_le_bytes());
        self.count += 1;
        Ok(())
    }
}

/// Ids are for recognising a transaction that was sent before, so either all of its events bear one,
/// each its own, or none does: an event without would be lost as a repeat, or come twice.
fn check_ids(events: &[NewEvent<'_>]) -> Result<(), EventError> {
    if events.len() < 2 {
        return Ok(());
    }
    let mut ids: Vec<&str> = events
        .iter()
        .filter_map(|event| event.id.as_deref())
        .collect();
    if !ids.is_empty() && ids.len() < events.len() {
        return Err(EventError::SomeIds {
            with: ids.len(),
            without: events.len() - ids.len(),
        });
    }
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(EventError::RepeatedId {
            id: pair[0].to_owned(),
        }),
        None => Ok(()),
    }
}

impl Commands {
    /// How many commands there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes they take.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// The encoded commands.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl From<CommandGroup> for Commands {
    fn from(group: CommandGroup) -> Commands {
        group.complete()
    }
}

/// The number under which an Id is remembered.
pub(crate) fn id_hash(id: &str) -> u128 {
    xxh3_128(id.as_bytes())
}

fn push_transaction(
    events: &[NewEvent<'_>],
    stamper: &mut Stamper,
    limits: &Limits,
    bytes: &mut Vec<u8>,
) -> Result<(), EventError> {
    if events.is_empty() {
        return Err(EventError::NoEvents);
    }
    if events.len() > limits.transaction_events {
        return Err(EventError::TooManyEvents {
            limit: limits.transaction_events,
        });
    }
    check_ids(events)?;
    bytes.extend_from_slice(&(events.len() as u32).to_le_bytes());
    let start = bytes.len();
    for event in events {
        push_event(event, stamper, limits, bytes)?;
    }
    let size = bytes.len() - start;
    if size > limits.transaction_bytes {
        return Err(EventError::TransactionTooLarge {
            bytes: size,
            limit: limits.transaction_bytes,
        });
    }
    Ok(())
}

fn push_event(
    event: &NewEvent<'_>,
    stamper: &mut Stamper,
    limits: &Limits,
    bytes: &mut Vec<u8>,
) -> Result<(), EventError> {
    event.check(limits)?;
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    let keys = 1 + event.filter_keys.as_ref().map_or(0, Vec::len);
    bytes.push(if event.id.is_some() { FLAG_GIVEN_ID } else { 0 });
    bytes.extend_from_slice(&(keys as u16).to_le_bytes());
    bytes.extend_from_slice(&RouteHash::of_text(&event.topic).0.to_le_bytes());
    bytes.extend_from_slice(&RouteHash::of_text(&event.namespace).0.to_le_bytes());
    if let Some(id) = &event.id {
        bytes.extend_from_slice(&id_hash(id).to_le_bytes());
    }
    bytes.extend_from_slice(&RouteHash::of_text(&event.key).0.to_le_bytes());
    for key in event.filter_keys.iter().flatten() {
        bytes.extend_from_slice(&RouteHash::of_text(key).0.to_le_bytes());
    }
    let mut text = [0; ULID_LEN];
    let id = if event.id.is_some() {
        ""
    } else {
        stamper.next_id(&mut text)
    };
    let stamp = tidings_event::Stamp {
        time: stamper.time_text(),
        id,
        node: stamper.node(),
        source: stamper.source(),
    };
    event.push_body(&stamp, limits, bytes)?;
    let length = (bytes.len() - start - 4) as u32;
    bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// A command as it is applied, borrowed from its batch.
pub(crate) enum Command<'a> {
    Publish {
        /// Its sender's number, when it bears one.
        of: Option<SenderNumber>,
        events: Events<'a>,
    },
    PutEntry(Change<'a>),
    DeleteEntry(Change<'a>),
    ChangeSettings(&'a [u8]),
    Seal,
    Retain {
        oldest: Index,
    },
    Found {
        timeline: TimelineId,
    },
}

pub(crate) struct Change<'a> {
    pub(crate) cas: Option<u64>,
    pub(crate) topic: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) key: &'a str,
    pub(crate) event: EncodedEvent<'a>,
}

/// The events of one transaction.
#[derive(Clone, Copy)]
pub(crate) struct Events<'a> {
    count: u32,
    bytes: &'a [u8],
}

#[derive(Clone, Copy)]
pub(crate) struct EncodedEvent<'a> {
    pub(crate) topic: RouteHash,
    pub(crate) namespace: RouteHash,
    pub(crate) given_id: Option<u128>,
    keys: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl<'a> EncodedEvent<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<EncodedEvent<'a>, Truncated> {
        let length = reader.u32()? as usize;
        let mut reader = Reader::new(reader.take(length)?);
        let flags = reader.u8()?;
        let keys = usize::from(reader.u16()?);
        let topic = RouteHash(reader.u64()?);
        let namespace = RouteHash(reader.u64()?);
        let given_id = if flags & FLAG_GIVEN_ID != 0 {
            Some(reader.u128()?)
        } else {
            None
        };
        let fixed = 1 + 2 + 8 + 8 + if given_id.is_some() { 16 } else { 0 };
        let keys = reader.take(keys * 8)?;
        let body = reader.take(length - fixed - keys.len())?;
        Ok(EncodedEvent {
            topic,
            namespace,
            given_id,
            keys,
            body,
        })
    }

    /// The hashes of the key and the filter keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = RouteHash> + use<'a> {
        self.keys
            .chunks_exact(8)
            .filter_map(|hash| Some(RouteHash(u64::from_le_bytes(hash.try_into().ok()?))))
    }

    /// The texts of topic and namespace as they stand in the body.
    pub(crate) fn names(&self) -> Option<(&'a [u8], &'a [u8])> {
        let (topic, namespace, _) = self.names_and_rest()?;
        Some((topic, namespace))
    }

    /// The same, and where in the body the namespace ends.
    fn names_and_rest(&self) -> Option<(&'a [u8], &'a [u8], usize)> {
        let (topic, at) = field(self.body, 0, b"\"Topic\":\"")?;
        let (_, at) = field(self.body, at, b",\"Type\":\"")?;
        let (_, at) = field(self.body, at, b",\"Key\":\"")?;
        let (namespace, at) = field(self.body, at, b",\"Namespace\":\"")?;
        Some((topic, namespace, at))
    }

    /// Where in the body the filter keys end.
    pub(crate) fn after_filter_keys(&self) -> Option<usize> {
        const NAME: &[u8] = b",\"FilterKeys\":";
        let (_, _, at) = self.names_and_rest()?;
        let value = self.body.get(at..)?.strip_prefix(NAME)?;
        let at = at + NAME.len();
        if value.starts_with(b"null") {
            return Some(at + 4);
        }
        let mut end = 1;
        let mut in_text = false;
        loop {
            match value.get(end)? {
                b'\\' => end += 1,
                b'"' => in_text = !in_text,
                b']' if !in_text => return Some(at + end + 1),
                _ => {}
            }
            end += 1;
        }
    }
}

/// The escaped text that follows `name` at `at`, and where the next field begins.
fn field<'a>(body: &'a [u8], at: usize, name: &[u8]) -> Option<(&'a [u8], usize)> {
    let text = body.get(at..)?.strip_prefix(name)?;
    let mut end = 0;
    loop {
        match text.get(end)? {
            b'"' => return Some((&text[..end], at + name.len() + end + 1)),
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
}

impl<'a> Events<'a> {
    /// A transaction that cannot be read any further ends there; [`read_command`] has counted them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = EncodedEvent<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map_while(move |_| EncodedEvent::read(&mut reader).ok())
    }
}

/// Takes the next command off a batch; `None` at its end.
pub(crate) fn read_command<'a>(reader: &mut Reader<'a>) -> Result<Option<Command<'a>>, Truncated> {
    if reader.is_empty() {
        return Ok(None);
    }
    let tag = reader.u8()?;
    let length = reader.u32()? as usize;
    let body = reader.take(length)?;
    let mut reader = Reader::new(body);
    let command = match tag {
        tag::PUBLISH => Command::Publish {
            of: None,
            events: read_transaction(body)?,
        },
        tag::PUBLISH_NUMBERED => {
            let of = SenderNumber {
                sender: reader.u128()?,
                epoch: reader.u64()?,
                number: reader.u64()?,
            };
            Command::Publish {
                of: Some(of),
                events: read_transaction(&body[16 + 8 + 8..])?,
            }
        }
        tag::PUT_ENTRY => Command::PutEntry(read_change(&mut reader)?),
        tag::DELETE_ENTRY => Command::DeleteEntry(read_change(&mut reader)?),
        tag::CHANGE_SETTINGS => Command::ChangeSettings(body),
        tag::SEAL => Command::Seal,
        tag::RETAIN => Command::Retain {
            oldest: Index(reader.u64()?),
        },
        tag::FOUND => Command::Found {
            timeline: TimelineId(reader.u128()?),
        },
        _ => return Err(Truncated),
    };
    Ok(Some(command))
}

fn read_transaction(body: &[u8]) -> Result<Events<'_>, Truncated> {
    let count = Reader::new(body).u32()?;
    let bytes = &body[4..];
    let mut events = Reader::new(bytes);
    for _ in 0..count {
        EncodedEvent::read(&mut events)?;
    }
    if count == 0 || !events.is_empty() {
        return Err(Truncated);
    }
    Ok(Events { count, bytes })
}

fn read_change<'a>(reader: &mut Reader<'a>) -> Result<Change<'a>, Truncated> {
    let cas = reader.u64()?;
    Ok(Change {
        cas: (cas != NO_CAS).then_some(cas),
        topic: reader.text()?,
        namespace: reader.text()?,
        key: reader.text()?,
        event: EncodedEvent::read(reader)?,
    })
}

#[cfg(test)]
mod tests {
    use tidings_event::Timestamp;

    use super::*;
    use crate::{Batch, Outcome, Refusal, StateMachine};

    /// No publisher can hand this in; a log of another version may have it.
    #[test]
    fn an_event_without_an_id_is_never_taken_for_a_repeat() {
        let json = |id: &str| format!(r#"{{"Topic":"T","Type":"A"{id}}}"#);
        let (with, without) = (json(r#","Id":"a""#), json(""));
        let with = NewEvent::parse(with.as_bytes()).unwrap();
        let without = NewEvent::parse(without.as_bytes()).unwrap();
        let mut stamper = Stamper::new("n1", "test", 1);
        let limits = Limits::default();
        let mut group = CommandGroup::new();
        group
            .publish(std::slice::from_ref(&with), &mut stamper, &limits)
            .unwrap();
        group
            .command(tag::PUBLISH, |bytes| {
                bytes.extend_from_slice(&2_u32.to_le_bytes());
                push_event(&with, &mut stamper, &limits, bytes)?;
                push_event(&without, &mut stamper, &limits, bytes)
            })
            .unwrap();
        let batch = Batch {
            time: Timestamp::from_unix_micros(1),
            groups: vec![group.into_bytes()],
        };
        let mut machine = StateMachine::new(Settings::default());
        let applied = machine.apply(&batch).unwrap();
        let refused = Refusal::PartlyDuplicate { index: Index(1) };
        assert_eq!(
            applied.outcomes,
            [
                Outcome::Published { index: Index(1) },
                Outcome::Refused(Box::new(refused))
            ]
        );
    }
}
