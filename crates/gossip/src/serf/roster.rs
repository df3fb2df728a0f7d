//! Members as Serf sees them: what a node means to do counts beside whether it is there.
//!
//! ```text
//!            join, newer                      gone
//!   leaving ◀──────────▶ alive       alive ─────────▶ failed ── leave ──▶ left
//!      │     leave, newer              ▲                 │                 │
//!      └── gone ──▶ left               └──── there again ┴─────────────────┘
//! ```
//!
//! An intent is news about a node with a moment of the members' clock; only a later one counts. It
//! may come before the node itself is known, and is then kept for a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::name::Name;
use crate::swim;
use crate::time::Time;
use crate::wire::Versions;
use crate::wire::serf::{Intent, LamportTime, MemberStatus, Tags};

/// Intents about nodes that are not known. A whole pool may join at one moment.
const INTENTS_MAX: usize = 1 << 16;

/// How long they are kept (serf: config.go `RecentIntentTimeout`).
const INTENT_KEPT: Duration = Duration::from_secs(5 * 60);

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerfMember {
    /// Its name.
    pub name: Name,
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it says about itself.
    pub tags: Tags,
    /// What it speaks.
    pub versions: Versions,
    /// What it is held for.
    pub status: MemberStatus,
    /// When that was last said.
    pub status_ltime: LamportTime,
    /// Since when it is not there.
    pub gone_since: Option<Time>,
}

/// What happened to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberChange {
    /// It is there, new or again.
    Join,
    /// It has left.
    Leave,
    /// It is gone without a word.
    Failed,
    /// It says something else about itself.
    Update,
    /// It is forgotten.
    Reap,
}

/// A change of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterEvent {
    /// What happened.
    pub change: MemberChange,
    /// The member, as it is now.
    pub member: SerfMember,
}

/// What follows from an intent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntentOutcome {
    /// It was new: pass it on.
    pub pass_on: bool,
    /// It says that we leave, and we do not: say that we stay.
    pub contradict: bool,
    /// What it changed.
    pub event: Option<RosterEvent>,
}

#[derive(Clone, Copy, Debug)]
struct EarlyIntent {
    ltime: LamportTime,
    leaves: bool,
    since: Time,
}

/// All members.
#[derive(Debug, Default)]
pub struct Roster {
    members: BTreeMap<Name, SerfMember>,
    early: BTreeMap<Name, EarlyIntent>,
}

impl Roster {
    /// All members, by name.
    pub fn iter(&self) -> impl Iterator<Item = &SerfMember> {
        self.members.values()
    }

    /// A member.
    pub fn get(&self, name: &Name) -> Option<&SerfMember> {
        self.members.get(name)
    }

    /// How many members have a status.
    pub fn count(&self, status: MemberStatus) -> usize {
        self.iter().filter(|member| member.status == status).count()
    }

    /// A node is there, says memberlist.
    pub fn node_joined(&mut self, node: &swim::Member) -> RosterEvent {
        let early = self.early.remove(&node.name);
        let known = self.members.get(&node.name);
        let member = SerfMember {
            name: node.name.clone(),
            addr: node.addr,
            tags: Tags::decode(&node.meta).unwrap_or_default(),
            versions: node.versions,
            status: match early {
                Some(EarlyIntent { leaves: true, .. }) if known.is_none() => MemberStatus::Leaving,
                _ => MemberStatus::Alive,
            },
            status_ltime: match (known, early) {
                (Some(known), _) => known.status_ltime,
                (None, Some(early)) => early.ltime,
                (None, None) => LamportTime(0),
            },
            gone_since: None,
        };
        self.members.insert(node.name.clone(), member.clone());
        RosterEvent {
            change: MemberChange::Join,
            member,
        }
    }

    /// A node is gone, says memberlist.
    pub fn node_gone(&mut self, name: &Name, now: Time) -> Option<RosterEvent> {
        let member = self.members.get_mut(name)?;
        let change = match member.status {
            MemberStatus::Leaving => MemberChange::Leave,
            MemberStatus::Alive => MemberChange::Failed,
            MemberStatus::None | MemberStatus::Left | MemberStatus::Failed => return None,
        };
        member.status = match change {
            MemberChange::Leave => MemberStatus::Left,
            _ => MemberStatus::Failed,
        };
        member.gone_since = Some(now);
        Some(RosterEvent {
            change,
            member: member.clone(),
        })
    }

    /// A node says something else about itself, says memberlist.
    pub fn node_updated(&mut self, node: &swim::Member) -> Option<RosterEvent> {
        let member = self.members.get_mut(&node.name)?;
        member.tags = Tags::decode(&node.meta).unwrap_or_default();
        (member.addr, member.versions) = (node.addr, node.versions);
        Some(RosterEvent {
            change: MemberChange::Update,
            member: member.clone(),
        })
    }

