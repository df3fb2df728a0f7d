//! Many readers here cost the server one stream, and each gets every frame once and in order.

use std::time::Duration;

use tidings_client::{ClientError, EventStream, From, StreamEvent, StreamRequest};
use tidings_event::Index;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Agent, Network, Server, indexes, keys, soon, until};

fn request(from: From) -> StreamRequest {
    StreamRequest {
        from,
        ..StreamRequest::default()
    }
}

async fn publish(server: &Server, from: u64, to: u64) {
    for key in from..=to {
        crate::support::publish(&server.client, &format!("k{key}")).await;
    }
}

/// Waits for the first line, so that the stream is known to be open.
async fn opened(stream: &mut EventStream) {
    soon(stream.open()).await.unwrap();
}

#[tokio::test]
async fn g4_a_thousand_readers_cost_the_server_one_stream() {
    let server = Server::start().await;
    let network = Network::to(server.address).await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[network.address]).await;
    publish(&server, 1, 3).await;
    let mut readers = Vec::new();
    for _ in 0..1_000 {
        let mut stream = agent.client.stream(request(From::Now));
        opened(&mut stream).await;
        readers.push(stream);
    }
    // One that was cut is gone once the server has noticed.
    until(async || server.streams().await == 1).await;
    assert_eq!(agent.fact("/Relay/Upstreams").await, 1);
    publish(&server, 4, 6).await;
    network.cut();
    publish(&server, 7, 9).await;
    for reader in &mut readers {
        assert_eq!(indexes(reader, 6).await, [4, 5, 6, 7, 8, 9]);
    }
    // One that was cut is gone once the server has noticed.
    until(async || server.streams().await == 1).await;
    drop(readers);
    agent.stop().await;
}

#[tokio::test]
async fn g4_readers_are_taken_from_a_server_that_stands_still() {
    let server = Server::start().await;
    let (still, well) = (
        Network::to(server.address).await,
        Network::to(server.address).await,
    );
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[still.address, well.address]).await;
    let mut reader = agent.client.stream(request(From::Now));
    opened(&mut reader).await;
    publish(&server, 1, 2).await;
    assert_eq!(indexes(&mut reader, 2).await, [1, 2]);
    still.stall();
    publish(&server, 3, 4).await;
    // The server itself would say nothing for half a minute.
    let since = std::time::Instant::now();
    assert_eq!(indexes(&mut reader, 2).await, [3, 4]);
    assert!(since.elapsed() < Duration::from_secs(20), "{since:?}");
    agent.stop().await;
}

#[tokio::test]
async fn g4_a_reader_from_the_beginning_meets_the_shared_stream_without_a_seam() {
    let server = Server::start().await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[server.address]).await;
    publish(&server, 1, 50).await;
    let mut live = agent.client.stream(request(From::Now));
    opened(&mut live).await;
    let mut readers = Vec::new();
    for from in [From::Beginning, From::Index(Index(20)), From::Backlog] {
        let mut stream = agent.client.stream(request(from));
        opened(&mut stream).await;
        readers.push((from, stream));
    }
    for key in 51..=70 {
        publish(&server, key, key).await;
    }
    for (from, stream) in &mut readers {
        let first = if *from == From::Index(Index(20)) {
            20
        } else {
            1
        };
        let expected: Vec<u64> = (first..=70).collect();
        assert_eq!(indexes(stream, expected.len()).await, expected, "{from:?}");
    }
    assert_eq!(
        indexes(&mut live, 20).await,
        (51..=70).collect::<Vec<u64>>()
    );
    // Those streams of their own are closed.
    until(async || server.streams().await == 1).await;
    // What the ring has needs none.
    let before = agent.fact("/Relay/CatchUps").await;
    let mut late = agent.client.stream(request(From::Index(Index(60))));
    assert_eq!(
        indexes(&mut late, 11).await,
        (60..=70).collect::<Vec<u64>>()
    );
    assert_eq!(agent.fact("/Relay/CatchUps").await, before);
    drop((live, late, readers));
    agent.stop().await;
}

