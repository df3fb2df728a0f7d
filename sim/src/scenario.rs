//! What a seed decides before anything happens.

use std::time::Duration;

use tidings_host::simulated::Rng;
use tidings_timeline::{RetentionSettings, Settings};

use crate::agents::Agents;

/// Which faults there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultKinds {
    /// Power cuts, kills, orderly restarts.
    pub restarts: bool,
    /// Partitions, also in one direction.
    pub partitions: bool,
    /// Long delays, loss, and so connections that overtake each other.
    pub slow_network: bool,
    /// Flushes that take long.
    pub slow_disks: bool,
    /// Disks that run full.
    pub full_disks: bool,
    /// Flushes that fail.
    pub failing_disks: bool,
    /// Clocks that jump.
    pub clocks: bool,
    /// Servers that are added, some without a vote.
    pub members: bool,
    /// Servers that are removed, also at once after they came, and new ones in their place.
    pub removals: bool,
    /// The lead that is passed on, and leaders that are cut off while who voted loses power.
    pub elections: bool,
    /// Bits that flip on the disk of one server, which is rebuilt then.
    pub damage: bool,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What everything depends on.
    pub seed: u64,
    /// How many servers form the cluster.
    pub servers: usize,
    /// For how long there are faults.
    pub faults_for: Duration,
    /// Which.
    pub faults: FaultKinds,
    /// Programs that publish.
    pub publishers: usize,
    /// Programs that compare and set.
    pub setters: usize,
    /// Programs that read what is newest.
    pub readers: usize,
    /// Programs that follow, beside one at each server.
    pub followers: usize,
    /// The settings of the timeline.
    pub settings: Settings,
    /// Bytes of a segment of the Raft log.
    pub log_segment_bytes: u64,
    /// Bytes of log after which a snapshot is made.
    pub snapshot_log_bytes: u64,
    /// Entries that stay in the log before a snapshot.
    pub log_entries_kept: u64,
    /// Bytes of each disk.
    pub disk_bytes: u64,
    /// The agents beside the servers.
    pub agents: Agents,
}

impl Scenario {
    /// The run of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x7469_6469_6e67_7321);
        let mut chance = |percent| rng.percent(percent);
        let mut faults = FaultKinds {
            restarts: chance(80),
            partitions: chance(60),
            slow_network: chance(40),
            slow_disks: chance(40),
            full_disks: chance(25),
            failing_disks: chance(20),
            clocks: chance(40),
            members: chance(30),
            ..FaultKinds::default()
        };
        let retains = rng.percent(35);
        let retention = RetentionSettings {
            bytes: if retains {
                rng.within(64..512) << 10
            } else {
                0
            },
            frames: 0,
            age_s: 0,
        };
        let mut scenario = Self {
            seed,
            servers: if rng.percent(30) { 5 } else { 3 },
            faults_for: Duration::from_secs(rng.within(15..60)),
            faults,
            publishers: rng.within(1..4) as usize,
            setters: rng.within(0..3) as usize,
            followers: rng.within(1..4) as usize,
            settings: Settings {
                segment_bytes: rng.within(4..64) << 10,
                retention,
                ..Settings::default()
            },
            log_segment_bytes: rng.within(4..40) << 12,
            snapshot_log_bytes: rng.within(16..400) << 10,
            log_entries_kept: rng.within(0..64),
            disk_bytes: 64 << 20,
            readers: 0,
            agents: Agents::of(seed),
        };
        faults.removals = rng.percent(30);
        faults.elections = rng.percent(35);
        faults.damage = rng.percent(35);
        scenario.faults = faults;
        scenario.readers = rng.within(0..3) as usize;
        scenario
    }

    /// The same without a fault.
    #[must_use]
    pub fn without_faults(self) -> Self {
        Self {
            faults: FaultKinds::default(),
            ..self
        }
    }
}
