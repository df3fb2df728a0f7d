use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tidings_raft::{FreeSpace, Replica};

use crate::cluster::{Cluster, Server, count, in_time, publish_one, until};

/// G2: nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_leader_it_goes_on_and_the_leader_comes_back() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let mut keys = Vec::new();
    for n in 0..10 {
        keys.push(format!("x{n}"));
        publish_one(&cluster.replicas[n % 3], &keys[n]).await;
    }

    // Dropped, not shut down: nobody is told.
    drop(cluster.replicas.remove(leader));
    let stopped = cluster.servers.remove(leader);
    cluster.addresses.remove(leader);
    for n in 10..20 {
        keys.push(format!("x{n}"));
        publish_one(&cluster.replicas[n % 2], &keys[n]).await;
    }
    cluster.check_one_history().await;

    // At another address, which the others learn from itself.
    wait_until_free(&stopped).await;
    let (replica, address) = stopped.start(3, &cluster.addresses).await;
    in_time("it is back", replica.ready()).await;
    cluster.servers.push(stopped);
    cluster.replicas.push(replica);
    cluster.addresses.push(address);
    keys.push("back".to_owned());
    publish_one(&cluster.replicas[2], "back").await;
    cluster.check_one_history().await;
    for server in &cluster.servers {
        for key in &keys {
            assert_eq!(count(server, key), 1, "{key} on {}", server.name);
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_and_no_publish_is_lost() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let publisher = cluster.replicas[(leader + 1) % 3].clone();
    let done = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn({
        let done = done.clone();
        async move {
            let mut keys = Vec::new();
            while !done.load(Ordering::SeqCst) {
                keys.push(format!("p{}", keys.len()));
                publish_one(&publisher, &keys[keys.len() - 1]).await;
            }
            keys
        }
    });
    let before = cluster.replicas[leader].state().index;
    let grows = |replica: &Replica, from| replica.state().index > from;
    until("it is published", || {
        grows(&cluster.replicas[leader], before)
    })
    .await;

    let stopping = cluster.replicas.remove(leader);
    in_time("shutdown", stopping.shutdown()).await;
    drop(stopping);
    let leads = cluster.replicas.iter().any(Replica::is_leader);
    assert!(leads, "handed over, not elected after a while");
    cluster.servers.remove(leader);
    let new_leader = cluster.leader().await;
    let after = cluster.replicas[new_leader].state().index;
    until("it goes on", || grows(&cluster.replicas[new_leader], after)).await;
    done.store(true, Ordering::SeqCst);
    let keys = in_time("the publisher ends", publishing).await.unwrap();

    cluster.check_one_history().await;
    for key in &keys {
        assert_eq!(count(&cluster.servers[0], key), 1, "{key}");
    }
    cluster.shutdown().await;
}

/// A handle that is dropped leaves its tasks to end by themselves.
async fn wait_until_free(server: &Server) {
    until("the directory is free", || {
        tidings_store::DataDir::open(&server.data_dir()).is_ok()
    })
    .await;
}

/// The others have space, and go on without the one that has none leading them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_space_gives_the_lead_away() {
    const RESERVE: u64 = 1 << 20;
    let free: [Arc<AtomicU64>; 3] = std::array::from_fn(|_| Arc::new(AtomicU64::new(2 * RESERVE)));
    let mut number = 0;
    let servers = ["a", "b", "c"].map(|name| {
        let mut server = Server::new(name);
        let free = free[number].clone();
        number += 1;
        server.disk.free_reserve = RESERVE;
        server.disk.free_space = Some(FreeSpace::new(move || free.load(Ordering::SeqCst)));
        server
    });
    let cluster = Cluster::of(servers).await;
    publish_one(&cluster.replicas[0], "before").await;
    let leader = cluster.leader().await;
    free[leader].store(RESERVE / 2, Ordering::SeqCst);
    let replica = &cluster.replicas[leader];
    until("another server leads", || !replica.is_leader()).await;
    publish_one(replica, "after").await;
    cluster.check_one_history().await;
    cluster.shutdown().await;
}
