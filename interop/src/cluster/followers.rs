//! Programs that follow, and what each of them got: the Nomad Go client, which knows nothing of
//! reconnecting, and `tidings stream`, which does.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::CLUSTER_TIMEOUT;
use crate::agent::tidings;
use crate::programs::{GoClient, Running};

/// How long one run of the Go client lasts at most: longer than any test.
const GO_TIMEOUT: &str = "1h";
/// Between two looks at whether the end is due.
const LOOK: Duration = Duration::from_millis(200);
/// After a run of the Go client that ended.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// What came, in the order in which it came: index and key.
pub type Seen = Vec<(u64, String)>;

/// Who follows.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The Nomad Go client. When it ends, it is started again at the next address and the next index,
    /// as a program that uses it would.
    Go,
    /// `tidings stream`, which is started once.
    Stream,
}

/// Follows from the beginning until the event with the key `last` has come.
///
/// `is_over` tells that it is on the timeline: from then on it has to come soon.
///
/// # Errors
/// It does not come, or what comes cannot be read.
pub fn follow(
    kind: Kind,
    addresses: &[SocketAddr],
    last: &str,
    is_over: impl Fn() -> bool,
) -> Result<Seen> {
    let mut follower = Follower {
        seen: Seen::new(),
        deadline: None,
        is_over,
    };
    let result = match kind {
        Kind::Go => follower.go(addresses, last),
        Kind::Stream => follower.stream(addresses, last),
    };
    result.with_context(|| {
        let newest = follower.seen.last();
        format!("{kind:?} at {addresses:?}, whose newest event is {newest:?}")
    })?;
    Ok(follower.seen)
}

struct Follower<F> {
    seen: Seen,
    deadline: Option<Instant>,
    is_over: F,
}

impl<F: Fn() -> bool> Follower<F> {
    /// Notes that time passes.
    ///
    /// # Errors
    /// The last event is on the timeline for too long.
    fn look(&mut self) -> Result<()> {
        if (self.is_over)() {
            let deadline = *self
                .deadline
                .get_or_insert_with(|| Instant::now() + CLUSTER_TIMEOUT);
            ensure!(
                Instant::now() < deadline,
                "the last event did not come within {CLUSTER_TIMEOUT:?}"
            );
        }
        Ok(())
    }

    fn has(&self, last: &str) -> bool {
        self.seen.last().is_some_and(|(_, key)| key == last)
    }

    fn go(&mut self, addresses: &[SocketAddr], last: &str) -> Result<()> {
        let mut at = 0;
        loop {
            let next = self.seen.last().map_or(1, |(index, _)| index + 1);
            let url = format!("http://{}", addresses[at % addresses.len()]);
            let flags = [
                "-index",
                &next.to_string(),
                "-timeout",
                GO_TIMEOUT,
                "-topic",
                super::publishers::TOPIC,
                "dump",
            ];
            let mut client = GoClient::start_at(&url, &[], &flags)?;
            while let Ok(line) = client.printed_within(LOOK) {
                if let Some(line) = line {
                    let event: Value = serde_json::from_str(&line)?;
                    self.note(&event)?;
                }
                if self.has(last) {
                    return Ok(());
                }
                self.look()?;
            }
            self.look()?;
            at += 1;
            std::thread::sleep(RETRY_DELAY);
        }
    }

    fn stream(&mut self, addresses: &[SocketAddr], last: &str) -> Result<()> {
        let urls: Vec<String> = addresses.iter().map(|it| format!("http://{it}")).collect();
        let mut command = Command::new(tidings()?);
        command.args(["stream", "--from", "beginning", "--output", "json"]);
        command.args(["--topic", super::publishers::TOPIC, "--strict"]);
        for name in ["TIDINGS_TOKEN", "TIDINGS_NAMESPACE"] {
            command.env_remove(name);
        }
        command.env("TIDINGS_ADDR", urls.join(","));
        let mut stream = Running::of(&mut command)?;
        while !self.has(last) {
            match stream.printed_within(LOOK) {
                Ok(Some(line)) => {
                    let frame: Value = serde_json::from_str(&line)?;
                    for event in frame["Events"].as_array().context("no events")? {
                        self.note(event)?;
                    }
                }
                Ok(None) => self.look()?,
                Err(_) => bail!("it ended: {}", stream.finish()?.complaint),
            }
        }
        Ok(())
    }

    fn note(&mut self, event: &Value) -> Result<()> {
        let index = event["Index"].as_u64().context("an event has no index")?;
        let key = event["Key"].as_str().context("an event has no key")?;
        self.seen.push((index, key.to_owned()));
        Ok(())
    }
}
