//! The verbs that look at and change a cluster, against servers as processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod real_agent;

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use real_agent::cluster::{Cluster, history};
use real_agent::{Agent, event_lines, eventually, told};
use serde_json::Value;

fn servers(agent: &Agent) -> Vec<Value> {
    let text = agent.ok(&["server", "list", "--output", "json"]);
    let list: Value = serde_json::from_str(&text).unwrap();
    list["Servers"].as_array().unwrap().clone()
}

fn names(agent: &Agent) -> Vec<String> {
    let mut names: Vec<String> = servers(agent)
        .iter()
        .map(|server| server["Name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn role(agent: &Agent, name: &str) -> Option<String> {
    let servers = servers(agent);
    let server = servers.iter().find(|server| server["Name"] == name)?;
    Some(server["Role"].as_str().unwrap().to_owned())
}

#[test]
fn any_server_tells_of_all_and_lets_another_lead() {
    let cluster = Cluster::of_three();
    for server in &cluster.servers {
        assert_eq!(names(server), ["s1", "s2", "s3"]);
        for told in servers(server) {
            let name = told["Name"].as_str().unwrap();
            assert_eq!(told["Http"], cluster.server(name).address, "{told}");
            assert_eq!(told["Peer"], cluster.server(name).peer.clone().unwrap());
        }
    }
    let table = cluster.servers[0].ok(&["server", "list"]);
    assert_eq!(table.matches("voter").count(), 3, "{table}");
    assert_eq!(table.matches("leads").count(), 1, "{table}");
    let status = cluster.servers[0].ok(&["status"]);
    assert!(status.contains("servers\n  NAME"), "{status}");

    let leader = cluster.servers[cluster.leader()].status();
    let next = ["s1", "s2", "s3"]
        .into_iter()
        .find(|name| leader["Node"] != *name)
        .unwrap();
    // asked of one that follows
    let follower = cluster.server(next);
    let said = follower.ok(&["server", "transfer-leader", "--to", next]);
    assert!(!said.is_empty());
    eventually("it to lead", || {
        (follower.status()["Role"] == "leader").then_some(())
    });
    let refused = follower.run(&["server", "transfer-leader", "--to", "s9"]);
    assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
    assert!(
        told(&refused).contains("tidings server list"),
        "{}",
        told(&refused)
    );
}

#[test]
fn a_dead_server_is_removed_and_another_takes_its_name() {
    let mut cluster = Cluster::of_three();
    let leader = cluster.servers[cluster.leader()].status();
    let dead = ["s1", "s2", "s3"]
        .into_iter()
        .find(|name| leader["Node"] != *name)
        .unwrap();
    cluster.take(dead).kill();
    let alive = &cluster.servers[0];
    alive.ok(&["publish", "Deploy", "Started"]);
    let said = alive.ok(&["server", "remove", dead]);
    assert_eq!(said, format!("{dead} is removed\n"));
    assert_eq!(names(alive).len(), 2);

    std::fs::remove_dir_all(cluster.data_dir(dead)).unwrap();
    cluster.add(dead, &[]);
    cluster.server(dead).wait_until_ready();
    for server in &cluster.servers {
        eventually("it to have a vote", || {
            (role(server, dead)? == "voter").then_some(())
        });
    }
    cluster.server(dead).ok(&["publish", "Deploy", "Done"]);
    cluster.check_one_history();
}

#[test]
fn a_standby_takes_the_place_of_a_dead_server() {
    let mut cluster = Cluster::of_three();
    let leader = cluster.servers[cluster.leader()].status();
    let dead = ["s1", "s2", "s3"]
        .into_iter()
        .find(|name| leader["Node"] != *name)
        .unwrap();
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), "[server]\nstandby = true\n").unwrap();
    let config = config.path().display().to_string();
    cluster.add("s4", &["--config", &config]);
    cluster.server("s4").wait_until_ready();
    eventually("the standby to be one", || {
        (role(cluster.server("s4"), "s4")? == "standby").then_some(())
    });

    let mut gone = cluster.take(dead);
    gone.kill();
    cluster.server("s4").ok(&["publish", "Deploy", "Started"]);
    let said = cluster.server("s4").ok(&["server", "remove", dead]);
    assert_eq!(said, format!("{dead} is removed\n"));
    eventually("it to be gone", || {
        (names(cluster.server("s4")).len() == 3).then_some(())
    });
    let said = cluster.server("s4").ok(&["server", "promote", "s4"]);
    assert_eq!(said, "s4 may vote\n");
    for server in &cluster.servers {
        eventually("it to have a vote", || {
            (role(server, "s4")? == "voter").then_some(())
        });
    }
    cluster.server("s4").ok(&["publish", "Deploy", "Done"]);
    cluster.check_one_history();
}

