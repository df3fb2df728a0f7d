use serde::{Deserialize, Serialize};

/// How large what a publisher hands in may be. Sizes are in bytes of UTF-8 text.
///
/// Nomad has no limit on frames; ours bound memory and keep clients that assemble lines slowly
/// usable (python-nomad needs seconds for lines beyond 2 MB).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// One event, as encoded in its frame. Default 1 MiB.
    pub event_bytes: usize,
    /// All events of one transaction. Default 4 MiB.
    pub transaction_bytes: usize,
    /// Events in one transaction. Default 4,096.
    pub transaction_events: usize,
    /// `Topic`, `Type` and `Namespace`, each. Default 128.
    pub name_bytes: usize,
    /// `Key` and each of `FilterKeys`. Default 1,024.
    pub key_bytes: usize,
    /// Entries of `FilterKeys`. Default 64.
    pub filter_keys: usize,
    /// `Id`, `Node` and `Source`, each. Default 128.
    pub id_bytes: usize,
    /// How deeply arrays and objects of a payload may be nested. Default 96: together with the
    /// frame around it this stays below 128, where common JSON readers stop.
    pub payload_depth: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            event_bytes: 1 << 20,
            transaction_bytes: 4 << 20,
            transaction_events: 4_096,
            name_bytes: 128,
            key_bytes: 1_024,
            filter_keys: 64,
            id_bytes: 128,
            payload_depth: 96,
        }
    }
}
