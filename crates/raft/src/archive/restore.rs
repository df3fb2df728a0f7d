use std::{cmp::Ordering, sync::Arc, time::Duration};

use serde::Serialize;
use tidings_event::{EventView, FrameView, Index, Limits, NewEvent};
use tidings_timeline::{
    CommandGroup, Entry, EntryChange, EntryName, Outcome, Stamper, StateView, TimelineId,
};
use tokio::{io::AsyncRead, time};

use super::{SnapshotFileError, SnapshotInfo, blocking, read::Archive};
use crate::{error::ProposeError, replica::Replica};

/// Bytes of commands in one group: a small part of what one may have, so that others' go between.
const GROUP_BYTES: usize = 256 << 10;
/// How often a group is offered to a queue that is full. Its waits are told by the queue.
const OFFERS_MAX: usize = 30;
/// How often it is begun again because the leader changed, and the pause before. Each try waits for a
/// leader itself, so that this is longer than any election.
const ROUNDS_MAX: usize = 20;
const ROUND_PAUSE: Duration = Duration::from_millis(500);
/// The topic and the type of the event that tells of a restore.
const TOPIC: &str = "Timeline";
const TYPE: &str = "StateRestored";
/// The type of the events by which entries go that the snapshot does not have.
const REMOVED_TYPE: &str = "RemovedByRestore";

/// Whose snapshot is restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestoreScope {
    /// Only one of the timeline that is here.
    #[default]
    OwnTimeline,
    /// That of any timeline: its entries come here.
    AnyTimeline,
}

/// What a restore has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Restored {
    /// What was in the file.
    pub snapshot: SnapshotInfo,
    /// Entries that were written as they were then.
    pub written: u64,
    /// Entries that were removed, as there were none then.
    pub removed: u64,
    /// The frame that tells of the restore; all its changes are before it.
    pub index: Index,
}

/// One change that is to be made.
enum Change {
    Write(Arc<Entry>),
    Remove(Arc<Entry>),
}

impl Replica {
    /// Brings the entries back to what they are in a snapshot, whose state may have so many bytes.
    ///
    /// Each difference becomes a change like any other: recorded, with an index and an event of its
    /// own, the same on every server. Nothing is taken from the history, and indexes go on. Last, an
    /// event `Timeline`/`StateRestored` tells that it is done. Changes that others make meanwhile go
    /// between; the file is read to its end and checked before the first is made. When the leader
    /// changes, what is not there yet is looked for again, and made with the next one.
    ///
    /// # Errors
    ///
    /// When the file is damaged, too large or of another timeline: nothing was changed. When not all
    /// changes were recorded: the same again does the rest.
    pub async fn snapshot_restore<R>(
        &self,
        reader: R,
        scope: RestoreScope,
        state_bytes_max: u64,
    ) -> Result<Restored, SnapshotFileError>
    where
        R: AsyncRead + Unpin + Send,
    {
        let mut archive = Archive::open(reader, state_bytes_max).await?;
        let timeline = archive.head.timeline;
        self.admit(timeline, scope)?;
        let state = archive.state().await?;
        let then = archive.decode(state).await?.view();
        while archive.lines().await?.is_some() {}
        let snapshot = archive.info()?;
        drop(archive);

        let mut restoring = Restoring {
            replica: self,
            stamper: self.stamper(),
            group: CommandGroup::new(),
            written: 0,
            removed: 0,
            of: 0,
        };
        let mut round = 1;
        while let Err(error) = restoring.bring_back(&then, timeline, scope).await {
            if !passes(&error) || round == ROUNDS_MAX {
                return Err(error);
            }
            tracing::info!(error = %crate::error::chain(&error), "the restore is begun again");
            // What became of these is seen in the state.
            restoring.group = CommandGroup::new();
            round += 1;
            time::sleep(ROUND_PAUSE).await;
        }
        let index = restoring.tell(&snapshot).await?;
        let Restoring {
            written, removed, ..
        } = restoring;
        tracing::info!(
            frame = snapshot.newest.get(),
            written,
            removed,
            "state restored from a snapshot"
        );
        Ok(Restored {
            snapshot,
            written,
            removed,
            index,
        })
    }

