//! `/v1/event/stream` on the wire, as Nomad 1.1 to 1.11.1 serves it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidings_interop::{Agent, AgentOptions, request};

const STREAM: &str = "/v1/event/stream";

fn event(topic: &str, key: &str, namespace: &str, filter_keys: &[&str]) -> Value {
    json!({ "Topic": topic, "Type": "Changed", "Key": key, "Namespace": namespace,
            "FilterKeys": filter_keys, "Payload": { topic: { "ID": key } } })
}

fn job(key: &str) -> Value {
    event("Job", key, "default", &[])
}

/// The keys of all events from the beginning up to the last published one.
fn keys(agent: &Agent, query: &str, end: &str) -> Result<Vec<String>> {
    let mut stream = agent.stream(&format!("{STREAM}?{query}"))?;
    let mut keys = Vec::new();
    loop {
        for event in stream.next_frame()?["Events"]
            .as_array()
            .context("a frame has no events")?
        {
            let key = event["Key"].as_str().context("an event has no key")?;
            keys.push(key.to_owned());
            if key == end {
                return Ok(keys);
            }
        }
    }
}

fn indexes(agent: &Agent, query: &str, count: usize) -> Result<Vec<u64>> {
    let frames = agent.stream(&format!("{STREAM}?{query}"))?.frames(count)?;
    frames
        .iter()
        .map(|frame| frame["Index"].as_u64().context("a frame has no index"))
        .collect()
}

#[test]
fn head_of_the_stream_is_nomads() -> Result<()> {
    let agent = Agent::start()?;
    let asking_for_gzip = [("Accept-Encoding", "gzip")];
    let stream = tidings_interop::Stream::open(agent.address(), STREAM, &asking_for_gzip)?;
    assert_eq!(stream.header("content-type"), Some("application/json"));
    assert_eq!(stream.header("cache-control"), Some("no-cache"));
    assert_eq!(stream.header("transfer-encoding"), Some("chunked"));
    assert_eq!(stream.header("content-encoding"), None);
    Ok(())
}

#[test]
fn first_line_is_a_heartbeat_at_once() -> Result<()> {
    let agent = Agent::start()?;
    let started = Instant::now();
    let mut stream = agent.stream(STREAM)?;
    assert_eq!(stream.next_chunk()?.as_deref(), Some(&b"{}\n"[..]));
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    Ok(())
}

#[test]
fn heartbeats_come_again_while_nothing_happens() -> Result<()> {
    let agent = Agent::start_with(AgentOptions {
        config: "[stream]\nheartbeat = \"1s\"\n".into(),
        ..AgentOptions::default()
    })?;
    let mut stream = agent.stream(STREAM)?;
    for _ in 0..3 {
        assert_eq!(stream.next_chunk()?.as_deref(), Some(&b"{}\n"[..]));
    }
    Ok(())
}

#[test]
fn every_chunk_ends_with_a_newline_and_has_no_blank_line() -> Result<()> {
    let agent = Agent::start()?;
    let mut stream = agent.stream(STREAM)?;
    let mut last = 0;
    for number in 0..300 {
        last = agent.publish(&[job(&number.to_string())])?;
    }
    let mut seen = 0;
    while seen < last {
        let chunk = stream.next_chunk()?.context("the stream ended")?;
        assert_eq!(chunk.last(), Some(&b'\n'));
        for line in chunk.split_inclusive(|&byte| byte == b'\n') {
            let line: Value = serde_json::from_slice(line)?;
            seen = line["Index"].as_u64().unwrap_or(seen);
        }
    }
    Ok(())
}

#[test]
fn shutdown_ends_a_stream_cleanly() -> Result<()> {
    let mut agent = Agent::start()?;
    let mut stream = agent.stream(STREAM)?;
    agent.publish(&[job("web")])?;
    assert_eq!(stream.next_frame()?["Events"][0]["Key"], "web");
    agent.signal_stop()?;
    // `None` is the closing `0\r\n\r\n`: anything after the last line would not parse as one.
    while let Some(line) = stream.next_line()? {
        assert_eq!(line, b"{}");
    }
    ensure!(
        agent.await_end()?.success(),
        "the agent did not end cleanly"
    );
    Ok(())
}

