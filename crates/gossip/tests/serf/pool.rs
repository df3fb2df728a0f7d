//! A pool whose network is as fast as one's own machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tidings_gossip::serf::{Question, ReceivedQuery, Serf, SerfCommand, SerfConfig, SerfOutput};
use tidings_gossip::swim::{Config, Input, Output, StreamEvent, StreamId};
use tidings_gossip::wire::serf::{LamportTime, MemberStatus, SerfMessage, Tags, UserEvent};
use tidings_gossip::wire::{Message, PacketOptions, open_packet, seal_packet};
use tidings_gossip::{Chance, Name, Time};

pub const STRANGER: &str = "10.0.0.9:9";

/// A pool whose network is as fast as one's own machine.
pub struct Pool {
    pub now: Time,
    pub nodes: Vec<Serf>,
    pub down: BTreeSet<usize>,
    pub waiting: VecDeque<(usize, Input)>,
    streams: BTreeMap<(usize, StreamId), (usize, StreamId)>,
    accepted: u64,
    /// What each node told, in words.
    told: Vec<Vec<String>>,
    /// The user messages that went out as datagrams.
    pub passed_on: Vec<Bytes>,
    /// Queries that wait for an answer, and whose.
    pub asked: Vec<(usize, ReceivedQuery)>,
}

pub fn name(number: usize) -> Name {
    Name::from(format!("n{number}"))
}

pub fn addr(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1_000 + number as u16))
}

pub fn serf(number: usize, change: impl FnOnce(&mut SerfConfig)) -> Serf {
    let mut config = SerfConfig::new(Config::new(name(number), addr(number)));
    config.tags = Tags(BTreeMap::from([(Name::from("number"), name(number))]));
    change(&mut config);
    Serf::new(config, Chance::from_number(number as u64)).unwrap()
}

impl Pool {
    pub fn of(nodes: Vec<Serf>) -> Pool {
        let count = nodes.len();
        let mut pool = Pool {
            now: Time::ZERO,
            nodes,
            down: BTreeSet::new(),
            waiting: VecDeque::new(),
            streams: BTreeMap::new(),
            accepted: 0,
            told: vec![Vec::new(); count],
            passed_on: Vec::new(),
            asked: Vec::new(),
        };
        for number in 0..count {
            let outputs = pool.nodes[number].start(Time::ZERO);
            pool.carry_out(number, outputs);
        }
        pool
    }

    pub fn joined(count: usize) -> Pool {
        let mut pool = Pool::of((0..count).map(|number| serf(number, |_| {})).collect());
        for number in 1..count {
            pool.join(number, 0);
        }
        pool.seconds(3);
        pool
    }

    pub fn command(&mut self, node: usize, command: SerfCommand) {
        let outputs = self.nodes[node].command(self.now, command);
        self.carry_out(node, outputs);
        self.deliver();
    }

    pub fn join(&mut self, node: usize, to: usize) {
        let addresses = vec![addr(to)];
        self.command(node, SerfCommand::Join { join: 1, addresses });
    }

    pub fn ask(&mut self, node: usize, question: Question) {
        let (_, outputs) = self.nodes[node].ask(self.now, &question).unwrap();
        self.carry_out(node, outputs);
    }

    /// Everybody who is asked answers with the same.
    pub fn answer(&mut self, payload: &'static str) {
        for (node, query) in std::mem::take(&mut self.asked) {
            let payload = Bytes::from_static(payload.as_bytes());
            let outputs = self.nodes[node].respond(self.now, query, payload).unwrap();
            self.carry_out(node, outputs);
        }
        self.deliver();
    }

    pub fn event(&mut self, node: usize, event: &str, payload: &str) {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        let outputs = self.nodes[node]
            .send_event(Name::from(event), payload, false)
            .unwrap();
        self.carry_out(node, outputs);
    }

    /// A message of a stranger.
    pub fn says(&mut self, node: usize, message: &SerfMessage) {
        let message = Message::User(message.encode()).encode();
        let options = PacketOptions::default();
        let bytes = seal_packet(&[message], options, &mut Chance::from_number(1)).remove(0);
        let from = STRANGER.parse().unwrap();
        self.waiting
            .push_back((node, Input::Datagram { from, bytes }));
        self.deliver();
    }

