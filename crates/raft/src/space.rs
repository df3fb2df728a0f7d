use std::{fmt, sync::Arc};

use tidings_store::RaftLog;

/// Reads how many bytes are free on the disk.
#[derive(Clone)]
pub struct FreeSpace(Arc<dyn Fn() -> u64 + Send + Sync>);

impl FreeSpace {
    /// Free space as `read` tells it.
    pub fn new(read: impl Fn() -> u64 + Send + Sync + 'static) -> FreeSpace {
        FreeSpace(Arc::new(read))
    }
}

impl fmt::Debug for FreeSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FreeSpace")
    }
}

/// How much room there is on the disk, and how much of it is left alone.
///
/// ```text
/// free ≥ reserve    everything is taken
/// free < reserve    only what frees space: retention, seals, settings; spare log segments go
/// ```
#[derive(Clone)]
pub(crate) struct Space {
    log: RaftLog,
    measure: Option<FreeSpace>,
    reserve: u64,
}

impl Space {
    /// The disk of `log`, or what `measure` tells of it.
    pub fn new(log: RaftLog, measure: Option<FreeSpace>, reserve: u64) -> Space {
        Space {
            log,
            measure,
            reserve,
        }
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        match &self.measure {
            Some(FreeSpace(read)) => read(),
            None => self.log.available_bytes(),
        }
    }

    /// Free bytes below which only what frees space is taken.
    pub fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Whether there is less than the reserve.
    pub fn is_short(&self) -> bool {
        self.free() < self.reserve
    }
}
