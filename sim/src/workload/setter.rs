//! Reads an entry of the state and writes it on condition that it is still as it was.

use std::sync::Arc;
use std::time::Duration;

use tidings_event::{DEFAULT_NAMESPACE, Index, Limits, NewEvent};
use tidings_host::simulated::{Rng, world};
use tidings_timeline::{CommandGroup, EntryChange, Outcome, Refusal};
use tokio::{sync::watch, time};

use super::{ANSWER_WAIT_MAX, any_server, stamper};
use crate::cluster::Cluster;
use crate::evidence::{SetCall, SetResult};
use crate::trace::note;

/// The topic of the entries.
pub(crate) const TOPIC: &str = "Register";
/// How many entries are fought for.
const KEYS: u64 = 3;

pub(crate) async fn set(
    cluster: Arc<Cluster>,
    name: String,
    mut rng: Rng,
    ends: watch::Receiver<bool>,
) {
    let mut count = 0;
    while !*ends.borrow() {
        time::sleep(Duration::from_millis(rng.within(5..500))).await;
        let server = any_server(&cluster, &mut rng);
        let Some(mut access) = server.access() else {
            continue;
        };
        let key = format!("r{}", rng.within(0..KEYS));
        let view = access.replica.state();
        let entry = view.entry(TOPIC, DEFAULT_NAMESPACE, &key);
        let expected = entry.map_or(0, |entry| entry.modify_index.get());
        count += 1;
        let operation = format!("{name}-{count}");
        let json = format!(
            r#"{{"Topic":"{TOPIC}","Type":"Set","Key":"{key}","Payload":{{"cas":{expected},"operation":"{operation}"}}}}"#
        );
        let event = NewEvent::parse(json.as_bytes()).expect("a good event");
        let mut group = CommandGroup::new();
        let change = EntryChange {
            cas: Some(Index(expected)),
            event: &event,
        };
        group
            .put_entry(change, &mut stamper(&name), &Limits::default())
            .expect("a good change");
        let invoked = world::elapsed();
        let replica = access.replica.clone();
        let proposed = time::timeout(ANSWER_WAIT_MAX, replica.propose(group));
        let answered = access.during(proposed).await;
        let result = match answered.and_then(Result::ok) {
            Some(Ok(outcomes)) => match &outcomes[..] {
                [Outcome::Stored { index }] => SetResult::Stored { index: index.get() },
                [Outcome::Refused(refusal)] => match **refusal {
                    Refusal::CasMismatch { current, .. } => SetResult::Mismatch { current },
                    _ => SetResult::Unknown,
                },
                other => {
                    let what = format!("{operation} was answered {other:?}");
                    cluster.evidence().violate("cas", what);
                    return;
                }
            },
            Some(Err(_)) | None => SetResult::Unknown,
        };
        note!(
            cluster.trace,
            "{operation}: {key} from {expected}: {result:?}"
        );
        cluster.evidence().sets.push(SetCall {
            key,
            operation,
            invoked,
            answered: world::elapsed(),
            result,
        });
    }
}