#[test]
fn every_event_has_nomads_seven_fields_and_ours() -> Result<()> {
    let agent = Agent::start()?;
    agent.publish_text(r#"{"Events":[{"Topic":"Job","Type":"JobRegistered"}]}"#)?;
    let frame = agent.stream(STREAM)?.next_frame()?;
    let fields = frame["Events"][0]
        .as_object()
        .context("an event is not an object")?;
    for field in [
        "Topic",
        "Type",
        "Key",
        "Namespace",
        "FilterKeys",
        "Index",
        "Payload",
    ] {
        assert!(fields.contains_key(field), "{field} is missing in {frame}");
    }
    for field in ["Id", "Time", "Node", "Source"] {
        assert!(
            fields[field].as_str().is_some_and(|text| !text.is_empty()),
            "{field} in {frame}"
        );
    }
    // A Go client takes any key that equals "err", whatever its case, for an error.
    for object in [
        fields,
        frame.as_object().context("a frame is not an object")?,
    ] {
        assert!(!object.keys().any(|key| key.eq_ignore_ascii_case("err")));
    }
    Ok(())
}

#[test]
fn topics_are_parsed_as_in_nomad() -> Result<()> {
    let agent = Agent::start()?;
    agent.publish(&[event("Job", "web", "default", &[])])?;
    agent.publish(&[event("Job", "db", "default", &["web-db"])])?;
    agent.publish(&[event("Evaluation", "e1", "default", &["web", ""])])?;
    agent.publish(&[event("Node", "n1", "", &[])])?;
    agent.publish(&[event("Job", "a/b", "default", &[])])?;
    agent.publish(&[event(
        "End",
        "end",
        "default",
        &["web", "web-db", "n1", "a/b", "", "absent"],
    )])?;

    let all: &[&str] = &["web", "db", "e1", "n1", "a/b", "end"];
    let table: [(&str, &[&str]); 12] = [
        ("", all),
        ("topic=*:*", all),
        ("topic=*", all),
        ("topic=%2A%3A%2A", all),
        ("topic=Job", &["web", "db", "a/b", "end"]),
        ("topic=Job:*", &["web", "db", "a/b", "end"]),
        ("topic=job", &["end"]),
        ("topic=Job:web", &["web", "end"]),
        ("topic=Job:web-db", &["db", "end"]),
        (
            "topic=Job:web&topic=Job:a/b&topic=Node",
            &["web", "n1", "a/b", "end"],
        ),
        ("topic=*:web", &["web", "e1", "end"]),
        ("topic=Evaluation:", &["e1", "end"]),
    ];
    for (query, expected) in table {
        // The topic End closes each reading; a client that asked for everything has it already.
        let closing = if query.is_empty() {
            query.to_owned()
        } else {
            format!("{query}&topic=End")
        };
        assert_eq!(keys(&agent, &closing, "end")?, expected, "{query:?}");
    }
    Ok(())
}

#[test]
fn a_wildcard_among_keys_stays_a_wildcard_and_nothing_comes_twice() -> Result<()> {
    let agent = Agent::start()?;
    agent.publish(&[event("Job", "web", "default", &["web", "group"])])?;
    agent.publish(&[event("Job", "db", "default", &[])])?;
    agent.publish(&[event("End", "end", "default", &[])])?;
    let table: [(&str, &[&str]); 2] = [
        ("topic=Job&topic=Job:web&topic=End", &["web", "db", "end"]),
        ("topic=Job:web&topic=Job:group&topic=End", &["web", "end"]),
    ];
    for (query, expected) in table {
        assert_eq!(keys(&agent, query, "end")?, expected, "{query}");
    }
    Ok(())
}

#[test]
fn a_filtered_frame_holds_only_the_events_that_match() -> Result<()> {
    let agent = Agent::start()?;
    let index = agent.publish(&[job("web"), event("Node", "n1", "", &[]), job("db")])?;
    let frame = agent.stream(&format!("{STREAM}?topic=Job"))?.next_frame()?;
    assert_eq!(frame["Index"], index);
    let events = frame["Events"]
        .as_array()
        .context("a frame has no events")?;
    let keys: Vec<_> = events
        .iter()
        .map(|event| event["Key"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(keys, ["web", "db"]);
    Ok(())
}

#[test]
fn namespaces_are_kept_apart() -> Result<()> {
    let agent = Agent::start()?;
    for (key, namespace) in [
        ("d", "default"),
        ("f", "foo"),
        ("b", "bar"),
        ("n", ""),
        ("end", ""),
    ] {
        agent.publish(&[event("Job", key, namespace, &[])])?;
    }
    let table: [(&str, &[&str]); 5] = [
        ("", &["d", "n", "end"]),
        ("namespace=default", &["d", "n", "end"]),
        ("namespace=foo", &["f", "n", "end"]),
        ("namespace=*", &["d", "f", "b", "n", "end"]),
        ("namespace=unheard-of", &["n", "end"]),
    ];
    for (query, expected) in table {
        assert_eq!(keys(&agent, query, "end")?, expected, "{query:?}");
    }
    Ok(())
}

#[test]
fn index_is_inclusive_and_starts_at_the_next_frame_there_is() -> Result<()> {
    let agent = Agent::start()?;
    let first = agent.publish(&[job("1")])?;
    for number in 2..=5 {
        agent.publish(&[job(&number.to_string())])?;
    }
    let table: [(u64, u64); 4] = [
        (1, first),
        (first, first),
        (first + 2, first + 2),
        (first + 4, first + 4),
    ];
    for (asked, expected) in table {
        assert_eq!(
            indexes(&agent, &format!("index={asked}"), 1)?,
            [expected],
            "index={asked}"
        );
    }
    Ok(())
}

#[test]
fn no_index_replays_the_last_hundred_frames() -> Result<()> {
    let agent = Agent::start()?;
    let mut last = 0;
    for number in 0..130 {
        last = agent.publish(&[job(&number.to_string())])?;
    }
    let expected: Vec<u64> = (last - 99..=last).collect();
    for query in ["", "index=0"] {
        assert_eq!(indexes(&agent, query, 100)?, expected, "{query:?}");
    }
    Ok(())
}

#[test]
fn events_before_and_after_subscribing_all_arrive() -> Result<()> {
    let agent = Agent::start()?;
    let first = agent.publish(&[job("before")])?;
    let mut stream = agent.stream(STREAM)?;
    assert_eq!(stream.next_frame()?["Index"], first);
    for number in 1..=20 {
        assert_eq!(agent.publish(&[job("after")])?, first + number);
        assert_eq!(stream.next_frame()?["Index"], first + number);
    }
    Ok(())
}

#[test]
fn errors_have_nomads_status_and_text() -> Result<()> {
    let agent = Agent::start()?;
    let table: [(&str, &str, u16, &str); 6] = [
        (
            "GET",
            "topic=a:*:*",
            400,
            "Invalid topic query: error parsing topics: Invalid key value pair for topic, topic: a:*:*",
        ),
        (
            "GET",
            "index=abc",
            400,
            r#"Unable to parse index: strconv.Atoi: parsing "abc": invalid syntax"#,
        ),
        (
            "GET",
            "index=9223372036854775808",
            400,
            r#"Unable to parse index: strconv.Atoi: parsing "9223372036854775808": value out of range"#,
        ),
        ("GET", "region=elsewhere", 500, "No path to region"),
        ("POST", "", 405, "Invalid method"),
        ("DELETE", "", 405, "Invalid method"),
    ];
    for (method, query, status, text) in table {
        let answer = request(
            agent.address(),
            method,
            &format!("{STREAM}?{query}"),
            &[],
            b"",
        )?;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (status, text),
            "{method} {query}"
        );
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; charset=utf-8"),
            "{method} {query}"
        );
    }
    let negative = request(
        agent.address(),
        "GET",
        &format!("{STREAM}?index=-1"),
        &[],
        b"",
    )?;
    assert_eq!(negative.status, 400, "{}", negative.text());
    Ok(())
}

#[test]
fn a_wrong_or_missing_token_is_refused_before_the_stream() -> Result<()> {
    let token = "a-long-enough-right-token-0123456789";
    let agent = Agent::start_with(AgentOptions {
        token: Some(token.into()),
        ..AgentOptions::default()
    })?;
    let bearer = format!("Bearer {token}");
    let refused: [&[(&str, &str)]; 4] = [
        &[],
        &[("X-Nomad-Token", "wrong")],
        &[("Authorization", "Bearer wrong")],
        &[("Authorization", token)],
    ];
    for headers in refused {
        let answer = request(agent.address(), "GET", STREAM, headers, b"")?;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (403, "Permission denied"),
            "{headers:?}"
        );
        let publish = request(
            agent.address(),
            "POST",
            "/v1/events",
            headers,
            br#"{"Events":[]}"#,
        )?;
        assert_eq!(publish.status, 403, "{headers:?}");
    }
    for headers in [("X-Nomad-Token", token), ("Authorization", bearer.as_str())] {
        let mut stream = tidings_interop::Stream::open(agent.address(), STREAM, &[headers])?;
        assert_eq!(stream.next_line()?.as_deref(), Some(&b"{}"[..]));
    }
    Ok(())
}

