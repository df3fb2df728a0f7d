use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tidings_event::{DigestFilter, Filter, Index, RouteKey, Selected};
use tokio::task::JoinHandle;

use super::ring::Found;
use super::{Broker, Slot};
use crate::{FrameBatch, HistoryError, HistoryRead};

/// Bytes of lines that one turn of a subscription looks at before it lets others have theirs: a
/// filter takes some milliseconds for this much, and may reject all of it.
const LOOK_BYTES: usize = 256 << 10;

/// How much is read from disk at once while readers hold more than they should: the least that the
/// store has buffers for.
const READ_BYTES_PRESSED: usize = 64 << 10;

/// Frames for a subscriber: whole lines.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The lines of matching frames, in order.
    pub bytes: Bytes,
    /// Every frame up to here has been considered.
    pub last: Index,
}

/// Why a subscription gives no more.
#[derive(Clone, Debug, Error)]
pub enum SubscriptionEnd {
    /// The broker was closed: the agent is stopping.
    #[error("the agent is stopping")]
    Closed,
    /// Frames that it should have given are no longer kept.
    #[error("frame {wanted} is no longer kept, the oldest is {oldest}")]
    Gap {
        /// The frame that should have come.
        wanted: Index,
        /// The oldest that is kept. [`Subscription::seek`] there to go on.
        oldest: Index,
    },
    /// The history cannot be read.
    #[error("the history could not be read")]
    History(#[source] HistoryError),
}

/// A reader of the timeline at a position of its own.
pub struct Subscription {
    broker: Arc<Broker>,
    filter: Arc<Filter>,
    routes: Option<Vec<RouteKey>>,
    digests: Arc<DigestFilter>,
    slot: Arc<Slot>,
    /// Every frame up to here was given or is not wanted.
    cursor: Index,
    /// Told of frames by the router; otherwise it looks at all that come.
    routed: bool,
    /// Batches found and not yet given.
    ready: VecDeque<Arc<FrameBatch>>,
    /// Hints taken and not yet followed, oldest first.
    hints: VecDeque<Index>,
    /// Bytes looked at since others had their turn.
    looked: usize,
    /// A read of older frames under way.
    reading: Option<JoinHandle<Result<HistoryRead, HistoryError>>>,
}

impl Subscription {
    pub(super) fn new(broker: Arc<Broker>, filter: Filter, from: Index) -> Subscription {
        let routes = filter.routes();
        let slot = broker.router.register(routes.as_deref());
        Subscription {
            digests: Arc::new(filter.digests()),
            broker,
            filter: Arc::new(filter),
            routes,
            slot,
            cursor: from.previous(),
            routed: false,
            ready: VecDeque::new(),
            hints: VecDeque::new(),
            looked: 0,
            reading: None,
        }
    }

    /// Every frame up to here was given or is not wanted.
    pub fn cursor(&self) -> Index {
        self.cursor
    }

    /// Whether it has looked at so much that the next [`Subscription::poll_next`] lets others have
    /// their turn: whoever gathers several slices hands on what there is.
    pub fn wants_pause(&self) -> bool {
        self.looked >= LOOK_BYTES
    }

    /// Goes on at another frame.
    pub fn seek(&mut self, from: Index) {
        self.cursor = from.previous();
        self.routed = false;
        self.ready.clear();
        self.hints.clear();
        self.reading = None;
    }

