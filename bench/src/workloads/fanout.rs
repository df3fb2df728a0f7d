//! One publisher with many events in flight, subscribers to everything.
//!
//! The publisher goes on for a set time and is held back when the slowest
//! subscriber is too far behind; the measurement ends when everybody has
//! received everything, in order. So systems that publish faster than they
//! deliver, and the others, are both measured by what they deliver.

use anyhow::Result;

use super::session::Session;
use super::{Measure, Scale};
use crate::peers::{Layout, Running};

/// Unacknowledged events of the publisher.
pub const WINDOW: u64 = 1_024;
/// The slowest subscriber is at most so many events behind …
const LEAD_MAX: u64 = 16_384;
/// … and all together at most so many deliveries, so that the end does not
/// take longer than the measurement.
const LEAD_DELIVERIES_MAX: u64 = 2_000_000;

pub fn run(running: &Running, scale: &Scale, each: &mut dyn FnMut(String, Measure)) -> Result<()> {
    for subscribers in &scale.subscribers {
        each(subscribers.to_string(), case(running, scale, *subscribers)?);
    }
    Ok(())
}

fn case(running: &Running, scale: &Scale, subscribers: usize) -> Result<Measure> {
    let mut session = Session::new(running)?;
    session.add_publishers(1, Layout::OneStream)?;
    let start = session.mark()?;
    session.add_subscribers(
        subscribers,
        &start,
        |_| None,
        |session, _| session.expect(0, 1),
    )?;
    deliver(&mut session, scale, subscribers)
}

/// Publishes with a session that has one publisher and so many subscribers to everything.
pub fn deliver(session: &mut Session<'_>, scale: &Scale, subscribers: usize) -> Result<Measure> {
    let lead_max = LEAD_MAX.min(LEAD_DELIVERIES_MAX / subscribers as u64);
    let running = session.running();
    let meter = session.meter()?;
    while meter.elapsed() < scale.fanout {
        let lead = session.next_sequence() - session.delivered_min();
        session.fill(0, WINDOW, lead_max.saturating_sub(lead))?;
        session.turn()?;
    }
    let sent = session.next_sequence();
    session.until_delivered(sent * subscribers as u64, sent)?;
    let reading = meter.read(running)?;
    Ok(Measure::of(&reading, sent * subscribers as u64))
}
