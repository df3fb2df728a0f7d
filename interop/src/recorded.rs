//! Traffic recorded from a real Nomad 1.1.0, under `fixtures/`.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::Agent;

/// The recordings of `/v1/event/stream`.
pub const RECORDINGS: [&str; 2] = ["event-stream.ndjson", "event-stream_odd_names.ndjson"];

/// One recorded frame, which is published as one transaction.
pub struct RecordedFrame {
    /// The line as it was recorded.
    pub text: String,
    /// The texts of its events, byte by byte.
    pub events: Vec<Box<RawValue>>,
}

impl RecordedFrame {
    /// Its events, decoded.
    pub fn decoded(&self) -> Vec<Value> {
        self.events
            .iter()
            .map(|event| serde_json::from_str(event.get()).expect("a part of valid JSON is valid"))
            .collect()
    }

    /// The payload texts of its events, byte by byte.
    pub fn payloads(&self) -> Vec<String> {
        self.events
            .iter()
            .map(|event| payload_text(event.get()))
            .collect()
    }
}

/// The `Payload` of an event, as it stands in the event's text.
pub(crate) fn payload_text(event: &str) -> String {
    let fields: std::collections::BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(event).expect("an event is an object");
    fields["Payload"].get().to_owned()
}

/// The frames of a recording, without its heartbeats.
pub fn recorded_frames(recording: &str) -> Result<Vec<RecordedFrame>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/nomad-1.1.0")
        .join(recording);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .filter(|line| *line != "{}")
        .map(|line| {
            let mut fields: std::collections::BTreeMap<String, Box<RawValue>> =
                serde_json::from_str(line)?;
            let events = fields.remove("Events").context("a frame has no events")?;
            Ok(RecordedFrame {
                text: line.to_owned(),
                events: serde_json::from_str(events.get())?,
            })
        })
        .collect()
}

/// Publish each recorded frame as one transaction, its events' bytes untouched; the indexes given.
pub fn publish_recording(agent: &Agent, frames: &[RecordedFrame]) -> Result<Vec<u64>> {
    frames
        .iter()
        .map(|frame| {
            let events: Vec<&str> = frame.events.iter().map(|event| event.get()).collect();
            agent.publish_text(&format!("{{\"Events\":[{}]}}", events.join(",")))
        })
        .collect()
}
