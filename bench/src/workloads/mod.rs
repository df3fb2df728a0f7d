//! What is measured. Every workload runs on a server that was just started
//! with empty data, and gives one [`Measure`] for each of its cases.

mod catch_up;
mod failover;
mod fanout;
mod filtered;
mod latency;
mod memory;
mod publish;
mod relay;
mod replay;
mod scale;
mod session;

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::deployment::Deployment;
use crate::peers::{Layout, LineProbe, Peer, Running};

pub use relay::{ADDED_CASES, SHARED_CASE};
pub use scale::Scale;
use session::Session;

/// The workloads, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Acknowledged publishing.
    Publish,
    /// One publisher, many subscribers to everything.
    Fanout,
    /// From send to receipt at a steady rate.
    Latency,
    /// All stored events to one new subscriber.
    Replay,
    /// Idle subscribers.
    Memory,
    /// One publisher, 1,000 subscribers to one key each.
    Filtered,
    /// From the death of a cluster's leader to the next acknowledgement.
    Failover,
    /// A new server of a cluster gets all that there is.
    CatchUp,
    /// Through an agent that relays.
    Relay,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Publish,
        Self::Fanout,
        Self::Latency,
        Self::Replay,
        Self::Memory,
        Self::Filtered,
        Self::Failover,
        Self::CatchUp,
        Self::Relay,
    ];

    /// As written on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Fanout => "fanout",
            Self::Latency => "latency",
            Self::Replay => "replay",
            Self::Memory => "memory",
            Self::Filtered => "filtered",
            Self::Failover => "failover",
            Self::CatchUp => "catch-up",
            Self::Relay => "relay",
        }
    }

    /// The workload of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|workload| workload.name() == name)
    }

    /// Whether it says something about this peer.
    pub fn applies_to(self, peer: Peer, deployment: Deployment) -> bool {
        if !deployment.workloads().contains(&self) {
            return false;
        }
        match self {
            Self::Publish => !peer.is_bare(),
            // Flushing one by one, JetStream's deliveries are its publishes.
            Self::Fanout => peer != Peer::NatsAlways,
            Self::Latency => peer != Peer::BareFrame,
            // How a system flushes makes no difference to these.
            Self::Replay => !matches!(peer, Peer::NatsAlways | Peer::RedisEverysec),
            Self::Memory => !matches!(
                peer,
                Peer::NatsAlways | Peer::RedisEverysec | Peer::BareFrame
            ),
            Self::Filtered => !peer.is_bare() && peer != Peer::NatsAlways,
            // One of two servers is no majority.
            Self::Failover => peer != Peer::NatsAlways && deployment.servers() > 2,
            Self::CatchUp | Self::Relay => peer == Peer::Tidings,
        }
    }

    /// How often it runs in a round, each time on servers that were just started.
    pub fn repetitions(self, scale: &Scale) -> usize {
        match self {
            Self::Failover => scale.failovers,
            _ => 1,
        }
    }

    /// Measures all cases on this server; `each` is called with every result.
    ///
    /// # Errors
    ///
    /// The server failed, was too slow for a limit, or lost an event.
    pub fn run(
        self,
        running: &mut Running,
        scale: &Scale,
        each: &mut dyn FnMut(String, Measure),
    ) -> Result<()> {
        match self {
            Self::Publish => publish::run(running, scale, each),
            Self::Fanout => fanout::run(running, scale, each),
            Self::Latency => latency::run(running, scale, each),
            Self::Replay => replay::run(running, scale, each),
            Self::Memory => memory::run(running, scale, each),
            Self::Filtered => filtered::run(running, scale, each),
            Self::Failover => failover::run(running, each),
            Self::CatchUp => catch_up::run(running, scale, each),
            Self::Relay => relay::run(running, scale, each),
        }
    }
}

/// What one case of one round gave; what does not apply is absent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measure {
    /// Events or deliveries a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Server CPU for one event or delivery, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<f64>,
    /// Half of the latencies were below, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<f64>,
    /// 99 of 100 were below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<f64>,
    /// 999 of 1,000 were below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_us: Option<f64>,
    /// Server memory for one subscriber, in KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kib: Option<f64>,
    /// Bytes of the history a second, in MB (10⁶).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mb_rate: Option<f64>,
    /// Milliseconds in which nothing was acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_ms: Option<f64>,
    /// Streams that the servers served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<f64>,
    /// CPU of the load generator, as a share of one core: near 1 it is the
    /// generator that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_busy: Option<f64>,
}

impl Measure {
    /// A rate with its costs.
    fn of(reading: &session::Reading, count: u64) -> Self {
        Self {
            rate: Some(reading.rate(count)),
            cpu_us: Some(reading.cpu_us(count)),
            generator_busy: Some(reading.generator_busy),
            ..Self::default()
        }
    }

    /// With the quantiles of these times in nanoseconds, which it sorts.
    fn with_latencies(mut self, times_ns: &mut [u64]) -> Self {
        times_ns.sort_unstable();
        self.p50_us = quantile_us(times_ns, 0.5);
        self.p99_us = quantile_us(times_ns, 0.99);
        self.p999_us = quantile_us(times_ns, 0.999);
        self
    }
}

/// The smallest time that `share` of the sorted times do not exceed.
fn quantile_us(sorted_ns: &[u64], share: f64) -> Option<f64> {
    let rank = (sorted_ns.len() as f64 * share).ceil() as usize;
    let nanoseconds = sorted_ns.get(rank.saturating_sub(1))?;
    Some(*nanoseconds as f64 / 1e3)
}

/// The length of the lines with which the agent sends one of our events.
///
/// # Errors
///
/// The agent does not answer.
pub fn line_bytes(running: &Running) -> Result<usize> {
    use std::io::{Read, Write};
    let mut session = Session::new(running)?;
    session.add_publishers(1, Layout::OneStream)?;
    session.mark()?;
    let address: SocketAddr = running.address();
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(session::READY_LIMIT))?;
    socket.write_all(LineProbe::request(address).as_bytes())?;
    let mut probe = LineProbe::new();
    let mut data = Vec::new();
    loop {
        if let Some(bytes) = probe.line_bytes() {
            return Ok(bytes);
        }
        let mut buffer = [0; 4_096];
        let read = socket.read(&mut buffer).context("read one event")?;
        anyhow::ensure!(read > 0, "the agent ended the event stream");
        data.extend_from_slice(&buffer[..read]);
        let used = probe.receive(&data)?;
        data.drain(..used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let times: Vec<u64> = (1..=1_000).map(|time| time * 1_000).collect();
        assert_eq!(quantile_us(&times, 0.5), Some(500.0));
        assert_eq!(quantile_us(&times, 0.99), Some(990.0));
        assert_eq!(quantile_us(&times, 0.999), Some(999.0));
        assert_eq!(quantile_us(&[7_000], 0.999), Some(7.0));
        assert_eq!(quantile_us(&[], 0.5), None);
    }

    #[test]
    fn names_and_workloads_belong_together() {
        for workload in Workload::ALL {
            assert_eq!(Workload::named(workload.name()), Some(workload));
        }
    }
}
