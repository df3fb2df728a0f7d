use std::sync::Arc;

use tokio::sync::watch;

/// The first thing that went wrong for good: set once, seen by everybody.
///
/// After it nothing is acknowledged any more; the process is to end with an error and find out at
/// the next start what is on the disk.
#[derive(Clone)]
pub(crate) struct Fault {
    reason: watch::Sender<Option<Arc<str>>>,
}

impl Fault {
    pub fn new() -> Fault {
        Fault {
            reason: watch::Sender::new(None),
        }
    }

    /// Sets the reason, unless there is one already.
    pub fn raise(&self, reason: String) {
        self.reason.send_if_modified(|current| {
            if current.is_some() {
                return false;
            }
            tracing::error!(reason, "the timeline cannot go on");
            *current = Some(reason.into());
            true
        });
    }

    /// The reason, if something went wrong.
    pub fn reason(&self) -> Option<Arc<str>> {
        self.reason.borrow().clone()
    }

    /// Waits until something goes wrong.
    pub async fn raised(&self) -> Arc<str> {
        let mut reason = self.reason.subscribe();
        loop {
            if let Some(reason) = reason.borrow_and_update().clone() {
                return reason;
            }
            // the sender lives in self
            if reason.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
