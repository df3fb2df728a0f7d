//! The catalogue of configuration keys.
//!
//! One [`Key`] a key: its name, where it lives in [`Config`], its form and range, and what it is
//! for. Reading files, the environment and flags, `config check`, the sample file and the
//! reference page all go through this one list, so that none of them can forget a key.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{
    Config, DataDir, LogFormat, LogLevel, NODE_NAME_BYTES_MAX, VerifyDepth, node_name_char,
};
use crate::value::{read_duration, read_size, show_duration, show_size};

/// One configuration key.
pub(crate) struct Key {
    /// `section.key`, as in TOML.
    pub(crate) name: &'static str,
    /// The flag of `tidings agent` that sets it.
    pub(crate) flag: Option<&'static str>,
    /// Whether a reload takes it over; otherwise the agent must be restarted.
    pub(crate) reload: bool,
    /// What it is for, one or two sentences.
    pub(crate) about: &'static str,
    /// Where it lives, how it is spelled, and its range.
    pub(crate) field: Field,
}

/// Where a key lives in [`Config`], how it is spelled, and its range (both ends included).
///
/// The accessors take `&mut` and serve for reading too, on a clone: one a key is enough.
pub(crate) enum Field {
    Switch(fn(&mut Config) -> &mut bool),
    Count(Number, u64, u64),
    CountOrOff(fn(&mut Config) -> &mut Option<u64>, u64, u64),
    Size(Number, u64, u64),
    SizeOrOff(fn(&mut Config) -> &mut Option<u64>, u64, u64),
    Time(fn(&mut Config) -> &mut Duration, Duration, Duration),
    TimeOrOff(fn(&mut Config) -> &mut Option<Duration>, Duration, Duration),
    NodeName(fn(&mut Config) -> &mut String),
    DataDir(fn(&mut Config) -> &mut DataDir),
    FileOrOff(fn(&mut Config) -> &mut Option<PathBuf>),
    Address(fn(&mut Config) -> &mut SocketAddr),
    HostNames(fn(&mut Config) -> &mut Vec<String>),
    HostPortOrOff(fn(&mut Config) -> &mut Option<String>),
    HostPorts(fn(&mut Config) -> &mut Vec<String>),
    /// The words, then setting and getting by place in them.
    Choice(
        &'static [&'static str],
        fn(&mut Config, usize),
        fn(&Config) -> usize,
    ),
}

/// Where a number lives: sizes of memory are `usize`, what is on disk or replicated is `u64`.
pub(crate) enum Number {
    Here(fn(&mut Config) -> &mut usize),
    Everywhere(fn(&mut Config) -> &mut u64),
}

