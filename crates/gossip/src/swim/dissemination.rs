//! Passing on news: along with whatever is sent, and at intervals to a few members.

use std::net::SocketAddr;

use bytes::Bytes;

use super::Swim;
use super::io::{Delegate, Output};
use super::members::Member;
use super::timers::Timer;
use crate::wire::{
    COMPOUND_HEAD_BYTES, COMPOUND_PART_BYTES, ENCRYPTION_OVERHEAD_BYTES, Message, PacketOptions,
    State, seal_packet,
};

/// Bytes of a datagram that we fill (memberlist: config.go `UDPBufferSize`); a checksum comes on top.
const DATAGRAM_BYTES: usize = 1400;

/// The type byte before each message of the layer above.
const USER_TYPE_BYTES: usize = 1;

/// From this version on a node understands checksums.
const PROTOCOL_WITH_CRC: u8 = 5;

impl Swim {
    /// Passes on news to a few members, and comes again.
    pub(super) fn gossip_tick(&mut self, delegate: &mut dyn Delegate) {
        let timing = self.config.timing;
        self.timers
            .set(self.now + timing.gossip_interval, |_| Timer::Gossip);
        let (own, now) = (&self.config.name, self.now);
        let listens = |member: &Member| match member.state {
            State::Alive | State::Suspect => member.name != *own,
            // It may not be dead, and then it must learn what is said about it.
            State::Dead => now.since(member.changed) <= timing.gossip_to_the_dead,
            State::Left => false,
        };
        let to = self
            .members
            .random(timing.gossip_nodes, &mut self.chance, listens);
        for member in to {
            let room = DATAGRAM_BYTES - COMPOUND_HEAD_BYTES - self.encryption_bytes();
            let news = self.take_news(room, delegate);
            if news.is_empty() {
                return;
            }
            self.send_packet(member.addr, &news, understands_crc(&member));
        }
    }

    /// Sends a message, and as much news as fits beside it.
    pub(super) fn send_with_news(
        &mut self,
        to: SocketAddr,
        message: Bytes,
        delegate: &mut dyn Delegate,
    ) {
        let taken =
            COMPOUND_HEAD_BYTES + COMPOUND_PART_BYTES + message.len() + self.encryption_bytes();
        let mut messages = self.take_news(DATAGRAM_BYTES.saturating_sub(taken), delegate);
        messages.insert(0, message);
        self.send_packet(to, &messages, false);
    }

    /// Sends messages as one datagram.
    pub(super) fn send_packet(&mut self, to: SocketAddr, messages: &[Bytes], crc: bool) {
        let options = PacketOptions {
            compress: self.config.compress,
            crc,
            keyring: self.config.keyring.as_ref(),
        };
        for bytes in seal_packet(messages, options, &mut self.chance) {
            self.outputs.push(Output::Datagram { to, bytes });
        }
    }

    /// News for `room` bytes: memberlist's own first, then that of the layer above.
    fn take_news(&mut self, room: usize, delegate: &mut dyn Delegate) -> Vec<Bytes> {
        let transmits_max = self.config.timing.transmits_max(self.members.len());
        let mut news = self
            .broadcasts
            .take(COMPOUND_PART_BYTES, room, transmits_max);
        let used: usize = news
            .iter()
            .map(|part| COMPOUND_PART_BYTES + part.len())
            .sum();
        let (left, overhead) = (room - used, COMPOUND_PART_BYTES + USER_TYPE_BYTES);
        if left > overhead {
            let above = delegate.broadcasts(overhead, left);
            news.extend(above.into_iter().map(|bytes| Message::User(bytes).encode()));
        }
        news
    }

    fn encryption_bytes(&self) -> usize {
        if self.config.keyring.is_some() {
            ENCRYPTION_OVERHEAD_BYTES
        } else {
            0
        }
    }
}

/// Whether a member can read a datagram with a checksum.
pub(super) fn understands_crc(member: &Member) -> bool {
    member.versions.protocol_max >= PROTOCOL_WITH_CRC
}
