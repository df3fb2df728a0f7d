//! How long things take: three named sets, as memberlist has them.

use std::time::Duration;

/// The times and numbers that membership runs by.
///
/// All members of a pool should use the same; the names are those of the profiles in Serf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often one member is probed.
    pub probe_interval: Duration,
    /// How long a direct answer is waited for before others are asked.
    pub probe_timeout: Duration,
    /// How many others are asked.
    pub indirect_checks: usize,
    /// How often news is passed on, when there is some.
    pub gossip_interval: Duration,
    /// To how many members each time.
    pub gossip_nodes: usize,
    /// How long news is passed on to a dead member as well: it may not be dead.
    pub gossip_to_the_dead: Duration,
    /// How often the whole state is exchanged with one member, in a pool of up to 32.
    pub push_pull_interval: Duration,
    /// The shortest suspicion, in probe intervals for each tenfold of members.
    pub suspicion_mult: u32,
    /// The longest suspicion, in shortest ones.
    pub suspicion_max_mult: u32,
    /// How often news is passed on, for each tenfold of members.
    pub retransmit_mult: u32,
    /// How long an exchange on a stream may take.
    pub stream_timeout: Duration,
    /// Beyond how many steps our own health does not fall.
    pub awareness_max: u32,
}

impl Timing {
    /// For one network (memberlist: config.go `DefaultLANConfig`).
    pub const LAN: Timing = Timing {
        probe_interval: Duration::from_secs(1),
        probe_timeout: Duration::from_millis(500),
        indirect_checks: 3,
        gossip_interval: Duration::from_millis(200),
        gossip_nodes: 3,
        gossip_to_the_dead: Duration::from_secs(30),
        push_pull_interval: Duration::from_secs(30),
        suspicion_mult: 4,
        suspicion_max_mult: 6,
        retransmit_mult: 4,
        stream_timeout: Duration::from_secs(10),
        awareness_max: 8,
    };

    /// For networks far apart (memberlist: config.go `DefaultWANConfig`).
    pub const WAN: Timing = Timing {
        probe_interval: Duration::from_secs(5),
        probe_timeout: Duration::from_secs(3),
        gossip_interval: Duration::from_millis(500),
        gossip_nodes: 4,
        gossip_to_the_dead: Duration::from_secs(60),
        push_pull_interval: Duration::from_secs(60),
        suspicion_mult: 6,
        stream_timeout: Duration::from_secs(30),
        ..Timing::LAN
    };

    /// For one machine (memberlist: config.go `DefaultLocalConfig`).
    pub const LOCAL: Timing = Timing {
        probe_timeout: Duration::from_millis(200),
        indirect_checks: 1,
        gossip_interval: Duration::from_millis(100),
        gossip_to_the_dead: Duration::from_secs(15),
        push_pull_interval: Duration::from_secs(15),
        suspicion_mult: 3,
        retransmit_mult: 2,
        stream_timeout: Duration::from_secs(1),
        ..Timing::LAN
    };

    /// How often one piece of news is passed on in a pool of `members`.
    pub fn transmits_max(&self, members: usize) -> u32 {
        let tenfolds = (members as f64 + 1.0).log10().ceil() as u32;
        self.retransmit_mult.saturating_mul(tenfolds)
    }

    /// The shortest time from suspicion to death in a pool of `members`.
    pub fn suspicion_min(&self, members: usize) -> Duration {
        let tenfolds = (members.max(1) as f64).log10().max(1.0);
        // Thousandths, as peers count it.
        let thousandths = (tenfolds * 1000.0) as u32;
        self.probe_interval * self.suspicion_mult * thousandths / 1000
    }

    /// How long to wait until the next exchange of the whole state in a pool of `members`.
    pub fn push_pull_interval(&self, members: usize) -> Duration {
        /// Up to here the interval stays what it is (memberlist: util.go `pushPullScaleThreshold`).
        const SMALL_POOL: usize = 32;
        if members <= SMALL_POOL {
            return self.push_pull_interval;
        }
        let doublings = (members as f64).log2() - (SMALL_POOL as f64).log2();
        self.push_pull_interval * (doublings.ceil() as u32 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_with_the_pool_as_those_of_its_peers() {
        let transmits = [1, 9, 10, 99, 100, 1000].map(|n| Timing::LAN.transmits_max(n));
        assert_eq!(transmits, [4, 4, 8, 8, 12, 16]);
        assert_eq!(Timing::LOCAL.transmits_max(20), 4);
        let seconds = |n| Timing::LAN.suspicion_min(n).as_secs_f64();
        assert_eq!([5, 20, 100, 10_000].map(seconds), [4.0, 5.204, 8.0, 16.0]);
        let seconds = |n| Timing::LAN.push_pull_interval(n).as_secs();
        assert_eq!(
            [1, 32, 33, 100, 1000, 10_000].map(seconds),
            [30, 30, 60, 90, 180, 300]
        );
    }
}
