//! Whether bytes from another program are commands that may enter the log.
//!
//! What is in the log is applied by every server, and a command that cannot be read stops all of them.
//! So what comes over a network is read here first, down to the last byte of each event's body: a body
//! becomes part of a line of the history, and must be the one form in which this version writes it.

use thiserror::Error;
use tidings_event::{FrameView, RouteHash, push_minified};

use crate::codec::Reader;
use crate::command::{Change, Command, EncodedEvent, Events, id_hash, read_command};
use crate::settings::Settings;

/// How deeply payloads may be nested, whatever a publisher's server allows: with the frame around it
/// this stays below 128, where common JSON readers stop.
const PAYLOAD_DEPTH_MAX: usize = 124;

/// Why bytes are no commands for the log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandsError {
    /// Other than announced, which would give callers the answers of others.
    #[error("{announced} commands are announced and {found} follow")]
    Count {
        /// How many there should be.
        announced: usize,
        /// How many there are, at least.
        found: usize,
    },
    /// It is cut, or of a kind that this version does not know.
    #[error("command {ordinal} is not one that this version can read")]
    Unreadable {
        /// Which, counted from 0.
        ordinal: usize,
    },
    /// One of its parts is not as this version writes it.
    #[error("command {ordinal} has {what} that this version would not write")]
    Content {
        /// Which, counted from 0.
        ordinal: usize,
        /// The part.
        what: &'static str,
    },
}

/// Checks that `bytes` are `announced` commands, each just as [`CommandGroup`](crate::CommandGroup)
/// writes it.
///
/// # Errors
/// The first thing that is otherwise.
pub fn check_commands(bytes: &[u8], announced: usize) -> Result<(), CommandsError> {
    let mut reader = Reader::new(bytes);
    let mut scratch = Vec::new();
    let mut found = 0;
    loop {
        let command =
            read_command(&mut reader).map_err(|_| CommandsError::Unreadable { ordinal: found })?;
        let Some(command) = command else { break };
        check(&command, &mut scratch).map_err(|what| CommandsError::Content {
            ordinal: found,
            what,
        })?;
        found += 1;
        if found > announced {
            break;
        }
    }
    match found == announced && found > 0 {
        true => Ok(()),
        false => Err(CommandsError::Count { announced, found }),
    }
}

