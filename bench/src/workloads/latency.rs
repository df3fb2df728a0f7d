//! From send to receipt at 1,000 events a second, 10 subscribers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::session::Session;
use super::{Measure, Scale};
use crate::peers::{Layout, Running};

const PERIOD: Duration = Duration::from_millis(1);
const SUBSCRIBERS: usize = 10;

pub fn run(running: &Running, scale: &Scale, each: &mut dyn FnMut(String, Measure)) -> Result<()> {
    let measure = steady(running, scale, running.address(), SUBSCRIBERS)?;
    each("1,000/s to 10".to_owned(), measure);
    Ok(())
}

/// Publishes at a steady rate to the leader, with so many subscribers at this address.
pub fn steady(
    running: &Running,
    scale: &Scale,
    address: SocketAddr,
    subscribers: usize,
) -> Result<Measure> {
    let mut session = Session::new(running)?;
    session.add_publishers(1, Layout::OneStream)?;
    let start = session.mark()?;
    session.connect_to(address);
    session.add_subscribers(
        subscribers,
        &start,
        |_| None,
        |session, _| session.expect(0, 1),
    )?;
    session.tick_every(PERIOD)?;
    let warm_up = session.meter()?;
    while warm_up.elapsed() < scale.warm_up {
        let due = session.turn()?;
        session.publish(0, due)?;
    }
    session.keep_latencies();
    let meter = session.meter()?;
    while meter.elapsed() < scale.latency {
        let due = session.turn()?;
        session.publish(0, due)?;
    }
    let sent = session.next_sequence();
    session.until_delivered(sent * subscribers as u64, sent)?;
    let reading = meter.read(running)?;
    let mut times = session.take_latencies();
    let measure = Measure {
        cpu_us: Some(reading.cpu_us(times.len() as u64)),
        generator_busy: Some(reading.generator_busy),
        ..Measure::default()
    };
    Ok(measure.with_latencies(&mut times))
}
