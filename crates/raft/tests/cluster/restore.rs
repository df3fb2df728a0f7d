use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tidings_event::{Limits, NewEvent};
use tidings_raft::{Replica, RestoreScope, SaveHistory};
use tidings_timeline::{CommandGroup, EntryChange, Stamper};
use tokio::time;

use crate::cluster::{Cluster, history, in_time, publish_one, until};

/// More than these states have.
const STATE_BYTES_MAX: u64 = 256 << 20;
/// With [`PAYLOAD_BYTES`] each: a restore of several dozen groups.
const ENTRIES: usize = 600;
const PAYLOAD_BYTES: usize = 8 << 10;

async fn put(replica: &Replica, keys: impl Iterator<Item = usize>, said: &str) {
    let mut stamper = Stamper::new("n", "test", 7);
    let text = said.repeat(PAYLOAD_BYTES / said.len());
    let mut keys = keys.peekable();
    while keys.peek().is_some() {
        let mut group = CommandGroup::new();
        for key in keys.by_ref().take(50) {
            let json = format!(
                r#"{{"Topic":"Node","Type":"Changed","Key":"k{key}","Payload":{{"said":"{text}"}}}}"#
            );
            let event = NewEvent::parse(json.as_bytes()).unwrap();
            let change = EntryChange {
                cas: None,
                event: &event,
            };
            group
                .put_entry(change, &mut stamper, &Limits::default())
                .unwrap();
        }
        in_time("an answer", replica.propose(group)).await.unwrap();
    }
}

/// Entries, and what they say.
fn entries(replica: &Replica) -> BTreeMap<String, Vec<u8>> {
    let view = replica.state();
    view.entries()
        .map(|entry| {
            let line = entry.line();
            let at = line.windows(9).position(|part| part == b"\"Payload\"");
            (
                entry.name.key.to_string(),
                line[at.unwrap_or_default()..].to_vec(),
            )
        })
        .collect()
}

/// G1, G3: a restore that is asked of one server is the same on all, while others publish and the lead
/// changes again and again, once because the leader goes without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_a_restore_outlives_changes_of_the_leader_and_is_the_same_everywhere() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    put(&cluster.replicas[leader], 0..ENTRIES, "before").await;
    let mut file = Vec::new();
    let saved = cluster.replicas[leader].snapshot_save(&mut file, SaveHistory::Included);
    let saved = in_time("a snapshot", saved).await.unwrap();
    let before = entries(&cluster.replicas[leader]);
    // all are changed, and as many have come
    put(&cluster.replicas[leader], 0..2 * ENTRIES, "after!").await;

    let asked = cluster.replicas[(leader + 1) % 3].clone();
    let newest = asked.state().index;
    let done = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn({
        let (replica, done) = (asked.clone(), done.clone());
        async move {
            let mut published = 0;
            while !done.load(Ordering::SeqCst) {
                publish_one(&replica, &format!("p{published}")).await;
                published += 1;
            }
            published
        }
    });
    let restoring = tokio::spawn({
        let asked = asked.clone();
        async move {
            let scope = RestoreScope::OwnTimeline;
            asked
                .snapshot_restore(&file[..], scope, STATE_BYTES_MAX)
                .await
        }
    });
    let begun = newest.get() + 100;
    until("it is begun", || asked.state().index.get() > begun).await;
    assert!(!restoring.is_finished(), "there is nothing to interrupt");
    let gone = cluster.replicas.remove(leader);
    drop(gone);
    let mut changes = 0;
    while changes < 3 && !restoring.is_finished() {
        let leads = cluster.replicas.iter().find(|replica| replica.is_leader());
        if let Some(leads) = leads
            && leads.transfer_leader(None).await.is_ok()
        {
            changes += 1;
            let reached = asked.state().index.get() + 100;
            until("it goes on", || {
                restoring.is_finished() || asked.state().index.get() > reached
            })
            .await;
        }
        time::sleep(Duration::from_millis(5)).await;
    }
    let restored = in_time("the restore", restoring).await.unwrap().unwrap();
    done.store(true, Ordering::SeqCst);
    let published = in_time("the publisher", publishing).await.unwrap();

    assert_eq!(restored.snapshot, saved);
    assert!(restored.index.get() > newest.get() + 2 * ENTRIES as u64);
    assert!(restored.removed <= ENTRIES as u64 && restored.written <= ENTRIES as u64);
    let server = cluster.servers.remove(leader);
    cluster.addresses.remove(leader);
    until("its files are let go of", || {
        tidings_store::DataDir::open(&server.data_dir()).is_ok()
    })
    .await;
    let (replica, address) = server.start(3, &cluster.addresses).await;
    cluster.servers.push(server);
    cluster.replicas.push(replica);
    cluster.addresses.push(address);
    in_time("it is back", cluster.replicas[2].ready()).await;
    cluster.check_one_history().await;
    for replica in &cluster.replicas {
        assert!(entries(replica) == before, "the entries are those of then");
    }
    // one history, as was checked
    let files = history(&cluster.servers[0]);
    let text: String = files
        .iter()
        .map(|(_, bytes)| String::from_utf8_lossy(bytes))
        .collect();
    let keys: Vec<&str> = text
        .split(r#""Key":"p"#)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let expected: Vec<String> = (0..published).map(|n| n.to_string()).collect();
    assert_eq!(keys, expected, "each once, in its order");
    let told = text.matches(r#""Type":"StateRestored""#).count();
    assert_eq!(told, 1, "it is told once");
    cluster.shutdown().await;
}
