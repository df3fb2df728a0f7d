//! Following over connections that break in every way.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod scripted;

use std::time::Duration;

use scripted::{Exchange, Scene, ScriptedAgent, frame, json, progress, scene, soon};
use tidings_client::{ClientConfig, ClientError, EventStream, From, StreamEvent, StreamRequest};
use tidings_event::Index;

/// The head of an answer about this timeline.
fn about(timeline: &str) -> String {
    format!("X-Tidings-Timeline: {timeline}\r\n")
}

/// A stream of this timeline that sends these chunks and then breaks without an end.
fn sends_of(timeline: &str, chunks: Vec<String>) -> Scene {
    let head = about(timeline);
    scene(move |mut exchange: Exchange| async move {
        exchange.open_with(&head).await;
        for chunk in chunks {
            exchange.chunk(&chunk).await;
        }
    })
}

/// A stream that sends these chunks and then breaks without an end.
fn sends(chunks: Vec<String>) -> Scene {
    scene(move |mut exchange: Exchange| async move {
        exchange.open().await;
        for chunk in chunks {
            exchange.chunk(&chunk).await;
        }
    })
}

fn from(from: From) -> StreamRequest {
    StreamRequest {
        from,
        ..StreamRequest::default()
    }
}

/// What the stream tells, in short, until `count` frames were told.
async fn told(stream: &mut EventStream, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    let mut frames = 0;
    while frames < count {
        told.push(match soon(stream.next()).await.expect("goes on").unwrap() {
            StreamEvent::Frame(line) => {
                frames += 1;
                let frame = line.decode().unwrap();
                assert_eq!(frame.index, line.index());
                format!("frame {}", line.index())
            }
            StreamEvent::Progress(index) => format!("progress {index}"),
            StreamEvent::Gap { wanted, next } => format!("gap {wanted} {next}"),
            StreamEvent::SnapshotEnd(index) => format!("snapshot end {index}"),
            StreamEvent::SnapshotRestart => "snapshot restart".to_owned(),
            StreamEvent::Reconnecting { .. } => "reconnecting".to_owned(),
            StreamEvent::Connected => "connected".to_owned(),
            StreamEvent::Reset { previous, timeline } => format!("reset {previous} {timeline}"),
            other => panic!("unexpected {other:?}"),
        });
    }
    told
}

