use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex as SyncMutex;
use tokio::{sync::Mutex, time::Instant};

use super::{
    connection::{Answer, CallError, Connection},
    frame::Parts,
    me::Me,
};

/// How long a server that cannot be reached is left alone, at first and at most.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);
/// A connection without a request for so long is made anew: the other side is about to close it.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// The way to one server for one purpose: a connection, made when it is needed.
pub(crate) struct Link {
    me: Arc<Me>,
    target: u64,
    way: Mutex<Way>,
}

#[derive(Default)]
struct Way {
    connection: Option<Arc<Connection>>,
    failed: Option<Failed>,
}

/// An attempt that came to nothing.
struct Failed {
    reason: Arc<str>,
    retry_at: Instant,
    delay: Duration,
}

impl Way {
    fn usable(&self) -> Option<Arc<Connection>> {
        let connection = self.connection.as_ref()?;
        (connection.is_open() && connection.idle() < IDLE_MAX).then(|| connection.clone())
    }
}

impl Link {
    fn new(me: Arc<Me>, target: u64) -> Link {
        Link {
            me,
            target,
            way: Mutex::default(),
        }
    }

    /// Sends a request; see [`Connection::send`].
    pub async fn send(self: &Arc<Self>, kind: u8, parts: Parts) -> Result<Answer, CallError> {
        self.connection().await?.send(kind, parts).await
    }

    /// The connection that there is, or a new one.
    pub async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>, CallError> {
        if let Ok(way) = self.way.try_lock()
            && let Some(connection) = way.usable()
        {
            return Ok(connection);
        }
        // In a task of its own: whoever asks may have less patience than dialling takes, and would
        // begin from the start each time.
        let link = self.clone();
        let connected = tokio::spawn(async move { link.connect().await }).await;
        connected.unwrap_or_else(|error| Err(CallError::not_sent(error)))
    }

    /// Whether there is a connection that works, as far as is known without trying.
    fn is_open(&self) -> bool {
        let way = self.way.try_lock();
        way.is_ok_and(|way| {
            let connection = way.connection.as_ref();
            connection.is_some_and(|connection| connection.is_open())
        })
    }

    async fn connect(&self) -> Result<Arc<Connection>, CallError> {
        let mut way = self.way.lock().await;
        if let Some(connection) = way.usable() {
            return Ok(connection);
        }
        way.connection = None;
        let now = Instant::now();
        if let Some(failed) = way.failed.as_ref().filter(|failed| now < failed.retry_at) {
            return Err(CallError::NotSent {
                reason: failed.reason.clone(),
            });
        }
        match self.dial().await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                way.connection = Some(connection.clone());
                way.failed = None;
                Ok(connection)
            }
            Err(error) => {
                let delay = way.failed.as_ref().map_or(RETRY_DELAY_MIN, |failed| {
                    (failed.delay * 2).min(RETRY_DELAY_MAX)
                });
                way.failed = Some(Failed {
                    reason: error.to_string().into(),
                    retry_at: Instant::now() + delay,
                    delay,
                });
                Err(error)
            }
        }
    }

    async fn dial(&self) -> Result<Connection, CallError> {
        let mut last = CallError::not_sent(format_args!(
            "no address of server {} is known",
            self.target
        ));
        for address in self.me.addresses_of(self.target) {
            match Connection::open(&self.me, &address).await {
                Ok((connection, greeting)) if greeting.hello.server.id == self.target => {
                    return Ok(connection);
                }
                Ok((_, greeting)) => {
                    self.me.forget(self.target, &address);
                    last = CallError::not_sent(format_args!(
                        "at {address}, server {} answers instead of {}",
                        greeting.hello.server.id, self.target
                    ));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The ways to one server. What is urgent, what is much and what is of others go apart, so that
/// none of them waits behind another.
#[derive(Clone)]
pub(crate) struct Ways {
    /// Votes and signs of life.
    pub urgent: Arc<Link>,
    /// Entries.
    pub entries: Arc<Link>,
    /// Commands for the leader.
    pub commands: Arc<Link>,
    /// Snapshots, with the files of the history.
    pub snapshots: Arc<Link>,
}

/// The ways to all servers.
pub(crate) struct Links {
    me: Arc<Me>,
    ways: SyncMutex<BTreeMap<u64, Ways>>,
}

impl Links {
    pub fn new(me: Arc<Me>) -> Links {
        Links {
            me,
            ways: SyncMutex::default(),
        }
    }

    pub fn me(&self) -> &Arc<Me> {
        &self.me
    }

    /// Whether signs of life get through to a server at this moment.
    pub fn is_open(&self, target: u64) -> bool {
        let ways = self.ways.lock().get(&target).cloned();
        ways.is_some_and(|ways| ways.urgent.is_open())
    }

    /// The ways to one server.
    pub fn to(&self, target: u64) -> Ways {
        let link = || Arc::new(Link::new(self.me.clone(), target));
        let mut ways = self.ways.lock();
        let made = ways.entry(target).or_insert_with(|| Ways {
            urgent: link(),
            entries: link(),
            commands: link(),
            snapshots: link(),
        });
        made.clone()
    }
}
