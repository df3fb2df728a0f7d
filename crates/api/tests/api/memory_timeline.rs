//! A timeline in memory: the real state machine and the real broker, without consensus or disk.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tidings_api::{
    Answer, ProposeFailure, ReadFailure, ServerChange, ServerStatus, ServersFailure, Submitted,
    Timeline, TimelineStatus,
};
use tidings_event::{DigestFilter, Index, Limits, NewEvent, Timestamp};
use tidings_timeline::{
    Batch, Broker, BrokerConfig, CommandGroup, Commands, FrameBatch, HistoryError, HistoryRead,
    HistoryReader, Outcome, Settings, Stamper, StateMachine, StateView,
};
use tokio::sync::{Semaphore, watch};

/// Frames as lines, by index.
#[derive(Default)]
pub struct MemoryHistory {
    lines: Mutex<(u64, Vec<Bytes>)>,
    /// Reading fails as if the disk had lied.
    pub damaged: AtomicBool,
}

impl MemoryHistory {
    fn append(&self, frames: &FrameBatch) {
        let mut lines = self.lines.lock().unwrap();
        lines
            .1
            .extend((0..frames.len()).map(|ordinal| frames.line(ordinal)));
    }

    fn retain(&self, oldest: Index) {
        let mut lines = self.lines.lock().unwrap();
        let gone = (oldest.get() - 1 - lines.0) as usize;
        lines.1.drain(..gone);
        lines.0 += gone as u64;
    }
}

impl HistoryReader for MemoryHistory {
    fn oldest(&self) -> Index {
        Index(self.lines.lock().unwrap().0 + 1)
    }

    fn newest(&self) -> Index {
        let lines = self.lines.lock().unwrap();
        Index(lines.0 + lines.1.len() as u64)
    }

    fn read(
        &self,
        from: Index,
        bytes_max: usize,
        _want: &DigestFilter,
    ) -> Result<HistoryRead, HistoryError> {
        if self.damaged.load(Ordering::SeqCst) {
            return Err(HistoryError::Damaged {
                path: "memory".into(),
                offset: 0,
                index: from,
            });
        }
        let lines = self.lines.lock().unwrap();
        let oldest = Index(lines.0 + 1);
        if from < oldest {
            return Err(HistoryError::Gap { oldest });
        }
        let mut bytes = BytesMut::new();
        let mut next = from;
        for line in lines.1.iter().skip((from.get() - oldest.get()) as usize) {
            if !bytes.is_empty() && bytes.len() + line.len() > bytes_max {
                break;
            }
            bytes.extend_from_slice(line);
            next = next.next();
        }
        Ok(HistoryRead {
            bytes: bytes.freeze(),
            next,
            // Whoever is told so looks at each event.
            other_namespaces: true,
        })
    }
}

/// See the module.
#[derive(Clone)]
pub struct MemoryTimeline {
    inner: Arc<Inner>,
}

struct Inner {
    machine: Mutex<(StateMachine, Arc<StateView>)>,
    history: Arc<MemoryHistory>,
    broker: Arc<Broker>,
    applied: watch::Sender<Index>,
    failing: Mutex<Option<fn() -> ProposeFailure>>,
    /// How many of the next proposals are sent away.
    overloads: AtomicUsize,
    /// Proposals are answered only with a permit of this.
    gate: Arc<Semaphore>,
    gated: AtomicBool,
    groups: AtomicUsize,
    not_ready: Mutex<Option<String>>,
    /// Events that others have acknowledged and that have not come here yet.
    lacks: AtomicU64,
    /// Nobody tells what others have.
    cut_off: AtomicBool,
    /// How long the leader has been silent; `None`: there is none.
    silence: Mutex<Option<Duration>>,
    /// Reads that asked for everything that was acknowledged.
    barriers: AtomicUsize,
    /// What was asked to be changed of the servers.
    changes: Mutex<Vec<ServerChange>>,
}

#[allow(dead_code)] // the unit tests use less of it than the others
impl MemoryTimeline {
    pub fn new() -> MemoryTimeline {
        MemoryTimeline::with_broker(BrokerConfig::default())
    }

