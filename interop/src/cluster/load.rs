//! Publishers and followers that go on while a test breaks things.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::account::{Account, Taken};
use super::followers::{self, Kind, Seen};
use super::publishers::{self, Publisher};
use super::{Cluster, await_some, get};

/// Publishers that send to the servers, each beginning with another one.
const SERVER_PUBLISHERS: usize = 3;
/// The key of the event after which followers end.
const LAST: &str = "the-last";

/// Everything that publishes and follows.
pub struct Load {
    servers: Vec<SocketAddr>,
    agents: Vec<SocketAddr>,
    publishers: Vec<JoinHandle<Result<Account>>>,
    followers: Vec<(String, JoinHandle<Result<Seen>>)>,
    stops: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    /// Events taken, by agents too.
    progress: Arc<AtomicU64>,
    /// Those of them that are on the timeline.
    acknowledged: Arc<AtomicU64>,
}

/// What they ended up with.
pub struct Finished {
    /// What the publishers were told.
    pub accounts: Vec<Account>,
    /// What each follower got.
    pub followers: Vec<(String, Seen)>,
    /// The index of the last event.
    pub last: u64,
}

impl Load {
    /// Begins: publishers to the servers and one to each agent; the Go client and `tidings stream` at
    /// the servers, and both at the agents.
    pub fn start(cluster: &Cluster) -> Self {
        let (servers, agents) = (cluster.server_addresses(), cluster.agent_addresses());
        let mut load = Self {
            servers: servers.clone(),
            agents: agents.clone(),
            publishers: Vec::new(),
            followers: Vec::new(),
            stops: Arc::default(),
            is_over: Arc::default(),
            progress: Arc::default(),
            acknowledged: Arc::default(),
        };
        for number in 0..SERVER_PUBLISHERS {
            let mut addresses = servers.clone();
            addresses.rotate_left(number % servers.len());
            load.publish(format!("to-servers-{number}"), addresses);
        }
        for (number, agent) in agents.iter().enumerate() {
            load.publish(format!("to-agent-{number}"), vec![*agent]);
        }
        load.follow("Go at the servers", Kind::Go, servers.clone());
        load.follow("tidings stream at the servers", Kind::Stream, servers);
        if let [first, rest @ ..] = &*agents {
            load.follow("Go at an agent", Kind::Go, vec![*first]);
            let other = rest.first().unwrap_or(first);
            load.follow("tidings stream at an agent", Kind::Stream, vec![*other]);
        }
        load
    }

    fn publish(&mut self, name: String, addresses: Vec<SocketAddr>) {
        let publisher = Publisher {
            name,
            addresses,
            stops: self.stops.clone(),
            progress: self.progress.clone(),
            acknowledged: self.acknowledged.clone(),
        };
        self.publishers.push(thread::spawn(|| publisher.run()));
    }

    fn follow(&mut self, name: &str, kind: Kind, addresses: Vec<SocketAddr>) {
        let is_over = self.is_over.clone();
        let follower = thread::spawn(move || {
            followers::follow(kind, &addresses, LAST, || is_over.load(Ordering::Relaxed))
        });
        self.followers.push((name.to_owned(), follower));
    }

    /// Waits until so many more events have been taken; how long that took.
    ///
    /// # Errors
    /// It takes too long, or a publisher has ended.
    pub fn await_progress(&self, events: u64) -> Result<Duration> {
        self.await_more(events, &self.progress)
    }

    /// Waits until so many more events are acknowledged as being on the timeline; how long that took.
    ///
    /// # Errors
    /// As [`Load::await_progress`].
    pub fn await_acknowledged(&self, events: u64) -> Result<Duration> {
        self.await_more(events, &self.acknowledged)
    }

    fn await_more(&self, events: u64, count: &AtomicU64) -> Result<Duration> {
        let goal = count.load(Ordering::Relaxed) + events;
        let from = Instant::now();
        await_some(&format!("{events} more events to be taken"), || {
            let ended = self.publishers.iter().any(JoinHandle::is_finished);
            ensure!(!ended, "a publisher has given up");
            Ok((count.load(Ordering::Relaxed) >= goal).then_some(()))
        })?;
        Ok(from.elapsed())
    }

    /// Events that were acknowledged as being on the timeline.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Events that an agent took and promised to bring to the timeline.
    pub fn kept(&self) -> u64 {
        self.progress.load(Ordering::Relaxed) - self.acknowledged()
    }

    /// Ends the publishers, then the followers once they have everything.
    ///
    /// # Errors
    /// A publisher could not get rid of an event, or a follower did not get the last one.
    pub fn finish(self) -> Result<Finished> {
        self.stops.store(true, Ordering::Relaxed);
        let mut accounts = Vec::new();
        for publisher in self.publishers {
            accounts.push(joined(publisher)?);
        }
        // What the agents still keep comes before the last event.
        for agent in &self.agents {
            await_some("an agent to keep nothing more", || {
                let status = get(*agent, "/v1/status").ok();
                let kept = status.and_then(|status| status["Spool"]["Transactions"].as_u64());
                Ok((kept == Some(0)).then_some(()))
            })?;
        }
        let Taken::At(last) = publishers::publish(LAST, &self.servers, &mut 0)? else {
            bail!("a server kept the last event for later, as only agents do");
        };
        self.is_over.store(true, Ordering::Relaxed);
        let mut followers = Vec::new();
        for (name, follower) in self.followers {
            let seen = joined(follower).with_context(|| name.clone())?;
            followers.push((name, seen));
        }
        Ok(Finished {
            accounts,
            followers,
            last,
        })
    }
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("it panicked"))?
}
