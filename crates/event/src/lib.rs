//! What an event, a frame and a filter are, and the forms they take.
//!
//! An **event** is one thing that happened; a **frame** is all events of one transaction under one
//! [`Index`]. A frame has exactly one encoded form, its *line*, which is the same bytes on disk, in
//! memory and on the wire:
//!
//! ```text
//! {"Index":7,"Events":[{"Index":7,"Topic":"Job",…,"Payload":{…}},{…}]}\n
//!                                └────────── event body ──────────┘
//! ```
//!
//! [`NewEvent`] is what a publisher hands in; encoding it gives the *body*, everything of an event
//! but its index, so that a frame is made by joining bodies, without touching JSON again.
//! [`FrameView`] cuts a line into its parts without decoding payloads. [`Filter`] says which events
//! a subscriber wants. Nothing here does I/O, reads a clock, or draws a random number.

mod cloudevents;
mod digest;
mod error;
mod event;
mod expression;
mod filter;
mod frame_view;
mod index;
mod json_text;
mod limits;
mod namespace_set;
mod new_event;
mod patterns;
mod rules;
mod timestamp;
mod topic_set;
mod wire_event;

pub use cloudevents::{from_cloudevent, from_cloudevent_batch, to_cloudevent};
pub use digest::{Digest, DigestFilter, RouteHash, RouteKey};
pub use error::EventError;
pub use event::{Event, Frame, MARKER_SNAPSHOT_END, OwnedNewEvent};
pub use expression::{EXPRESSION_BYTES_MAX, Expression, ExpressionError};
pub use filter::{Filter, Selected};
pub use frame_view::{EventView, FrameError, FrameView};
pub use index::Index;
pub use json_text::{push_json_string, push_minified};
pub use limits::Limits;
pub use namespace_set::NamespaceSet;
pub use new_event::{EventHashes, NewEvent, Stamp};
pub use timestamp::{TimeText, Timestamp, TimestampError};
pub use topic_set::{TopicError, TopicSet};

/// The line that keeps an idle stream alive; the first line of every stream as well.
///
/// Nomad's clients swallow it.
pub const HEARTBEAT: &[u8] = b"{}\n";

/// The namespace of events and subscribers that name none, as in Nomad.
pub const DEFAULT_NAMESPACE: &str = "default";
