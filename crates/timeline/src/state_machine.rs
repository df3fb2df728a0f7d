use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tidings_event::{Index, Timestamp};

use crate::batch::Batch;
use crate::codec::Reader;
use crate::command::{Change, Command, Events, read_command};
use crate::dedupe::{DedupeWindow, Remembered};
use crate::frame_batch::{FrameBatch, FrameBatchBuilder};
use crate::outcome::{Outcome, Refusal};
use crate::senders::{SenderNumber, Senders, SendersRecord};
use crate::state::{Entries, Entry, EntryName, StateView, TopicIndexes};
use crate::{Settings, TimelineId};

/// Turns batches into frames and state. The same batches give the same bytes, wherever and whenever.
#[derive(Debug)]
pub struct StateMachine {
    timeline: Option<TimelineId>,
    index: Index,
    oldest: Index,
    settings: Arc<Settings>,
    entries: Entries,
    topics: TopicIndexes,
    dedupe: DedupeWindow,
    senders: Senders,
    /// Bytes in the newest segment, which decide when it is sealed.
    segment_bytes: u64,
}

/// What a batch did.
#[derive(Debug)]
pub struct Applied {
    /// What became of each command, in order.
    pub outcomes: Vec<Outcome>,
    /// The frames that came of it, to be stored and announced.
    pub frames: Option<Arc<FrameBatch>>,
    /// The newest segment ends with these frames.
    pub seal: bool,
    /// Frames before this one may be dropped.
    pub retain: Option<Index>,
}

/// A batch that this program cannot read. Nothing of it was applied beyond what can be undone by
/// restoring: the caller must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// A command is cut, or of a kind that this version does not know.
    #[error("command {ordinal} of the batch is not one that this version can read")]
    UnreadableCommand {
        /// Which, counted from 0.
        ordinal: usize,
    },
}

/// A snapshot that this program cannot read.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// Written by another version.
    #[error("the snapshot has version {found}, this program reads versions 1 and 2")]
    Version {
        /// The version found.
        found: u8,
    },
    /// Its bytes make no sense.
    #[error("the snapshot cannot be decoded")]
    Decode(#[source] postcard::Error),
    /// It is empty.
    #[error("the snapshot is empty")]
    Empty,
}

/// Wire value: append only.
const SNAPSHOT_VERSION: u8 = 1;
/// Wire value: append only. The same, and behind it the senders. It is written only when there are
/// some, so that a server of the version before reads what it can.
const SNAPSHOT_VERSION_SENDERS: u8 = 2;

#[derive(Serialize, Deserialize)]
struct Snapshot {
    timeline: Option<TimelineId>,
    index: Index,
    oldest: Index,
    settings: Settings,
    segment_bytes: u64,
    entries: Vec<Arc<Entry>>,
    topics: Vec<(Arc<str>, Index)>,
    dedupe: Vec<Remembered>,
}

impl StateMachine {
    /// An empty timeline.
    pub fn new(settings: Settings) -> StateMachine {
        StateMachine {
            timeline: None,
            index: Index::ZERO,
            oldest: Index::FIRST,
            settings: Arc::new(settings),
            entries: Entries::new_sync(),
            topics: TopicIndexes::new_sync(),
            dedupe: DedupeWindow::default(),
            senders: Senders::default(),
            segment_bytes: 0,
        }
    }

    /// The newest frame.
    pub fn index(&self) -> Index {
        self.index
    }

    /// Bytes in the history's newest segment; 0 when the one before was just sealed.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The state now.
    pub fn view(&self) -> Arc<StateView> {
        Arc::new(StateView {
            index: self.index,
            oldest: self.oldest,
            timeline: self.timeline,
            settings: Arc::clone(&self.settings),
            dedupe_ids: self.dedupe.len(),
            senders: self.senders.len(),
            entries: self.entries.clone(),
            topics: self.topics.clone(),
        })
    }

