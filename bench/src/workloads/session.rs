//! Connections to one server, driven by one event loop, with the counts that
//! the workloads decide by.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::event_loop::{EventLoop, Handler};
use crate::payload::{Deliveries, Expect, KEYS, Payload, now_ns};
use crate::peers::{Layout, Publisher, Running, Start, Subscriber};
use crate::process::own_cpu;
use crate::protocol::ProtocolError;

/// How long subscriptions and first answers may take.
pub const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long what was sent may take to be acknowledged and delivered.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(60);
/// One wait for the servers; the limits are looked at in between.
const TURN: Duration = Duration::from_millis(20);
/// Connections whose subscriptions are set up at the same time.
const OPENING_MAX: usize = 100;
/// The key of the event that only marks where a measurement begins.
const MARK_KEY: u64 = 9_999;

struct PublisherSlot {
    codec: Box<dyn Publisher>,
    token: usize,
    sent: u64,
}

struct SubscriberSlot {
    codec: Box<dyn Subscriber>,
    deliveries: Deliveries,
}

/// Which codec a token belongs to.
#[derive(Clone, Copy)]
enum Slot {
    Publisher(usize),
    Subscriber(usize),
}

#[derive(Default)]
struct Endpoints {
    slots: Vec<Slot>,
    publishers: Vec<PublisherSlot>,
    subscribers: Vec<SubscriberSlot>,
}

impl Handler for Endpoints {
    fn receive(
        &mut self,
        token: usize,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, ProtocolError> {
        match self.slots[token] {
            Slot::Publisher(at) => self.publishers[at].codec.receive(data, out),
            Slot::Subscriber(at) => {
                let subscriber = &mut self.subscribers[at];
                if subscriber.deliveries.wants_time() {
                    subscriber.deliveries.received_at(now_ns());
                }
                subscriber
                    .codec
                    .receive(data, out, &mut subscriber.deliveries)
            }
        }
    }
}

/// See the module.
pub struct Session<'a> {
    running: &'a Running,
    /// Where the next connections go to.
    address: SocketAddr,
    events: EventLoop,
    endpoints: Endpoints,
    payload: Payload,
    next_sequence: u64,
}

impl<'a> Session<'a> {
    /// Without connections.
    pub fn new(running: &'a Running) -> Result<Self> {
        Ok(Self {
            running,
            address: running.address(),
            events: EventLoop::new()?,
            endpoints: Endpoints::default(),
            payload: Payload::new(),
            next_sequence: 0,
        })
    }

    /// The next connections go to this server instead of the leader.
    pub fn connect_to(&mut self, address: SocketAddr) {
        self.address = address;
    }

    /// Opens `count` publishing connections.
    pub fn add_publishers(&mut self, count: usize, layout: Layout) -> Result<()> {
        for _ in 0..count {
            let mut codec = self.running.publisher(layout);
            let token = self.events.connect(self.address)?;
            codec.open(self.events.out(token));
            self.endpoints
                .slots
                .push(Slot::Publisher(self.endpoints.publishers.len()));
            self.endpoints.publishers.push(PublisherSlot {
                codec,
                token,
                sent: 0,
            });
            self.events.flush(token)?;
        }
        self.until("the publishers' connections", READY_LIMIT, |session| {
            session
                .endpoints
                .publishers
                .iter()
                .all(|publisher| publisher.codec.is_ready())
        })
    }

    /// Opens `count` subscriptions, a few at a time, and waits until the
    /// server has confirmed them.
    pub fn add_subscribers(
        &mut self,
        count: usize,
        start: &Start,
        key: impl Fn(usize) -> Option<u64>,
        expect: impl Fn(&Self, usize) -> Expect,
    ) -> Result<()> {
        let first = self.endpoints.subscribers.len();
        while self.endpoints.subscribers.len() < first + count {
            let from = self.endpoints.subscribers.len();
            let to = (first + count).min(from + OPENING_MAX);
            for at in from..to {
                let mut codec = self.running.subscriber(start, key(at - first));
                let token = self.events.connect(self.address)?;
                codec.open(self.events.out(token));
                let expected = expect(self, at - first);
                self.endpoints.slots.push(Slot::Subscriber(at));
                self.endpoints.subscribers.push(SubscriberSlot {
                    codec,
                    deliveries: Deliveries::new(expected),
                });
                self.events.flush(token)?;
            }
            self.until("the subscriptions", READY_LIMIT, |session| {
                session.endpoints.subscribers[from..]
                    .iter()
                    .all(|subscriber| subscriber.codec.is_ready())
            })?;
        }
        Ok(())
    }

    /// Publishes one event that nobody counts and waits for it; subscribers
    /// start behind it.
    pub fn mark(&mut self) -> Result<Start> {
        self.put(0, 1, |_| MARK_KEY, u64::MAX)?;
        self.until("the first acknowledgement", READY_LIMIT, |session| {
            session.outstanding(0) == 0
        })?;
        Ok(Start::After(self.endpoints.publishers[0].codec.position()))
    }

    /// What a subscriber has to see of one publisher's events from number
    /// `first` on, every `step`th of which it asked for.
    pub fn expect(&self, first: u64, step: u64) -> Expect {
        if self.running.peer().keeps_publish_order() {
            Expect::Every { first, step }
        } else {
            Expect::Any
        }
    }

