//! The configuration in the words of the crates that are wired together.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidings_api::ApiConfig;
use tidings_event::Timestamp;
use tidings_raft::{DiskLimits, QueueLimits, ReplicaConfig, VerifyHistory};
use tidings_timeline::{RetentionSettings, Settings};

use crate::config::{Config, VerifyDepth};
use crate::token::TokenText;

/// What every server does alike. Zero means no bound there.
pub(crate) fn settings(config: &Config) -> Settings {
    Settings {
        segment_bytes: config.store.segment_bytes,
        dedupe_ids_max: config.timeline.dedupe_ids_max,
        dedupe_age_s: whole_seconds(config.timeline.dedupe_age),
        retention: RetentionSettings {
            age_s: config.retention.age.map_or(0, whole_seconds),
            bytes: config.retention.bytes.unwrap_or(0),
            frames: config.retention.frames.unwrap_or(0),
        },
    }
}

/// The replica of server `node_id` on `data_dir`.
pub(crate) fn replica(config: &Config, data_dir: &Path, node_id: u64) -> ReplicaConfig {
    let queue = QueueLimits::default();
    ReplicaConfig {
        data_dir: data_dir.to_owned(),
        node_id,
        node_name: config.node.name.clone(),
        settings: Some(settings(config)),
        queue: QueueLimits {
            groups_max: config.timeline.queue_groups_max,
            bytes_max: config.timeline.queue_bytes_max,
            batch_bytes_max: config.timeline.batch_bytes_max,
            // A transaction is one command: it must pass whatever its limit is set to.
            group_bytes_max: queue
                .group_bytes_max
                .max(config.limits.event.transaction_bytes.saturating_mul(2)),
            ..queue
        },
        disk: DiskLimits {
            free_reserve: config.store.reserve_bytes,
            snapshot_log_bytes: config.store.snapshot_log_bytes,
            ..DiskLimits::default()
        },
        broker: tidings_timeline::BrokerConfig {
            ring_bytes: config.broker.ring_bytes,
            held_bytes: config.broker.held_bytes,
            ..tidings_timeline::BrokerConfig::default()
        },
        verify: match config.store.verify_on_start {
            VerifyDepth::Tail => VerifyHistory::Tail,
            VerifyDepth::All => VerifyHistory::All,
        },
        clock: Arc::new(wall_clock),
    }
}

/// The HTTP surface.
pub(crate) fn api(config: &Config, token: Option<&TokenText>) -> ApiConfig {
    let mut api = ApiConfig {
        node_name: config.node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        limits: config.limits.event.clone(),
        ..ApiConfig::default()
    };
    api.http.token = token.and_then(|token| tidings_api::Token::new(token.as_str()));
    api.http.header_timeout = config.http.header_timeout;
    api.http.connections_max = config.http.connections_max;
    api.http.write_stall = config.http.write_stall;
    api.http.shutdown_grace = config.http.shutdown_grace;
    api.http.query_bytes_max = config.limits.query_bytes;
    api.http.host_names.clone_from(&config.http.host_names);
    api.http.header_bytes_max = config.http.header_bytes_max;
    api.http.http2_streams_max = u32::try_from(config.http.http2_streams_max).unwrap_or(u32::MAX);
    api.stream.enabled = config.stream.enabled;
    api.stream.backlog_frames = config.stream.backlog_frames;
    api.stream.heartbeat = config.stream.heartbeat;
    api.stream.streams_max = config.stream.streams_max;
    api.stream.topics_max = config.stream.topics_max;
    api.publish.line_bytes = config.limits.line_bytes;
    api.publish.body_bytes = config.limits.line_bytes;
    api.publish.body_pause = config.limits.body_pause;
    api.publish.body_timeout = config.limits.body_timeout;
    api.publish.buffered_bytes = config.limits.buffered_bytes;
    api.state.page_bytes_max = config.limits.page_bytes;
    api.state.restore_bytes_max = config.limits.restore_state_bytes;
    api
}

/// Seconds, rounded up: what was asked to be kept is kept.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn wall_clock() -> Timestamp {
    // A clock before 1970 is a clock that was never set.
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_unix_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
