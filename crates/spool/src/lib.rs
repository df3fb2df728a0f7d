//! What an agent has taken and no server has yet: kept on disk, in order, and sent until the timeline
//! has it, once.
//!
//! ```text
//!  publisher ──▶ Outbox ──▶ spool ──▶ forwarder ══ numbered, in order ══▶ Upstream: any server
//!                  │          └─ on disk, bounded                              │
//!                  └── answered by the timeline, or "spooled" once flushed ◀───┘
//! ```
//!
//! How servers are spoken with is not known here: an [`Upstream`] is handed in. So are the clock, and
//! through `tidings-host` disk and chance.

mod answer;
mod config;
mod files;
mod forwarder;
mod outbox;
mod queue;
mod reach;
mod record;
mod sender;
mod spool;
mod upstream;
mod writer;

pub use answer::{Answer, NotTaken, Unknown};
pub use config::{Clock, SpoolConfig};
pub use files::SpoolError;
pub use forwarder::Counts;
pub use outbox::Outbox;
pub use reach::{Reach, Reached};
pub use spool::SpoolStatus;
pub use upstream::{Answers, Ended, NoServer, Numbers, Sending, Upstream};
