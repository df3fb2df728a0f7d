//! The systems that are compared, each behind the same two shapes.
//!
//! A [`Publisher`] and a [`Subscriber`] are one connection each, without I/O:
//! they turn events into bytes and bytes into acknowledgements and events.
//! [`Running`] starts the server and makes them.

mod bare;
mod cluster;
mod etcd;
mod nats;
mod redis;
mod tidings;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::deployment::Deployment;
use crate::payload::{Deliveries, PAYLOAD_BYTES};
use crate::process::Server;
use crate::programs::Programs;
use crate::protocol::ProtocolError;

pub use bare::MODE_CURSOR;
pub use tidings::{LineProbe, NodeStatus};

/// A system in one way of running it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// The agent of this repository; acknowledges what is on disk.
    Tidings,
    /// JetStream on file as delivered: flushes every 2 minutes.
    Nats,
    /// JetStream that flushes before it acknowledges.
    NatsAlways,
    /// Redis Streams that flush before they acknowledge.
    RedisAlways,
    /// Redis Streams that flush every second.
    RedisEverysec,
    /// etcd; acknowledges what is on disk.
    Etcd,
    /// A broadcaster that stores nothing: subscribers are cursors into one log.
    Bare,
    /// The same with one hyper frame an event.
    BareFrame,
}

impl Peer {
    /// All, in the order of the tables.
    pub const ALL: [Self; 8] = [
        Self::Tidings,
        Self::RedisAlways,
        Self::RedisEverysec,
        Self::Nats,
        Self::NatsAlways,
        Self::Etcd,
        Self::Bare,
        Self::BareFrame,
    ];

    /// As written on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tidings => "tidings",
            Self::Nats => "nats",
            Self::NatsAlways => "nats-always",
            Self::RedisAlways => "redis-always",
            Self::RedisEverysec => "redis-everysec",
            Self::Etcd => "etcd",
            Self::Bare => "bare",
            Self::BareFrame => "bare-frame",
        }
    }

    /// The peers that a name on the command line stands for.
    pub fn named(name: &str) -> Option<Vec<Self>> {
        match name {
            "redis" => Some(vec![Self::RedisAlways, Self::RedisEverysec]),
            "all" => Some(Self::ALL.to_vec()),
            _ => Self::ALL
                .into_iter()
                .find(|peer| peer.name() == name)
                .map(|peer| vec![peer]),
        }
    }

    /// The program that runs it.
    pub fn program(self) -> &'static str {
        match self {
            Self::Tidings => "tidings",
            Self::Nats | Self::NatsAlways => "nats-server",
            Self::RedisAlways | Self::RedisEverysec => "redis-server",
            Self::Etcd => "etcd",
            Self::Bare | Self::BareFrame => "tidings-bench",
        }
    }

    /// What its acknowledgement means.
    pub fn acknowledges(self, deployment: Deployment) -> &'static str {
        if deployment.is_cluster() {
            return match self {
                Self::Nats => "page caches of a majority, before fsync (every 2 minutes)",
                _ => "on the disks of a majority",
            };
        }
        match self {
            Self::Tidings | Self::NatsAlways | Self::RedisAlways | Self::Etcd => "on disk",
            Self::Nats => "page cache, flushed every 2 minutes",
            Self::RedisEverysec => "page cache, flushed every second",
            Self::Bare | Self::BareFrame => "nothing is stored",
        }
    }

    /// Whether events of one connection are stored in the order in which they
    /// were sent while others are still unacknowledged. etcd handles calls that
    /// are open at the same time in any order; there the subscriber checks the
    /// store's own numbers instead of ours.
    pub fn keeps_publish_order(self) -> bool {
        self != Self::Etcd
    }

    /// Whether it is here to show a limit and stores nothing.
    pub fn is_bare(self) -> bool {
        matches!(self, Self::Bare | Self::BareFrame)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How events are laid out in a system that has several ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One stream that holds all keys.
    OneStream,
    /// What a subscriber to one key needs. Redis: a stream a key, which gives
    /// up the order between keys. The others: as `OneStream`.
    ByKey,
    /// What storing many events for a replay needs. etcd: every event is a key
    /// of its own, 100 in a transaction. The others: as `OneStream`.
    Replay,
}

/// Where a subscriber begins.
#[derive(Clone, Debug)]
pub enum Start {
    /// At the oldest event.
    Beginning,
    /// Behind this one: a [`Publisher::position`].
    After(String),
}

