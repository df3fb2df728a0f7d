//! One transaction, tried until it is acknowledged or the time for it is over.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use tidings_event::Index;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::ClientError;
use crate::transaction::Transaction;

/// A transaction that is on the timeline, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Published {
    /// Where it stands.
    pub index: Index,
    /// Whether it stood there before: the same ids had come already.
    #[serde(default)]
    pub duplicate: bool,
}

impl Client {
    /// Publishes one transaction and waits until it is durable.
    ///
    /// Lost connections and lost answers, 429 and 502 to 504 are tried again with growing waits, for
    /// at most `retry_time` of the settings; `Retry-After` is honoured. The ids in the transaction
    /// make a repeat harmless, also one by the caller after an error.
    ///
    /// # Errors
    /// [`ClientError::GaveUp`] when it was tried to the end of that time; else what the agent
    /// refused.
    pub async fn publish(&self, transaction: &Transaction) -> Result<Published, ClientError> {
        let config = self.config();
        let started = Instant::now();
        let mut backoff = Backoff::new(config.retry_delay, config.retry_delay_max);
        let mut tries = 0;
        loop {
            let error = match self.publish_once(transaction).await {
                Ok(published) => return Ok(published),
                Err(error) => error,
            };
            tries += 1;
            if !error.is_transient() {
                return Err(error);
            }
            let delay = wait_before_retry(&mut backoff, &error);
            let spent = started.elapsed();
            if spent + delay > config.retry_time {
                return Err(ClientError::GaveUp {
                    tries,
                    spent,
                    last: Box::new(error),
                });
            }
            tracing::debug!(tries, ?delay, %error, "publishing again");
            tokio::time::sleep(delay).await;
        }
    }

    async fn publish_once(&self, transaction: &Transaction) -> Result<Published, ClientError> {
        // The agent takes a bare event on the line form only.
        let whole = transaction.line().starts_with(br#"{"Events":"#);
        let body = if whole {
            transaction.line().clone()
        } else {
            [br#"{"Events":["#, transaction.line().as_ref(), b"]}"]
                .concat()
                .into()
        };
        let request = self
            .request(Method::POST, self.url(&["v1", "events"], &[]))
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        self.exchange_json(request).await
    }
}

/// The schedule's wait, or the agent's when it asks for a longer one.
pub(crate) fn wait_before_retry(backoff: &mut Backoff, error: &ClientError) -> Duration {
    let delay = backoff.next_delay();
    error.retry_after().map_or(delay, |asked| asked.max(delay))
}