    pub fn with_broker(config: BrokerConfig) -> MemoryTimeline {
        let history = Arc::new(MemoryHistory::default());
        let broker = Broker::new(Arc::clone(&history) as Arc<_>, Index::ZERO, config);
        tokio::spawn(Arc::clone(&broker).run_wakeups(tokio::time::sleep));
        let machine = StateMachine::new(Settings::default());
        let view = machine.view();
        MemoryTimeline {
            inner: Arc::new(Inner {
                machine: Mutex::new((machine, view)),
                history,
                broker,
                applied: watch::Sender::new(Index::ZERO),
                failing: Mutex::new(None),
                overloads: AtomicUsize::new(0),
                gate: Arc::new(Semaphore::new(0)),
                gated: AtomicBool::new(false),
                groups: AtomicUsize::new(0),
                not_ready: Mutex::new(None),
                lacks: AtomicU64::new(0),
                cut_off: AtomicBool::new(false),
                silence: Mutex::new(Some(Duration::ZERO)),
                barriers: AtomicUsize::new(0),
                changes: Mutex::default(),
            }),
        }
    }

    pub fn history(&self) -> &MemoryHistory {
        &self.inner.history
    }

    /// Lets every proposal fail from now on, or none.
    pub fn fail(&self, failure: Option<fn() -> ProposeFailure>) {
        *self.inner.failing.lock().unwrap() = failure;
    }

    /// Sends the next proposals away, to be tried again after a moment.
    pub fn overload(&self, times: usize) {
        self.inner.overloads.store(times, Ordering::SeqCst);
    }

    /// Others have so many events more, which come when they are asked for.
    pub fn lack(&self, events: u64) {
        self.inner.lacks.store(events, Ordering::SeqCst);
    }

    /// From now on nobody tells what others have, or somebody does again.
    pub fn cut_off(&self, is_so: bool) {
        self.inner.cut_off.store(is_so, Ordering::SeqCst);
    }

    pub fn set_not_ready(&self, sentence: Option<&str>) {
        *self.inner.not_ready.lock().unwrap() = sentence.map(String::from);
    }

    /// Lets the leader be silent for so long, or be away.
    pub fn set_silence(&self, silence: Option<Duration>) {
        *self.inner.silence.lock().unwrap() = silence;
    }

    /// Reads that asked for everything that was acknowledged, so far.
    pub fn barriers(&self) -> usize {
        self.inner.barriers.load(Ordering::SeqCst)
    }

    /// What was asked to be changed of the servers, so far.
    pub fn changes(&self) -> Vec<ServerChange> {
        self.inner.changes.lock().unwrap().clone()
    }

    /// Holds answers back until [`open_gate`](MemoryTimeline::open_gate).
    pub fn close_gate(&self) {
        self.inner.gated.store(true, Ordering::SeqCst);
    }

    pub fn open_gate(&self) {
        self.inner.gate.add_permits(1 << 20);
    }

    /// Groups that were taken so far.
    pub fn groups(&self) -> usize {
        self.inner.groups.load(Ordering::SeqCst)
    }

    /// Publishes one transaction of these `{"Events":…}` or event texts.
    pub fn publish(&self, line: &str) -> Index {
        let mut group = CommandGroup::new();
        let limits = Limits::default();
        let events = NewEvent::parse_line(line.as_bytes(), &limits).unwrap();
        let mut stamper = Stamper::new("n1", "test", 7);
        stamper.set_time(Timestamp::from_unix_micros(1_700_000_000_000_000));
        group.publish(&events, &mut stamper, &limits).unwrap();
        self.apply(group)[0].index().unwrap()
    }

    /// Publishes `count` events of a topic, with keys `k<index>`.
    pub fn publish_many(&self, topic: &str, count: u64) {
        for _ in 0..count {
            let key = self.newest().next();
            self.publish(&format!(
                "{{\"Topic\":\"{topic}\",\"Type\":\"T\",\"Key\":\"k{key}\"}}"
            ));
        }
    }

    pub fn newest(&self) -> Index {
        self.inner.machine.lock().unwrap().1.index
    }

    /// Gives the timeline its id.
    pub fn found(&self, id: u128) {
        let mut group = CommandGroup::new();
        group.found(tidings_timeline::TimelineId(id));
        self.apply(group);
    }

    /// Drops the frames before `oldest`.
    pub fn retain(&self, oldest: u64) {
        let mut group = CommandGroup::new();
        group.retain(Index(oldest));
        self.apply(group);
    }

