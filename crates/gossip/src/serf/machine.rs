//! Serf's machine: memberlist's machine, and the layer above it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::clock::LamportClock;
use super::coordinate::CoordinateClient;
use super::event_buffer::EventBuffer;
use super::io::{EventError, SerfCommand, SerfConfig, SerfConfigError, SerfOutput, SerfTiming};
use super::layer::{Layer, LayerCounters, Stay};
use super::query::{QueryError, Question, ReceivedQuery, RespondError};
use super::query_buffer::{QueryBuffer, RunningQueries};
use super::roster::{Roster, SerfMember};
use super::snapshot::Snapshot;
use crate::chance::Chance;
use crate::name::Name;
use crate::swim::{BroadcastQueue, BroadcastToken, Command, Input, MemberEvent, Output, Swim};
use crate::time::Time;
use crate::wire::Keyring;
use crate::wire::serf::{
    Coordinate, LamportTime, MemberStatus, SerfMessage, Tags, TagsError, UserEvent,
};

/// Joins of our own making: trying those that failed. Numbers from outside are below.
const RECONNECT_JOIN: u64 = u64::MAX;

/// That we leave, in the queue of intents.
const LEAVE_TOKEN: BroadcastToken = BroadcastToken::MAX;

/// How far our leaving is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// It is told that we mean to.
    Intent {
        until: Time,
    },
    /// It is told that we are gone.
    Gone,
    /// The news goes round.
    Propagates {
        until: Time,
    },
    Done,
}

/// The machine.
#[derive(Debug)]
pub struct Serf {
    swim: Swim,
    layer: Layer,
    timing: SerfTiming,
    event_bytes_max: usize,
    next_reap: Time,
    next_reconnect: Time,
    leaving: Leaving,
    now: Time,
}

impl Serf {
    /// A machine that knows nobody; [`Serf::start`] sets it going.
    ///
    /// # Errors
    ///
    /// The configuration cannot work.
    pub fn new(config: SerfConfig, mut chance: Chance) -> Result<Serf, SerfConfigError> {
        let mut node = config.swim;
        node.meta = config.tags.encode()?;
        let layer = Layer {
            own: node.name.clone(),
            own_addr: node.addr,
            stay: Stay::Yes,
            clock: LamportClock::default(),
            event_clock: LamportClock::default(),
            query_clock: LamportClock::default(),
            events: EventBuffer::default(),
            queries: QueryBuffer::default(),
            running: RunningQueries::new(),
            roster: Roster::default(),
            coordinates: CoordinateClient::default(),
            places: BTreeMap::new(),
            intents_queue: BroadcastQueue::default(),
            queries_queue: BroadcastQueue::default(),
            events_queue: BroadcastQueue::default(),
            sends: Vec::new(),
            counters: LayerCounters::default(),
            outputs: Vec::new(),
            chance: Chance::from_seed(chance.bytes()),
            timing: node.timing,
            nodes: 1,
            replay: config.replay,
        };
        Ok(Serf {
            swim: Swim::new(node, chance)?,
            layer,
            timing: config.timing,
            event_bytes_max: config.event_bytes_max,
            next_reap: Time::ZERO,
            next_reconnect: Time::ZERO,
            leaving: Leaving::No,
            now: Time::ZERO,
        })
    }

    /// Goes on from what was written down: events of an earlier life are not handed on again.
    pub fn resume(&mut self, snapshot: &Snapshot) {
        self.layer.clock.witness(snapshot.clock);
        self.layer.event_clock.witness(snapshot.event_clock);
        self.layer.query_clock.witness(snapshot.query_clock);
        self.layer.events.begin_at(self.layer.event_clock.now());
        self.layer.queries.begin_at(self.layer.query_clock.now());
    }

    /// Makes ourselves a member, the first one.
    pub fn start(&mut self, now: Time) -> Vec<SerfOutput> {
        self.now = now;
        self.next_reap = now + self.timing.reap_interval;
        self.next_reconnect = now + self.timing.reconnect_interval;
        let outputs = self.swim.start(now);
        self.take(outputs);
        std::mem::take(&mut self.layer.outputs)
    }

    /// What happens next at the latest, when nothing comes in.
    pub fn next_deadline(&self) -> Option<Time> {
        let leaving = match self.leaving {
            Leaving::Intent { until } | Leaving::Propagates { until } => Some(until),
            _ => None,
        };
        let (reap, reconnect) = (Some(self.next_reap), Some(self.next_reconnect));
        let (swim, queries) = (self.swim.next_deadline(), self.layer.queries_end());
        [reap, reconnect, leaving, swim, queries]
            .into_iter()
            .flatten()
            .min()
    }