/// The part that is wrong, if one is.
fn check(command: &Command<'_>, scratch: &mut Vec<u8>) -> Result<(), &'static str> {
    match command {
        Command::Publish { events, .. } => check_transaction(*events, scratch),
        Command::PutEntry(change) | Command::DeleteEntry(change) => check_change(change, scratch),
        Command::ChangeSettings(json) => match serde_json::from_slice::<Settings>(json) {
            Ok(_) => Ok(()),
            Err(_) => Err("settings"),
        },
        Command::Seal | Command::Retain { .. } | Command::Found { .. } => Ok(()),
    }
}

fn check_transaction(events: Events<'_>, scratch: &mut Vec<u8>) -> Result<(), &'static str> {
    let (mut with, mut without) = (0_usize, 0_usize);
    for event in events.iter() {
        match event.given_id {
            Some(_) => with += 1,
            None => without += 1,
        }
        check_event(&event, None, scratch)?;
    }
    match with > 0 && without > 0 {
        true => Err("Ids on some events only"),
        false => Ok(()),
    }
}

fn check_change(change: &Change<'_>, scratch: &mut Vec<u8>) -> Result<(), &'static str> {
    let name = (change.topic, change.namespace, change.key);
    check_event(&change.event, Some(name), scratch)
}

/// Checks one event, and that it is of this topic, namespace and key.
fn check_event(
    event: &EncodedEvent<'_>,
    name: Option<(&str, &str, &str)>,
    scratch: &mut Vec<u8>,
) -> Result<(), &'static str> {
    // Lines end at a newline; JSON texts have no other control character either.
    if event.body.iter().any(|&byte| byte < b' ') {
        return Err("a control character in an event");
    }
    scratch.clear();
    scratch.extend_from_slice(b"{\"Index\":1,\"Events\":[{\"Index\":1,");
    scratch.extend_from_slice(event.body);
    scratch.extend_from_slice(b"]}");
    let frame = FrameView::parse(scratch).map_err(|_| "an event")?;
    let [view] = frame.events() else {
        return Err("an event");
    };
    let hashes_are_right = view.topic_hash() == event.topic
        && RouteHash::of_text(&view.namespace()) == event.namespace
        && std::iter::once(view.key_hash())
            .chain(view.filter_key_hashes())
            .eq(event.keys());
    if !hashes_are_right {
        return Err("hashes of an event");
    }
    if event.given_id.is_some_and(|id| id != id_hash(&view.id())) {
        return Err("an Id");
    }
    let is_named = |(topic, namespace, key): (&str, &str, &str)| {
        topic == view.topic() && namespace == view.namespace() && key == view.key()
    };
    if !name.is_none_or(is_named) {
        return Err("an entry's name");
    }
    let payload = view.payload();
    let mut minified = Vec::with_capacity(payload.len());
    let is_json = serde_json::from_str::<&serde_json::value::RawValue>(payload).is_ok();
    let pushed = push_minified(payload, PAYLOAD_DEPTH_MAX, &mut minified);
    match is_json && pushed.is_ok() && minified == payload.as_bytes() {
        true => Ok(()),
        false => Err("a payload"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidings_event::{Index, Limits, NewEvent, Timestamp};

    use super::*;
    use crate::{
        Batch, CommandGroup, EntryChange, SenderNumber, Stamper, StateMachine, TimelineId,
    };

    /// One command of each kind.
    fn commands() -> CommandGroup {
        let json =
            br#"{"Topic":"J\u00f6b","Type":"T","Key":"k\"1","FilterKeys":["f","g\"h"],"Id":"a",
            "Payload":{"a": [1, {"b": "\u0007"}]}}"#;
        let with = NewEvent::parse(json).unwrap();
        let without = NewEvent::parse(br#"{"Topic":"T","Type":"A","Namespace":"n"}"#).unwrap();
        let (mut stamper, limits) = (Stamper::new("n1", "test", 1), Limits::default());
        let stamper = &mut stamper;
        let mut group = CommandGroup::new();
        group.publish(&[with], stamper, &limits).unwrap();
        let of = SenderNumber {
            sender: 3,
            epoch: 4,
            number: 1,
        };
        let two = [without.clone(), without.clone()];
        group.publish_numbered(of, &two, stamper, &limits).unwrap();
        let change = EntryChange {
            cas: Some(Index(2)),
            event: &without,
        };
        group.put_entry(change, stamper, &limits).unwrap();
        group.delete_entry(change, stamper, &limits).unwrap();
        group.change_settings(&Settings::default());
        group.seal();
        group.retain(Index(9));
        group.found(TimelineId(7));
        group
    }

    #[test]
    fn what_a_group_writes_is_taken_when_it_is_counted_right() {
        let group = commands();
        let (count, bytes) = (group.len(), group.into_bytes());
        check_commands(&bytes, count).unwrap();
        for announced in [0, count - 1, count + 1] {
            assert!(check_commands(&bytes, announced).is_err(), "{announced}");
        }
        assert!(check_commands(&[], 0).is_err());
        let cut = check_commands(&bytes[..bytes.len() - 1], count);
        assert_eq!(cut, Err(CommandsError::Unreadable { ordinal: count - 1 }));
    }

    #[test]
    fn a_body_that_would_spoil_a_line_is_refused() {
        let group = commands();
        let (count, bytes) = (group.len(), group.into_bytes());
        let at = |text: &[u8]| bytes.windows(text.len()).position(|part| part == text);
        for (text, byte, what) in [
            (
                &b"\"Payload\":{"[..],
                b'\n',
                "a control character in an event",
            ),
            (b"[1,{", b' ', "a payload"),
            (b"\"Type\":", b'!', "an event"),
            (b"b\",\"Type\"", b'!', "hashes of an event"),
        ] {
            let mut changed = bytes.to_vec();
            changed[at(text).unwrap()] = byte;
            let found = check_commands(&changed, count);
            let expected = CommandsError::Content { ordinal: 0, what };
            assert_eq!(found, Err(expected), "{}", String::from_utf8_lossy(text));
        }
        // white space between tokens, where a number was
        let mut changed = bytes.to_vec();
        let number = at(b"[1,{").unwrap() + 1;
        changed[number] = b' ';
        assert!(check_commands(&changed, count).is_err());
    }

    proptest! {
        /// Whatever passes can be applied: no server stops because of it.
        #[test]
        fn what_is_taken_can_be_applied(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let group = commands();
            let (count, mut bytes) = (group.len(), group.into_bytes().to_vec());
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if check_commands(&bytes, count).is_ok() {
                let batch = Batch {
                    time: Timestamp::from_unix_micros(1),
                    groups: vec![bytes.into()],
                };
                let applied = StateMachine::new(Settings::default()).apply(&batch).unwrap();
                prop_assert_eq!(applied.outcomes.len(), count);
                if let Some(frames) = &applied.frames {
                    for ordinal in 0..frames.len() {
                        FrameView::parse(&frames.line(ordinal)).unwrap();
                    }
                }
            }
        }
    }
}
