use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};

use serde::{Deserialize, Serialize};
use tidings_event::{Index, Timestamp};

/// The Ids that publishers gave lately, and where the events that bear them are.
///
/// An Id is remembered as 128 bits of hash: 24 bytes in the snapshot, whatever its length.
#[derive(Debug, Default)]
pub(crate) struct DedupeWindow {
    order: VecDeque<Remembered>,
    /// Looked up, never walked through: its order does not matter.
    #[allow(clippy::disallowed_types)]
    places: std::collections::HashMap<u128, Index, BuildHasherDefault<HashedAlready>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    id: u128,
    index: Index,
    micros: i64,
}

/// The ids are hashes.
#[derive(Default)]
pub(crate) struct HashedAlready(u64);

impl Hasher for HashedAlready {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64 ^ (number >> 64) as u64;
    }
}

impl DedupeWindow {
    pub(crate) fn find(&self, id: u128) -> Option<Index> {
        self.places.get(&id).copied()
    }

    pub(crate) fn remember(&mut self, id: u128, index: Index, time: Timestamp) {
        self.order.push_back(Remembered {
            id,
            index,
            micros: time.as_unix_micros(),
        });
        self.places.insert(id, index);
    }

    /// Forgets what is beyond the window, the oldest first.
    pub(crate) fn forget(&mut self, ids_max: u64, age_s: u64, now: Timestamp) {
        let age_micros = i64::try_from(age_s)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        let horizon = now.as_unix_micros().saturating_sub(age_micros);
        while let Some(oldest) = self.order.front() {
            if self.order.len() as u64 <= ids_max && oldest.micros >= horizon {
                return;
            }
            self.places.remove(&oldest.id);
            self.order.pop_front();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Remembered> {
        self.order.iter()
    }

    pub(crate) fn restore(remembered: Vec<Remembered>) -> DedupeWindow {
        let mut window = DedupeWindow::default();
        for one in remembered {
            window.remember(one.id, one.index, Timestamp::from_unix_micros(one.micros));
        }
        window
    }
}
