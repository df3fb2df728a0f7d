//! What this agent has taken and no server has yet: on disk, bounded, in the order in which it came.
//!
//! ```text
//!  take ──▶ queue ──▶ writer (its thread) ─▶ files       record.rs   what stands in a file
//!             │                                          files.rs    the directory, and recovery
//!             └──▶ forwarder ──▶ a server                sender.rs   under which numbers it is sent
//!                     │                                  queue.rs    what was taken, sent, acknowledged
//!             answer ◀┘  or 202 once it is flushed       writer.rs   who writes
//! ```
//!
//! A record is written when it is taken and flushed only when its publisher is to be answered without
//! the timeline: while servers are there, their acknowledgement is the durability.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::answer::{Answer, NotTaken};
use crate::config::{Clock, SpoolConfig};
use crate::files::{self, Files, SpoolError};
use crate::queue::{Next, Queue};
use crate::sender::{self, Sender};
use crate::writer::{Disk, Order, Writer};

/// The spool of an agent. A handle: clones are the same one.
#[derive(Clone)]
pub(crate) struct Spool {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    directory: PathBuf,
    clock: Clock,
    /// Also the order in which records go to the writer.
    pub(crate) queue: Mutex<Queue>,
    orders: mpsc::UnboundedSender<Order>,
    disk: watch::Receiver<Disk>,
    /// Told when something was taken.
    taken: Notify,
    writing: Mutex<Option<JoinHandle<()>>>,
}

/// What the spool of an agent holds.
#[derive(Clone, Debug)]
pub struct SpoolStatus {
    /// Bytes of what the timeline does not have.
    pub bytes: u64,
    /// How many there may be.
    pub bytes_max: u64,
    /// Transactions that the timeline does not have.
    pub transactions: u64,
    /// Why nothing can be written now.
    pub failed: Option<String>,
    /// Under which name they are sent.
    pub sender: String,
    /// And in which epoch the oldest of them.
    pub epoch: Option<u64>,
}

/// The time of this machine, as epochs are counted.
fn micros(clock: &Clock) -> u64 {
    u64::try_from(clock().as_unix_micros()).unwrap_or(0)
}

impl Spool {
    /// Takes the directory, reads what is in it, and begins an epoch for what comes. Blocks; what
    /// writes runs at `home`.
    pub(crate) fn open(config: &SpoolConfig, home: &Handle) -> Result<Spool, SpoolError> {
        let directory: &Path = &config.directory;
        let (files, found) = Files::open(directory, config.file_bytes)?;
        if found.cut > 0 {
            tracing::warn!(
                bytes = found.cut,
                "the end of the spool was torn by a crash and was cut: nothing in it was answered"
            );
        }
        let place = sender::home_of(directory).map_err(|source| SpoolError::Io {
            path: directory.to_owned(),
            source,
        })?;
        let mut sender = found.sender.clone().unwrap_or_else(|| Sender {
            id: tidings_host::ulid().to_string(),
            home: place.clone(),
            epochs: Vec::new(),
        });
        sender.move_to(&place);
        sender.forget(found.acknowledged);
        let now = micros(&config.clock);
        if sender.epoch_of(found.acknowledged + 1).is_none() && found.last > found.acknowledged {
            tracing::warn!(
                transactions = found.last - found.acknowledged,
                "nobody knows under which numbers the spool was sent: it is sent anew, and what was sent just before may be on the timeline twice"
            );
            sender.begin(found.acknowledged + 1, now);
        }
        // Behind a hole another count begins: its numbers would have the hole, too.
        let later: Vec<u64> = found.holes.iter().map(|(_, to)| to + 1).collect();
        for first in later.into_iter().chain([found.last + 1]) {
            if sender
                .epoch_of(first)
                .is_none_or(|epoch| epoch.first != first)
                || first > found.last
            {
                let later = sender.epochs.iter().filter(|epoch| epoch.first > first);
                let kept: Vec<u64> = later.map(|epoch| epoch.first).collect();
                sender.begin(first, now);
                // Counts behind it are begun anew, as they have to be greater.
                for first in kept {
                    sender.begin(first, now);
                }
            }
        }
        let path = directory.join("sender");
        sender
            .write(&path)
            .map_err(|source| SpoolError::Io { path, source })?;
        let mut queue = Queue::new(&found, sender, config.bytes_max);
        queue.skip_holes();
        let (orders, received) = mpsc::unbounded_channel();
        let (told, disk) = watch::channel(Disk {
            flushed: found.last,
            failed: None,
        });
        let inner = Arc::new(Inner {
            directory: directory.to_owned(),
            clock: Arc::clone(&config.clock),
            queue: Mutex::new(queue),
            orders,
            disk,
            taken: Notify::new(),
            writing: Mutex::new(None),
        });
        let writer = Writer::new(files, received, Arc::downgrade(&inner), told, &found);
        let writing = tidings_host::spawn_blocking_future(home, writer.run());
        *inner.writing.lock() = Some(writing);
        Ok(Spool { inner })
    }

