//! The events of the last moments: each is handed on once.
//!
//! A ring of slots, one a moment. An event is the same as another when moment, name and payload are
//! equal, whoever sent it: so peers see it, and passing on anything else would never end.

use bytes::Bytes;

use crate::name::Name;
use crate::wire::serf::{EventSlot, LamportTime, UserEvent};

/// Moments that are remembered (serf: config.go `EventBuffer`); peers send and expect as many.
pub const EVENT_SLOTS: usize = 512;

/// Names and payloads of one moment. All slots together stay below what an exchange may carry.
const SLOT_BYTES_MAX: usize = 32 << 10;

/// What an event costs beside its name and payload.
const EVENT_BYTES: usize = 64;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It has not been here before.
    New,
    /// It has.
    Again,
    /// It is of a moment that is forgotten, or was before our time.
    TooOld,
    /// Its moment has too many already.
    Refused,
}

/// The events of the last moments.
#[derive(Debug)]
pub struct EventBuffer {
    slots: Vec<Option<EventSlot>>,
    /// What is earlier has been handed on in an earlier life, or is not wanted.
    begins: LamportTime,
}

impl Default for EventBuffer {
    fn default() -> EventBuffer {
        EventBuffer {
            slots: vec![None; EVENT_SLOTS],
            begins: LamportTime(0),
        }
    }
}

impl EventBuffer {
    /// Takes an event; `now` is the clock of events after it has seen this one.
    pub fn take(&mut self, event: &UserEvent, now: LamportTime) -> Taken {
        let window = EVENT_SLOTS as u64;
        let is_past = now.0 > window && event.ltime.0 < now.0 - window;
        if event.ltime < self.begins || is_past {
            return Taken::TooOld;
        }
        let at = (event.ltime.0 % window) as usize;
        let slot = match &mut self.slots[at] {
            Some(slot) if slot.ltime == event.ltime => slot,
            // A later moment has its place: this one is older than the window by the slot's clock.
            Some(slot) if slot.ltime > event.ltime => return Taken::TooOld,
            other => other.insert(EventSlot {
                ltime: event.ltime,
                events: Vec::new(),
            }),
        };
        let bytes = |name: &Name, payload: &Bytes| EVENT_BYTES + name.len() + payload.len();
        let mut used = bytes(&event.name, &event.payload);
        for (name, payload) in &slot.events {
            if *name == event.name && *payload == event.payload {
                return Taken::Again;
            }
            used += bytes(name, payload);
        }
        if used > SLOT_BYTES_MAX {
            return Taken::Refused;
        }
        // In memory of its own: it stays for long, and the datagram that it came in need not.
        let payload = Bytes::copy_from_slice(&event.payload);
        slot.events.push((event.name.detached(), payload));
        Taken::New
    }

    /// From now on what is earlier than this is not wanted.
    pub fn begin_at(&mut self, begins: LamportTime) {
        self.begins = self.begins.max(begins);
    }

    /// The slots, as an exchange tells them.
    pub fn slots(&self) -> &[Option<EventSlot>] {
        &self.slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(ltime: u64, name: &str, payload: &str) -> UserEvent {
        UserEvent {
            ltime: LamportTime(ltime),
            name: Name::from(name),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            coalesce: false,
        }
    }

    #[test]
    fn an_event_is_new_once() {
        let (mut buffer, now) = (EventBuffer::default(), LamportTime(6));
        assert_eq!(buffer.take(&event(5, "a", "x"), now), Taken::New);
        assert_eq!(buffer.take(&event(5, "a", "x"), now), Taken::Again);
        assert_eq!(buffer.take(&event(5, "a", "y"), now), Taken::New);
        assert_eq!(buffer.take(&event(5, "b", "x"), now), Taken::New);
        assert_eq!(buffer.take(&event(4, "a", "x"), now), Taken::New);
        let slot = buffer.slots()[5].as_ref().unwrap();
        assert_eq!((slot.ltime, slot.events.len()), (LamportTime(5), 3));
    }

    #[test]
    fn what_is_older_than_the_window_or_our_time_is_not_handed_on() {
        let mut buffer = EventBuffer::default();
        assert_eq!(
            buffer.take(&event(1_000, "a", ""), LamportTime(1_001)),
            Taken::New
        );
        assert_eq!(
            buffer.take(&event(488, "a", ""), LamportTime(1_001)),
            Taken::TooOld
        );
        assert_eq!(
            buffer.take(&event(489, "a", ""), LamportTime(1_001)),
            Taken::New
        );
        buffer.begin_at(LamportTime(700));
        buffer.begin_at(LamportTime(3));
        assert_eq!(
            buffer.take(&event(699, "a", ""), LamportTime(1_001)),
            Taken::TooOld
        );
        assert_eq!(
            buffer.take(&event(700, "a", ""), LamportTime(1_001)),
            Taken::New
        );
        // 512 moments later the slot is another's.
        assert_eq!(
            buffer.take(&event(1_212, "a", ""), LamportTime(1_213)),
            Taken::New
        );
        assert_eq!(
            buffer.slots()[700 % 512].as_ref().unwrap().ltime,
            LamportTime(1_212)
        );
    }

    #[test]
    fn g9_moments_have_a_bound() {
        let (mut buffer, now) = (EventBuffer::default(), LamportTime(6));
        let taken = |number: usize, buffer: &mut EventBuffer| {
            buffer.take(&event(5, &number.to_string(), &"x".repeat(1_000)), now)
        };
        let new = (0..1_000)
            .filter(|number| taken(*number, &mut buffer) == Taken::New)
            .count();
        assert!((25..=32).contains(&new), "{new}");
        assert_eq!(taken(999, &mut buffer), Taken::Refused);
        assert_eq!(taken(0, &mut buffer), Taken::Again);
    }
}