    /// Lets something happen on the network, and everything whose time has come.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<SerfOutput> {
        self.now = self.now.max(now);
        self.swim(input);
        self.timers();
        self.finish()
    }

    /// Does what is asked for.
    pub fn command(&mut self, now: Time, command: SerfCommand) -> Vec<SerfOutput> {
        self.now = self.now.max(now);
        match command {
            SerfCommand::Join { join, addresses } => {
                self.swim(Input::Command(Command::Join { join, addresses }));
            }
            SerfCommand::Leave => self.leave(),
            SerfCommand::ForceLeave { node, prune } => {
                self.layer.say_leave(node, prune, None, self.now);
            }
        }
        self.timers();
        self.finish()
    }

    /// Sends an event to all; it is handed on here, too.
    ///
    /// # Errors
    ///
    /// It is too long. Nothing has been sent.
    pub fn send_event(
        &mut self,
        name: Name,
        payload: Bytes,
        coalesce: bool,
    ) -> Result<Vec<SerfOutput>, EventError> {
        let limit = self.event_bytes_max;
        if name.len() + payload.len() > limit {
            return Err(EventError::BeforeEncoding { limit });
        }
        let ltime = self.layer.event_clock.now();
        let event = UserEvent {
            ltime,
            name,
            payload,
            coalesce,
        };
        let bytes = SerfMessage::UserEvent(event.clone()).encode();
        if bytes.len() > limit {
            return Err(EventError::AfterEncoding { limit });
        }
        self.layer.event_clock.tick();
        self.layer.user_event(event, Some(&bytes));
        Ok(std::mem::take(&mut self.layer.outputs))
    }

    /// Asks all members. The moment tells the answers, which come until it is done.
    ///
    /// # Errors
    ///
    /// It is too long, bears a name of Serf's own, or too many are running. Nothing has been sent.
    pub fn ask(
        &mut self,
        now: Time,
        question: &Question,
    ) -> Result<(LamportTime, Vec<SerfOutput>), QueryError> {
        self.now = self.now.max(now);
        let ltime = self.layer.ask(question, self.now)?;
        Ok((ltime, self.finish()))
    }

    /// Answers a query.
    ///
    /// # Errors
    ///
    /// It is too late, or too long. Nothing has been sent.
    pub fn respond(
        &mut self,
        now: Time,
        query: ReceivedQuery,
        payload: Bytes,
    ) -> Result<Vec<SerfOutput>, RespondError> {
        self.now = self.now.max(now);
        self.layer.respond(&query, payload, self.now)?;
        Ok(self.finish())
    }

    /// Changes what we say about ourselves.
    ///
    /// # Errors
    ///
    /// It is too long. Nothing has changed.
    pub fn set_tags(&mut self, now: Time, tags: &Tags) -> Result<Vec<SerfOutput>, TagsError> {
        let meta = tags.encode()?;
        self.now = self.now.max(now);
        self.swim(Input::Command(Command::Update { meta, token: None }));
        Ok(std::mem::take(&mut self.layer.outputs))
    }

    /// The members.
    pub fn roster(&self) -> &Roster {
        &self.layer.roster
    }

    /// memberlist's part, for what it tells of itself.
    pub fn membership(&self) -> &Swim {
        &self.swim
    }

    /// The keys of the pool, to be changed; `None` where nothing is encrypted.
    pub fn keyring_mut(&mut self) -> Option<&mut Keyring> {
        self.swim.keyring_mut()
    }

    /// Where a member is, ourselves included.
    pub fn place(&self, node: &Name) -> Option<&Coordinate> {
        if *node == self.layer.own {
            return Some(self.layer.coordinates.own());
        }
        self.layer.places.get(node)
    }

    /// The clocks: of members, of events, of queries.
    pub fn clocks(&self) -> [LamportTime; 3] {
        let layer = &self.layer;
        [&layer.clock, &layer.event_clock, &layer.query_clock].map(|clock| clock.now())
    }

    /// How many intents, queries and events wait to be passed on.
    pub fn queue_lengths(&self) -> [usize; 3] {
        let layer = &self.layer;
        [
            &layer.intents_queue,
            &layer.queries_queue,
            &layer.events_queue,
        ]
        .map(|queue| queue.len())
    }

    /// What was dropped or refused.
    pub fn counters(&self) -> LayerCounters {
        self.layer.counters
    }

    fn swim(&mut self, input: Input) {
        let outputs = self.swim.handle(self.now, input, &mut self.layer);
        self.take(outputs);
    }

    /// What memberlist wants is handed on; what it tells is for the layer.
    fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::User { bytes } => self.layer.message(&bytes, self.now),
                Output::RemoteState { our_join, bytes } => {
                    self.layer.remote_state(our_join, &bytes, self.now);
                }
                Output::Member(event) => self.member(&event),
                Output::Answered {
                    node,
                    round_trip,
                    payload,
                } => {
                    self.layer.answered(&node, round_trip, payload.as_ref());
                }
                Output::Conflict { known, other } => {
                    if known.name == self.layer.own {
                        self.layer.ask_about_our_name(self.now);
                    }
                    let (known, other) = (Box::new(known), Box::new(other));
                    self.layer
                        .outputs
                        .push(SerfOutput::Conflict { known, other });
                }
                Output::JoinFinished {
                    join: RECONNECT_JOIN,
                    ..
                } => {}
                Output::JoinFinished {
                    join,
                    contacted,
                    failures,
                } => {
                    if contacted > 0 {
                        self.layer.announce(self.now);
                    }
                    let finished = SerfOutput::JoinFinished {
                        join,
                        contacted,
                        failures,
                    };
                    self.layer.outputs.push(finished);
                }
                Output::LeaveFinished { .. } => {
                    let until = self.now + self.timing.leave_propagate_delay;
                    self.leaving = Leaving::Propagates { until };
                }
                // Tags are checked before they become meta.
                Output::UpdateRefused { .. } | Output::Told { .. } => {}
                network => self.layer.outputs.push(SerfOutput::Network(network)),
            }
        }
    }

    fn member(&mut self, event: &MemberEvent) {
        let event = match event {
            MemberEvent::Joined(node) => {
                self.layer.nodes = self.swim.members().count();
                Some(self.layer.roster.node_joined(node))
            }
            MemberEvent::Updated(node) => self.layer.roster.node_updated(node),
            MemberEvent::Gone(node) => self.layer.roster.node_gone(&node.name, self.now),
        };
        self.layer.member_changed(event);
    }

    /// Sends what goes straight to somebody, and gives out all that is to be done.
    fn finish(&mut self) -> Vec<SerfOutput> {
        for (to, bytes) in std::mem::take(&mut self.layer.sends) {
            self.swim(Input::Command(Command::Send { to, bytes }));
        }
        std::mem::take(&mut self.layer.outputs)
    }

    fn timers(&mut self) {
        self.layer.end_queries(self.now);
        let SerfTiming {
            reconnect_timeout,
            tombstone_timeout,
            ..
        } = self.timing;
        if self.now >= self.next_reap {
            self.next_reap = self.now + self.timing.reap_interval;
            let layer = &mut self.layer;
            for event in layer
                .roster
                .reap(self.now, reconnect_timeout, tombstone_timeout)
            {
                layer.coordinates.forget(&event.member.name);
                layer.places.remove(&event.member.name);
                layer.member_changed(Some(event));
            }
        }
        if self.now >= self.next_reconnect {
            self.next_reconnect = self.now + self.timing.reconnect_interval;
            self.reconnect();
        }
        let intent_told = self
            .layer
            .intents_queue
            .take_finished()
            .contains(&LEAVE_TOKEN);
        match self.leaving {
            Leaving::Intent { until } if intent_told || self.now >= until => self.go(),
            Leaving::Propagates { until } if self.now >= until => {
                self.leaving = Leaving::Done;
                self.layer.outputs.push(SerfOutput::LeaveFinished);
            }
            _ => {}
        }
    }

    /// Tries one of those that failed; the more of them there are, the more likely.
    fn reconnect(&mut self) {
        let roster = &self.layer.roster;
        let is_failed = |member: &&SerfMember| member.status == MemberStatus::Failed;
        let failed: Vec<_> = roster.iter().filter(is_failed).collect();
        let alive = roster.count(MemberStatus::Alive).max(1);
        if failed.is_empty() || !self.layer.chance.part_of(failed.len(), alive) {
            return;
        }
        let addresses = vec![failed[self.layer.chance.below(failed.len())].addr];
        let join = RECONNECT_JOIN;
        self.swim(Input::Command(Command::Join { join, addresses }));
    }

    /// First that we mean to leave, so that it is no failure; then that we are gone.
    fn leave(&mut self) {
        if self.leaving != Leaving::No {
            return;
        }
        self.layer.stay = Stay::Leaving;
        let own = self.layer.own.clone();
        self.layer
            .say_leave(own, false, Some(LEAVE_TOKEN), self.now);
        let until = match self.layer.roster.count(MemberStatus::Alive) {
            0 => self.now,
            _ => self.now + self.timing.broadcast_timeout,
        };
        self.leaving = Leaving::Intent { until };
    }

    fn go(&mut self) {
        self.leaving = Leaving::Gone;
        let timeout = self.timing.broadcast_timeout;
        self.swim(Input::Command(Command::Leave { timeout }));
    }
}
