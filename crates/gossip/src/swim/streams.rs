//! Streams: exchanging the whole state, joining, and what else does not go as a datagram.
//!
//! Whoever answers an exchange answers first and checks afterwards, as peers do: the one who asked
//! then finds out by itself what is wrong.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;

use super::Swim;
use super::io::{Delegate, Output, StreamEvent, StreamId};
use super::timers::Timer;
use crate::name::Name;
use crate::time::Time;
use crate::wire::{
    Ack, Ping, PushPull, State, StreamMessage, StreamOptions, StreamReader, WireError,
};

/// Streams that others may have open to us (memberlist: net.go `maxPushPullRequests`).
pub const STREAMS_ACCEPTED_MAX: usize = 128;

/// Streams of ours that may be open: probes, exchanges, joins, and messages of the layer above.
const STREAMS_DIALED_MAX: usize = 256;

/// Addresses of one join that are tried at one time.
const JOIN_AT_ONCE: usize = 8;

/// A stream that is open, or being opened.
#[derive(Debug)]
pub(super) struct Stream {
    peer: SocketAddr,
    purpose: Purpose,
    reader: StreamReader,
}

/// What a stream is for.
#[derive(Debug)]
enum Purpose {
    /// Somebody else wants something.
    Accepted,
    /// Exchange states; for a join, or to keep in step.
    Exchange { join: Option<u64> },
    /// Ask whether a member is there.
    Ping { seq: u32, node: Name },
    /// Hand over a message of the layer above.
    Message(Bytes),
}

/// A join under way.
#[derive(Debug, Default)]
pub(super) struct Join {
    waiting: VecDeque<SocketAddr>,
    under_way: usize,
    contacted: usize,
    failures: Vec<(SocketAddr, String)>,
}

impl Swim {
    pub(super) fn join(&mut self, join: u64, addresses: Vec<SocketAddr>) {
        let waiting = addresses.into();
        self.joins.insert(
            join,
            Join {
                waiting,
                ..Join::default()
            },
        );
        self.continue_join(join);
    }

    /// Tries the next addresses of a join; tells when there are no more.
    fn continue_join(&mut self, number: u64) {
        while let Some(join) = self.joins.get_mut(&number) {
            if join.under_way >= JOIN_AT_ONCE {
                return;
            }
            if let Some(to) = join.waiting.pop_front() {
                let deadline = self.now + self.config.timing.stream_timeout;
                let purpose = Purpose::Exchange { join: Some(number) };
                let is_dialed = self.dial(to, purpose, deadline).is_ok();
                if let Some(join) = self.joins.get_mut(&number) {
                    if is_dialed {
                        join.under_way += 1;
                    } else {
                        join.failures.push((to, TOO_MANY_STREAMS.to_owned()));
                    }
                }
                continue;
            }
            if join.under_way == 0
                && let Some(join) = self.joins.remove(&number)
            {
                self.outputs.push(Output::JoinFinished {
                    join: number,
                    contacted: join.contacted,
                    failures: join.failures,
                });
            }
            return;
        }
    }

    /// Exchanges states with one member, and comes again.
    pub(super) fn push_pull_tick(&mut self) {
        let timing = self.config.timing;
        let interval = timing.push_pull_interval(self.members.len());
        self.timers.set(self.now + interval, |_| Timer::PushPull);
        let own = &self.config.name;
        let peers = self.members.random(1, &mut self.chance, |member| {
            member.state == State::Alive && member.name != *own
        });
        for peer in peers {
            let deadline = self.now + timing.stream_timeout;
            // When it does not come about, there is a next time.
            let _ = self.dial(peer.addr, Purpose::Exchange { join: None }, deadline);
        }
    }

    /// Pings a member whose datagrams do not come through.
    pub(super) fn ping_on_stream(&mut self, seq: u32, node: Name, to: SocketAddr, deadline: Time) {
        // Without a free stream there is one way less to find it.
        let _ = self.dial(to, Purpose::Ping { seq, node }, deadline);
    }