/// A value as it came in, before the key's form is applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Raw {
    /// A TOML string.
    Text(String),
    /// A TOML number, an integer in decimal.
    Number(String),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array of strings.
    Texts(Vec<String>),
    /// Any other TOML value, by its type's name.
    Other(&'static str),
    /// From the environment or a flag, where everything is text.
    Word(String),
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What each section is for, in the order of the reference.
pub(crate) const SECTIONS: &[(&str, &str)] = &[
    ("node", "Who this agent is and where it keeps its data."),
    (
        "server",
        "Whether this agent is one of the servers that hold one timeline together. Without it the agent \
         holds a timeline of its own, or none when it is told of servers: see `[relay]`.",
    ),
    ("peers", "How servers reach each other."),
    (
        "relay",
        "How an agent that is no server works with servers. It is one when `server.enabled` is false and \
         `peers.join` or `relay.servers` names servers: it holds no timeline, hands on what it takes, and \
         shares streams among its readers. It shows servers the token of `http.token_file`, which a \
         reload reads anew.",
    ),
    (
        "spool",
        "What an agent that is no server keeps on disk until a server has it.",
    ),
    ("http", "The HTTP surface."),
    (
        "stream",
        "Following the timeline: `/v1/event/stream` and `/v1/events`.",
    ),
    (
        "limits",
        "How large what a client hands in may be. What is larger is refused with a sentence that \
         names the limit.",
    ),
    (
        "timeline",
        "The window in which repeats are recognised, and the queue in front of the timeline.",
    ),
    ("broker", "What is kept in memory for followers."),
    ("store", "Files on disk."),
    (
        "retention",
        "How much history is kept. Whole segments go, oldest first, as soon as any of the three \
         says so; the newest segment always stays.",
    ),
    ("log", "The agent's own log, on standard error."),
];

/// More servers than this are not remembered while a cluster forms (`raft/src/peers/me.rs`).
const BOOTSTRAP_EXPECT_MAX: u64 = 64;

const VERIFY_WORDS: &[&str] = &["tail", "all"];
const LEVEL_WORDS: &[&str] = &["error", "warn", "info", "debug", "trace"];
const FORMAT_WORDS: &[&str] = &["text", "json"];

const VERIFY_DEPTHS: [VerifyDepth; 2] = [VerifyDepth::Tail, VerifyDepth::All];
const LEVELS: [LogLevel; 5] = [
    LogLevel::Error,
    LogLevel::Warn,
    LogLevel::Info,
    LogLevel::Debug,
    LogLevel::Trace,
];
const FORMATS: [LogFormat; 2] = [LogFormat::Text, LogFormat::Json];

fn place<T: PartialEq>(all: &[T], one: &T) -> usize {
    all.iter()
        .position(|other| other == one)
        .expect("the list holds every variant")
}

/// Every key, section by section in the order of [`SECTIONS`].
pub(crate) static KEYS: &[Key] = &[
    Key {
        name: "node.name",
        flag: Some("--node"),
        reload: false,
        about: "Name of this node; events that name no `Node` get it. 1 to 128 of `A-Z a-z 0-9 . _ -`. \
                The default is the host's name.",
        field: Field::NodeName(|c| &mut c.node.name),
    },
    Key {
        name: "node.data_dir",
        flag: Some("--data-dir"),
        reload: false,
        about: "Directory of everything that is kept; made when it is absent. One agent at a time: a \
                second one on the same directory is refused.",
        field: Field::DataDir(|c| &mut c.node.data_dir),
    },
    Key {
        name: "server.enabled",
        flag: Some("--server"),
        reload: false,
        about: "Whether this agent is a server of a cluster. It finds the others by `peers.join`, and \
                they it. A timeline that was a server's own before goes on as a cluster of one, which \
                others may join.",
        field: Field::Switch(|c| &mut c.server.enabled),
    },
    Key {
        name: "server.bootstrap_expect",
        flag: Some("--bootstrap-expect"),
        reload: false,
        about: "How many servers without data, that all see each other, form a cluster: the same on all \
                of them. 1 begins alone, and others may join. 0 only joins servers that are a cluster \
                already. Without meaning once the server is in a cluster.",
        field: Field::Count(
            Number::Everywhere(|c| &mut c.server.bootstrap_expect),
            0,
            BOOTSTRAP_EXPECT_MAX,
        ),
    },
    Key {
        name: "server.standby",
        flag: None,
        reload: false,
        about: "Whether the server gets no vote when it joins: it holds a copy, and takes part when \
                `tidings server promote` says so. Without meaning once it has a vote.",
        field: Field::Switch(|c| &mut c.server.standby),
    },
    Key {
        name: "peers.address",
        flag: Some("--peer"),
        reload: false,
        about: "IP address and port at which a server listens for the others. Port `0` takes a free one, \
                which `listening.json` then names. Without `peers.tls_cert` whoever reaches it \
                may join, read and write.",
        field: Field::Address(|c| &mut c.peers.address),
    },
    Key {
        name: "peers.advertise",
        flag: None,
        reload: false,
        about: "Host and port by which the others reach `peers.address`, where that is not the address \
                itself: needed when it is `0.0.0.0` or `[::]`. Port `0` stands for the port that is \
                listened on.",
        field: Field::HostPortOrOff(|c| &mut c.peers.advertise),
    },
    Key {
        name: "peers.join",
        flag: Some("--join"),
        reload: false,
        about: "Peer addresses of some of the servers, which know the rest; this server's own among them \
                is no harm. Looked up anew whenever somebody is missing.",
        field: Field::HostPorts(|c| &mut c.peers.join),
    },
    Key {
        name: "peers.tls_cert",
        flag: None,
        reload: false,
        about: "PEM file with this server's certificate and those between it and the authority's. With \
                it and the two below, peers speak TLS 1.3 and both sides show a certificate: for \
                *server* and *client authentication*, names in it are not compared.",
        field: Field::FileOrOff(|c| &mut c.peers.tls_cert),
    },
    Key {
        name: "peers.tls_key",
        flag: None,
        reload: false,
        about: "PEM file with the private key of that certificate.",
        field: Field::FileOrOff(|c| &mut c.peers.tls_key),
    },
    Key {
        name: "peers.tls_ca",
        flag: None,
        reload: false,
        about: "PEM file with the certificates of the authority that signs for the servers of this \
                cluster, and for nobody else: whoever has a certificate of it may speak as a server.",
        field: Field::FileOrOff(|c| &mut c.peers.tls_ca),
    },
    Key {
        name: "peers.buffered_bytes",
        flag: None,
        reload: false,
        about: "Messages of other servers that come in or are worked at, of all connections together. \
                Beyond it a connection is closed with a sentence, and made again; votes, signs of life \
                and single events have room beside it. A larger message is taken alone.",
        field: Field::Size(
            Number::Here(|c| &mut c.peers.buffered_bytes),
            64 * MIB,
            64 * GIB,
        ),
    },
    Key {
        name: "peers.clock_skew",
        flag: None,
        reload: false,
        about: "By how much the clock of a server may differ from the leader's. One that wants to join is \
                refused beyond it, one that is in the cluster is warned of: by the log and by \
                `tidings_server_clock_skew_milliseconds`.",
        field: Field::Time(|c| &mut c.peers.clock_skew, SECOND, DAY),
    },
    Key {
        name: "relay.servers",
        flag: None,
        reload: false,
        about: "HTTP addresses of some of the servers, for an agent that is none: those that answer tell \
                of the rest. Without it servers are found by `peers.join`, and must have `http.advertise`.",
        field: Field::HostPorts(|c| &mut c.relay.servers),
    },
    Key {
        name: "relay.answer_within",
        flag: None,
        reload: false,
        about: "How long a publisher waits for the timeline before it is answered that the event is kept \
                in the spool. Longer than electing a leader takes, so that it seldom happens.",
        field: Field::Time(|c| &mut c.relay.answer_within, SECOND, HOUR),
    },
    Key {
        name: "relay.upstreams_max",
        flag: None,
        reload: false,
        about: "Streams from servers that are open at a time for readers to share, one for each set of \
                topics. Readers of further sets share one that has everything.",
        field: Field::Count(Number::Here(|c| &mut c.relay.upstreams_max), 1, 10_000),
    },
    Key {
        name: "relay.ring_bytes",
        flag: None,
        reload: false,
        about: "Newest frames kept in memory for all readers of one filter. A reader that falls further \
                behind goes on by a stream of its own until it has caught up.",
        field: Field::Size(
            Number::Here(|c| &mut c.relay.ring_bytes),
            64 * KIB,
            64 * GIB,
        ),
    },
    Key {
        name: "spool.bytes_max",
        flag: None,
        reload: false,
        about: "How much may be kept for servers that are not reached. Beyond it publishing is refused \
                with 507; what was taken stays.",
        field: Field::Size(
            Number::Everywhere(|c| &mut c.spool.bytes_max),
            MIB,
            64 * TIB,
        ),
    },
    Key {
        name: "http.address",
        flag: Some("--http"),
        reload: false,
        about: "IP address and port to listen on. Port `0` takes a free one, which `listening.json` in \
                the data directory then names. An address beyond loopback needs `http.token_file`, or \
                `http.insecure = true`.",
        field: Field::Address(|c| &mut c.http.address),
    },
    Key {
        name: "http.advertise",
        flag: None,
        reload: false,
        about: "Host and port by which clients reach a server of a cluster: the others tell it to whoever \
                asks for servers. `\"off\"`: the address, if that can be reached from where the other \
                servers are; for `0.0.0.0` and `[::]` the host of `peers.advertise`.",
        field: Field::HostPortOrOff(|c| &mut c.http.advertise),
    },
    Key {
        name: "http.token_file",
        flag: None,
        reload: true,
        about: "File with the token that every request must bear (`Authorization: Bearer …`): at least \
                16 characters, white space around them dropped. `\"off\"` asks for no token.",
        field: Field::FileOrOff(|c| &mut c.http.token_file),
    },
    Key {
        name: "http.insecure",
        flag: None,
        reload: false,
        about: "Allows an address beyond loopback without a token: anybody who reaches the port may \
                read and publish.",
        field: Field::Switch(|c| &mut c.http.insecure),
    },
    Key {
        name: "http.header_timeout",
        flag: None,
        reload: true,
        about: "How long a client may take to send the header of a request; then the connection is \
                closed.",
        field: Field::Time(
            |c| &mut c.http.header_timeout,
            SECOND,
            Duration::from_secs(300),
        ),
    },
    Key {
        name: "http.connections_max",
        flag: None,
        reload: true,
        about: "Connections open at a time; more are answered 503 and closed. Each takes a file \
                descriptor, and the agent raises its limit of those to the hard limit.",
        field: Field::Count(Number::Here(|c| &mut c.http.connections_max), 1, 1_000_000),
    },
    Key {
        name: "http.write_stall",
        flag: None,
        reload: true,
        about: "How long a client may take nothing of what is sent to it before its connection is cut. \
                A reader that is merely slow is never cut: it goes on from disk.",
        field: Field::Time(|c| &mut c.http.write_stall, SECOND, HOUR),
    },
    Key {
        name: "http.shutdown_grace",
        flag: None,
        reload: true,
        about: "How long requests under way may go on after a stop was asked for. Streams are ended at \
                once, at the end of a line.",
        field: Field::Time(|c| &mut c.http.shutdown_grace, Duration::ZERO, HOUR),
    },
    Key {
        name: "http.host_names",
        flag: None,
        reload: true,
        about: "Host names by which the agent is called where no token is asked for, with a space \
                between them. Requests that name another host than these, `localhost` or an IP \
                address are then refused (403): a web page can make its own name mean this machine.",
        field: Field::HostNames(|c| &mut c.http.host_names),
    },
    Key {
        name: "http.header_bytes_max",
        flag: None,
        reload: true,
        about: "Head of a request, its query included; more is answered 431.",
        field: Field::Size(Number::Here(|c| &mut c.http.header_bytes_max), 8 * KIB, MIB),
    },
    Key {
        name: "http.http2_streams_max",
        flag: None,
        reload: true,
        about: "Requests at a time on one HTTP/2 connection.",
        field: Field::Count(
            Number::Everywhere(|c| &mut c.http.http2_streams_max),
            1,
            10_000,
        ),
    },
    Key {
        name: "stream.enabled",
        flag: None,
        reload: true,
        about: "Whether the timeline can be followed. When `false`, the streams answer as Nomad does \
                with its event broker turned off; publishing goes on.",
        field: Field::Switch(|c| &mut c.stream.enabled),
    },
    Key {
        name: "stream.backlog_frames",
        flag: None,
        reload: true,
        about: "Newest frames that a stream which names no index starts with.",
        field: Field::Count(
            Number::Everywhere(|c| &mut c.stream.backlog_frames),
            0,
            1_000_000,
        ),
    },
    Key {
        name: "stream.heartbeat",
        flag: None,
        reload: true,
        about: "Time between the heartbeats that keep an idle stream alive. Clients written for Nomad \
                expect 30 seconds or less.",
        field: Field::Time(
            |c| &mut c.stream.heartbeat,
            Duration::from_millis(100),
            HOUR,
        ),
    },
    Key {
        name: "stream.streams_max",
        flag: None,
        reload: true,
        about: "Streams open at a time; more are answered 503.",
        field: Field::Count(
            Number::Everywhere(|c| &mut c.stream.streams_max),
            1,
            1_000_000,
        ),
    },
    Key {
        name: "stream.topics_max",
        flag: None,
        reload: true,
        about: "`topic=` parameters of one request.",
        field: Field::Count(Number::Here(|c| &mut c.stream.topics_max), 1, 100_000),
    },
    Key {
        name: "limits.event_bytes",
        flag: None,
        reload: true,
        about: "One event, as encoded in its frame.",
        field: Field::Size(
            Number::Here(|c| &mut c.limits.event.event_bytes),
            KIB,
            64 * MIB,
        ),
    },
    Key {
        name: "limits.transaction_bytes",
        flag: None,
        reload: true,
        about: "All events of one transaction together: the length of its frame's line.",
        field: Field::Size(
            Number::Here(|c| &mut c.limits.event.transaction_bytes),
            KIB,
            256 * MIB,
        ),
    },
    Key {
        name: "limits.transaction_events",
        flag: None,
        reload: true,
        about: "Events in one transaction.",
        field: Field::Count(
            Number::Here(|c| &mut c.limits.event.transaction_events),
            1,
            1_000_000,
        ),
    },
    Key {
        name: "limits.name_bytes",
        flag: None,
        reload: true,
        about: "`Topic`, `Type` and `Namespace`, each.",
        field: Field::Size(
            Number::Here(|c| &mut c.limits.event.name_bytes),
            16,
            4 * KIB,
        ),
    },
    Key {
        name: "limits.key_bytes",
        flag: None,
        reload: true,
        about: "`Key`, and each entry of `FilterKeys`.",
        field: Field::Size(
            Number::Here(|c| &mut c.limits.event.key_bytes),
            16,
            64 * KIB,
        ),
    },
    Key {
        name: "limits.filter_keys",
        flag: None,
        reload: true,
        about: "Entries of `FilterKeys`.",
        field: Field::Count(Number::Here(|c| &mut c.limits.event.filter_keys), 0, 4_096),
    },
    Key {
        name: "limits.id_bytes",
        flag: None,
        reload: true,
        about: "`Id`, `Node` and `Source`, each.",
        field: Field::Size(Number::Here(|c| &mut c.limits.event.id_bytes), 26, 4 * KIB),
    },
    Key {
        name: "limits.payload_depth",
        flag: None,
        reload: true,
        about: "How deeply objects and arrays of a payload may be nested. Common JSON readers stop at \
                128, and the frame around the payload takes some of that.",
        field: Field::Count(Number::Here(|c| &mut c.limits.event.payload_depth), 1, 120),
    },
    Key {
        name: "limits.line_bytes",
        flag: None,
        reload: true,
        about: "One line of an ndjson request, and the body of a request that is not ndjson.",
        field: Field::Size(Number::Here(|c| &mut c.limits.line_bytes), KIB, 256 * MIB),
    },
    Key {
        name: "limits.query_bytes",
        flag: None,
        reload: true,
        about: "The query string of a request.",
        field: Field::Size(Number::Here(|c| &mut c.limits.query_bytes), 256, MIB),
    },
    Key {
        name: "limits.body_pause",
        flag: None,
        reload: true,
        about: "How long the body of a request may pause before it is answered 408. An ndjson request \
                may pause between two lines for as long as it likes.",
        field: Field::Time(|c| &mut c.limits.body_pause, SECOND, HOUR),
    },
    Key {
        name: "limits.body_timeout",
        flag: None,
        reload: true,
        about: "How long a body may take to arrive, and one line of an ndjson request from its \
                first byte to its last; longer is answered 408.",
        field: Field::Time(|c| &mut c.limits.body_timeout, SECOND, HOUR),
    },
    Key {
        name: "limits.buffered_bytes",
        flag: None,
        reload: true,
        about: "Bodies and lines that have begun to arrive, of all requests together; beyond it \
                requests are answered 503 with `Retry-After`.",
        field: Field::Size(
            Number::Everywhere(|c| &mut c.limits.buffered_bytes),
            MIB,
            64 * GIB,
        ),
    },
    Key {
        name: "limits.page_bytes",
        flag: None,
        reload: true,
        about: "One page of `/v1/state`; where more follow, a token says where they begin.",
        field: Field::Size(Number::Here(|c| &mut c.limits.page_bytes), 64 * KIB, GIB),
    },
    Key {
        name: "limits.restore_state_bytes",
        flag: None,
        reload: true,
        about: "State of a snapshot that may be restored over HTTP; it is in memory twice while it is \
                decoded. `tidings snapshot inspect` shows what a file has.",
        field: Field::Size(
            Number::Everywhere(|c| &mut c.limits.restore_state_bytes),
            MIB,
            16 * GIB,
        ),
    },
    Key {
        name: "timeline.dedupe_ids_max",
        flag: None,
        reload: true,
        about: "Ids of published events that are remembered, so that a repeat is answered with the \
                index of the first. Takes 24 bytes of memory each. 0 remembers none.",
        field: Field::Count(
            Number::Everywhere(|c| &mut c.timeline.dedupe_ids_max),
            0,
            100_000_000,
        ),
    },
    Key {
        name: "timeline.dedupe_age",
        flag: None,
        reload: true,
        about: "How long an id is remembered.",
        field: Field::Time(|c| &mut c.timeline.dedupe_age, SECOND, YEAR),
    },
    Key {
        name: "timeline.queue_groups_max",
        flag: None,
        reload: false,
        about: "Requests that may wait for the timeline; more are answered 503 with `Retry-After`.",
        field: Field::Count(
            Number::Here(|c| &mut c.timeline.queue_groups_max),
            1,
            1_000_000,
        ),
    },
    Key {
        name: "timeline.queue_bytes_max",
        flag: None,
        reload: false,
        about: "Bytes that may wait for the timeline; more are answered 503 with `Retry-After`.",
        field: Field::Size(
            Number::Here(|c| &mut c.timeline.queue_bytes_max),
            MIB,
            16 * GIB,
        ),
    },
    Key {
        name: "timeline.batch_bytes_max",
        flag: None,
        reload: false,
        about: "Bytes that go to the log with one write and one fsync.",
        field: Field::Size(
            Number::Here(|c| &mut c.timeline.batch_bytes_max),
            64 * KIB,
            GIB,
        ),
    },
    Key {
        name: "broker.ring_bytes",
        flag: None,
        reload: false,
        about: "Newest frames kept in memory, shared by all followers. A follower that falls further \
                behind reads from disk until it has caught up.",
        field: Field::Size(Number::Here(|c| &mut c.broker.ring_bytes), MIB, 64 * GIB),
    },
    Key {
        name: "broker.held_bytes",
        flag: None,
        reload: false,
        about: "What followers that have fallen behind may hold of what was read from disk for them, \
                all together. Beyond it less is read for each at a time.",
        field: Field::Size(Number::Here(|c| &mut c.broker.held_bytes), MIB, 64 * GIB),
    },
    Key {
        name: "store.segment_bytes",
        flag: None,
        reload: true,
        about: "Size at which a history segment is sealed and a new one begun. Retention removes whole \
                segments.",
        field: Field::Size(
            Number::Everywhere(|c| &mut c.store.segment_bytes),
            MIB,
            2 * GIB,
        ),
    },
    Key {
        name: "store.verify_on_start",
        flag: None,
        reload: false,
        about: "`\"tail\"` checks the newest segment, where a power cut may have left a torn write; \
                `\"all\"` checks every checksum of the whole history, which reads it once.",
        field: Field::Choice(
            VERIFY_WORDS,
            |c, i| c.store.verify_on_start = VERIFY_DEPTHS[i],
            |c| place(&VERIFY_DEPTHS, &c.store.verify_on_start),
        ),
    },
    Key {
        name: "store.reserve_bytes",
        flag: None,
        reload: false,
        about: "Free space on the data directory's disk below which publishing is refused (507), so \
                that what was taken can still be written down.",
        field: Field::Size(
            Number::Everywhere(|c| &mut c.store.reserve_bytes),
            16 * MIB,
            1 << 40,
        ),
    },
    Key {
        name: "store.snapshot_log_bytes",
        flag: None,
        reload: false,
        about: "Log written since the last snapshot that makes a new snapshot worthwhile; the log \
                before it is then dropped. Also bounds how much is replayed at a start.",
        field: Field::Size(
            Number::Everywhere(|c| &mut c.store.snapshot_log_bytes),
            MIB,
            64 * GIB,
        ),
    },
    Key {
        name: "retention.age",
        flag: None,
        reload: true,
        about: "Segments whose newest frame is older go.",
        field: Field::TimeOrOff(
            |c| &mut c.retention.age,
            Duration::from_secs(60),
            Duration::from_secs(100 * 365 * 24 * 3600),
        ),
    },
    Key {
        name: "retention.bytes",
        flag: None,
        reload: true,
        about: "Oldest segments go while the history on disk is larger.",
        field: Field::SizeOrOff(|c| &mut c.retention.bytes, MIB, 1024 * TIB),
    },
    Key {
        name: "retention.frames",
        flag: None,
        reload: true,
        about: "Oldest segments go while at least this many frames stay.",
        field: Field::CountOrOff(|c| &mut c.retention.frames, 1, 1_000_000_000_000),
    },
    Key {
        name: "log.level",
        flag: None,
        reload: true,
        about: "Lowest level written. `error`: somebody must act. `warn`: unexpected, recovered. \
                `info`: life cycle. `debug` and `trace`: for finding faults.",
        field: Field::Choice(
            LEVEL_WORDS,
            |c, i| c.log.level = LEVELS[i],
            |c| place(&LEVELS, &c.log.level),
        ),
    },
    Key {
        name: "log.format",
        flag: None,
        reload: false,
        about: "`\"text\"` for people, `\"json\"` for machines: one object a line.",
        field: Field::Choice(
            FORMAT_WORDS,
            |c, i| c.log.format = FORMATS[i],
            |c| place(&FORMATS, &c.log.format),
        ),
    },
];

/// The key of this name.
pub(crate) fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

// === impl Key ===

impl Key {
    /// The section it stands in.
    pub(crate) fn section(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(section, _)| section)
    }

    /// Its name within the section.
    pub(crate) fn leaf(&self) -> &'static str {
        self.name
            .split_once('.')
            .map_or(self.name, |(_, leaf)| leaf)
    }

    /// The environment variable that sets it.
    pub(crate) fn variable(&self) -> String {
        format!(
            "TIDINGS_{}",
            self.name.replace('.', "_").to_ascii_uppercase()
        )
    }

    /// Puts `raw` into `config`; the error is a sentence: what is wrong and what would be right.
    pub(crate) fn set(&self, config: &mut Config, raw: &Raw) -> Result<(), String> {
        self.field
            .set(config, raw)
            .map_err(|complaint| format!("{} {complaint}", self.name))
    }

    /// The value as it is written in TOML.
    pub(crate) fn show(&self, config: &Config) -> String {
        self.field.show(&mut config.clone())
    }
}