    /// A node means to be a member.
    pub fn join_intent(&mut self, intent: &Intent, now: Time) -> IntentOutcome {
        let Some(member) = self.members.get_mut(&intent.node) else {
            return self.keep_early(intent, false, now);
        };
        if intent.ltime <= member.status_ltime {
            return IntentOutcome::default();
        }
        member.status_ltime = intent.ltime;
        if member.status == MemberStatus::Leaving {
            member.status = MemberStatus::Alive;
        }
        IntentOutcome {
            pass_on: true,
            ..IntentOutcome::default()
        }
    }

    /// A node means to leave, says it, or somebody for it. `we_stay` is our own name when we do not.
    pub fn leave_intent(
        &mut self,
        intent: &Intent,
        we_stay: Option<&Name>,
        now: Time,
    ) -> IntentOutcome {
        let Some(member) = self.members.get_mut(&intent.node) else {
            return self.keep_early(intent, true, now);
        };
        if intent.ltime <= member.status_ltime {
            return IntentOutcome::default();
        }
        if we_stay == Some(&intent.node) {
            return IntentOutcome {
                contradict: true,
                ..IntentOutcome::default()
            };
        }
        // Also when nothing changes: what is not new the next time is not passed on for ever.
        member.status_ltime = intent.ltime;
        let mut event = None;
        match member.status {
            MemberStatus::Alive => member.status = MemberStatus::Leaving,
            MemberStatus::Failed => {
                member.status = MemberStatus::Left;
                event = Some(RosterEvent {
                    change: MemberChange::Leave,
                    member: member.clone(),
                });
            }
            MemberStatus::None | MemberStatus::Leaving | MemberStatus::Left => {}
        }
        // One that is there is not forgotten: it would come back with the next exchange.
        if intent.prune && member.gone_since.is_some() {
            event = self.forget(&intent.node);
        }
        IntentOutcome {
            pass_on: true,
            contradict: false,
            event,
        }
    }

    /// Forgets those that failed or left so long ago, and intents whose nodes never came.
    pub fn reap(
        &mut self,
        now: Time,
        failed_for: Duration,
        left_for: Duration,
    ) -> Vec<RosterEvent> {
        self.early
            .retain(|_, intent| now.since(intent.since) < INTENT_KEPT);
        let is_over = |member: &&SerfMember| {
            let kept = match member.status {
                MemberStatus::Failed => failed_for,
                MemberStatus::Left => left_for,
                _ => return false,
            };
            member
                .gone_since
                .is_some_and(|since| now.since(since) > kept)
        };
        let over: Vec<_> = self
            .iter()
            .filter(is_over)
            .map(|member| member.name.clone())
            .collect();
        over.iter().filter_map(|name| self.forget(name)).collect()
    }

    fn forget(&mut self, name: &Name) -> Option<RosterEvent> {
        let member = self.members.remove(name)?;
        Some(RosterEvent {
            change: MemberChange::Reap,
            member,
        })
    }

