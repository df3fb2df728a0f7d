//! Sends what the spool holds, in order, to whichever server answers.
//!
//! ```text
//!              ┌──────────── answered to the end of an epoch ───────────┐
//!              ▼                                                        │
//!   something was taken ──▶ sending (many in flight, numbered) ─────────┘
//!              ▲                │            │
//!              │   no server    │            │ numbers do not fit the timeline:
//!              └── a pause ◀────┘            ▼
//!              └───────────────────── a new epoch from the oldest record on
//! ```
//!
//! What is in flight when a connection breaks is sent again under the same numbers, to any server: the
//! timeline takes each number once and in order. One epoch is answered to its end before the next
//! begins, as a later epoch ends those before it.
//!
//! A transaction that is refused for good has its number, but no place in the timeline's count when it
//! was refused before it came there. Then the next one is refused as a gap, which shows that nothing
//! behind it was taken, and all from there on is sent under a new epoch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidings_timeline::Outcome;
use tokio_util::sync::CancellationToken;

use crate::answer::Answer;
use crate::reach::Reach;
use crate::spool::Spool;
use crate::upstream::{Answers as _, NoServer, Numbers, Sending, Upstream};

/// The pause before it is tried again, when trying again may help at once …
const PAUSE: Duration = Duration::from_millis(200);

/// … and when somebody has to do something first.
const PAUSE_LONG: Duration = Duration::from_secs(5);

/// What happened since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Transactions that the timeline took.
    pub forwarded: AtomicU64,
    /// Of those, the ones that it had already.
    pub repeated: AtomicU64,
    /// Transactions that it refused for good.
    pub refused: AtomicU64,
    /// Epochs that were begun because the numbers did not fit the timeline.
    pub renumbered: AtomicU64,
    /// Transactions that were sent anew although they may have been taken before.
    pub in_doubt: AtomicU64,
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// Why sending ended.
enum End {
    /// Everything of the epoch is answered.
    Answered,
    /// No server takes it.
    Lost(NoServer),
    /// The numbers do not fit what the timeline remembers.
    Numbers(Misfit),
    /// Here, not there.
    Failed(String),
}

/// Not a transaction is refused but its number.
struct Misfit {
    code: String,
    message: String,
}

/// The one who sends.
pub(crate) struct Forwarder<U> {
    pub(crate) spool: Spool,
    pub(crate) upstream: U,
    pub(crate) reach: Reach,
    pub(crate) counts: Arc<Counts>,
    /// The newest frame that this agent knows of.
    pub(crate) newest: Arc<AtomicU64>,
}

