use std::time::Duration;

use tidings_event::Limits;

use crate::auth::Token;

/// Everything that the HTTP surface can be told. Every limit of it is a field here.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// The `Node` of events whose publisher names none, and what `/v1/status` shows.
    pub node_name: String,
    /// The version that `/v1/status` and `/v1/openapi.json` show.
    pub version: String,
    /// The region that clients of Nomad may name in `region=`. Default `global`, as in Nomad.
    pub region: String,
    /// How large events and transactions may be.
    pub limits: Limits,
    /// Connections, headers, bodies, authorization.
    pub http: HttpConfig,
    /// Streams that are followed: chunked lines, Server-Sent Events, WebSockets.
    pub stream: StreamConfig,
    /// What publishers may send.
    pub publish: PublishConfig,
    /// Reading the state.
    pub state: StateConfig,
}

impl Default for ApiConfig {
    fn default() -> ApiConfig {
        ApiConfig {
            node_name: String::from("tidings"),
            version: String::from(env!("CARGO_PKG_VERSION")),
            region: String::from("global"),
            limits: Limits::default(),
            http: HttpConfig::default(),
            stream: StreamConfig::default(),
            publish: PublishConfig::default(),
            state: StateConfig::default(),
        }
    }
}

/// Limits of connections and requests.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Who may call. Without it everything is allowed: the caller has to see to it that the
    /// listener is then bound to loopback alone. Default none.
    pub token: Option<Token>,
    /// How long the head of a request may take to arrive, and how long a connection may be idle
    /// between requests. Default 10 s.
    pub header_timeout: Duration,
    /// Connections served at once; more are answered `503` and closed. Default 16,384.
    pub connections_max: usize,
    /// A connection whose socket took no byte for this long while something waited to be written
    /// is cut. Default 40 s (Nomad: heartbeat + 10 s).
    pub write_stall: Duration,
    /// How long requests in flight may go on after the streams were ended at shutdown.
    /// Default 5 s.
    pub shutdown_grace: Duration,
    /// Bytes of a request's head; more is answered `431`. Default 32 KiB: a 2 KiB filter, percent-encoded, and topics.
    pub header_bytes_max: usize,
    /// Headers of one request. Default 100, which is the HTTP library's own: other values cost an
    /// allocation a request.
    pub headers_max: usize,
    /// HTTP/1 buffer of a connection: it begins at 8 KiB and grows up to this when a body arrives
    /// faster than it is taken. Default 64 KiB; at least 8 KiB, which is the least that the HTTP
    /// library can do.
    pub buffer_bytes_max: usize,
    /// Requests at once on one HTTP/2 connection. Default 16: each may have an answer in memory
    /// that its client does not take.
    pub http2_streams_max: u32,
    /// The names by which this server may be called without a token, beside `localhost` and IP
    /// addresses. A page of another site can make its own name mean this machine (DNS rebinding),
    /// but not one of these. Default none.
    pub host_names: Vec<String>,
    /// Bytes of a query string. Default 16 KiB.
    pub query_bytes_max: usize,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig {
            token: None,
            header_timeout: Duration::from_secs(10),
            connections_max: 16_384,
            write_stall: Duration::from_secs(40),
            shutdown_grace: Duration::from_secs(5),
            header_bytes_max: 32 << 10,
            headers_max: 100,
            buffer_bytes_max: 64 << 10,
            http2_streams_max: 16,
            host_names: Vec::new(),
            query_bytes_max: 16 << 10,
        }
    }
}

/// Limits and habits of the streams.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Whether events may be followed at all. Default yes.
    pub enabled: bool,
    /// How many of the newest frames are replayed to a subscriber that names no index.
    /// Default 100 (Nomad: `event_buffer_size`), counted over all frames, not only matching ones.
    pub backlog_frames: u64,
    /// How often a heartbeat is written. Default 30 s, as in Nomad, whose clients expect at most
    /// that.
    pub heartbeat: Duration,
    /// Streams open at once, over whatever connections; more are answered `503`. Default 16,384.
    pub streams_max: u64,
    /// Bytes that are gathered for one write before small slices stop being joined.
    /// Default 256 KiB.
    pub chunk_bytes: usize,
    /// `topic=` parameters of one request. Default 256.
    pub topics_max: usize,
    /// Bytes that a WebSocket client may send in one message. Default 64 KiB; its messages are
    /// read and dropped, the stream goes one way.
    pub websocket_message_bytes: usize,
    /// Read buffer of a WebSocket. Default 4 KiB.
    pub websocket_read_buffer: usize,
    /// Bytes of WebSocket messages that are gathered before they are handed to the socket.
    /// Default 16 KiB.
    pub websocket_write_buffer: usize,
    /// How long a closed WebSocket waits for the peer's own Close. Default 2 s.
    pub websocket_close_wait: Duration,
}

