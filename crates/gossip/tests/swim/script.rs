//! One machine, and a script of what happens to it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tidings_gossip::swim::{
    Command, Config, Delegate, Input, MemberEvent, Output, StreamEvent, StreamId, Swim,
};
use tidings_gossip::wire::{
    Accusation, Alive, Message, PacketOptions, State, StreamMessage, StreamOptions, StreamReader,
    Versions, open_packet, seal_packet,
};
use tidings_gossip::{Chance, Name, Time};

/// A layer above with something to say in each place.
pub struct Above;

impl Delegate for Above {
    fn local_state(&mut self, join: bool) -> Bytes {
        Bytes::from(format!("state, join: {join}"))
    }

    fn broadcasts(&mut self, _: usize, _: usize) -> Vec<Bytes> {
        Vec::new()
    }

    fn ack_payload(&mut self) -> Option<Bytes> {
        Some(Bytes::from_static(b"payload"))
    }
}

/// The machine "me", and the time.
pub struct Script {
    pub swim: Swim,
    pub now: Time,
}

impl Script {
    pub fn new() -> Script {
        Script::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Script {
        let mut config = Config::new(Name::from("me"), addr("me"));
        config.compress = false;
        change(&mut config);
        let mut swim = Swim::new(config, Chance::from_number(3)).unwrap();
        swim.start(Time::ZERO);
        Script {
            swim,
            now: Time::ZERO,
        }
    }

    /// With these members, all alive with incarnation 1.
    pub fn among(names: &[&str]) -> Script {
        let mut script = Script::new();
        for name in names {
            script.says("x", Message::Alive(alive(name, 1)));
        }
        script
    }

    pub fn input(&mut self, input: Input) -> Vec<Output> {
        self.swim.handle(self.now, input, &mut Above)
    }

    pub fn command(&mut self, command: Command) -> Vec<Output> {
        self.input(Input::Command(command))
    }

    /// A datagram from somebody.
    pub fn says(&mut self, from: &str, message: Message) -> Vec<Output> {
        let options = PacketOptions::default();
        let bytes =
            seal_packet(&[message.encode()], options, &mut Chance::from_number(1)).remove(0);
        self.input(Input::Datagram {
            from: addr(from),
            bytes,
        })
    }

    pub fn stream(&mut self, stream: StreamId, event: StreamEvent) -> Vec<Output> {
        self.input(Input::Stream { stream, event })
    }

    /// Somebody opens a stream and says something on it.
    pub fn says_on_stream(&mut self, number: u64, message: &StreamMessage) -> Vec<Output> {
        let stream = StreamId::Accepted(number);
        let from = addr("x");
        self.stream(stream, StreamEvent::Accepted { from });
        let bytes = message.encode(StreamOptions::default(), &mut Chance::from_number(1));
        self.stream(stream, StreamEvent::Bytes(bytes))
    }

    /// Lets time go by, with all that it brings.
    pub fn wait(&mut self, time: Duration) -> Vec<Output> {
        let until = self.now + time;
        let mut outputs = Vec::new();
        while let Some(deadline) = self.swim.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(deadline);
            outputs.extend(self.input(Input::Timer));
        }
        self.now = until;
        outputs
    }

    pub fn wait_ms(&mut self, millis: u64) -> Vec<Output> {
        self.wait(Duration::from_millis(millis))
    }

    /// Waits until the next ping goes out; to whom, and its number.
    pub fn next_ping(&mut self) -> (SocketAddr, u32) {
        for _ in 0..1000 {
            let deadline = self.swim.next_deadline().unwrap();
            self.now = self.now.max(deadline);
            let outputs = self.input(Input::Timer);
            for (to, message) in sent(&outputs) {
                if let Message::Ping(ping) = message {
                    return (to, ping.seq);
                }
            }
        }
        panic!("nobody is pinged");
    }

    pub fn state(&self, name: &str) -> Option<State> {
        self.swim
            .member(&Name::from(name))
            .map(|member| member.state)
    }

    pub fn incarnation(&self, name: &str) -> u32 {
        self.swim.member(&Name::from(name)).unwrap().incarnation
    }
}

/// Each name has an address of its own.
pub fn addr(name: &str) -> SocketAddr {
    let number = name
        .bytes()
        .fold(0_u16, |sum, byte| sum * 7 + u16::from(byte));
    SocketAddr::from(([127, 0, 0, 1], 1000 + number))
}

pub fn alive(name: &str, incarnation: u32) -> Alive {
    Alive {
        incarnation,
        node: Name::from(name),
        addr: Some(addr(name).ip()),
        port: addr(name).port(),
        meta: Bytes::from_static(b"meta"),
        versions: Versions::SERF,
    }
}

pub fn said(node: &str, incarnation: u32, from: &str) -> Accusation {
    Accusation {
        incarnation,
        node: Name::from(node),
        from: Name::from(from),
    }
}

/// The messages that go out as datagrams.
pub fn sent(outputs: &[Output]) -> Vec<(SocketAddr, Message)> {
    let mut sent = Vec::new();
    for output in outputs {
        if let Output::Datagram { to, bytes } = output {
            assert!(bytes.len() <= 1405, "a datagram of {} bytes", bytes.len());
            let packet = open_packet(bytes.clone(), None).unwrap();
            assert_eq!(packet.dropped, 0);
            sent.extend(packet.messages.into_iter().map(|message| (*to, message)));
        }
    }
    sent
}

/// What became of members, as words.
pub fn events(outputs: &[Output]) -> Vec<String> {
    let word = |output: &Output| match output {
        Output::Member(MemberEvent::Joined(member)) => Some(format!("{} joined", member.name)),
        Output::Member(MemberEvent::Updated(member)) => Some(format!("{} updated", member.name)),
        Output::Member(MemberEvent::Gone(member)) => {
            Some(format!("{} {:?}", member.name, member.state))
        }
        Output::Conflict { known, other } => {
            Some(format!("{} conflicts {}", known.name, other.port))
        }
        _ => None,
    };
    outputs.iter().filter_map(word).collect()
}

/// What is written on streams.
pub fn written(outputs: &[Output]) -> Vec<StreamMessage> {
    let message = |output: &Output| match output {
        Output::Write { bytes, .. } => StreamReader::default().push(bytes, None).unwrap(),
        _ => None,
    };
    outputs.iter().filter_map(message).collect()
}

/// The streams that are to be opened.
pub fn dialed(outputs: &[Output]) -> Vec<(StreamId, SocketAddr)> {
    let dial = |output: &Output| match output {
        Output::Dial { stream, to } => Some((*stream, *to)),
        _ => None,
    };
    outputs.iter().filter_map(dial).collect()
}
