use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidings_event::Timestamp;

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a spool is told.
#[derive(Clone)]
pub struct SpoolConfig {
    /// Where it is.
    pub directory: PathBuf,
    /// Bytes that it may hold of what the timeline does not have.
    pub bytes_max: u64,
    /// Bytes beyond which a file is followed by the next one: small enough to be removed soon, large
    /// enough that there are few.
    pub file_bytes: u64,
    /// How long a publisher waits for the timeline before it is answered from the disk.
    pub answer_within: Duration,
    /// The clock that epochs are counted by.
    pub clock: Clock,
}

impl SpoolConfig {
    /// The defaults, in this directory.
    pub fn new(directory: PathBuf) -> SpoolConfig {
        SpoolConfig {
            directory,
            bytes_max: 1 << 30,
            file_bytes: 8 << 20,
            // Longer than a change of leaders at default timeouts.
            answer_within: Duration::from_secs(3),
            clock: Arc::new(now),
        }
    }
}

impl fmt::Debug for SpoolConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolConfig")
            .field("directory", &self.directory)
            .field("bytes_max", &self.bytes_max)
            .finish_non_exhaustive()
    }
}

/// What this machine's clock shows.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.map_or(0, |since| since.as_micros());
    Timestamp::from_unix_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}
