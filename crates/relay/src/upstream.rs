//! How the spool's transactions get to a server: pipelined, over HTTP.

use std::time::Duration;

use bytes::Bytes;
use tidings_client::{
    Acknowledgements, PublishStreamConfig, SenderNumbers, Transaction, TransactionSender,
};
use tidings_spool::{Answer, Answers, Ended, NoServer, Numbers, Sending, Upstream};
use tidings_timeline::Outcome;

use crate::servers::{Servers, chain};

/// Transactions that are sent and not answered, at most.
const IN_FLIGHT_MAX: usize = 4_096;

/// Bytes of those.
const IN_FLIGHT_BYTES_MAX: usize = 8 << 20;

/// How long nothing is answered before it counts as no server being reached: then publishers are no
/// longer kept waiting. A change of leaders is over by then.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// Takes transactions for a connection.
pub(crate) struct HttpSending(TransactionSender);

/// Gives what servers answered.
pub(crate) struct HttpAnswers(Acknowledgements);

impl Upstream for Servers {
    type Sending = HttpSending;
    type Answers = HttpAnswers;

    async fn send(&self, numbers: Numbers) -> (HttpSending, HttpAnswers) {
        let client = self.known().await;
        let (sending, answers) = client.publish_stream(PublishStreamConfig {
            in_flight_max: IN_FLIGHT_MAX,
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
            retry_time: LOST_AFTER,
            sender: Some(SenderNumbers {
                id: numbers.id,
                epoch: numbers.epoch,
                first: numbers.first,
            }),
        });
        (HttpSending(sending), HttpAnswers(answers))
    }
}

impl Sending for HttpSending {
    async fn take(&self, line: Bytes) -> Result<(), Ended> {
        let sent = self.0.send(Transaction::from_line(line, 1)).await;
        sent.map_err(|_| Ended)
    }
}

impl Answers for HttpAnswers {
    async fn next(&mut self) -> Option<Result<Answer, NoServer>> {
        let answer = match self.0.next().await? {
            Ok(acknowledged) => match acknowledged.outcome {
                Ok(published) if published.spooled => Answer::Spooled,
                Ok(published) => Answer::Outcome(match (published.duplicate, published.index) {
                    (true, index) => Outcome::Duplicate { index },
                    (false, index) => Outcome::Published { index },
                }),
                Err(refused) => Answer::Refused {
                    code: refused.code,
                    message: refused.message,
                },
            },
            Err(error) => {
                return Some(Err(NoServer {
                    reason: chain(&error),
                    passes: error.last_try().is_transient(),
                }));
            }
        };
        Some(Ok(answer))
    }
}