// === impl Field ===

impl Field {
    fn set(&self, config: &mut Config, raw: &Raw) -> Result<(), String> {
        match self {
            Field::Switch(at) => *at(config) = switch(raw)?,
            Field::Count(at, min, max) => {
                at.set(config, between(count(raw)?, *min, *max, u64::to_string)?)?;
            }
            Field::CountOrOff(at, min, max) => {
                *at(config) = match off(raw) {
                    true => None,
                    false => Some(between(count(raw)?, *min, *max, u64::to_string)?),
                };
            }
            Field::Size(at, min, max) => {
                let bytes = between(size(raw)?, *min, *max, |b| quoted(&show_size(*b)))?;
                at.set(config, bytes)?;
            }
            Field::SizeOrOff(at, min, max) => {
                *at(config) = match off(raw) {
                    true => None,
                    false => Some(between(size(raw)?, *min, *max, |b| quoted(&show_size(*b)))?),
                };
            }
            Field::Time(at, min, max) => {
                *at(config) = between(time(raw)?, *min, *max, |d| quoted(&show_duration(*d)))?;
            }
            Field::TimeOrOff(at, min, max) => {
                *at(config) = match off(raw) {
                    true => None,
                    false => Some(between(time(raw)?, *min, *max, |d| {
                        quoted(&show_duration(*d))
                    })?),
                };
            }
            Field::NodeName(at) => *at(config) = node_name(raw)?,
            Field::DataDir(at) => {
                *at(config) = DataDir::At(path(raw, "a directory, as \"/var/lib/tidings\"")?);
            }
            Field::FileOrOff(at) => {
                *at(config) = match off(raw) {
                    true => None,
                    false => Some(path(raw, "a file, as \"/etc/tidings/token\"")?),
                };
            }
            Field::Address(at) => *at(config) = address(raw)?,
            Field::HostNames(at) => *at(config) = host_names(raw)?,
            Field::HostPortOrOff(at) => {
                *at(config) = match off(raw) {
                    true => None,
                    false => Some(host_port(raw)?),
                };
            }
            Field::HostPorts(at) => *at(config) = host_ports(raw)?,
            Field::Choice(words, set, _) => {
                let right = || format!("it must be {}", one_of(words));
                let text = text(raw).ok_or_else(|| format!("is {}; {}", raw.shown(), right()))?;
                let at = words
                    .iter()
                    .position(|word| *word == text)
                    .ok_or_else(|| format!("is {}; {}", raw.shown(), right()))?;
                set(config, at);
            }
        }
        Ok(())
    }

