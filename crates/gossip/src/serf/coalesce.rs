//! Waiting a little, so that what happens often is told once.
//!
//! What comes is gathered until nothing has come for the quiet time, and at most for the period.

use std::collections::BTreeMap;
use std::time::Duration;

use super::roster::{MemberChange, RosterEvent};
use crate::name::Name;
use crate::time::Time;
use crate::wire::serf::UserEvent;

/// The longest wait (serf: agent config `CoalescePeriod`).
const PERIOD: Duration = Duration::from_secs(3);

/// The wait after the last one (serf: agent config `QuiescentPeriod`).
const QUIET: Duration = Duration::from_secs(1);

/// Names and events that are gathered at one time; with more, all is told at once.
const GATHERED_MAX: usize = 4096;

/// When what is gathered is told.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// When the period and the quiet time end.
    ends: Option<(Time, Time)>,
}

impl Window {
    fn extend(&mut self, now: Time) {
        let (period, _) = self.ends.unwrap_or((now + PERIOD, now));
        self.ends = Some((period, now + QUIET));
    }

    fn deadline(self) -> Option<Time> {
        self.ends.map(|(period, quiet)| period.min(quiet))
    }

    /// Whether it is over; it then begins anew with what comes next.
    fn take_end(&mut self, now: Time, is_full: bool) -> bool {
        let is_over = is_full || self.deadline().is_some_and(|deadline| deadline <= now);
        if is_over {
            self.ends = None;
        }
        is_over
    }
}

/// Of user events with one name the last ones are enough, where their sender says so.
#[derive(Debug, Default)]
pub struct UserCoalescer {
    window: Window,
    latest: BTreeMap<Name, Vec<UserEvent>>,
    gathered: usize,
}

impl UserCoalescer {
    /// Takes an event; gives back what is to be told at once.
    pub fn take(&mut self, event: UserEvent, now: Time) -> Vec<UserEvent> {
        if !event.coalesce {
            return vec![event];
        }
        self.window.extend(now);
        let latest = self.latest.entry(event.name.clone()).or_default();
        match latest.first().map(|known| known.ltime) {
            Some(known) if known > event.ltime => return Vec::new(),
            Some(known) if known < event.ltime => {
                self.gathered -= latest.len();
                latest.clear();
            }
            _ => {}
        }
        latest.push(event);
        self.gathered += 1;
        self.flush(now)
    }

    /// When there is something to be told.
    pub fn next_deadline(&self) -> Option<Time> {
        self.window.deadline()
    }

    /// What is to be told now.
    pub fn flush(&mut self, now: Time) -> Vec<UserEvent> {
        if !self.window.take_end(now, self.gathered >= GATHERED_MAX) {
            return Vec::new();
        }
        self.gathered = 0;
        std::mem::take(&mut self.latest)
            .into_values()
            .flatten()
            .collect()
    }
}

/// Of what happens to one member the last is enough, and nothing when it was told before.
#[derive(Debug, Default)]
pub struct MemberCoalescer {
    window: Window,
    latest: BTreeMap<Name, RosterEvent>,
    /// What was told of each member at last.
    told: BTreeMap<Name, MemberChange>,
}

impl MemberCoalescer {
    /// Takes a change; gives back what is to be told at once.
    pub fn take(&mut self, event: RosterEvent, now: Time) -> Vec<RosterEvent> {
        self.window.extend(now);
        let name = event.member.name.clone();
        // A member that joins and says something else at once has joined: whoever waits for its
        // coming would never hear of it.
        let joins_with_news = event.change == MemberChange::Update
            && self
                .latest
                .get(&name)
                .is_some_and(|known| known.change == MemberChange::Join);
        let change = if joins_with_news {
            MemberChange::Join
        } else {
            event.change
        };
        self.latest.insert(name, RosterEvent { change, ..event });
        self.flush(now)
    }

    /// When there is something to be told.
    pub fn next_deadline(&self) -> Option<Time> {
        self.window.deadline()
    }

    /// What is to be told now, those of one kind together.
    pub fn flush(&mut self, now: Time) -> Vec<RosterEvent> {
        if !self.window.take_end(now, self.latest.len() >= GATHERED_MAX) {
            return Vec::new();
        }
        let mut events: Vec<_> = std::mem::take(&mut self.latest).into_values().collect();
        events.retain(|event| {
            let before = match event.change {
                MemberChange::Reap => self.told.remove(&event.member.name),
                change => self.told.insert(event.member.name.clone(), change),
            };
            event.change == MemberChange::Update || before != Some(event.change)
        });
        events.sort_by_key(|event| event.change);
        events
    }
}