impl Default for StreamConfig {
    fn default() -> StreamConfig {
        StreamConfig {
            enabled: true,
            backlog_frames: 100,
            heartbeat: Duration::from_secs(30),
            streams_max: 16_384,
            chunk_bytes: 256 << 10,
            topics_max: 256,
            websocket_message_bytes: 64 << 10,
            websocket_read_buffer: 4 << 10,
            websocket_write_buffer: 16 << 10,
            websocket_close_wait: Duration::from_secs(2),
        }
    }
}

/// Limits of publishing.
#[derive(Clone, Debug)]
pub struct PublishConfig {
    /// Body of a request that is one transaction or one batch. Default 8 MiB: a transaction may
    /// have 4 MiB encoded, and white space and escapes are removed from what came in.
    pub body_bytes: usize,
    /// One line of an `application/x-ndjson` stream. Default 8 MiB, for the same reason.
    pub line_bytes: usize,
    /// Received bytes that are gathered into one group of commands. Default 256 KiB.
    pub group_bytes: usize,
    /// Groups of one ndjson connection that wait for the timeline at once. Default 64.
    pub groups_in_flight: usize,
    /// Bytes of those groups. Default 4 MiB; one group is always let through.
    pub bytes_in_flight: usize,
    /// How long an ndjson stream waits while the timeline is overloaded before its lines are
    /// answered with an error. Default 10 s.
    pub overload_wait: Duration,
    /// How long the body of one publish may pause. Default 30 s; an ndjson stream may pause for
    /// as long as it likes.
    pub body_pause: Duration,
    /// How long a whole body may take to arrive, and one line of an ndjson stream from its first
    /// byte to its end. Default 120 s.
    pub body_timeout: Duration,
    /// Bytes of bodies and lines that have begun to arrive and are not complete, of all requests
    /// together; beyond it requests are answered `503`. Default 256 MiB.
    pub buffered_bytes: u64,
}

impl Default for PublishConfig {
    fn default() -> PublishConfig {
        PublishConfig {
            body_bytes: 8 << 20,
            line_bytes: 8 << 20,
            group_bytes: 256 << 10,
            groups_in_flight: 64,
            bytes_in_flight: 4 << 20,
            overload_wait: Duration::from_secs(10),
            body_pause: Duration::from_secs(30),
            body_timeout: Duration::from_secs(120),
            buffered_bytes: 256 << 20,
        }
    }
}

/// Limits of reading the state, and of bringing it back.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// How long a blocking query waits when it does not say, and at most. Default 300 s, as in
    /// Nomad; up to a sixteenth is added so that queries do not all return at once.
    pub wait_max: Duration,
    /// Entries of one page, and of a list that asks for no pages. Default 10,000; a list that is
    /// cut there bears the token of its next page.
    pub page_entries_max: usize,
    /// Bytes of such a page; its last entry may go beyond. Default 16 MiB.
    pub page_bytes_max: usize,
    /// Entries that one request may look at before it is cut into pages. Default 200,000.
    pub scan_entries_max: usize,
    /// Bytes of the state in a snapshot that is restored; it is in memory twice while it is decoded.
    /// Default 1 GiB.
    pub restore_bytes_max: u64,
}

impl Default for StateConfig {
    fn default() -> StateConfig {
        StateConfig {
            wait_max: Duration::from_secs(300),
            page_entries_max: 10_000,
            page_bytes_max: 16 << 20,
            scan_entries_max: 200_000,
            restore_bytes_max: 1 << 30,
        }
    }
}
