//! One publisher whose events take 1,000 keys in turn, 1,000 subscribers to
//! one key each: how much a filter costs that lets one of 1,000 through.

use anyhow::Result;

use super::session::Session;
use super::{Measure, Scale};
use crate::payload::KEYS;
use crate::peers::{Layout, Running};

/// Unacknowledged events of the publisher.
const WINDOW: u64 = 1_024;
/// Events that were sent and not yet delivered.
const LEAD_MAX: u64 = 16_384;

pub fn run(running: &Running, scale: &Scale, each: &mut dyn FnMut(String, Measure)) -> Result<()> {
    let mut session = Session::new(running)?;
    session.add_publishers(1, Layout::ByKey)?;
    let start = session.mark()?;
    session.add_subscribers(
        KEYS as usize,
        &start,
        |at| Some(at as u64),
        |session, at| session.expect(at as u64, KEYS),
    )?;
    let meter = session.meter()?;
    while meter.elapsed() < scale.fanout {
        let lead = session.next_sequence() - session.delivered();
        session.fill(0, WINDOW, LEAD_MAX.saturating_sub(lead))?;
        session.turn()?;
    }
    let sent = session.next_sequence();
    session.until_delivered(sent, sent / KEYS)?;
    let reading = meter.read(running)?;
    each(
        format!("{KEYS} subscribers, one key each"),
        Measure::of(&reading, sent),
    );
    Ok(())
}