/// One publishing connection.
pub trait Publisher {
    /// Appends what has to be said before the first event.
    fn open(&mut self, out: &mut Vec<u8>);

    /// Whether events may be sent.
    fn is_ready(&self) -> bool;

    /// Takes one event; what is not in `out` yet is there after `flush`.
    fn publish(&mut self, key: u64, payload: &[u8; PAYLOAD_BYTES], out: &mut Vec<u8>);

    /// Ends a group of events that may travel together.
    fn flush(&mut self, out: &mut Vec<u8>);

    /// Uses received bytes; returns how many.
    ///
    /// # Errors
    ///
    /// The server refused an event or broke the protocol.
    fn receive(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<usize, ProtocolError>;

    /// Events acknowledged so far.
    fn acked(&self) -> u64;

    /// The place in the stream of the last acknowledged event.
    fn position(&self) -> String;
}

/// One subscribing connection.
pub trait Subscriber {
    /// Appends the subscription.
    fn open(&mut self, out: &mut Vec<u8>);

    /// Whether the server has confirmed the subscription.
    fn is_ready(&self) -> bool;

    /// Uses received bytes, hands events to `deliveries`; returns how many
    /// bytes were used.
    ///
    /// # Errors
    ///
    /// The server refused or broke the protocol, or an event is not the one
    /// that was due.
    fn receive(
        &mut self,
        data: &[u8],
        out: &mut Vec<u8>,
        deliveries: &mut Deliveries,
    ) -> Result<usize, ProtocolError>;
}

/// One server, ready for connections.
pub struct Node {
    /// What it is called among the others.
    pub name: String,
    /// Its process.
    pub server: Server,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// Where other servers connect to; none when it is alone.
    pub peers: Option<SocketAddr>,
}

/// The servers of one peer, ready for connections.
pub struct Running {
    peer: Peer,
    program: PathBuf,
    folder: PathBuf,
    nodes: Vec<Node>,
    /// Which of them leads.
    leader: usize,
}

impl Running {
    /// Starts it with empty data in `folder`, one server or a cluster.
    ///
    /// `line_bytes` is the length of the lines of the bare broadcaster.
    ///
    /// # Errors
    ///
    /// It does not start; with the end of its log.
    pub fn start(
        peer: Peer,
        deployment: Deployment,
        programs: &Programs,
        folder: &Path,
        line_bytes: usize,
    ) -> Result<Self> {
        let program = programs.path(peer);
        let mut running = Self {
            peer,
            program: program.to_owned(),
            folder: folder.to_owned(),
            nodes: Vec::new(),
            leader: 0,
        };
        if deployment.is_cluster() {
            running.nodes = cluster::start(peer, program, folder, deployment.servers())?;
            running.find_leader()?;
            return Ok(running);
        }
        let (server, address) = match peer {
            Peer::Tidings => tidings::start(program, folder)?,
            Peer::Nats => nats::start(program, folder, false)?,
            Peer::NatsAlways => nats::start(program, folder, true)?,
            Peer::RedisAlways => redis::start(program, folder, "always")?,
            Peer::RedisEverysec => redis::start(program, folder, "everysec")?,
            Peer::Etcd => etcd::start(program, folder)?,
            Peer::Bare => bare::start(program, folder, bare::MODE_CURSOR, line_bytes)?,
            Peer::BareFrame => bare::start(program, folder, bare::MODE_FRAME, line_bytes)?,
        };
        running.nodes.push(Node {
            name: peer.to_string(),
            server,
            address,
            peers: None,
        });
        Ok(running)
    }

    /// Asks who leads, until somebody does.
    fn find_leader(&mut self) -> Result<()> {
        self.leader = cluster::await_leader(self.peer, &mut self.nodes)?;
        Ok(())
    }

    /// Which peer it is.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Where it listens; of a cluster, where its leader does.
    pub fn address(&self) -> SocketAddr {
        self.nodes[self.leader].address
    }

    /// Where each of its servers listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// Kills the leader, as a power cut would; where the others listen.
    ///
    /// # Errors
    ///
    /// It has ended already.
    pub fn kill_leader(&mut self) -> Result<Vec<SocketAddr>> {
        self.nodes[self.leader].server.kill()?;
        let others = self.nodes.iter().enumerate();
        let others = others.filter(|(at, _)| *at != self.leader);
        Ok(others.map(|(_, node)| node.address).collect())
    }

