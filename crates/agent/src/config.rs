use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tidings_api::{
    HttpConfig as ApiHttp, PublishConfig as ApiPublish, StateConfig, StreamConfig as ApiStream,
};
use tidings_event::Limits;
use tidings_raft::{DiskLimits, PeersLimits, QueueLimits};
use tidings_timeline::{BrokerConfig as RingConfig, RetentionSettings, Settings};

/// Everything an agent can be told, with each section's defaults in its `Default`.
///
/// What a key means, its range and how it is spelled in TOML is in `keys`; a value
/// here that came through [`Layers::load`](crate::Layers::load) is within its range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `[node]`: who this agent is and where it keeps its data.
    pub node: NodeConfig,
    /// `[server]`: whether this agent is one of the servers that hold the timeline.
    pub server: ServerConfig,
    /// `[peers]`: how servers reach each other.
    pub peers: PeersConfig,
    /// `[relay]`: how an agent that is no server works with servers.
    pub relay: RelayConfig,
    /// `[spool]`: what such an agent keeps until a server has it.
    pub spool: SpoolConfig,
    /// `[http]`: the HTTP surface.
    pub http: HttpConfig,
    /// `[stream]`: `GET /v1/event/stream` and its siblings.
    pub stream: StreamConfig,
    /// `[limits]`: how large what a client hands in may be.
    pub limits: LimitsConfig,
    /// `[timeline]`: dedupe window and the queue in front of the timeline.
    pub timeline: TimelineConfig,
    /// `[broker]`: what is kept in memory for followers.
    pub broker: BrokerConfig,
    /// `[store]`: files.
    pub store: StoreConfig,
    /// `[retention]`: how much history is kept.
    pub retention: RetentionConfig,
    /// `[log]`: the agent's own log.
    pub log: LogConfig,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Name of this node; default for the `Node` of events. 1 to 128 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// Where the data lives.
    pub data_dir: DataDir,
}

/// Where the data of an agent lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataDir {
    /// This directory; made when it is absent.
    At(PathBuf),
    /// A fresh temporary directory, removed at a clean exit. Only `--dev` asks for it.
    Temporary,
}

/// `[server]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerConfig {
    /// Whether this agent is a server of a cluster.
    pub enabled: bool,
    /// How many servers without a past form a cluster; 0: it only joins others.
    pub bootstrap_expect: u64,
    /// Whether it gets no vote by itself when it joins.
    pub standby: bool,
}

/// `[peers]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeersConfig {
    /// Where a server listens for the others; port 0 takes a free one.
    pub address: SocketAddr,
    /// When the address's port is taken, take a free one instead of failing. Only `--dev` without
    /// an explicit address asks for it; there is no key.
    pub free_port_when_taken: bool,
    /// `HOST:PORT` by which the others reach it; `None`: the address.
    pub advertise: Option<String>,
    /// `HOST:PORT` of some servers; these know the rest.
    pub join: Vec<String>,
    /// This server's certificate, with those between it and the authority's.
    pub tls_cert: Option<PathBuf>,
    /// Its private key.
    pub tls_key: Option<PathBuf>,
    /// The certificates of the authority that signs for servers.
    pub tls_ca: Option<PathBuf>,
    /// Bytes of messages of other servers, on all connections together.
    pub buffered_bytes: usize,
    /// By how much the clock of a server that joins may differ from the leader's.
    pub clock_skew: Duration,
}

/// `[relay]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// `HOST:PORT` at which servers speak HTTP.
    pub servers: Vec<String>,
    /// How long a publisher waits for the timeline before it is answered from the spool.
    pub answer_within: Duration,
    /// Streams from servers that readers share, at most.
    pub upstreams_max: usize,
    /// Newest frames kept in memory for the readers of one filter, in bytes.
    pub ring_bytes: usize,
}

/// `[spool]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// What no server has, in bytes on disk.
    pub bytes_max: u64,
}

