//! An agent without a timeline as a process, before a server that is one, both of which are killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod real_agent;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use real_agent::cluster::Cluster;
use real_agent::{Agent, eventually};
use tidings_client::{Client, ClientConfig, From, StreamEvent, StreamRequest, Transaction, Url};

/// How often something is killed.
const KILLS: usize = 8;

/// How long both live in between.
const LIFE: Duration = Duration::from_millis(600);

fn url(address: &str) -> Url {
    ClientConfig::parse_address(address).unwrap()
}

/// A client that tries once.
fn client(address: &str) -> Client {
    Client::new(ClientConfig {
        addresses: vec![url(address)],
        retry_time: Duration::ZERO,
        retry_delay: Duration::from_millis(10),
        retry_delay_max: Duration::from_millis(100),
        learn_servers_every: None,
        heartbeat: Duration::from_secs(4),
        ..ClientConfig::default()
    })
    .unwrap()
}

/// An agent that knows these servers. Its port is taken again after a kill.
fn relay(data_dir: &Path, http: &str, servers: &[&str]) -> Agent {
    let config = data_dir.with_extension("toml");
    let text = format!("[relay]\nservers = {servers:?}\nanswer_within = \"1s\"\n");
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    eventually("the agent to start", || {
        let flags = ["--http", http, "--config", config, "--node", "a1"];
        Agent::spawn(data_dir, &flags).ok()
    })
}

