//! A suspicion: the more members confirm it, the sooner it becomes a death.

use std::collections::BTreeSet;
use std::time::Duration;

use super::timing::Timing;
use crate::name::Name;
use crate::time::Time;

/// That a node may be gone.
#[derive(Debug)]
pub(super) struct Suspicion {
    began: Time,
    min: Duration,
    max: Duration,
    /// Who said so, the first accuser included.
    accusers: BTreeSet<Name>,
    /// How many confirmations make it as short as it gets.
    confirmations_max: usize,
    /// Tells its timer from those of earlier deadlines and suspicions.
    pub(super) timer: u64,
}

impl Suspicion {
    pub(super) fn new(from: &Name, members: usize, timing: &Timing, now: Time) -> Suspicion {
        // One's own probe and its helpers' are not independent: two accusers are taken off.
        let wanted = (timing.suspicion_mult as usize).saturating_sub(2);
        // When so few others are there that they could not all confirm, none has to.
        let others = members.saturating_sub(2);
        let min = timing.suspicion_min(members);
        Suspicion {
            began: now,
            min,
            max: min * timing.suspicion_max_mult,
            accusers: BTreeSet::from([from.detached()]),
            confirmations_max: if others < wanted { 0 } else { wanted },
            timer: 0,
        }
    }

    /// Takes another's word; whether it is one more, so that it is to be passed on.
    pub(super) fn confirm(&mut self, from: &Name) -> bool {
        if self.accusers.len() > self.confirmations_max {
            return false;
        }
        self.accusers.insert(from.detached())
    }

    /// When it becomes a death.
    pub(super) fn deadline(&self) -> Time {
        if self.confirmations_max == 0 {
            return self.began + self.min;
        }
        let confirmations = self.accusers.len() as f64; // the first accuser is the "+ 1"
        let part = confirmations.ln() / (self.confirmations_max as f64 + 1.0).ln();
        let (min, max) = (self.min.as_secs_f64(), self.max.as_secs_f64());
        let millis = ((max - part * (max - min)) * 1000.0).floor();
        self.began + Duration::from_millis(millis as u64).max(self.min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(suspicion: &Suspicion) -> f64 {
        suspicion.deadline().since_zero().as_secs_f64()
    }

    #[test]
    fn confirmations_shorten_it_down_to_its_minimum() {
        let names = ["a", "b", "c", "d"].map(Name::from);
        let mut suspicion = Suspicion::new(&names[0], 5, &Timing::LAN, Time::ZERO);
        assert_eq!(seconds(&suspicion), 24.0);
        assert!(
            !suspicion.confirm(&names[0]),
            "the first accuser confirms nothing"
        );
        assert!(suspicion.confirm(&names[1]));
        assert!(!suspicion.confirm(&names[1]));
        // 24 - ln 2 / ln 3 * 20
        assert_eq!(seconds(&suspicion), 11.381);
        assert!(suspicion.confirm(&names[2]));
        assert_eq!(seconds(&suspicion), 4.0);
        assert!(
            !suspicion.confirm(&names[3]),
            "more than enough are not passed on"
        );
    }

    #[test]
    fn where_nobody_could_confirm_it_is_short_at_once() {
        let mut suspicion = Suspicion::new(&Name::from("a"), 3, &Timing::LAN, Time::ZERO);
        assert_eq!(seconds(&suspicion), 4.0);
        assert!(!suspicion.confirm(&Name::from("b")));
    }
}
