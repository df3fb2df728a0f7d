//! Resident memory of the server for one idle subscriber.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::session::Session;
use super::{Measure, Scale};
use crate::payload::Expect;
use crate::peers::{Layout, Running};

/// Memory has settled when it did not grow for so long.
const STEADY: Duration = Duration::from_millis(300);

pub fn run(running: &Running, scale: &Scale, each: &mut dyn FnMut(String, Measure)) -> Result<()> {
    let mut session = Session::new(running)?;
    session.add_publishers(1, Layout::OneStream)?;
    let start = session.mark()?;
    // The first subscriber pays for what all share.
    session.add_subscribers(1, &start, |_| None, |_, _| Expect::Any)?;
    let before = settled(&mut session, scale)?;
    let mut subscribers = 0;
    for target in &scale.idle {
        session.add_subscribers(target - subscribers, &start, |_| None, |_, _| Expect::Any)?;
        subscribers = *target;
        let bytes = settled(&mut session, scale)?.saturating_sub(before);
        each(
            subscribers.to_string(),
            Measure {
                kib: Some(bytes as f64 / 1024.0 / subscribers as f64),
                ..Measure::default()
            },
        );
    }
    Ok(())
}

/// Resident bytes once they stopped growing, or after the time allowed.
fn settled(session: &mut Session<'_>, scale: &Scale) -> Result<u64> {
    let from = Instant::now();
    let mut highest = session.running().resident_bytes()?;
    let mut since = Instant::now();
    while since.elapsed() < STEADY && from.elapsed() < scale.settle {
        session.turn()?;
        let now = session.running().resident_bytes()?;
        if now > highest {
            highest = now;
            since = Instant::now();
        }
    }
    session.running().resident_bytes()
}
