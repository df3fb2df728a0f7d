use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tidings_client::{Token, Url};
use tidings_spool::SpoolConfig;

/// A server that stands still, and whose connections stay open, is left after two and a half of these;
/// each costs a server three bytes and a wake-up for each stream.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Finds the HTTP addresses of servers; the error is a sentence.
pub type FindServers =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<String>, String>> + Send + Sync>;

/// What an agent without a timeline is told.
#[derive(Clone)]
pub struct RelayConfig {
    /// Where the spool is: `spool/` in the agent's data directory.
    pub spool_dir: PathBuf,
    /// Bytes that the spool may hold of what no server has.
    pub spool_bytes_max: u64,
    /// HTTP addresses of servers.
    pub servers: Vec<Url>,
    /// Finds more of them, while none of those is reached.
    pub find: Option<FindServers>,
    /// What the agent shows to servers.
    pub token: Option<Token>,
    /// How long a publisher waits for the timeline before it is answered from the spool.
    pub answer_within: Duration,
    /// How often servers are asked to send heartbeats on streams, at least a second: one that is silent for
    /// two and a half of them is left.
    pub heartbeat: Duration,
    /// Streams from servers that are shared by many, at most; beyond it one that has everything is
    /// shared.
    pub upstreams_max: usize,
    /// Bytes of the newest frames that are kept for the readers of one filter.
    pub ring_bytes: usize,
}

impl RelayConfig {
    /// The defaults, with a spool in this directory.
    pub fn new(spool_dir: PathBuf) -> RelayConfig {
        let spool = SpoolConfig::new(spool_dir);
        RelayConfig {
            spool_bytes_max: spool.bytes_max,
            servers: Vec::new(),
            find: None,
            token: None,
            answer_within: spool.answer_within,
            heartbeat: HEARTBEAT,
            upstreams_max: 32,
            ring_bytes: 4 << 20,
            spool_dir: spool.directory,
        }
    }
}

impl fmt::Debug for RelayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayConfig")
            .field("spool_dir", &self.spool_dir)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}
