//! An agent that holds no timeline: it keeps what it takes until a server has it, and relays one
//! stream to many.
//!
//! ```text
//!              ┌────────────────────────── Relay ──────────────────────────┐
//!  publish ───▶│ spool ──▶ forwarder ══ numbered, in order, once ══════════│══▶ any server
//!              │   └─ on disk, bounded; 202 once it is flushed there       │
//!  state ─────▶│ forward ──────────────────────────────────────────────────│──▶ any server
//!  stream ◀────│ reader ◀── ring ◀── view ◀── hub ◀══ one for each topic set│═══ any server
//!              │    └────── a stream of its own, until it meets the ring ◀──│─── any server
//!              └────────────────────────────────────────────────────────────┘
//! ```
//!
//! The HTTP surface before it is that of a server: `tidings-api` with this as its timeline.

mod config;
mod follower;
mod hub;
mod relay;
mod report;
mod ring;
mod servers;
mod upstream;

pub use config::{FindServers, RelayConfig};
pub use relay::{Relay, RelayError};
pub use tidings_spool::SpoolError;
