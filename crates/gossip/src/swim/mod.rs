//! memberlist's machine: who is there, told by gossip and found out by probes (SWIM with Lifeguard).
//!
//! ```text
//!              alive (newer)
//!   ┌──────────────────────────────────┐
//!   ▼                                  │
//! alive ── no answer, suspect ──▶ suspect ── time is up, dead ──▶ dead ─┐
//!   │ ▲                                                                 ├─▶ forgotten
//!   │ └── alive (newer) ──────── dead, left ◀─┐                         │
//!   └── dead, said by itself ─────────────────┴───────────────▶ left ───┘
//! ```
//!
//! - `rules`: what each message changes, and how a node contradicts what is said about it
//! - `probe`: asking members whether they are there, directly, through others, on a stream
//! - `dissemination`: passing on news, with each datagram and at intervals
//! - `streams`: exchanging the whole state, joining, what else goes on streams
//!
//! **Invariant:** nothing that comes in changes more than one member, except an exchange; nothing
//! that is said about ourselves is believed.

mod awareness;
mod broadcast;
mod dissemination;
mod io;
mod members;
mod probe;
mod rules;
mod streams;
mod suspicion;
mod timers;
mod timing;
mod versions;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use thiserror::Error;

pub use broadcast::{BroadcastQueue, BroadcastToken};
pub use io::{Command, Delegate, Input, MemberEvent, NoDelegate, Output, StreamEvent, StreamId};
pub use members::Member;
pub use timing::Timing;

use crate::chance::Chance;
use crate::name::Name;
use crate::time::Time;
use crate::wire::serf::META_BYTES_MAX;
use crate::wire::{Keyring, Message, Source, Versions, open_packet};
use awareness::Awareness;
use members::Members;
use probe::{Helping, Probe};
use streams::{Join, Stream};
use suspicion::Suspicion;
use timers::{Timer, Timers};

/// Members that are known at once; each costs less than 1 KiB. As many as fit an exchange.
pub const MEMBERS_MAX: usize = crate::wire::PUSH_PULL_NODES_MAX;

/// Bytes of a member's name: with the longest meta it still fits a datagram.
pub const NAME_BYTES_MAX: usize = 512;

/// What a node says of itself, and how it does things.
#[derive(Debug)]
pub struct Config {
    /// Its name, which nobody else in the pool bears.
    pub name: Name,
    /// Where others reach it.
    pub addr: SocketAddr,
    /// What the layer above says about it; up to 512 bytes.
    pub meta: Bytes,
    /// What it speaks.
    pub versions: Versions,
    /// How long things take.
    pub timing: Timing,
    /// The keys of the pool; without them nothing is encrypted.
    pub keyring: Option<Keyring>,
    /// Whether to compress what is sent. What comes compressed is always understood.
    pub compress: bool,
}

impl Config {
    /// A node of Serf's newest protocol in a local network, without encryption.
    pub fn new(name: Name, addr: SocketAddr) -> Config {
        Config {
            name,
            addr,
            meta: Bytes::new(),
            versions: Versions::SERF,
            timing: Timing::LAN,
            keyring: None,
            compress: true,
        }
    }
}

/// A configuration that no machine can be made of.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A name of no byte, or of too many.
    #[error("a node's name has 1 to {NAME_BYTES_MAX} bytes, this one has {0}")]
    Name(usize),
    /// Too much meta.
    #[error("meta has at most {META_BYTES_MAX} bytes, this has {0}")]
    Meta(usize),
    /// An address that nobody can reach.
    #[error("others cannot reach {0}: an address and a port are needed, not 0.0.0.0 or port 0")]
    Address(SocketAddr),
}

/// What was dropped or refused since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams of which nothing could be believed.
    pub datagrams_refused: u64,
    /// Parts of datagrams that could not be read.
    pub parts_dropped: u64,
    /// Messages whose content makes no sense: no address, an absurd incarnation, too long a name.
    pub messages_ignored: u64,
    /// Members that were not taken because there are too many.
    pub members_refused: u64,
    /// Requests to ask for another that were not taken because there are too many.
    pub helping_refused: u64,
    /// Streams that were closed because there are too many.
    pub streams_refused: u64,
    /// Streams on which nothing sensible came.
    pub streams_failed: u64,
    /// Exchanges that were not merged because of their versions.
    pub merges_refused: u64,
    /// Times that we contradicted what was said about us.
    pub refutations: u64,
    /// Probes that no answer came to, not even through others.
    pub probes_failed: u64,
}