#[cfg(test)]
mod tests {
    use super::super::roster::SerfMember;
    use super::*;
    use crate::wire::Versions;
    use crate::wire::serf::{LamportTime, MemberStatus, Tags};
    use bytes::Bytes;

    fn at(millis: u64) -> Time {
        Time::after(Duration::from_millis(millis))
    }

    fn event(ltime: u64, name: &str, payload: &'static str, coalesce: bool) -> UserEvent {
        UserEvent {
            ltime: LamportTime(ltime),
            name: Name::from(name),
            payload: Bytes::from_static(payload.as_bytes()),
            coalesce,
        }
    }

    fn words(events: Vec<UserEvent>) -> Vec<String> {
        let word = |event: UserEvent| format!("{} {} {:?}", event.ltime, event.name, event.payload);
        events.into_iter().map(word).collect()
    }

    #[test]
    fn of_events_of_a_name_the_last_moments_are_told_after_a_quiet_time() {
        let mut coalescer = UserCoalescer::default();
        assert_eq!(
            words(coalescer.take(event(9, "x", "", false), at(0))),
            [r#"9 x b"""#]
        );
        assert_eq!(coalescer.next_deadline(), None);
        for (now, event) in [
            (0, event(1, "a", "1", true)),
            (500, event(3, "a", "3", true)),
            (600, event(2, "a", "2", true)),
            (700, event(3, "a", "also 3", true)),
            (800, event(1, "b", "1", true)),
        ] {
            assert!(coalescer.take(event, at(now)).is_empty());
        }
        assert_eq!(coalescer.next_deadline(), Some(at(1_800)));
        assert!(coalescer.flush(at(1_799)).is_empty());
        let told = words(coalescer.flush(at(1_800)));
        assert_eq!(told, [r#"3 a b"3""#, r#"3 a b"also 3""#, r#"1 b b"1""#]);
        assert_eq!(coalescer.next_deadline(), None);
    }

    #[test]
    fn what_never_becomes_quiet_is_told_after_the_period() {
        let mut coalescer = UserCoalescer::default();
        for tenth in 0..30 {
            assert!(
                coalescer
                    .take(event(tenth, "a", "", true), at(tenth * 100))
                    .is_empty()
            );
        }
        assert_eq!(
            words(coalescer.take(event(30, "a", "", true), at(3_000))).len(),
            1
        );
    }

    #[test]
    fn g9_what_is_gathered_has_a_bound() {
        let mut coalescer = UserCoalescer::default();
        let told = (0..10_000).map(|number| {
            coalescer
                .take(event(1, &number.to_string(), "", true), at(0))
                .len()
        });
        assert_eq!(
            told.filter(|told| *told > 0).collect::<Vec<_>>(),
            [4096, 4096]
        );
    }

    #[test]
    fn of_a_member_the_last_change_is_told_unless_it_is_known() {
        let change = |name: &str, change| RosterEvent {
            change,
            member: SerfMember {
                name: Name::from(name),
                addr: "10.0.0.1:1".parse().unwrap(),
                tags: Tags::default(),
                versions: Versions::SERF,
                status: MemberStatus::Alive,
                status_ltime: LamportTime(0),
                gone_since: None,
            },
        };
        let mut coalescer = MemberCoalescer::default();
        let mut now = 0;
        let mut told = |changes: &[(&str, MemberChange)]| {
            now += 10_000;
            for (name, kind) in changes {
                assert!(coalescer.take(change(name, *kind), at(now)).is_empty());
            }
            let told = coalescer.flush(at(now + 1_000)).into_iter();
            told.map(|event| format!("{} {:?}", event.member.name, event.change))
                .collect::<Vec<_>>()
        };
        use MemberChange::{Failed, Join, Reap, Update};
        assert_eq!(
            told(&[("b", Failed), ("a", Join), ("b", Join)]),
            ["a Join", "b Join"]
        );
        assert_eq!(
            told(&[("a", Failed), ("a", Join)]),
            [""; 0],
            "as it was told before"
        );
        assert_eq!(
            told(&[("a", Update), ("b", Failed)]),
            ["b Failed", "a Update"]
        );
        assert_eq!(told(&[("b", Join), ("b", Update)]), ["b Join"]);
        assert_eq!(told(&[("b", Reap)]), ["b Reap"]);
        assert_eq!(coalescer.told.len(), 1);
    }
}