    fn show(&self, config: &mut Config) -> String {
        let or_off = |shown: Option<String>| quoted(shown.as_deref().unwrap_or("off"));
        match self {
            Field::Switch(at) => at(config).to_string(),
            Field::Count(at, ..) => at.get(config).to_string(),
            Field::CountOrOff(at, ..) => {
                at(config).map_or_else(|| quoted("off"), |count| count.to_string())
            }
            Field::Size(at, ..) => quoted(&show_size(at.get(config))),
            Field::SizeOrOff(at, ..) => or_off(at(config).map(show_size)),
            Field::Time(at, ..) => quoted(&show_duration(*at(config))),
            Field::TimeOrOff(at, ..) => or_off(at(config).map(show_duration)),
            Field::NodeName(at) => quoted(at(config)),
            Field::DataDir(at) => match at(config) {
                DataDir::At(path) => quoted(&path.display().to_string()),
                DataDir::Temporary => quoted(""),
            },
            Field::FileOrOff(at) => {
                or_off(at(config).as_ref().map(|path| path.display().to_string()))
            }
            Field::Address(at) => quoted(&at(config).to_string()),
            Field::HostNames(at) => quoted(&at(config).join(" ")),
            Field::HostPortOrOff(at) => or_off(at(config).clone()),
            Field::HostPorts(at) => {
                let all: Vec<String> = at(config).iter().map(|one| quoted(one)).collect();
                format!("[{}]", all.join(", "))
            }
            Field::Choice(words, _, get) => quoted(words[get(config)]),
        }
    }