#[tokio::test]
async fn topics_namespaces_and_expressions_are_those_of_the_reader() {
    let server = Server::start().await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[server.address]).await;
    let asked = |topics: &[&str], namespace: Option<&str>, filter: Option<&str>| StreamRequest {
        topics: topics.iter().map(ToString::to_string).collect(),
        namespace: namespace.map(str::to_owned),
        filter: filter.map(str::to_owned),
        from: From::Now,
        ..StreamRequest::default()
    };
    let mut all = agent.client.stream(asked(&[], Some("*"), None));
    let mut named = agent.client.stream(asked(&[], None, None));
    let mut other = agent.client.stream(asked(&[], Some("other"), None));
    let mut keyed = agent.client.stream(asked(&["T:k2"], Some("*"), None));
    let mut chosen = agent
        .client
        .stream(asked(&[], Some("*"), Some("Key == 'k3'")));
    for stream in [&mut all, &mut named, &mut other, &mut keyed, &mut chosen] {
        opened(stream).await;
    }
    // The three sets of everything share one, the key has its own.
    until(async || server.streams().await == 2).await;
    publish(&server, 1, 3).await;
    let mut event = crate::support::event("k4");
    event.namespace = "other".to_owned();
    let last = tidings_client::Transaction::try_from(event).unwrap();
    server.client.publish(&last).await.unwrap();
    assert_eq!(keys(&mut all, 4).await, ["k1", "k2", "k3", "k4"]);
    assert_eq!(keys(&mut named, 3).await, ["k1", "k2", "k3"]);
    assert_eq!(keys(&mut other, 1).await, ["k4"]);
    assert_eq!(keys(&mut keyed, 1).await, ["k2"]);
    assert_eq!(keys(&mut chosen, 1).await, ["k3"]);
    drop((all, named, other, keyed, chosen));
    agent.stop().await;
}

#[tokio::test]
async fn beyond_the_limit_readers_share_the_stream_of_everything() {
    let server = Server::start().await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::with(&spool, &[server.address], |config| config.upstreams_max = 2).await;
    let mut readers = Vec::new();
    for key in 1..=6 {
        let mut stream = agent.client.stream(StreamRequest {
            topics: vec![format!("T:k{key}")],
            from: From::Now,
            ..StreamRequest::default()
        });
        opened(&mut stream).await;
        readers.push(stream);
    }
    until(async || server.streams().await == 3).await;
    publish(&server, 1, 6).await;
    for (reader, key) in readers.iter_mut().zip(1..) {
        assert_eq!(keys(reader, 1).await, [format!("k{key}")]);
    }
    drop(readers);
    agent.stop().await;
}

