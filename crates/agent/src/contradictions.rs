//! What cannot be, though every value is within its own range.

use std::net::SocketAddr;

use crate::config::{Config, HttpConfig, PeersConfig};
use crate::keys::key;

/// Values that contradict each other.
pub(crate) struct Contradiction {
    /// The keys at fault, the first to blame first.
    pub(crate) keys: Vec<&'static str>,
    /// What is wrong and what would be right.
    pub(crate) sentence: String,
}

/// The first key may not be larger than the second; the reason ends the sentence.
const AT_MOST: &[(&str, &str, &str)] = &[
    (
        "limits.event_bytes",
        "limits.transaction_bytes",
        "a transaction must be able to hold one event",
    ),
    (
        "limits.transaction_bytes",
        "limits.line_bytes",
        "a transaction comes in as one line",
    ),
    (
        "limits.transaction_bytes",
        "timeline.queue_bytes_max",
        "the queue must be able to hold one transaction",
    ),
    (
        "timeline.batch_bytes_max",
        "timeline.queue_bytes_max",
        "the queue must be able to hold one batch",
    ),
    (
        "limits.transaction_bytes",
        "broker.ring_bytes",
        "the ring must be able to hold one frame",
    ),
    (
        "limits.transaction_bytes",
        "spool.bytes_max",
        "the spool must be able to hold one transaction",
    ),
    (
        "store.segment_bytes",
        "retention.bytes",
        "only whole segments are removed",
    ),
];

/// Everything that contradicts itself in `config`.
pub(crate) fn contradictions(config: &Config) -> Vec<Contradiction> {
    let mut found: Vec<Contradiction> = AT_MOST
        .iter()
        .filter_map(|(small, large, reason)| {
            let (small, large) = (key(small)?, key(large)?);
            // `None` is "off", which bounds nothing.
            if small.field.bytes(config)? <= large.field.bytes(config)? {
                return None;
            }
            Some(Contradiction {
                keys: vec![large.name, small.name],
                sentence: format!(
                    "{} is {} and {} is {}; {} must be at least as large, because {reason}",
                    small.name,
                    small.show(config),
                    large.name,
                    large.show(config),
                    large.name,
                ),
            })
        })
        .collect();
    // Safe by default: nobody opens the timeline to the world by a slip.
    if is_exposed(&config.http) && config.http.token_file.is_none() && !config.http.insecure {
        found.push(Contradiction {
            keys: vec!["http.address", "http.token_file"],
            sentence: format!(
                "http.address {} can be reached from other machines, and no token guards it; set \
                 http.token_file to a file with a token, or http.insecure = true to allow everybody, \
                 or listen on 127.0.0.1",
                config.http.address
            ),
        });
    }
    found.extend(of_servers(config));
    found.extend(of_tls(&config.peers));
    found
}

/// Whether other machines can reach the address.
pub(crate) fn is_exposed(http: &HttpConfig) -> bool {
    !is_loopback(http.address)
}

/// Whether only this machine can reach the address.
pub(crate) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// What cannot be of a server and those that it looks for.
fn of_servers(config: &Config) -> Vec<Contradiction> {
    let Config { server, peers, .. } = config;
    let mut found = Vec::new();
    if !server.enabled {
        if server.bootstrap_expect > 0 {
            found.push(Contradiction {
                keys: vec!["server.bootstrap_expect"],
                sentence:
                    "server.bootstrap_expect says how many servers form a cluster, and this agent \
                           is none of them; set server.enabled = true (flag --server)"
                        .to_owned(),
            });
        }
        if server.standby {
            found.push(Contradiction {
                keys: vec!["server.standby"],
                sentence:
                    "server.standby is about a server of a cluster, and this agent is none; set \
                           server.enabled = true (flag --server)"
                        .to_owned(),
            });
        }
    } else if server.standby && (server.bootstrap_expect > 0 || peers.join.is_empty()) {
        found.push(Contradiction {
            keys: vec!["server.standby"],
            sentence: "server.standby is a server that joins a cluster without a vote; leave \
                       server.bootstrap_expect at 0, and name one of the servers in peers.join"
                .to_owned(),
        });
    } else if peers.address.ip().is_unspecified() && peers.advertise.is_none() {
        found.push(Contradiction {
            keys: vec!["peers.address", "peers.advertise"],
            sentence: format!(
                "peers.address {} is listened on at every address of this machine, and the other \
                 servers must be told one; set peers.advertise to the host and port by which they reach \
                 it, as \"server-1.example:{}\"",
                peers.address,
                peers.address.port()
            ),
        });
    }
    found
}

/// What cannot be of the files of TLS.
fn of_tls(peers: &PeersConfig) -> Option<Contradiction> {
    let files = [
        ("peers.tls_cert", &peers.tls_cert),
        ("peers.tls_key", &peers.tls_key),
        ("peers.tls_ca", &peers.tls_ca),
    ];
    let with = |given: bool| -> Vec<&'static str> {
        let files = files.iter().filter(|(_, file)| file.is_some() == given);
        files.map(|(name, _)| *name).collect()
    };
    let (given, missing) = (with(true), with(false));
    if given.is_empty() || missing.is_empty() {
        return None;
    }
    Some(Contradiction {
        sentence: format!(
            "{} is given, and not {}; peers speak TLS with a certificate, its key and the certificates \
             of the authority, or not at all",
            given.join(", "),
            missing.join(", "),
        ),
        keys: given,
    })
}
