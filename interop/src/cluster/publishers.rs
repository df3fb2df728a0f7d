//! Programs that publish, one event after the other, whatever happens to the servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::CLUSTER_TIMEOUT;
use super::account::{Account, Taken};
use crate::http::request_within;

/// How long an answer may take before the same event is sent to somebody else.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// After an attempt that came to nothing.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Between two events, so that the programs that break things have a processor too.
const PAUSE: Duration = Duration::from_millis(2);
/// What makes events large enough to fill segments.
const FILL_BYTES: usize = 4_000;
/// The topic of everything that is published.
pub const TOPIC: &str = "Load";

/// One publisher.
pub struct Publisher {
    /// Its name, the beginning of its ids.
    pub name: String,
    /// Whom it sends to, one after the other when one fails.
    pub addresses: Vec<SocketAddr>,
    /// Ends it.
    pub stops: Arc<AtomicBool>,
    /// Counts what was taken, of all publishers.
    pub progress: Arc<AtomicU64>,
    /// Counts what is on the timeline.
    pub acknowledged: Arc<AtomicU64>,
}

impl Publisher {
    /// Publishes until it is stopped.
    ///
    /// # Errors
    /// An event is not taken for too long, or refused as wrong.
    pub fn run(self) -> Result<Account> {
        let mut account = Account {
            publisher: self.name.clone(),
            taken: Vec::new(),
        };
        let mut to = 0;
        while !self.stops.load(Ordering::Relaxed) {
            let id = Account::id(&self.name, account.taken.len());
            let taken = publish(&id, &self.addresses, &mut to)?;
            account.taken.push(taken);
            if taken != Taken::Kept {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            self.progress.fetch_add(1, Ordering::Relaxed);
            sleep(PAUSE);
        }
        Ok(account)
    }
}

/// Publishes one event, to one address after the other until one takes it.
///
/// # Errors
/// Nobody takes it for too long, or it is refused as wrong.
pub fn publish(id: &str, addresses: &[SocketAddr], to: &mut usize) -> Result<Taken> {
    let event = json!({ "Topic": TOPIC, "Type": "Published", "Key": id, "Id": id,
                        "Payload": { "Fill": "x".repeat(FILL_BYTES) } });
    let body = json!({ "Events": [event] }).to_string();
    let deadline = Instant::now() + CLUSTER_TIMEOUT;
    loop {
        let address = addresses[*to % addresses.len()];
        let failure = match attempt(address, body.as_bytes())? {
            Ok(taken) => return Ok(taken),
            Err(failure) => failure,
        };
        if Instant::now() > deadline {
            bail!("{id} was not taken within {CLUSTER_TIMEOUT:?}; at last: {failure}");
        }
        *to += 1;
        sleep(RETRY_DELAY);
    }
}

/// One attempt: taken, or a reason to try again.
fn attempt(address: SocketAddr, body: &[u8]) -> Result<Result<Taken, String>> {
    let headers = [("Content-Type", "application/json")];
    let answer = request_within(
        ANSWER_TIMEOUT,
        address,
        "POST",
        "/v1/events",
        &headers,
        body,
    );
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Ok(Err(format!("{address}: {error:#}"))),
    };
    match answer.status {
        200 | 202 => {
            let said: Value = serde_json::from_slice(&answer.body)
                .with_context(|| format!("not JSON: {}", answer.text()))?;
            match said["Index"].as_u64() {
                Some(index) => Ok(Ok(Taken::At(index))),
                None if said["Spooled"] == true => Ok(Ok(Taken::Kept)),
                None => bail!("{address} answered {said}"),
            }
        }
        429 | 500..600 => Ok(Err(format!("{address}: {}", answer.text()))),
        status => bail!(
            "{address} refused an event with {status}: {}",
            answer.text()
        ),
    }
}
