//! The 300 bytes that every system carries, and the check of what arrives.
//!
//! The payload is one JSON object whose length is always the same, with two
//! numbers at fixed places, so that a receiver finds them without parsing:
//!
//! ```text
//! {"Sequence":"0000000000001234","SentNs":"0000001234567890","Fill":"abc…"}
//!              13..29                      41..57
//! ```

use std::sync::OnceLock;
use std::time::Instant;

use crate::protocol::ProtocolError;

/// Bytes of every payload.
pub const PAYLOAD_BYTES: usize = 300;
/// Events take these keys in turn: `k0000`, `k0001`, …
pub const KEYS: u64 = 1_000;
/// What every payload begins with; tells our events from others in a stream.
pub const PAYLOAD_START: &[u8] = br#"{"Sequence":""#;

const DIGITS: usize = 16;
const SEQUENCE_AT: usize = 13;
const SENT_AT: usize = 41;
const SENT_LABEL: &[u8] = br#"","SentNs":""#;
const FILL_LABEL: &[u8] = br#"","Fill":""#;
const END: &[u8] = br#""}"#;

/// Nanoseconds since this process first asked; monotonic.
pub fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// A payload whose two numbers can be set.
pub struct Payload {
    bytes: [u8; PAYLOAD_BYTES],
}

impl Payload {
    /// A payload with both numbers zero.
    pub fn new() -> Self {
        let mut bytes = [0; PAYLOAD_BYTES];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(PAYLOAD_START);
        put(&[b'0'; DIGITS]);
        put(SENT_LABEL);
        put(&[b'0'; DIGITS]);
        put(FILL_LABEL);
        let fill_from = at;
        for (offset, byte) in bytes[fill_from..PAYLOAD_BYTES - END.len()]
            .iter_mut()
            .enumerate()
        {
            *byte = b'a' + (offset % 26) as u8;
        }
        bytes[PAYLOAD_BYTES - END.len()..].copy_from_slice(END);
        Self { bytes }
    }

    /// The bytes with these numbers in them.
    pub fn stamp(&mut self, sequence: u64, sent_ns: u64) -> &[u8; PAYLOAD_BYTES] {
        write_digits(&mut self.bytes[SEQUENCE_AT..SEQUENCE_AT + DIGITS], sequence);
        write_digits(&mut self.bytes[SENT_AT..SENT_AT + DIGITS], sent_ns);
        &self.bytes
    }
}

fn write_digits(into: &mut [u8], mut number: u64) {
    for byte in into.iter_mut().rev() {
        *byte = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn read_digits(from: &[u8]) -> Option<u64> {
    from.iter().try_fold(0_u64, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + u64::from(byte - b'0'))
    })
}

/// Which sequence numbers a subscriber has to see.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// `first`, `first + step`, `first + 2 × step`, …: every one, in order.
    Every {
        /// The first sequence number.
        first: u64,
        /// The distance to the next.
        step: u64,
    },
    /// Anything: several publishers took part.
    Any,
}

/// What one subscriber received: counts, checks the order, takes latencies.
pub struct Deliveries {
    expect: Expect,
    next: u64,
    count: u64,
    received_ns: u64,
    latencies: Option<Vec<u64>>,
}

impl Deliveries {
    /// Nothing received yet.
    pub fn new(expect: Expect) -> Self {
        let next = match expect {
            Expect::Every { first, .. } => first,
            Expect::Any => 0,
        };
        Self {
            expect,
            next,
            count: 0,
            received_ns: 0,
            latencies: None,
        }
    }

    /// From now on the time from send to receipt of every event is kept.
    pub fn keep_latencies(&mut self) {
        self.latencies = Some(Vec::new());
    }

    /// The time at which the bytes now being decoded were read.
    pub fn received_at(&mut self, now_ns: u64) {
        self.received_ns = now_ns;
    }

    /// Whether `received_at` is of use.
    pub fn wants_time(&self) -> bool {
        self.latencies.is_some()
    }

    /// Events received.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The times from send to receipt, in nanoseconds.
    pub fn take_latencies(&mut self) -> Vec<u64> {
        self.latencies.take().unwrap_or_default()
    }

    /// One event arrived with this payload.
    ///
    /// # Errors
    ///
    /// The payload is not one of ours, or not the one that was due: an event
    /// was lost, repeated or came out of order.
    #[inline]
    pub fn deliver(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        if payload.len() != PAYLOAD_BYTES {
            return Err(ProtocolError::unexpected("a payload of 300 bytes", payload));
        }
        if let Expect::Every { step, .. } = self.expect {
            let sequence = read_digits(&payload[SEQUENCE_AT..SEQUENCE_AT + DIGITS])
                .ok_or_else(|| ProtocolError::unexpected("a sequence number", payload))?;
            if sequence != self.next {
                return Err(ProtocolError::OutOfOrder {
                    expected: self.next,
                    found: sequence,
                });
            }
            self.next += step;
        }
        self.count += 1;
        if let Some(latencies) = &mut self.latencies {
            let sent = read_digits(&payload[SENT_AT..SENT_AT + DIGITS])
                .ok_or_else(|| ProtocolError::unexpected("a time", payload))?;
            latencies.push(self.received_ns.saturating_sub(sent));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_a_json_object_of_300_bytes() {
        let mut payload = Payload::new();
        let bytes = payload.stamp(1_234, 5_678);
        let value: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        assert_eq!(bytes.len(), 300);
        assert_eq!(value["Sequence"], "0000000000001234");
        assert_eq!(value["SentNs"], "0000000000005678");
        assert!(bytes.starts_with(PAYLOAD_START));
    }

    #[test]
    fn every_event_in_order_is_counted() {
        let mut payload = Payload::new();
        let mut deliveries = Deliveries::new(Expect::Every {
            first: 7,
            step: 1_000,
        });
        deliveries.keep_latencies();
        deliveries.received_at(150);
        deliveries.deliver(payload.stamp(7, 100)).unwrap();
        deliveries.deliver(payload.stamp(1_007, 120)).unwrap();
        assert_eq!(deliveries.count(), 2);
        assert_eq!(deliveries.take_latencies(), vec![50, 30]);
    }

    #[test]
    fn a_lost_event_is_noticed() {
        let mut payload = Payload::new();
        let mut deliveries = Deliveries::new(Expect::Every { first: 0, step: 1 });
        deliveries.deliver(payload.stamp(0, 0)).unwrap();
        let error = deliveries.deliver(payload.stamp(2, 0)).unwrap_err();
        assert!(matches!(
            error,
            ProtocolError::OutOfOrder {
                expected: 1,
                found: 2
            }
        ));
    }

    #[test]
    fn a_foreign_payload_is_refused() {
        let mut deliveries = Deliveries::new(Expect::Any);
        assert!(deliveries.deliver(b"{}").is_err());
    }
}