/// Publishes k1, k2, … without Ids, each once, until it is told to stop. Gives those that were
/// answered.
async fn publish(client: Client, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut answered = Vec::new();
    for number in 1.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let line = format!(r#"{{"Events":[{{"Topic":"T","Type":"t","Key":"{number}"}}]}}"#);
        match client
            .publish(&Transaction::from_line(line.into(), 1))
            .await
        {
            Ok(_) => answered.push(number),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    answered
}

/// Follows until it is told how many there are; the key of each frame, in order.
async fn follow(client: Client, mut until: tokio::sync::watch::Receiver<u64>) -> Vec<u64> {
    let mut stream = client.stream(StreamRequest {
        from: From::Beginning,
        ..StreamRequest::default()
    });
    let mut keys = Vec::new();
    loop {
        let last = *until.borrow_and_update();
        if keys.len() as u64 >= last {
            return keys;
        }
        tokio::select! {
            event = stream.next() => if let StreamEvent::Frame(line) = event.unwrap().unwrap() {
                let frame = line.decode().unwrap();
                assert_eq!(frame.index.get(), keys.len() as u64 + 1, "contiguous");
                keys.push(frame.events[0].key.parse().unwrap());
            },
            changed = until.changed() => changed.unwrap(),
        }
    }
}

#[test]
fn g5_kill_9_of_agents_and_servers_loses_and_repeats_nothing_that_was_answered() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Agent::start(&data.path().join("server"));
    let mut agent = relay(
        &data.path().join("agent"),
        "127.0.0.1:0",
        &[&server.address],
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (count, counted) = tokio::sync::watch::channel(u64::MAX);
    let publishing = runtime.spawn(publish(client(&agent.address), Arc::clone(&stop)));
    let following = runtime.spawn(follow(client(&agent.address), counted));
    for kill in 0..KILLS {
        std::thread::sleep(LIFE);
        match kill % 2 {
            0 => {
                agent.kill();
                let address = agent.address.clone();
                agent = relay(
                    agent.data_dir().to_owned().as_path(),
                    &address,
                    &[&server.address],
                );
            }
            _ => server = server.crash_and_restart(),
        }
    }
    std::thread::sleep(LIFE);
    stop.store(true, Ordering::SeqCst);
    let answered = runtime.block_on(publishing).unwrap();
    let keys = all_followed(&runtime, &agent, &count, following);
    check_once_in_order(&answered, &keys);
    assert_eq!(agent.status()["Spool"]["InDoubt"], 0);
}

/// What was followed through the agent, once everything is there.
fn all_followed(
    runtime: &tokio::runtime::Runtime,
    agent: &Agent,
    count: &tokio::sync::watch::Sender<u64>,
    following: tokio::task::JoinHandle<Vec<u64>>,
) -> Vec<u64> {
    eventually("the spool to be sent", || {
        let status = agent.status();
        (status["Spool"]["Transactions"] == 0).then_some(())
    });
    let newest = agent.status()["Timeline"]["Newest"].as_u64().unwrap();
    count.send(newest).unwrap();
    let waited = async { tokio::time::timeout(Duration::from_secs(60), following).await };
    runtime.block_on(waited).expect("waited too long").unwrap()
}

/// Everything that was answered is there, nothing is there twice, and all in order.
fn check_once_in_order(answered: &[u64], keys: &[u64]) {
    assert!(
        answered.len() > 100,
        "only {} were answered",
        answered.len()
    );
    let there: BTreeSet<u64> = keys.iter().copied().collect();
    assert_eq!(there.len(), keys.len(), "something is there twice");
    assert!(keys.is_sorted(), "something is out of order");
    let missing: Vec<&u64> = answered.iter().filter(|key| !there.contains(key)).collect();
    assert!(missing.is_empty(), "answered and not there: {missing:?}");
}

#[test]
fn g5_an_agent_before_three_servers_loses_and_repeats_nothing_when_leaders_are_killed() {
    let mut cluster = Cluster::of_three();
    let addresses: Vec<String> = cluster.servers.iter().map(|s| s.address.clone()).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let data = tempfile::tempdir().unwrap();
    let agent = relay(&data.path().join("agent"), "127.0.0.1:0", &addresses);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (count, counted) = tokio::sync::watch::channel(u64::MAX);
    let publishing = runtime.spawn(publish(client(&agent.address), Arc::clone(&stop)));
    let following = runtime.spawn(follow(client(&agent.address), counted));
    for _ in 0..3 {
        std::thread::sleep(LIFE);
        let leader = cluster.leader();
        let (address, peer) = {
            let server = &mut cluster.servers[leader];
            server.kill();
            (server.address.clone(), server.peer.clone().unwrap())
        };
        std::thread::sleep(LIFE * 4);
        let name = format!("s{}", leader + 1);
        let data_dir = cluster.data_dir(&name);
        cluster.servers[leader] = eventually("the server to start", || {
            let flags = [
                "--server", "--http", &address, "--peer", &peer, "--node", &name,
            ];
            Agent::spawn(&data_dir, &flags).ok()
        });
        cluster.wait_until_ready();
    }
    std::thread::sleep(LIFE);
    stop.store(true, Ordering::SeqCst);
    let answered = runtime.block_on(publishing).unwrap();
    let keys = all_followed(&runtime, &agent, &count, following);
    check_once_in_order(&answered, &keys);
    assert_eq!(agent.status()["Spool"]["InDoubt"], 0);
    cluster.check_one_history();
}

#[test]
fn an_agent_that_joins_servers_that_are_not_there_keeps_what_it_takes() {
    let data = tempfile::tempdir().unwrap();
    let flags = ["--http", "127.0.0.1:0", "--join", "127.0.0.1:1"];
    let agent = Agent::spawn(&data.path().join("agent"), &flags).unwrap();
    let text = agent.ok(&["publish", "T", "t"]);
    assert!(text.starts_with("kept by the agent"), "{text}");
    let status = agent.status();
    assert_eq!(
        (&status["Role"], &status["Ready"]),
        (&"agent".into(), &true.into())
    );
    assert_eq!(status["Spool"]["Transactions"], 1);
    let reason = status["Relay"]["NotReached"].as_str().unwrap();
    assert!(reason.contains("127.0.0.1:1"), "{reason}");
    agent.stop();
}

#[test]
fn an_agent_says_what_it_is_and_refuses_the_data_of_a_server() {
    let data = tempfile::tempdir().unwrap();
    let server = Agent::start(&data.path().join("server"));
    let agent = relay(
        &data.path().join("agent"),
        "127.0.0.1:0",
        &[&server.address],
    );
    let text = agent.ok(&["publish", "T", "t"]);
    assert_eq!(text, "published at index 1\n");
    let status = agent.ok(&["status"]);
    assert!(
        status.contains("spool") && status.contains("relay"),
        "{status}"
    );
    assert!(
        !status.contains("settings") && !status.contains("servers"),
        "what an agent does not have is told: {status}"
    );
    let status = agent.status();
    assert_eq!(
        (&status["Role"], &status["Relay"]["Reached"]),
        (&"agent".into(), &true.into())
    );
    assert_eq!(status["Timeline"]["Newest"], 1);
    let mut server = server;
    server.kill();
    let text = agent.ok(&["publish", "T", "t"]);
    assert!(text.starts_with("kept by the agent"), "{text}");
    agent.stop();
    let config = data.path().join("agent.toml");
    let flags = [
        "--http",
        "127.0.0.1:0",
        "--config",
        config.to_str().unwrap(),
    ];
    let refused = Agent::spawn(&data.path().join("server"), &flags)
        .err()
        .unwrap();
    assert!(refused.contains("start it with --server"), "{refused}");
}
