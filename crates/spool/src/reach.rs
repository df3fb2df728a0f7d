//! Whether servers take what is sent.

use std::sync::Arc;

use tokio::sync::watch;

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Nothing was tried yet.
    Unknown,
    /// The last that was sent was taken.
    Yes,
    /// It was not, because of this.
    Lost(String),
}

/// What is known of servers being reached. A handle: clones are the same.
#[derive(Clone, Debug)]
pub struct Reach {
    reached: Arc<watch::Sender<Reached>>,
}

impl Default for Reach {
    fn default() -> Reach {
        Reach {
            reached: Arc::new(watch::Sender::new(Reached::Unknown)),
        }
    }
}

impl Reach {
    /// As of now.
    pub fn now(&self) -> Reached {
        self.reached.borrow().clone()
    }

    /// Whether the last that was tried failed.
    pub fn is_lost(&self) -> bool {
        matches!(*self.reached.borrow(), Reached::Lost(_))
    }

    /// One took what was sent.
    pub fn reached(&self) {
        let news = self.reached.send_if_modified(|reached| {
            let news = *reached != Reached::Yes;
            *reached = Reached::Yes;
            news
        });
        if news {
            tracing::info!("a server is reached");
        }
    }

    /// None takes it, because of this.
    pub fn lost(&self, reason: String) {
        let news = self.reached.send_if_modified(|reached| {
            let news = !matches!(reached, Reached::Lost(_));
            *reached = Reached::Lost(reason.clone());
            news
        });
        if news {
            tracing::warn!(
                reason,
                "no server is reached: what is taken is kept on disk"
            );
        }
    }
}
