//! Command → state → frame, and the broker that hands frames to subscribers.
//!
//! ```text
//! CommandGroup ─┐                     ┌─▶ outcomes ──▶ whoever proposed
//! CommandGroup ─┼─▶ Batch ─▶ StateMachine
//! CommandGroup ─┘   (one log entry)   └─▶ FrameBatch ─▶ history on disk
//!                                                    └▶ Broker ─▶ Subscription …
//! ```
//!
//! [`StateMachine::apply`] is a pure function of what came before and the batch: times and ids come
//! in with the commands, nothing depends on a clock, a random number, or the order of a hash map.
//! The same batches give the same bytes on every server.
//!
//! The [`Broker`] keeps the newest frames in memory, bounded in bytes, and reads older ones through
//! [`HistoryReader`], which somebody else implements over files.

mod batch;
mod broker;
mod check;
mod codec;
mod command;
mod dedupe;
mod frame_batch;
mod history_reader;
mod json_form;
mod outcome;
mod senders;
mod settings;
mod stamper;
mod state;
mod state_machine;
mod timeline_id;

pub use batch::{Batch, BatchError};
pub use broker::{Broker, BrokerConfig, BrokerStats, Slice, Subscription, SubscriptionEnd};
pub use check::{CommandsError, check_commands};
pub use command::{CommandGroup, Commands, EntryChange};
pub use frame_batch::{FrameBatch, Routes};
pub use history_reader::{HistoryError, HistoryRead, HistoryReader};
pub use outcome::{Outcome, Refusal};
pub use senders::{EPOCH_AHEAD_DAYS, MEMORY_DAYS, SENDERS_MAX, SenderNumber};
pub use settings::{RetentionSettings, Settings};
pub use stamper::Stamper;
pub use state::{Entry, EntryName, StateView};
pub use state_machine::{Applied, ApplyError, RestoreError, StateMachine};
pub use timeline_id::TimelineId;
