//! Asking members whether they are there.
//!
//! ```text
//! ping ──▶ wait probe_timeout ──▶ ask others, ping on a stream ──▶ wait to the end ──▶ suspect
//!   └─ ack: there                   └─ ack: there   └─ nack: the helper itself is there
//! ```
//!
//! One member at a time, in a shuffled round. The end is one probe interval after the ping, later
//! when our own health is bad. Helpers that do not even say that they got no answer make the fault
//! likely to be ours, and worsen our health instead.

use std::net::SocketAddr;

use super::dissemination::understands_crc;
use super::io::{Delegate, Output};
use super::timers::Timer;
use super::{NAME_BYTES_MAX, Swim};
use crate::name::Name;
use crate::time::Time;
use crate::wire::{Accusation, Ack, IndirectPing, Message, Ping, State};

/// Members that we are asking others' questions at one time. A pool of thousands whose switch fails
/// asks each member a few; each costs less than 100 bytes.
const HELPING_MAX: usize = 4096;

/// From this version on a node answers pings on streams.
const PROTOCOL_WITH_STREAM_PING: u8 = 3;

/// From this version on a helper says that it got no answer.
const PROTOCOL_WITH_NACK: u8 = 4;

/// A member that is being probed.
#[derive(Debug)]
pub(super) struct Probe {
    seq: u32,
    node: Name,
    sent: Time,
    ends: Time,
    /// The direct answer is late; others have been asked.
    others_asked: bool,
    nacks_expected: u32,
    nacks: u32,
    answered_on_stream: bool,
}

/// Somebody wants to know whether another one is there.
#[derive(Debug)]
pub(super) struct Helping {
    to: SocketAddr,
    /// The number of its request.
    seq: u32,
    nack: bool,
}

impl Swim {
    /// Probes the next member, and comes again.
    pub(super) fn probe_tick(&mut self, delegate: &mut dyn Delegate) {
        let interval = self.config.timing.probe_interval;
        self.timers.set(self.now + interval, |_| Timer::Probe);
        if self.probe.is_some() {
            self.probe_due = true;
        } else {
            self.probe_next(delegate);
        }
    }

    fn probe_next(&mut self, delegate: &mut dyn Delegate) {
        self.probe_due = false;
        let forget_after = self.config.timing.gossip_to_the_dead;
        let (own, now, chance) = (&self.config.name, self.now, &mut self.chance);
        let next = self.members.next_to_probe(own, now, forget_after, chance);
        let Some(target) = next.and_then(|name| self.members.get(&name)).cloned() else {
            return;
        };
        let seq = self.next_seq();
        let timing = self.config.timing;
        let ends = self.now + self.awareness.scale(timing.probe_interval);
        let node = target.name.clone();
        let ping = Message::Ping(Ping {
            seq,
            node: node.clone(),
            source: self.source(),
        })
        .encode();
        self.timers
            .set(self.now + timing.probe_timeout, |_| Timer::ProbeTimeout {
                seq,
            });
        self.timers.set(ends, |_| Timer::ProbeEnd { seq });
        self.probe = Some(Probe {
            seq,
            node: node.clone(),
            sent: self.now,
            ends,
            others_asked: false,
            nacks_expected: 0,
            nacks: 0,
            answered_on_stream: false,
        });
        if target.state == State::Alive {
            return self.send_with_news(target.addr, ping, delegate);
        }
        // It must hear of the suspicion as soon as can be, to contradict it.
        let suspect = Message::Suspect(Accusation {
            incarnation: target.incarnation,
            node,
            from: self.config.name.clone(),
        });
        let crc = understands_crc(&target);
        self.send_packet(target.addr, &[ping, suspect.encode()], crc);
    }

    /// The direct answer is late: asks others, and on a stream.
    pub(super) fn ask_others(&mut self, seq: u32, delegate: &mut dyn Delegate) {
        let Some(probe) = self.probe.as_ref().filter(|probe| probe.seq == seq) else {
            return;
        };
        let (node, ends) = (probe.node.clone(), probe.ends);
        let Some(target) = self.members.get(&node).cloned() else {
            return;
        };
        let (own, checks) = (self.config.name.clone(), self.config.timing.indirect_checks);
        let helpers = self.members.random(checks, &mut self.chance, |member| {
            member.state == State::Alive && member.name != own && member.name != node
        });
        let mut nacks_expected = 0;
        for helper in helpers {
            let nack = helper.versions.protocol_max >= PROTOCOL_WITH_NACK;
            nacks_expected += u32::from(nack);
            let ping = Message::IndirectPing(IndirectPing {
                seq,
                target: Some(target.addr.ip()),
                port: target.addr.port(),
                node: node.clone(),
                nack,
                source: self.source(),
            });
            self.send_with_news(helper.addr, ping.encode(), delegate);
        }
        if let Some(probe) = &mut self.probe {
            probe.others_asked = true;
            probe.nacks_expected = nacks_expected;
        }
        if target.versions.protocol_max >= PROTOCOL_WITH_STREAM_PING {
            self.ping_on_stream(seq, node, target.addr, ends);
        }
    }