    /// The next frames that match; waits for them.
    ///
    /// # Errors
    /// [`SubscriptionEnd`]; after [`SubscriptionEnd::Gap`] it can go on elsewhere.
    pub async fn next(&mut self) -> Result<Slice, SubscriptionEnd> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Subscription::next`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Slice, SubscriptionEnd>> {
        loop {
            if self.broker.is_closed() {
                return Poll::Ready(Err(SubscriptionEnd::Closed));
            }
            if self.wants_pause() {
                self.looked = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(slice) = self.next_ready() {
                return Poll::Ready(Ok(slice));
            }
            if self.reading.is_some() {
                match self.poll_reading(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(None)) => continue,
                    Poll::Ready(Ok(Some(slice))) => return Poll::Ready(Ok(slice)),
                    Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                }
            }
            if self.routed {
                match self.follow_hints() {
                    Some(slice) => return Poll::Ready(Ok(slice)),
                    None if !self.routed || self.wants_pause() => continue,
                    None => {}
                }
            } else {
                match self
                    .broker
                    .ring
                    .read(self.cursor.next(), self.broker.config.chunk_bytes)
                {
                    Found::Batches(batches) => {
                        self.ready.extend(batches);
                        continue;
                    }
                    Found::Behind => {
                        self.start_reading(self.cursor.next());
                        continue;
                    }
                    Found::CaughtUp => {
                        if self.routes.is_some() && self.slot.is_complete_after(self.cursor) {
                            self.routed = true;
                            continue;
                        }
                    }
                }
            }
            // Nothing now. Ask to be woken, and look once more: news may just have come.
            self.slot.register(context.waker());
            if !self.has_news() {
                return Poll::Pending;
            }
        }
    }

    fn has_news(&self) -> bool {
        if self.broker.is_closed() {
            return true;
        }
        if self.routed {
            self.slot.has_hints()
        } else {
            self.broker.newest() > self.cursor
        }
    }

    /// Gives what matches of the batches that were found.
    fn next_ready(&mut self) -> Option<Slice> {
        while let Some(batch) = self.ready.pop_front() {
            let from = batch.ordinal(self.cursor.next())?;
            let bytes = if batch.is_all_wanted_by(&self.filter) {
                self.cursor = batch.last();
                batch.bytes.slice(batch.start(from)..)
            } else {
                self.look_at(&batch, from)
            };
            if self.cursor < batch.last() {
                // The rest of it is looked at in the next turn.
                self.ready.push_front(batch);
            }
            if !bytes.is_empty() {
                return Some(Slice {
                    bytes,
                    last: self.cursor,
                });
            }
            if self.wants_pause() {
                return None;
            }
        }
        None
    }

    /// What matches of a batch, as far as this turn goes.
    fn look_at(&mut self, batch: &FrameBatch, from: usize) -> Bytes {
        let mut runs = Runs::new(batch.bytes.clone());
        for ordinal in from..batch.len() {
            if self.wants_pause() {
                break;
            }
            if self.digests.may_match(batch.digests[ordinal]) {
                let line = batch.start(ordinal)..batch.ends[ordinal] as usize;
                self.looked += line.len();
                runs.add(&self.filter, line);
            }
            self.cursor = Index(batch.first.get() + ordinal as u64);
        }
        runs.join()
    }

    /// Gives the frames that the router told of, from memory.
    fn follow_hints(&mut self) -> Option<Slice> {
        // Read before the list is taken: what was routed by now is in the list, or not wanted.
        let routed = self.broker.router.routed();
        // Those taken before come first: together they would have no bound.
        let is_complete = self.hints.is_empty();
        if is_complete {
            let Some(hints) = self.slot.take_hints() else {
                // Too much to be told of: look at everything after the cursor.
                self.routed = false;
                return None;
            };
            self.hints.extend(hints);
        }
        let mut lines: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        let mut found: Option<Arc<FrameBatch>> = None;
        while let Some(&frame) = self.hints.front() {
            if frame <= self.cursor {
                self.hints.pop_front();
                continue;
            }
            let at = found.as_ref().and_then(|batch| batch.ordinal(frame));
            let (batch, ordinal) = match (at, found.take()) {
                (Some(ordinal), Some(batch)) => (batch, ordinal),
                _ => match self.broker.ring.read(frame, 1) {
                    Found::Batches(mut batches) => {
                        let batch = batches.swap_remove(0);
                        let Some(ordinal) = batch.ordinal(frame) else {
                            break;
                        };
                        (batch, ordinal)
                    }
                    Found::Behind => {
                        // Not in memory any more: look for it, and what follows, on disk.
                        self.routed = false;
                        self.cursor = frame.previous();
                        let rest = std::mem::take(&mut self.hints);
                        self.slot.return_hints(rest.into());
                        break;
                    }
                    Found::CaughtUp => break,
                },
            };
            let line = batch.line(ordinal);
            self.looked += line.len();
            let wanted = match self.filter.select(&line) {
                Ok(Selected::All) => line,
                Ok(Selected::Some(part)) => part,
                Ok(Selected::None) | Err(_) => Bytes::new(),
            };
            bytes += wanted.len();
            lines.push(wanted);
            found = Some(batch);
            self.hints.pop_front();
            self.cursor = frame;
            if bytes >= self.broker.config.chunk_bytes || self.wants_pause() {
                break;
            }
        }
        // Only when the list was taken after `routed` was read is everything up to there in it.
        if is_complete && self.hints.is_empty() && self.routed {
            self.cursor = self.cursor.max(routed);
        }
        let bytes = join(lines);
        if bytes.is_empty() && !is_complete && self.hints.is_empty() && self.routed {
            // What came meanwhile; at most once, as the list is empty now.
            return self.follow_hints();
        }
        (!bytes.is_empty()).then_some(Slice {
            bytes,
            last: self.cursor,
        })
    }

    fn start_reading(&mut self, from: Index) {
        let history = Arc::clone(&self.broker.history);
        let digests = Arc::clone(&self.digests);
        let filter = Arc::clone(&self.filter);
        let held = Arc::clone(&self.broker.held);
        let bytes_max = if self.broker.is_pressed() {
            READ_BYTES_PRESSED.min(self.broker.config.read_bytes)
        } else {
            self.broker.config.read_bytes
        };
        self.broker.history_reads.fetch_add(1, Ordering::Relaxed);
        self.reading = Some(tidings_host::spawn_blocking(move || {
            let mut read = history.read(from, bytes_max, &digests)?;
            let wants_all = filter.is_everything()
                || (!read.other_namespaces && filter.wants_default_namespace());
            if !wants_all {
                let mut runs = Runs::new(read.bytes.clone());
                let mut start = 0;
                for newline in memchr::memchr_iter(b'\n', &read.bytes) {
                    runs.add(&filter, start..newline + 1);
                    start = newline + 1;
                }
                read.bytes = runs.join();
            }
            read.bytes = Held::count(read.bytes, held);
            Ok(read)
        }));
    }

    /// Gives what was read from disk, and lets the next read begin meanwhile, unless readers hold
    /// too much already.
    fn poll_reading(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Slice>, SubscriptionEnd>> {
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(Ok(None));
        };
        let done = match Pin::new(reading).poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(done) => done,
        };
        self.reading = None;
        let read = match done {
            Ok(Ok(read)) => read,
            Ok(Err(HistoryError::Gap { oldest })) => {
                return Poll::Ready(Err(SubscriptionEnd::Gap {
                    wanted: self.cursor.next(),
                    oldest,
                }));
            }
            Ok(Err(error)) => return Poll::Ready(Err(SubscriptionEnd::History(error))),
            // The runtime is stopping.
            Err(_) => return Poll::Ready(Err(SubscriptionEnd::Closed)),
        };
        if read.next <= self.cursor.next() {
            // Nothing newer on disk after all; the ring has it, or will.
            return Poll::Ready(Ok(None));
        }
        self.cursor = read.next.previous();
        if !self.broker.is_pressed() && matches!(self.broker.ring.read(read.next, 1), Found::Behind)
        {
            self.start_reading(read.next);
        }
        let bytes = read.bytes;
        if bytes.is_empty() {
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(Ok(Some(Slice {
            bytes,
            last: self.cursor,
        })))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.broker
            .router
            .unregister(&self.slot, self.routes.as_deref());
    }
}

/// Bytes that were read from disk for one reader, counted for as long as anybody has them.
struct Held {
    bytes: Bytes,
    held: Arc<AtomicUsize>,
}

impl Held {
    fn count(bytes: Bytes, held: Arc<AtomicUsize>) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        held.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Held { bytes, held })
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// Lines of one buffer that match: neighbours stay one slice, only what is scattered is copied.
struct Runs {
    source: Bytes,
    runs: Vec<Run>,
}

enum Run {
    /// Whole lines, as they stand in the buffer.
    Lines(Range<usize>),
    /// A line with some of its events.
    Part(Bytes),
}

impl Runs {
    fn new(source: Bytes) -> Runs {
        Runs {
            source,
            runs: Vec::new(),
        }
    }

    fn add(&mut self, filter: &Filter, line: Range<usize>) {
        match filter.select(&self.source[line.clone()]) {
            Ok(Selected::All) => match self.runs.last_mut() {
                Some(Run::Lines(run)) if run.end == line.start => run.end = line.end,
                _ => self.runs.push(Run::Lines(line)),
            },
            Ok(Selected::Some(part)) => self.runs.push(Run::Part(part)),
            // A line that is not in canonical form was never written by this program.
            Ok(Selected::None) | Err(_) => {}
        }
    }

    fn join(self) -> Bytes {
        let source = self.source;
        join(
            self.runs
                .into_iter()
                .map(|run| match run {
                    Run::Lines(range) => source.slice(range),
                    Run::Part(part) => part,
                })
                .collect(),
        )
    }
}

/// One buffer with all of these; a single one is shared, not copied.
fn join(mut parts: Vec<Bytes>) -> Bytes {
    parts.retain(|part| !part.is_empty());
    if parts.len() < 2 {
        return parts.pop().unwrap_or_default();
    }
    let mut joined = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| joined.extend_from_slice(part));
    joined.freeze()
}
