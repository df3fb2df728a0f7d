use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{PATIENCE, Server, eventually};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(server: &Server, query: &str) -> Socket {
    connect_async(format!("ws://{}/v1/events{query}", server.addr))
        .await
        .unwrap()
        .0
}

async fn next(socket: &mut Socket) -> Message {
    timeout(PATIENCE, socket.next())
        .await
        .expect("a message")
        .expect("no end")
        .unwrap()
}

/// The next messages that are text.
async fn texts(socket: &mut Socket, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    while found.len() < count {
        if let Message::Text(text) = next(socket).await {
            found.push(serde_json::from_str(&text).unwrap());
        }
    }
    found
}

#[tokio::test]
async fn each_event_is_a_message() {
    let server = Server::start().await;
    server.timeline.publish(
        r#"{"Events":[{"Topic":"Job","Type":"A","Key":"a"},{"Topic":"Node","Type":"B"}]}"#,
    );
    let mut socket = connect(&server, "?from=beginning").await;
    assert!(matches!(next(&mut socket).await, Message::Ping(_)));
    let events = texts(&mut socket, 2).await;
    assert_eq!(
        (&events[0]["Index"], &events[0]["Topic"]),
        (&1.into(), &"Job".into())
    );
    assert_eq!(events[1]["Topic"], "Node");
    server.timeline.publish_many("Job", 3);
    let indexes: Vec<_> = texts(&mut socket, 3)
        .await
        .iter()
        .map(|event| event["Index"].clone())
        .collect();
    assert_eq!(indexes, [2, 3, 4]);

    let mut resumed = connect(&server, "?last_index=3&topic=Job").await;
    assert_eq!(texts(&mut resumed, 1).await[0]["Index"], 4);
}

#[tokio::test]
async fn frames_cloudevents_and_snapshots_are_messages_too() {
    let server = Server::start().await;
    server
        .request("PUT", "/v1/state/Volume/a", &[], b"{\"v\":1}")
        .await;
    server
        .timeline
        .publish(r#"{"Events":[{"Topic":"Job","Type":"A"},{"Topic":"Node","Type":"B"}]}"#);
    let mut socket = connect(&server, "?from=beginning&format=frame&topic=Job").await;
    let frame = texts(&mut socket, 1).await.remove(0);
    assert_eq!(frame["Index"], 2);
    assert_eq!(frame["Events"].as_array().unwrap().len(), 1);

    let mut socket = connect(&server, "?from=beginning&format=cloudevents").await;
    let events = texts(&mut socket, 3).await;
    assert_eq!(events[2]["type"], "Node.B");

    let mut socket = connect(&server, "?from=snapshot").await;
    let messages = texts(&mut socket, 2).await;
    assert_eq!(messages[0]["Key"], "a");
    assert_eq!(messages[1]["Marker"], "SnapshotEnd");
    server.timeline.publish_many("Job", 1);
    assert_eq!(texts(&mut socket, 1).await[0]["Index"], 3);
}

#[tokio::test]
async fn pings_are_the_heartbeat_unless_progress_is_asked_for() {
    let server = Server::with(|config| config.stream.heartbeat = Duration::from_millis(30)).await;
    server.timeline.publish_many("Job", 2);
    let mut socket = connect(&server, "?from=now").await;
    for _ in 0..3 {
        assert!(matches!(next(&mut socket).await, Message::Ping(_)));
    }
    let mut socket = connect(&server, "?from=now&progress=true").await;
    for message in texts(&mut socket, 2).await {
        assert_eq!(message, serde_json::json!({"Index": 2, "Events": []}));
    }
}

#[tokio::test]
async fn what_a_client_says_is_dropped_and_too_much_of_it_ends_the_connection() {
    let server = Server::start().await;
    let mut socket = connect(&server, "?from=now").await;
    socket.send(Message::text("hello")).await.unwrap();
    socket.send(Message::binary(vec![0; 1000])).await.unwrap();
    server.timeline.publish_many("Job", 1);
    assert_eq!(texts(&mut socket, 1).await[0]["Index"], 1);
    let _ = socket.send(Message::binary(vec![0; 100 << 10])).await;
    loop {
        match timeout(PATIENCE, socket.next()).await.expect("an end") {
            Some(Ok(Message::Close(Some(frame)))) => {
                assert_eq!(u16::from(frame.code), 1008);
                break;
            }
            Some(Ok(_)) => {}
            // The rest of the message was never read: the connection may be reset first.
            Some(Err(_)) | None => break,
        }
    }
    eventually("the stream is closed", async || {
        server.get("/v1/status").await.json()["Http"]["StreamsWebSocket"] == 0
    })
    .await;
}

#[tokio::test]
async fn requests_that_cannot_be_followed_are_answered_in_json() {
    let server = Server::start().await;
    let answer = server.get("/v1/events").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (426, "upgrade_required")
    );
    server.timeline.publish_many("Job", 5);
    server.timeline.retain(4);
    for (query, status, code) in [
        ("?index=x", 400, "index_invalid"),
        ("?topic=a:b:c", 400, "topic_invalid"),
        ("?format=xml", 400, "format_invalid"),
        ("?filter=1+%2B", 400, "filter_invalid"),
        ("?index=1&strict=true", 410, "index_gone"),
    ] {
        let error = connect_async(format!("ws://{}/v1/events{query}", server.addr)).await;
        let Err(Error::Http(response)) = error else {
            panic!("{query}")
        };
        assert_eq!(response.status().as_u16(), status);
        let body: Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
        assert_eq!(body["Error"]["Code"], code);
    }
}

