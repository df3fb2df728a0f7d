use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::answer::{Answer, NotTaken, Unknown};
use crate::config::SpoolConfig;
use crate::files::SpoolError;
use crate::forwarder::{Counts, Forwarder};
use crate::reach::Reach;
use crate::spool::{Spool, SpoolStatus};
use crate::upstream::Upstream;

/// What local programs hand to an agent goes in here, and from here to the timeline. A handle: clones
/// are the same one; sending ends with the last.
#[derive(Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

struct Inner {
    spool: Spool,
    reach: Reach,
    counts: Arc<Counts>,
    answer_within: Duration,
    stop: CancellationToken,
    forwarding: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Outbox {
    /// Opens the spool and begins to send what is in it. `reach` is told how that goes, `newest` which
    /// frames are heard of.
    ///
    /// # Errors
    /// When the spool cannot be used. Nothing that was taken is lost by that.
    pub async fn start(
        config: SpoolConfig,
        upstream: impl Upstream,
        reach: Reach,
        newest: Arc<AtomicU64>,
    ) -> Result<Outbox, SpoolError> {
        let (home, directory) = (Handle::current(), config.directory.clone());
        let answer_within = config.answer_within;
        let opened = tidings_host::spawn_blocking(move || Spool::open(&config, &home)).await;
        let spool = opened.map_err(|error| SpoolError::Io {
            path: directory,
            source: std::io::Error::other(error),
        })??;
        let (counts, stop) = (Arc::new(Counts::default()), CancellationToken::new());
        let forwarder = Forwarder {
            spool: spool.clone(),
            upstream,
            reach: reach.clone(),
            counts: Arc::clone(&counts),
            newest,
        };
        let forwarding = tokio::spawn(forwarder.run(stop.clone()));
        Ok(Outbox {
            inner: Arc::new(Inner {
                spool,
                reach,
                counts,
                answer_within,
                stop,
                forwarding: Mutex::new(Some(forwarding)),
            }),
        })
    }

    /// Takes transactions, a line each: their place in the order is taken now. What comes back gives
    /// one answer for each; dropped, nobody waits for the answers and what was taken stays taken.
    ///
    /// # Errors
    /// [`NotTaken`]: nothing was.
    pub fn take(
        &self,
        lines: Vec<Bytes>,
    ) -> Result<impl Future<Output = Result<Vec<Answer>, Unknown>> + Send + use<>, NotTaken> {
        let spool = &self.inner.spool;
        if let Some(reason) = spool.failed() {
            return Err(NotTaken::Failed { reason });
        }
        let count = lines.len();
        let (first, mut answers) = spool.take(lines)?;
        let waiting = Waiting {
            spool: spool.clone(),
            first,
        };
        let (reach, within) = (self.inner.reach.clone(), self.inner.answer_within);
        Ok(async move {
            let spool = &waiting.spool;
            // While no server is reached nobody is kept waiting for one.
            let wait = match reach.is_lost() {
                true => Duration::ZERO,
                false => within,
            };
            if let Ok(Ok(answers)) = timeout(wait, &mut answers).await {
                return Ok(answers);
            }
            let last = first + count as u64 - 1;
            spool
                .flush(last)
                .await
                .map_err(|reason| Unknown { reason })?;
            let mut decided = spool.give_up(first);
            if decided.is_empty()
                && let Ok(all) = answers.try_recv()
            {
                decided = all;
            }
            decided.resize(count, Answer::Spooled);
            Ok(decided)
        })
    }

    /// What the spool holds.
    pub fn status(&self) -> SpoolStatus {
        self.inner.spool.status()
    }

    /// What happened since the start.
    pub fn counts(&self) -> &Counts {
        &self.inner.counts
    }

    /// Ends sending, and writes down how far the timeline is. What was taken stays in the spool.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        let forwarding = self.inner.forwarding.lock().take();
        if let Some(forwarding) = forwarding {
            let _ = forwarding.await;
        }
        self.inner.spool.stop().await;
    }
}

/// Somebody waits for the outcome of what begins at a position. When it goes away, nobody does.
struct Waiting {
    spool: Spool,
    first: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.spool.give_up(self.first);
    }
}