/// Reads a stream of `agent` from `index` on until it ends, or says nothing for a while.
fn stream(agent: &Agent, index: u64) -> String {
    let mut socket = TcpStream::connect(&agent.address).unwrap();
    let quiet = Some(Duration::from_secs(2));
    socket.set_read_timeout(quiet).unwrap();
    let head = format!(
        "GET /v1/event/stream?index={index} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut all = Vec::new();
    let mut buffer = [0; 64 << 10];
    while let Ok(length) = socket.read(&mut buffer) {
        if length == 0 {
            break;
        }
        all.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Events that are published, in two segments, and the frame that is spoilt.
const LINES: u64 = 9000;
const SPOILT: u64 = 3001;

/// Flips a byte of a frame in a file of `s2` while it is stopped, so that its memory forgets what it
/// had. Gives how the frame's line begins.
fn spoil(cluster: &mut Cluster) -> String {
    let lines = event_lines(1..=LINES);
    let said = cluster.servers[0].run_with_input(&["publish", "--ndjson", "-"], &lines);
    assert!(said.status.success(), "{}", told(&said));
    cluster.check_one_history();
    let stopped = cluster.take("s2");
    let (http, peer) = (stopped.address.clone(), stopped.peer.clone().unwrap());
    let data_dir = stopped.data_dir().to_owned();
    stopped.stop();
    let files = history(&data_dir);
    assert!(files.len() > 1, "the first segment is sealed");
    let begin = format!("{{\"Index\":{SPOILT},");
    let text = String::from_utf8_lossy(&files[0].1).into_owned();
    let at = text.find(&begin).unwrap() + begin.len() + 20;
    let file = OpenOptions::new()
        .write(true)
        .open(data_dir.join("history").join(&files[0].0))
        .unwrap();
    let flipped = files[0].1[at] ^ 1;
    file.write_all_at(&[flipped], at as u64).unwrap();
    cluster.start_again("s2", &http, &peer);
    cluster.server("s2").wait_until_ready();
    begin
}

const SMALL_SEGMENTS: &str = "[store]\nsegment_bytes = \"1MiB\"\n";

/// G1, G2: a byte that has changed on one server's disk is found by comparing, and named.
#[test]
fn g1_a_flipped_byte_is_named_by_comparing_the_servers() {
    let mut cluster = Cluster::of_three_with(SMALL_SEGMENTS);
    spoil(&mut cluster);
    // what was noted when the lines were written has not changed
    let noted = cluster.server("s1").ok(&["verify", "--cluster", "--quick"]);
    let alike = "ok: 3 servers have the same frames 1 to 9,000";
    assert!(noted.contains(alike), "{noted}");

    let found = cluster
        .server("s1")
        .run(&["verify", "--cluster", "--output", "json"]);
    assert_eq!(found.status.code(), Some(1), "{}", told(&found));
    let report: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(report["FirstDifference"], SPOILT, "{report}");
    assert_eq!(report["Same"], false);
    let server = |at: usize| &report["Servers"][at];
    assert_eq!(server(1)["Name"], "s2");
    let damage = server(1)["Damage"].as_str().unwrap();
    assert!(damage.contains("is damaged at byte"), "{damage}");
    assert_eq!(server(0)["Digest"], server(2)["Digest"]);
    assert_eq!(server(0)["Digest"].as_str().unwrap().len(), 64);
    assert_eq!(server(0)["Damage"], Value::Null);

    // it stops, and says what to do; the others are alike
    let stopped = cluster.take("s2");
    let said = stopped.wait_for_failure();
    assert!(said.contains("tidings rebuild"), "{said}");
    let rest = cluster.server("s3").run(&["verify", "--cluster"]);
    assert_eq!(rest.status.code(), Some(1), "{}", told(&rest));
    let text = String::from_utf8_lossy(&rest.stdout).into_owned();
    assert!(text.contains("s2 was not compared"), "{text}");
    assert!(
        text.contains("ok: 2 servers have the same frames"),
        "{text}"
    );
}

/// G2: what is not what was written is sent to nobody.
#[test]
fn g2_a_line_with_a_flipped_byte_is_never_served() {
    let mut cluster = Cluster::of_three_with(SMALL_SEGMENTS);
    let begin = spoil(&mut cluster);
    let sent = stream(cluster.server("s2"), SPOILT - 10);
    assert!(!sent.contains(&begin), "{sent}");
    let good = stream(cluster.server("s1"), SPOILT - 10);
    assert!(good.contains(&begin));
    let said = cluster.take("s2").wait_for_failure();
    assert!(said.contains("tidings rebuild"), "{said}");
}

/// The answer to a request, head and body.
fn ask(agent: &Agent, method: &str, target: &str, body: &str) -> String {
    try_ask(&agent.address, method, target, body).unwrap()
}

fn try_ask(address: &str, method: &str, target: &str, body: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    let limit = Some(Duration::from_secs(30));
    socket.set_read_timeout(limit)?;
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    let mut lines = answer.lines().take_while(|line| !line.is_empty());
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.unwrap_or_else(|| panic!("no {name} in {answer}"))
}

#[test]
fn a_follower_says_how_long_the_leader_has_been_silent() {
    let mut cluster = Cluster::of_three();
    let leader = cluster.servers.remove(cluster.leader());
    let follower = cluster.servers.remove(0);
    // what was acknowledged elsewhere is seen by whoever asks for it
    for n in 0..20 {
        let body = format!("{{\"n\":{n}}}");
        let put = ask(&leader, "PUT", "/v1/state/Config/limits", &body);
        assert!(put.starts_with("HTTP/1.1 200"), "{put}");
        let got = ask(&follower, "GET", "/v1/state/Config/limits?consistent", "");
        assert!(got.contains(&format!("\"Payload\":{body}")), "{got}");
    }
    let silence = |answer: &str| {
        header(answer, "x-nomad-lastcontact")
            .parse::<u64>()
            .unwrap()
    };
    let led = ask(&leader, "GET", "/v1/state/Config", "");
    assert_eq!(
        (silence(&led), header(&led, "x-nomad-knownleader")),
        (0, "true")
    );
    let followed = ask(&follower, "GET", "/v1/state/Config", "");
    assert_eq!(header(&followed, "x-nomad-knownleader"), "true");
    assert!(silence(&followed) < 2000, "{followed}");
    assert_eq!(
        header(&led, "x-tidings-timeline"),
        header(&followed, "x-tidings-timeline")
    );

    drop((leader, cluster));
    let target = "/v1/state/Config/limits";
    eventually("it to know that nobody leads", || {
        let answer = ask(&follower, "GET", target, "");
        answer.starts_with("HTTP/1.1 503").then_some(())
    });
    let stale = ask(&follower, "GET", &format!("{target}?stale"), "");
    assert!(stale.starts_with("HTTP/1.1 200"), "{stale}");
    assert_eq!(header(&stale, "x-nomad-knownleader"), "false");
    assert!(silence(&stale) >= 2000, "{stale}");
    let consistent = ask(&follower, "GET", &format!("{target}?consistent"), "");
    assert!(consistent.starts_with("HTTP/1.1 503"), "{consistent}");
    let ready = ask(&follower, "GET", "/v1/health/ready", "");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
}

/// Publishes one event after the other, to a server until it is away, then to another, until told to
/// stop. What a server has answered is not sent again, whatever it was.
fn publish_one_by_one(
    name: usize,
    addresses: Vec<String>,
    done: Arc<AtomicBool>,
) -> thread::JoinHandle<Publisher> {
    thread::spawn(move || {
        let mut publisher = Publisher::default();
        let mut at = name;
        while !done.load(Ordering::SeqCst) {
            let id = format!("{name}-{}", publisher.published);
            let body =
                format!(r#"{{"Events":[{{"Topic":"T","Type":"t","Key":"{id}","Id":"{id}"}}]}}"#);
            match try_ask(
                &addresses[at % addresses.len()],
                "POST",
                "/v1/events",
                &body,
            ) {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => publisher.published += 1,
                Ok(answer) if !answer.is_empty() => {
                    publisher.failed.push(answer);
                    return publisher;
                }
                // nobody there, or gone before it has read what was sent
                _ => at += 1,
            }
        }
        publisher
    })
}

#[derive(Debug, Default)]
struct Publisher {
    published: u64,
    failed: Vec<String>,
}

/// G2: servers are restarted one by one, and no publish that reaches one of them fails.
#[test]
fn g2_a_rolling_restart_costs_no_publish() {
    let mut cluster = Cluster::of_three();
    let done = Arc::new(AtomicBool::new(false));
    let servers = cluster.servers.iter();
    let addresses: Vec<String> = servers.map(|server| server.address.clone()).collect();
    let publishers: Vec<_> = (0..3)
        .map(|name| publish_one_by_one(name, addresses.clone(), done.clone()))
        .collect();
    for name in ["s1", "s2", "s3"] {
        let stopping = cluster.take(name);
        let (http, peer) = (stopping.address.clone(), stopping.peer.clone().unwrap());
        stopping.stop();
        cluster.start_again(name, &http, &peer);
        cluster.wait_until_ready();
        cluster.leader();
    }
    done.store(true, Ordering::SeqCst);
    let mut published = 0;
    for publisher in publishers {
        let publisher = publisher.join().unwrap();
        assert!(publisher.failed.is_empty(), "{publisher:?}");
        assert!(publisher.published > 0);
        published += publisher.published;
    }
    cluster.check_one_history();
    let newest = cluster.servers[0].status()["Timeline"]["Newest"].as_u64();
    assert_eq!(newest, Some(published));
}