/// The machine.
///
/// ```
/// use tidings_gossip::{Chance, Name, Time, swim::{Config, Input, NoDelegate, Swim}};
///
/// let config = Config::new(Name::from("a"), "127.0.0.1:7946".parse().unwrap());
/// let mut swim = Swim::new(config, Chance::from_number(1)).unwrap();
/// swim.start(Time::ZERO);
/// let deadline = swim.next_deadline().unwrap();
/// let outputs = swim.handle(deadline, Input::Timer, &mut NoDelegate);
/// assert!(outputs.is_empty(), "alone, there is nobody to talk to");
/// ```
#[derive(Debug)]
pub struct Swim {
    config: Config,
    chance: Chance,
    now: Time,
    members: Members,
    suspicions: BTreeMap<Name, Suspicion>,
    broadcasts: BroadcastQueue,
    timers: Timers,
    awareness: Awareness,
    /// The last number that a ping got.
    seq: u32,
    probe: Option<Probe>,
    /// A probe was due while another one was under way.
    probe_due: bool,
    helping: BTreeMap<u32, Helping>,
    streams: BTreeMap<StreamId, Stream>,
    streams_dialed: u64,
    joins: BTreeMap<u64, Join>,
    leaving: Leaving,
    counters: Counters,
    outputs: Vec<Output>,
}

/// Whether we go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// We have said so, and it is being told.
    UnderWay,
    /// It has been told, or there was no more time.
    Done,
}

/// News of our leaving; tokens from outside are below.
const LEAVE_TOKEN: BroadcastToken = BroadcastToken::MAX;

impl Swim {
    /// A machine that knows nobody; [`Swim::start`] sets it going.
    ///
    /// # Errors
    ///
    /// The configuration cannot work.
    pub fn new(config: Config, mut chance: Chance) -> Result<Swim, ConfigError> {
        if config.name.is_empty() || config.name.len() > NAME_BYTES_MAX {
            return Err(ConfigError::Name(config.name.len()));
        }
        if config.meta.len() > META_BYTES_MAX {
            return Err(ConfigError::Meta(config.meta.len()));
        }
        if config.addr.ip().is_unspecified() || config.addr.port() == 0 {
            return Err(ConfigError::Address(config.addr));
        }
        Ok(Swim {
            awareness: Awareness::new(config.timing.awareness_max),
            // Somebody who cannot see our pings cannot know their numbers either.
            seq: chance.number() as u32,
            config,
            chance,
            now: Time::ZERO,
            members: Members::default(),
            suspicions: BTreeMap::new(),
            broadcasts: BroadcastQueue::default(),
            timers: Timers::default(),
            probe: None,
            probe_due: false,
            helping: BTreeMap::new(),
            streams: BTreeMap::new(),
            streams_dialed: 0,
            joins: BTreeMap::new(),
            leaving: Leaving::No,
            counters: Counters::default(),
            outputs: Vec::new(),
        })
    }

    /// Makes ourselves a member, the first one, and sets the timers.
    pub fn start(&mut self, now: Time) -> Vec<Output> {
        self.now = now;
        let timing = self.config.timing;
        for (interval, timer) in [
            (timing.probe_interval, Timer::Probe),
            (timing.gossip_interval, Timer::Gossip),
            (timing.push_pull_interval, Timer::PushPull),
        ] {
            // Not all at the same moment when all start at the same moment.
            let at = now + self.chance.duration_below(interval);
            self.timers.set(at, |_| timer);
        }
        self.announce();
        std::mem::take(&mut self.outputs)
    }

    /// What happens next at the latest, when nothing comes in.
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Lets something happen, and everything whose time has come; tells what is to be done.
    pub fn handle(&mut self, now: Time, input: Input, delegate: &mut dyn Delegate) -> Vec<Output> {
        self.now = self.now.max(now);
        match input {
            Input::Datagram { from, bytes } => self.datagram(from, bytes, delegate),
            Input::Stream { stream, event } => self.stream(stream, event, delegate),
            Input::Timer => {}
            Input::Command(command) => self.command(command),
        }
        while let Some(timer) = self.timers.take_due(self.now) {
            self.timer(timer, delegate);
        }
        for token in self.broadcasts.take_finished() {
            match token {
                LEAVE_TOKEN => self.left(true),
                token => self.outputs.push(Output::Told { token }),
            }
        }
        std::mem::take(&mut self.outputs)
    }