    /// Applies one batch.
    ///
    /// # Errors
    /// When a command cannot be read. The state is then part way through the batch and must not be
    /// used any more: another version wrote the log, or it is damaged in a way that checksums miss.
    pub fn apply(&mut self, batch: &Batch) -> Result<Applied, ApplyError> {
        let bytes: usize = batch.groups.iter().map(|group| group.len()).sum();
        let mut frames = FrameBatchBuilder::new(self.index.next(), bytes + bytes / 8);
        let mut applied = Applied {
            outcomes: Vec::with_capacity(frames.room()),
            frames: None,
            seal: false,
            retain: None,
        };
        for group in &batch.groups {
            let mut reader = Reader::new(group);
            loop {
                let ordinal = applied.outcomes.len();
                let command = read_command(&mut reader)
                    .map_err(|_| ApplyError::UnreadableCommand { ordinal })?;
                let Some(command) = command else { break };
                let outcome = self
                    .apply_command(command, batch.time, &mut frames, &mut applied)
                    .map_err(|_| ApplyError::UnreadableCommand { ordinal })?;
                applied.outcomes.push(outcome);
            }
        }
        self.dedupe.forget(
            self.settings.dedupe_ids_max,
            self.settings.dedupe_age_s,
            batch.time,
        );
        self.senders.sweep(batch.time);
        if !frames.is_empty() {
            let frames = frames.finish(batch.time);
            self.segment_bytes += frames.bytes.len() as u64;
            applied.frames = Some(Arc::new(frames));
        }
        if self.segment_bytes >= self.settings.segment_bytes {
            applied.seal = true;
        }
        // An empty segment is not sealed: there would be nothing in it.
        applied.seal &= self.segment_bytes > 0;
        if applied.seal {
            self.segment_bytes = 0;
        }
        Ok(applied)
    }

    fn apply_command(
        &mut self,
        command: Command<'_>,
        time: Timestamp,
        frames: &mut FrameBatchBuilder,
        applied: &mut Applied,
    ) -> Result<Outcome, Unreadable> {
        Ok(match command {
            Command::Publish { of: None, events } => self.publish(events, time, frames),
            Command::Publish {
                of: Some(of),
                events,
            } => self.publish_numbered(of, events, time, frames),
            Command::PutEntry(change) => self.put_entry(change, time, frames),
            Command::DeleteEntry(change) => self.delete_entry(change, frames),
            Command::ChangeSettings(json) => {
                let settings = serde_json::from_slice(json).map_err(|_| Unreadable)?;
                self.settings = Arc::new(settings);
                Outcome::Done
            }
            Command::Found { timeline } => {
                self.timeline.get_or_insert(timeline);
                Outcome::Done
            }
            Command::Seal => {
                applied.seal = true;
                Outcome::Done
            }
            Command::Retain { oldest } => {
                // Never beyond what there will be, and never backwards.
                let oldest = oldest.min(self.index.next());
                if oldest > self.oldest {
                    self.oldest = oldest;
                    applied.retain = Some(oldest);
                }
                Outcome::Done
            }
        })
    }

    fn publish_numbered(
        &mut self,
        of: SenderNumber,
        events: Events<'_>,
        time: Timestamp,
        frames: &mut FrameBatchBuilder,
    ) -> Outcome {
        if let Err(outcome) = self.senders.admit(of, time) {
            return outcome;
        }
        // One that is refused for its Ids has had its turn, too.
        let outcome = self.publish(events, time, frames);
        self.senders.take(of, outcome.index(), time);
        outcome
    }

    fn publish(
        &mut self,
        events: Events<'_>,
        time: Timestamp,
        frames: &mut FrameBatchBuilder,
    ) -> Outcome {
        let mut known: Option<Index> = None;
        let mut repeats = 0_usize;
        let mut fresh = 0_usize;
        let mut places_differ = false;
        for event in events.iter() {
            // An event without an Id is always a new one.
            match event.given_id.and_then(|id| self.dedupe.find(id)) {
                None => fresh += 1,
                Some(index) => {
                    repeats += 1;
                    places_differ |= known.is_some_and(|known| known != index);
                    known = Some(known.map_or(index, |known| known.min(index)));
                }
            }
        }
        if let Some(index) = known.filter(|_| repeats > 0) {
            if fresh > 0 || places_differ {
                return Outcome::Refused(Box::new(Refusal::PartlyDuplicate { index }));
            }
            return Outcome::Duplicate { index };
        }
        frames.push(events.iter());
        self.index = frames.last();
        for id in events.iter().filter_map(|event| event.given_id) {
            self.dedupe.remember(id, self.index, time);
        }
        Outcome::Published { index: self.index }
    }

