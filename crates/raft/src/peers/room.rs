//! The memory in which messages of other servers are, of all connections of this server together.
//!
//! ```text
//!  connection ── Purse: OWN_BYTES_MAX, its own ──┐
//!  connection ── Purse: OWN_BYTES_MAX, its own ──┼── Room: buffered_bytes_max, shared ── waits, then refused
//!  connection ── Purse: OWN_BYTES_MAX, its own ──┘
//! ```
//!
//! Votes, signs of life and a few events fit into what each connection has of its own: nobody else's
//! large messages keep them waiting. What is larger takes of the room as its bytes come, not as they are
//! announced, and gives it back with the answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

use super::frame::{FrameError, SMALL_BODY_BYTES_MAX};

/// What every connection may have without asking: a small message that comes and one that is worked at.
const OWN_BYTES_MAX: usize = 2 * SMALL_BODY_BYTES_MAX;
/// How long a message waits for room. Less than the other side waits before it takes the connection for
/// dead, so that it is told why.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(2);
/// Bytes are counted in units, so that a semaphore can hold them.
const UNIT_BYTES: usize = 1 << 10;

/// The shared part.
#[derive(Debug)]
pub(crate) struct Room {
    free: Arc<Semaphore>,
    units_max: usize,
    refused: AtomicU64,
}

/// Where one connection takes memory from.
#[derive(Clone, Debug)]
pub(crate) struct Purse {
    own: Arc<Semaphore>,
    room: Arc<Room>,
}

/// Memory that a message has. Given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held {
    own: Option<OwnedSemaphorePermit>,
    shared: Option<OwnedSemaphorePermit>,
}

// === impl Room ===

impl Room {
    pub fn new(bytes_max: usize) -> Arc<Room> {
        let units_max = bytes_max.div_ceil(UNIT_BYTES).clamp(1, u32::MAX as usize);
        Arc::new(Room {
            free: Arc::new(Semaphore::new(units_max)),
            units_max,
            refused: AtomicU64::new(0),
        })
    }

    /// For one connection.
    pub fn purse(self: &Arc<Room>) -> Purse {
        Purse {
            own: Arc::new(Semaphore::new(OWN_BYTES_MAX / UNIT_BYTES)),
            room: self.clone(),
        }
    }

    /// Bytes of the shared part.
    pub fn bytes_max(&self) -> u64 {
        (self.units_max * UNIT_BYTES) as u64
    }

    /// How much of it is taken.
    pub fn bytes(&self) -> u64 {
        let free = self.free.available_permits();
        (self.units_max.saturating_sub(free) * UNIT_BYTES) as u64
    }

    /// Messages for which there was none.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

// === impl Held ===

impl Held {
    /// Takes `bytes` more. A message that is larger than all of the room has it to itself.
    ///
    /// # Errors
    ///
    /// When there is no room in time.
    pub async fn grow(&mut self, purse: &Purse, bytes: usize) -> Result<(), FrameError> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        if self.shared.is_none()
            && let Ok(more) = purse.own.clone().try_acquire_many_owned(units)
        {
            merge(&mut self.own, more);
            return Ok(());
        }
        let room = &purse.room;
        let has = self.shared.as_ref().map_or(0, |has| has.num_permits());
        let units = (units as usize).min(room.units_max.saturating_sub(has));
        // as many as fit into the number of units
        let taken = room.free.clone().acquire_many_owned(units as u32);
        match time::timeout(ROOM_WAIT_MAX, taken).await {
            Ok(Ok(more)) => {
                merge(&mut self.shared, more);
                Ok(())
            }
            // it is never closed
            Ok(Err(_)) | Err(_) => {
                room.refused.fetch_add(1, Ordering::Relaxed);
                Err(FrameError::NoRoom {
                    bytes_max: room.bytes_max(),
                })
            }
        }
    }
}

fn merge(held: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    #[tokio::test(start_paused = true)]
    async fn what_is_small_never_waits_and_what_is_large_shares() {
        let room = Room::new(100 * KIB);
        let (first, second) = (room.purse(), room.purse());
        let mut small = Held::default();
        small.grow(&first, OWN_BYTES_MAX).await.unwrap();
        assert_eq!(room.bytes(), 0, "its own");
        let mut large = Held::default();
        large.grow(&first, 60 * KIB).await.unwrap();
        large.grow(&first, 40 * KIB).await.unwrap();
        assert_eq!(room.bytes(), room.bytes_max());

        // the connection beside it has its own still, and nothing more
        let mut other = Held::default();
        other.grow(&second, OWN_BYTES_MAX).await.unwrap();
        let refused = other.grow(&second, 1).await.unwrap_err();
        assert!(
            refused.to_string().contains("peers.buffered_bytes"),
            "{refused}"
        );
        assert_eq!(room.refused(), 1);
        drop(large);
        other.grow(&second, 100 * KIB).await.unwrap();
        assert_eq!((room.bytes(), room.refused()), (100 << 10, 1));
        drop((small, other));
        assert_eq!(room.bytes(), 0);
        assert_eq!(first.own.available_permits() * UNIT_BYTES, OWN_BYTES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_larger_than_the_room_goes_alone() {
        let room = Room::new(100 * KIB);
        let purse = room.purse();
        let mut large = Held::default();
        for _ in 0..10 {
            large.grow(&purse, 300 * KIB).await.unwrap();
        }
        assert_eq!(room.bytes(), 100 << 10);
        let mut other = Held::default();
        assert!(other.grow(&room.purse(), 300 * KIB).await.is_err());
    }
}
