//! One transaction, tried until it is acknowledged or the time for it is over.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use tidings_event::Index;
use tokio::time::Instant;

use crate::backoff::{self, Backoff};
use crate::client::{Client, Here};
use crate::error::{ClientError, Tried};
use crate::transaction::Transaction;

/// A transaction that is taken, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Answer")]
pub struct Published {
    /// Where it stands on the timeline. [`Index::ZERO`] while that is not known: see `spooled`.
    pub index: Index,
    /// Whether it stood there before: the same ids had come already.
    pub duplicate: bool,
    /// No server could be reached: the agent has it on its disk, and it enters the timeline later,
    /// once and in the order in which the agent took it.
    pub spooled: bool,
}

/// A [`Published`] as it is answered.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    index: Option<Index>,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    spooled: bool,
}

impl TryFrom<Answer> for Published {
    type Error = &'static str;

    fn try_from(answer: Answer) -> Result<Published, &'static str> {
        if answer.index.is_none() && !answer.spooled {
            return Err("neither an index nor spooled");
        }
        Ok(Published {
            index: answer.index.unwrap_or_default(),
            duplicate: answer.duplicate,
            spooled: answer.spooled,
        })
    }
}

impl Client {
    /// Publishes one transaction and waits until it is durable.
    ///
    /// Lost connections and lost answers, 429 and 502 to 504 are tried again with growing waits, for
    /// at most `retry_time` of the settings; `Retry-After` is honoured. A server that does not answer is
    /// left for another one at once. The ids in the transaction make a repeat harmless, also one by the
    /// caller after an error.
    ///
    /// # Errors
    /// [`ClientError::GaveUp`] when it was tried to the end of that time; else what the agent
    /// refused.
    pub async fn publish(&self, transaction: &Transaction) -> Result<Published, ClientError> {
        let config = self.config();
        let started = Instant::now();
        let mut backoff = Backoff::new(config.retry_delay, config.retry_delay_max);
        let mut tries = 0;
        let mut tried = Tried::default();
        loop {
            let here = self.here();
            let error = match publish_at(&here, transaction).await {
                Ok(published) => {
                    here.worked(false);
                    return Ok(published);
                }
                Err(error) => error,
            };
            tries += 1;
            if !error.is_transient() {
                return Err(error);
            }
            tried.note(here.address(), &error);
            let delay = if here.failed(&error) {
                backoff::up_to(config.retry_delay)
            } else {
                wait_before_retry(&mut backoff, &error)
            };
            let spent = started.elapsed();
            if spent + delay > config.retry_time {
                return Err(ClientError::GaveUp {
                    tries,
                    spent,
                    last: Box::new(tried.into_error(error)),
                });
            }
            tracing::debug!(tries, ?delay, %error, "publishing again");
            tokio::time::sleep(delay).await;
        }
    }
}

async fn publish_at(here: &Here, transaction: &Transaction) -> Result<Published, ClientError> {
    // The agent takes a bare event on the line form only.
    let whole = transaction.line().starts_with(br#"{"Events":"#);
    let body = if whole {
        transaction.line().clone()
    } else {
        [br#"{"Events":["#, transaction.line().as_ref(), b"]}"]
            .concat()
            .into()
    };
    let request = here
        .request(Method::POST, here.url(&["v1", "events"], &[]))
        .header(CONTENT_TYPE, "application/json")
        .body(body);
    here.exchange_json(request).await
}

/// The schedule's wait, or the agent's when it asks for a longer one.
pub(crate) fn wait_before_retry(backoff: &mut Backoff, error: &ClientError) -> Duration {
    let delay = backoff.next_delay();
    error.retry_after().map_or(delay, |asked| asked.max(delay))
}
