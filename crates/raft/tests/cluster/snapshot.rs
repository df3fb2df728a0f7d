//! Servers that need what the logs of the others have let go of.

use std::time::Duration;

use tidings_event::{Filter, Index};
use tidings_raft::{MemberRole, Replica};
use tidings_timeline::{CommandGroup, Subscription, SubscriptionEnd};
use tokio::time;

use crate::{
    cluster::{
        Cluster, Server, count, history, in_time, publish_bytes, publish_one, publish_one_of, until,
    },
    proxy::Proxy,
};

/// Bytes of one event in a history that is to be large.
const LARGE: usize = 64 << 10;

async fn forgetful(segment_bytes: u64) -> Cluster {
    Cluster::of(["a", "b", "c"].map(|name| Server::forgetful(name, segment_bytes))).await
}

/// Publishes so many events of so many bytes, some at once.
async fn publish_many(replica: &Replica, name: &str, events: usize, bytes: usize) {
    let mut submitted = Vec::new();
    for n in 0..events {
        let group = publish_bytes(&format!("{name}{n}"), bytes);
        submitted.push(replica.submit(group).await.unwrap());
    }
    for outcomes in submitted {
        in_time("an answer", outcomes).await.unwrap();
    }
}

/// Lets go of all of the log that there is on every server.
async fn forget(cluster: &Cluster) {
    let replicas = &cluster.replicas;
    in_time("the log goes", async {
        loop {
            for replica in replicas {
                assert!(in_time("a snapshot", replica.snapshot()).await);
            }
            // A follower may not have applied everything yet, and a leader first gives up sending what
            // it is about to let go of.
            if replicas
                .iter()
                .all(|replica| replica.status().log_first.is_none())
            {
                return;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn history_bytes(server: &Server) -> u64 {
    let files = history(server);
    files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

impl Cluster {
    async fn add_behind(&mut self, server: Server, proxy: &Proxy) {
        let replica = server.start_behind(proxy, &self.addresses).await;
        self.servers.push(server);
        self.replicas.push(replica);
        self.addresses.push(proxy.address.clone());
    }

    async fn restart(&mut self, at: usize) {
        in_time("shutdown", self.replicas[at].shutdown()).await;
        self.start_again(at).await;
    }

    async fn start_again(&mut self, at: usize) {
        let (replica, address) = self.servers[at].start(3, &self.addresses).await;
        self.replicas[at] = replica;
        self.addresses[at] = address;
    }
}

/// The index of each frame that comes, until `last` or the end of the subscription.
async fn read_to(subscription: &mut Subscription, last: Index) -> (Vec<Index>, bool) {
    let mut indexes = Vec::new();
    while indexes.last() < Some(&last) {
        let next = in_time("a frame", subscription.next()).await;
        match next {
            Ok(slice) => {
                let text = String::from_utf8_lossy(&slice.bytes).into_owned();
                indexes.extend(text.lines().map(|line| {
                    let number = line.trim_start_matches(r#"{"Index":"#);
                    let end = number.find(',').unwrap();
                    Index(number[..end].parse().unwrap())
                }));
            }
            Err(SubscriptionEnd::Closed) => return (indexes, true),
            Err(error) => panic!("{error}"),
        }
    }
    (indexes, false)
}

/// G1, G4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_server_gets_state_and_history_when_the_log_is_gone() {
    let mut cluster = forgetful(4000).await;
    publish_many(&cluster.replicas[0], "e", 100, 20).await;
    forget(&cluster).await;
    publish_many(&cluster.replicas[1], "f", 10, 20).await;

    let server = Server::forgetful("d", 4000);
    let (replica, address) = server.start(3, &cluster.addresses[1..]).await;
    in_time("the fourth is ready", replica.ready()).await;
    cluster.servers.push(server);
    cluster.replicas.push(replica);
    cluster.addresses.push(address);
    cluster.check_one_history().await;
    assert!(cluster.replicas[3].status().snapshot_bytes_received > 0);
    assert!(!cluster.servers[3].data_dir().join("incoming").exists());
    let votes = |replica: &Replica| {
        let members = replica.status().members;
        members.len() == 4
            && members
                .iter()
                .all(|member| member.role == MemberRole::Voter)
    };
    until("it votes", || votes(&cluster.replicas[3])).await;

    let newest = publish_one(&cluster.replicas[3], "by the fourth").await;
    until("it has it", || cluster.replicas[3].state().index >= newest).await;
    let mut all = cluster.replicas[3]
        .broker()
        .subscribe(Filter::everything(), Index::FIRST);
    let (indexes, _) = read_to(&mut all, newest).await;
    let expected: Vec<Index> = (1..=newest.get()).map(Index).collect();
    assert_eq!(indexes, expected);
    // a repeat is known: the state came as well
    let known = cluster.replicas[3].state().dedupe_ids;
    assert_eq!(known as u64, newest.get());

    // Everything is there after a restart too.
    cluster.restart(3).await;
    in_time("it is back", cluster.replicas[3].ready()).await;
    publish_one(&cluster.replicas[0], "after").await;
    cluster.check_one_history().await;
    cluster.shutdown().await;
}

/// What it had already is not copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_is_sent_just_what_it_lacks() {
    let mut cluster = forgetful(20_000).await;
    publish_many(&cluster.replicas[0], "e", 400, 200).await;
    cluster.check_one_history().await;
    let away = (cluster.leader().await + 1) % 3;
    in_time("shutdown", cluster.replicas[away].shutdown()).await;
    let had = history_bytes(&cluster.servers[away]);
    let publisher = (away + 1) % 3;
    publish_many(&cluster.replicas[publisher], "f", 100, 200).await;
    forget_all_but(&cluster, away).await;
    cluster.start_again(away).await;
    in_time("it is back", cluster.replicas[away].ready()).await;
    publish_one(&cluster.replicas[publisher], "g").await;
    cluster.check_one_history().await;
    let total = history_bytes(&cluster.servers[away]);
    let received = cluster.replicas[away].status().snapshot_bytes_received;
    let state = 500 * 40;
    assert!(received > 0, "sent as files");
    assert!(
        received < total - had + 2 * 20_000 + state,
        "{received} bytes of {total}, of which it had {had}"
    );
    cluster.shutdown().await;
}

/// G4: whoever reads from a server whose state is replaced comes back, and misses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_server_that_is_caught_up_by_a_snapshot_miss_nothing() {
    let mut cluster = forgetful(4000).await;
    let proxy = Proxy::new().await;
    cluster
        .add_behind(Server::forgetful("d", 4000), &proxy)
        .await;
    in_time("the fourth is ready", cluster.replicas[3].ready()).await;
    publish_many(&cluster.replicas[0], "e", 50, 20).await;
    cluster.check_one_history().await;
    let broker = cluster.replicas[3].broker();
    let mut early = broker.subscribe(Filter::everything(), Index::FIRST);
    let leader = cluster.leader().await;
    assert_ne!(leader, 3, "it has just come");

    proxy.block(true);
    publish_many(&cluster.replicas[leader], "f", 100, 20).await;
    forget_all_but(&cluster, 3).await;
    proxy.block(false);
    let newest = publish_one(&cluster.replicas[leader], "g").await;
    until("it has caught up", || {
        cluster.replicas[3].state().index >= newest
    })
    .await;
    assert!(cluster.replicas[3].status().snapshot_bytes_received > 0);
    let (mut read, ended) = read_to(&mut early, newest).await;
    assert!(ended && broker.is_closed(), "told to come back");
    let next = read.last().map_or(Index::FIRST, |last| last.next());
    let mut late = cluster.replicas[3]
        .broker()
        .subscribe(Filter::everything(), next);
    read.extend(read_to(&mut late, newest).await.0);
    let expected: Vec<Index> = (1..=newest.get()).map(Index).collect();
    assert_eq!(read, expected);
    cluster.check_one_history().await;
    cluster.shutdown().await;
}

/// Lets go of what one server lacks on all others.
async fn forget_all_but(cluster: &Cluster, one: usize) {
    let others = || {
        let others = cluster.replicas.iter().enumerate();
        others.filter(|(at, _)| *at != one).map(|(_, other)| other)
    };
    let newest = others().map(|other| other.status().log_last).max().unwrap();
    // A leader first gives up sending what it is about to let go of.
    in_time("the log goes", async {
        for n in 0.. {
            let publisher = others().next().unwrap();
            publish_one(publisher, &format!("forget{n}")).await;
            for other in others() {
                assert!(in_time("a snapshot", other.snapshot()).await);
            }
            let is_gone = |other: &Replica| {
                let first = other.status().log_first;
                first.is_none() || first > newest
            };
            if others().all(is_gone) {
                return;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_is_cut_goes_on_where_it_was() {
    let mut cluster = forgetful(2 << 20).await;
    publish_many(&cluster.replicas[0], "e", 150, LARGE).await;
    forget(&cluster).await;
    let total = history_bytes(&cluster.servers[0]);
    assert!(total > 9 << 20);
    let proxy = Proxy::new().await;
    proxy.cut(2, 4 << 20);
    cluster
        .add_behind(Server::forgetful("d", 2 << 20), &proxy)
        .await;
    in_time("the fourth is ready", cluster.replicas[3].ready()).await;
    cluster.check_one_history().await;
    assert!(proxy.has_failed(), "cut twice");
    let received = cluster.replicas[3].status().snapshot_bytes_received;
    let states = 3 * 64 * 1024;
    assert!(
        received >= total && received < total + states,
        "{received} bytes came of {total}: each once"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_on_its_way_is_refused_and_sent_again() {
    let mut cluster = forgetful(2 << 20).await;
    publish_many(&cluster.replicas[0], "e", 100, LARGE).await;
    forget(&cluster).await;
    let proxy = Proxy::new().await;
    proxy.flip(3, 1 << 20);
    cluster
        .add_behind(Server::forgetful("d", 2 << 20), &proxy)
        .await;
    in_time("the fourth is ready", cluster.replicas[3].ready()).await;
    cluster.check_one_history().await;
    assert!(proxy.has_failed());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_that_moves_on_takes_nothing_from_a_transfer() {
    let mut cluster = forgetful(1 << 20).await;
    publish_many(&cluster.replicas[0], "e", 160, LARGE).await;
    forget(&cluster).await;
    let total = history_bytes(&cluster.servers[0]);
    let proxy = Proxy::new().await;
    proxy.slow_down(Duration::from_millis(10));
    cluster
        .add_behind(Server::forgetful("d", 1 << 20), &proxy)
        .await;
    let fourth = cluster.replicas[3].clone();
    until("it is under way", || {
        fourth.status().snapshot_bytes_received > total / 4
    })
    .await;
    let mut group = CommandGroup::new();
    group.retain(Index(120));
    in_time("retention", cluster.replicas[0].propose(group))
        .await
        .unwrap();
    for n in 0..5 {
        publish_one_of(&cluster.replicas[1], &format!("f{n}"), LARGE).await;
    }
    assert!(
        fourth.status().snapshot_bytes_received < total,
        "while it was under way"
    );
    in_time("the fourth is ready", fourth.ready()).await;
    publish_one(&cluster.replicas[1], "g").await;
    // each lets go of the files on its own time
    until("all let go of the segments", || {
        let mut servers = cluster.servers.iter();
        servers.all(|server| history(server).len() < 5)
    })
    .await;
    cluster.check_one_history().await;
    assert_eq!(count(&cluster.servers[3], "e0"), 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_leader_goes_on_with_a_transfer() {
    let mut cluster = forgetful(1 << 20).await;
    publish_many(&cluster.replicas[0], "e", 160, LARGE).await;
    forget(&cluster).await;
    let total = history_bytes(&cluster.servers[0]);
    let leader = cluster.leader().await;
    let proxy = Proxy::new().await;
    proxy.slow_down(Duration::from_millis(5));
    cluster
        .add_behind(Server::forgetful("d", 1 << 20), &proxy)
        .await;
    let fourth = cluster.replicas[3].clone();
    until("it is under way", || {
        fourth.status().snapshot_bytes_received > total / 3
    })
    .await;
    drop(cluster.replicas.remove(leader));
    cluster.servers.remove(leader);
    cluster.addresses.remove(leader);
    assert!(
        fourth.status().snapshot_bytes_received < total,
        "while it was under way"
    );
    in_time("the fourth is ready", fourth.ready()).await;
    publish_one(&cluster.replicas[0], "g").await;
    cluster.check_one_history().await;
    let received = fourth.status().snapshot_bytes_received;
    assert!(
        received < total + total / 5,
        "{received} bytes of {total}: what had come was kept"
    );
    assert!(fourth.broker().newest() >= Index(161));
    drop(fourth);
    cluster.shutdown().await;
}

/// A snapshot is not sent to a server that would not know what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_a_version_without_snapshots_waits_until_it_is_updated() {
    let mut cluster = forgetful(4000).await;
    publish_many(&cluster.replicas[0], "e", 50, 20).await;
    forget(&cluster).await;
    let server = Server::forgetful("d", 4000);
    let addresses = cluster.addresses.clone();
    let started = server.try_start(3, &addresses, |peers| peers.version_max = Some(1));
    let (replica, _) = started.await.unwrap();
    let joined = |replica: &Replica| replica.members().len() == 4;
    until("it is taken in", || joined(&cluster.replicas[0])).await;
    // longer than the leader waits between two attempts
    let ready = time::timeout(Duration::from_secs(2), replica.ready()).await;
    assert!(ready.is_err(), "it cannot have the state");
    for replica in &cluster.replicas {
        assert_eq!(replica.status().snapshot_bytes_sent, 0);
        assert_eq!(replica.status().damaged, None);
    }
    publish_one(&cluster.replicas[1], "meanwhile").await;
    in_time("shutdown", replica.shutdown()).await;
    drop(replica);

    let (replica, address) = server.start(3, &addresses).await;
    in_time("it has everything", replica.ready()).await;
    cluster.servers.push(server);
    cluster.replicas.push(replica);
    cluster.addresses.push(address);
    cluster.check_one_history().await;
    cluster.shutdown().await;
}