    /// Takes transactions, and says at which position they begin.
    pub(crate) fn take(
        &self,
        lines: Vec<Bytes>,
    ) -> Result<(u64, oneshot::Receiver<Vec<Answer>>), NotTaken> {
        let mut queue = self.inner.queue.lock();
        let taken = queue.take(&lines)?;
        // Under the lock: records come to the writer in their order.
        let _ = self.inner.orders.send(Order::Append(taken.0, lines));
        drop(queue);
        self.inner.taken.notify_one();
        Ok(taken)
    }

    /// Why nothing can be written now.
    pub(crate) fn failed(&self) -> Option<String> {
        self.inner.disk.borrow().failed.clone()
    }

    /// Waits until everything up to a position is durable.
    pub(crate) async fn flush(&self, position: u64) -> Result<(), String> {
        let mut disk = self.inner.disk.clone();
        let _ = self.inner.orders.send(Order::Flush);
        loop {
            {
                let disk = disk.borrow_and_update();
                if disk.flushed >= position {
                    return Ok(());
                }
                if let Some(reason) = &disk.failed {
                    return Err(reason.clone());
                }
            }
            if disk.changed().await.is_err() {
                return Err(String::from("the agent is stopping"));
            }
        }
    }

    /// The last position that was taken.
    pub(crate) fn last(&self) -> u64 {
        self.inner.queue.lock().last()
    }

