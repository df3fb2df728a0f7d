use serde::{Deserialize, Serialize};

/// What every server must do alike, and so is part of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A history segment is sealed once it holds this many bytes. Default 64 MiB.
    pub segment_bytes: u64,
    /// How many Ids given by publishers are remembered. Default 1,000,000 (24 bytes each).
    pub dedupe_ids_max: u64,
    /// For how long they are remembered, in seconds of command time. Default 86,400 (a day).
    pub dedupe_age_s: u64,
    /// What is kept.
    pub retention: RetentionSettings,
}

/// How much history is kept. Whole segments are dropped, the oldest first, as soon as what remains
/// still satisfies every limit; 0 means no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSettings {
    /// Frames older than this many seconds may go. Default 604,800 (a week).
    pub age_s: u64,
    /// History beyond this many bytes may go. Default 8 GiB.
    pub bytes: u64,
    /// Frames beyond this many may go. Default 0: no limit.
    pub frames: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            segment_bytes: 64 << 20,
            dedupe_ids_max: 1_000_000,
            dedupe_age_s: 86_400,
            retention: RetentionSettings::default(),
        }
    }
}

impl Default for RetentionSettings {
    fn default() -> RetentionSettings {
        RetentionSettings {
            age_s: 7 * 86_400,
            bytes: 8 << 30,
            frames: 0,
        }
    }
}