    /// Starts one more server, which has nothing; returns where it will listen as soon as it does.
    ///
    /// # Errors
    ///
    /// It does not start, or this peer has no such thing here.
    pub fn add_server(&mut self) -> Result<SocketAddr> {
        self.only_tidings()?;
        let node = cluster::tidings_server(
            &self.program,
            &self.folder,
            self.nodes.len(),
            0,
            &self.nodes,
        )?;
        let address = node.address;
        self.nodes.push(node);
        Ok(address)
    }

    /// Starts an agent beside the servers, which relays; it ends with the value. It is told of one
    /// server with `--join`, and finds the others by it.
    ///
    /// # Errors
    ///
    /// It does not start, or this peer has no such thing.
    pub fn agent(&self) -> Result<Node> {
        self.only_tidings()?;
        let first = self.nodes.first().and_then(|node| node.peers);
        let source = cluster::Source::Join(first.context("a cluster has servers")?);
        cluster::tidings_agent(&self.program, &self.folder, "agent", &source)
    }

    /// Starts an agent that follows another one.
    ///
    /// # Errors
    ///
    /// As [`Running::agent`].
    pub fn agent_of(&self, agent: &Node) -> Result<Node> {
        self.only_tidings()?;
        let addresses = [agent.address];
        let source = cluster::Source::Clients(&addresses);
        cluster::tidings_agent(&self.program, &self.folder, "second", &source)
    }

    /// Which server an agent follows.
    ///
    /// # Errors
    ///
    /// It follows none, or does not answer.
    pub fn followed_by(&self, agent: &Node) -> Result<SocketAddr> {
        let status = tidings::get(agent.address, "/v1/status")?;
        let url = status["Relay"]["Server"].as_str();
        url.and_then(|url| url.trim_end_matches('/').rsplit('/').next()?.parse().ok())
            .with_context(|| format!("no server in {}", status["Relay"]))
    }

    fn only_tidings(&self) -> Result<()> {
        if self.peer != Peer::Tidings {
            bail!("{} has no such thing here", self.peer);
        }
        Ok(())
    }

    /// What one of its servers says of itself.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn status(&self, address: SocketAddr) -> Result<NodeStatus> {
        NodeStatus::ask(address).with_context(|| format!("ask {address} how it is"))
    }

    /// A codec for a new publishing connection.
    pub fn publisher(&self, layout: Layout) -> Box<dyn Publisher> {
        match self.peer {
            Peer::Nats | Peer::NatsAlways => Box::new(nats::NatsPublisher::new()),
            Peer::RedisAlways | Peer::RedisEverysec => Box::new(redis::RedisPublisher::new(layout)),
            Peer::Etcd => Box::new(etcd::EtcdPublisher::new(self.address(), layout)),
            Peer::Tidings | Peer::Bare | Peer::BareFrame => {
                Box::new(tidings::TidingsPublisher::new(self.address()))
            }
        }
    }

    /// A codec for a new subscription, to one key or to everything.
    ///
    /// `Start::Beginning` is only used without a key.
    pub fn subscriber(&self, start: &Start, key: Option<u64>) -> Box<dyn Subscriber> {
        match self.peer {
            Peer::Nats | Peer::NatsAlways => Box::new(nats::NatsSubscriber::new(start, key)),
            Peer::RedisAlways | Peer::RedisEverysec => {
                Box::new(redis::RedisSubscriber::new(start, key))
            }
            Peer::Etcd => match start {
                Start::Beginning => Box::new(etcd::EtcdReader::new(self.address())),
                Start::After(revision) => {
                    Box::new(etcd::EtcdWatcher::new(self.address(), revision, key))
                }
            },
            Peer::Tidings | Peer::Bare | Peer::BareFrame => {
                Box::new(tidings::TidingsSubscriber::new(self.address(), start, key))
            }
        }
    }

    /// CPU time used so far, by all servers together.
    pub fn cpu(&self) -> Result<Duration> {
        self.nodes.iter().map(|node| node.server.cpu()).sum()
    }

    /// Resident memory, in bytes, of all servers together.
    pub fn resident_bytes(&self) -> Result<u64> {
        let nodes = self.nodes.iter();
        nodes.map(|node| node.server.resident_bytes()).sum()
    }

    /// How they ended, for a message; empty while they run.
    pub fn obituary(&mut self) -> String {
        let nodes = self.nodes.iter_mut();
        nodes.map(|node| node.server.obituary()).collect()
    }
}

/// A key as every system writes it.
pub fn key_name(key: u64) -> String {
    format!("k{key:04}")
}
