//! What a node knows, told in an exchange on a stream.

use bytes::Bytes;

use super::LamportTime;
use crate::name::Name;
use crate::wire::msgpack::{Reader, Writer};
use crate::wire::{PUSH_PULL_NODES_MAX, WireError};

/// Slots for events. Agents send 512; the number is fixed there.
const EVENT_SLOTS_MAX: usize = 8192;

/// Events of one moment.
const SLOT_EVENTS_MAX: usize = 1 << 16;

/// The events of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventSlot {
    /// The moment.
    pub ltime: LamportTime,
    /// Their names and payloads.
    pub events: Vec<(Name, Bytes)>,
}

/// What a node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SerfState {
    /// Its clock of members.
    pub ltime: LamportTime,
    /// When each member's status was last said.
    pub status_ltimes: Vec<(Name, LamportTime)>,
    /// The members that have left.
    pub left_members: Vec<Name>,
    /// Its clock of events.
    pub event_ltime: LamportTime,
    /// The events that it remembers, in the order of its slots.
    pub events: Vec<Option<EventSlot>>,
    /// Its clock of queries.
    pub query_ltime: LamportTime,
}

impl SerfState {
    pub(super) fn read(reader: &mut Reader) -> Result<SerfState, WireError> {
        let mut state = SerfState::default();
        let fields = [
            "LTime",
            "StatusLTimes",
            "LeftMembers",
            "EventLTime",
            "Events",
            "QueryLTime",
        ];
        reader.structure(&fields, |reader, field| {
            match field {
                "LTime" => state.ltime = LamportTime::read(reader, "LTime")?,
                "StatusLTimes" => {
                    let time = |reader: &mut Reader| LamportTime::read(reader, "StatusLTimes");
                    state.status_ltimes = reader.pairs("members", PUSH_PULL_NODES_MAX, time)?;
                }
                "LeftMembers" => {
                    let (what, limit) = ("members that left", PUSH_PULL_NODES_MAX);
                    state.left_members = reader.list(what, limit, Reader::name)?;
                }
                "EventLTime" => state.event_ltime = LamportTime::read(reader, "EventLTime")?,
                "Events" => {
                    let (what, limit) = ("slots of events", EVENT_SLOTS_MAX);
                    state.events = reader.list(what, limit, EventSlot::read_or_nil)?;
                }
                _ => state.query_ltime = LamportTime::read(reader, "QueryLTime")?,
            }
            Ok(())
        })?;
        Ok(state)
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.map(6);
        writer.key("EventLTime").uint(self.event_ltime.0);
        writer.key("Events").array(self.events.len());
        for slot in &self.events {
            match slot {
                Some(slot) => slot.write(writer),
                None => writer.nil(),
            }
        }
        writer.key("LTime").uint(self.ltime.0);
        writer.key("LeftMembers").array(self.left_members.len());
        for name in &self.left_members {
            writer.raw(name.as_ref());
        }
        writer.key("QueryLTime").uint(self.query_ltime.0);
        writer.key("StatusLTimes").map(self.status_ltimes.len());
        for (name, ltime) in &self.status_ltimes {
            writer.raw(name.as_ref());
            writer.uint(ltime.0);
        }
    }
}

impl EventSlot {
    fn read_or_nil(reader: &mut Reader) -> Result<Option<EventSlot>, WireError> {
        if reader.take_nil()? {
            return Ok(None);
        }
        let mut slot = EventSlot::default();
        reader.structure(&["LTime", "Events"], |reader, field| {
            match field {
                "LTime" => slot.ltime = LamportTime::read(reader, "LTime")?,
                _ => slot.events = reader.list("events of a slot", SLOT_EVENTS_MAX, read_event)?,
            }
            Ok(())
        })?;
        Ok(Some(slot))
    }

    fn write(&self, writer: &mut Writer) {
        writer.map(2);
        writer.key("Events").array(self.events.len());
        for (name, payload) in &self.events {
            writer.map(2);
            writer.key("Name").raw(name.as_ref());
            writer.key("Payload").raw(payload);
        }
        writer.key("LTime").uint(self.ltime.0);
    }
}

fn read_event(reader: &mut Reader) -> Result<(Name, Bytes), WireError> {
    let mut event = (Name::default(), Bytes::new());
    reader.structure(&["Name", "Payload"], |reader, field| {
        match field {
            "Name" => event.0 = reader.name()?,
            _ => event.1 = reader.raw()?,
        }
        Ok(())
    })?;
    Ok(event)
}