    pub(super) fn send_on_stream(&mut self, to: SocketAddr, bytes: Bytes) {
        let deadline = self.now + self.config.timing.stream_timeout;
        if self.dial(to, Purpose::Message(bytes), deadline).is_err() {
            self.counters.streams_refused += 1;
        }
    }

    /// Opens a stream; gives the purpose back when there are too many.
    fn dial(&mut self, to: SocketAddr, purpose: Purpose, deadline: Time) -> Result<(), Purpose> {
        let dialed = self.streams.range(..StreamId::Accepted(0)).count();
        if dialed >= STREAMS_DIALED_MAX {
            return Err(purpose);
        }
        self.streams_dialed += 1;
        let stream = StreamId::Dialed(self.streams_dialed);
        self.open(stream, to, purpose, deadline);
        self.outputs.push(Output::Dial { stream, to });
        Ok(())
    }

    fn open(&mut self, stream: StreamId, peer: SocketAddr, purpose: Purpose, deadline: Time) {
        let reader = StreamReader::default();
        self.streams.insert(
            stream,
            Stream {
                peer,
                purpose,
                reader,
            },
        );
        self.timers.set(deadline, |_| Timer::Stream(stream));
    }

    /// Something became of a stream.
    pub(super) fn stream(
        &mut self,
        stream: StreamId,
        event: StreamEvent,
        delegate: &mut dyn Delegate,
    ) {
        match event {
            StreamEvent::Accepted { from } => self.accept(stream, from),
            StreamEvent::Connected => self.connected(stream, delegate),
            StreamEvent::Bytes(bytes) => self.stream_bytes(stream, &bytes, delegate),
            StreamEvent::Closed { failure } => {
                let why = failure
                    .as_deref()
                    .unwrap_or("the other side closed the stream");
                self.fail(stream, why);
            }
        }
    }

    /// A stream has taken too long, when it is still there.
    pub(super) fn stream_ends(&mut self, stream: StreamId) {
        if self.streams.contains_key(&stream) {
            self.outputs.push(Output::Close { stream });
            self.fail(stream, "i/o timeout");
        }
    }

    fn accept(&mut self, stream: StreamId, from: SocketAddr) {
        let accepted = self.streams.range(StreamId::Accepted(0)..).count();
        if accepted >= STREAMS_ACCEPTED_MAX {
            self.counters.streams_refused += 1;
            self.outputs.push(Output::Close { stream });
            return;
        }
        let deadline = self.now + self.config.timing.stream_timeout;
        self.open(stream, from, Purpose::Accepted, deadline);
    }

    fn connected(&mut self, id: StreamId, delegate: &mut dyn Delegate) {
        let Some(stream) = self.streams.get(&id) else {
            self.outputs.push(Output::Close { stream: id });
            return;
        };
        match &stream.purpose {
            Purpose::Accepted => {}
            Purpose::Exchange { join } => {
                let join = join.is_some();
                let state = self.local_state(join, delegate);
                self.write(id, &state);
            }
            Purpose::Ping { seq, node } => {
                let ping = Ping {
                    seq: *seq,
                    node: node.clone(),
                    source: self.source(),
                };
                self.write(id, &StreamMessage::Ping(ping));
            }
            Purpose::Message(bytes) => {
                let message = StreamMessage::User(bytes.clone());
                self.write(id, &message);
                self.close(id);
            }
        }
    }