#[tokio::test]
async fn g8_a_reader_that_reads_nothing_costs_only_itself_and_misses_nothing() {
    let server = Server::start().await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::with(&spool, &[server.address], |config| {
        config.ring_bytes = 20_000;
    })
    .await;
    let mut slow = tokio::net::TcpStream::connect(agent.address).await.unwrap();
    slow.write_all(b"GET /v1/event/stream?index=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut quick = agent.client.stream(request(From::Now));
    opened(&mut quick).await;
    let (sender, mut answers) = server.client.publish_stream(Default::default());
    let count = 3_000_u64;
    let payload = format!("{{\"x\":\"{}\"}}", "y".repeat(4_000));
    let feeding = async {
        for key in 1..=count {
            let mut event = crate::support::event(&format!("k{key}"));
            event.payload = serde_json::value::RawValue::from_string(payload.clone()).unwrap();
            sender.send(event.try_into().unwrap()).await.unwrap();
        }
        drop(sender);
    };
    let answering = async { while soon(answers.next()).await.is_some() {} };
    let reading = async {
        let read = indexes(&mut quick, count as usize).await;
        assert_eq!(read, (1..=count).collect::<Vec<u64>>());
    };
    tokio::join!(feeding, answering, reading);
    // Only now does the other one read.
    let (mut text, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    let mut next = 1;
    soon(async {
        while next <= count {
            let read = slow.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the stream ended at {next}");
            text.extend_from_slice(&buffer[..read]);
            while let Some(end) = text.windows(1).position(|byte| byte == b"\n") {
                let line: Vec<u8> = text.drain(..=end).collect();
                if line.starts_with(b"{\"Index\":") {
                    let expected = format!("{{\"Index\":{next},");
                    assert!(line.starts_with(expected.as_bytes()), "at {next}");
                    next += 1;
                }
            }
        }
    })
    .await;
    agent.stop().await;
}

#[tokio::test]
async fn a_snapshot_comes_through_the_agent() {
    let server = Server::start().await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[server.address]).await;
    let payload = serde_json::value::RawValue::from_string("{}".to_owned()).unwrap();
    for key in ["a", "b"] {
        let any = tidings_client::PutOptions::default();
        let put = server.client.state_put("T", key, &payload, &any);
        soon(put).await.unwrap();
    }
    let mut stream = agent.client.stream(request(From::Snapshot));
    let mut told = Vec::new();
    while told.len() < 4 {
        match soon(stream.next()).await.unwrap().unwrap() {
            StreamEvent::Frame(line) => told.push(format!("frame {}", line.index())),
            StreamEvent::SnapshotEnd(index) => {
                told.push(format!("end {index}"));
                publish(&server, 3, 3).await;
            }
            StreamEvent::Progress(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(told, ["frame 1", "frame 2", "end 2", "frame 3"]);
    drop(stream);
    agent.stop().await;
}

#[tokio::test]
async fn what_a_server_refuses_a_reader_is_told_here() {
    let server = Server::start().await;
    let network = Network::to(server.address).await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[network.address]).await;
    publish(&server, 1, 2).await;
    let mut beyond = agent.client.stream(StreamRequest {
        strict: true,
        ..request(From::Index(Index(9)))
    });
    let error = soon(beyond.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some("index_ahead"), "{error}");
    let mut wrong = agent.client.stream(StreamRequest {
        filter: Some("nonsense(".to_owned()),
        ..request(From::Now)
    });
    let error = soon(wrong.next()).await.unwrap().unwrap_err();
    assert!(
        matches!(error, ClientError::Refused { status: 400, .. }),
        "{error}"
    );
    let mut named = agent.client.stream(request(From::Beginning));
    assert_eq!(indexes(&mut named, 2).await, [1, 2]);
    let status = server.client.status().await.unwrap();
    assert_eq!(
        named.timeline(),
        status.get("/Timeline/Id").unwrap().as_str(),
        "the timeline is named"
    );
    drop(named);
    agent.stop().await;
}

#[tokio::test]
async fn a_token_that_servers_do_not_know_is_told_at_once() {
    let server = Server::with(|config| {
        config.http.token = tidings_api::Token::new("a-secret-of-the-servers");
    })
    .await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[server.address]).await;
    for _ in 0..3 {
        let mut stream = agent.client.stream(request(From::Now));
        let error = soon(stream.next()).await.unwrap().unwrap_err();
        assert!(
            matches!(error, ClientError::Refused { status: 403, .. }),
            "{error}"
        );
    }
    // Nothing is lost by it.
    let published = crate::support::publish(&agent.client, "k").await;
    assert!(published.spooled);
    until(async || agent.fact("/Relay/NotReached").await.is_string()).await;
    let told = agent.fact("/Relay/NotReached").await;
    assert!(
        told.as_str().unwrap().contains("Permission denied"),
        "{told}"
    );
    assert_eq!(agent.fact("/Spool/Transactions").await, 1);
    agent.stop().await;
}

#[tokio::test]
async fn frames_that_retention_has_removed_are_told_or_left_out() {
    let server = Server::start().await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[server.address]).await;
    publish(&server, 1, 5).await;
    let mut group = tidings_timeline::CommandGroup::new();
    group.retain(Index(4));
    server.replica.propose(group).await.unwrap();
    let mut strict = agent.client.stream(StreamRequest {
        strict: true,
        ..request(From::Index(Index(2)))
    });
    let error = soon(strict.next()).await.unwrap().unwrap_err();
    assert!(
        matches!(error, ClientError::Gone { wanted: Index(2) }),
        "{error}"
    );
    // The client asks strictly, is told, and goes on at the oldest.
    let mut lenient = agent.client.stream(request(From::Index(Index(2))));
    let mut gap = None;
    loop {
        match soon(lenient.next()).await.unwrap().unwrap() {
            StreamEvent::Gap { wanted, next } => gap = Some((wanted, next)),
            StreamEvent::Frame(line) => {
                assert_eq!(line.index(), Index(4));
                break;
            }
            _ => {}
        }
    }
    assert_eq!(gap, Some((Index(2), Index(4))));
    drop(lenient);
    agent.stop().await;
}

#[tokio::test]
async fn a_websocket_comes_through_the_agent() {
    use futures_util::StreamExt as _;
    let server = Server::start().await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[server.address]).await;
    publish(&server, 1, 2).await;
    let address = format!("ws://{}/v1/events?index=1&format=frame", agent.address);
    let connected = tokio_tungstenite::connect_async(address);
    let (mut socket, _) = soon(connected).await.unwrap();
    let mut next = 1;
    while next <= 3 {
        if next == 3 {
            publish(&server, 3, 3).await;
        }
        let message = soon(socket.next()).await.unwrap().unwrap();
        let Ok(text) = message.to_text() else {
            continue;
        };
        if text.contains("\"Key\"") {
            assert!(text.contains(&format!("\"Key\":\"k{next}\"")), "{text}");
            next += 1;
        }
    }
    drop(socket);
    agent.stop().await;
}

#[tokio::test]
async fn server_sent_events_come_through_the_agent() {
    let server = Server::start().await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[server.address]).await;
    publish(&server, 1, 2).await;
    let mut socket = tokio::net::TcpStream::connect(agent.address).await.unwrap();
    socket
        .write_all(b"GET /v1/event/stream?index=1 HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    let mut buffer = vec![0; 4096];
    while !text.contains("id: 2\n") {
        let read = soon(socket.read(&mut buffer)).await.unwrap();
        assert!(read > 0, "{text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    assert!(text.contains("text/event-stream"), "{text}");
    tokio::time::timeout(Duration::from_secs(5), agent.stop())
        .await
        .unwrap();
}