#[tokio::test]
async fn goes_on_after_a_break_in_the_middle_of_a_line() {
    let (whole, line) = (frame(7), frame(8));
    let (half, _) = line.split_at(30);
    let agent = ScriptedAgent::start(vec![
        sends(vec![
            progress(5),
            frame(6) + &whole[..9],
            whole[9..].to_owned() + half,
        ]),
        // A repeat, then the rest.
        sends(vec![progress(7), frame(7), frame(8) + &frame(9)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Backlog));
    assert_eq!(
        told(&mut stream, 4).await,
        [
            "progress 5",
            "frame 6",
            "frame 7",
            "reconnecting",
            "connected",
            "frame 8",
            "frame 9"
        ]
    );
    assert_eq!(stream.cursor(), Some(Index(9)));
    assert_eq!(
        agent.requests(),
        [
            "GET /v1/event/stream?progress=true&strict=true&heartbeat=30000ms",
            "GET /v1/event/stream?progress=true&strict=true&heartbeat=30000ms&index=8",
        ]
    );
}

#[tokio::test]
async fn goes_on_after_a_truncated_chunk() {
    let agent = ScriptedAgent::start(vec![
        scene(|mut exchange: Exchange| async move {
            exchange.open().await;
            exchange.chunk(&frame(1)).await;
            let line = frame(2);
            let cut = format!("{:x}\r\n{}", line.len() + 20, line);
            exchange.write(cut.as_bytes()).await;
        }),
        sends(vec![frame(3)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Beginning));
    // The line had arrived whole, although its chunk had not.
    assert_eq!(
        told(&mut stream, 3).await,
        ["frame 1", "frame 2", "reconnecting", "connected", "frame 3"]
    );
    assert!(agent.requests()[1].ends_with("&index=3"));
}

#[tokio::test]
async fn heartbeats_alone_move_the_place_to_go_on_from() {
    let agent = ScriptedAgent::start(vec![
        sends(vec![progress(41)]),
        sends(vec![progress(41), "{}\n".to_owned(), progress(60)]),
        sends(vec![progress(60), frame(61)]),
    ])
    .await;
    let mut request = from(From::Now);
    request.topics = vec!["Job:web".to_owned()];
    request.filter = Some("Payload.n > 1".to_owned());
    request.namespace = Some("*".to_owned());
    let mut stream = agent.client.stream(request);
    assert_eq!(
        told(&mut stream, 1).await,
        [
            "progress 41",
            "reconnecting",
            "connected",
            "progress 60",
            "reconnecting",
            "connected",
            "frame 61"
        ]
    );
    let common = "GET /v1/event/stream?progress=true&strict=true&heartbeat=30000ms&topic=Job%3Aweb&namespace=*&filter=Payload.n+%3E+1";
    assert_eq!(
        agent.requests(),
        [
            format!("{common}&from=now"),
            format!("{common}&index=42"),
            format!("{common}&index=61"),
        ]
    );
}

#[tokio::test]
async fn before_the_first_line_it_asks_as_at_first() {
    let agent = ScriptedAgent::start(vec![
        sends(vec![]),
        sends(vec!["{}\n".to_owned()]),
        sends(vec![progress(3), frame(4)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Now));
    assert_eq!(
        told(&mut stream, 1).await,
        [
            "reconnecting",
            "connected",
            "reconnecting",
            "connected",
            "progress 3",
            "frame 4"
        ]
    );
    assert!(
        agent
            .requests()
            .iter()
            .all(|line| line.ends_with("from=now"))
    );
}

#[tokio::test]
async fn a_gap_is_told_and_the_stream_goes_on_behind_it() {
    let agent = ScriptedAgent::start(vec![
        sends(vec![frame(5)]),
        scripted::answers(
            "HTTP/1.1 410 Gone\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngone",
        ),
        sends(vec![progress(99), frame(100)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Backlog));
    assert_eq!(
        told(&mut stream, 2).await,
        [
            "frame 5",
            "reconnecting",
            "connected",
            "gap 6 100",
            "progress 99",
            "frame 100"
        ]
    );
    assert!(agent.requests()[1].ends_with("&index=6"));
    assert!(agent.requests()[2].ends_with("from=beginning"));
}

#[tokio::test]
async fn a_gap_ends_a_strict_stream() {
    let agent = ScriptedAgent::start(vec![scripted::answers(
        "HTTP/1.1 410 Gone\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngone",
    )])
    .await;
    let mut request = from(From::Index(Index(6)));
    request.strict = true;
    let mut stream = agent.client.stream(request);
    let error = soon(stream.next()).await.unwrap().unwrap_err();
    assert!(
        matches!(error, ClientError::Gone { wanted: Index(6) }),
        "{error}"
    );
    assert!(soon(stream.next()).await.is_none());
}

#[tokio::test]
async fn a_frame_before_the_index_asked_for_is_not_handed_out() {
    let agent = ScriptedAgent::start(vec![sends(vec![
        progress(3),
        frame(3),
        progress(9),
        frame(10),
    ])])
    .await;
    let mut stream = agent.client.stream(from(From::Index(Index(10))));
    assert_eq!(told(&mut stream, 1).await, ["progress 9", "frame 10"]);
}

#[tokio::test]
async fn waits_out_an_agent_that_is_busy() {
    let agent = ScriptedAgent::start(vec![
        scripted::answers(json("503 Service Unavailable", "Retry-After: 1\r\n", "")),
        sends(vec![frame(1)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Backlog));
    let first = soon(stream.next()).await.unwrap().unwrap();
    let StreamEvent::Reconnecting { error, delay } = first else {
        panic!("unexpected {first:?}");
    };
    assert_eq!(delay, Duration::from_secs(1), "{error}");
    assert_eq!(told(&mut stream, 1).await, ["connected", "frame 1"]);
}

#[tokio::test]
async fn a_refusal_ends_the_stream_with_the_agents_sentence() {
    let agent = ScriptedAgent::start(vec![scripted::answers(
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 21\r\n\r\nInvalid topic query: x",
    )])
    .await;
    let mut stream = agent.client.stream(from(From::Backlog));
    let error = soon(stream.next()).await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("Invalid topic query:"),
        "{error}"
    );
    assert!(soon(stream.next()).await.is_none());
}

#[tokio::test]
async fn silence_is_taken_for_a_dead_connection() {
    let config = ClientConfig {
        heartbeat: Duration::from_millis(40),
        ..ClientConfig::default()
    };
    let agent = ScriptedAgent::start_with(
        config,
        vec![
            scene(|mut exchange: Exchange| async move {
                exchange.open().await;
                exchange.chunk(&frame(1)).await;
                exchange.hang().await;
            }),
            sends(vec![frame(2)]),
        ],
    )
    .await;
    let mut stream = agent.client.stream(from(From::Beginning));
    assert_eq!(told(&mut stream, 1).await, ["frame 1"]);
    let silent = soon(stream.next()).await.unwrap().unwrap();
    let StreamEvent::Reconnecting { error, .. } = silent else {
        panic!("unexpected {silent:?}");
    };
    assert!(matches!(error, ClientError::Silent { limit } if limit == Duration::from_millis(100)));
    assert_eq!(told(&mut stream, 1).await, ["connected", "frame 2"]);
}

#[tokio::test]
async fn a_snapshot_that_breaks_off_begins_again() {
    let end = "{\"Index\":30,\"Events\":[],\"Marker\":\"SnapshotEnd\"}\n".to_owned();
    let agent = ScriptedAgent::start(vec![
        sends(vec![frame(4), progress(4), frame(9)]),
        sends(vec![frame(4), frame(12), end]),
        sends(vec![frame(31)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Snapshot));
    assert_eq!(
        told(&mut stream, 5).await,
        [
            "frame 4",
            "frame 9",
            "reconnecting",
            "snapshot restart",
            "connected",
            "frame 4",
            "frame 12",
            "snapshot end 30",
            "reconnecting",
            "connected",
            "frame 31",
        ]
    );
    assert!(agent.requests()[1].ends_with("from=snapshot"));
    assert!(agent.requests()[2].ends_with("&index=31"));
}

#[tokio::test]
async fn text_in_the_stream_is_not_taken_for_a_frame() {
    let agent = ScriptedAgent::start(vec![
        sends(vec![frame(1), "subscription closed by server\n".to_owned()]),
        sends(vec![frame(2)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Beginning));
    assert_eq!(
        told(&mut stream, 2).await,
        ["frame 1", "reconnecting", "connected", "frame 2"]
    );
}

#[tokio::test]
async fn waiting_may_be_given_up_without_losing_a_frame() {
    let agent = ScriptedAgent::start(vec![scene(|mut exchange: Exchange| async move {
        exchange.open().await;
        for index in 1..=20 {
            let line = frame(index);
            let (first, second) = line.split_at(20);
            exchange.chunk(first).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            exchange.chunk(second).await;
        }
        exchange.hang().await;
    })])
    .await;
    let mut stream = agent.client.stream(from(From::Beginning));
    // Connecting starts anew when it is dropped: it is let through once.
    assert_eq!(told(&mut stream, 1).await, ["frame 1"]);
    let mut indexes = vec![1];
    soon(async {
        while indexes.len() < 20 {
            // Shorter than a line takes, so that most waits are dropped in the middle.
            let waited = tokio::time::timeout(Duration::from_millis(1), stream.next()).await;
            if let Ok(event) = waited {
                match event.unwrap().unwrap() {
                    StreamEvent::Frame(line) => indexes.push(line.index().get()),
                    other => panic!("unexpected {other:?}"),
                }
            }
        }
    })
    .await;
    assert_eq!(indexes, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_timeline_that_was_reset_is_told_and_followed_from_its_beginning() {
    let agent = ScriptedAgent::start(vec![
        sends_of("OLD", vec![frame(41) + &frame(42)]),
        // It waits for index 43, which may never come.
        scene(|mut exchange: Exchange| async move {
            exchange.open_with(&about("NEW")).await;
            exchange.hang().await;
        }),
        sends_of("NEW", vec![frame(1)]),
        sends_of("NEW", vec![frame(1) + &frame(2)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Backlog));
    assert_eq!(
        told(&mut stream, 4).await,
        [
            "frame 41",
            "frame 42",
            "reconnecting",
            "reset OLD NEW",
            "connected",
            "frame 1",
            "reconnecting",
            "connected",
            "frame 2",
        ]
    );
    assert_eq!(stream.timeline(), Some("NEW"));
    let requests = agent.requests();
    assert!(requests[1].ends_with("index=43"), "{requests:?}");
    assert!(requests[2].ends_with("from=beginning"), "{requests:?}");
    assert!(requests[3].ends_with("index=2"), "{requests:?}");
}

#[tokio::test]
async fn a_reset_is_seen_through_a_gap_too() {
    let agent = ScriptedAgent::start(vec![
        sends_of("OLD", vec![frame(3)]),
        scripted::answers(
            "HTTP/1.1 410 Gone\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngone",
        ),
        sends_of("NEW", vec![frame(50)]),
        sends_of("NEW", vec![frame(50)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Backlog));
    assert_eq!(
        told(&mut stream, 2).await,
        [
            "frame 3",
            "reconnecting",
            "reset OLD NEW",
            "connected",
            "frame 50"
        ]
    );
}

#[tokio::test]
async fn a_snapshot_of_a_timeline_that_was_reset_is_taken_anew() {
    let end = |index| format!("{{\"Index\":{index},\"Events\":[],\"Marker\":\"SnapshotEnd\"}}\n");
    let agent = ScriptedAgent::start(vec![
        sends_of("OLD", vec![frame(4) + &end(30)]),
        sends_of("NEW", vec![]),
        sends_of("NEW", vec![frame(2) + &end(5) + &frame(6)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Snapshot));
    assert_eq!(
        told(&mut stream, 3).await,
        [
            "frame 4",
            "snapshot end 30",
            "reconnecting",
            "reset OLD NEW",
            "connected",
            "frame 2",
            "snapshot end 5",
            "frame 6",
        ]
    );
    assert!(agent.requests()[2].ends_with("from=snapshot"));
}

#[tokio::test]
async fn a_kept_index_is_refused_by_another_timeline_on_a_strict_stream() {
    let agent = ScriptedAgent::start(vec![sends_of("NEW", vec![frame(7)])]).await;
    let mut request = from(From::Index(Index(7)));
    request.timeline = Some("OLD".to_owned());
    request.strict = true;
    let mut stream = agent.client.stream(request);
    let error = soon(stream.next()).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, ClientError::TimelineReset { previous, timeline } if previous == "OLD" && timeline == "NEW"),
        "{error}"
    );
    assert!(soon(stream.next()).await.is_none());
}

#[tokio::test]
async fn the_same_timeline_never_repeats_a_frame() {
    let agent = ScriptedAgent::start(vec![
        sends_of("SAME", vec![frame(7) + &frame(8)]),
        // A server that is behind gives its newest frame again.
        sends_of("SAME", vec![frame(7), progress(7)]),
        sends_of("SAME", vec![frame(8) + &frame(9)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Beginning));
    assert_eq!(
        told(&mut stream, 3).await,
        [
            "frame 7",
            "frame 8",
            "reconnecting",
            "connected",
            "reconnecting",
            "connected",
            "frame 9"
        ]
    );
}

#[tokio::test]
async fn a_heartbeat_alone_says_that_the_connection_is_back() {
    let agent = ScriptedAgent::start(vec![
        sends(vec![frame(1)]),
        scene(|mut exchange: Exchange| async move {
            exchange.open().await;
            exchange.chunk("{}\n").await;
            exchange.hang().await;
        }),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Beginning));
    assert_eq!(told(&mut stream, 1).await, ["frame 1"]);
    let lost = soon(stream.next()).await.unwrap().unwrap();
    assert!(matches!(lost, StreamEvent::Reconnecting { .. }), "{lost:?}");
    let back = soon(stream.next()).await.unwrap().unwrap();
    assert!(matches!(back, StreamEvent::Connected), "{back:?}");
}

#[tokio::test]
async fn an_agent_that_answers_and_breaks_is_left_in_peace() {
    let agent = ScriptedAgent::start_with(
        ClientConfig::default(),
        (0..6).map(|_| sends(vec![progress(5)])).collect(),
    )
    .await;
    let mut stream = agent.client.stream(from(From::Now));
    let mut delays = Vec::new();
    while delays.len() < 6 {
        if let StreamEvent::Reconnecting { delay, .. } = soon(stream.next()).await.unwrap().unwrap()
        {
            delays.push(delay);
        }
    }
    // The first connection moved the cursor, those after it did not: the wait grows to its cap of
    // 20 ms, of which at least the half is waited.
    assert!(delays[0] <= Duration::from_millis(5), "{delays:?}");
    assert!(delays[3] >= Duration::from_millis(10), "{delays:?}");
}

/// A refusal of an index that the timeline has not come to.
fn ahead() -> Scene {
    let body = r#"{"Error":{"Code":"index_ahead","Message":"the newest is 1","Newest":1}}"#;
    scripted::answers(json("409 Conflict", "", body))
}

#[tokio::test]
async fn a_reset_is_seen_when_the_index_is_refused_as_ahead() {
    let agent = ScriptedAgent::start(vec![
        sends_of("OLD", vec![frame(42)]),
        ahead(),
        sends_of("NEW", vec![]),
        sends_of("NEW", vec![frame(1)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Backlog));
    assert_eq!(
        told(&mut stream, 2).await,
        [
            "frame 42",
            "reconnecting",
            "reset OLD NEW",
            "connected",
            "frame 1"
        ]
    );
    let requests = agent.requests();
    assert!(requests[1].ends_with("index=43"), "{requests:?}");
    assert!(requests[2].ends_with("from=now"), "{requests:?}");
    assert!(requests[3].ends_with("from=beginning"), "{requests:?}");
}

#[tokio::test]
async fn a_server_that_is_behind_is_given_time() {
    let agent = ScriptedAgent::start(vec![
        sends_of("SAME", vec![frame(42)]),
        ahead(),
        // What comes here is looked at by nobody: it would leave out what lies between.
        sends_of("SAME", vec![frame(50)]),
        sends_of("SAME", vec![frame(43)]),
    ])
    .await;
    let mut stream = agent.client.stream(from(From::Backlog));
    assert_eq!(
        told(&mut stream, 2).await,
        [
            "frame 42",
            "reconnecting",
            "reconnecting",
            "connected",
            "frame 43"
        ]
    );
    assert!(agent.requests()[3].ends_with("index=43"));
}

#[tokio::test]
async fn an_index_ahead_of_a_timeline_that_nobody_named_is_refused() {
    let agent = ScriptedAgent::start(vec![ahead()]).await;
    let mut stream = agent.client.stream(from(From::Index(Index(43))));
    let error = soon(stream.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some("index_ahead"));
    assert!(soon(stream.next()).await.is_none());
}
