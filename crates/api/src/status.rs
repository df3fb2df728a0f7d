use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::ApiError;
use crate::metrics::{Exposition, label};
use crate::openapi;
use crate::publish::json_response;
use crate::servers;
use crate::timeline::{PeersStatus, TimelineStatus};
use crate::upstream::UpstreamNumber;

/// How long whoever asks for readiness is told to wait.
const NOT_READY_RETRY: Duration = Duration::from_secs(1);

/// `GET /v1/status`.
pub(crate) async fn status(State(app): State<Arc<App>>) -> Response {
    json_response(Bytes::from(format!("{}\n", describe(&app))))
}

fn describe(app: &App) -> Value {
    let timeline = app.timeline.status();
    let view = app.state();
    let broker = app.timeline.broker().stats();
    let metrics = &app.metrics;
    let mut description = json!({
        "Version": app.config.version,
        "Node": app.config.node_name,
        "Region": app.config.region,
        "UptimeSeconds": app.started.elapsed().as_secs(),
        "Role": timeline.role,
        "Ready": timeline.not_ready.is_none() && !app.closing.has_begun(),
        "NotReady": timeline.not_ready,
        "Http": {
            "Connections": metrics.connections.get(),
            "Streams": metrics.streams(),
            "StreamsLines": metrics.streams_lines.get(),
            "StreamsSse": metrics.streams_sse.get(),
            "StreamsWebSocket": metrics.streams_websocket.get(),
            "BlockingQueries": metrics.blocking_queries.get(),
        },
    });
    let id = view.timeline.map(|timeline| timeline.to_string());
    let mut add = |name: &str, section| description[name] = section;
    // Who holds no timeline has no log, no history and no settings to tell of.
    if let Some(upstream) = app.timeline.upstream() {
        add(
            "Timeline",
            json!({ "Id": id, "Newest": timeline.newest.get() }),
        );
        for (name, section) in upstream.sections() {
            add(name, section);
        }
        return description;
    }
    let last_contact = timeline.last_contact;
    let last_contact_ms =
        last_contact.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    add("Term", json!(timeline.term));
    add("Leader", json!(timeline.leader));
    add("LastContactMs", json!(last_contact_ms));
    add("Servers", servers::describe(&timeline.servers));
    add(
        "Timeline",
        json!({
            "Id": id,
            "Oldest": timeline.oldest.get(),
            "Newest": timeline.newest.get(),
            "StateIndex": view.index.get(),
            "Entries": view.entries_len(),
            "DedupeIds": view.dedupe_ids,
            "Senders": view.senders,
        }),
    );
    add(
        "Log",
        json!({
            "First": timeline.log_first,
            "Last": timeline.log_last,
            "Committed": timeline.log_committed,
            "Applied": timeline.log_applied,
            "Snapshot": timeline.snapshot,
            "QueuedGroups": timeline.queued_groups,
            "QueuedBytes": timeline.queued_bytes,
        }),
    );
    add(
        "Storage",
        json!({
            "Segments": timeline.segments,
            "HistoryBytes": timeline.history_bytes,
            "DiskFreeBytes": timeline.disk_free_bytes,
            "RingBytes": broker.ring_bytes,
            "RingOldest": broker.ring_oldest.get(),
            "HistoryReads": broker.history_reads,
            "ReadersHoldBytes": broker.held_bytes,
        }),
    );
    add("Settings", json!(*view.settings));
    description
}

/// `GET /v1/health/live`: the process answers.
pub(crate) async fn live() -> Response {
    json_response(Bytes::from_static(b"{\"Live\":true}\n"))
}

/// `GET /v1/health/ready`: it can take and serve events.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.closing.has_begun() {
        return ApiError::stopping().into_response();
    }
    match app.timeline.status().not_ready {
        None => json_response(Bytes::from_static(b"{\"Ready\":true}\n")),
        Some(sentence) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", sentence)
            .retry_after(NOT_READY_RETRY)
            .into_response(),
    }
}

/// `GET /v1/metrics`.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut text = Exposition::default();
    app.metrics.render(&mut text);
    let timeline = app.timeline.status();
    for (name, help, value) in [
        (
            "tidings_timeline_newest_index",
            "The newest frame.",
            timeline.newest.get(),
        ),
        (
            "tidings_ready",
            "1 when events can be taken.",
            u64::from(timeline.not_ready.is_none() && !app.closing.has_begun()),
        ),
        (
            "tidings_uptime_seconds",
            "Since the start.",
            app.started.elapsed().as_secs(),
        ),
    ] {
        text.gauge(name, help, value);
    }
    let upstream = app.timeline.upstream();
    if upstream.is_none() {
        timeline_metrics(&app, &timeline, &mut text);
    }
    for number in upstream.iter().flat_map(|upstream| upstream.numbers()) {
        let UpstreamNumber {
            name, help, value, ..
        } = number;
        match number.is_counter {
            true => text.counter(name, help, value),
            false => text.gauge(name, help, value),
        }
    }
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text.into_text()).into_response()
}

