//! From `kill -9` of a cluster's leader to the next acknowledged event.
//!
//! A client that knows the other servers sends one event to each of them again and again until one
//! is acknowledged; how it would wait and repeat by itself does not count. Timeouts are those that
//! each system comes with.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Measure;
use super::session::Session;
use crate::peers::{Layout, Running};

/// How long the cluster is used before the blow.
const BEFORE: Duration = Duration::from_millis(500);
/// How often each of the servers that are left is sent an event.
const PERIOD: Duration = Duration::from_millis(20);
/// A connection with so many unanswered events gets no more: one of them will be answered.
const UNANSWERED_MAX: u64 = 64;
/// One look at a connection; the time that is found is as exact as this.
const LOOK: Duration = Duration::from_millis(1);
/// A cluster that takes longer has not recovered.
const LIMIT: Duration = Duration::from_secs(60);

pub fn run(running: &mut Running, each: &mut dyn FnMut(String, Measure)) -> Result<()> {
    use_for_a_while(running)?;
    let others = running.kill_leader()?;
    let killed = Instant::now();
    let mut probes: Vec<Probe<'_>> = others
        .into_iter()
        .map(|address| Probe::new(running, address))
        .collect();
    while killed.elapsed() < LIMIT {
        for probe in &mut probes {
            // A connection that fails is made again: that is part of what is measured.
            if probe.look().unwrap_or_else(|error| probe.give_up(&error)) {
                let gap = killed.elapsed();
                each("kill -9 of the leader".to_owned(), measure_of(gap));
                return Ok(());
            }
        }
    }
    let said = probes.iter().filter_map(|probe| probe.failure.as_deref());
    let said: Vec<&str> = said.collect();
    bail!(
        "nothing was acknowledged for {} s: {}",
        LIMIT.as_secs(),
        said.join("; ")
    )
}

fn measure_of(gap: Duration) -> Measure {
    Measure {
        gap_ms: Some(gap.as_secs_f64() * 1e3),
        ..Measure::default()
    }
}

/// One event after the other, to the leader.
fn use_for_a_while(running: &Running) -> Result<()> {
    let mut session = Session::new(running)?;
    session.add_publishers(1, Layout::OneStream)?;
    session.mark()?;
    let from = Instant::now();
    while from.elapsed() < BEFORE {
        session.fill(0, 1, 1)?;
        session.turn()?;
    }
    session.until("the last acknowledgement", LIMIT, |session| {
        session.outstanding(0) == 0
    })
}

/// A client of one of the servers that are left.
struct Probe<'a> {
    running: &'a Running,
    address: SocketAddr,
    session: Option<Session<'a>>,
    next: Instant,
    failure: Option<String>,
}

impl<'a> Probe<'a> {
    fn new(running: &'a Running, address: SocketAddr) -> Self {
        Self {
            running,
            address,
            session: None,
            next: Instant::now(),
            failure: None,
        }
    }

    /// Sends when it is time, and tells whether something was acknowledged.
    fn look(&mut self) -> Result<bool> {
        let is_due = Instant::now() >= self.next;
        if is_due {
            self.next = Instant::now() + PERIOD;
        }
        if self.session.is_none() {
            if !is_due {
                std::thread::sleep(LOOK);
                return Ok(false);
            }
            let mut session = Session::new(self.running)?;
            session.connect_to(self.address);
            session.add_publishers(1, Layout::OneStream)?;
            self.session = Some(session);
        }
        let session = self.session.as_mut().context("it was just made")?;
        if is_due && session.outstanding(0) < UNANSWERED_MAX {
            session.publish(0, 1)?;
        }
        session.turn_within(LOOK)?;
        Ok(session.acked() > 0)
    }

    /// Lets go of the connection; nothing was acknowledged.
    fn give_up(&mut self, error: &anyhow::Error) -> bool {
        self.session = None;
        self.failure = Some(format!("{}: {error:#}", self.address));
        false
    }
}