#[test]
fn a_disabled_stream_answers_as_nomad_does() -> Result<()> {
    let agent = Agent::start_with(AgentOptions {
        config: "[stream]\nenabled = false\n".into(),
        ..AgentOptions::default()
    })?;
    let answer = agent.request("GET", STREAM, &[], b"")?;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (500, "EventBroker not configured")
    );
    Ok(())
}

#[test]
fn parameters_that_nomad_ignores_are_ignored() -> Result<()> {
    let agent = Agent::start()?;
    agent.publish(&[job("web")])?;
    let query = "stale=&wait=1000ms&prefix=x&per_page=5&next_token=a&reverse=true&pretty";
    assert_eq!(keys(&agent, query, "web")?, ["web"]);
    Ok(())
}

#[test]
fn a_frame_of_several_megabytes_is_one_line() -> Result<()> {
    let agent = Agent::start()?;
    let text = "x".repeat(900_000);
    let events: Vec<Value> = (0..4)
        .map(|number| {
            let mut event = job(&number.to_string());
            event["Payload"] = json!({ "Text": text });
            event
        })
        .collect();
    agent.publish(&events)?;
    let frame = agent.stream(STREAM)?.next_frame()?;
    let came = frame["Events"]
        .as_array()
        .context("a frame has no events")?;
    assert_eq!(came.len(), 4);
    assert!(
        came.iter()
            .all(|event| event["Payload"]["Text"] == text.as_str())
    );
    Ok(())
}

