use std::{sync::Arc, time::Duration};

use tidings_raft::{ProposeError, Role};
use tokio::time;

use crate::{
    cluster::{Cluster, Server, count, in_time, publish, publish_one, until},
    network::Network,
};

/// Long enough for an election to be held if one can be.
const SEVERAL_ELECTIONS: Duration = Duration::from_secs(3);
/// How long recording may take in these tests.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(4);
/// Longer than a connection may be silent before another takes its place, on a busy machine.
const CAUGHT_UP_WAIT_MAX: Duration = Duration::from_secs(20);

async fn on_a_network() -> (Cluster, Arc<Network>) {
    let network = Arc::new(Network::default());
    let mut cluster = Cluster {
        servers: Vec::new(),
        replicas: Vec::new(),
        addresses: Vec::new(),
    };
    for name in ["a", "b", "c"] {
        let mut server = Server::new(name);
        server.answer_wait_max = ANSWER_WAIT_MAX;
        let first: Vec<String> = cluster.addresses.iter().take(1).cloned().collect();
        let (replica, address) = server.start_on(&network, &first).await;
        cluster.servers.push(server);
        cluster.replicas.push(replica);
        cluster.addresses.push(address);
    }
    for replica in &cluster.replicas {
        in_time("the cluster has formed", replica.ready()).await;
    }
    (cluster, network)
}

/// G1, G2: a leader that is cut off acknowledges nothing, the others go on, and all agree in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_replaced_and_follows_when_it_is_back() {
    let (cluster, network) = on_a_network().await;
    let leader = cluster.leader().await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    publish_one(&cluster.replicas[leader], "before").await;
    network.cut_off(&cluster.addresses[leader], &cluster.addresses);
    // nobody will ever confirm it, and the caller is not left to wait
    let hopeless = cluster.replicas[leader].propose(publish("hopeless"));
    let answered = time::timeout(ANSWER_WAIT_MAX * 3, hopeless).await;
    let answered = answered.expect("an answer in time");
    assert!(
        matches!(
            answered,
            Err(ProposeError::Unknown { .. } | ProposeError::NotLeader { .. })
        ),
        "{answered:?}"
    );
    let newly_led = || {
        others
            .iter()
            .any(|&other| cluster.replicas[other].is_leader())
    };
    until("another leads", newly_led).await;
    for n in 0..10 {
        publish_one(&cluster.replicas[others[n % 2]], &format!("meanwhile{n}")).await;
    }
    assert_eq!(count(&cluster.servers[leader], "meanwhile0"), 0);
    network.heal();
    let follows = || cluster.replicas[leader].status().role == Role::Follower;
    until("it follows", follows).await;
    publish_one(&cluster.replicas[leader], "after").await;
    cluster.check_one_history().await;
    for server in &cluster.servers {
        assert_eq!(count(server, "before"), 1);
        assert_eq!(count(server, "meanwhile9"), 1);
        assert_eq!(count(server, "after"), 1);
    }
    cluster.shutdown().await;
}

/// A server that is heard but hears nothing, or hears and is not heard, disturbs nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_is_cut_in_one_direction_costs_no_election() {
    let (cluster, network) = on_a_network().await;
    let leader = cluster.leader().await;
    let half_cut = (leader + 1) % 3;
    let (here, there) = (&cluster.addresses[leader], &cluster.addresses[half_cut]);
    let term = cluster.replicas[leader].status().term;
    for (round, (from, to)) in [(here, there), (there, here)].into_iter().enumerate() {
        network.cut_way(from, to);
        for n in 0..10 {
            let key = format!("round{round}-{n}");
            publish_one(&cluster.replicas[(leader + 2 * (n % 2)) % 3], &key).await;
        }
        time::sleep(SEVERAL_ELECTIONS).await;
        assert!(cluster.replicas[leader].is_leader());
        assert_eq!(
            cluster.replicas[leader].status().term,
            term,
            "nobody was elected"
        );
        network.heal();
        // the connections of before carry nothing any more, which must be noticed
        let agreed = time::timeout(CAUGHT_UP_WAIT_MAX, cluster.check_one_history());
        assert!(
            agreed.await.is_ok(),
            "no way was found around dead connections"
        );
    }
    cluster.shutdown().await;
}
