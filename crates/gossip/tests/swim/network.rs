//! A pool in one process: machines, a virtual clock, a network that loses and delays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tidings_gossip::swim::{
    Command, Config, Input, MemberEvent, NoDelegate, Output, StreamEvent, StreamId, Swim,
};
use tidings_gossip::wire::State;
use tidings_gossip::{Chance, Name, Time};

/// How long a datagram takes at most, and what goes on a stream always.
const DELAY_MAX: Duration = Duration::from_millis(4);

/// A pool.
pub struct Network {
    pub now: Time,
    pub nodes: Vec<Node>,
    /// Of a hundred datagrams.
    pub loss: usize,
    /// Nodes below this number and those from it upwards do not reach each other.
    pub cut_at: Option<usize>,
    chance: Chance,
    due: BTreeSet<(Time, usize)>,
    under_way: BTreeMap<(Time, u64), (usize, Input)>,
    sent: u64,
    streams: BTreeMap<(usize, StreamId), (usize, StreamId)>,
    /// A digest of all that happened, in its order.
    pub trace: u64,
}

/// A member of the pool.
pub struct Node {
    pub swim: Swim,
    pub is_up: bool,
    deadline: Option<Time>,
    /// Who was told to be gone, and when.
    pub gone: Vec<(Name, Time)>,
    pub joins: Vec<usize>,
}

impl Network {
    /// Nodes that all start at once and join the first one.
    pub fn joined(count: usize, seed: u64, change: impl Fn(usize, &mut Config)) -> Network {
        let mut network = Network {
            now: Time::ZERO,
            nodes: Vec::new(),
            loss: 0,
            cut_at: None,
            chance: Chance::from_number(seed),
            due: BTreeSet::new(),
            under_way: BTreeMap::new(),
            sent: 0,
            streams: BTreeMap::new(),
            trace: 0,
        };
        for number in 0..count {
            let mut config = Config::new(name(number), addr(number));
            change(number, &mut config);
            let chance = Chance::from_number(seed * 1_000 + number as u64);
            let mut swim = Swim::new(config, chance).unwrap();
            swim.start(Time::ZERO);
            network.nodes.push(Node {
                swim,
                is_up: true,
                deadline: None,
                gone: Vec::new(),
                joins: Vec::new(),
            });
            network.update_deadline(number);
        }
        for number in 1..count {
            network.join(number, 0);
        }
        network
    }

    pub fn join(&mut self, node: usize, to: usize) {
        let addresses = vec![addr(to)];
        self.give(node, Input::Command(Command::Join { join: 1, addresses }));
    }

