//! What is believed about members: whose word counts, and what it changes.
//!
//! A node counts its announcements (its **incarnation**). Others may say that it is suspect or dead,
//! but only it can say that it is alive, with a greater incarnation. So whatever is said about
//! ourselves, we contradict by announcing ourselves anew.
//!
//! Incarnations come from anybody. Two limits keep a node from being shut out by a number that it
//! cannot exceed: what accuses must be below [`ACCUSATION_MAX`], and what announces only below
//! [`INCARNATION_MAX`], so that there is always a number left to contradict with. A node that counted
//! up once a second would need more than thirty years to reach the first.

use std::net::SocketAddr;

use bytes::Bytes;

use super::broadcast::BroadcastToken;
use super::members::Member;
use super::suspicion::Suspicion;
use super::timers::Timer;
use super::{
    LEAVE_TOKEN, Leaving, MEMBERS_MAX, MemberEvent, NAME_BYTES_MAX, Output, Swim, versions,
};
use crate::name::Name;
use crate::wire::serf::META_BYTES_MAX;
use crate::wire::{Accusation, Alive, Message, NodeState, State};

/// The greatest incarnation with which anybody may announce itself.
const INCARNATION_MAX: u32 = 1 << 31;

/// The greatest incarnation with which another may be accused.
const ACCUSATION_MAX: u32 = 1 << 30;

/// The first announcement.
const INCARNATION_FIRST: u32 = 1;

impl Swim {
    /// Makes ourselves a member.
    pub(super) fn announce(&mut self) {
        let member = Member {
            name: self.config.name.clone(),
            addr: self.config.addr,
            meta: self.config.meta.clone(),
            versions: self.config.versions,
            incarnation: INCARNATION_FIRST,
            state: State::Alive,
            changed: self.now,
        };
        self.broadcast(&Message::Alive(member.alive()), &member.name, None);
        self.members.insert(member.clone(), &mut self.chance);
        self.outputs
            .push(Output::Member(MemberEvent::Joined(member)));
    }

    /// Changes what the layer above says about us, and tells all.
    pub(super) fn update(&mut self, meta: Bytes, token: Option<BroadcastToken>) {
        if meta.len() > META_BYTES_MAX {
            let reason = format!(
                "the meta of a node has at most {META_BYTES_MAX} bytes, this has {}",
                meta.len()
            );
            self.outputs.push(Output::UpdateRefused { reason });
            return;
        }
        self.config.meta = meta.clone();
        let Some(own) = self.members.get_mut(&self.config.name) else {
            return;
        };
        own.meta = meta;
        own.incarnation = own.incarnation.saturating_add(1).min(INCARNATION_MAX - 1);
        let own = own.clone();
        self.broadcast(&Message::Alive(own.alive()), &own.name, token);
        self.outputs.push(Output::Member(MemberEvent::Updated(own)));
    }

    /// A node says that it is there.
    pub(super) fn alive(&mut self, alive: &Alive) {
        let Some(addr) = sensible_address(alive) else {
            self.counters.messages_ignored += 1;
            return;
        };
        let about_us = self.is_self(&alive.node);
        if about_us && self.leaving != Leaving::No {
            return;
        }
        let Some(known) = self.members.get(&alive.node) else {
            if self.members.len() >= MEMBERS_MAX {
                self.counters.members_refused += 1;
                return;
            }
            return self.take_in(alive, addr);
        };
        let moved = known.addr != addr;
        if moved && known.state != State::Left {
            let (known, other) = (known.clone(), alive.clone());
            self.outputs.push(Output::Conflict { known, other });
            return;
        }
        if about_us {
            let same = alive.incarnation == known.incarnation
                && alive.meta == known.meta
                && alive.versions == known.versions;
            if alive.incarnation >= known.incarnation && !same {
                self.contradict(alive.incarnation);
            }
        } else if moved || alive.incarnation > known.incarnation {
            self.take_in(alive, addr);
        }
    }

