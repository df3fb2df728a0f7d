//! Subscribers of an agent that holds no timeline, beside those of a server.
//!
//! Events are published to the leader at a steady rate. The same number of subscribers follows the
//! server that the agent follows, and then the agent: what the agent adds is the difference. Then many subscribers follow
//! the agent, and the streams that the servers serve are counted.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::latency::steady;
use super::session::Session;
use super::{Measure, Scale};
use crate::payload::Expect;
use crate::peers::{Layout, Running};

/// Subscribers of each kind.
const SUBSCRIBERS: usize = 10;
/// The cases whose difference is what an agent adds.
pub const ADDED_CASES: [&str; 2] = ["10 of a server", "10 of an agent"];
/// The case that tells how many streams the servers serve for the subscribers of an agent.
pub const SHARED_CASE: &str = "many of an agent";

pub fn run(running: &Running, scale: &Scale, each: &mut dyn FnMut(String, Measure)) -> Result<()> {
    let agent = running.agent().context("start an agent")?;
    // The one that it follows, so that nothing else differs.
    let server = running.followed_by(&agent)?;
    for (case, address) in ADDED_CASES.into_iter().zip([server, agent.address]) {
        let measure = steady(running, scale, address, SUBSCRIBERS)?;
        each(case.to_owned(), measure);
    }
    each(
        SHARED_CASE.to_owned(),
        shared(running, agent.address, scale.relay_subscribers)?,
    );
    Ok(())
}

/// Streams of the servers with so many subscribers of one agent, each of which gets every event.
fn shared(running: &Running, agent: SocketAddr, subscribers: usize) -> Result<Measure> {
    const EVENTS: u64 = 100;
    let mut session = Session::new(running)?;
    session.add_publishers(1, Layout::OneStream)?;
    let start = session.mark()?;
    session.connect_to(agent);
    session.add_subscribers(
        subscribers,
        &start,
        |_| None,
        |_, _| Expect::Every { first: 0, step: 1 },
    )?;
    session.publish(0, EVENTS)?;
    session.until_delivered(EVENTS * subscribers as u64, EVENTS)?;
    let servers = running.addresses().into_iter();
    let streams = servers.map(|address| Ok(running.status(address)?.streams));
    let streams: u64 = streams.sum::<Result<u64>>()?;
    Ok(Measure {
        streams: Some(streams as f64),
        ..Measure::default()
    })
}