    /// Refuses the snapshot of another timeline, unless that is what was asked for.
    fn admit(&self, found: Option<u128>, scope: RestoreScope) -> Result<(), SnapshotFileError> {
        match (found, self.state().timeline) {
            (Some(found), Some(ours)) if found != ours.0 && scope == RestoreScope::OwnTimeline => {
                let found = TimelineId(found);
                Err(SnapshotFileError::OtherTimeline { found, ours })
            }
            _ => Ok(()),
        }
    }
}

/// Whether it is another thing once somebody leads.
fn passes(error: &SnapshotFileError) -> bool {
    match error {
        SnapshotFileError::Propose { source, .. } => matches!(
            source,
            ProposeError::NotLeader { .. } | ProposeError::Unknown { .. }
        ),
        SnapshotFileError::Behind(_) => true,
        _ => false,
    }
}

/// What is to be changed for `now` to have the entries of `then`.
fn differences(now: &StateView, then: &StateView) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut have = now.entries().peekable();
    let mut want = then.entries().peekable();
    // Both are in the order of their names.
    loop {
        let order = match (have.peek(), want.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(have), Some(want)) => have.name.cmp(&want.name),
        };
        match order {
            Ordering::Less => changes.extend(have.next().cloned().map(Change::Remove)),
            Ordering::Greater => changes.extend(want.next().cloned().map(Change::Write)),
            Ordering::Equal => {
                if let (Some(have), Some(want)) = (have.next(), want.next())
                    && !says_the_same(have, want)
                {
                    changes.push(Change::Write(want.clone()));
                }
            }
        }
    }
}

/// Whether two entries differ in nothing but when and under which id they were written.
fn says_the_same(one: &Entry, other: &Entry) -> bool {
    fn said<'a>(event: &EventView<'a>) -> impl PartialEq + use<'a> {
        (
            event.type_(),
            event.filter_keys(),
            event.has_null_filter_keys(),
            event.node(),
            event.source(),
            event.payload(),
        )
    }
    let (one, other) = (one.line(), other.line());
    match (FrameView::parse(&one), FrameView::parse(&other)) {
        (Ok(one), Ok(other)) => match (one.events().first(), other.events().first()) {
            (Some(one), Some(other)) => said(one) == said(other),
            _ => false,
        },
        _ => false,
    }
}

/// Changes on their way.
struct Restoring<'a> {
    replica: &'a Replica,
    stamper: Stamper,
    group: CommandGroup,
    written: u64,
    removed: u64,
    /// Those that were made before this round, and those that were left at its beginning.
    of: u64,
}