#[tokio::test]
async fn the_handshake_names_the_timeline() {
    let server = Server::start().await;
    server.timeline.found(7);
    let (_socket, response) = connect_async(format!("ws://{}/v1/events", server.addr))
        .await
        .unwrap();
    assert_eq!(
        response.headers()["x-tidings-timeline"],
        "00000000000000000000000007"
    );
    let refused = server.get("/v1/events").await;
    assert_eq!(refused.status, 426);
    assert_eq!(refused.header("upgrade"), Some("websocket"));
}

/// A heartbeat that is due says how far the stream is, frames that wait come before it.
#[tokio::test]
async fn progress_is_not_told_before_what_is_there_was_looked_at() {
    let server = Server::with(|config| config.stream.heartbeat = Duration::from_millis(40)).await;
    let mut socket = connect(&server, "?from=now&topic=None&progress=true").await;
    assert_eq!(texts(&mut socket, 1).await[0]["Index"], 0);
    server.timeline.publish_many("Job", 5);
    // One may have been sent before that; whichever is next, it was looked at by then.
    let beats = texts(&mut socket, 2).await;
    assert!(beats[0]["Index"] == 0 || beats[0]["Index"] == 5);
    assert_eq!(beats[1]["Index"], 5);
}

#[tokio::test]
async fn pages_of_other_sites_are_refused() {
    let server = Server::start().await;
    for (origin, allowed) in [
        (format!("http://{}", server.addr), true),
        (String::from("http://elsewhere.example"), false),
        (String::from("null"), false),
    ] {
        let mut request = format!("ws://{}/v1/events", server.addr)
            .into_client_request()
            .unwrap();
        request
            .headers_mut()
            .insert("origin", origin.parse().unwrap());
        assert_eq!(connect_async(request).await.is_ok(), allowed, "{origin}");
    }
}

#[tokio::test]
async fn shutting_down_closes_with_a_reason() {
    let mut server = Server::start().await;
    let mut socket = connect(&server, "?from=now").await;
    assert!(matches!(next(&mut socket).await, Message::Ping(_)));
    server.begin_stop();
    let Message::Close(Some(frame)) = next(&mut socket).await else {
        panic!("no close")
    };
    assert_eq!(u16::from(frame.code), 1001);
    assert!(frame.reason.contains("stopping"));
    // The client's library answers the close; then the server is done at once.
    while let Some(Ok(_)) = socket.next().await {}
    server.stopped().await;
}
