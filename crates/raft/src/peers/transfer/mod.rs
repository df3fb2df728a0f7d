//! How a server gets what the leader's log has let go of: a snapshot of the state, and the files of
//! the history.
//!
//! ```text
//! leader                                   server
//!   offer: state and segments, by digest ──▶ what is there already? equal segments are linked
//!        ◀── what is missing, from where ──
//!   chunk, chunk, … a few at once ─────────▶ written beside the old; whole files are checked
//!        ◀── taken ──
//!   install ───────────────────────────────▶ takes the place of the old, as a whole
//!        ◀── installed ──
//! ```
//! All of it goes over a connection of its own, so that entries and signs of life do not wait. The
//! leader keeps its segments from retention for one attempt at most; what has been taken stays with
//! the server, and the next attempt, of whatever leader, goes on from there.

mod message;
mod receive;
mod send;

use std::time::Duration;

pub(crate) use message::{Chunk, Install, Installed, Offer, SegmentRecord, Taken, Wanted};
pub(crate) use receive::{Gathering, Receiver, Writing};
pub(crate) use send::send;

/// Bytes of a file in one message.
pub(crate) const CHUNK_BYTES_MAX: usize = 1 << 20;
/// An offer with as many segments as there may be, and the answer to it.
pub(crate) const OFFER_BYTES_MAX: usize = 16 << 20;
/// Messages with pieces that are on their way: enough to keep the wire and the disk busy.
const CHUNKS_IN_FLIGHT_MAX: usize = 8;
/// How long a server may take to look for what it has.
const OFFER_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a server may take for what is on its way, with the check of a whole segment.
const CHUNK_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a server may take to decode a state and to put everything in its place.
const INSTALL_WAIT_MAX: Duration = Duration::from_secs(120);
/// How long the leader keeps its segments from retention for one server. Whatever has been taken by
/// then is not sent again.
const ATTEMPT_MAX: Duration = Duration::from_secs(600);
/// How long what has come is kept while nobody sends the rest.
const GATHERED_MAX: Duration = Duration::from_secs(3600);
