//! All stored events to one new subscriber.

use std::time::Duration;

use anyhow::{Result, bail};

use super::session::Session;
use super::{Measure, Scale};
use crate::payload::Expect;
use crate::peers::{Layout, Running, Start};

/// Unacknowledged events while the history is stored.
const WINDOW: u64 = 2_000;
/// Storing the events may take so long, and a minute more for each million.
const STORE_LIMIT: Duration = Duration::from_secs(180);
/// Reading them may take so long.
const REPLAY_LIMIT: Duration = Duration::from_secs(120);

pub fn run(running: &Running, scale: &Scale, each: &mut dyn FnMut(String, Measure)) -> Result<()> {
    let events = scale.replay_events;
    store(running, events)?;
    let mut session = Session::new(running)?;
    let meter = session.meter()?;
    session.add_subscribers(
        1,
        &Start::Beginning,
        |_| None,
        |_, _| Expect::Every { first: 0, step: 1 },
    )?;
    session.until("the replay", REPLAY_LIMIT, |session| {
        session.delivered() >= events
    })?;
    let reading = meter.read(running)?;
    if session.delivered() != events {
        bail!("{events} events were stored, {} came", session.delivered());
    }
    each(events.to_string(), Measure::of(&reading, events));
    Ok(())
}

/// Fills the server with so many events.
pub fn store(running: &Running, events: u64) -> Result<()> {
    let limit = STORE_LIMIT + Duration::from_secs(60 * (events / 1_000_000));
    let mut session = Session::new(running)?;
    session.add_publishers(1, Layout::Replay)?;
    let meter = session.meter()?;
    while session.acked() < events {
        let left = events - session.next_sequence();
        session.fill(0, WINDOW, left)?;
        session.turn()?;
        if meter.elapsed() > limit {
            bail!(
                "storing {events} events took longer than {} s",
                limit.as_secs()
            );
        }
    }
    Ok(())
}