    /// Makes the value in `to` the one of `from`.
    pub(crate) fn copy(&self, from: &Config, to: &mut Config) {
        let mut from = from.clone();
        match self {
            Field::Switch(at) => *at(to) = *at(&mut from),
            Field::Count(at, ..) | Field::Size(at, ..) => at.copy(&mut from, to),
            Field::CountOrOff(at, ..) | Field::SizeOrOff(at, ..) => *at(to) = *at(&mut from),
            Field::Time(at, ..) => *at(to) = *at(&mut from),
            Field::TimeOrOff(at, ..) => *at(to) = *at(&mut from),
            Field::NodeName(at) => at(to).clone_from(at(&mut from)),
            Field::DataDir(at) => at(to).clone_from(at(&mut from)),
            Field::FileOrOff(at) => at(to).clone_from(at(&mut from)),
            Field::Address(at) => *at(to) = *at(&mut from),
            Field::HostNames(at) | Field::HostPorts(at) => at(to).clone_from(at(&mut from)),
            Field::HostPortOrOff(at) => at(to).clone_from(at(&mut from)),
            Field::Choice(_, set, get) => set(to, get(&from)),
        }
    }

    /// The value when it is a size; `None` for other forms and for `"off"`.
    pub(crate) fn bytes(&self, config: &Config) -> Option<u64> {
        let mut config = config.clone();
        match self {
            Field::Size(at, ..) => Some(at.get(&mut config)),
            Field::SizeOrOff(at, ..) => *at(&mut config),
            _ => None,
        }
    }