    fn keep_early(&mut self, intent: &Intent, leaves: bool, since: Time) -> IntentOutcome {
        let is_new = match self.early.get(&intent.node) {
            Some(known) => known.ltime < intent.ltime,
            None => self.early.len() < INTENTS_MAX && intent.node.len() <= swim::NAME_BYTES_MAX,
        };
        if is_new {
            let kept = EarlyIntent {
                ltime: intent.ltime,
                leaves,
                since,
            };
            self.early.insert(intent.node.detached(), kept);
        }
        IntentOutcome {
            pass_on: is_new,
            ..IntentOutcome::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::State;
    use bytes::Bytes;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn node(name: &str) -> swim::Member {
        swim::Member {
            name: Name::from(name),
            addr: "10.0.0.1:7946".parse().unwrap(),
            meta: Bytes::from_static(b"web"),
            versions: Versions::SERF,
            incarnation: 1,
            state: State::Alive,
            changed: Time::ZERO,
        }
    }

    fn intent(name: &str, ltime: u64) -> Intent {
        Intent {
            ltime: LamportTime(ltime),
            node: Name::from(name),
            prune: false,
        }
    }

    fn at(seconds: u64) -> Time {
        Time::after(Duration::from_secs(seconds))
    }

    fn with(names: &[&str]) -> Roster {
        let mut roster = Roster::default();
        for name in names {
            assert_eq!(roster.node_joined(&node(name)).change, MemberChange::Join);
        }
        roster
    }

    fn status(roster: &Roster, name: &str) -> MemberStatus {
        roster.get(&Name::from(name)).unwrap().status
    }

    #[test]
    fn who_said_so_has_left_and_who_did_not_has_failed() {
        let mut roster = with(&["a", "b"]);
        assert!(roster.leave_intent(&intent("a", 5), None, at(1)).pass_on);
        assert_eq!(status(&roster, "a"), MemberStatus::Leaving);
        let gone = |roster: &mut Roster, name: &str| {
            roster
                .node_gone(&Name::from(name), at(2))
                .map(|event| event.change)
        };
        assert_eq!(gone(&mut roster, "a"), Some(MemberChange::Leave));
        assert_eq!(gone(&mut roster, "a"), None, "once");
        assert_eq!(gone(&mut roster, "b"), Some(MemberChange::Failed));
        // Somebody else may say it for one that failed.
        let outcome = roster.leave_intent(&intent("b", 6), None, at(3));
        assert_eq!(outcome.event.unwrap().change, MemberChange::Leave);
        assert_eq!(roster.count(MemberStatus::Left), 2);
        roster.node_joined(&node("a"));
        assert_eq!(status(&roster, "a"), MemberStatus::Alive);
    }

    #[test]
    fn only_a_later_intent_counts_and_is_passed_on() {
        let mut roster = with(&["a"]);
        assert!(roster.join_intent(&intent("a", 5), at(1)).pass_on);
        assert!(!roster.join_intent(&intent("a", 5), at(1)).pass_on);
        assert!(!roster.leave_intent(&intent("a", 5), None, at(1)).pass_on);
        assert_eq!(status(&roster, "a"), MemberStatus::Alive);
        assert!(roster.leave_intent(&intent("a", 6), None, at(1)).pass_on);
        assert!(
            roster.leave_intent(&intent("a", 7), None, at(1)).pass_on,
            "it is new"
        );
        assert!(
            !roster.leave_intent(&intent("a", 7), None, at(1)).pass_on,
            "it is not"
        );
        assert!(roster.join_intent(&intent("a", 8), at(1)).pass_on);
        assert_eq!(status(&roster, "a"), MemberStatus::Alive);
    }

    #[test]
    fn that_we_leave_is_contradicted_and_not_passed_on() {
        let mut roster = with(&["me"]);
        let me = Name::from("me");
        let outcome = roster.leave_intent(&intent("me", 5), Some(&me), at(1));
        assert_eq!(
            outcome,
            IntentOutcome {
                contradict: true,
                ..IntentOutcome::default()
            }
        );
        assert_eq!(status(&roster, "me"), MemberStatus::Alive);
        roster.leave_intent(&intent("me", 5), None, at(1));
        assert_eq!(status(&roster, "me"), MemberStatus::Leaving, "when we do");
    }

    #[test]
    fn an_intent_may_come_before_its_node_but_not_long() {
        let mut roster = Roster::default();
        assert!(roster.join_intent(&intent("a", 5), at(0)).pass_on);
        assert!(!roster.join_intent(&intent("a", 5), at(0)).pass_on);
        assert!(roster.leave_intent(&intent("a", 6), None, at(0)).pass_on);
        let member = roster.node_joined(&node("a")).member;
        assert_eq!(
            (member.status, member.status_ltime),
            (MemberStatus::Leaving, LamportTime(6))
        );
        roster.leave_intent(&intent("b", 6), None, at(0));
        roster.reap(at(301), DAY, DAY);
        assert_eq!(
            roster.node_joined(&node("b")).member.status,
            MemberStatus::Alive
        );
    }

    #[test]
    fn the_gone_are_forgotten_in_time_or_when_asked() {
        let mut roster = with(&["a", "b", "c"]);
        roster.node_gone(&Name::from("a"), at(0));
        roster.node_gone(&Name::from("b"), at(0));
        assert_eq!(roster.reap(at(3600), DAY, DAY), []);
        let prune = |name| Intent {
            prune: true,
            ..intent(name, 9)
        };
        let outcome = roster.leave_intent(&prune("a"), None, at(1));
        assert_eq!(outcome.event.unwrap().change, MemberChange::Reap);
        roster.leave_intent(&prune("c"), None, at(1));
        assert_eq!(status(&roster, "c"), MemberStatus::Leaving, "it is there");
        let reaped = roster.reap(at(24 * 3600 + 1), DAY, DAY);
        assert_eq!(reaped.len(), 1);
        assert_eq!(reaped[0].member.name, Name::from("b"));
        assert_eq!(roster.iter().count(), 1);
    }

    #[test]
    fn g9_intents_of_strangers_have_a_bound() {
        let mut roster = Roster::default();
        for number in 0..INTENTS_MAX + 10 {
            roster.join_intent(&intent(&number.to_string(), 1), at(0));
        }
        assert_eq!(roster.early.len(), INTENTS_MAX);
        assert!(
            !roster
                .join_intent(&intent(&"x".repeat(600), 1), at(0))
                .pass_on
        );
    }
}