#[test]
fn server_sent_events_resume_after_the_last_event_id() -> Result<()> {
    let agent = Agent::start()?;
    let first = agent.publish(&[job("a")])?;
    let second = agent.publish(&[job("b")])?;
    let resume = first.to_string();
    let headers = [
        ("Accept", "text/event-stream"),
        ("Last-Event-ID", resume.as_str()),
    ];
    let mut stream = tidings_interop::Stream::open(agent.address(), STREAM, &headers)?;
    assert!(
        stream
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/event-stream"))
    );
    let mut id = None;
    loop {
        let line = String::from_utf8(stream.next_line()?.context("the stream ended")?)?;
        if let Some(text) = line.strip_prefix("id:") {
            id = Some(text.trim().parse::<u64>()?);
        }
        if let Some(data) = line.strip_prefix("data:")
            && let Ok(frame) = serde_json::from_str::<Value>(data)
            && frame["Events"][0]["Key"] == "b"
        {
            assert_eq!(frame["Index"], second);
            break;
        }
        ensure!(
            !line.contains(r#""Key":"a""#),
            "the frame after which it resumed came again"
        );
    }
    if id.is_none() {
        // The id may stand after the data.
        let line = String::from_utf8(stream.next_line()?.context("the stream ended")?)?;
        id = line
            .strip_prefix("id:")
            .map(|text| text.trim().parse())
            .transpose()?;
    }
    assert_eq!(id, Some(second));
    Ok(())
}
