//! Programs beside an agent: each hands it something now and then, and takes its answer as it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidings_host::simulated::Rng;
use tidings_spool::{Answer, NotTaken};
use tidings_timeline::Outcome;
use tokio::{sync::watch, time};

use super::publisher::TOPICS;
use crate::agents::Agent;
use crate::cluster::Cluster;
use crate::evidence::{Handed, HandedAnswer};
use crate::trace::note;

/// Where an event says which it is.
pub(crate) const TOKEN: &str = "token";

pub(crate) async fn hand(
    cluster: Arc<Cluster>,
    agent: Arc<Agent>,
    name: String,
    mut rng: Rng,
    ends: watch::Receiver<bool>,
) {
    let mut count = 0_u64;
    let busy = rng.percent(40);
    while !*ends.borrow() {
        let most = if busy { 30 } else { 600 };
        time::sleep(Duration::from_millis(rng.within(0..most))).await;
        let Some(mut handle) = agent.handle() else {
            time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (tokens, lines) = transactions(&name, &mut count, &mut rng);
        // Taken and written down in one breath: this is the order in which the agent took it.
        let taken = handle.outbox.take(lines);
        let first = {
            let mut evidence = cluster.evidence();
            let first = evidence.handed.len();
            for token in &tokens {
                evidence.handed.push(Handed {
                    agent: agent.name.clone(),
                    token: token.clone(),
                    answer: match &taken {
                        Ok(_) => HandedAnswer::Unknown,
                        Err(_) => HandedAnswer::NotTaken,
                    },
                });
            }
            first
        };
        let answers = match taken {
            Ok(answers) => answers,
            Err(reason) => {
                note!(
                    cluster.trace,
                    "{name}: {} is not taken: {reason}",
                    tokens[0]
                );
                let pause = match reason {
                    NotTaken::Busy => 20..50,
                    NotTaken::Full { .. } | NotTaken::Failed { .. } => 200..2_000,
                };
                time::sleep(Duration::from_millis(rng.within(pause))).await;
                continue;
            }
        };
        // Some wait for no answer at all.
        let patience = match rng.percent(5) {
            true => Duration::from_millis(rng.within(0..2_000)),
            false => Duration::from_secs(600),
        };
        let answered = handle.during(time::timeout(patience, answers)).await;
        let Some(Ok(Ok(answers))) = answered else {
            note!(cluster.trace, "{name}: nobody knows of {}", tokens[0]);
            continue;
        };
        note!(cluster.trace, "{name}: {} is {answers:?}", tokens[0]);
        let mut evidence = cluster.evidence();
        if answers.len() != tokens.len() {
            let what = format!("{tokens:?} were answered {answers:?}");
            evidence.violate("G5", what);
        }
        for (handed, answer) in evidence.handed[first..].iter_mut().zip(answers) {
            handed.answer = match answer {
                Answer::Outcome(Outcome::Published { index } | Outcome::Duplicate { index }) => {
                    HandedAnswer::Taken { index: index.get() }
                }
                Answer::Spooled => HandedAnswer::Spooled,
                Answer::Refused { .. } | Answer::Outcome(_) => HandedAnswer::Refused,
            };
        }
    }
}

/// Tokens and lines of what is handed in together.
fn transactions(name: &str, count: &mut u64, rng: &mut Rng) -> (Vec<String>, Vec<Bytes>) {
    let mut tokens = Vec::new();
    let mut lines = Vec::new();
    let together = if rng.percent(80) { 1 } else { rng.within(2..6) };
    for _ in 0..together {
        *count += 1;
        let token = format!("{name}-{count}");
        let topic = TOPICS[rng.place(TOPICS.len())];
        let bytes = match rng.within(0..20) {
            0 => rng.within(1_000..6_000),
            _ => rng.within(0..300),
        };
        let text = "x".repeat(bytes as usize);
        // Without an Id: numbers alone keep it from being there twice.
        let event = format!(
            r#"{{"Topic":"{topic}","Type":"T","Key":"k","Payload":{{"{TOKEN}":"{token}","text":"{text}"}}}}"#
        );
        lines.push(Bytes::from(format!(r#"{{"Events":[{event}]}}"#)));
        tokens.push(token);
    }
    (tokens, lines)
}
