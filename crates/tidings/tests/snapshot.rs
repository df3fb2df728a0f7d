//! A timeline as one file: saved from, and restored on, servers as processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod real_agent;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use real_agent::cluster::{Cluster, history, server_flags};
use real_agent::{Agent, event_lines, output, tidings, told};
use serde_json::Value;

/// For some sealed segments with little in them.
const SMALL_SEGMENTS: &str = "[store]\nsegment_bytes = \"1MiB\"\n";

/// A path as an argument.
fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn newest(agent: &Agent) -> u64 {
    agent.status()["Timeline"]["Newest"].as_u64().unwrap()
}

/// Posts a file; head and body of the answer.
fn post(address: &str, body: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let head = format!(
        "POST /v1/snapshot HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(body).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// What an entry says now; `None` when there is none.
fn entry(agent: &Agent, key: &str) -> Option<Value> {
    let got = agent.run(&["state", "get", "Config", key, "--output", "json"]);
    let entry: Value = serde_json::from_slice(&got.stdout).ok()?;
    Some(entry["Payload"].clone())
}

fn put(agent: &Agent, key: &str, payload: &str) {
    agent.ok(&["state", "put", "Config", key, payload]);
}

/// G1, G3: what is restored on one server is so on all, indexes go on, followers are told, and what is
/// damaged changes nothing.
#[test]
fn g3_a_restore_is_the_same_on_all_servers_and_followers_are_told() {
    let mut cluster = Cluster::of_three_with(SMALL_SEGMENTS);
    let leader = cluster.leader();
    let asked = |n: usize| (leader + n) % 3;
    let lines = event_lines(1..=9000);
    let said = cluster.servers[0].run_with_input(&["publish", "--ndjson", "-"], &lines);
    assert!(said.status.success(), "{}", told(&said));
    for (key, payload) in [
        ("a", r#"{"n":1}"#),
        ("b", r#"{"n":2}"#),
        ("c", r#"{"n":3}"#),
    ] {
        put(&cluster.servers[leader], key, payload);
    }

    // saved by a server that follows
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.snap");
    let follower = &cluster.servers[asked(1)];
    let said = follower.ok(&["snapshot", "save", text(&file), "--consistent"]);
    assert!(said.contains("3 entries, frames 1 to 9,003"), "{said}");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let again = follower.run(&["snapshot", "save", text(&file)]);
    assert_eq!(again.status.code(), Some(2), "{}", told(&again));
    follower.ok(&["snapshot", "save", text(&file), "--consistent", "--force"]);
    let said = output(tidings().args(["snapshot", "inspect", text(&file), "--json"]));
    assert!(said.status.success(), "{}", told(&said));
    let info: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(info["Newest"], 9003);
    assert_eq!(info["Oldest"], 1);
    assert_eq!(info["Entries"], 3);
    assert_eq!(info["Servers"].as_array().unwrap().len(), 3);
    assert!(info["Segments"].as_u64() > Some(1), "{info}");
    let bytes: usize = history(follower.data_dir()).iter().map(|f| f.1.len()).sum();
    assert_eq!(info["HistoryBytes"], bytes);

    // changed, removed, and new
    put(&cluster.servers[leader], "a", r#"{"n":9}"#);
    cluster.servers[leader].ok(&["state", "delete", "Config", "b"]);
    put(&cluster.servers[leader], "d", r#"{"n":4}"#);
    cluster.servers[leader].ok(&["publish", "Deploy", "Done"]);
    let before = newest(&cluster.servers[leader]);
    assert_eq!(before, 9007);

    // what is not what was saved is refused, and so by whoever asks the server itself
    let whole = std::fs::read(&file).unwrap();
    let damaged = dir.path().join("damaged.snap");
    let server = &cluster.servers[asked(2)];
    let mut changed = whole.clone();
    let at = changed.len() - 1000;
    changed[at] ^= 1;
    for (bytes, code) in [
        (&whole[..whole.len() - 1], "snapshot_damaged"),
        (&changed[..], "snapshot_damaged"),
        (b"{\"Index\":1}\n", "not_a_snapshot"),
    ] {
        std::fs::write(&damaged, bytes).unwrap();
        let refused = server.run(&["snapshot", "restore", text(&damaged), "--yes"]);
        assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
        let said = told(&refused);
        assert!(
            said.contains("use another copy") || said.contains("tidings snapshot save"),
            "{said}"
        );
        let answer = post(&server.address, bytes);
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains(code), "{answer}");
    }
    let unasked = server.run(&["snapshot", "restore", text(&file)]);
    assert_eq!(unasked.status.code(), Some(2), "{}", told(&unasked));
    assert!(told(&unasked).contains("--yes"), "{}", told(&unasked));
    assert_eq!(newest(server), before, "nothing has changed");

    let mut told_of = cluster.servers[asked(1)].follow(&[
        "stream", "--topic", "Timeline", "--from", "now", "--output", "json",
    ]);
    let mut entries = cluster.servers[leader].follow(&[
        "stream", "--topic", "Config", "--from", "9008", "--output", "json",
    ]);
    let said = server.ok(&[
        "snapshot",
        "restore",
        text(&file),
        "--yes",
        "--output",
        "json",
    ]);
    let restored: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(restored["Written"], 2, "{restored}");
    assert_eq!(restored["Removed"], 1, "{restored}");
    assert_eq!(restored["Index"], before + 4, "{restored}");
    let line: Value = serde_json::from_str(&told_of.take(1)[0]).unwrap();
    assert_eq!(line["Index"], restored["Index"]);
    let event = &line["Events"][0];
    assert_eq!(event["Type"], "StateRestored", "{event}");
    assert_eq!(event["Payload"]["Newest"], 9003, "{event}");
    let changes: Vec<(String, String)> = entries
        .take(3)
        .iter()
        .map(|line| {
            let frame: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| frame["Events"][0][name].as_str().unwrap().to_owned();
            (text("Key"), text("Type"))
        })
        .collect();
    let change = |key: &str, kind: &str| (key.to_owned(), kind.to_owned());
    assert_eq!(
        changes,
        [
            change("a", "EntryPut"),
            change("b", "EntryPut"),
            change("d", "RemovedByRestore")
        ]
    );

    // through an agent that holds nothing, and by whoever has nothing but HTTP: there is no more to do
    let peer = cluster.servers[0].peer.clone().unwrap();
    let flags = ["--http", "127.0.0.1:0", "--node", "a1", "--join", &peer];
    let agent = Agent::spawn(&cluster.data_dir("a1"), &flags).unwrap();
    agent.wait_until_ready();
    let through = dir.path().join("through.snap");
    agent.ok(&["snapshot", "save", text(&through)]);
    let said = agent.ok(&[
        "snapshot",
        "restore",
        text(&through),
        "-y",
        "--output",
        "json",
    ]);
    let nothing: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(nothing["Written"], 0, "{nothing}");
    assert_eq!(nothing["Removed"], 0, "{nothing}");
    for address in [&server.address, &agent.address] {
        let answer = post(address, &whole);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(r#""Written":0,"Removed":0,"#), "{answer}");
    }

    cluster.check_one_history();
    for server in &cluster.servers {
        let now = ["a", "b", "c", "d"].map(|key| entry(server, key));
        let n = |n: u64| Some(serde_json::json!({ "n": n }));
        assert_eq!(now, [n(1), n(2), n(3), None]);
    }
    let all = history(cluster.servers[0].data_dir());
    let lines: Vec<&[u8]> = all
        .iter()
        .flat_map(|(_, bytes)| bytes.split_inclusive(|&byte| byte == b'\n'))
        .collect();
    assert_eq!(lines.len() as u64, before + 7);
    for (n, line) in lines.iter().enumerate() {
        let begin = format!("{{\"Index\":{},", n + 1);
        assert!(line.starts_with(begin.as_bytes()), "frame {}", n + 1);
    }
    let verified = cluster.servers[0].ok(&["verify", "--cluster"]);
    assert!(
        verified.contains("ok: 3 servers have the same frames 1 to 9,014"),
        "{verified}"
    );
    drop(agent);
    let last = cluster.take("s3");
    last.stop();
}

#[test]
fn with_all_servers_lost_a_new_cluster_begins_with_the_file() {
    let mut cluster = Cluster::of_three();
    put(&cluster.servers[0], "limits", r#"{"max":7}"#);
    cluster.servers[1].ok(&["publish", "Deploy", "Started", "--key", "before"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.snap");
    cluster.servers[2].ok(&["snapshot", "save", text(&file), "--consistent"]);
    let timeline = cluster.servers[0].status()["Timeline"]["Id"].clone();
    cluster.servers[1].ok(&["publish", "Deploy", "Done", "--key", "lost"]);
    for server in &mut cluster.servers {
        server.kill();
    }

    let found = |data_dir: &Path, extra: &[&str]| {
        let mut command = tidings();
        command.args([
            "snapshot",
            "restore",
            text(&file),
            "--data-dir",
            text(data_dir),
        ]);
        output(command.args(extra))
    };
    // not over what is there
    let refused = found(&cluster.data_dir("s1"), &["--node", "s1"]);
    assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
    assert!(
        told(&refused).contains("empty data directory"),
        "{}",
        told(&refused)
    );
    let new = dir.path().join("n1");
    let refused = found(&new, &["--addr", "h:1"]);
    assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
    let done = found(&new, &["--node", "n1"]);
    assert!(done.status.success(), "{}", told(&done));
    let said = told(&done);
    assert!(said.contains("next: start the agent on it"), "{said}");

    let flags = |name: &str, join: &[&str]| {
        let mut flags = server_flags(name);
        for peer in join {
            flags.extend(["--join".to_owned(), (*peer).to_owned()]);
        }
        flags
    };
    let start = |name: &str, flags: Vec<String>| {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let server = Agent::spawn(&dir.path().join(name), &flags).unwrap();
        server.wait_until_ready();
        server
    };
    let first = start("n1", flags("n1", &[]));
    assert_eq!(newest(&first), 2);
    let peer = first.peer.clone().unwrap();
    let second = start("n2", flags("n2", &[&peer]));
    let third = start("n3", flags("n3", &[&peer]));
    let servers = [first, second, third];
    for server in &servers {
        assert_eq!(entry(server, "limits"), Some(serde_json::json!({"max": 7})));
    }
    servers[2].ok(&["publish", "Deploy", "Done", "--key", "after"]);
    let seen = servers[1].ok(&["stream", "--from", "beginning", "--count", "3"]);
    assert!(seen.contains("before") && seen.contains("after"), "{seen}");
    assert!(!seen.contains("lost"), "{seen}");
    let anew = servers[0].status()["Timeline"]["Id"].clone();
    assert!(anew.is_string() && anew != timeline, "{anew} {timeline}");
    let verified = servers[0].ok(&["verify", "--cluster"]);
    assert!(
        verified.contains("ok: 3 servers have the same frames 1 to 3"),
        "{verified}"
    );
}

/// What the whole timeline holds is for those alone who have the token.
#[test]
fn without_the_token_nothing_is_saved_or_restored() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "0123456789abcdef0123456789abcdef";
    let token = dir.path().join("token");
    std::fs::write(&token, secret).unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = dir.path().join("tidings.toml");
    std::fs::write(
        &config,
        format!("[http]\ntoken_file = {:?}\n", text(&token)),
    )
    .unwrap();
    let flags = ["--dev", "--http", "127.0.0.1:0", "--config", text(&config)];
    let agent = Agent::spawn(&dir.path().join("data"), &flags).unwrap();
    let file = dir.path().join("t.snap");
    let run = |args: &[&str], token: Option<&str>| {
        let mut command = agent.client(args);
        if let Some(token) = token {
            command.env("TIDINGS_TOKEN", token);
        }
        output(&mut command)
    };
    let published = run(&["state", "put", "Config", "limits", "{}"], Some(secret));
    assert!(published.status.success(), "{}", told(&published));
    for wrong in [None, Some("0123456789abcdef0123456789abcdeg")] {
        let refused = run(&["snapshot", "save", text(&file)], wrong);
        assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
        assert!(
            told(&refused).contains("TIDINGS_TOKEN"),
            "{}",
            told(&refused)
        );
        assert!(!file.exists());
    }
    let saved = run(&["snapshot", "save", text(&file)], Some(secret));
    assert!(saved.status.success(), "{}", told(&saved));
    for wrong in [None, Some("0123456789abcdef0123456789abcdeg")] {
        let refused = run(&["snapshot", "restore", text(&file), "--yes"], wrong);
        assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
        assert!(
            told(&refused).contains("TIDINGS_TOKEN"),
            "{}",
            told(&refused)
        );
    }
    let restored = run(&["snapshot", "restore", text(&file), "--yes"], Some(secret));
    assert!(restored.status.success(), "{}", told(&restored));
    assert!(
        told(&restored).contains("frame 2 tells of it"),
        "{}",
        told(&restored)
    );
}