/// What there is to count where the timeline is.
fn timeline_metrics(app: &App, timeline: &TimelineStatus, text: &mut Exposition) {
    let view = app.state();
    let broker = app.timeline.broker().stats();
    for (name, help, value) in [
        (
            "tidings_timeline_oldest_index",
            "The oldest frame.",
            timeline.oldest.get(),
        ),
        (
            "tidings_state_entries",
            "Entries of the state.",
            view.entries_len() as u64,
        ),
        (
            "tidings_dedupe_ids",
            "Ids that repeats are known by.",
            view.dedupe_ids as u64,
        ),
        (
            "tidings_senders",
            "Agents and others whose numbers are remembered.",
            view.senders as u64,
        ),
        (
            "tidings_raft_term",
            "The term of the consensus.",
            timeline.term,
        ),
        (
            "tidings_raft_log_last",
            "The last log entry.",
            timeline.log_last,
        ),
        (
            "tidings_raft_log_applied",
            "The last applied log entry.",
            timeline.log_applied,
        ),
        (
            "tidings_queued_groups",
            "Groups of changes that wait.",
            timeline.queued_groups,
        ),
        (
            "tidings_queued_bytes",
            "Bytes of changes that wait.",
            timeline.queued_bytes,
        ),
        (
            "tidings_history_segments",
            "Segments of the history.",
            timeline.segments,
        ),
        (
            "tidings_history_bytes",
            "Bytes of the history.",
            timeline.history_bytes,
        ),
        (
            "tidings_broker_ring_bytes",
            "Bytes of frames in memory.",
            broker.ring_bytes,
        ),
        (
            "tidings_broker_held_bytes",
            "Bytes read from disk that streams have not passed on yet.",
            broker.held_bytes,
        ),
        (
            "tidings_broker_subscriptions",
            "Subscriptions.",
            broker.subscriptions,
        ),
    ] {
        text.gauge(name, help, value);
    }
    if let Some(free) = timeline.disk_free_bytes {
        text.gauge(
            "tidings_disk_free_bytes",
            "Free bytes on the disk of the data.",
            free,
        );
    }
    servers_metrics(timeline, text);
    if let Some(peers) = &timeline.peers {
        peers_metrics(peers, text);
    }
    text.counter(
        "tidings_broker_history_reads_total",
        "Reads from disk for streams that had fallen behind.",
        broker.history_reads,
    );
}

/// Who leads, who votes, and how far the others are, as far as this server knows.
fn servers_metrics(timeline: &TimelineStatus, text: &mut Exposition) {
    text.gauge(
        "tidings_leader",
        "1 on the server that leads.",
        u64::from(timeline.role == "leader"),
    );
    text.gauge(
        "tidings_leader_known",
        "1 when somebody leads, as far as this server knows.",
        u64::from(timeline.leader.is_some()),
    );
    if let Some(silence) = timeline.last_contact {
        text.gauge(
            "tidings_leader_last_contact_milliseconds",
            "Since the leader was last heard of; 0 on the leader.",
            u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
        );
    }
    let with_role = |role| {
        let servers = timeline.servers.iter();
        servers.filter(|server| server.role == role).count() as u64
    };
    text.labelled(
        "tidings_servers",
        "Servers that hold the timeline, by what they are.",
        ["voter", "learner", "standby"]
            .map(|role| (label("role", role), with_role(role)))
            .as_slice(),
    );
    let lag = |matched: u64| timeline.log_last.saturating_sub(matched);
    let lags: Vec<(String, u64)> = timeline
        .servers
        .iter()
        .filter(|server| !server.leads)
        .filter_map(|server| Some((label("server", &server.name), lag(server.matched?))))
        .collect();
    text.labelled(
        "tidings_server_lag_entries",
        "Log entries that a server lacks, on the leader.",
        &lags,
    );
    let silences: Vec<(String, u64)> = timeline
        .servers
        .iter()
        .filter_map(|server| {
            let silence = server.last_contact?.as_millis();
            let silence = u64::try_from(silence).unwrap_or(u64::MAX);
            Some((label("server", &server.name), silence))
        })
        .collect();
    text.labelled(
        "tidings_server_last_contact_milliseconds",
        "Since a server was last heard of, as far as this one knows.",
        &silences,
    );
    let skews: Vec<(String, u64)> = timeline
        .servers
        .iter()
        .filter_map(|server| {
            let skew = server.clock_ahead_ms?.unsigned_abs();
            Some((label("server", &server.name), skew))
        })
        .collect();
    text.labelled(
        "tidings_server_clock_skew_milliseconds",
        "By how much the clock of another server differed from this one's when they last met.",
        &skews,
    );
}

/// What other servers have open here.
fn peers_metrics(peers: &PeersStatus, text: &mut Exposition) {
    text.gauge(
        "tidings_peer_connections",
        "Connections from other servers.",
        peers.connections,
    );
    text.counter(
        "tidings_peer_connections_refused_total",
        "Connections at the peer port that were refused or closed because there were too many.",
        peers.connections_refused,
    );
    text.gauge(
        "tidings_peer_buffered_bytes",
        "Bytes of messages of other servers that come in or are worked at.",
        peers.buffered_bytes,
    );
    text.gauge(
        "tidings_peer_buffered_bytes_max",
        "How many those may be (peers.buffered_bytes).",
        peers.buffered_bytes_max,
    );
    text.counter(
        "tidings_peer_messages_refused_total",
        "Messages of other servers that were refused because there was no memory for them.",
        peers.messages_refused,
    );
}

/// `GET /v1/openapi.json`.
pub(crate) async fn description(State(app): State<Arc<App>>) -> Response {
    let mut description = openapi::openapi();
    description["info"]["version"] = Value::from(app.config.version.as_str());
    json_response(Bytes::from(format!("{description}\n")))
}