    /// Lets time go by.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let timer = self.due.first().map(|(at, _)| *at);
            let arrival = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = timer
                .into_iter()
                .chain(arrival)
                .min()
                .filter(|at| *at <= until)
            else {
                break;
            };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                if let Some((_, (node, input))) = self.under_way.pop_first() {
                    self.give(node, input);
                }
            } else if let Some((_, node)) = self.due.pop_first() {
                self.give(node, Input::Timer);
            }
        }
        self.now = until;
    }

    pub fn seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    /// Lets time go by until something is so, for a limited time; when it was.
    pub fn until(&mut self, seconds_max: u64, is_so: impl Fn(&Network) -> bool) -> Duration {
        let began = self.now;
        while self.now.since(began) < Duration::from_secs(seconds_max) {
            if is_so(self) {
                return self.now.since(began);
            }
            self.run(Duration::from_millis(50));
        }
        panic!("not so after {seconds_max} s: {}", self.picture());
    }

    pub fn kill(&mut self, node: usize) {
        self.nodes[node].is_up = false;
        self.update_deadline(node);
    }

    pub fn up(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.is_up)
    }

    /// Whether all that are up hold all that are up for alive, and know of nobody else alive.
    pub fn agrees(&self) -> bool {
        self.up().all(|(number, _)| {
            let count = self.nodes[number]
                .swim
                .members()
                .filter(|member| member.state == State::Alive);
            count.count() == self.up().count()
                && self
                    .up()
                    .all(|(other, _)| self.state(number, other) == Some(State::Alive))
        })
    }

    /// What a node holds another for.
    pub fn state(&self, node: usize, other: usize) -> Option<State> {
        self.nodes[node]
            .swim
            .member(&name(other))
            .map(|member| member.state)
    }

    pub fn gone_count(&self) -> usize {
        self.nodes.iter().map(|node| node.gone.len()).sum()
    }

    fn picture(&self) -> String {
        let line = |(number, node): (usize, &Node)| {
            let states = node
                .swim
                .members()
                .map(|member| format!("{}:{:?}", member.name, member.state));
            format!("\n{number} sees {}", states.collect::<Vec<_>>().join(" "))
        };
        self.up().map(line).collect()
    }

    pub fn give(&mut self, number: usize, input: Input) {
        let node = &mut self.nodes[number];
        if !node.is_up {
            return;
        }
        let outputs = node.swim.handle(self.now, input, &mut NoDelegate);
        self.update_deadline(number);
        for output in outputs {
            self.carry_out(number, output);
        }
    }

    fn carry_out(&mut self, from: usize, output: Output) {
        self.note(from, &output);
        match output {
            Output::Datagram { to, bytes } => {
                let lost = self.chance.part_of(self.loss, 100);
                let delay = self.chance.duration_below(DELAY_MAX);
                if let Some(to) = self.reached(from, to).filter(|_| !lost) {
                    let from = addr(from);
                    self.later(delay, to, Input::Datagram { from, bytes });
                }
            }
            Output::Dial { stream, to } => self.dial(from, stream, to),
            Output::Write { stream, bytes } => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let piece = rest.split_to(rest.len().min(1 + self.chance.below(3_000)));
                    self.along(from, stream, StreamEvent::Bytes(piece));
                }
            }
            Output::Close { stream } => {
                self.along(from, stream, StreamEvent::Closed { failure: None });
                if let Some(peer) = self.streams.remove(&(from, stream)) {
                    self.streams.remove(&peer);
                }
            }
            Output::Member(MemberEvent::Gone(member)) => {
                self.nodes[from].gone.push((member.name, self.now));
            }
            Output::JoinFinished { contacted, .. } => self.nodes[from].joins.push(contacted),
            _ => {}
        }
    }

    fn dial(&mut self, from: usize, stream: StreamId, to: SocketAddr) {
        let failure = Some("connection refused".to_owned());
        let Some(to) = self.reached(from, to) else {
            return; // nobody refuses it either; its time runs out
        };
        if !self.nodes[to].is_up {
            let event = StreamEvent::Closed { failure };
            self.later(DELAY_MAX, from, Input::Stream { stream, event });
            return;
        }
        let accepted = StreamId::Accepted(self.sent);
        self.streams.insert((from, stream), (to, accepted));
        self.streams.insert((to, accepted), (from, stream));
        let event = StreamEvent::Accepted { from: addr(from) };
        self.later(
            DELAY_MAX,
            to,
            Input::Stream {
                stream: accepted,
                event,
            },
        );
        let event = StreamEvent::Connected;
        self.later(DELAY_MAX, from, Input::Stream { stream, event });
    }

    /// To the other end of a stream.
    fn along(&mut self, from: usize, stream: StreamId, event: StreamEvent) {
        if let Some(&(to, stream)) = self.streams.get(&(from, stream))
            && self.reached(from, addr(to)).is_some()
        {
            self.later(DELAY_MAX, to, Input::Stream { stream, event });
        }
    }

    fn later(&mut self, delay: Duration, node: usize, input: Input) {
        self.sent += 1;
        self.under_way
            .insert((self.now + delay, self.sent), (node, input));
    }

    fn reached(&self, from: usize, to: SocketAddr) -> Option<usize> {
        let to = usize::from(to.port()).checked_sub(1_000)?;
        let is_cut = self.cut_at.is_some_and(|at| (from < at) != (to < at));
        (to < self.nodes.len() && !is_cut).then_some(to)
    }

    fn update_deadline(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if let Some(old) = node.deadline.take() {
            self.due.remove(&(old, number));
        }
        if node.is_up {
            node.deadline = node.swim.next_deadline();
            self.due.extend(node.deadline.map(|at| (at, number)));
        }
    }

    fn note(&mut self, from: usize, output: &Output) {
        let bytes: Option<&Bytes> = match output {
            Output::Datagram { bytes, .. } | Output::Write { bytes, .. } => Some(bytes),
            _ => None,
        };
        let sum = bytes.map_or(1, |bytes| bytes.iter().map(|byte| u64::from(*byte)).sum());
        let at = self.now.since_zero().as_nanos() as u64;
        for part in [from as u64, at, sum] {
            self.trace = (self.trace ^ part)
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(5);
        }
    }
}

pub fn name(number: usize) -> Name {
    Name::from(format!("n{number}"))
}

fn addr(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1_000 + number as u16))
}
