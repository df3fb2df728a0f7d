use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tidings_timeline::Outcome;
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, oneshot},
    time,
};

use crate::{config::QueueLimits, error::ProposeError};

/// A group that waits for its place in the log.
pub(crate) struct Waiting {
    /// Encoded commands.
    pub bytes: Bytes,
    /// How many there are.
    pub commands: usize,
    /// Whether it is taken below the free reserve too: because it frees space, or because it is
    /// small and nothing works without it.
    pub takes_reserve: bool,
    /// Whoever asked.
    pub answer: oneshot::Sender<Result<Vec<Outcome>, ProposeError>>,
}

/// What waits to be proposed: bounded by groups and by bytes, first come, first served.
pub(crate) struct Queue {
    limits: QueueLimits,
    lines: Mutex<Lines>,
    /// A permit for each group that may still come; forgotten on entry, given back on leaving.
    places: Semaphore,
    /// Rung when a group comes in or the queue closes.
    bell: Notify,
}

#[derive(Default)]
struct Lines {
    groups: VecDeque<Waiting>,
    bytes: usize,
    closed: Option<Arc<str>>,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueDepth {
    pub groups: usize,
    pub bytes: usize,
}

impl Queue {
    pub fn new(limits: QueueLimits) -> Queue {
        Queue {
            places: Semaphore::new(limits.groups_max),
            limits,
            lines: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// Puts `group` at the end. Waits at most `wait_max` for a place.
    pub async fn push(&self, group: Waiting) -> Result<(), ProposeError> {
        let bytes = group.bytes.len();
        self.check(bytes)?;
        // Memory is not waited for: whoever waits holds its bytes already.
        if self.lines.lock().bytes + bytes > self.limits.bytes_max {
            return Err(self.overloaded());
        }
        let place = match self.places.try_acquire() {
            Ok(place) => place,
            Err(_) => self.wait_for_place().await?,
        };
        let mut lines = self.lines.lock();
        if let Some(reason) = &lines.closed {
            return Err(ProposeError::Stopped {
                reason: reason.clone(),
            });
        }
        if lines.bytes + bytes > self.limits.bytes_max {
            return Err(self.overloaded());
        }
        place.forget();
        lines.bytes += bytes;
        let first = lines.groups.is_empty();
        lines.groups.push_back(group);
        drop(lines);
        if first {
            self.bell.notify_one();
        }
        Ok(())
    }

    /// Refuses a group that is too large, and everything once the queue is closed.
    pub fn check(&self, bytes: usize) -> Result<(), ProposeError> {
        if bytes > self.limits.group_bytes_max {
            return Err(ProposeError::TooLarge {
                bytes,
                bytes_max: self.limits.group_bytes_max,
            });
        }
        match &self.lines.lock().closed {
            Some(reason) => Err(ProposeError::Stopped {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    async fn wait_for_place(&self) -> Result<SemaphorePermit<'_>, ProposeError> {
        match time::timeout(self.limits.wait_max, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            // closed: `push` finds the reason; there is none only while closing is underway
            Ok(Err(_)) => Err(ProposeError::Stopped {
                reason: self.closed_reason(),
            }),
            Err(_) => Err(self.overloaded()),
        }
    }

    fn closed_reason(&self) -> Arc<str> {
        self.lines
            .lock()
            .closed
            .clone()
            .unwrap_or_else(|| "shutting down".into())
    }

    fn overloaded(&self) -> ProposeError {
        ProposeError::Overloaded {
            retry_after: self.limits.retry_after,
        }
    }

    /// Waits until there is a group. `false` once the queue is closed and empty.
    pub async fn wait(&self) -> bool {
        loop {
            let rung = self.bell.notified();
            {
                let lines = self.lines.lock();
                if !lines.groups.is_empty() {
                    return true;
                }
                if lines.closed.is_some() {
                    return false;
                }
            }
            rung.await;
        }
    }

    /// Takes what fits into one entry, at least one group if there is any.
    pub fn take(&self) -> Vec<Waiting> {
        let mut lines = self.lines.lock();
        let mut bytes = 0;
        let mut count = 0;
        for group in lines.groups.iter().take(self.limits.batch_groups_max) {
            if count > 0 && bytes + group.bytes.len() > self.limits.batch_bytes_max {
                break;
            }
            bytes += group.bytes.len();
            count += 1;
        }
        lines.bytes -= bytes;
        let taken: Vec<Waiting> = lines.groups.drain(..count).collect();
        drop(lines);
        self.places.add_permits(count);
        taken
    }

    /// Takes nothing more. What waits is still handed out by [`Queue::take`].
    pub fn close(&self, reason: Arc<str>) {
        self.lines.lock().closed.get_or_insert(reason);
        self.places.close();
        self.bell.notify_one();
    }

    /// Answers everything that waits with `error`.
    pub fn refuse_all(&self, error: &ProposeError) {
        let refused = {
            let mut lines = self.lines.lock();
            lines.bytes = 0;
            std::mem::take(&mut lines.groups)
        };
        self.places.add_permits(refused.len());
        for group in refused {
            // whoever asked may have gone
            let _ = group.answer.send(Err(error.clone()));
        }
    }

    pub fn depth(&self) -> QueueDepth {
        let lines = self.lines.lock();
        QueueDepth {
            groups: lines.groups.len(),
            bytes: lines.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limits() -> QueueLimits {
        QueueLimits {
            groups_max: 3,
            bytes_max: 100,
            group_bytes_max: 60,
            wait_max: Duration::from_millis(20),
            batch_bytes_max: 50,
            batch_groups_max: 10,
            ..QueueLimits::default()
        }
    }

    fn group(bytes: usize) -> Waiting {
        let (answer, _) = oneshot::channel();
        Waiting {
            bytes: vec![0; bytes].into(),
            commands: 1,
            takes_reserve: false,
            answer,
        }
    }

    fn sizes(taken: &[Waiting]) -> Vec<usize> {
        taken.iter().map(|group| group.bytes.len()).collect()
    }

    #[tokio::test]
    async fn portions_keep_order_and_size() {
        let queue = Queue::new(limits());
        for bytes in [20, 20, 20] {
            queue.push(group(bytes)).await.unwrap();
        }
        assert_eq!(sizes(&queue.take()), [20, 20]);
        queue.push(group(60)).await.unwrap();
        assert_eq!(sizes(&queue.take()), [20]);
        assert_eq!(sizes(&queue.take()), [60], "larger than a batch, alone");
        assert!(queue.take().is_empty());
        assert_eq!(queue.depth(), QueueDepth::default());
    }

    #[tokio::test]
    async fn limits_are_answered_and_recover() {
        let queue = Queue::new(limits());
        assert!(matches!(
            queue.push(group(61)).await,
            Err(ProposeError::TooLarge {
                bytes: 61,
                bytes_max: 60
            })
        ));
        queue.push(group(60)).await.unwrap();
        let full = queue.push(group(41)).await;
        assert!(
            matches!(full, Err(ProposeError::Overloaded { .. })),
            "bytes"
        );
        queue.push(group(1)).await.unwrap();
        queue.push(group(1)).await.unwrap();
        let full = queue.push(group(1)).await;
        assert!(
            matches!(full, Err(ProposeError::Overloaded { .. })),
            "groups"
        );
        assert_eq!(queue.take().len(), 1);
        queue.push(group(1)).await.unwrap();
    }

    #[tokio::test]
    async fn a_place_that_becomes_free_is_given_to_who_waits() {
        let queue = Arc::new(Queue::new(QueueLimits {
            wait_max: Duration::from_secs(60),
            ..limits()
        }));
        for _ in 0..3 {
            queue.push(group(1)).await.unwrap();
        }
        let late = tokio::spawn({
            let queue = queue.clone();
            async move { queue.push(group(2)).await }
        });
        while queue.take().is_empty() {
            tokio::task::yield_now().await;
        }
        late.await.unwrap().unwrap();
        assert_eq!(sizes(&queue.take()), [2]);
    }

    #[tokio::test]
    async fn a_closed_queue_hands_out_what_it_has() {
        let queue = Queue::new(limits());
        queue.push(group(1)).await.unwrap();
        queue.close("done".into());
        assert!(matches!(
            queue.push(group(1)).await,
            Err(ProposeError::Stopped { .. })
        ));
        assert!(queue.wait().await);
        assert_eq!(queue.take().len(), 1);
        assert!(!queue.wait().await);
    }

    #[tokio::test]
    async fn refusing_answers_everybody() {
        let queue = Queue::new(limits());
        let (answer, answered) = oneshot::channel();
        queue
            .push(Waiting {
                bytes: Bytes::from_static(b"x"),
                commands: 1,
                takes_reserve: false,
                answer,
            })
            .await
            .unwrap();
        let error = ProposeError::NotLeader { leader: Some(2) };
        queue.refuse_all(&error);
        assert_eq!(answered.await.unwrap().unwrap_err(), error);
        assert_eq!(queue.depth(), QueueDepth::default());
    }
}
