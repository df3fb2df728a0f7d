//! What happened, in order, and its digest.

use std::fmt;
use std::sync::Arc;

use tidings_host::simulated::{Mutex, world};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The trace of one run. Clones are the same trace.
#[derive(Clone, Default)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    digest: u64,
    events: u64,
    prints: bool,
}

impl Trace {
    /// A trace that is printed as it comes, if `prints`.
    #[must_use]
    pub fn new(prints: bool) -> Self {
        let trace = Self::default();
        trace.inner.lock().prints = prints;
        trace
    }

    /// Takes note of something that happened now.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>12} {what}", world::elapsed().as_micros());
        let mut inner = self.inner.lock();
        inner.digest = xxh3_64_with_seed(line.as_bytes(), inner.digest);
        inner.events += 1;
        if inner.prints {
            println!("{line}");
        }
    }

    /// Of everything so far.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.inner.lock().digest
    }

    /// How much happened.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.inner.lock().events
    }
}

/// Takes note of something that happened now.
macro_rules! note {
    ($trace:expr, $($what:tt)*) => {
        $trace.note(format_args!($($what)*))
    };
}
pub(crate) use note;
