//! How long and how large: for results, and for a quick look.

use std::time::Duration;

use serde::Serialize;

/// Sizes and times of all workloads.
#[derive(Clone, Debug, Serialize)]
pub struct Scale {
    /// Before a publishing window is measured.
    pub warm_up: Duration,
    /// A publishing window.
    pub publish: Duration,
    /// How long the publisher of a fan-out goes on; deliveries end later.
    pub fanout: Duration,
    /// How long the steady rate goes on.
    pub latency: Duration,
    /// Events of a replay.
    pub replay_events: u64,
    /// Subscribers of a fan-out, one case each.
    pub subscribers: Vec<usize>,
    /// Idle subscribers, in growing order, one case each.
    pub idle: Vec<usize>,
    /// How long memory may take to settle.
    pub settle: Duration,
    /// Leaders of a cluster that are killed in a round, each of a fresh cluster.
    pub failovers: usize,
    /// Events that a new server has to get.
    pub catch_up_events: u64,
    /// Subscribers that share what an agent gets.
    pub relay_subscribers: usize,
    /// Each of the machine's limits.
    pub machine: Duration,
}

impl Scale {
    /// For results.
    pub fn full() -> Self {
        Self {
            warm_up: Duration::from_millis(300),
            publish: Duration::from_secs(2),
            fanout: Duration::from_secs(2),
            latency: Duration::from_secs(4),
            replay_events: 1_000_000,
            subscribers: vec![1, 10, 100, 1_000],
            idle: vec![1_000, 5_000],
            settle: Duration::from_secs(3),
            failovers: 4,
            catch_up_events: 2_000_000,
            relay_subscribers: 1_000,
            machine: Duration::from_secs(1),
        }
    }

    /// To see that all of it works; too short for results.
    pub fn quick() -> Self {
        Self {
            warm_up: Duration::from_millis(100),
            publish: Duration::from_millis(400),
            fanout: Duration::from_millis(300),
            latency: Duration::from_millis(1_000),
            replay_events: 100_000,
            subscribers: vec![1, 10, 100, 1_000],
            idle: vec![1_000],
            settle: Duration::from_millis(500),
            failovers: 1,
            catch_up_events: 20_000,
            relay_subscribers: 100,
            machine: Duration::from_millis(300),
        }
    }
}
