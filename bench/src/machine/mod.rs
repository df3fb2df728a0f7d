//! What this machine allows, measured in the same run.

mod flush;
mod loopback;
pub mod memory;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

/// The limits of one round.
#[derive(Clone, Debug, Serialize)]
pub struct Limits {
    /// Records a second through group commit, 16 writers × 64 in flight.
    pub commit_16x64: f64,
    /// 16 writers × 1.
    pub commit_16x1: f64,
    /// One writer that waits for each record.
    pub commit_1x1: f64,
    /// Bytes a second through one loopback TCP stream.
    pub loopback_bytes: f64,
    /// A loopback round trip of 300 bytes, half of them below, in µs.
    pub round_trip_us: f64,
}

impl Limits {
    /// Measures each for `duration`; files go to `folder`.
    ///
    /// # Errors
    ///
    /// A file or a socket failed.
    pub fn measure(folder: &Path, duration: Duration) -> Result<Self> {
        Ok(Self {
            commit_16x64: flush::group_commit(folder, 16, 64, duration)?,
            commit_16x1: flush::group_commit(folder, 16, 1, duration)?,
            commit_1x1: flush::group_commit(folder, 1, 1, duration)?,
            loopback_bytes: loopback::stream(duration)?,
            round_trip_us: loopback::round_trip(duration)?,
        })
    }
}

/// What the machine is.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// Cores that this program may use.
    pub cores: usize,
    /// The processor's own name.
    pub processor: String,
    /// Memory in GiB.
    pub memory_gib: f64,
    /// The kernel's release.
    pub kernel: String,
}

impl Description {
    /// Of the machine that this runs on; what cannot be read is left empty.
    pub fn read() -> Self {
        let first_value = |path: &str, label: &str| {
            std::fs::read_to_string(path).ok().and_then(|text| {
                let line = text.lines().find(|line| line.starts_with(label))?;
                Some(line.split_once(':')?.1.trim().to_owned())
            })
        };
        let memory_kib = first_value("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok())
            .unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: first_value("/proc/cpuinfo", "model name").unwrap_or_default(),
            memory_gib: memory_kib / 1024.0 / 1024.0,
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
        }
    }
}