/// `[http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// `HOST:PORT` by which clients reach it; `None`: found out from the addresses.
    pub advertise: Option<String>,
    /// When the address's port is taken, take a free one instead of failing. Only `--dev` without
    /// an explicit address asks for it; there is no key.
    pub free_port_when_taken: bool,
    /// File that holds the bearer token which every request must bear.
    pub token_file: Option<PathBuf>,
    /// Allows an address beyond loopback without a token.
    pub insecure: bool,
    /// How long a client may take to send a request's header.
    pub header_timeout: Duration,
    /// Connections open at a time.
    pub connections_max: usize,
    /// How long a client may take nothing of what is sent before it is cut off.
    pub write_stall: Duration,
    /// How long requests and streams may go on after a stop was asked for.
    pub shutdown_grace: Duration,
    /// The names by which the agent may be called without a token.
    pub host_names: Vec<String>,
    /// Bytes of a request's head.
    pub header_bytes_max: usize,
    /// Requests at once on one HTTP/2 connection.
    pub http2_streams_max: u64,
}

/// `[stream]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// Whether streams are served at all.
    pub enabled: bool,
    /// Frames that a stream without an index starts with.
    pub backlog_frames: u64,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Streams open at a time.
    pub streams_max: u64,
    /// `topic=` parameters of one request.
    pub topics_max: usize,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Limits of events and transactions.
    pub event: Limits,
    /// One line of an ndjson request, in bytes.
    pub line_bytes: usize,
    /// A request's query string, in bytes.
    pub query_bytes: usize,
    /// How long a body may pause.
    pub body_pause: Duration,
    /// How long a body, or a line of an ndjson request, may take.
    pub body_timeout: Duration,
    /// Bytes of all bodies that are not complete.
    pub buffered_bytes: u64,
    /// Bytes of a page of the state.
    pub page_bytes: usize,
    /// Bytes of the state in a snapshot that is restored.
    pub restore_state_bytes: u64,
}

/// `[timeline]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineConfig {
    /// Ids remembered to recognise repeats.
    pub dedupe_ids_max: u64,
    /// How long an id is remembered.
    pub dedupe_age: Duration,
    /// Requests that may wait for the timeline.
    pub queue_groups_max: usize,
    /// Bytes that may wait for the timeline.
    pub queue_bytes_max: usize,
    /// Bytes written to the log in one go.
    pub batch_bytes_max: usize,
}

/// `[broker]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Newest frames kept in memory, in bytes.
    pub ring_bytes: usize,
    /// What followers together may hold of what was read from disk for them, in bytes.
    pub held_bytes: usize,
}

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Size at which a history segment is sealed.
    pub segment_bytes: u64,
    /// How much of the history is checked at start.
    pub verify_on_start: VerifyDepth,
    /// Free disk space below which publishing is refused.
    pub reserve_bytes: u64,
    /// Log written since the last snapshot that makes a new one worthwhile.
    pub snapshot_log_bytes: u64,
}

/// How much of the history is checked at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyDepth {
    /// The newest segment, where a power cut may have left a torn write.
    Tail,
    /// Every segment, every checksum.
    All,
}

/// `[retention]`: a frame goes when any of the three says so; `None` sets no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionConfig {
    /// Oldest age of a kept segment.
    pub age: Option<Duration>,
    /// History on disk, in bytes.
    pub bytes: Option<u64>,
    /// Frames kept.
    pub frames: Option<u64>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Lowest level written.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

/// Lowest level of the agent's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Somebody must act.
    Error,
    /// Unexpected, recovered.
    Warn,
    /// Life cycle.
    Info,
    /// Each request.
    Debug,
    /// Each step.
    Trace,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

// === defaults ===

/// DESIGN: the address that clients try when they are told none.
pub const HTTP_ADDRESS_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7480);

/// DESIGN: the address at which servers reach each other.
pub const PEERS_ADDRESS_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7481);

/// Where a server that was told nothing keeps its data.
pub const DATA_DIR_DEFAULT: &str = "/var/lib/tidings";

// What a crate below has a default for is taken from there, so that the two cannot part.

impl Default for NodeConfig {
    fn default() -> NodeConfig {
        NodeConfig {
            name: host_name(),
            data_dir: DataDir::At(PathBuf::from(DATA_DIR_DEFAULT)),
        }
    }
}

impl Default for PeersConfig {
    fn default() -> PeersConfig {
        let limits = PeersLimits::default();
        PeersConfig {
            address: PEERS_ADDRESS_DEFAULT,
            free_port_when_taken: false,
            advertise: None,
            join: Vec::new(),
            tls_cert: None,
            tls_key: None,
            tls_ca: None,
            buffered_bytes: limits.buffered_bytes_max,
            clock_skew: limits.clock_skew_max,
        }
    }
}

