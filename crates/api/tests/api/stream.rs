use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tidings_timeline::BrokerConfig;

use crate::memory_timeline::MemoryTimeline;
use crate::support::{Server, Wire, eventually, metric};

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn errors_are_the_texts_of_nomad() {
    let server = Server::start().await;
    server.timeline.publish_many("Job", 1);
    for (target, status, text) in [
        (
            "index=abc",
            400,
            "Unable to parse index: strconv.Atoi: parsing \"abc\": invalid syntax",
        ),
        (
            "index=9223372036854775808",
            400,
            "Unable to parse index: strconv.Atoi: parsing \"9223372036854775808\": value out of range",
        ),
        ("index=-1", 400, "Invalid index"),
        (
            "topic=Job%3Aa%3Ab",
            400,
            "Invalid topic query: error parsing topics: Invalid key value pair for topic, topic: Job:a:b",
        ),
        // The index is looked at before the topics.
        (
            "topic=a:b:c&index=x",
            400,
            "Unable to parse index: strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        ("region=elsewhere", 500, "No path to region"),
        (
            "from=yesterday",
            400,
            "from=yesterday is not known: use beginning, now or snapshot",
        ),
        (
            "from=now&index=3",
            400,
            "from and index both say where to begin: give one of them",
        ),
        (
            "format=xml",
            400,
            "format=xml is not known here: use frame or cloudevents",
        ),
        (
            "strict=perhaps",
            400,
            "strict=perhaps is neither true nor false",
        ),
    ] {
        let answer = server.get(&format!("/v1/event/stream?{target}")).await;
        assert_eq!((answer.status, answer.text()), (status, text), "{target}");
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
    let answer = server.get("/v1/event/stream?filter=Topic+%3D%3D").await;
    assert_eq!(answer.status, 400);
    assert!(
        answer
            .text()
            .starts_with("the filter is not a valid CEL expression")
    );
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"] {
        let mut wire = Wire::connect(server.addr).await;
        wire.send_head(method, "/v1/event/stream", &[], None).await;
        let head = wire.head().await;
        assert_eq!(
            (head.status, head.header("allow")),
            (405, Some("GET")),
            "{method}"
        );
    }
    let answer = server.request("POST", "/v1/event/stream", &[], b"").await;
    assert_eq!(answer.text(), "Invalid method");

    let server = Server::with(|config| config.stream.enabled = false).await;
    let answer = server.get("/v1/event/stream").await;
    assert_eq!(
        (answer.status, answer.text()),
        (500, "EventBroker not configured")
    );
}

#[tokio::test]
async fn the_head_is_as_clients_expect_and_unknown_parameters_are_ignored() {
    let server = Server::start().await;
    let mut wire = Wire::connect(server.addr).await;
    let target = "/v1/event/stream?index=0&namespace=default&region=global&stale=&wait=1000ms&per_page=x&unknown=1";
    wire.send_head("GET", target, &[("accept-encoding", "gzip")], None)
        .await;
    let head = wire.head().await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), Some("application/json"));
    assert_eq!(head.header("cache-control"), Some("no-cache"));
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert_eq!(head.header("content-encoding"), None);
    assert_eq!(wire.chunk().await.unwrap(), b"{}\n");
}

#[tokio::test]
async fn a_reader_may_ask_for_heartbeats_sooner_than_the_server_has_them() {
    let server = Server::with(|config| config.stream.heartbeat = LONG).await;
    let begun = std::time::Instant::now();
    let mut wire = server.follow("/v1/event/stream?heartbeat=10ms", &[]).await;
    for _ in 0..2 {
        assert_eq!(wire.chunk().await.unwrap(), b"{}\n");
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "no more often");
    for wrong in ["soon", "0", "-1s", "5"] {
        let target = format!("/v1/event/stream?heartbeat={wrong}");
        let answer = server.get(&target).await;
        assert_eq!(answer.status, 400);
        let sentence = String::from_utf8_lossy(&answer.body);
        assert!(sentence.contains("use 5s"), "{sentence}");
    }
}

