//! The entries of a topic, again whenever they change.

use std::time::Duration;

use tidings_event::Index;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::ClientError;
use crate::publish::wait_before_retry;
use crate::state::Entry;
use crate::state_list::{Blocking, ListRequest};

/// How long one request waits for a change; then it is asked anew, which costs next to nothing.
const WAIT: Duration = Duration::from_secs(60);

/// All entries that were asked for, as of an index.
#[derive(Clone, Debug)]
pub struct StateView {
    /// The index of the topic's last change.
    pub index: Index,
    /// The entries, all pages of them.
    pub entries: Vec<Entry>,
}

/// Yields the entries at once, and again after every change (a Nomad-style blocking query under
/// the hood). Changes in quick succession may be seen as one.
#[derive(Debug)]
pub struct StateWatch {
    client: Client,
    topic: String,
    request: ListRequest,
    seen: Index,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

impl Client {
    /// Watches the entries of a topic.
    pub fn state_watch(&self, topic: &str, request: ListRequest) -> StateWatch {
        let config = self.config();
        StateWatch {
            backoff: Backoff::new(config.retry_delay, config.retry_delay_max),
            client: self.clone(),
            topic: topic.to_owned(),
            request,
            seen: Index::ZERO,
            retry_at: None,
        }
    }
}

impl StateWatch {
    /// Waits for the first view, or for the next change. Lost connections are waited out.
    ///
    /// # Errors
    /// What the agent refused.
    pub async fn next(&mut self) -> Result<StateView, ClientError> {
        loop {
            if let Some(at) = self.retry_at {
                tokio::time::sleep_until(at).await;
                self.retry_at = None;
            }
            match self.ask().await {
                Ok(Some(view)) => {
                    self.backoff.reset();
                    return Ok(view);
                }
                Ok(None) => self.backoff.reset(),
                Err(error) if error.is_transient() => {
                    let delay = wait_before_retry(&mut self.backoff, &error);
                    tracing::debug!(?delay, %error, topic = self.topic, "watching again");
                    self.retry_at = Some(Instant::now() + delay);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One blocking query; `None` when its wait was over without a change.
    async fn ask(&mut self) -> Result<Option<StateView>, ClientError> {
        let blocking = (self.seen > Index::ZERO).then_some(Blocking {
            index: self.seen,
            wait: WAIT,
        });
        let first = self
            .client
            .state_page(&self.topic, &self.request, None, blocking)
            .await?;
        if blocking.is_some() && first.index == self.seen {
            return Ok(None);
        }
        let mut entries = first.entries;
        let mut token = first.next_token;
        while let Some(next) = token {
            let page = self
                .client
                .state_page(&self.topic, &self.request, Some(&next), None)
                .await?;
            entries.extend(page.entries);
            token = page.next_token;
        }
        // An index that went back means another history: not to be waited on (Nomad's clients
        // start again at 0 then), and index 0 would not block at all.
        self.seen = first.index.max(Index::FIRST);
        Ok(Some(StateView {
            index: first.index,
            entries,
        }))
    }
}