    /// The last position that the timeline has.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.inner.queue.lock().acknowledged()
    }

    /// Waits until something was taken beyond a position.
    pub(crate) async fn wait_beyond(&self, position: u64) {
        loop {
            let taken = self.inner.taken.notified();
            if self.last() > position {
                return;
            }
            taken.await;
        }
    }

    /// What stands at a position and behind it; nothing when nothing was taken that far.
    pub(crate) async fn read(&self, position: u64) -> std::io::Result<Vec<Bytes>> {
        match self.inner.queue.lock().at(position) {
            Next::Line(line) => return Ok(vec![line]),
            Next::Nothing => return Ok(Vec::new()),
            Next::OnDisk => {}
        }
        let directory = self.inner.directory.clone();
        tidings_host::spawn_blocking(move || files::read_from(&directory, position))
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }

    /// The timeline has decided about the oldest record.
    pub(crate) fn acknowledge(&self, line_bytes: usize, answer: Answer) {
        // The writer looks how far it is by itself, once in a while.
        self.inner.queue.lock().acknowledge(line_bytes, answer);
    }

    /// What was decided of what begins at a position, for a caller that waits no longer.
    pub(crate) fn give_up(&self, first: u64) -> Vec<Answer> {
        self.inner.queue.lock().give_up(first)
    }

    /// Whether somebody waits for the outcome of a position.
    pub(crate) fn is_awaited(&self, position: u64) -> bool {
        self.inner.queue.lock().is_awaited(position)
    }

    /// Name, epoch and number under which a position is sent, and the last position of that count.
    pub(crate) fn numbers_of(&self, position: u64) -> Option<(String, u64, u64, Option<u64>)> {
        let queue = self.inner.queue.lock();
        let epoch = queue.sender().epoch_of(position)?;
        Some((
            epoch.id.clone(),
            epoch.epoch,
            position - epoch.first + 1,
            queue.end_of_run(position),
        ))
    }

    /// Begins a new epoch at a position, durably: nothing is sent under it before. Under a new name, if
    /// `renamed`.
    pub(crate) async fn begin_epoch(&self, first: u64, renamed: bool) -> Result<(), String> {
        // Nobody else changes it.
        let mut sender = self.inner.queue.lock().sender().clone();
        if renamed {
            sender.rename();
        }
        sender.begin(first, micros(&self.inner.clock));
        let (done, written) = oneshot::channel();
        let _ = self.inner.orders.send(Order::Sender(sender.clone(), done));
        written
            .await
            .unwrap_or_else(|_| Err(String::from("the agent is stopping")))?;
        self.inner.queue.lock().set_sender(sender);
        Ok(())
    }

    /// Keeps a line about a transaction that was refused for good, durably.
    pub(crate) async fn keep_refused(&self, line: String) -> Result<(), String> {
        let (done, written) = oneshot::channel();
        let _ = self.inner.orders.send(Order::Refused(line, done));
        written
            .await
            .unwrap_or_else(|_| Err(String::from("the agent is stopping")))
    }

    /// What it holds.
    pub(crate) fn status(&self) -> SpoolStatus {
        let queue = self.inner.queue.lock();
        let next = queue.acknowledged() + 1;
        SpoolStatus {
            bytes: queue.bytes(),
            bytes_max: queue.bytes_max(),
            transactions: queue.last() - queue.acknowledged(),
            failed: self.failed(),
            sender: queue.sender().id.clone(),
            epoch: queue.sender().epoch_of(next).map(|epoch| epoch.epoch),
        }
    }

    /// Writes everything down and lets the directory go.
    pub(crate) async fn stop(&self) {
        let _ = self.inner.orders.send(Order::Stop);
        let writing = self.inner.writing.lock().take();
        if let Some(writing) = writing {
            let _ = writing.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_event::Index;
    use tidings_timeline::Outcome;

    fn lines(from: u64, to: u64) -> Vec<Bytes> {
        (from..=to)
            .map(|position| Bytes::from(format!("line {position}")))
            .collect()
    }

    fn try_open(directory: &tempfile::TempDir) -> Result<Spool, SpoolError> {
        let mut config = SpoolConfig::new(directory.path().to_owned());
        config.bytes_max = 1 << 20;
        Spool::open(&config, &Handle::current())
    }

    fn open(directory: &tempfile::TempDir) -> Spool {
        try_open(directory).unwrap()
    }

    #[tokio::test]
    async fn what_was_taken_is_sent_under_the_same_numbers_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let spool = open(&directory);
        spool.take(lines(1, 3)).unwrap();
        spool.flush(3).await.unwrap();
        let before = spool.numbers_of(2).unwrap();
        assert_eq!((before.2, before.3), (2, None));
        spool.acknowledge(6, Answer::Outcome(Outcome::Published { index: Index(1) }));
        spool.stop().await;
        drop(spool);
        let spool = open(&directory);
        assert_eq!((spool.acknowledged(), spool.last()), (1, 3));
        assert_eq!(spool.read(2).await.unwrap(), lines(2, 3));
        let after = spool.numbers_of(2).unwrap();
        assert_eq!((&after.0, after.1, after.2), (&before.0, before.1, 2));
        assert_eq!(after.3, Some(3), "what comes now is of another epoch");
        let (first, _) = spool.take(lines(4, 4)).unwrap();
        let new = spool.numbers_of(first).unwrap();
        assert!(new.1 > before.1);
        assert_eq!((first, new.2), (4, 1));
        spool.stop().await;
    }

    #[tokio::test]
    async fn an_epoch_that_was_begun_outlives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let spool = open(&directory);
        spool.take(lines(1, 4)).unwrap();
        spool.begin_epoch(3, false).await.unwrap();
        let begun = spool.numbers_of(4).unwrap();
        assert_eq!(begun.2, 2);
        assert_eq!(spool.numbers_of(2).unwrap().3, Some(2));
        spool.stop().await;
        drop(spool);
        let spool = open(&directory);
        let again = spool.numbers_of(4).unwrap();
        assert_eq!((again.1, again.2), (begun.1, 2));
        spool.keep_refused("{}\n".to_owned()).await.unwrap();
        assert!(directory.path().join("refused.ndjson").exists());
        spool.stop().await;
    }

    #[tokio::test]
    async fn a_file_that_was_moved_away_ends_a_count() {
        let directory = tempfile::tempdir().unwrap();
        let mut sizes = Vec::new();
        for first in [1, 3, 5] {
            let spool = open(&directory);
            spool.take(lines(first, first + 1)).unwrap();
            spool.stop().await;
            sizes.push(first);
        }
        std::fs::remove_file(directory.path().join(format!("{:020}.spool", 3))).unwrap();
        let spool = open(&directory);
        let one = spool.numbers_of(1).unwrap();
        assert_eq!(one.3, Some(2));
        let five = spool.numbers_of(5).unwrap();
        assert!(five.1 > one.1);
        assert_eq!((five.2, five.3), (1, Some(6)));
        for _ in 0..2 {
            spool.acknowledge(6, Answer::Spooled);
        }
        assert_eq!(spool.acknowledged(), 4, "nobody waits for what is gone");
        spool.stop().await;
    }

    #[tokio::test]
    async fn a_copy_elsewhere_gives_its_numbers_another_name() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let spool = open(&here);
        spool.take(lines(1, 2)).unwrap();
        let before = spool.numbers_of(1).unwrap();
        spool.stop().await;
        drop(spool);
        for file in std::fs::read_dir(here.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), there.path().join(file.file_name())).unwrap();
        }
        let (one, other) = (open(&here), open(&there));
        for spool in [&one, &other] {
            assert_eq!(
                spool
                    .numbers_of(1)
                    .map(|numbers| (numbers.0, numbers.1, numbers.2)),
                Some((before.0.clone(), before.1, 1)),
                "what both hold is the same"
            );
            spool.take(lines(3, 3)).unwrap();
        }
        let (one, other) = (one.numbers_of(3).unwrap(), other.numbers_of(3).unwrap());
        assert_eq!(one.0, before.0);
        assert_ne!(other.0, one.0);
    }

    #[tokio::test]
    async fn a_sender_file_that_is_gone_begins_anew_and_one_that_is_cut_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let spool = open(&directory);
        spool.take(lines(1, 2)).unwrap();
        let before = spool.numbers_of(1).unwrap();
        spool.stop().await;
        drop(spool);
        let path = directory.path().join("sender");
        std::fs::write(&path, "nonsense").unwrap();
        let refused = try_open(&directory);
        assert!(matches!(refused, Err(SpoolError::Sender { .. })));
        std::fs::remove_file(&path).unwrap();
        let spool = open(&directory);
        let after = spool.numbers_of(1).unwrap();
        assert_ne!(after.0, before.0);
        assert_eq!(after.2, 1);
        spool.stop().await;
    }
}