    /// An answer to a ping of ours, or of somebody whom we help.
    pub(super) fn answered(&mut self, ack: Ack, delegate: &mut dyn Delegate) {
        if let Some(helping) = self.helping.remove(&ack.seq) {
            let relayed = Message::Ack(Ack {
                seq: helping.seq,
                payload: None,
            });
            return self.send_with_news(helping.to, relayed.encode(), delegate);
        }
        let Some(probe) = self.probe.take_if(|probe| probe.seq == ack.seq) else {
            return;
        };
        self.awareness.improve();
        if !probe.others_asked {
            self.outputs.push(Output::Answered {
                node: probe.node,
                round_trip: self.now.since(probe.sent),
                payload: ack.payload,
            });
        }
        if self.probe_due {
            self.probe_next(delegate);
        }
    }

    /// The member answered on a stream: it is there, though its datagrams do not come through.
    pub(super) fn answered_on_stream(&mut self, seq: u32) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.seq == seq) {
            probe.answered_on_stream = true;
        }
    }

    /// A helper is there, but got no answer.
    pub(super) fn helper_had_no_answer(&mut self, seq: u32) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.seq == seq) {
            probe.nacks = probe.nacks.saturating_add(1);
        }
    }

    /// The time for answers is over.
    pub(super) fn probe_ends(&mut self, seq: u32, delegate: &mut dyn Delegate) {
        let Some(probe) = self.probe.take_if(|probe| probe.seq == seq) else {
            return;
        };
        if probe.answered_on_stream {
            self.awareness.improve();
        } else {
            self.counters.probes_failed += 1;
            match probe.nacks_expected {
                0 => self.awareness.worsen(1),
                expected => self.awareness.worsen(expected.saturating_sub(probe.nacks)),
            }
            if let Some(known) = self.members.get(&probe.node) {
                let said = Accusation {
                    incarnation: known.incarnation,
                    node: probe.node,
                    from: self.config.name.clone(),
                };
                self.suspect(&said);
            }
        }
        if self.probe_due {
            self.probe_next(delegate);
        }
    }

    /// Answers a ping, when it is for us.
    pub(super) fn answer(&mut self, from: SocketAddr, ping: &Ping, delegate: &mut dyn Delegate) {
        if !ping.node.is_empty() && !self.is_self(&ping.node) {
            return;
        }
        let ack = Message::Ack(Ack {
            seq: ping.seq,
            payload: delegate.ack_payload(),
        });
        self.send_with_news(ping.source.answer_to(from), ack.encode(), delegate);
    }

    /// Asks a member on behalf of another one.
    pub(super) fn help(
        &mut self,
        from: SocketAddr,
        request: &IndirectPing,
        delegate: &mut dyn Delegate,
    ) {
        let is_sensible = request.port > 0 && request.node.len() <= NAME_BYTES_MAX;
        let Some(target) = request.target.filter(|_| is_sensible) else {
            self.counters.messages_ignored += 1;
            return;
        };
        if self.helping.len() >= HELPING_MAX {
            self.counters.helping_refused += 1;
            return;
        }
        let seq = self.next_seq();
        let helping = Helping {
            to: request.source.answer_to(from),
            seq: request.seq,
            nack: request.nack,
        };
        self.helping.insert(seq, helping);
        let ends = self.now + self.config.timing.probe_timeout;
        self.timers.set(ends, |_| Timer::Helping { seq });
        let ping = Message::Ping(Ping {
            seq,
            node: request.node.clone(),
            source: self.source(),
        });
        let target = SocketAddr::new(target, request.port);
        self.send_with_news(target, ping.encode(), delegate);
    }

    /// The one whom we asked on behalf of another has not answered.
    pub(super) fn helping_ends(&mut self, seq: u32, delegate: &mut dyn Delegate) {
        if let Some(helping) = self.helping.remove(&seq)
            && helping.nack
        {
            let nack = Message::Nack { seq: helping.seq };
            self.send_with_news(helping.to, nack.encode(), delegate);
        }
    }

    fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }
}
