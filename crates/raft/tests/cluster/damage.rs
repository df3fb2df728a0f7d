use std::{fs, os::unix::fs::FileExt as _};

use tidings_event::{DigestFilter, Index};
use tidings_raft::Replica;

use crate::cluster::{Cluster, Server, in_time, publish_one, until};

/// A server that finds a line that is not what was written says so, stops, and does not start again as
/// if nothing had been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_finds_damage_stops_and_does_not_start_again() {
    let cluster = Cluster::of(["a", "b", "c"].map(|name| Server::forgetful(name, 2000))).await;
    for n in 0..40 {
        publish_one(&cluster.replicas[0], &format!("e{n}")).await;
    }
    cluster.check_one_history().await;
    let sick = (cluster.leader().await + 1) % 3;
    let folder = cluster.servers[sick].data_dir().join("history");
    let first = folder.join("00000000000000000001.ndjson");
    let file = fs::OpenOptions::new().write(true).open(&first).unwrap();
    file.write_all_at(b"#", 100).unwrap();

    let replica = &cluster.replicas[sick];
    let files = replica.broker().history();
    let read = move || files.read(Index::FIRST, 1 << 20, &DigestFilter::All);
    assert!(tokio::task::spawn_blocking(read).await.unwrap().is_err());
    let reason = in_time("it stops", replica.fatal()).await;
    assert!(reason.contains("00000000000000000001.ndjson"), "{reason}");
    assert!(reason.contains("tidings rebuild --data-dir"), "{reason}");
    assert!(replica.status().damaged.is_some());

    in_time("shutdown", replica.shutdown()).await;
    let server = &cluster.servers[sick];
    let refused = server.try_start(3, &cluster.addresses, |_| {}).await;
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("tidings rebuild --data-dir"), "{refused}");
    until("the others go on", || {
        cluster.replicas.iter().any(Replica::is_leader)
    })
    .await;
    cluster.shutdown().await;
}
