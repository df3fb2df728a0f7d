//! A server that has nothing joins a cluster with a long history.
//!
//! From the start of its process until it has the frame that was the newest; a megabyte is 10⁶
//! bytes of the history.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Measure, Scale, replay};
use crate::peers::Running;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(5);
/// It may take so long, and as long again for each gigabyte.
const LIMIT: Duration = Duration::from_secs(60);
const GIGABYTE: u64 = 1_000_000_000;

pub fn run(
    running: &mut Running,
    scale: &Scale,
    each: &mut dyn FnMut(String, Measure),
) -> Result<()> {
    let events = scale.catch_up_events;
    replay::store(running, events)?;
    let goal = running.status(running.address())?;
    let limit = LIMIT * u32::try_from(1 + goal.history_bytes / GIGABYTE)?;
    let cpu_before = running.cpu()?;
    let from = Instant::now();
    let address = running.add_server()?;
    // It answers before it has anything, and may not answer at all while it is busy.
    let has = |running: &Running| running.status(address).map_or(0, |status| status.newest);
    while has(running) < goal.newest {
        if from.elapsed() > limit {
            bail!(
                "a new server had {} of {} frames after {} s",
                has(running),
                goal.newest,
                limit.as_secs()
            );
        }
        std::thread::sleep(LOOK);
    }
    let seconds = from.elapsed().as_secs_f64();
    let cpu = running.cpu()?.saturating_sub(cpu_before);
    let measure = Measure {
        rate: Some(goal.newest as f64 / seconds),
        cpu_us: Some(cpu.as_secs_f64() * 1e6 / goal.newest as f64),
        mb_rate: Some(goal.history_bytes as f64 / 1e6 / seconds),
        ..Measure::default()
    };
    each(format!("{events} frames"), measure);
    Ok(())
}
