use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use openraft::{Raft, async_runtime::WatchReceiver};
use parking_lot::Mutex;
use tidings_store::{Incoming, IncomingError, IncomingFile, SnapshotOffer};
use tidings_timeline::{StateMachine, TimelineId};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant},
};

use super::{
    CHUNKS_IN_FLIGHT_MAX, Chunk, GATHERED_MAX, Install, Installed, Offer, Taken, Wanted,
    message::{file_of, number_of},
};
use crate::{
    binding::{Ballot, Binding},
    codec::{self, SnapshotHead},
    error::chain,
    machine::{Machine, MachineShared, Prepared, SnapshotState, snapshot_of},
    peers::{
        convert,
        me::Me,
        message::{Refused, RefusedReason},
    },
};

/// Bytes beside what is sent that installing takes: indexes, notes, what the file system needs.
const SLACK_BYTES: u64 = 16 << 20;

/// Takes snapshots from the leader, one at a time.
pub(crate) struct Receiver {
    me: Arc<Me>,
    raft: Raft<Binding, Machine>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the last transfer.
    last: u64,
    current: Option<Transfer>,
    /// From the moment that everything is there until the engine has made something of it: nothing
    /// of it may change.
    installing: bool,
}

/// A snapshot that is being taken.
struct Transfer {
    number: u64,
    ballot: Ballot,
    head: SnapshotHead,
    /// To who writes, in the order in which the pieces came.
    work: mpsc::Sender<Work>,
    used: Instant,
}

enum Work {
    Write {
        file: IncomingFile,
        offset: u64,
        bytes: Bytes,
        done: oneshot::Sender<Result<(), IncomingError>>,
    },
    Prepare {
        done: oneshot::Sender<Result<Prepared, PrepareError>>,
    },
}