    fn stream_bytes(&mut self, id: StreamId, bytes: &[u8], delegate: &mut dyn Delegate) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        match stream.reader.push(bytes, self.config.keyring.as_ref()) {
            Ok(None) => {}
            Ok(Some(message)) => self.stream_message(id, message, delegate),
            Err(error) => {
                if matches!(stream.purpose, Purpose::Accepted) {
                    self.tell_of_encryption(id, &error);
                }
                self.outputs.push(Output::Close { stream: id });
                self.fail(id, &error.to_string());
            }
        }
    }

    /// Peers tell each other, in these words, when only one of them encrypts.
    fn tell_of_encryption(&mut self, id: StreamId, error: &WireError) {
        let text = match error {
            WireError::PlainStream => "Encryption is configured but remote state is not encrypted",
            WireError::EncryptedStream => {
                "Remote state is encrypted and encryption is not configured"
            }
            _ => return,
        };
        self.write(id, &StreamMessage::Error(Name::from(text)));
    }

    fn stream_message(
        &mut self,
        id: StreamId,
        message: StreamMessage,
        delegate: &mut dyn Delegate,
    ) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        let failure = match (&stream.purpose, message) {
            (Purpose::Accepted, StreamMessage::PushPull(remote)) => {
                let state = self.local_state(remote.join, delegate);
                self.write(id, &state);
                self.take_remote(&remote, false).err()
            }
            (Purpose::Accepted, StreamMessage::Ping(ping)) => {
                if ping.node.is_empty() || self.is_self(&ping.node) {
                    let (seq, payload) = (ping.seq, None);
                    self.write(id, &StreamMessage::Ack(Ack { seq, payload }));
                }
                None
            }
            (Purpose::Accepted, StreamMessage::User(bytes)) => {
                self.outputs.push(Output::User { bytes });
                None
            }
            (Purpose::Exchange { join }, StreamMessage::PushPull(remote)) => {
                self.take_remote(&remote, join.is_some()).err()
            }
            (Purpose::Ping { seq, .. }, StreamMessage::Ack(ack)) if ack.seq == *seq => {
                self.answered_on_stream(ack.seq);
                None
            }
            (_, StreamMessage::Error(text)) => Some(format!("remote error: {text}")),
            _ => Some("the other side said something else than was asked".to_owned()),
        };
        self.outputs.push(Output::Close { stream: id });
        match (failure, stream.purpose) {
            (Some(failure), purpose) => self.purpose_failed(stream.peer, purpose, &failure),
            (None, Purpose::Exchange { join: Some(number) }) => {
                if let Some(join) = self.joins.get_mut(&number) {
                    join.under_way -= 1;
                    join.contacted += 1;
                }
                self.continue_join(number);
            }
            (None, _) => {}
        }
    }

    /// Merges what another one told, and hands on what its layer above added.
    fn take_remote(&mut self, remote: &PushPull, our_join: bool) -> Result<(), String> {
        self.merge(&remote.nodes)?;
        if !remote.user_state.is_empty() {
            self.outputs.push(Output::RemoteState {
                our_join,
                bytes: remote.user_state.clone(),
            });
        }
        Ok(())
    }

    fn local_state(&self, join: bool, delegate: &mut dyn Delegate) -> StreamMessage {
        StreamMessage::PushPull(PushPull {
            join,
            nodes: self.members.iter().map(super::Member::node_state).collect(),
            user_state: delegate.local_state(join),
        })
    }

    fn write(&mut self, stream: StreamId, message: &StreamMessage) {
        let options = StreamOptions {
            compress: self.config.compress,
            keyring: self.config.keyring.as_ref(),
        };
        let bytes = message.encode(options, &mut self.chance);
        self.outputs.push(Output::Write { stream, bytes });
    }

    fn close(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
        self.outputs.push(Output::Close { stream });
    }

    /// A stream is over before its purpose was reached.
    fn fail(&mut self, stream: StreamId, why: &str) {
        if let Some(stream) = self.streams.remove(&stream) {
            self.purpose_failed(stream.peer, stream.purpose, why);
        }
    }

    fn purpose_failed(&mut self, peer: SocketAddr, purpose: Purpose, why: &str) {
        self.counters.streams_failed += 1;
        if let Purpose::Exchange { join: Some(number) } = purpose {
            if let Some(join) = self.joins.get_mut(&number) {
                join.under_way -= 1;
                join.failures.push((peer, why.to_owned()));
            }
            self.continue_join(number);
        }
    }
}

const TOO_MANY_STREAMS: &str = "too many streams are open: try again later";