    fn apply(&self, group: impl Into<Commands>) -> Vec<Outcome> {
        let inner = &self.inner;
        let mut machine = inner.machine.lock().unwrap();
        let time = Timestamp::from_unix_micros(1_700_000_000_000_000);
        let batch = Batch {
            time,
            groups: vec![group.into().into_bytes()],
        };
        let applied = machine.0.apply(&batch).unwrap();
        machine.1 = machine.0.view();
        if let Some(frames) = applied.frames {
            inner.history.append(&frames);
            inner.broker.append(frames);
        }
        if let Some(oldest) = applied.retain {
            inner.history.retain(oldest);
        }
        let index = machine.1.index;
        drop(machine);
        inner.applied.send_replace(index);
        applied.outcomes
    }
}

impl Timeline for MemoryTimeline {
    fn submit(&self, group: Commands) -> BoxFuture<'static, Result<Submitted, ProposeFailure>> {
        let this = self.clone();
        Box::pin(async move {
            let failing = *this.inner.failing.lock().unwrap();
            if let Some(failure) = failing {
                return Err(failure());
            }
            let overloads = &this.inner.overloads;
            if overloads
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |times| {
                    times.checked_sub(1)
                })
                .is_ok()
            {
                return Err(ProposeFailure::Overloaded {
                    retry_after: Duration::from_millis(5),
                });
            }
            this.inner.groups.fetch_add(1, Ordering::SeqCst);
            let outcomes = this.apply(group);
            let submitted: Submitted = Box::pin(async move {
                if this.inner.gated.load(Ordering::SeqCst) {
                    this.inner.gate.acquire().await.unwrap().forget();
                }
                Ok(outcomes.into_iter().map(Answer::Outcome).collect())
            });
            Ok(submitted)
        })
    }

    fn state(&self) -> Arc<StateView> {
        Arc::clone(&self.inner.machine.lock().unwrap().1)
    }

    fn broker(&self) -> Arc<Broker> {
        Arc::clone(&self.inner.broker)
    }

    fn applied(&self) -> watch::Receiver<Index> {
        self.inner.applied.subscribe()
    }

    fn has_leader(&self) -> bool {
        self.last_contact().is_some()
    }

    fn last_contact(&self) -> Option<Duration> {
        *self.inner.silence.lock().unwrap()
    }

    fn change_servers(
        &self,
        change: ServerChange,
    ) -> BoxFuture<'static, Result<(), ServersFailure>> {
        let known = match &change {
            ServerChange::Promote(name) | ServerChange::Remove(name) => name == "n2",
            ServerChange::TransferLeader(to) => to.as_ref().is_none_or(|to| to == "n2"),
        };
        let led = self.has_leader();
        let unfinished = matches!(change, ServerChange::Promote(_));
        self.inner.changes.lock().unwrap().push(change);
        Box::pin(async move {
            match (led, known, unfinished) {
                (false, ..) => Err(ServersFailure::NoLeader("nobody leads".to_owned())),
                (_, false, _) => Err(ServersFailure::Refused("who is that".to_owned())),
                (.., true) => Err(ServersFailure::Unfinished("it catches up".to_owned())),
                _ => Ok(()),
            }
        })
    }

    fn read_barrier(&self) -> BoxFuture<'static, Result<(), ReadFailure>> {
        let this = self.clone();
        this.inner.barriers.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if this.inner.cut_off.load(Ordering::SeqCst) || !this.has_leader() {
                return Err(ReadFailure {
                    sentence: String::from("nobody leads"),
                });
            }
            this.publish_many("Job", this.inner.lacks.swap(0, Ordering::SeqCst));
            Ok(())
        })
    }

    fn status(&self) -> TimelineStatus {
        let view = self.state();
        TimelineStatus {
            role: String::from("leader"),
            leader: self.has_leader().then(|| String::from("n1")),
            servers: vec![
                ServerStatus {
                    id: u64::MAX,
                    name: String::from("n1"),
                    peer: String::from("h:7481"),
                    http: String::from("h:7480"),
                    role: String::from("voter"),
                    leads: self.has_leader(),
                    ..ServerStatus::default()
                },
                ServerStatus {
                    id: 2,
                    name: String::from("n2"),
                    role: String::from("standby"),
                    last_contact: Some(Duration::from_millis(7)),
                    matched: Some(4),
                    clock_ahead_ms: Some(-1500),
                    ..ServerStatus::default()
                },
            ],
            last_contact: self.last_contact(),
            log_last: 6,
            oldest: view.oldest,
            newest: view.index,
            not_ready: self.inner.not_ready.lock().unwrap().clone(),
            ..TimelineStatus::default()
        }
    }
}
