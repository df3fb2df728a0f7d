//! What an agent tells of itself, for people and for Prometheus.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tidings_api::UpstreamNumber;
use tidings_spool::Reached;

use crate::relay::Inner;

/// Sections for `/v1/status`.
pub(crate) fn sections(relay: &Inner) -> Vec<(&'static str, Value)> {
    let (spool, hub) = (relay.outbox.status(), relay.hub.status());
    let counts = relay.outbox.counts();
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let client = relay.servers.client();
    let reach = relay.servers.reach().now();
    vec![
        (
            "Spool",
            json!({
                "Bytes": spool.bytes,
                "BytesMax": spool.bytes_max,
                "Transactions": spool.transactions,
                "Failed": spool.failed,
                "Forwarded": count(&counts.forwarded),
                "Repeated": count(&counts.repeated),
                "Refused": count(&counts.refused),
                "Renumbered": count(&counts.renumbered),
                "InDoubt": count(&counts.in_doubt),
                "Sender": spool.sender,
                "Epoch": spool.epoch,
            }),
        ),
        (
            "Relay",
            json!({
                "Server": client.map(|client| client.address()),
                "Reached": reach == Reached::Yes,
                "NotReached": match reach {
                    Reached::Lost(reason) => Some(reason),
                    _ => None,
                },
                "Upstreams": hub.upstreams,
                "Filters": hub.views,
                "CatchUps": count(&relay.behind),
            }),
        ),
    ]
}

/// Numbers for `/v1/metrics`.
pub(crate) fn numbers(relay: &Inner) -> Vec<UpstreamNumber> {
    let (spool, hub) = (relay.outbox.status(), relay.hub.status());
    let counts = relay.outbox.counts();
    let gauge = |name, help, value| UpstreamNumber {
        name,
        help,
        is_counter: false,
        value,
    };
    let counter = |name, help, count: &AtomicU64| UpstreamNumber {
        name,
        help,
        is_counter: true,
        value: count.load(Ordering::Relaxed),
    };
    vec![
        gauge(
            "tidings_spool_bytes",
            "Bytes that this agent keeps for the timeline.",
            spool.bytes,
        ),
        gauge(
            "tidings_spool_bytes_max",
            "Bytes that it may keep.",
            spool.bytes_max,
        ),
        gauge(
            "tidings_spool_transactions",
            "Transactions that this agent keeps for the timeline.",
            spool.transactions,
        ),
        counter(
            "tidings_spool_forwarded_total",
            "Transactions that the timeline took from this agent.",
            &counts.forwarded,
        ),
        counter(
            "tidings_spool_repeated_total",
            "Of those, the ones that it had already.",
            &counts.repeated,
        ),
        counter(
            "tidings_spool_refused_total",
            "Transactions that the timeline refused for good.",
            &counts.refused,
        ),
        counter(
            "tidings_spool_renumbered_total",
            "Epochs begun because the numbers did not fit the timeline.",
            &counts.renumbered,
        ),
        counter(
            "tidings_spool_in_doubt_total",
            "Transactions sent anew that may be on the timeline twice.",
            &counts.in_doubt,
        ),
        gauge(
            "tidings_relay_reached",
            "1 when a server takes what is sent.",
            u64::from(relay.servers.reach().now() == Reached::Yes),
        ),
        gauge(
            "tidings_relay_upstreams",
            "Streams from servers that are shared here.",
            hub.upstreams as u64,
        ),
        counter(
            "tidings_relay_catch_ups_total",
            "Readers that went on by a stream of their own.",
            &relay.behind,
        ),
    ]
}
