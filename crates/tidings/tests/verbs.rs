//! The verbs against a real agent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod real_agent;

use std::io::Write;
use std::process::Stdio;

use real_agent::{
    Agent, event_lines, eventually, finish, indexes_and_keys, output, tidings, told, wait,
};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn what_is_published_is_streamed() {
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start(data.path());
    let said = agent.ok(&[
        "publish",
        "Deploy",
        "Started",
        "--key",
        "web",
        "--payload",
        "{\"version\": 7.0}",
        "--filter-key",
        "blue",
    ]);
    assert!(said.starts_with("published at index "), "{said}");
    agent.ok(&[
        "publish",
        "Deploy",
        "Done",
        "--key",
        "api",
        "--namespace",
        "ops",
        "--payload",
        "{\"text\":\"\u{9b}2J\"}",
    ]);

    let line = agent.ok(&[
        "stream",
        "--from",
        "beginning",
        "--count",
        "1",
        "--output",
        "json",
    ]);
    let frame: Value = serde_json::from_str(&line).unwrap();
    let event = &frame["Events"][0];
    assert_eq!(event["Topic"], "Deploy");
    assert_eq!(event["Key"], "web");
    assert_eq!(event["FilterKeys"][0], "blue");
    assert!(line.contains("\"Payload\":{\"version\":7.0}"), "{line}");

    let text = agent.ok(&[
        "stream",
        "--from",
        "beginning",
        "--count",
        "2",
        "--namespace",
        "*",
    ]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].ends_with("Deploy Started web {\"version\":7.0}"),
        "{text:?}"
    );
    assert!(
        lines[1].ends_with("api@ops {\"text\":\"\\u{9b}2J\"}"),
        "{text:?}"
    );

    let by_key = [
        "stream",
        "--from",
        "beginning",
        "--topic",
        "Deploy:blue",
        "--count",
        "1",
    ];
    assert!(agent.ok(&by_key).contains("Started"));
    let by_filter = [
        "stream",
        "--from",
        "beginning",
        "--namespace",
        "ops",
        "--filter",
        "Type == 'Done'",
        "--count",
        "1",
    ];
    assert!(agent.ok(&by_filter).contains("Done"));
}

#[test]
fn the_same_id_is_the_same_event() {
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start(data.path());
    let publish = ["publish", "T", "t", "--id", "once", "--output", "json"];
    let first: Value = serde_json::from_str(&agent.ok(&publish)).unwrap();
    let second: Value = serde_json::from_str(&agent.ok(&publish)).unwrap();
    assert_eq!(first["Duplicate"], false);
    assert_eq!(second["Duplicate"], true);
    assert_eq!(first["Index"], second["Index"]);
}

#[test]
fn ten_thousand_lines_keep_their_order() {
    const LINES: u64 = 10_000;
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start(data.path());
    let file = data.path().join("events.ndjson");
    std::fs::write(&file, event_lines(1..=LINES)).unwrap();
    let said = agent.ok(&["publish", "--ndjson", file.to_str().unwrap()]);
    assert!(
        said.starts_with("10,000 transactions published, at indexes "),
        "{said}"
    );

    let count = LINES.to_string();
    let mut follower = agent.follow(&[
        "stream",
        "--from",
        "beginning",
        "--output",
        "json",
        "--count",
        &count,
    ]);
    let frames = indexes_and_keys(&follower.take(LINES as usize));
    for (place, (index, key)) in frames.iter().enumerate() {
        assert_eq!(*index, frames[0].0 + place as u64);
        assert_eq!(*key, (place + 1).to_string());
    }
    assert!(wait(&mut follower.child).success());
}

#[test]
fn refused_lines_are_told_by_their_number() {
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start(data.path());
    let input = "{\"Topic\":\"T\",\"Type\":\"t\"}\n\nnot json\n{\"Type\":\"no topic\"}\n{\"Events\":[{\"Topic\":\"T\",\"Type\":\"a\"},{\"Topic\":\"T\",\"Type\":\"b\"}]}";
    let output = agent.run_with_input(&["publish", "--ndjson", "-"], input);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("line 3: not one JSON object"), "{stderr}");
    assert!(stderr.contains("line 4: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.starts_with("2 transactions published, 2 refused, at indexes "),
        "{stdout}"
    );
}

