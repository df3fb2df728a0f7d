use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{DEFAULT_NAMESPACE, Index, Timestamp};

/// The `Marker` of the frame that follows the last frame of a snapshot: from there on everything
/// is new.
pub const MARKER_SNAPSHOT_END: &str = "SnapshotEnd";

/// A frame, decoded, for programs that read streams.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Frame {
    /// Where it stands; 0 in a heartbeat that bears no index.
    #[serde(default)]
    pub index: Index,
    /// What happened; empty in heartbeats and markers.
    #[serde(default)]
    pub events: Vec<Event>,
    /// What this frame marks, when it is none of the timeline's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
}

impl Frame {
    /// Whether this is `{}`, which only keeps a stream alive.
    pub fn is_heartbeat(&self) -> bool {
        self.index == Index::ZERO && self.events.is_empty()
    }

    /// Whether this is the end of a snapshot.
    pub fn is_snapshot_end(&self) -> bool {
        self.marker.as_deref() == Some(MARKER_SNAPSHOT_END)
    }
}

/// An event, decoded, for programs that read streams. Fields that a server does not send (Nomad's
/// has no `Id`, `Time`, `Node`, `Source`) are empty.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Event {
    /// The frame's index.
    pub index: Index,
    /// What it is about.
    pub topic: String,
    /// What happened.
    #[serde(rename = "Type")]
    pub r#type: String,
    /// Which one.
    #[serde(default)]
    pub key: String,
    /// Whose.
    #[serde(default)]
    pub namespace: String,
    /// Further keys.
    #[serde(default)]
    pub filter_keys: Option<Vec<String>>,
    /// Unique among all events.
    #[serde(default)]
    pub id: String,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// Where.
    #[serde(default)]
    pub node: String,
    /// Who told.
    #[serde(default)]
    pub source: String,
    /// An object or null, as its publisher gave it.
    pub payload: Box<RawValue>,
}

/// An event to publish, for programs: what is `None` is filled in by the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OwnedNewEvent {
    /// What it is about.
    pub topic: String,
    /// What happened.
    #[serde(rename = "Type")]
    pub r#type: String,
    /// Which one; may be empty.
    #[serde(default)]
    pub key: String,
    /// Whose.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Further keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_keys: Option<Vec<String>>,
    /// The publisher's id: the same again is not a second event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// Where it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The program that tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// An object or null.
    #[serde(default = "null_payload")]
    pub payload: Box<RawValue>,
}

fn default_namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}

fn null_payload() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

impl OwnedNewEvent {
    /// An event with a topic and a type, and nothing else yet.
    pub fn new(topic: impl Into<String>, r#type: impl Into<String>) -> OwnedNewEvent {
        OwnedNewEvent {
            topic: topic.into(),
            r#type: r#type.into(),
            key: String::new(),
            namespace: default_namespace(),
            filter_keys: None,
            id: None,
            time: None,
            node: None,
            source: None,
            payload: null_payload(),
        }
    }
}
