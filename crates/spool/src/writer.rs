//! Writes the files of the spool, on a thread that may wait for the disk.

use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use tidings_host::Instant;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::files::{Files, Found, WriteError};
use crate::sender::Sender;
use crate::spool::Inner;

/// How often a disk that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How often it is written down at most how far the timeline is: what is sent again after a crash is
/// known there.
const ACKNOWLEDGED_PAUSE: Duration = Duration::from_millis(200);

/// How far the files are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) flushed: u64,
    /// Why nothing can be written now.
    pub(crate) failed: Option<String>,
}

/// What the writer is asked to do.
pub(crate) enum Order {
    Append(u64, Vec<Bytes>),
    Flush,
    Sender(Sender, oneshot::Sender<Result<(), String>>),
    Refused(String, oneshot::Sender<Result<(), String>>),
    Stop,
}

/// The one who writes.
pub(crate) struct Writer {
    files: Files,
    orders: mpsc::UnboundedReceiver<Order>,
    spool: Weak<Inner>,
    told: watch::Sender<Disk>,
    /// Taken and not in a file yet.
    pending: Vec<Bytes>,
    pending_first: u64,
    flush: bool,
    /// Written down, and when.
    acknowledged: u64,
    noted: Instant,
    /// A flush failed: what is in the files is not known any more.
    broken: bool,
}

impl Writer {
    /// Writes what comes by `orders`, and tells how far it is.
    pub(crate) fn new(
        files: Files,
        orders: mpsc::UnboundedReceiver<Order>,
        spool: Weak<Inner>,
        told: watch::Sender<Disk>,
        found: &Found,
    ) -> Writer {
        Writer {
            files,
            orders,
            spool,
            told,
            pending: Vec::new(),
            pending_first: found.last + 1,
            flush: false,
            acknowledged: found.acknowledged,
            noted: Instant::now(),
            broken: false,
        }
    }

    /// Until it is told to stop, or nobody is left to tell it.
    pub(crate) async fn run(mut self) {
        let mut is_over = false;
        while !is_over {
            let waits = !self.pending.is_empty() || self.acknowledged + 1 < self.pending_first;
            let order = match waits {
                true => match timeout(self.pause(), self.orders.recv()).await {
                    Ok(order) => Some(order.unwrap_or(Order::Stop)),
                    Err(_) => None,
                },
                false => Some(self.orders.recv().await.unwrap_or(Order::Stop)),
            };
            let mut next = order;
            while let Some(order) = next {
                is_over |= self.take(order);
                next = self.orders.try_recv().ok();
            }
            if self.flush {
                tidings_host::flush_takes(self.files.directory()).await;
            }
            self.write(is_over);
        }
    }

    fn pause(&self) -> Duration {
        match self.pending.is_empty() {
            true => ACKNOWLEDGED_PAUSE,
            false => RETRY_PAUSE,
        }
    }

    /// Whether it was the last order.
    fn take(&mut self, order: Order) -> bool {
        match order {
            Order::Append(first, lines) => {
                if self.pending.is_empty() {
                    self.pending_first = first;
                }
                self.pending.extend(lines);
            }
            Order::Flush => self.flush = true,
            Order::Sender(sender, done) => {
                let path = self.files.directory().join("sender");
                let _ = done.send(sender.write(&path).map_err(|error| error.to_string()));
            }
            Order::Refused(line, done) => {
                let kept = self.files.keep_refused(&line);
                let _ = done.send(kept.map_err(|error| error.to_string()));
            }
            Order::Stop => {
                self.flush = true;
                return true;
            }
        }
        false
    }

    fn write(&mut self, is_over: bool) {
        if self.broken {
            return;
        }
        if !self.pending.is_empty() {
            if let Err(error) = self.files.append(self.pending_first, &self.pending) {
                self.broken = matches!(error, WriteError::Flush(_));
                self.fail(error.to_string());
                return;
            }
            let last = self.pending_first + self.pending.len() as u64 - 1;
            self.pending_first = last + 1;
            self.pending.clear();
            if let Some(spool) = self.spool.upgrade() {
                spool.queue.lock().written(last);
            }
        }
        if self.flush {
            if let Err(error) = self.files.flush() {
                self.broken = true;
                self.fail(error.to_string());
                return;
            }
            self.flush = false;
            let last = self.pending_first.saturating_sub(1);
            self.told.send_modify(|disk| {
                disk.flushed = disk.flushed.max(last);
                disk.failed = None;
            });
        } else if self.told.borrow().failed.is_some() {
            self.told.send_modify(|disk| disk.failed = None);
        }
        if !is_over && self.noted.elapsed() < ACKNOWLEDGED_PAUSE {
            return;
        }
        self.noted = Instant::now();
        let Some(spool) = self.spool.upgrade() else {
            return;
        };
        // Never beyond what is in the files: the rest is still to be written.
        let acknowledged = spool.queue.lock().acknowledged();
        let position = acknowledged.min(self.pending_first.saturating_sub(1));
        if position > self.acknowledged {
            match self.files.acknowledge(position) {
                Ok(()) => self.acknowledged = position,
                Err(error @ WriteError::Flush(_)) => {
                    self.broken = true;
                    self.fail(error.to_string());
                }
                // It is only sent again; tried with the next.
                Err(error) => {
                    tracing::warn!(%error, "the spool cannot note how far the timeline is");
                }
            }
        }
    }

    fn fail(&mut self, reason: String) {
        if self.told.borrow().failed.is_none() {
            tracing::error!(reason, "the spool cannot be written");
        }
        self.told.send_modify(|disk| disk.failed = Some(reason));
    }
}