    /// Believes an announcement, and passes it on.
    fn take_in(&mut self, alive: &Alive, addr: SocketAddr) {
        let before = self.members.get(&alive.node).cloned();
        // What is kept for long must not hold the whole datagram that it came in.
        let name = before
            .as_ref()
            .map_or_else(|| alive.node.detached(), |known| known.name.clone());
        let was_alive = before
            .as_ref()
            .is_some_and(|known| known.state == State::Alive);
        let member = Member {
            name: name.clone(),
            addr,
            meta: Bytes::copy_from_slice(&alive.meta),
            versions: alive.versions,
            incarnation: alive.incarnation,
            state: State::Alive,
            changed: match &before {
                Some(known) if was_alive => known.changed,
                _ => self.now,
            },
        };
        self.suspicions.remove(&name);
        self.broadcast(&Message::Alive(member.alive()), &name, None);
        match self.members.get_mut(&name) {
            Some(known) => *known = member.clone(),
            None => self.members.insert(member.clone(), &mut self.chance),
        }
        let event = match before {
            Some(known) if known.state.is_gone() => Some(MemberEvent::Joined(member)),
            Some(known) if known.meta != member.meta => Some(MemberEvent::Updated(member)),
            Some(_) => None,
            None => Some(MemberEvent::Joined(member)),
        };
        self.outputs.extend(event.map(Output::Member));
    }

    /// Somebody says that a node does not answer.
    pub(super) fn suspected(&mut self, said: &Accusation) {
        if !is_sensible(said) {
            self.counters.messages_ignored += 1;
            return;
        }
        self.suspect(said);
    }

    /// A node does not answer, says somebody or our own probe.
    pub(super) fn suspect(&mut self, said: &Accusation) {
        let Some(known) = self.members.get(&said.node) else {
            return;
        };
        if said.incarnation < known.incarnation {
            return;
        }
        if self.is_self(&said.node) {
            if known.state == State::Alive {
                self.contradict(said.incarnation);
            }
            return;
        }
        let (name, state) = (known.name.clone(), known.state);
        if let Some(suspicion) = self.suspicions.get_mut(&name) {
            if suspicion.confirm(&said.from) {
                let deadline = suspicion.deadline();
                self.time_suspicion(&name, deadline);
                self.broadcast(&Message::Suspect(said.clone()), &name, None);
            }
            return;
        }
        if state != State::Alive {
            return;
        }
        self.broadcast(&Message::Suspect(said.clone()), &name, None);
        if let Some(known) = self.members.get_mut(&name) {
            known.incarnation = said.incarnation;
            known.set_state(State::Suspect, self.now);
        }
        let (members, timing) = (self.members.len(), &self.config.timing);
        let suspicion = Suspicion::new(&said.from, members, timing, self.now);
        let deadline = suspicion.deadline();
        self.suspicions.insert(name.clone(), suspicion);
        self.time_suspicion(&name, deadline);
    }

    fn time_suspicion(&mut self, name: &Name, deadline: crate::time::Time) {
        let timer = self.timers.set(deadline, |timer| {
            let node = name.clone();
            Timer::Suspicion { node, timer }
        });
        if let Some(suspicion) = self.suspicions.get_mut(name) {
            suspicion.timer = timer;
        }
    }

    /// A suspicion's time is up, unless it has ended or has got another deadline.
    pub(super) fn suspicion_ends(&mut self, name: &Name, timer: u64) {
        let is_current = self
            .suspicions
            .get(name)
            .is_some_and(|suspicion| suspicion.timer == timer);
        if is_current && let Some(known) = self.members.get(name) {
            let said = Accusation {
                incarnation: known.incarnation,
                node: known.name.clone(),
                from: self.config.name.clone(),
            };
            self.gone(&said);
        }
    }

    /// Somebody says that a node is gone.
    pub(super) fn dead(&mut self, said: &Accusation) {
        if !is_sensible(said) {
            self.counters.messages_ignored += 1;
            return;
        }
        self.gone(said);
    }