    /// The form and range in words, for the reference.
    pub(crate) fn describe(&self) -> String {
        let sizes =
            |min: u64, max: u64| format!("size, `{}` to `{}`", show_size(min), show_size(max));
        let times = |min: &Duration, max: &Duration| {
            format!(
                "duration, `{}` to `{}`",
                show_duration(*min),
                show_duration(*max)
            )
        };
        match self {
            Field::Switch(_) => "`true` or `false`".to_owned(),
            Field::Count(_, min, max) => format!("number, {min} to {max}"),
            Field::CountOrOff(_, min, max) => format!("number, {min} to {max}, or `\"off\"`"),
            Field::Size(_, min, max) => sizes(*min, *max),
            Field::SizeOrOff(_, min, max) => format!("{}, or `\"off\"`", sizes(*min, *max)),
            Field::Time(_, min, max) => times(min, max),
            Field::TimeOrOff(_, min, max) => format!("{}, or `\"off\"`", times(min, max)),
            Field::NodeName(_) => "text".to_owned(),
            Field::DataDir(_) => "directory".to_owned(),
            Field::FileOrOff(_) => "file, or `\"off\"`".to_owned(),
            Field::Address(_) => "IP address and port".to_owned(),
            Field::HostNames(_) => "host names, separated by spaces; empty for none".to_owned(),
            Field::HostPortOrOff(_) => "`HOST:PORT`, or `\"off\"`".to_owned(),
            Field::HostPorts(_) => {
                "list of `HOST:PORT`; as one text, separated by spaces".to_owned()
            }
            Field::Choice(words, ..) => one_of(words).replace('"', "`"),
        }
    }
}

// === impl Number ===

impl Number {
    fn set(&self, config: &mut Config, number: u64) -> Result<(), String> {
        match self {
            Number::Here(at) => {
                *at(config) = usize::try_from(number)
                    .map_err(|_| format!("is {number}, more than this machine can address"))?;
            }
            Number::Everywhere(at) => *at(config) = number,
        }
        Ok(())
    }

    fn copy(&self, from: &mut Config, to: &mut Config) {
        match self {
            Number::Here(at) => *at(to) = *at(from),
            Number::Everywhere(at) => *at(to) = *at(from),
        }
    }

    fn get(&self, config: &mut Config) -> u64 {
        match self {
            Number::Here(at) => *at(config) as u64,
            Number::Everywhere(at) => *at(config),
        }
    }
}

// === impl Raw ===

impl Raw {
    /// As the user wrote it, for a complaint.
    fn shown(&self) -> String {
        match self {
            Raw::Text(text) | Raw::Word(text) => quoted(text),
            Raw::Number(number) => number.clone(),
            Raw::Boolean(switch) => switch.to_string(),
            Raw::Texts(_) => "an array".to_owned(),
            Raw::Other(kind) => (*kind).to_owned(),
        }
    }
}

// === reading one form each; errors go on after the key's name ===

fn text(raw: &Raw) -> Option<&str> {
    match raw {
        Raw::Text(text) | Raw::Word(text) => Some(text),
        _ => None,
    }
}

fn off(raw: &Raw) -> bool {
    text(raw) == Some("off")
}

fn host_names(raw: &Raw) -> Result<Vec<String>, String> {
    let right = "it must be host names with spaces between them, as \"tidings tidings.example\"";
    let text = text(raw).ok_or_else(|| format!("is {}; {right}", raw.shown()))?;
    let names = text.split([' ', ',']).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let is_name = name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
            if is_name {
                Ok(name.to_ascii_lowercase())
            } else {
                Err(format!(
                    "has {}, which is no host name; {right}, without a port",
                    quoted(name)
                ))
            }
        })
        .collect()
}

fn host_port(raw: &Raw) -> Result<String, String> {
    let right =
        "it must be a host and a port, as \"server-1.example:7481\" or \"[2001:db8::1]:7481\"";
    let text = text(raw).ok_or_else(|| format!("is {}; {right}", raw.shown()))?;
    is_host_port(text)
        .then(|| text.to_owned())
        .ok_or_else(|| format!("is {}; {right}", raw.shown()))
}

