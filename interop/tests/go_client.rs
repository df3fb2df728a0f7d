//! The official Go client, github.com/hashicorp/nomad/api, unmodified.
//!
//! What it makes of recorded traffic is in `recorded_traffic.rs`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidings_interop::{Agent, AgentOptions, GoClient};

/// Longest wait for a subscription on an idle stream; the next heartbeat comes after 30 s.
const SUBSCRIBED_MAX: Duration = Duration::from_secs(5);

fn event(topic: &str, key: &str) -> Value {
    json!({ "Topic": topic, "Type": "Changed", "Key": key, "Namespace": "default",
            "FilterKeys": ["also-".to_owned() + key], "Payload": { topic: { "ID": key } } })
}

fn keys(lines: &[String]) -> Result<Vec<String>> {
    lines
        .iter()
        .map(|line| {
            let event: Value = serde_json::from_str(line)?;
            event["Key"]
                .as_str()
                .map(str::to_owned)
                .context("an event has no key")
        })
        .collect()
}

#[test]
fn go_client_follows_topics_and_keys() -> Result<()> {
    let agent = Agent::start()?;
    for (topic, key) in [
        ("Job", "web"),
        ("Job", "db"),
        ("Node", "n1"),
        ("Job", "cache"),
    ] {
        agent.publish(&[event(topic, key)])?;
    }
    let flags = [
        "-topic",
        "Job:web",
        "-topic",
        "Job:also-cache",
        "-topic",
        "Node",
        "-count",
        "3",
        "dump",
    ];
    let lines = GoClient::start(&agent, &[], &flags)?.finish()?.success()?;
    assert_eq!(keys(&lines)?, ["web", "n1", "cache"]);
    Ok(())
}

#[test]
fn go_client_subscribes_at_once_on_an_idle_stream() -> Result<()> {
    let agent = Agent::start()?;
    let started = Instant::now();
    let mut follower = GoClient::start(&agent, &[], &["-count", "2", "dump"])?;
    // The client asks for gzip and returns from Stream() only when first bytes came.
    follower.await_complaint("subscribed")?;
    let waited = started.elapsed();
    assert!(
        waited < SUBSCRIBED_MAX,
        "it took {waited:?}: the first bytes came with the first heartbeat or event, not at once"
    );
    agent.publish(&[event("Job", "a")])?;
    agent.publish(&[event("Job", "b")])?;
    assert_eq!(keys(&follower.finish()?.success()?)?, ["a", "b"]);
    Ok(())
}

#[test]
fn go_client_resumes_at_an_index() -> Result<()> {
    let agent = Agent::start()?;
    agent.publish(&[event("Job", "a")])?;
    let index = agent.publish(&[event("Job", "b")])?;
    agent.publish(&[event("Job", "c")])?;
    let flags = ["-index", &index.to_string(), "-count", "2", "dump"];
    assert_eq!(
        keys(&GoClient::start(&agent, &[], &flags)?.finish()?.success()?)?,
        ["b", "c"]
    );
    Ok(())
}

#[test]
fn go_client_is_told_why_it_is_refused() -> Result<()> {
    let agent = Agent::start_with(AgentOptions {
        token: Some("a-long-enough-right-token-0123456789".into()),
        ..AgentOptions::default()
    })?;
    let wrong = GoClient::start(
        &agent,
        &[("NOMAD_TOKEN", "wrong")],
        &["-count", "1", "dump"],
    )?
    .finish()?;
    assert!(!wrong.succeeded);
    assert!(
        wrong.complaint.contains("403 (Permission denied)"),
        "{}",
        wrong.complaint
    );

    let right = [("NOMAD_TOKEN", "a-long-enough-right-token-0123456789")];
    let bad = GoClient::start(&agent, &right, &["-topic", "a:b:c", "dump"])?.finish()?;
    assert!(!bad.succeeded);
    assert!(
        bad.complaint.contains("Invalid key value pair"),
        "{}",
        bad.complaint
    );
    Ok(())
}

#[test]
fn go_client_sees_a_clean_end_when_the_agent_stops() -> Result<()> {
    let mut agent = Agent::start()?;
    let mut follower = GoClient::start(&agent, &[], &["dump"])?;
    follower.await_complaint("subscribed")?;
    agent.stop()?;
    let end = follower.finish()?;
    assert!(!end.succeeded);
    assert_eq!(
        end.complaint.trim(),
        "EOF",
        "not a cut chunk, not a text after the last line"
    );
    Ok(())
}
