//! Acknowledged publishing: connections × events in flight on each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::session::{DRAIN_LIMIT, Session};
use super::{Measure, Scale};
use crate::payload::now_ns;
use crate::peers::{Layout, Running};

/// Connections and events in flight on each of them.
const CASES: [(usize, u64); 3] = [(16, 64), (16, 1), (1, 1)];

/// To the leader; with several servers, once more with the connections dealt out to all of them.
pub fn run(running: &Running, scale: &Scale, each: &mut dyn FnMut(String, Measure)) -> Result<()> {
    let leader = [running.address()];
    for (connections, in_flight) in CASES {
        let measure = window(running, &leader, scale, connections, in_flight)?;
        each(format!("{connections} × {in_flight}"), measure);
    }
    let all = running.addresses();
    if all.len() > 1 {
        let (connections, in_flight) = CASES[0];
        let measure = window(running, &all, scale, connections, in_flight)?;
        let case = format!("{connections} × {in_flight}, by all servers");
        each(case, measure);
    }
    Ok(())
}

fn window(
    running: &Running,
    servers: &[SocketAddr],
    scale: &Scale,
    connections: usize,
    in_flight: u64,
) -> Result<Measure> {
    let mut session = Session::new(running)?;
    for server in servers.iter().cycle().take(connections) {
        session.connect_to(*server);
        session.add_publishers(1, Layout::OneStream)?;
    }
    // A server that has just started may take its time for the first event.
    session.mark()?;
    let one_by_one = connections == 1 && in_flight == 1;

    let load = Load {
        connections,
        in_flight,
    };
    load.keep_up(&mut session, scale.warm_up, |_, _| ())?;
    let mut times = Vec::new();
    let mut sent_at = None;
    let acked_before = session.acked();
    let meter = session.meter()?;
    load.keep_up(&mut session, scale.publish, |session, sending| {
        if one_by_one && session.outstanding(0) == 0 {
            let now = now_ns();
            if sending {
                sent_at = Some(now);
            } else if let Some(sent_at) = sent_at.take() {
                times.push(now - sent_at);
            }
        }
    })?;
    let reading = meter.read(running)?;
    let acked = session.acked() - acked_before;
    session.until("the last acknowledgements", DRAIN_LIMIT, |session| {
        (0..connections).all(|publisher| session.outstanding(publisher) == 0)
    })?;
    let measure = Measure::of(&reading, acked);
    Ok(if one_by_one {
        measure.with_latencies(&mut times)
    } else {
        measure
    })
}

/// So many connections, each with so many events in flight.
struct Load {
    connections: usize,
    in_flight: u64,
}

impl Load {
    /// Keeps all windows full for `duration` and on until the next
    /// acknowledgement: a server that acknowledges in rare large groups would
    /// otherwise be counted with one group more or less.
    ///
    /// `each` is called before sending (`true`) and after receiving (`false`).
    fn keep_up(
        &self,
        session: &mut Session<'_>,
        duration: Duration,
        mut each: impl FnMut(&Session<'_>, bool),
    ) -> Result<()> {
        let from = Instant::now();
        loop {
            each(session, true);
            for publisher in 0..self.connections {
                session.fill(publisher, self.in_flight, u64::MAX)?;
            }
            let acked = session.acked();
            session.turn()?;
            each(session, false);
            if from.elapsed() >= duration && session.acked() > acked {
                return Ok(());
            }
            if from.elapsed() >= duration + DRAIN_LIMIT {
                bail!("no acknowledgement came within {} s", DRAIN_LIMIT.as_secs());
            }
        }
    }
}
