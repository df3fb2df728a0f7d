//! What Serf keeps beside the members of memberlist, and what it does with messages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::clock::LamportClock;
use super::coordinate::CoordinateClient;
use super::event_buffer::{EventBuffer, Taken};
use super::io::SerfOutput;
use super::query_buffer::{QueryBuffer, RunningQueries};
use super::roster::{IntentOutcome, Roster, RosterEvent};
use crate::chance::Chance;
use crate::name::Name;
use crate::swim::{BroadcastQueue, BroadcastToken, Delegate, Timing};
use crate::time::Time;
use crate::wire::serf::{
    Coordinate, Intent, LamportTime, MemberStatus, SerfMessage, SerfState, UserEvent,
};

/// Messages that wait to be passed on, of each kind (serf: config.go `MaxQueueDepth`).
pub const QUEUE_MAX: usize = 4096;

/// What was dropped or refused since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerCounters {
    /// Messages that could not be read, or that bear a moment that cannot be.
    pub messages_refused: u64,
    /// Events of moments that are forgotten, or before our time.
    pub events_too_old: u64,
    /// Events of moments that have too many.
    pub events_refused: u64,
    /// Messages that were dropped from a queue that was full.
    pub queue_dropped: u64,
    /// Queries of moments that are forgotten, or before our time.
    pub queries_too_old: u64,
    /// Queries of moments that have too many.
    pub queries_refused: u64,
    /// Answers to queries that are over, or never were.
    pub answers_not_asked_for: u64,
}

/// Whether we mean to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    Yes,
    Leaving,
}

/// Serf's own state.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) own: Name,
    pub(super) own_addr: SocketAddr,
    pub(super) stay: Stay,
    pub(super) clock: LamportClock,
    pub(super) event_clock: LamportClock,
    pub(super) query_clock: LamportClock,
    pub(super) events: EventBuffer,
    pub(super) queries: QueryBuffer,
    pub(super) running: RunningQueries,
    pub(super) roster: Roster,
    pub(super) coordinates: CoordinateClient,
    /// Where others are.
    pub(super) places: BTreeMap<Name, Coordinate>,
    pub(super) intents_queue: BroadcastQueue,
    pub(super) queries_queue: BroadcastQueue,
    pub(super) events_queue: BroadcastQueue,
    /// Messages that go straight to somebody.
    pub(super) sends: Vec<(SocketAddr, Bytes)>,
    pub(super) counters: LayerCounters,
    pub(super) outputs: Vec<SerfOutput>,
    pub(super) chance: Chance,
    pub(super) timing: Timing,
    /// How many members memberlist knows.
    pub(super) nodes: usize,
    /// Whether events from before our joins are wanted.
    pub(super) replay: bool,
}

impl Layer {
    /// A message of Serf has come.
    pub(super) fn message(&mut self, bytes: &Bytes, now: Time) {
        let taken = match SerfMessage::decode(bytes) {
            Ok(SerfMessage::UserEvent(event)) => return self.user_event(event, Some(bytes)),
            Ok(SerfMessage::Join(intent)) => self.intent(&intent, false, Some(bytes), now),
            Ok(SerfMessage::Leave(intent)) => self.intent(&intent, true, Some(bytes), now),
            Ok(SerfMessage::Query(query)) => return self.query(query, bytes, now),
            Ok(SerfMessage::QueryResponse(response)) => return self.query_response(response),
            Ok(SerfMessage::Relay(relay)) => self.relay(relay),
            // The state comes on streams, and by another way.
            Ok(SerfMessage::State(_)) | Err(_) => false,
        };
        self.counters.messages_refused += u64::from(!taken);
    }

    /// Something happened. Passed on as it came, when it came as a message.
    pub(super) fn user_event(&mut self, event: UserEvent, bytes: Option<&Bytes>) {
        if !self.event_clock.witness(event.ltime) {
            self.counters.messages_refused += 1;
            return;
        }
        match self.events.take(&event, self.event_clock.now()) {
            Taken::New => {
                if let Some(bytes) = bytes {
                    self.pass_on_event(bytes.clone());
                }
                self.outputs.push(SerfOutput::UserEvent(event));
            }
            Taken::Again => {}
            Taken::TooOld => self.counters.events_too_old += 1,
            Taken::Refused => self.counters.events_refused += 1,
        }
    }

    /// A node means to be a member, or to leave; whether its moment can be.
    fn intent(&mut self, intent: &Intent, leaves: bool, bytes: Option<&Bytes>, now: Time) -> bool {
        if !self.clock.witness(intent.ltime) {
            return false;
        }
        let IntentOutcome {
            pass_on,
            contradict,
            event,
        } = if leaves {
            let we_stay = (self.stay == Stay::Yes).then_some(&self.own);
            self.roster.leave_intent(intent, we_stay, now)
        } else {
            self.roster.join_intent(intent, now)
        };
        if contradict {
            self.announce(now);
        }
        if let Some(bytes) = bytes.filter(|_| pass_on) {
            self.pass_on_intent(bytes.clone(), None);
        }
        self.member_changed(event);
        true
    }