    /// All members, those that are gone included until they are forgotten.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    /// A member.
    pub fn member(&self, name: &Name) -> Option<&Member> {
        self.members.get(name)
    }

    /// Our own name.
    pub fn name(&self) -> &Name {
        &self.config.name
    }

    /// How many members are not gone, ourselves included.
    pub fn alive_count(&self) -> usize {
        self.members
            .iter()
            .filter(|member| !member.state.is_gone())
            .count()
    }

    /// How little we trust ourselves: 0 is healthy.
    pub fn health_score(&self) -> u32 {
        self.awareness.score()
    }

    /// What was dropped or refused.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How much of memberlist's own news waits to be told.
    pub fn news_waiting(&self) -> usize {
        self.broadcasts.len()
    }

    /// The times that it runs by.
    pub fn timing(&self) -> &Timing {
        &self.config.timing
    }

    /// The keys, to be changed.
    pub fn keyring_mut(&mut self) -> Option<&mut Keyring> {
        self.config.keyring.as_mut()
    }

    fn timer(&mut self, timer: Timer, delegate: &mut dyn Delegate) {
        match timer {
            Timer::Probe => self.probe_tick(delegate),
            Timer::ProbeTimeout { seq } => self.ask_others(seq, delegate),
            Timer::ProbeEnd { seq } => self.probe_ends(seq, delegate),
            Timer::Helping { seq } => self.helping_ends(seq, delegate),
            Timer::Gossip => self.gossip_tick(delegate),
            Timer::PushPull => self.push_pull_tick(),
            Timer::Suspicion { node, timer } => self.suspicion_ends(&node, timer),
            Timer::Stream(stream) => self.stream_ends(stream),
            Timer::Leave => self.left(false),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Join { join, addresses } => self.join(join, addresses),
            Command::Leave { timeout } => self.leave(timeout),
            Command::Update { meta, token } => self.update(meta, token),
            Command::Send { to, bytes } => {
                self.send_packet(to, &[Message::User(bytes).encode()], false);
            }
            Command::SendOnStream { to, bytes } => self.send_on_stream(to, bytes),
        }
    }

    fn datagram(&mut self, from: SocketAddr, bytes: Bytes, delegate: &mut dyn Delegate) {
        let Ok(packet) = open_packet(bytes, self.config.keyring.as_ref()) else {
            self.counters.datagrams_refused += 1;
            return;
        };
        self.counters.parts_dropped += packet.dropped as u64;
        for message in packet.messages {
            match message {
                Message::Ping(ping) => self.answer(from, &ping, delegate),
                Message::IndirectPing(ping) => self.help(from, &ping, delegate),
                Message::Ack(ack) => self.answered(ack, delegate),
                Message::Nack { seq } => self.helper_had_no_answer(seq),
                Message::Suspect(said) => self.suspected(&said),
                Message::Alive(alive) => self.alive(&alive),
                Message::Dead(said) => self.dead(&said),
                Message::User(bytes) => self.outputs.push(Output::User { bytes }),
            }
        }
    }

    fn leave(&mut self, timeout: std::time::Duration) {
        match self.leaving {
            Leaving::UnderWay => return,
            Leaving::Done => {
                self.outputs.push(Output::LeaveFinished { told: true });
                return;
            }
            Leaving::No => {}
        }
        self.leaving = Leaving::UnderWay;
        self.say_that_we_leave();
        let own = &self.config.name;
        let others = self
            .members
            .iter()
            .any(|member| member.name != *own && !member.state.is_gone());
        if others {
            self.timers.set(self.now + timeout, |_| Timer::Leave);
        } else {
            self.left(true);
        }
    }

    fn left(&mut self, told: bool) {
        if self.leaving == Leaving::UnderWay {
            self.leaving = Leaving::Done;
            self.outputs.push(Output::LeaveFinished { told });
        }
    }

    /// Who asks, for the messages that want an answer.
    fn source(&self) -> Source {
        Source {
            addr: Some(self.config.addr.ip()),
            port: self.config.addr.port(),
            node: self.config.name.clone(),
        }
    }

    /// Whether we are a member that others may count on.
    fn is_self(&self, name: &Name) -> bool {
        *name == self.config.name
    }
}
