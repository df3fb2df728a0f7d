use std::time::Duration;

use crate::support::{Server, Wire};

const SSE: (&str, &str) = ("accept", "text/event-stream");

/// The next messages: (id, data).
async fn messages(wire: &mut Wire, count: usize) -> Vec<(Option<u64>, String)> {
    let mut found = Vec::new();
    while found.len() < count {
        let chunk = wire.chunk().await.unwrap();
        let text = String::from_utf8(chunk).unwrap();
        assert!(text.ends_with("\n\n"));
        for message in text
            .split_terminator("\n\n")
            .filter(|message| !message.starts_with(':'))
        {
            let mut id = None;
            let mut data = None;
            for line in message.lines() {
                match line.split_once(": ").unwrap() {
                    ("id", text) => id = Some(text.parse().unwrap()),
                    ("data", text) => data = Some(text.to_owned()),
                    other => panic!("{other:?}"),
                }
            }
            found.push((id, data.unwrap()));
        }
    }
    assert_eq!(found.len(), count);
    found
}

#[tokio::test]
async fn messages_bear_index_and_line_and_comments_are_heartbeats() {
    let server = Server::with(|config| config.stream.heartbeat = Duration::from_millis(30)).await;
    server.timeline.publish_many("Job", 2);
    let mut wire = Wire::connect(server.addr).await;
    let accept = ("accept", "text/html, text/event-stream;q=0.9");
    wire.send_head("GET", "/v1/event/stream", &[accept], None)
        .await;
    let head = wire.head().await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!(head.header("cache-control"), Some("no-cache"));
    assert_eq!(wire.chunk().await.unwrap(), b": \n\n");
    let found = messages(&mut wire, 2).await;
    assert_eq!(found[0].0, Some(1));
    assert!(
        found[0]
            .1
            .starts_with(r#"{"Index":1,"Events":[{"Index":1,"Topic":"Job""#)
    );
    assert_eq!(found[1].0, Some(2));
    assert_eq!(wire.chunk().await.unwrap(), b": \n\n");
}

#[tokio::test]
async fn the_last_event_id_overrules_every_other_start() {
    let server = Server::start().await;
    server.timeline.publish_many("Job", 5);
    for query in [
        "",
        "?index=1",
        "?from=beginning",
        "?from=now",
        "?from=snapshot",
    ] {
        let target = format!("/v1/event/stream{query}");
        let mut wire = server.follow(&target, &[SSE, ("last-event-id", "3")]).await;
        let ids: Vec<_> = messages(&mut wire, 2)
            .await
            .into_iter()
            .map(|message| message.0)
            .collect();
        assert_eq!(ids, [Some(4), Some(5)], "{query}");
    }
    let answer = server
        .request(
            "GET",
            "/v1/event/stream",
            &[SSE, ("last-event-id", "x")],
            b"",
        )
        .await;
    assert_eq!(answer.status, 400);
    // Without SSE the header says nothing.
    let mut wire = server
        .follow("/v1/event/stream?index=5", &[("last-event-id", "1")])
        .await;
    assert_eq!(wire.indexes(1).await, [5]);
}

#[tokio::test]
async fn who_resumes_too_late_after_a_snapshot_is_sent_it_again() {
    let server = Server::start().await;
    server
        .request("PUT", "/v1/state/Volume/a", &[], b"{}")
        .await;
    server.timeline.publish_many("Job", 5);
    server.timeline.retain(5);
    let target = "/v1/event/stream?from=snapshot&strict=true";
    let mut wire = server.follow(target, &[SSE, ("last-event-id", "2")]).await;
    let found = messages(&mut wire, 2).await;
    // Who is cut off within a snapshot begins it again, because its parts bear no ids.
    assert_eq!((found[0].0, found[1].0), (None, Some(6)));
    assert!(found[0].1.starts_with(r#"{"Index":1,"#));
    assert_eq!(
        found[1].1,
        r#"{"Index":6,"Events":[],"Marker":"SnapshotEnd"}"#
    );
    let late = server
        .request(
            "GET",
            "/v1/event/stream?strict=1",
            &[SSE, ("last-event-id", "2")],
            b"",
        )
        .await;
    assert_eq!(late.status, 410);
}

#[tokio::test]
async fn of_cloudevents_only_the_last_of_a_frame_bears_its_id() {
    let server = Server::start().await;
    server
        .timeline
        .publish(r#"{"Events":[{"Topic":"Job","Type":"A"},{"Topic":"Node","Type":"B"}]}"#);
    let mut wire = server
        .follow("/v1/event/stream?index=1&format=cloudevents", &[SSE])
        .await;
    let found = messages(&mut wire, 2).await;
    assert_eq!((found[0].0, found[1].0), (None, Some(1)));
}
