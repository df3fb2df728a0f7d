use std::collections::BTreeSet;

use tidings_raft::{MemberRole, Role};
use tidings_timeline::Outcome;

use crate::cluster::{Cluster, Server, count, in_time, publish, publish_one, until};

/// G1: every server stores the same bytes for the same index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_form_once_and_hold_one_history() {
    let cluster = Cluster::of_three().await;
    let status: Vec<_> = cluster.replicas.iter().map(|r| r.status()).collect();
    let ids: BTreeSet<u64> = status.iter().map(|status| status.node_id).collect();
    assert_eq!(ids.len(), 3, "numbers made of chance");
    let timelines: BTreeSet<_> = cluster
        .replicas
        .iter()
        .map(|r| r.state().timeline)
        .collect();
    assert_eq!(timelines.len(), 1, "founded once");
    for status in &status {
        assert_eq!(status.members.len(), 3);
        assert!(
            status
                .members
                .iter()
                .all(|member| member.role == MemberRole::Voter)
        );
    }

    let mut indexes = BTreeSet::new();
    for n in 0..30 {
        let replica = &cluster.replicas[n % 3];
        indexes.insert(publish_one(replica, &format!("e{n}")).await);
    }
    assert_eq!(indexes.len(), 30);
    // a repeat is known, whoever is asked
    let again = publish_one(&cluster.replicas[1], "e0").await;
    assert_eq!(Some(&again), indexes.first());
    cluster.check_one_history().await;
    for server in &cluster.servers {
        assert_eq!(count(server, "e7"), 1);
    }
    cluster.shutdown().await;
}

/// What is given to a follower one after the other keeps its order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_groups_keep_their_order() {
    let cluster = Cluster::of_three().await;
    let follower = &cluster.replicas[(cluster.leader().await + 1) % 3];
    let mut submitted = Vec::new();
    for n in 0..200 {
        let group = publish(&format!("o{n}"));
        submitted.push(follower.submit(group).await.unwrap());
    }
    let mut last = None;
    for outcomes in submitted {
        let outcomes = in_time("an answer", outcomes).await.unwrap();
        let [Outcome::Published { index }] = outcomes[..] else {
            panic!("not published: {outcomes:?}");
        };
        assert!(last < Some(index));
        last = Some(index);
    }
    cluster.check_one_history().await;
    cluster.shutdown().await;
}

/// As during an update, with any of the three still at the former version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_neighbouring_versions_hold_one_timeline() {
    let mut cluster = Cluster {
        servers: Vec::new(),
        replicas: Vec::new(),
        addresses: Vec::new(),
    };
    for (name, version) in [("a", None), ("b", Some(1)), ("c", Some(2))] {
        let server = Server::new(name);
        let first: Vec<String> = cluster.addresses.iter().take(1).cloned().collect();
        let started = server.try_start(3, &first, |peers| peers.version_max = version);
        let (replica, address) = started.await.unwrap();
        cluster.servers.push(server);
        cluster.replicas.push(replica);
        cluster.addresses.push(address);
    }
    for replica in &cluster.replicas {
        in_time("the cluster has formed", replica.ready()).await;
    }
    for (n, name) in ["b", "c", "a"].iter().enumerate() {
        for replica in &cluster.replicas {
            publish_one(replica, &format!("by {name} {n}")).await;
        }
        // with each of them as leader; one of version 1 cannot be asked for it by others
        let leader = cluster.leader().await;
        let given = cluster.replicas[leader].transfer_leader(Some(name));
        in_time("the lead is given", given).await.unwrap();
        until("somebody leads", || {
            cluster.replicas.iter().any(|r| r.is_leader())
        })
        .await;
    }
    cluster.check_one_history().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_server_joins_and_gets_a_vote() {
    let mut cluster = Cluster::of_three().await;
    for n in 0..20 {
        publish_one(&cluster.replicas[0], &format!("before{n}")).await;
    }
    let server = Server::new("d");
    // it is told of one that may not lead, and expects what was expected of the others
    let (replica, address) = server.start(3, &cluster.addresses[2..]).await;
    in_time("the fourth is ready", replica.ready()).await;
    cluster.servers.push(server);
    cluster.replicas.push(replica);
    cluster.addresses.push(address);
    let votes = |replica: &tidings_raft::Replica| {
        let members = replica.status().members;
        members.len() == 4
            && members
                .iter()
                .all(|member| member.role == MemberRole::Voter)
    };
    for replica in &cluster.replicas {
        until("all four vote", || votes(replica)).await;
    }
    publish_one(&cluster.replicas[3], "by the fourth").await;
    cluster.check_one_history().await;
    assert!(matches!(
        cluster.replicas[3].status().role,
        Role::Follower | Role::Leader
    ));
    cluster.shutdown().await;
}
