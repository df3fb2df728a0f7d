//! The members that are known, and the order in which they are probed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::chance::Chance;
use crate::name::Name;
use crate::time::Time;
use crate::wire::{Alive, NodeState, State, Versions};

/// A member, as it is seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: Name,
    /// Where it listens, for datagrams and streams.
    pub addr: SocketAddr,
    /// What the layer above says about it.
    pub meta: Bytes,
    /// What it speaks.
    pub versions: Versions,
    /// Its newest announcement that is known.
    pub incarnation: u32,
    /// What it is held for.
    pub state: State,
    /// Since when.
    pub changed: Time,
}

impl Member {
    /// What it says of itself.
    pub fn alive(&self) -> Alive {
        Alive {
            incarnation: self.incarnation,
            node: self.name.clone(),
            addr: Some(self.addr.ip()),
            port: self.addr.port(),
            meta: self.meta.clone(),
            versions: self.versions,
        }
    }

    /// How it is told of in an exchange.
    pub(super) fn node_state(&self) -> NodeState {
        NodeState {
            name: self.name.clone(),
            addr: Some(self.addr.ip()),
            port: self.addr.port(),
            meta: self.meta.clone(),
            incarnation: self.incarnation,
            state: self.state,
            versions: self.versions,
        }
    }

    pub(super) fn set_state(&mut self, state: State, now: Time) {
        self.state = state;
        self.changed = now;
    }
}

/// All members, those that are gone included until they are forgotten.
#[derive(Debug, Default)]
pub(super) struct Members {
    table: BTreeMap<Name, Member>,
    /// The order of probing: round and round, shuffled each time.
    order: Vec<Name>,
    next: usize,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn get(&self, name: &Name) -> Option<&Member> {
        self.table.get(name)
    }

    pub(super) fn get_mut(&mut self, name: &Name) -> Option<&mut Member> {
        self.table.get_mut(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.table.values()
    }

    /// Adds a member at a random place of the round, so that it is not probed last by all.
    pub(super) fn insert(&mut self, member: Member, chance: &mut Chance) {
        self.order.push(member.name.clone());
        let last = self.order.len() - 1;
        self.order.swap(last, chance.below(last + 1));
        self.table.insert(member.name.clone(), member);
    }

    /// The next member to be probed: one that is not gone, and not ourselves.
    ///
    /// At the end of a round those that have been gone for `forget_after` are forgotten.
    pub(super) fn next_to_probe(
        &mut self,
        own: &Name,
        now: Time,
        forget_after: Duration,
        chance: &mut Chance,
    ) -> Option<Name> {
        // Each member once, and once more after the round has begun anew.
        for _ in 0..=2 * self.order.len() {
            let Some(name) = self.order.get(self.next) else {
                self.begin_round(own, now, forget_after, chance);
                continue;
            };
            self.next += 1;
            let member = self.table.get(name);
            if name != own && member.is_some_and(|member| !member.state.is_gone()) {
                return Some(name.clone());
            }
        }
        None
    }

    fn begin_round(&mut self, own: &Name, now: Time, forget_after: Duration, chance: &mut Chance) {
        self.table.retain(|name, member| {
            name == own || !member.state.is_gone() || now.since(member.changed) <= forget_after
        });
        self.order.retain(|name| self.table.contains_key(name));
        chance.shuffle(&mut self.order);
        self.next = 0;
    }

    /// Up to `count` different random members that `choose` takes.
    pub(super) fn random(
        &self,
        count: usize,
        chance: &mut Chance,
        choose: impl Fn(&Member) -> bool,
    ) -> Vec<Member> {
        let mut chosen: Vec<Member> = Vec::new();
        // Trying costs less than gathering all when most will do; three times around is enough
        // for those that are few (memberlist: util.go `kRandomNodes`).
        for _ in 0..3 * self.order.len() {
            if chosen.len() == count {
                break;
            }
            let name = &self.order[chance.below(self.order.len())];
            if let Some(member) = self.table.get(name)
                && choose(member)
                && chosen.iter().all(|other| other.name != member.name)
            {
                chosen.push(member.clone());
            }
        }
        chosen
    }
}