    /// Waits until all subscribers together have received `deliveries`, none
    /// of them fewer than `each`.
    ///
    /// # Errors
    ///
    /// [`DRAIN_LIMIT`] passed, or there were more.
    pub fn until_delivered(&mut self, deliveries: u64, each: u64) -> Result<()> {
        self.until("the last deliveries", DRAIN_LIMIT, |session| {
            session.delivered() >= deliveries && session.delivered_min() >= each
        })?;
        if self.delivered() != deliveries {
            bail!(
                "{deliveries} deliveries were due, {} came",
                self.delivered()
            );
        }
        Ok(())
    }

    /// Every publisher's next event has this number, then it counts up.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Sends `count` events on one connection; keys go in turn.
    pub fn publish(&mut self, publisher: usize, count: u64) -> Result<()> {
        let first = self.next_sequence;
        self.next_sequence += count;
        self.put(publisher, count, |sequence| sequence % KEYS, first)
    }

    fn put(
        &mut self,
        publisher: usize,
        count: u64,
        key: impl Fn(u64) -> u64,
        first: u64,
    ) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let slot = &mut self.endpoints.publishers[publisher];
        let out = self.events.out(slot.token);
        let now = now_ns();
        for number in 0..count {
            let sequence = first.wrapping_add(number);
            let payload = self.payload.stamp(sequence, now);
            slot.codec.publish(key(sequence), payload, out);
        }
        slot.codec.flush(out);
        slot.sent += count;
        self.events.flush(slot.token)
    }

    /// Fills one connection's window of unacknowledged events.
    pub fn fill(&mut self, publisher: usize, window: u64, more_max: u64) -> Result<()> {
        let room = window.saturating_sub(self.outstanding(publisher));
        self.publish(publisher, room.min(more_max))
    }

    /// Events of one connection without acknowledgement.
    pub fn outstanding(&self, publisher: usize) -> u64 {
        let slot = &self.endpoints.publishers[publisher];
        slot.sent - slot.codec.acked()
    }

    /// Events acknowledged, the mark included.
    pub fn acked(&self) -> u64 {
        self.endpoints
            .publishers
            .iter()
            .map(|slot| slot.codec.acked())
            .sum()
    }

    /// What the slowest subscriber has received.
    pub fn delivered_min(&self) -> u64 {
        self.endpoints
            .subscribers
            .iter()
            .map(|slot| slot.deliveries.count())
            .min()
            .unwrap_or(0)
    }

    /// What all subscribers have received.
    pub fn delivered(&self) -> u64 {
        self.endpoints
            .subscribers
            .iter()
            .map(|slot| slot.deliveries.count())
            .sum()
    }

    /// From now on subscribers keep the time that events took.
    pub fn keep_latencies(&mut self) {
        for slot in &mut self.endpoints.subscribers {
            slot.deliveries.keep_latencies();
        }
    }

    /// The times of all subscribers, in nanoseconds.
    pub fn take_latencies(&mut self) -> Vec<u64> {
        self.endpoints
            .subscribers
            .iter_mut()
            .flat_map(|slot| slot.deliveries.take_latencies())
            .collect()
    }

    /// `turn` returns at least every `period`, with the periods passed.
    pub fn tick_every(&mut self, period: Duration) -> Result<()> {
        self.events.tick_every(period)
    }

    /// Handles what the servers sent, or waits a little for it.
    pub fn turn(&mut self) -> Result<u64> {
        self.turn_within(TURN)
    }

    /// As [`Session::turn`], waiting no longer than `limit`.
    pub fn turn_within(&mut self, limit: Duration) -> Result<u64> {
        self.events.turn(limit, &mut self.endpoints)
    }

    /// Turns until `done`.
    ///
    /// # Errors
    ///
    /// `limit` passed: the message names `what` was waited for.
    pub fn until(
        &mut self,
        what: &str,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let from = Instant::now();
        while !done(self) {
            self.turn()?;
            if from.elapsed() > limit {
                bail!("waited longer than {} s for {what}", limit.as_secs());
            }
        }
        Ok(())
    }

    /// Starts to measure time and CPU.
    pub fn meter(&self) -> Result<Meter> {
        Ok(Meter {
            from: Instant::now(),
            server_cpu: self.running.cpu()?,
            own_cpu: own_cpu()?,
        })
    }

    /// The server.
    pub fn running(&self) -> &'a Running {
        self.running
    }
}

/// Time and CPU since it was made.
pub struct Meter {
    from: Instant,
    server_cpu: Duration,
    own_cpu: Duration,
}

/// What passed between a meter and its reading.
pub struct Reading {
    /// Wall clock.
    pub elapsed: Duration,
    /// CPU time of the server.
    pub server_cpu: Duration,
    /// CPU time of this program as a share of one core.
    pub generator_busy: f64,
}

impl Meter {
    /// Wall clock so far.
    pub fn elapsed(&self) -> Duration {
        self.from.elapsed()
    }

    /// What passed.
    pub fn read(&self, running: &Running) -> Result<Reading> {
        let elapsed = self.from.elapsed();
        Ok(Reading {
            elapsed,
            server_cpu: running.cpu()?.saturating_sub(self.server_cpu),
            generator_busy: own_cpu()?.saturating_sub(self.own_cpu).as_secs_f64()
                / elapsed.as_secs_f64(),
        })
    }
}

impl Reading {
    /// `count` things a second.
    pub fn rate(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }

    /// Server CPU for one of `count` things, in microseconds.
    pub fn cpu_us(&self, count: u64) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / count.max(1) as f64
    }
}