    fn put_entry(
        &mut self,
        change: Change<'_>,
        time: Timestamp,
        frames: &mut FrameBatchBuilder,
    ) -> Outcome {
        let name = entry_name(&change);
        let before = self.entries.get(&name);
        if let Err(refusal) = check_cas(change.cas, before) {
            return refusal;
        }
        let create_index = before.map(|entry| entry.create_index);
        frames.push(std::iter::once(change.event));
        self.index = frames.last();
        let entry = Entry {
            name: name.clone(),
            create_index: create_index.unwrap_or(self.index),
            modify_index: self.index,
            time,
            body: change.event.body.to_vec(),
        };
        self.topics.insert_mut(Arc::clone(&name.topic), self.index);
        self.entries.insert_mut(name, Arc::new(entry));
        Outcome::Stored { index: self.index }
    }

    fn delete_entry(&mut self, change: Change<'_>, frames: &mut FrameBatchBuilder) -> Outcome {
        let name = entry_name(&change);
        let before = self.entries.get(&name);
        if let Err(refusal) = check_cas(change.cas, before) {
            return refusal;
        }
        if before.is_none() {
            return Outcome::Refused(Box::new(Refusal::NoEntry));
        }
        frames.push(std::iter::once(change.event));
        self.index = frames.last();
        self.topics.insert_mut(Arc::clone(&name.topic), self.index);
        self.entries.remove_mut(&name);
        Outcome::Deleted { index: self.index }
    }

    /// Makes this the state of another timeline that begins with it: one whose later frames are lost,
    /// and which gives their indexes to others. Not for the state of a log that goes on.
    pub fn begin_anew(&mut self, timeline: TimelineId) {
        self.timeline = Some(timeline);
    }

    /// The state as bytes: the same state gives the same bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let snapshot = Snapshot {
            timeline: self.timeline,
            index: self.index,
            oldest: self.oldest,
            settings: (*self.settings).clone(),
            segment_bytes: self.segment_bytes,
            entries: self.entries.values().cloned().collect(),
            topics: self
                .topics
                .iter()
                .map(|(topic, index)| (Arc::clone(topic), *index))
                .collect(),
            dedupe: self.dedupe.iter().copied().collect(),
        };
        let plain = "plain data is always encoded into memory";
        if self.senders.len() == 0 {
            return postcard::to_extend(&snapshot, vec![SNAPSHOT_VERSION]).expect(plain);
        }
        let bytes = postcard::to_extend(&snapshot, vec![SNAPSHOT_VERSION_SENDERS]).expect(plain);
        postcard::to_extend(&self.senders.record(), bytes).expect(plain)
    }

    /// The state that [`StateMachine::snapshot`] told of.
    ///
    /// # Errors
    /// When the bytes are of another version or make no sense.
    pub fn restore(bytes: &[u8]) -> Result<StateMachine, RestoreError> {
        let (version, bytes) = bytes.split_first().ok_or(RestoreError::Empty)?;
        if !matches!(*version, SNAPSHOT_VERSION | SNAPSHOT_VERSION_SENDERS) {
            return Err(RestoreError::Version { found: *version });
        }
        let (snapshot, rest): (Snapshot, &[u8]) =
            postcard::take_from_bytes(bytes).map_err(RestoreError::Decode)?;
        let senders = match *version {
            SNAPSHOT_VERSION => Senders::default(),
            _ => postcard::from_bytes::<SendersRecord>(rest)
                .map_err(RestoreError::Decode)?
                .into(),
        };
        let mut machine = StateMachine::new(snapshot.settings);
        machine.senders = senders;
        machine.timeline = snapshot.timeline;
        machine.index = snapshot.index;
        machine.oldest = snapshot.oldest;
        machine.segment_bytes = snapshot.segment_bytes;
        for entry in snapshot.entries {
            machine.entries.insert_mut(entry.name.clone(), entry);
        }
        for (topic, index) in snapshot.topics {
            machine.topics.insert_mut(topic, index);
        }
        machine.dedupe = DedupeWindow::restore(snapshot.dedupe);
        Ok(machine)
    }
}

/// A command whose body cannot be read.
struct Unreadable;

fn entry_name(change: &Change<'_>) -> EntryName {
    EntryName {
        topic: change.topic.into(),
        namespace: change.namespace.into(),
        key: change.key.into(),
    }
}

fn check_cas(cas: Option<u64>, entry: Option<&Arc<Entry>>) -> Result<(), Outcome> {
    let current = entry.map_or(0, |entry| entry.modify_index.get());
    match cas {
        Some(expected) if expected != current => {
            Err(Outcome::Refused(Box::new(Refusal::CasMismatch {
                expected,
                current,
            })))
        }
        _ => Ok(()),
    }
}
