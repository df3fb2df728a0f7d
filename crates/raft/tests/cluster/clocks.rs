//! Servers whose clocks are wrong.

use tidings_raft::{MemberRole, Replica};

use crate::cluster::{Cluster, Server, history, in_time, publish_one, until};

fn waits_for(replica: &Replica) -> String {
    let waits_for = replica.waits_for();
    waits_for.map(|it| it.to_string()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_wrong_clock_joins_when_it_is_set() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    publish_one(&cluster.replicas[0], "before").await;
    for (seconds, stands) in [(61, "61 s ahead of"), (-3600, "3600 s behind")] {
        let server = Server::new("d");
        server.set_clock(seconds);
        let (replica, _) = server.start(3, &cluster.addresses).await;
        until("it is told", || {
            waits_for(&replica).contains("the clock of d")
        })
        .await;
        let told = waits_for(&replica);
        let name = &cluster.servers[leader].name;
        let expected = format!("is {stands} that of the leader, {name}: set the clocks");
        assert!(told.contains(&expected), "{told}");
        assert_eq!(
            cluster.replicas[leader].members().len(),
            3,
            "nothing changed"
        );
        let has_nothing = history(&server).iter().all(|(_, bytes)| bytes.is_empty());
        assert!(has_nothing);

        server.set_clock(0);
        in_time("it joins by itself", replica.ready()).await;
        let joined = || {
            cluster.replicas[leader]
                .members()
                .iter()
                .any(|m| m.name == "d")
        };
        until("it is a member", joined).await;
        cluster.replicas[leader].remove_server("d").await.unwrap();
        in_time("shutdown", replica.shutdown()).await;
    }

    // at the limit
    let server = Server::new("e");
    server.set_clock(60);
    let (replica, _) = server.start(3, &cluster.addresses).await;
    in_time("it is taken in", replica.ready()).await;
    let votes = || {
        let members = replica.members();
        members.len() == 4 && members.iter().all(|m| m.role == MemberRole::Voter)
    };
    until("it votes", votes).await;
    in_time("shutdown", replica.shutdown()).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_timeline_begins_with_clocks_that_are_apart() {
    let mut cluster = Cluster {
        servers: Vec::new(),
        replicas: Vec::new(),
        addresses: Vec::new(),
    };
    for (name, seconds) in [("a", 0), ("b", 10), ("c", 86_400)] {
        let server = Server::new(name);
        server.set_clock(seconds);
        let first: Vec<String> = cluster.addresses.iter().take(1).cloned().collect();
        let (replica, address) = server.start(3, &first).await;
        cluster.servers.push(server);
        cluster.replicas.push(replica);
        cluster.addresses.push(address);
    }
    for (replica, told) in cluster
        .replicas
        .iter()
        .zip(["c is", "c is", " behind this"])
    {
        let says = || {
            let says = waits_for(replica);
            says.contains("no cluster is formed: the clock of") && says.contains(told)
        };
        until("all say why", says).await;
        assert!(replica.members().is_empty());
    }
    cluster.servers[2].set_clock(0);
    for replica in &cluster.replicas {
        in_time("the cluster forms", replica.ready()).await;
    }
    publish_one(&cluster.replicas[2], "first").await;
    cluster.check_one_history().await;
    cluster.shutdown().await;
}

/// The times of all frames, in microseconds.
fn times(server: &Server) -> Vec<String> {
    let mut times = Vec::new();
    for (_, bytes) in history(server) {
        for line in String::from_utf8(bytes).unwrap().lines() {
            if let Some((_, time)) = line.split_once(r#""Time":""#) {
                times.push(time[..time.find('"').unwrap()].to_owned());
            }
        }
    }
    times
}

/// Whatever clocks show, and whoever leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_never_go_back_and_a_clock_that_drifts_is_told() {
    let cluster = Cluster::of_three().await;
    let seconds = [50, -50, 40_000, -90_000, 10, -10];
    for (n, seconds) in seconds.into_iter().enumerate() {
        let leader = cluster.leader().await;
        cluster.servers[leader].set_clock(seconds);
        publish_one(&cluster.replicas[leader], &format!("x{n}")).await;
        let next = (leader + 1) % 3;
        cluster.servers[next].set_clock(-seconds);
        let name = &cluster.servers[next].name;
        in_time(
            "given",
            cluster.replicas[leader].transfer_leader(Some(name)),
        )
        .await
        .unwrap();
        until("it leads", || cluster.replicas[next].is_leader()).await;
        publish_one(&cluster.replicas[next], &format!("y{n}")).await;
    }
    cluster.check_one_history().await;
    let times = times(&cluster.servers[0]);
    assert!(times.len() >= 2 * seconds.len(), "{times:?}");
    assert!(times.is_sorted(), "{times:?}");

    let leader = cluster.leader().await;
    let drifts = (leader + 1) % 3;
    let now = cluster.servers[leader]
        .clock
        .load(std::sync::atomic::Ordering::Relaxed);
    let now = (now - crate::cluster::NOW) / 1_000_000;
    cluster.servers[drifts].set_clock(now + 7200);
    let name = &cluster.servers[drifts].name;
    let shown = || {
        let members = cluster.replicas[leader].members();
        let member = members.iter().find(|m| m.name == *name);
        member.is_some_and(|m| m.clock_ahead_ms == Some(7_200_000))
    };
    until("the others see it", shown).await;
    cluster.shutdown().await;
}