#[test]
fn entries_are_put_read_listed_and_deleted() {
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start(data.path());
    agent.ok(&["state", "put", "Config", "a/limits", "{\"max\":7.0}"]);
    agent.ok(&[
        "state", "put", "Config", "b", "{}", "--cas", "0", "--type", "Seen",
    ]);

    let entry = agent.ok(&["state", "get", "Config", "a/limits", "--output", "json"]);
    let value: Value = serde_json::from_str(&entry).unwrap();
    assert_eq!(value["Key"], "a/limits");
    assert!(entry.contains("{\"max\":7.0}"), "{entry}");
    assert!(
        agent
            .ok(&["state", "get", "Config", "a/limits"])
            .contains("\"max\": 7")
    );

    let list = agent.ok(&["state", "list", "Config", "--per-page", "1"]);
    let keys: Vec<_> = list
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(keys, ["KEY", "a/limits", "b"]);
    let list = agent.ok(&[
        "state", "list", "Config", "--prefix", "a/", "--output", "json",
    ]);
    assert_eq!(list.lines().count(), 1);

    let taken = agent.run(&["state", "put", "Config", "b", "{}", "--cas", "0"]);
    assert_eq!(taken.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&taken.stderr);
    assert!(
        stderr.contains("cas_mismatch") && stderr.contains("hint: "),
        "{stderr}"
    );

    let snapshot = agent.ok(&[
        "stream", "--from", "snapshot", "--count", "2", "--output", "json",
    ]);
    assert_eq!(
        indexes_and_keys(&snapshot.lines().map(str::to_owned).collect::<Vec<_>>()).len(),
        2
    );

    agent.ok(&["state", "delete", "Config", "b"]);
    for verb in ["get", "delete"] {
        let absent = agent.run(&["state", verb, "Config", "b"]);
        assert_eq!(absent.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&absent.stderr).contains("there is no entry"));
    }
}

#[test]
fn status_tells_how_the_agent_is() {
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start(data.path());
    let text = agent.ok(&["status"]);
    assert!(
        text.contains(" is ready\n") && text.contains("newest"),
        "{text}"
    );
    let json: Value = serde_json::from_str(&agent.ok(&["status", "--output", "json"])).unwrap();
    assert!(json.is_object());
}