impl<U: Upstream> Forwarder<U> {
    /// Sends until it is stopped.
    pub(crate) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.send_for_ever() => {}
        }
    }

    async fn send_for_ever(&self) {
        let mut misfits: u32 = 0;
        loop {
            let before = self.spool.acknowledged();
            self.spool.wait_beyond(before).await;
            let end = self.send_epoch().await;
            if self.spool.acknowledged() > before {
                misfits = 0;
            }
            match end {
                End::Answered => {}
                End::Lost(error) => {
                    let pause = match error.passes {
                        true => PAUSE,
                        false => PAUSE_LONG,
                    };
                    self.reach.lost(error.reason);
                    tokio::time::sleep(pause).await;
                }
                End::Numbers(misfit) => {
                    misfits += 1;
                    if misfits > 1 {
                        // A new epoch did not help: clocks, or room for senders.
                        self.reach.lost(misfit.message.clone());
                        tokio::time::sleep(PAUSE_LONG).await;
                    }
                    self.renumber(&misfit, misfits).await;
                }
                End::Failed(reason) => {
                    tracing::error!(reason, "the spool cannot be sent");
                    self.reach.lost(reason);
                    tokio::time::sleep(PAUSE_LONG).await;
                }
            }
        }
    }

    /// Begins a new epoch from the oldest record on.
    async fn renumber(&self, misfit: &Misfit, misfits: u32) {
        let first = self.spool.acknowledged() + 1;
        if misfit.code == "too_many_senders" {
            return;
        }
        // Told once, not again while a clock is wrong.
        if misfit.code == "sender_forgotten" && misfits == 1 {
            let waiting = self.spool.last() + 1 - first;
            add(&self.counts.in_doubt, waiting);
            tracing::warn!(
                transactions = waiting,
                reason = misfit.message,
                "the timeline has forgotten this agent: what waits is sent anew, and what had been sent before may be there twice"
            );
        }
        add(&self.counts.renumbered, 1);
        let renamed = misfit.code == "sender_ahead";
        if let Err(reason) = self.spool.begin_epoch(first, renamed).await {
            tracing::error!(reason, "a new epoch cannot be written down");
            tokio::time::sleep(PAUSE_LONG).await;
        }
    }

    /// Sends from the oldest record on, as far as its epoch goes and for as long as it works.
    async fn send_epoch(&self) -> End {
        let first = self.spool.acknowledged() + 1;
        let Some((id, epoch, number, end)) = self.spool.numbers_of(first) else {
            return End::Failed(format!("position {first} of the spool belongs to no epoch"));
        };
        let numbers = Numbers {
            id,
            epoch,
            first: number,
        };
        let (sending, mut answers) = self.upstream.send(numbers).await;
        let in_flight = Mutex::new(VecDeque::new());
        let feeding = self.feed(first, end, sending, &in_flight);
        tokio::pin!(feeding);
        let mut is_fed = false;
        loop {
            tokio::select! {
                answer = answers.next() => match answer {
                    Some(Ok(answer)) => {
                        let line = in_flight.lock().pop_front();
                        let line = line.unwrap_or_default();
                        if let Err(end) = self.answered(answer, line).await {
                            return end;
                        }
                    }
                    Some(Err(error)) => return End::Lost(error),
                    None => return End::Answered,
                },
                fed = &mut feeding, if !is_fed => match fed {
                    Ok(()) => is_fed = true,
                    Err(reason) => return End::Failed(reason),
                },
            }
        }
    }

    /// Hands records to the connection, from a position on to the end of its epoch.
    async fn feed(
        &self,
        first: u64,
        end: Option<u64>,
        sending: U::Sending,
        in_flight: &Mutex<VecDeque<Bytes>>,
    ) -> Result<(), String> {
        let end = end.unwrap_or(u64::MAX);
        let mut position = first;
        while position <= end {
            self.spool.wait_beyond(position - 1).await;
            let lines = self.spool.read(position).await;
            for line in lines.map_err(|error| error.to_string())? {
                if position > end {
                    break;
                }
                in_flight.lock().push_back(line.clone());
                if sending.take(line).await.is_err() {
                    // Why is told by the answers.
                    return Ok(());
                }
                position += 1;
            }
        }
        Ok(())
    }

    /// Takes the answer to the oldest record.
    async fn answered(&self, answer: Answer, line: Bytes) -> Result<(), End> {
        if let Answer::Refused { code, message } = &answer {
            if is_of_numbers(code) {
                return Err(End::Numbers(Misfit {
                    code: code.clone(),
                    message: message.clone(),
                }));
            }
            self.refused(code, message, &line).await?;
        } else {
            add(&self.counts.forwarded, 1);
        }
        if let Answer::Outcome(outcome) = &answer {
            if let Some(index) = outcome.index() {
                self.newest.fetch_max(index.get(), Ordering::Relaxed);
            }
            if matches!(outcome, Outcome::Duplicate { .. }) {
                add(&self.counts.repeated, 1);
            }
        }
        self.reach.reached();
        self.spool.acknowledge(line.len(), answer);
        Ok(())
    }

    /// A transaction that the timeline will never take. Its publisher is told when it still waits;
    /// else it is kept beside the spool for somebody to look at.
    async fn refused(&self, code: &str, message: &str, line: &Bytes) -> Result<(), End> {
        add(&self.counts.refused, 1);
        let position = self.spool.acknowledged() + 1;
        if self.spool.is_awaited(position) {
            return Ok(());
        }
        tracing::error!(
            code,
            reason = message,
            "the timeline refuses a transaction that was taken: it is in spool/refused.ndjson"
        );
        let transaction: &serde_json::value::RawValue =
            serde_json::from_slice(line).map_err(|error| End::Failed(error.to_string()))?;
        let kept = serde_json::json!({
            "Code": code,
            "Message": message,
            "Transaction": transaction,
        });
        self.spool
            .keep_refused(format!("{kept}\n"))
            .await
            .map_err(End::Failed)
    }
}

/// Whether it is not the transaction that is refused but its number.
fn is_of_numbers(code: &str) -> bool {
    matches!(
        code,
        "sender_gap" | "sender_forgotten" | "sender_ahead" | "too_many_senders"
    )
}
