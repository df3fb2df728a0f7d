//! Publishes transactions whose events bear Ids, and sends each again until it is answered.

use std::sync::Arc;
use std::time::Duration;

use tidings_event::{Limits, NewEvent};
use tidings_host::simulated::{Rng, world};
use tidings_timeline::{CommandGroup, Outcome};
use tokio::{sync::watch, time};

use super::{ANSWER_WAIT_MAX, any_server, stamper};
use crate::cluster::Cluster;
use crate::evidence::Acknowledged;
use crate::trace::note;

/// Topics of the events; followers choose by them.
pub(crate) const TOPICS: [&str; 3] = ["Job", "Node", "Volume"];

pub(crate) async fn publish(
    cluster: Arc<Cluster>,
    name: String,
    mut rng: Rng,
    ends: watch::Receiver<bool>,
) {
    let mut count = 0_u64;
    let mut server = any_server(&cluster, &mut rng);
    let busy = rng.percent(30);
    while !*ends.borrow() {
        let most = if busy { 20 } else { 400 };
        time::sleep(Duration::from_millis(rng.within(0..most))).await;
        let (ids, events) = transaction(&name, &mut count, &mut rng);
        let invoked = world::elapsed();
        // Until it is answered: whoever has not been told does not know.
        let index = loop {
            let mut group = CommandGroup::new();
            let parsed: Vec<NewEvent<'_>> = events
                .iter()
                .map(|json| NewEvent::parse(json.as_bytes()).expect("a good event"))
                .collect();
            group
                .publish(&parsed, &mut stamper(&name), &Limits::default())
                .expect("a good transaction");
            let answered = match server.access() {
                Some(mut access) => {
                    let replica = access.replica.clone();
                    let proposed = time::timeout(ANSWER_WAIT_MAX, replica.propose(group));
                    let answered = access.during(proposed).await;
                    answered.and_then(Result::ok)
                }
                None => None,
            };
            match answered {
                Some(Ok(outcomes)) => match &outcomes[..] {
                    [Outcome::Published { index } | Outcome::Duplicate { index }] => {
                        break index.get();
                    }
                    other => {
                        let what = format!("{ids:?} was answered {other:?}");
                        cluster.evidence().violate("G5", what);
                        return;
                    }
                },
                Some(Err(_)) | None => {
                    if rng.percent(60) {
                        server = any_server(&cluster, &mut rng);
                    }
                    time::sleep(Duration::from_millis(rng.within(10..300))).await;
                }
            }
        };
        note!(cluster.trace, "{name}: {} is {index}", ids[0]);
        cluster.evidence().acknowledged.push(Acknowledged {
            ids,
            index,
            invoked,
            answered: world::elapsed(),
        });
    }
}

/// Ids and events of the next transaction.
fn transaction(name: &str, count: &mut u64, rng: &mut Rng) -> (Vec<String>, Vec<String>) {
    let events = if rng.percent(80) { 1 } else { rng.within(2..5) };
    let mut ids = Vec::new();
    let mut bodies = Vec::new();
    for _ in 0..events {
        *count += 1;
        let id = format!("{name}-{count}");
        let topic = TOPICS[rng.place(TOPICS.len())];
        let key = rng.within(0..5);
        let bytes = match rng.within(0..20) {
            0 => rng.within(2_000..20_000),
            _ => rng.within(0..300),
        };
        let text = "x".repeat(bytes as usize);
        bodies.push(format!(
            r#"{{"Topic":"{topic}","Type":"T","Key":"k{key}","Id":"{id}","Payload":{{"text":"{text}"}}}}"#
        ));
        ids.push(id);
    }
    (ids, bodies)
}