/// Why what has come is not installed.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error("the snapshot is not complete")]
    Incoming(#[from] IncomingError),
    #[error("the state cannot be decoded")]
    State(#[from] tidings_timeline::RestoreError),
    #[error("the state is that of frame {found}, offered was {offered}")]
    Frame { found: u64, offered: u64 },
    #[error("the state is of timeline {found}, this server holds {ours}")]
    Timeline { found: TimelineId, ours: TimelineId },
}

/// A piece that has its place in the order.
pub(crate) type Writing = oneshot::Receiver<Result<(), IncomingError>>;

fn refused(reason: RefusedReason, sentence: String) -> Refused {
    Refused { reason, sentence }
}

fn unexpected(sentence: impl Into<String>) -> Refused {
    refused(RefusedReason::Unexpected, sentence.into())
}

fn malformed(error: &dyn std::error::Error) -> Refused {
    refused(RefusedReason::Malformed, chain(error))
}

fn stopped() -> Refused {
    refused(
        RefusedReason::Stopped,
        "this server has stopped taking a snapshot".to_owned(),
    )
}

impl Receiver {
    pub fn new(me: Arc<Me>, raft: Raft<Binding, Machine>) -> Receiver {
        Receiver {
            me,
            raft,
            state: Mutex::default(),
        }
    }

    fn machine(&self) -> &Arc<MachineShared> {
        &self.me.machine
    }

    /// Looks for what is missing of an offer, which takes the place of an earlier one.
    pub async fn offer(&self, offer: Offer) -> Result<Wanted, Refused> {
        let ballot = convert::ballot_of(offer.ballot).map_err(|error| malformed(&error))?;
        let head = codec::decode_snapshot_head(&offer.head).map_err(|error| malformed(&error))?;
        if let Some(higher) = self.check(&ballot, &head)? {
            return Ok(Wanted::HigherBallot(convert::ballot_bytes(&higher)));
        }
        let number = {
            let mut state = self.state.lock();
            if state.installing {
                return Err(unexpected(
                    "this server is installing a snapshot; come again",
                ));
            }
            if let Some(current) = &state.current
                && current.ballot > ballot
            {
                return Ok(Wanted::HigherBallot(convert::ballot_bytes(&current.ballot)));
            }
            state.current = None;
            state.last += 1;
            state.last
        };
        let offer = SnapshotOffer {
            state_bytes: offer.state_bytes,
            state_crc: offer.state_crc,
            frame: head.frame,
            segments: offer.segments.into_iter().map(Into::into).collect(),
        };
        let machine = self.machine().clone();
        let begun = tidings_host::spawn_blocking(move || {
            let mut gathering = machine.gathering.lock();
            let missing = gathering.begin(number, offer)?;
            Ok((missing, gathering.incoming.missing_bytes()))
        });
        let begun: Result<_, IncomingError> = begun.await.map_err(|_| stopped())?;
        let (missing, bytes) = begun.map_err(|error| malformed(&error))?;
        self.check_room(bytes)?;
        let (work, orders) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
        {
            let mut state = self.state.lock();
            if state.last != number || state.installing {
                return Err(unexpected("another snapshot was offered meanwhile"));
            }
            state.current = Some(Transfer {
                number,
                ballot,
                head: head.clone(),
                work,
                used: Instant::now(),
            });
        }
        tracing::info!(
            frame = head.frame.get(),
            files = missing.len(),
            bytes,
            "taking a snapshot from the leader"
        );
        let worker = Worker {
            machine: self.machine().clone(),
            number,
            frame: head.frame.get(),
            timeline: self.me.timeline(),
        };
        tokio::spawn(Arc::new(worker).run(orders));
        Ok(Wanted::Files {
            transfer: number,
            missing: missing
                .iter()
                .map(|missing| (number_of(missing.file), missing.from))
                .collect(),
        })
    }

    /// Whether a snapshot is one that the engine can take: it trusts in that. A ballot that is higher
    /// than that of who offers.
    fn check(&self, ballot: &Ballot, head: &SnapshotHead) -> Result<Option<Ballot>, Refused> {
        let Some(last) = head.last else {
            return Err(unexpected("a snapshot of an empty log is offered"));
        };
        if last.leader_id > ballot.leader_id || !ballot.committed {
            return Err(unexpected(
                "the snapshot is of a leader that comes after the one that offers it",
            ));
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.vote > *ballot {
            return Ok(Some(metrics.vote));
        }
        if let Some(committed) = metrics.local_committed
            && last > committed
            && last.index <= committed.index
        {
            return Err(unexpected(format!(
                "the snapshot contradicts entry {}, which is committed here: the servers are not of \
                 one cluster; start one of them with an empty data directory",
                committed.index
            )));
        }
        Ok(None)
    }

    fn check_room(&self, bytes: u64) -> Result<(), Refused> {
        let space = &self.machine().space;
        let needs = bytes + SLACK_BYTES + space.reserve();
        let free = space.free();
        if free >= needs {
            return Ok(());
        }
        Err(unexpected(format!(
            "there is no room for the snapshot: {needs} bytes must be free, {free} are; make room on \
             the disk of {}",
            self.me.server.name
        )))
    }

    /// Gives a piece its place in the order.
    pub async fn enqueue(&self, chunk: Chunk, bytes: Bytes) -> Result<Writing, Refused> {
        let work = {
            let mut state = self.state.lock();
            let current = state.current.as_mut();
            let Some(current) = current.filter(|current| current.number == chunk.transfer) else {
                return Err(unexpected("a piece of another snapshot came"));
            };
            current.used = Instant::now();
            current.work.clone()
        };
        self.machine()
            .snapshot_bytes_received
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let (done, writing) = oneshot::channel();
        let write = Work::Write {
            file: file_of(chunk.file),
            offset: chunk.offset,
            bytes,
            done,
        };
        work.send(write).await.map_err(|_| stopped())?;
        Ok(writing)
    }

    /// Waits until a piece is where it belongs.
    pub async fn taken(&self, writing: Writing) -> Result<Taken, Refused> {
        match writing.await {
            Ok(Ok(())) => Ok(Taken {}),
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "a piece of a snapshot was not taken");
                Err(malformed(&error))
            }
            Err(_) => Err(stopped()),
        }
    }

    /// Puts what has come in the place of the old. Goes on when the leader does not wait for it.
    pub async fn install(self: Arc<Self>, install: Install) -> Result<Installed, Refused> {
        let (work, ballot, head) = {
            let mut state = self.state.lock();
            if state.installing {
                return Err(unexpected(
                    "this server is installing a snapshot; come again",
                ));
            }
            let current = state.current.take();
            let Some(current) = current.filter(|current| current.number == install.transfer) else {
                return Err(unexpected("another snapshot is to be installed than came"));
            };
            state.installing = true;
            (current.work, current.ballot, current.head)
        };
        let installed = tokio::spawn(async move {
            let installed = self.install_prepared(work, ballot, head).await;
            self.state.lock().installing = false;
            installed
        });
        installed.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn install_prepared(
        &self,
        work: mpsc::Sender<Work>,
        ballot: Ballot,
        head: SnapshotHead,
    ) -> Result<Installed, Refused> {
        let (done, prepared) = oneshot::channel();
        let sent = work.send(Work::Prepare { done }).await;
        sent.map_err(|_| stopped())?;
        let prepared = prepared.await.map_err(|_| stopped())?;
        let prepared = prepared.map_err(|error| {
            tracing::warn!(error = %chain(&error), "a snapshot is not installed");
            malformed(&error)
        })?;
        let mut snapshot = snapshot_of(head.clone(), prepared.state.clone());
        snapshot.snapshot = SnapshotState {
            prepared: Some(Arc::new(prepared)),
            ..snapshot.snapshot
        };
        let response = self.raft.install_full_snapshot(ballot, snapshot).await;
        let response = response.map_err(|error| Refused {
            reason: RefusedReason::Stopped,
            sentence: chain(&error),
        })?;
        if response.vote <= ballot {
            self.discard().await;
        }
        Ok(Installed {
            ballot: convert::ballot_bytes(&response.vote),
        })
    }

    /// Removes what was gathered and is not needed.
    async fn discard(&self) {
        let machine = self.machine().clone();
        let discarded = tidings_host::spawn_blocking(move || machine.gathering.lock().discard());
        if let Ok(Err(error)) = discarded.await {
            tracing::warn!(error = %chain(&error), "what came of a snapshot was not removed");
        }
    }

    /// Lets go of what was gathered when nobody sends the rest.
    pub async fn tidy(self: Arc<Self>) {
        loop {
            time::sleep(GATHERED_MAX / 4).await;
            let forgotten = {
                let mut state = self.state.lock();
                let used = |current: &Transfer| current.used.elapsed() < GATHERED_MAX;
                let is_used = state.installing || state.current.as_ref().is_some_and(used);
                if !is_used {
                    state.current = None;
                }
                !is_used
            };
            if forgotten {
                self.discard().await;
            }
        }
    }
}

/// What has come, and under which number it came.
pub(crate) struct Gathering {
    transfer: u64,
    pub incoming: Incoming,
}

impl Gathering {
    pub fn new(incoming: Incoming) -> Gathering {
        Gathering {
            transfer: 0,
            incoming,
        }
    }

    fn begin(
        &mut self,
        transfer: u64,
        offer: SnapshotOffer,
    ) -> Result<Vec<tidings_store::Missing>, IncomingError> {
        self.transfer = transfer;
        self.incoming.begin(offer)
    }

    fn discard(&mut self) -> Result<(), tidings_store::StoreError> {
        self.transfer = 0;
        self.incoming.discard()
    }
}

/// Writes the pieces of one transfer.
struct Worker {
    machine: Arc<MachineShared>,
    number: u64,
    frame: u64,
    timeline: Option<TimelineId>,
}

impl Worker {
    /// One piece after the other, each on a thread that may wait.
    async fn run(self: Arc<Self>, mut orders: mpsc::Receiver<Work>) {
        while let Some(work) = orders.recv().await {
            let worker = self.clone();
            let done = tidings_host::spawn_blocking(move || match work {
                Work::Write {
                    file,
                    offset,
                    bytes,
                    done,
                } => {
                    // whoever sent it may have gone
                    let _ = done.send(worker.write(file, offset, &bytes));
                }
                Work::Prepare { done } => {
                    let _ = done.send(worker.prepare());
                }
            });
            if done.await.is_err() {
                return;
            }
        }
    }

    fn write(&self, file: IncomingFile, offset: u64, bytes: &[u8]) -> Result<(), IncomingError> {
        let mut gathering = self.machine.gathering.lock();
        if gathering.transfer != self.number {
            return Err(IncomingError::Incomplete { file });
        }
        gathering.incoming.write(file, offset, bytes).map(drop)
    }

    fn prepare(&self) -> Result<Prepared, PrepareError> {
        let mut gathering = self.machine.gathering.lock();
        if gathering.transfer != self.number {
            let file = IncomingFile::State;
            return Err(IncomingError::Incomplete { file }.into());
        }
        let state = gathering.incoming.state()?;
        let timeline = StateMachine::restore(&state)?;
        if timeline.index().get() != self.frame {
            return Err(PrepareError::Frame {
                found: timeline.index().get(),
                offered: self.frame,
            });
        }
        if let (Some(found), Some(ours)) = (timeline.view().timeline, self.timeline)
            && found != ours
        {
            return Err(PrepareError::Timeline { found, ours });
        }
        gathering.incoming.prepare(timeline.segment_bytes())?;
        Ok(Prepared::new(timeline, state))
    }
}