fn host_ports(raw: &Raw) -> Result<Vec<String>, String> {
    let right =
        "it must be hosts with their ports, as [\"server-1.example:7481\", \"192.0.2.2:7481\"]";
    let texts: Vec<&str> = match raw {
        Raw::Texts(texts) => texts.iter().map(String::as_str).collect(),
        Raw::Text(text) | Raw::Word(text) => {
            let words = text.split([' ', ',']);
            words.filter(|word| !word.is_empty()).collect()
        }
        _ => return Err(format!("is {}; {right}", raw.shown())),
    };
    if texts.len() > HOST_PORTS_MAX {
        return Err(format!(
            "has {} entries; {HOST_PORTS_MAX} are enough, as the servers tell of each other",
            texts.len()
        ));
    }
    match texts.iter().find(|text| !is_host_port(text)) {
        Some(text) => Err(format!("has {}; {right}", quoted(text))),
        None => Ok(texts.into_iter().map(str::to_owned).collect()),
    }
}

/// Addresses that are greeted again and again while a cluster forms.
const HOST_PORTS_MAX: usize = 64;
/// Longest name of a host (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

/// Whether a text is a host name, an IPv4 address or an IPv6 address in brackets, with a port.
fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match bracketed {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => (1..=HOST_BYTES_MAX).contains(&host.len()) && host.chars().all(node_name_char),
    };
    is_host && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

fn switch(raw: &Raw) -> Result<bool, String> {
    match raw {
        Raw::Boolean(switch) => Ok(*switch),
        Raw::Word(word) if word == "true" => Ok(true),
        Raw::Word(word) if word == "false" => Ok(false),
        Raw::Text(_) => Err(format!(
            "is {}; it must be true or false, without quotes",
            raw.shown()
        )),
        _ => Err(format!("is {}; it must be true or false", raw.shown())),
    }
}

fn count(raw: &Raw) -> Result<u64, String> {
    match raw {
        Raw::Number(number) | Raw::Word(number) => number
            .parse()
            .map_err(|_| format!("is {}; it must be a whole number, 0 or more", raw.shown())),
        Raw::Text(_) => Err(format!(
            "is {}; it must be a number, without quotes",
            raw.shown()
        )),
        _ => Err(format!("is {}; it must be a number", raw.shown())),
    }
}

fn size(raw: &Raw) -> Result<u64, String> {
    match raw {
        Raw::Number(number) => number
            .parse()
            .map_err(|_| format!("is {number}; it must be a number of bytes, 0 or more")),
        Raw::Text(text) | Raw::Word(text) => {
            read_size(text).map_err(|complaint| format!("is wrong: {complaint}"))
        }
        _ => Err(format!(
            "is {}; it must be a size, as \"64MiB\"",
            raw.shown()
        )),
    }
}

fn time(raw: &Raw) -> Result<Duration, String> {
    match raw {
        // Seconds to some, milliseconds to others: not guessed.
        Raw::Number(number) => Err(format!(
            "is {number}, which has no unit: write \"{number}s\" for seconds or \"{number}ms\" for milliseconds"
        )),
        Raw::Text(text) | Raw::Word(text) => {
            read_duration(text).map_err(|complaint| format!("is wrong: {complaint}"))
        }
        _ => Err(format!(
            "is {}; it must be a duration, as \"30s\"",
            raw.shown()
        )),
    }
}

fn path(raw: &Raw, right: &str) -> Result<PathBuf, String> {
    match text(raw) {
        Some("") => Err(format!("is empty; it must name {right}")),
        Some(path) if path.contains('\0') => {
            Err(format!("holds a zero character; it must name {right}"))
        }
        Some(path) => Ok(PathBuf::from(path)),
        None => Err(format!("is {}; it must name {right}", raw.shown())),
    }
}

fn node_name(raw: &Raw) -> Result<String, String> {
    let right = format!("it must be 1 to {NODE_NAME_BYTES_MAX} of A-Z a-z 0-9 . _ -");
    let name = text(raw).ok_or_else(|| format!("is {}; {right}", raw.shown()))?;
    if name.is_empty() {
        return Err(format!("is empty; {right}"));
    }
    if name.len() > NODE_NAME_BYTES_MAX {
        return Err(format!("is {} bytes long; {right}", name.len()));
    }
    match name.chars().find(|c| !node_name_char(*c)) {
        Some(c) => Err(format!("is {name:?}, which holds {c:?}; {right}")),
        None => Ok(name.to_owned()),
    }
}

fn address(raw: &Raw) -> Result<SocketAddr, String> {
    let right = "it must be an IP address and a port, as \"127.0.0.1:7480\" or \"[::1]:7480\"";
    let text = text(raw).ok_or_else(|| format!("is {}; {right}", raw.shown()))?;
    // The one name that needs no resolver.
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric
        .parse()
        .map_err(|_| format!("is {}; {right}", raw.shown()))
}

fn between<T: PartialOrd>(
    value: T,
    min: T,
    max: T,
    show: impl Fn(&T) -> String,
) -> Result<T, String> {
    if value < min || value > max {
        return Err(format!(
            "is {}; it must be between {} and {}",
            show(&value),
            show(&min),
            show(&max)
        ));
    }
    Ok(value)
}