    pub fn seconds(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        loop {
            self.deliver();
            let up = (0..self.nodes.len()).filter(|number| !self.down.contains(number));
            let due = up.filter_map(|number| Some((self.nodes[number].next_deadline()?, number)));
            let Some((at, node)) = due.min().filter(|(at, _)| *at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            self.waiting.push_back((node, Input::Timer));
        }
        self.now = until;
    }

    pub fn deliver(&mut self) {
        while let Some((node, input)) = self.waiting.pop_front() {
            if !self.down.contains(&node) {
                let outputs = self.nodes[node].handle(self.now, input);
                self.carry_out(node, outputs);
            }
        }
    }

    pub fn carry_out(&mut self, from: usize, outputs: Vec<SerfOutput>) {
        for output in outputs {
            let word = match output {
                SerfOutput::Network(output) => {
                    self.network(from, output);
                    continue;
                }
                SerfOutput::Member(event) => format!("{} {:?}", event.member.name, event.change),
                SerfOutput::UserEvent(event) => format!(
                    "{} {} {}",
                    event.ltime,
                    event.name,
                    String::from_utf8_lossy(&event.payload)
                ),
                SerfOutput::Conflict { known, .. } => format!("{} conflicts", known.name),
                SerfOutput::JoinFinished { contacted, .. } => format!("joined {contacted}"),
                SerfOutput::LeaveFinished => "left".to_owned(),
                SerfOutput::Query(received) => {
                    let word = format!("asked {}", received.query.name);
                    self.asked.push((from, received));
                    word
                }
                SerfOutput::QueryAck { from, .. } => format!("ack {from}"),
                SerfOutput::QueryAnswer { from, payload, .. } => {
                    format!("answer {from} {}", String::from_utf8_lossy(&payload))
                }
                SerfOutput::QueryDone { .. } => "done".to_owned(),
                SerfOutput::NameContested { answers, for_us } => format!("name {for_us}/{answers}"),
            };
            self.told[from].push(word);
        }
    }

    fn network(&mut self, from: usize, output: Output) {
        match output {
            Output::Datagram { to, bytes } => {
                let packet = open_packet(bytes.clone(), None).unwrap();
                self.passed_on
                    .extend(
                        packet
                            .messages
                            .into_iter()
                            .filter_map(|message| match message {
                                Message::User(bytes) => Some(bytes),
                                _ => None,
                            }),
                    );
                if let Some(to) = self.number(to) {
                    let from = addr(from);
                    self.waiting
                        .push_back((to, Input::Datagram { from, bytes }));
                }
            }
            Output::Dial { stream, to } => {
                let Some(to) = self.number(to).filter(|to| !self.down.contains(to)) else {
                    let event = StreamEvent::Closed {
                        failure: Some("refused".into()),
                    };
                    self.waiting
                        .push_back((from, Input::Stream { stream, event }));
                    return;
                };
                self.accepted += 1;
                let accepted = StreamId::Accepted(self.accepted);
                self.streams.insert((from, stream), (to, accepted));
                self.streams.insert((to, accepted), (from, stream));
                let event = StreamEvent::Accepted { from: addr(from) };
                self.waiting.push_back((
                    to,
                    Input::Stream {
                        stream: accepted,
                        event,
                    },
                ));
                let event = StreamEvent::Connected;
                self.waiting
                    .push_back((from, Input::Stream { stream, event }));
            }
            Output::Write { stream, bytes } => self.along(from, stream, StreamEvent::Bytes(bytes)),
            Output::Close { stream } => {
                self.along(from, stream, StreamEvent::Closed { failure: None });
            }
            other => panic!("{other:?} is not for the network"),
        }
    }

    fn along(&mut self, from: usize, stream: StreamId, event: StreamEvent) {
        if let Some(&(to, stream)) = self.streams.get(&(from, stream)) {
            self.waiting
                .push_back((to, Input::Stream { stream, event }));
        }
    }

    fn number(&self, addr: SocketAddr) -> Option<usize> {
        usize::from(addr.port())
            .checked_sub(1_000)
            .filter(|number| *number < self.nodes.len())
    }

    pub fn status(&self, node: usize, other: usize) -> Option<MemberStatus> {
        self.nodes[node]
            .roster()
            .get(&name(other))
            .map(|member| member.status)
    }

    pub fn told(&mut self, node: usize) -> Vec<String> {
        std::mem::take(&mut self.told[node])
    }
}

pub fn user_event(ltime: u64, name: &str) -> SerfMessage {
    SerfMessage::UserEvent(UserEvent {
        ltime: LamportTime(ltime),
        name: Name::from(name),
        payload: Bytes::new(),
        coalesce: false,
    })
}
