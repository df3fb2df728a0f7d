//! PyPI's python-nomad, unmodified.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidings_interop::{Agent, AgentOptions, Outcome, PythonClient};

fn event(topic: &str, key: &str, namespace: &str) -> Value {
    json!({ "Topic": topic, "Type": "Changed", "Key": key, "Namespace": namespace,
            "FilterKeys": null, "Payload": { topic: { "ID": key } } })
}

/// `topic key` of every event that came.
fn names(frames: &[String]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for frame in frames {
        let frame: Value = serde_json::from_str(frame)?;
        for event in frame["Events"]
            .as_array()
            .context("a frame has no events")?
        {
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            names.push(format!("{} {}", text("Topic"), text("Key")));
        }
    }
    Ok(names)
}

fn follow(agent: &Agent, arguments: &[&str]) -> Result<Outcome> {
    PythonClient::start(agent, arguments)?.finish()
}

/// The one line that the program prints when the library's thread dies.
fn death(outcome: &Outcome) -> Result<Value> {
    assert!(
        !outcome.succeeded,
        "the program succeeded: {:?}",
        outcome.lines
    );
    let line = outcome
        .lines
        .last()
        .with_context(|| format!("it said nothing: {}", outcome.complaint))?;
    Ok(serde_json::from_str(line)?)
}

#[test]
fn python_nomad_follows_a_list_of_topics_with_keys() -> Result<()> {
    let agent = Agent::start()?;
    for (topic, key) in [
        ("Job", "web"),
        ("Job", "db"),
        ("Node", "n1"),
        ("Evaluation", "e1"),
    ] {
        agent.publish(&[event(topic, key, "default")])?;
    }
    let frames = follow(
        &agent,
        &["--topics", r#"["Job:web", "Node"]"#, "--count", "2"],
    )?
    .success()?;
    assert_eq!(names(&frames)?, ["Job web", "Node n1"]);
    Ok(())
}

#[test]
fn python_nomad_follows_topics_given_as_a_dict() -> Result<()> {
    let agent = Agent::start()?;
    for (topic, key) in [
        ("Job", "web"),
        ("Node", "n1"),
        ("Job", "db"),
        ("Node", "n2"),
    ] {
        agent.publish(&[event(topic, key, "default")])?;
    }
    // The library sends the dict's keys alone: {"Node": "n2"} asks for every node.
    let frames = follow(&agent, &["--topics", r#"{"Node": "n2"}"#, "--count", "2"])?.success()?;
    assert_eq!(names(&frames)?, ["Node n1", "Node n2"]);
    Ok(())
}

#[test]
fn python_nomad_resumes_at_an_index() -> Result<()> {
    let agent = Agent::start()?;
    let mut second = 0;
    for key in ["a", "b", "c"] {
        let index = agent.publish(&[event("Job", key, "default")])?;
        if key == "b" {
            second = index;
        }
    }
    let frames = follow(&agent, &["--index", &second.to_string(), "--count", "2"])?.success()?;
    assert_eq!(
        names(&frames)?,
        ["Job b", "Job c"],
        "the index is inclusive"
    );
    Ok(())
}

#[test]
fn python_nomad_sees_events_while_they_are_published() -> Result<()> {
    let agent = Agent::start()?;
    agent.publish(&[event("Job", "before", "default")])?;
    let mut follower = PythonClient::start(&agent, &["--count", "3"])?;
    // It follows: what is published now comes to it live.
    follower.await_printed()?;
    agent.publish(&[event("Job", "after", "default"), event("Node", "n1", "")])?;
    assert_eq!(
        names(&follower.finish()?.success()?)?,
        ["Job before", "Job after", "Node n1"]
    );
    Ok(())
}

#[test]
fn python_nomad_follows_one_namespace_or_all() -> Result<()> {
    let agent = Agent::start()?;
    for (key, namespace) in [("a", "default"), ("b", "foo"), ("c", "bar"), ("d", "")] {
        agent.publish(&[event("Job", key, namespace)])?;
    }
    let of = |arguments: &[&str]| -> Result<Vec<String>> {
        names(&follow(&agent, arguments)?.success()?)
    };
    assert_eq!(of(&["--count", "2"])?, ["Job a", "Job d"]);
    assert_eq!(
        of(&["--namespace", "foo", "--count", "2"])?,
        ["Job b", "Job d"]
    );
    assert_eq!(
        of(&["--namespace", "*", "--count", "4"])?,
        ["Job a", "Job b", "Job c", "Job d"]
    );
    Ok(())
}

#[test]
fn python_nomad_gets_400_for_a_bad_topic() -> Result<()> {
    let agent = Agent::start()?;
    let death = death(&follow(
        &agent,
        &["--topics", r#"["a:b:c"]"#, "--count", "1"],
    )?)?;
    assert_eq!(death["error"], "BadRequestNomadException");
    assert_eq!(death["status"], 400);
    assert_eq!(
        death["body"],
        "Invalid topic query: error parsing topics: Invalid key value pair for topic, topic: a:b:c"
    );
    Ok(())
}

#[test]
fn python_nomad_gets_403_for_a_wrong_token() -> Result<()> {
    let agent = Agent::start_with(AgentOptions {
        token: Some("a-long-enough-right-token-0123456789".into()),
        ..AgentOptions::default()
    })?;
    agent.publish(&[event("Job", "web", "default")])?;
    let death = death(&follow(&agent, &["--token", "wrong", "--count", "1"])?)?;
    assert_eq!(death["error"], "URLNotAuthorizedNomadException");
    assert_eq!(death["status"], 403);
    assert_eq!(death["body"], "Permission denied");

    let right = [
        "--token",
        "a-long-enough-right-token-0123456789",
        "--count",
        "1",
    ];
    assert_eq!(names(&follow(&agent, &right)?.success()?)?, ["Job web"]);
    Ok(())
}

#[test]
fn python_nomad_gets_500_when_the_stream_is_off() -> Result<()> {
    let agent = Agent::start_with(AgentOptions {
        config: "[stream]\nenabled = false\n".into(),
        ..AgentOptions::default()
    })?;
    let death = death(&follow(&agent, &["--count", "1"])?)?;
    assert_eq!(death["error"], "BaseNomadException");
    assert_eq!(death["status"], 500);
    assert_eq!(death["body"], "EventBroker not configured");
    Ok(())
}