impl Default for RelayConfig {
    fn default() -> RelayConfig {
        let relay = tidings_relay::RelayConfig::new(PathBuf::new());
        RelayConfig {
            servers: Vec::new(),
            answer_within: relay.answer_within,
            upstreams_max: relay.upstreams_max,
            ring_bytes: relay.ring_bytes,
        }
    }
}

impl Default for SpoolConfig {
    fn default() -> SpoolConfig {
        SpoolConfig {
            bytes_max: tidings_relay::RelayConfig::new(PathBuf::new()).spool_bytes_max,
        }
    }
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        let http = ApiHttp::default();
        HttpConfig {
            address: HTTP_ADDRESS_DEFAULT,
            advertise: None,
            free_port_when_taken: false,
            token_file: None,
            insecure: false,
            header_timeout: http.header_timeout,
            connections_max: http.connections_max,
            write_stall: http.write_stall,
            shutdown_grace: http.shutdown_grace,
            host_names: http.host_names,
            header_bytes_max: http.header_bytes_max,
            http2_streams_max: u64::from(http.http2_streams_max),
        }
    }
}

impl Default for StreamConfig {
    fn default() -> StreamConfig {
        let stream = ApiStream::default();
        StreamConfig {
            enabled: stream.enabled,
            backlog_frames: stream.backlog_frames,
            heartbeat: stream.heartbeat,
            streams_max: stream.streams_max,
            topics_max: stream.topics_max,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        let publish = ApiPublish::default();
        LimitsConfig {
            event: Limits::default(),
            line_bytes: publish.line_bytes,
            query_bytes: ApiHttp::default().query_bytes_max,
            body_pause: publish.body_pause,
            body_timeout: publish.body_timeout,
            buffered_bytes: publish.buffered_bytes,
            page_bytes: StateConfig::default().page_bytes_max,
            restore_state_bytes: StateConfig::default().restore_bytes_max,
        }
    }
}

impl Default for TimelineConfig {
    fn default() -> TimelineConfig {
        let settings = Settings::default();
        let queue = QueueLimits::default();
        TimelineConfig {
            dedupe_ids_max: settings.dedupe_ids_max,
            dedupe_age: Duration::from_secs(settings.dedupe_age_s),
            queue_groups_max: queue.groups_max,
            queue_bytes_max: queue.bytes_max,
            batch_bytes_max: queue.batch_bytes_max,
        }
    }
}

impl Default for BrokerConfig {
    fn default() -> BrokerConfig {
        BrokerConfig {
            ring_bytes: RingConfig::default().ring_bytes,
            held_bytes: RingConfig::default().held_bytes,
        }
    }
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        let disk = DiskLimits::default();
        StoreConfig {
            segment_bytes: Settings::default().segment_bytes,
            verify_on_start: VerifyDepth::Tail,
            reserve_bytes: disk.free_reserve,
            snapshot_log_bytes: disk.snapshot_log_bytes,
        }
    }
}

impl Default for RetentionConfig {
    fn default() -> RetentionConfig {
        // There, zero means no bound.
        let RetentionSettings {
            age_s,
            bytes,
            frames,
        } = RetentionSettings::default();
        let bound = |number: u64| (number > 0).then_some(number);
        RetentionConfig {
            age: bound(age_s).map(Duration::from_secs),
            bytes: bound(bytes),
            frames: bound(frames),
        }
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            level: LogLevel::Info,
            format: LogFormat::Text,
        }
    }
}

/// The host's name with whatever a node name cannot hold made a dash; `tidings` when there is none.
fn host_name() -> String {
    let uname = rustix::system::uname();
    let name: String = uname
        .nodename()
        .to_string_lossy()
        .chars()
        .take(NODE_NAME_BYTES_MAX)
        .map(|c| if node_name_char(c) { c } else { '-' })
        .collect();
    if name.is_empty() {
        "tidings".to_owned()
    } else {
        name
    }
}

/// Longest node name, as in Serf (`serf/config.go` NodeName).
pub(crate) const NODE_NAME_BYTES_MAX: usize = 128;

/// Whether a node name may hold this character.
pub(crate) fn node_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

// === impl DataDir ===

impl fmt::Display for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataDir::At(path) => path.display().fmt(f),
            DataDir::Temporary => f.write_str("a fresh temporary directory"),
        }
    }
}