    /// Says that we are a member, and mean to stay one.
    pub(super) fn announce(&mut self, now: Time) {
        let intent = Intent {
            ltime: self.clock.tick(),
            node: self.own.clone(),
            prune: false,
        };
        self.roster.join_intent(&intent, now);
        self.pass_on_intent(SerfMessage::Join(intent).encode(), None);
    }

    /// Says that a node leaves: ourselves, or one that failed.
    pub(super) fn say_leave(
        &mut self,
        node: Name,
        prune: bool,
        token: Option<BroadcastToken>,
        now: Time,
    ) {
        let ltime = self.clock.tick();
        let intent = Intent { ltime, node, prune };
        let we_stay = (self.stay == Stay::Yes).then_some(&self.own);
        let outcome = self.roster.leave_intent(&intent, we_stay, now);
        self.pass_on_intent(SerfMessage::Leave(intent).encode(), token);
        self.member_changed(outcome.event);
    }

    pub(super) fn pass_on_event(&mut self, bytes: Bytes) {
        self.events_queue.push(bytes, None, None);
        self.counters.queue_dropped += self.events_queue.prune(QUEUE_MAX) as u64;
    }

    pub(super) fn pass_on_query(&mut self, bytes: Bytes) {
        self.queries_queue.push(bytes, None, None);
        self.counters.queue_dropped += self.queries_queue.prune(QUEUE_MAX) as u64;
    }

    fn pass_on_intent(&mut self, bytes: Bytes, token: Option<BroadcastToken>) {
        self.intents_queue.push(bytes, None, token);
        self.counters.queue_dropped += self.intents_queue.prune(QUEUE_MAX) as u64;
    }

    pub(super) fn member_changed(&mut self, event: Option<RosterEvent>) {
        self.outputs.extend(event.map(SerfOutput::Member));
    }

    /// What another node knows, from an exchange.
    pub(super) fn remote_state(&mut self, our_join: bool, bytes: &Bytes, now: Time) {
        let Ok(SerfMessage::State(state)) = SerfMessage::decode(bytes) else {
            self.counters.messages_refused += 1;
            return;
        };
        // Their clocks stand at what comes next, and have seen what is before it.
        let before = |time: LamportTime| LamportTime(time.0.saturating_sub(1));
        let sensible = self.clock.witness(before(state.ltime))
            & self.event_clock.witness(before(state.event_ltime))
            & self.query_clock.witness(before(state.query_ltime));
        self.counters.messages_refused += u64::from(!sensible);
        let left: std::collections::BTreeSet<_> = state.left_members.into_iter().collect();
        for (node, ltime) in state.status_ltimes {
            let leaves = left.contains(&node);
            // One later, so that it counts against the join that bears the same moment.
            let ltime = LamportTime(ltime.0.saturating_add(u64::from(leaves)));
            let intent = Intent {
                ltime,
                node,
                prune: false,
            };
            if !self.intent(&intent, leaves, None, now) {
                self.counters.messages_refused += 1;
            }
        }
        if our_join && !self.replay {
            self.events
                .begin_at(state.event_ltime.min(self.event_clock.now()));
        }
        let mut slots: Vec<_> = state.events.into_iter().flatten().collect();
        // In the order of their moments, not of the slots that they happen to stand in.
        slots.sort_by_key(|slot| slot.ltime);
        for slot in slots {
            for (name, payload) in slot.events {
                let ltime = slot.ltime;
                self.user_event(
                    UserEvent {
                        ltime,
                        name,
                        payload,
                        coalesce: false,
                    },
                    None,
                );
            }
        }
    }

    /// A member answered a probe.
    pub(super) fn answered(&mut self, node: &Name, round_trip: Duration, payload: Option<&Bytes>) {
        let Some(Ok(place)) = payload.map(Coordinate::decode) else {
            return;
        };
        if self
            .coordinates
            .update(node, &place, round_trip, &mut self.chance)
        {
            self.places.insert(node.clone(), place);
        }
    }
}

impl Delegate for Layer {
    fn local_state(&mut self, _: bool) -> Bytes {
        let left = self
            .roster
            .iter()
            .filter(|member| member.status == MemberStatus::Left);
        let state = SerfState {
            ltime: self.clock.now(),
            status_ltimes: self
                .roster
                .iter()
                .map(|member| (member.name.clone(), member.status_ltime))
                .collect(),
            left_members: left.map(|member| member.name.clone()).collect(),
            event_ltime: self.event_clock.now(),
            events: self.events.slots().to_vec(),
            query_ltime: self.query_clock.now(),
        };
        SerfMessage::State(state).encode()
    }

    fn broadcasts(&mut self, overhead: usize, limit: usize) -> Vec<Bytes> {
        let transmits_max = self.timing.transmits_max(self.nodes);
        let (mut taken, mut left) = (Vec::new(), limit);
        // In the order of peers: whose membership is in doubt cannot answer, and who asks is waiting.
        let queues = [
            &mut self.intents_queue,
            &mut self.queries_queue,
            &mut self.events_queue,
        ];
        for queue in queues {
            let news = queue.take(overhead, left, transmits_max);
            left -= news
                .iter()
                .map(|bytes| overhead + bytes.len())
                .sum::<usize>();
            taken.extend(news);
        }
        taken
    }

    fn ack_payload(&mut self) -> Option<Bytes> {
        Some(self.coordinates.own().encode())
    }
}