impl Restoring<'_> {
    /// Makes all changes that the state lacks now.
    async fn bring_back(
        &mut self,
        then: &Arc<StateView>,
        timeline: Option<u128>,
        scope: RestoreScope,
    ) -> Result<(), SnapshotFileError> {
        self.replica.read_barrier().await?;
        // It may not have been known before.
        self.replica.admit(timeline, scope)?;
        let (now, then) = (self.replica.state(), then.clone());
        // Each entry is looked at, and there may be millions of them.
        let changes = blocking(move || Ok(differences(&now, &then))).await?;
        self.of = self.written + self.removed + changes.len() as u64;
        self.stamper.set_time(self.replica.now());
        for change in changes {
            match change {
                Change::Write(entry) => self.write(&entry).await?,
                Change::Remove(entry) => self.remove(&entry).await?,
            }
        }
        self.propose().await
    }

    /// Writes an entry as it was, under an id and a time of its own: it is another event.
    async fn write(&mut self, entry: &Entry) -> Result<(), SnapshotFileError> {
        let line = entry.line();
        let frame = FrameView::parse(&line).ok();
        let event = frame.as_ref().and_then(|frame| frame.events().first());
        let Some(event) = event else {
            return Err(SnapshotFileError::Damaged {
                offset: 0,
                what: format!(
                    "the entry {}:{} is no event",
                    entry.name.topic, entry.name.key
                ),
            });
        };
        let raw = event.raw();
        let event = NewEvent::parse(raw.as_bytes()).map(|event| NewEvent {
            id: None,
            time: None,
            ..event
        });
        let added = event.and_then(|event| {
            let change = EntryChange {
                cas: None,
                event: &event,
            };
            let limits = limits(raw.len());
            self.group.put_entry(change, &mut self.stamper, &limits)
        });
        added.map_err(|source| broken(&entry.name, source))?;
        self.propose_when_full().await
    }

    async fn remove(&mut self, entry: &Entry) -> Result<(), SnapshotFileError> {
        let json = format!(r#"{{"Topic":"T","Type":"{REMOVED_TYPE}"}}"#);
        let event = NewEvent::parse(json.as_bytes()).map(|event| NewEvent {
            topic: entry.name.topic.as_ref().into(),
            namespace: entry.name.namespace.as_ref().into(),
            key: entry.name.key.as_ref().into(),
            ..event
        });
        let added = event.and_then(|event| {
            let change = EntryChange {
                cas: None,
                event: &event,
            };
            let limits = limits(0);
            self.group.delete_entry(change, &mut self.stamper, &limits)
        });
        added.map_err(|source| broken(&entry.name, source))?;
        self.propose_when_full().await
    }

    async fn propose_when_full(&mut self) -> Result<(), SnapshotFileError> {
        match self.group.bytes_len() >= GROUP_BYTES {
            true => self.propose().await,
            false => Ok(()),
        }
    }

    async fn propose(&mut self) -> Result<(), SnapshotFileError> {
        let group = std::mem::take(&mut self.group);
        if group.is_empty() {
            return Ok(());
        }
        for outcome in self.record(group).await? {
            match outcome {
                Outcome::Stored { .. } => self.written += 1,
                Outcome::Deleted { .. } => self.removed += 1,
                // somebody else has removed it meanwhile
                _ => {}
            }
        }
        // The group after it is of a later moment.
        self.stamper.set_time(self.replica.now());
        Ok(())
    }

    /// Records a group, and waits while too much waits already.
    async fn record(&self, group: CommandGroup) -> Result<Vec<Outcome>, SnapshotFileError> {
        let group = group.complete();
        let mut offers = 1;
        loop {
            let recorded = match self.replica.submit(group.clone()).await {
                Ok(answer) => answer.await,
                Err(error) => Err(error),
            };
            match recorded {
                Ok(outcomes) => return Ok(outcomes),
                Err(ProposeError::Overloaded { retry_after }) if offers < OFFERS_MAX => {
                    offers += 1;
                    time::sleep(retry_after).await;
                }
                Err(source) => {
                    return Err(SnapshotFileError::Propose {
                        done: self.written + self.removed,
                        of: self.of,
                        source,
                    });
                }
            }
        }
    }

    /// Tells all followers that the state is what it was, and gives the frame that does.
    async fn tell(&mut self, snapshot: &SnapshotInfo) -> Result<Index, SnapshotFileError> {
        // An id that is given is remembered: it is told once, however often it is sent.
        let json = format!(
            r#"{{"Topic":"{TOPIC}","Type":"{TYPE}","Id":"restore-{}","Payload":{{"Newest":{},"Made":"{}","Written":{},"Removed":{}}}}}"#,
            TimelineId(tidings_host::ulid().0),
            snapshot.newest,
            snapshot.made,
            self.written,
            self.removed
        );
        let mut group = CommandGroup::new();
        let added = NewEvent::parse(json.as_bytes())
            .and_then(|event| group.publish(&[event], &mut self.stamper, &limits(0)));
        added.map_err(|source| SnapshotFileError::Entry {
            topic: TOPIC.to_owned(),
            key: String::new(),
            source,
        })?;
        let mut round = 1;
        loop {
            match self.record(group.clone()).await {
                Ok(outcomes) => {
                    let index = outcomes.iter().find_map(Outcome::index);
                    return Ok(index.unwrap_or_default());
                }
                Err(error) if passes(&error) && round < ROUNDS_MAX => {
                    round += 1;
                    time::sleep(ROUND_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// What was taken once is taken again, whatever the limits are now.
fn limits(event_bytes: usize) -> Limits {
    let defaults = Limits::default();
    Limits {
        event_bytes: defaults.event_bytes.max(2 * event_bytes + 1024),
        name_bytes: usize::MAX,
        key_bytes: usize::MAX,
        filter_keys: usize::MAX,
        id_bytes: usize::MAX,
        ..defaults
    }
}

fn broken(name: &EntryName, source: tidings_event::EventError) -> SnapshotFileError {
    SnapshotFileError::Entry {
        topic: name.topic.to_string(),
        key: name.key.to_string(),
        source,
    }
}
