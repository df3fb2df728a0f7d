//! Servers that hold one timeline, as processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod real_agent;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use real_agent::cluster::{Cluster, history, server_flags};
use real_agent::{Agent, eventually, output, tidings, told};
use serde_json::Value;

fn flags(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

/// G1, G2: each takes what is published, all have the same bytes, and without the leader it goes on.
#[test]
fn three_servers_hold_one_timeline_and_go_on_without_the_leader() {
    let mut cluster = Cluster::of_three();
    let first = cluster.servers[0].printed();
    assert!(
        first.contains("waiting for 2 more servers: 1 of 3 here (s1)"),
        "{first}"
    );
    let mut indexes = Vec::new();
    for (n, server) in cluster.servers.iter().enumerate() {
        let said = server.ok(&[
            "publish",
            "Deploy",
            "Started",
            "--key",
            &format!("k{n}"),
            "--output",
            "json",
        ]);
        let answer: Value = serde_json::from_str(&said).unwrap();
        indexes.push(answer["Index"].as_u64().unwrap());
    }
    assert!(indexes.is_sorted_by(|a, b| a < b), "{indexes:?}");
    cluster.check_one_history();

    let leader = cluster.leader();
    eventually("it to say that it is ready", || {
        let printed = cluster.servers[leader].printed();
        printed
            .contains("ready: 3 servers hold the timeline")
            .then_some(())
    });
    let stopped = cluster.servers.remove(leader);
    stopped.stop();
    cluster.leader();
    for server in &cluster.servers {
        server.ok(&["publish", "Deploy", "Done"]);
    }
    cluster.check_one_history();
}

/// G2: a server that stops lets another one lead, and nobody who publishes elsewhere notices.
#[test]
fn a_leader_that_is_told_to_stop_loses_nothing_that_was_published() {
    let mut cluster = Cluster::of_three();
    let leader = cluster.leader();
    let stopping = cluster.servers.remove(leader);
    let done = Arc::new(AtomicBool::new(false));
    let publisher = std::thread::spawn({
        let done = done.clone();
        let address = cluster.servers[0].address.clone();
        move || {
            let mut published = 0;
            while !done.load(Ordering::SeqCst) {
                let id = format!("p{published}");
                let said = output(
                    tidings()
                        .env("TIDINGS_ADDR", format!("http://{address}"))
                        .args(["publish", "T", "t", "--key", &id, "--id", &id]),
                );
                assert!(said.status.success(), "{}", told(&said));
                published += 1;
            }
            published
        }
    });
    let newest = |server: &Agent| server.status()["Timeline"]["Newest"].as_u64().unwrap();
    let grows = |server: &Agent, from| {
        eventually("it is published", || (newest(server) > from).then_some(()));
    };
    grows(&cluster.servers[1], newest(&cluster.servers[1]) + 3);
    let log = stopping.data_dir().join("agent.log");
    stopping.stop();
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("handed over the lead"), "{log}");
    grows(&cluster.servers[1], newest(&cluster.servers[1]) + 3);
    done.store(true, Ordering::SeqCst);
    let published: u64 = publisher.join().unwrap();
    cluster.check_one_history();
    let all = history(cluster.servers[0].data_dir());
    let text: String = all
        .iter()
        .map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
        .collect();
    for n in 0..published {
        let key = format!("\"Key\":\"p{n}\"");
        assert_eq!(text.matches(&key).count(), 1, "{key}");
    }
}

#[test]
fn a_server_that_was_alone_is_joined_by_others() {
    let dir = tempfile::tempdir().unwrap();
    // without --server, as the first version of everybody's timeline
    let alone = Agent::start(&dir.path().join("s1"));
    alone.ok(&["publish", "Deploy", "Started", "--key", "before"]);
    alone.stop();

    let data = dir.path().join("s1");
    let first = Agent::spawn(&data, &flags(&server_flags("s1"))).unwrap();
    first.wait_until_ready();
    let mut joining = server_flags("s2");
    joining.extend(["--join".to_owned(), first.peer.clone().unwrap()]);
    let second = Agent::spawn(&dir.path().join("s2"), &flags(&joining)).unwrap();
    second.wait_until_ready();
    second.ok(&["publish", "Deploy", "Done", "--key", "after"]);
    let seen = second.ok(&["stream", "--from", "beginning", "--count", "2"]);
    assert!(seen.contains("before") && seen.contains("after"), "{seen}");

    eventually("the second to have a vote", || {
        (second.status()["Role"] == "follower").then_some(())
    });

    // and back: what others hold as well cannot be one server's own again
    second.stop();
    first.stop();
    let said = match Agent::spawn(&data, &["--http", "127.0.0.1:0", "--node", "s1"]) {
        Ok(_) => panic!("a timeline of two servers was opened by one"),
        Err(said) => said,
    };
    assert!(said.contains("start it with --server"), "{said}");
}

#[test]
fn a_server_that_is_told_of_nobody_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |flags: &[&str]| match Agent::spawn(dir.path(), flags) {
        Ok(_) => panic!("{flags:?} was taken"),
        Err(said) => said,
    };
    let said = refused(&flags(&server_flags("s1")));
    assert!(said.contains("--bootstrap-expect"), "{said}");
    let said = refused(&[
        "--dev",
        "--server",
        "--bootstrap-expect",
        "1",
        "--peer",
        "0.0.0.0:0",
    ]);
    assert!(said.contains("peers.advertise"), "{said}");
    let said = refused(&["--dev", "--server", "--join", "nobody"]);
    assert!(said.contains("hosts with their ports"), "{said}");
}

#[test]
fn a_server_is_not_ready_and_says_why_until_the_others_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut flagged = server_flags("s1");
    flagged.extend(["--bootstrap-expect", "3"].map(str::to_owned));
    let server = Agent::spawn(dir.path(), &flags(&flagged)).unwrap();
    let status = server.status();
    assert_eq!(status["Ready"], false);
    assert_eq!(
        status["NotReady"],
        "waiting for 2 more servers: 1 of 3 here (s1)"
    );
    let said = server.run(&["publish", "T", "t"]);
    assert!(!said.status.success(), "{}", told(&said));
}