    /// A node is gone, says somebody, or a suspicion of ours.
    fn gone(&mut self, said: &Accusation) {
        let Some(known) = self.members.get(&said.node) else {
            return;
        };
        if said.incarnation < known.incarnation || known.state.is_gone() {
            return;
        }
        let name = known.name.clone();
        if self.is_self(&name) && self.leaving == Leaving::No {
            self.contradict(said.incarnation);
            return;
        }
        self.suspicions.remove(&name);
        let token = self.is_self(&name).then_some(LEAVE_TOKEN);
        self.broadcast(&Message::Dead(said.clone()), &name, token);
        let now = self.now;
        if let Some(known) = self.members.get_mut(&name) {
            known.incarnation = said.incarnation;
            let left = said.node == said.from;
            known.set_state(if left { State::Left } else { State::Dead }, now);
            let member = known.clone();
            self.outputs.push(Output::Member(MemberEvent::Gone(member)));
        }
    }

    /// Tells all that we leave.
    pub(super) fn say_that_we_leave(&mut self) {
        if let Some(own) = self.members.get(&self.config.name) {
            let said = Accusation {
                incarnation: own.incarnation,
                node: own.name.clone(),
                from: own.name.clone(),
            };
            self.gone(&said);
        }
    }

    /// Announces ourselves anew, beyond what was said about us.
    fn contradict(&mut self, said: u32) {
        let Some(own) = self.members.get_mut(&self.config.name) else {
            return;
        };
        let beyond = own.incarnation.max(said).saturating_add(1);
        own.incarnation = beyond.min(INCARNATION_MAX - 1);
        let own = own.clone();
        self.counters.refutations += 1;
        // Whoever has to contradict may be slow, and then must not judge others quickly.
        self.awareness.worsen(1);
        // Under the address, as peers do: it replaces no other news about the name.
        let key = Name::from(own.addr.to_string());
        self.broadcast(&Message::Alive(own.alive()), &key, None);
    }

    /// Merges what another one knows.
    ///
    /// # Errors
    ///
    /// Somebody in it, or here, speaks what others do not understand; nothing is merged.
    pub(super) fn merge(&mut self, nodes: &[NodeState]) -> Result<(), String> {
        if let Err(error) = versions::check(nodes, &self.members) {
            self.counters.merges_refused += 1;
            return Err(error);
        }
        for node in nodes {
            let from = match node.state {
                State::Alive => {
                    self.alive(&Alive {
                        incarnation: node.incarnation,
                        node: node.name.clone(),
                        addr: node.addr,
                        port: node.port,
                        meta: node.meta.clone(),
                        versions: node.versions,
                    });
                    continue;
                }
                State::Left => node.name.clone(),
                // What is dead for another one is suspect for us: it may be cut off itself.
                State::Suspect | State::Dead => self.config.name.clone(),
            };
            let said = Accusation {
                incarnation: node.incarnation,
                node: node.name.clone(),
                from,
            };
            match node.state {
                State::Left => self.dead(&said),
                _ => self.suspected(&said),
            }
        }
        Ok(())
    }

    /// Puts news about a member into the queue.
    fn broadcast(&mut self, message: &Message, about: &Name, token: Option<BroadcastToken>) {
        self.broadcasts
            .push(message.encode(), Some(about.clone()), token);
    }
}

/// Where a node says that it listens, when all that it says can be true.
fn sensible_address(alive: &Alive) -> Option<SocketAddr> {
    let versions = &alive.versions;
    let sensible = !alive.node.is_empty()
        && alive.node.len() <= NAME_BYTES_MAX
        && alive.meta.len() <= META_BYTES_MAX
        && alive.incarnation < INCARNATION_MAX
        && versions.protocol_min > 0
        && versions.protocol_max >= versions.protocol_min;
    match alive.addr {
        Some(addr) if sensible && !addr.is_unspecified() && alive.port > 0 => {
            Some(SocketAddr::new(addr, alive.port))
        }
        _ => None,
    }
}

/// Whether an accusation can be true, and can be passed on.
fn is_sensible(said: &Accusation) -> bool {
    said.incarnation < ACCUSATION_MAX
        && said.node.len() <= NAME_BYTES_MAX
        && said.from.len() <= NAME_BYTES_MAX
}