#[tokio::test]
async fn heartbeats_come_at_once_and_then_in_their_own_time() {
    let server = Server::with(|config| config.stream.heartbeat = Duration::from_millis(50)).await;
    let mut wire = server.follow("/v1/event/stream", &[]).await;
    for _ in 0..3 {
        assert_eq!(wire.chunk().await.unwrap(), b"{}\n");
    }
    // Traffic does not put them off: they are seen among frames that come faster.
    let timeline = server.timeline.clone();
    let traffic = tokio::spawn(async move {
        loop {
            timeline.publish_many("Job", 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let (mut beats, mut frames) = (0, 0);
    while beats < 3 {
        let chunk = wire.chunk().await.unwrap();
        for line in std::str::from_utf8(&chunk).unwrap().lines() {
            if line == "{}" {
                beats += 1
            } else {
                frames += 1
            }
        }
    }
    assert!(frames >= 3, "{frames}");
    traffic.abort();
}

#[tokio::test]
async fn an_index_is_inclusive_and_its_absence_means_the_backlog() {
    let server = Server::with(|config| config.stream.backlog_frames = 5).await;
    server.timeline.publish_many("Job", 10);
    for (query, expected) in [
        ("", vec![6, 7, 8, 9, 10]),
        ("?index=0", vec![6, 7, 8, 9, 10]),
        ("?index=1", (1..=10).collect()),
        ("?index=10", vec![10]),
        ("?from=beginning", (1..=10).collect()),
        ("?last_index=8", vec![9, 10]),
    ] {
        let mut wire = server
            .follow(&format!("/v1/event/stream{query}"), &[])
            .await;
        assert_eq!(wire.indexes(expected.len()).await, expected, "{query}");
    }
}

#[tokio::test]
async fn the_backlog_counts_all_frames_and_not_only_those_that_match() {
    let server = Server::with(|config| config.stream.backlog_frames = 4).await;
    server.timeline.publish_many("Job", 5);
    server.timeline.publish_many("Node", 3);
    let mut wire = server.follow("/v1/event/stream?topic=Job", &[]).await;
    server.timeline.publish_many("Job", 1);
    assert_eq!(wire.indexes(2).await, [5, 9]);
}

/// A reader goes from one server to another, which has not got as far yet.
#[tokio::test]
async fn g4_a_server_that_is_behind_repeats_nothing_to_a_reader_of_another() {
    let server = Server::start().await;
    server.timeline.publish_many("Job", 3);
    server.timeline.lack(4);
    let mut resumed = server.follow("/v1/event/stream?index=7", &[]).await;
    assert_eq!(resumed.indexes(1).await, [7]);
    server.timeline.lack(2);
    let mut next = server
        .follow("/v1/event/stream?index=10&strict=true", &[])
        .await;
    server.timeline.publish_many("Job", 1);
    assert_eq!(next.indexes(1).await, [10]);
    // Without anybody who knows, it says so instead of beginning where the reader has been.
    server.timeline.cut_off(true);
    let answer = server.get("/v1/event/stream?index=20").await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().contains("another server"),
        "{}",
        answer.text()
    );
    // What it has it gives all the same.
    let mut old = server.follow("/v1/event/stream?index=10", &[]).await;
    assert_eq!(old.indexes(1).await, [10]);
}

#[tokio::test]
async fn the_next_index_is_waited_for_and_one_beyond_it_begins_with_the_newest() {
    let server = Server::start().await;
    // Nothing is there yet: whatever is asked for, the first frame comes.
    let mut early = server.follow("/v1/event/stream?index=9", &[]).await;
    server.timeline.publish_many("Job", 3);
    assert_eq!(early.indexes(3).await, [1, 2, 3]);
    let mut next = server
        .follow("/v1/event/stream?index=4&strict=true", &[])
        .await;
    let mut beyond = server.follow("/v1/event/stream?index=5", &[]).await;
    let mut resumed = server.follow("/v1/event/stream?last_index=7", &[]).await;
    let mut now = server.follow("/v1/event/stream?from=now", &[]).await;
    assert_eq!(beyond.indexes(1).await, [3]);
    assert_eq!(resumed.indexes(1).await, [3]);
    server.timeline.publish_many("Job", 2);
    for wire in [&mut next, &mut beyond, &mut resumed, &mut now] {
        assert_eq!(wire.indexes(2).await, [4, 5]);
    }
    let answer = server.get("/v1/event/stream?index=7&strict=true").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (409, "index_ahead")
    );
    assert_eq!(answer.json()["Error"]["Newest"], 5);
    // Progress is never told of what is not there.
    let mut progress = server
        .follow("/v1/event/stream?index=60&progress=true&topic=None", &[])
        .await;
    let line = progress.lines(1).await.remove(0);
    assert_eq!(line, r#"{"Index":4,"Events":[]}"#);
}

#[tokio::test]
async fn a_stream_names_its_timeline() {
    let server = Server::start().await;
    let sse = [("accept", "text/event-stream")];
    for (headers, founded) in [(&[][..], false), (&sse, false), (&[], true), (&sse, true)] {
        if founded {
            server.timeline.found(7);
        }
        let mut wire = Wire::connect(server.addr).await;
        wire.send_head("GET", "/v1/event/stream", headers, None)
            .await;
        let head = wire.head().await;
        let expected = founded.then_some("00000000000000000000000007");
        assert_eq!(head.header("x-tidings-timeline"), expected);
        assert_eq!(head.header("vary"), Some("Accept-Encoding"));
    }
    let state = server.get("/v1/state/Volume").await;
    assert_eq!(
        state.header("x-tidings-timeline"),
        Some("00000000000000000000000007")
    );
    let status = server.get("/v1/status").await.json();
    assert_eq!(status["Timeline"]["Id"], "00000000000000000000000007");
}

#[tokio::test]
async fn streams_beyond_the_limit_are_told_so() {
    let server = Server::with(|config| config.stream.streams_max = 1).await;
    let mut first = server.follow("/v1/event/stream", &[]).await;
    first.lines(1).await;
    let answer = server.get("/v1/event/stream").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("stream.streams_max"));
}

#[tokio::test]
async fn what_is_no_longer_retained_is_left_out_or_told() {
    let server = Server::start().await;
    server.timeline.publish_many("Job", 10);
    server.timeline.retain(7);
    let mut wire = server.follow("/v1/event/stream?index=2", &[]).await;
    assert_eq!(wire.indexes(4).await, [7, 8, 9, 10]);
    let answer = server.get("/v1/event/stream?index=2&strict=true").await;
    assert_eq!(answer.status, 410);
    assert_eq!(answer.json()["Error"]["Code"], "index_gone");
    assert_eq!(answer.json()["Error"]["Oldest"], 7);
    let mut wire = server
        .follow("/v1/event/stream?index=7&strict=true", &[])
        .await;
    assert_eq!(wire.indexes(4).await, [7, 8, 9, 10]);
}

#[tokio::test]
async fn topics_keys_and_namespaces_choose_events() {
    let server = Server::start().await;
    for line in [
        r#"{"Topic":"Job","Type":"A","Key":"web"}"#,
        r#"{"Topic":"Job","Type":"A","Key":"db","FilterKeys":["web","x"]}"#,
        r#"{"Topic":"Node","Type":"A","Key":"web","Namespace":""}"#,
        r#"{"Topic":"Job","Type":"A","Key":"web","Namespace":"other"}"#,
        r#"{"Events":[{"Topic":"Job","Type":"A","Key":"q"},{"Topic":"Node","Type":"A","Key":"r"}]}"#,
    ] {
        server.timeline.publish(line);
    }
    // (query, index and number of events of each frame)
    for (query, expected) in [
        ("topic=Job:web", vec![(1, 1), (2, 1)]),
        ("topic=Job%3Aweb&topic=Job%3Ax", vec![(1, 1), (2, 1)]),
        ("topic=*:web", vec![(1, 1), (2, 1), (3, 1)]),
        ("topic=Job:web&topic=Job", vec![(1, 1), (2, 1), (5, 1)]),
        ("topic=Node&namespace=*", vec![(3, 1), (5, 1)]),
        ("namespace=other", vec![(3, 1), (4, 1)]),
        ("namespace=nowhere", vec![(3, 1)]),
        ("topic=%2A", vec![(1, 1), (2, 1), (3, 1), (5, 2)]),
        ("filter=Key+%3D%3D+%22db%22", vec![(2, 1)]),
        (
            "topic=Job&filter=Type+%3D%3D+%22A%22+%26%26+Key+!%3D+%22q%22",
            vec![(1, 1), (2, 1)],
        ),
    ] {
        let target = format!("/v1/event/stream?from=beginning&{query}");
        let mut wire = server.follow(&target, &[]).await;
        let frames = wire.frames(expected.len()).await;
        let found: Vec<_> = frames
            .iter()
            .map(|frame| {
                (
                    frame["Index"].as_u64().unwrap(),
                    frame["Events"].as_array().unwrap().len(),
                )
            })
            .collect();
        assert_eq!(found, expected, "{query}");
    }
}

#[tokio::test]
async fn events_have_all_their_keys() {
    let server = Server::start().await;
    server
        .timeline
        .publish(r#"{"Topic":"Job","Type":"A","Payload":{"a":1.50}}"#);
    let mut wire = server.follow("/v1/event/stream?index=1", &[]).await;
    assert_eq!(wire.chunk().await.unwrap(), b"{}\n");
    let line = String::from_utf8(wire.chunk().await.unwrap()).unwrap();
    assert!(line.ends_with("\"Payload\":{\"a\":1.50}}]}\n"), "{line}");
    let frame: Value = serde_json::from_str(&line).unwrap();
    let event = frame["Events"][0].as_object().unwrap();
    for name in [
        "Topic",
        "Type",
        "Key",
        "Namespace",
        "FilterKeys",
        "Index",
        "Payload",
        "Id",
        "Time",
        "Node",
        "Source",
    ] {
        assert!(event.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn progress_says_how_far_everything_was_looked_at() {
    let server = Server::with(|config| config.stream.heartbeat = Duration::from_millis(30)).await;
    server.timeline.publish_many("Job", 3);
    let mut wire = server
        .follow("/v1/event/stream?topic=Node&from=now&progress=true", &[])
        .await;
    assert_eq!(wire.lines(1).await, [r#"{"Index":3,"Events":[]}"#]);
    server.timeline.publish_many("Job", 2);
    loop {
        let line = wire.lines(1).await.remove(0);
        if line == r#"{"Index":5,"Events":[]}"# {
            break;
        }
        assert_eq!(line, r#"{"Index":3,"Events":[]}"#);
    }
}

#[tokio::test]
async fn cloudevents_are_one_a_line() {
    let server = Server::start().await;
    server.timeline.publish(
        r#"{"Events":[{"Topic":"Job","Type":"A","Key":"q","Payload":{"x":1}},{"Topic":"Node","Type":"B"}]}"#,
    );
    let mut wire = Wire::connect(server.addr).await;
    wire.send_head(
        "GET",
        "/v1/event/stream?index=1&format=cloudevents",
        &[],
        None,
    )
    .await;
    assert_eq!(
        wire.head().await.header("content-type"),
        Some("application/x-ndjson")
    );
    let events = wire.frames(2).await;
    assert_eq!(events[0]["specversion"], "1.0");
    assert_eq!(events[0]["type"], "Job.A");
    assert_eq!(events[0]["subject"], "q");
    assert_eq!(events[0]["data"], json!({"x": 1}));
    assert_eq!(events[1]["type"], "Node.B");
}

#[tokio::test]
async fn a_snapshot_is_followed_without_a_gap_while_others_write() {
    let server = Server::start().await;
    let put = async |key: &str, value: u64| {
        let body = format!("{{\"v\":{value}}}");
        let target = format!("/v1/state/Volume/{key}");
        let answer = server.request("PUT", &target, &[], body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    for value in 0..20 {
        put(&format!("k{}", value % 7), value).await;
    }
    server.timeline.publish_many("Job", 3);
    let timeline = server.timeline.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..200 {
            timeline.publish_many("Volume", 1);
            tokio::task::yield_now().await;
        }
    });
    let mut wire = server
        .follow("/v1/event/stream?from=snapshot&topic=Volume", &[])
        .await;
    let mut before = Vec::new();
    let mut after = Vec::new();
    let mut end = None;
    while after.last() != Some(&223) {
        let chunk = wire.chunk().await.unwrap();
        for line in std::str::from_utf8(&chunk)
            .unwrap()
            .lines()
            .filter(|line| *line != "{}")
        {
            let frame: Value = serde_json::from_str(line).unwrap();
            let index = frame["Index"].as_u64().unwrap();
            if frame["Marker"] == "SnapshotEnd" {
                assert_eq!(frame["Events"], json!([]));
                end = Some(index);
            } else if end.is_none() {
                before.push(index);
            } else {
                after.push(index);
            }
        }
    }
    writer.await.unwrap();
    // The last change of each of the seven keys, in order, then everything after the marker.
    assert_eq!(before, (14..=20).collect::<Vec<u64>>());
    let end = end.unwrap();
    assert!(end >= 23);
    assert_eq!(after, (end + 1..=223).collect::<Vec<u64>>());
}

#[tokio::test]
async fn an_empty_snapshot_is_a_marker() {
    let server = Server::start().await;
    let mut wire = server.follow("/v1/event/stream?from=snapshot", &[]).await;
    assert_eq!(
        wire.frames(1).await,
        [json!({"Index":0,"Events":[],"Marker":"SnapshotEnd"})]
    );
    server.timeline.publish_many("Job", 1);
    assert_eq!(wire.indexes(1).await, [1]);
}

#[tokio::test]
async fn a_reader_behind_the_ring_goes_on_from_the_history() {
    let broker = BrokerConfig {
        ring_bytes: 1,
        ..BrokerConfig::default()
    };
    let server = Server::on(MemoryTimeline::with_broker(broker), |_| {}).await;
    server.timeline.publish_many("Job", 500);
    let mut wire = server.follow("/v1/event/stream?index=1", &[]).await;
    assert_eq!(wire.indexes(500).await, (1..=500).collect::<Vec<u64>>());
}

#[tokio::test]
async fn damage_cuts_the_stream_and_is_counted() {
    let broker = BrokerConfig {
        ring_bytes: 1,
        ..BrokerConfig::default()
    };
    let server = Server::on(MemoryTimeline::with_broker(broker), |_| {}).await;
    server.timeline.publish_many("Job", 5);
    server
        .timeline
        .history()
        .damaged
        .store(true, Ordering::SeqCst);
    let mut wire = server.follow("/v1/event/stream?index=1", &[]).await;
    assert!(wire.is_cut_off().await);
    assert_eq!(metric(&server, "tidings_stream_damaged_total").await, 1);
}

#[tokio::test]
async fn a_slow_reader_costs_only_itself_and_is_cut() {
    let server = Server::with(|config| {
        config.http.write_stall = Duration::from_millis(200);
        config.stream.heartbeat = LONG;
    })
    .await;
    let mut stalled = server.follow("/v1/event/stream?from=now", &[]).await;
    assert_eq!(stalled.chunk().await.unwrap(), b"{}\n");
    let mut reading = server.follow("/v1/event/stream?from=now", &[]).await;
    // More than the sockets' buffers take.
    let payload = "x".repeat(512 << 10);
    let line = format!(r#"{{"Topic":"Job","Type":"A","Payload":{{"p":"{payload}"}}}}"#);
    for index in 1..=64 {
        server.timeline.publish(&line);
        assert_eq!(reading.indexes(1).await, [index]);
    }
    eventually("the stalled reader is cut", async || {
        metric(&server, "tidings_http_connections_stalled_total").await == 1
    })
    .await;
    eventually("its stream is closed", async || {
        let answer = server.get("/v1/status").await;
        answer.json()["Http"]["StreamsLines"] == 1
    })
    .await;
}

/// The indexes that a reader gets which stops reading, and which retention then overtakes.
async fn overtaken(query: &str) -> (Server, Vec<u64>) {
    let broker = BrokerConfig {
        ring_bytes: 1,
        ..BrokerConfig::default()
    };
    let server = Server::on(MemoryTimeline::with_broker(broker), |_| {}).await;
    let mut wire = server
        .follow(&format!("/v1/event/stream?from=now{query}"), &[])
        .await;
    let payload = "x".repeat(512 << 10);
    let line = format!(r#"{{"Topic":"Job","Type":"A","Payload":{{"p":"{payload}"}}}}"#);
    for _ in 1..=64 {
        server.timeline.publish(&line);
        tokio::task::yield_now().await;
    }
    server.timeline.retain(60);
    let mut indexes = Vec::new();
    while indexes.last() != Some(&64) {
        let Some(chunk) = wire.chunk().await else {
            break;
        };
        for line in std::str::from_utf8(&chunk)
            .unwrap()
            .lines()
            .filter(|line| *line != "{}")
        {
            let frame: Value = serde_json::from_str(line).unwrap();
            indexes.push(frame["Index"].as_u64().unwrap());
        }
    }
    (server, indexes)
}

#[tokio::test]
async fn a_reader_that_retention_overtakes_goes_on_with_the_oldest() {
    let (server, indexes) = overtaken("").await;
    assert_eq!(indexes[indexes.len() - 5..], [60, 61, 62, 63, 64]);
    assert!(indexes.len() < 64, "nothing was overtaken");
    assert!(indexes.is_sorted());
    assert_eq!(metric(&server, "tidings_stream_gaps_total").await, 1);
}

#[tokio::test]
async fn a_strict_reader_that_retention_overtakes_is_ended() {
    let (server, indexes) = overtaken("&strict=true").await;
    assert!(indexes.len() < 60);
    assert_eq!(indexes, (1..=indexes.len() as u64).collect::<Vec<_>>());
    assert_eq!(metric(&server, "tidings_stream_gaps_total").await, 1);
}