/// A TOML basic string.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn one_of(words: &[&str]) -> String {
    let mut line = String::new();
    for (i, word) in words.iter().enumerate() {
        if i > 0 {
            line.push_str(if i + 1 == words.len() { " or " } else { ", " });
        }
        line.push('"');
        line.push_str(word);
        line.push('"');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_in_order_and_without_repeats() {
        let order: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
        let mut last = 0;
        for (i, key) in KEYS.iter().enumerate() {
            let at = place(&order, &key.section());
            assert!(at >= last, "{} stands out of order", key.name);
            last = at;
            assert!(
                KEYS[..i]
                    .iter()
                    .all(|other| other.name != key.name && other.variable() != key.variable()),
                "{} repeats",
                key.name
            );
        }
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        let defaults = Config::default();
        for key in KEYS {
            let shown = key.show(&defaults);
            let table: toml::Table = format!("it = {shown}").parse().expect("TOML");
            let raw = match &table["it"] {
                toml::Value::String(text) => Raw::Text(text.clone()),
                toml::Value::Integer(number) => Raw::Number(number.to_string()),
                toml::Value::Array(texts) => Raw::Texts(
                    texts
                        .iter()
                        .map(|text| text.as_str().expect("a text").to_owned())
                        .collect(),
                ),
                toml::Value::Boolean(switch) => Raw::Boolean(*switch),
                other => panic!("{} is shown as {other}", key.name),
            };
            let mut read = Config::default();
            key.set(&mut read, &raw).expect(key.name);
            assert_eq!(read, defaults, "{}", key.name);
        }
    }

    #[test]
    fn ranges_hold_at_both_ends() {
        // (key, just inside, just outside), low end then high end
        for (name, inside, outside) in [
            ("http.connections_max", "1", "0"),
            ("http.connections_max", "1000000", "1000001"),
            ("http.header_timeout", "1s", "999ms"),
            ("http.header_timeout", "5m", "301s"),
            ("limits.event_bytes", "1KiB", "1023B"),
            ("limits.event_bytes", "64MiB", "65MiB"),
            ("limits.payload_depth", "120", "121"),
            ("limits.id_bytes", "26", "25"),
            ("retention.age", "1m", "59s"),
            ("retention.age", "36500d", "36501d"),
            ("retention.bytes", "1MiB", "1048575"),
            ("retention.frames", "1", "0"),
            ("stream.backlog_frames", "0", "1000001"),
            ("store.segment_bytes", "2GiB", "2049MiB"),
        ] {
            let key = key(name).expect(name);
            let mut config = Config::default();
            key.set(&mut config, &Raw::Word(inside.to_owned()))
                .expect(name);
            let complaint = key
                .set(&mut config, &Raw::Word(outside.to_owned()))
                .expect_err(name);
            assert!(
                complaint.starts_with(name) && complaint.contains("; it must be between "),
                "{complaint}"
            );
        }
    }

    #[test]
    fn complaints_say_what_is_wrong_and_what_would_be_right() {
        let text = |text: &str| Raw::Text(text.to_owned());
        for (name, raw, sentence) in [
            (
                "http.insecure",
                text("true"),
                "http.insecure is \"true\"; it must be true or false, without quotes",
            ),
            (
                "http.connections_max",
                text("5"),
                "http.connections_max is \"5\"; it must be a number, without quotes",
            ),
            (
                "http.connections_max",
                Raw::Number("-5".to_owned()),
                "http.connections_max is -5; it must be a whole number, 0 or more",
            ),
            (
                "stream.heartbeat",
                Raw::Number("30".to_owned()),
                "stream.heartbeat is 30, which has no unit: write \"30s\" for seconds or \"30ms\" for milliseconds",
            ),
            (
                "stream.heartbeat",
                text("2h"),
                "stream.heartbeat is \"2h\"; it must be between \"100ms\" and \"1h\"",
            ),
            (
                "broker.ring_bytes",
                text("64MB"),
                "broker.ring_bytes is wrong: \"64MB\" is not a size: write \"64MiB\"",
            ),
            (
                "log.level",
                text("loud"),
                "log.level is \"loud\"; it must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
            ),
            (
                "http.address",
                text(":7480"),
                "http.address is \":7480\"; it must be an IP address and a port, as \"127.0.0.1:7480\" or \"[::1]:7480\"",
            ),
            (
                "node.name",
                text("a b"),
                "node.name is \"a b\", which holds ' '; it must be 1 to 128 of A-Z a-z 0-9 . _ -",
            ),
            (
                "node.data_dir",
                text(""),
                "node.data_dir is empty; it must name a directory, as \"/var/lib/tidings\"",
            ),
            (
                "http.token_file",
                Raw::Other("an array"),
                "http.token_file is an array; it must name a file, as \"/etc/tidings/token\"",
            ),
        ] {
            let key = key(name).expect(name);
            let complaint = key.set(&mut Config::default(), &raw).expect_err(name);
            assert_eq!(complaint, sentence);
        }
    }

    #[test]
    fn host_names_are_words() {
        let mut config = Config::default();
        let key = key("http.host_names").expect("known");
        let mut read = |text: &str| {
            key.set(&mut config, &Raw::Word(text.to_owned()))
                .map(|()| (config.http.host_names.clone(), key.show(&config)))
        };
        let (names, shown) = read("tidings,  Tidings.Example").expect("read");
        assert_eq!(names, ["tidings", "tidings.example"]);
        assert_eq!(shown, "\"tidings tidings.example\"");
        assert_eq!(read("").expect("read").0, Vec::<String>::new());
        let refused = read("tidings:7480").expect_err("a port");
        assert!(refused.contains("without a port"), "{refused}");
    }

    #[test]
    fn servers_are_hosts_with_ports() {
        let mut config = Config::default();
        let key = key("peers.join").expect("known");
        let mut read = |raw: Raw| {
            key.set(&mut config, &raw)
                .map(|()| (config.peers.join.clone(), key.show(&config)))
        };
        let texts = |all: &[&str]| Raw::Texts(all.iter().map(ToString::to_string).collect());
        let (join, shown) = read(texts(&["a:7481", "[::1]:7481"])).expect("read");
        assert_eq!(join, ["a:7481", "[::1]:7481"]);
        assert_eq!(shown, "[\"a:7481\", \"[::1]:7481\"]");
        let words = Raw::Word("a.b:1, 192.0.2.1:2  c-d:3".to_owned());
        assert_eq!(
            read(words).expect("read").0,
            ["a.b:1", "192.0.2.1:2", "c-d:3"]
        );
        assert_eq!(read(texts(&[])).expect("read").1, "[]");
        for wrong in [
            "a",
            "a:",
            ":1",
            "a:70000",
            "a:+1",
            "::1:7481",
            "[a]:1",
            "a b:1",
            "http://a:1",
        ] {
            let refused = read(texts(&[wrong])).expect_err(wrong);
            assert!(refused.contains("hosts with their ports"), "{refused}");
        }
        assert!(read(Raw::Number("1".to_owned())).is_err());
        assert!(read(texts(&["a:1"; HOST_PORTS_MAX + 1])).is_err());
    }

    #[test]
    fn localhost_is_an_address() {
        let mut config = Config::default();
        key("http.address")
            .expect("known")
            .set(&mut config, &Raw::Word("localhost:0".to_owned()))
            .expect("read");
        assert_eq!(config.http.address, SocketAddr::from(([127, 0, 0, 1], 0)));
    }
}