#[test]
fn a_stream_outlives_a_crash_of_the_agent() {
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start(data.path());
    let follow = [
        "stream",
        "--from",
        "beginning",
        "--output",
        "json",
        "--count",
        "300",
    ];
    let mut follower = agent.follow(&follow);
    let publish = |agent: &Agent, keys| {
        let output = agent.run_with_input(&["publish", "--ndjson", "-"], &event_lines(keys));
        assert!(output.status.success(), "{}", told(&output));
    };
    publish(&agent, 1..=100);
    let mut lines = follower.take(100);
    let agent = agent.crash_and_restart();
    publish(&agent, 101..=250);
    lines.extend(follower.take(80));
    let agent = agent.crash_and_restart();
    publish(&agent, 251..=300);
    lines.extend(follower.take(120));

    let frames = indexes_and_keys(&lines);
    for (place, (_, key)) in frames.iter().enumerate() {
        assert_eq!(*key, (place + 1).to_string());
    }
    assert!(frames.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(wait(&mut follower.child).success());
}

#[test]
fn a_publisher_outlives_a_crash_of_the_agent() {
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start(data.path());
    let mut publisher = agent
        .client(&["publish", "--ndjson", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = publisher.stdin.take().unwrap();
    let mut follower = agent.follow(&[
        "stream",
        "--from",
        "beginning",
        "--output",
        "json",
        "--count",
        "3000",
    ]);
    stdin.write_all(event_lines(1..=1000).as_bytes()).unwrap();
    let mut lines = follower.take(500);
    let agent = agent.crash_and_restart();
    stdin
        .write_all(event_lines(1001..=3000).as_bytes())
        .unwrap();
    drop(stdin);
    let output = finish(publisher);
    assert!(output.status.success(), "{}", told(&output));
    lines.extend(follower.take(2500));
    for (place, (_, key)) in indexes_and_keys(&lines).iter().enumerate() {
        assert_eq!(*key, (place + 1).to_string());
    }
    // Nothing came twice: what follows is new.
    agent.ok(&["publish", "Count", "Counted", "--key", "last"]);
    let newest = agent.ok(&["stream", "--output", "json", "--count", "100"]);
    let newest = indexes_and_keys(&newest.lines().map(str::to_owned).collect::<Vec<_>>());
    assert_eq!(newest[98].1, "3000");
    assert_eq!(newest[99].1, "last");
}

#[test]
fn verify_finds_a_flipped_byte() {
    let data = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(data.path());
    for key in ["first", "second", "third"] {
        agent.ok(&["publish", "T", "t", "--key", key]);
    }

    let verify = || output(tidings().arg("verify").arg("--data-dir").arg(data.path()));
    let locked = verify();
    assert_eq!(locked.status.code(), Some(1), "{}", told(&locked));
    agent.kill();
    let whole = verify();
    assert!(whole.status.success(), "{}", told(&whole));
    assert!(String::from_utf8_lossy(&whole.stdout).contains("ok: checked 1 segment, "));

    let log = std::fs::read_dir(data.path().join("raft")).unwrap();
    let log = log
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "log"))
        .unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let first = bytes
        .windows(5)
        .position(|window| window == b"first")
        .unwrap();
    bytes[first] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let damaged = verify();
    assert_eq!(damaged.status.code(), Some(1), "{}", told(&damaged));
    let stdout = String::from_utf8_lossy(&damaged.stdout);
    let name = log.file_name().unwrap().to_str().unwrap();
    assert!(
        stdout.contains("fault: ") && stdout.contains(name),
        "{stdout}"
    );
    assert!(
        stdout.contains(" at byte ") && stdout.contains("hint: "),
        "{stdout}"
    );
}

#[test]
fn rebuild_sets_the_files_of_a_stopped_server_aside() {
    let data = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(data.path());
    agent.ok(&["publish", "T", "t", "--key", "first"]);
    let rebuild = || output(tidings().arg("rebuild").arg("--data-dir").arg(data.path()));
    let locked = rebuild();
    assert_eq!(locked.status.code(), Some(1), "{}", told(&locked));
    assert!(told(&locked).contains("in use by"), "{}", told(&locked));
    assert!(data.path().join("node").exists());
    agent.kill();

    let done = rebuild();
    assert!(done.status.success(), "{}", told(&done));
    let stdout = String::from_utf8_lossy(&done.stdout);
    assert!(
        stdout.contains("history, raft, snapshots, node are in"),
        "{stdout}"
    );
    assert!(stdout.contains("--join HOST:7481"), "{stdout}");
    assert!(!data.path().join("history").exists());
    let nothing = rebuild();
    assert_eq!(nothing.status.code(), Some(1), "{}", told(&nothing));
    assert!(
        told(&nothing).contains("nothing to set aside"),
        "{}",
        told(&nothing)
    );
}

#[test]
fn ctrl_c_ends_a_stream_and_a_publisher() {
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start(data.path());
    let mut publisher = agent
        .client(&["publish", "--ndjson", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = publisher.stdin.take().unwrap();
    stdin.write_all(event_lines(1..=3).as_bytes()).unwrap();
    let mut follower = agent.follow(&["stream", "--from", "beginning", "--output", "json"]);
    follower.take(3);

    follower.signal(Signal::INT);
    let ended = wait(&mut follower.child);
    assert!(ended.success(), "{ended}");

    rustix::process::kill_process(rustix::process::Pid::from_child(&publisher), Signal::INT)
        .unwrap();
    let output = finish(publisher);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("3 transactions published"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
    drop(stdin);
}

#[test]
fn a_reader_that_has_enough_ends_the_stream_quietly() {
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start(data.path());
    agent.ok(&["publish", "T", "t"]);
    let mut child = agent
        .client(&["stream", "--from", "beginning"])
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    drop(stdout);
    let status = eventually("the stream to notice", || {
        agent.ok(&["publish", "T", "t"]);
        child.try_wait().unwrap()
    });
    let output = finish(child);
    assert!(status.success(), "{}", told(&output));
    assert!(output.stderr.is_empty(), "{}", told(&output));
}

#[test]
fn a_stream_says_that_the_timeline_was_reset() {
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start(data.path());
    for key in ["one", "two"] {
        agent.ok(&["publish", "T", "t", "--key", key]);
    }
    let follow = ["stream", "--from", "beginning", "--output", "json"];
    let mut follower = agent.follow(&follow);
    follower.take(2);
    // Another directory, the same address: as after somebody threw the data away.
    let other = tempfile::tempdir().unwrap();
    let agent = agent.crash_and_restart_on(other.path());
    agent.ok(&["publish", "T", "t", "--key", "three"]);
    let frames = indexes_and_keys(&follower.take(1));
    assert_eq!(frames[0].1, "three");
    follower.signal(Signal::INT);
    assert!(wait(&mut follower.child).success());
    let said = follower.said();
    assert!(said.contains("warning: the timeline was reset"), "{said}");
    assert!(said.contains("note: connected"), "{said}");
}
