//! Subscribers of an agent that holds no timeline, beside those of a server.
//!
//! Events are published to the leader at a steady rate. The same number of subscribers follows the
//! server that the agent follows, then the agent, then another agent that follows the agent: what
//! each adds is the difference. Then many subscribers follow the agent: deliveries are counted, and
//! the streams that the servers serve meanwhile.

use anyhow::{Context, Result};

use super::fanout::deliver;
use super::latency::steady;
use super::session::Session;
use super::{Measure, Scale};
use crate::peers::{Layout, Node, Running};

/// Subscribers of each kind.
const SUBSCRIBERS: usize = 10;
/// The cases whose difference is what an agent adds.
pub const ADDED_CASES: [&str; 2] = ["10 of a server", "10 of an agent"];
/// Behind two agents.
const SECOND_CASE: &str = "10 of an agent's agent";
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
    let second = running.agent_of(&agent).context("start an agent's agent")?;
    let measure = steady(running, scale, second.address, SUBSCRIBERS)?;
    each(SECOND_CASE.to_owned(), measure);
    drop(second);
    each(SHARED_CASE.to_owned(), shared(running, &agent, scale)?);
    Ok(())
}

/// Deliveries to many subscribers of one agent, its CPU for one, and the streams of the servers.
fn shared(running: &Running, agent: &Node, scale: &Scale) -> Result<Measure> {
    let subscribers = scale.relay_subscribers;
    let mut session = Session::new(running)?;
    session.add_publishers(1, Layout::OneStream)?;
    let start = session.mark()?;
    session.connect_to(agent.address);
    session.add_subscribers(
        subscribers,
        &start,
        |_| None,
        |session, _| session.expect(0, 1),
    )?;
    let before = agent.server.cpu()?;
    let measure = deliver(&mut session, scale, subscribers)?;
    let cpu = agent.server.cpu()?.saturating_sub(before);
    let servers = running.addresses().into_iter();
    let streams = servers.map(|address| Ok(running.status(address)?.streams));
    let streams: u64 = streams.sum::<Result<u64>>()?;
    Ok(Measure {
        streams: Some(streams as f64),
        cpu_us: Some(cpu.as_secs_f64() * 1e6 / session.delivered().max(1) as f64),
        ..measure
    })
}
