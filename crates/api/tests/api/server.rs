use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidings_api::{ApiConfig, ApiServer, ApiShared, Token};
use tokio::net::{TcpListener, TcpStream};

use crate::memory_timeline::MemoryTimeline;
use crate::support::{Server, Wire, eventually, metric};

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn a_head_that_dawdles_is_cut() {
    let server =
        Server::with(|config| config.http.header_timeout = Duration::from_millis(100)).await;
    // Nothing at all, half a line, half a head, half of what HTTP/2 begins with.
    for beginning in [
        "",
        "GE",
        "GET /v1/status HTTP/1.1\r\nHost: x\r\n",
        "PRI * HTTP/2.0\r\n",
    ] {
        let mut wire = Wire::connect(server.addr).await;
        wire.send(beginning.as_bytes()).await;
        let rest = wire.rest().await;
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"),
            "{beginning:?}"
        );
    }
    // A connection that is idle after a request as well.
    let mut wire = Wire::connect(server.addr).await;
    wire.send_head("GET", "/v1/health/live", &[], None).await;
    assert_eq!(wire.answer().await.status, 200);
    wire.rest().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let server = Server::with(|config| config.http.connections_max = 2).await;
    let mut first = server.follow("/v1/event/stream", &[]).await;
    let second = server.follow("/v1/event/stream", &[]).await;
    let mut third = Wire::connect(server.addr).await;
    third.send_head("GET", "/v1/status", &[], None).await;
    let answer = third.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "too_many_connections")
    );
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(third.rest().await.is_empty());
    assert_eq!(first.chunk().await.unwrap(), b"{}\n");
    // A place that becomes free is given again.
    drop(second);
    eventually("a place becomes free", async || {
        let mut wire = Wire::connect(server.addr).await;
        wire.send_head("GET", "/v1/status", &[], None).await;
        wire.answer().await.status == 200
    })
    .await;
    drop(first);
    eventually("both are free", async || {
        metric(&server, "tidings_http_connections").await == 1
    })
    .await;
    assert!(metric(&server, "tidings_http_connections_refused_total").await >= 1);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_answered() {
    let server = Server::start().await;
    for path in ["/", "/v1", "/v1/nothing", "/v1/state", "/v1/status/"] {
        let answer = server.get(path).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "no_such_path"),
            "{path}"
        );
    }
    for (method, path, allowed) in [
        ("DELETE", "/v1/events", "GET, POST"),
        ("POST", "/v1/state/Volume", "GET"),
        ("PATCH", "/v1/state/Volume/a", "GET, PUT, DELETE"),
        ("OPTIONS", "/v1/status", "GET"),
    ] {
        let answer = server.request(method, path, &[], b"").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (405, "method_not_allowed")
        );
        assert_eq!(answer.header("allow"), Some(allowed));
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let mut wire = Wire::connect(server.addr).await;
    wire.send_head("HEAD", "/v1/status", &[], None).await;
    assert_eq!(wire.head().await.status, 200);
    let long = format!("/v1/event/stream?{}", "x".repeat(17 << 10));
    let answer = server.get(&long).await;
    assert_eq!(answer.status, 414);
    assert!(answer.text().starts_with("the query has more than"));
    let header = "x".repeat(40 << 10);
    let answer = server
        .request("GET", "/v1/status", &[("x-long", &header)], b"")
        .await;
    assert_eq!(answer.status, 431);
    let long = format!("/v1/status?{}", "x".repeat(17 << 10));
    let answer = server.get(&long).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (414, "query_too_long")
    );
}

#[tokio::test]
async fn without_the_token_nothing_but_health_is_answered() {
    let server = Server::with(|config| config.http.token = Token::new("secret")).await;
    let requests: [(&str, &str, u16); 9] = [
        ("GET", "/v1/event/stream?index=x", 400),
        ("GET", "/v1/events", 426),
        ("POST", "/v1/events", 415),
        ("GET", "/v1/state/Volume", 200),
        ("GET", "/v1/state/Volume/a", 404),
        ("PUT", "/v1/state/Volume/a", 400),
        ("DELETE", "/v1/state/Volume/a", 404),
        ("GET", "/v1/status", 200),
        ("GET", "/v1/metrics", 200),
    ];
    for (method, target, status) in requests {
        for headers in [
            &[][..],
            &[("x-nomad-token", "wrong")],
            &[("authorization", "Bearer wrong")],
        ] {
            let answer = server.request(method, target, headers, b"").await;
            assert_eq!(answer.status, 403, "{method} {target}");
            if target.starts_with("/v1/event/stream") {
                assert_eq!(answer.text(), "Permission denied");
                assert_eq!(
                    answer.header("content-type"),
                    Some("text/plain; charset=utf-8")
                );
            } else {
                assert_eq!(answer.code(), "permission_denied");
            }
        }
        for header in [
            ("x-nomad-token", "secret"),
            ("authorization", "Bearer secret"),
        ] {
            let answer = server.request(method, target, &[header], b"").await;
            assert_eq!(answer.status, status, "{method} {target}");
        }
    }
    for target in ["/v1/health/live", "/v1/health/ready"] {
        assert_eq!(server.get(target).await.status, 200);
    }
    assert_eq!(server.get("/v1/openapi.json").await.status, 403);
}

#[tokio::test]
async fn pages_of_other_sites_may_not_write() {
    let server = Server::start().await;
    let body = b"{\"Topic\":\"Job\",\"Type\":\"A\"}";
    let foreign = [JSON, ("origin", "http://elsewhere.example")];
    assert_eq!(
        server
            .request("POST", "/v1/events", &foreign, body)
            .await
            .status,
        403
    );
    let own = [JSON, ("origin", "http://tidings.test")];
    assert_eq!(
        server
            .request("POST", "/v1/events", &own, body)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn shutting_down_ends_streams_cleanly_and_answers_what_was_asked() {
    let mut server = Server::start().await;
    server
        .request("PUT", "/v1/state/Volume/a", &[], b"{}")
        .await;
    let mut lines = server.follow("/v1/event/stream?from=now", &[]).await;
    let mut sse = server
        .follow(
            "/v1/event/stream?from=now",
            &[("accept", "text/event-stream")],
        )
        .await;
    assert_eq!(lines.chunk().await.unwrap(), b"{}\n");
    assert_eq!(sse.chunk().await.unwrap(), b": \n\n");
    let mut publisher = Wire::connect(server.addr).await;
    let headers = [
        ("content-type", "application/x-ndjson"),
        ("transfer-encoding", "chunked"),
    ];
    publisher
        .send_head("POST", "/v1/events", &headers, None)
        .await;
    publisher.head().await;
    server.timeline.close_gate();
    publisher
        .send_chunk(b"{\"Topic\":\"Job\",\"Type\":\"A\"}\n")
        .await;
    eventually("the line is taken", async || server.timeline.groups() == 2).await;
    // It is followed before the server stops.
    assert_eq!(lines.indexes(1).await, [2]);
    let mut blocked = Wire::connect(server.addr).await;
    blocked
        .send_head("GET", "/v1/state/Volume?index=2&wait=100s", &[], None)
        .await;
    eventually("the query waits", async || {
        metric(&server, "tidings_blocking_queries").await == 1
    })
    .await;

    server.begin_stop();
    assert_eq!(lines.chunk().await, None);
    while sse.chunk().await.is_some() {}
    assert_eq!(blocked.answer().await.status, 200);
    server.timeline.open_gate();
    assert_eq!(publisher.lines(1).await, ["{\"Index\":2}"]);
    assert_eq!(publisher.chunk().await, None);
    server.stopped().await;
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn a_connection_that_does_not_end_is_cut_after_the_grace() {
    let mut server =
        Server::with(|config| config.http.shutdown_grace = Duration::from_millis(100)).await;
    server.timeline.close_gate();
    let mut wire = Wire::connect(server.addr).await;
    wire.send_head("POST", "/v1/events", &[JSON], Some(27))
        .await;
    wire.send(b"{\"Topic\":\"Job\",\"Type\":\"A\"} ").await;
    eventually("the event is taken", async || server.timeline.groups() == 1).await;
    server.begin_stop();
    server.stopped().await;
    assert!(wire.rest().await.is_empty());
}

/// A page that made its own name mean this machine is told by the name.
#[tokio::test]
async fn without_a_token_other_names_are_refused() {
    let server = Server::with(|config| config.http.host_names.clear()).await;
    for target in ["/v1/status", "/v1/event/stream", "/v1/state/Volume"] {
        let answer = server.get(target).await;
        assert_eq!(answer.status, 403, "{target}");
        assert!(answer.text().contains("http.host_names"), "{target}");
    }
    assert_eq!(server.get("/v1/health/live").await.status, 200);
}

#[tokio::test]
async fn a_server_that_takes_over_goes_on_counting() {
    let timeline = MemoryTimeline::new();
    let shared = ApiShared::new();
    let mut requests = Vec::new();
    for _ in 0..2 {
        let config = ApiConfig::default();
        let server = ApiServer::new_sharing(timeline.clone(), config, &shared);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(server.run(listener, async {
            let _ = stopped.await;
        }));
        let mut wire = Wire::connect(addr).await;
        wire.send(b"GET /v1/metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await;
        let answer = wire.answer().await;
        let line = answer
            .text()
            .lines()
            .find(|line| line.starts_with("tidings_http_requests_total "));
        requests.push(line.unwrap().to_owned());
        drop((stop, wire));
        task.await.unwrap();
    }
    assert_eq!(
        requests,
        [
            "tidings_http_requests_total 1",
            "tidings_http_requests_total 2"
        ]
    );
}

/// A client of HTTP/2 that gives one stream no window costs that stream, then its connection.
#[tokio::test]
async fn g8_an_http2_stream_that_is_not_read_is_ended() {
    let server = Server::with(|config| config.http.write_stall = Duration::from_millis(300)).await;
    let payload = "x".repeat(200_000);
    server.timeline.publish(&format!(
        "{{\"Topic\":\"Job\",\"Type\":\"A\",\"Payload\":{{\"x\":\"{payload}\"}}}}"
    ));
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(Some(1_000));
    let (mut sender, connection) = builder.handshake(TokioIo::new(socket)).await.unwrap();
    let connection = tokio::spawn(connection);
    let uri = format!("http://{}/v1/event/stream?index=1", server.addr);
    let request = hyper::Request::get(uri)
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    // Never read.
    let stalled = sender.send_request(request).await.unwrap();
    assert_eq!(metric(&server, "tidings_broker_subscriptions").await, 1);
    eventually("it is ended", async || {
        metric(&server, "tidings_http_connections_stalled_total").await == 1
    })
    .await;
    eventually("nothing of it is left", async || {
        metric(&server, "tidings_broker_subscriptions").await == 0
    })
    .await;
    // One that still gives no window is cut.
    let ended = tokio::time::timeout(Duration::from_secs(10), connection).await;
    assert!(ended.is_ok());
    drop(stalled);
    eventually("its connection is gone", async || {
        metric(&server, "tidings_http_connections").await == 1
    })
    .await;
}

/// One that is read slowly, but is read, goes on for as long as it takes.
#[tokio::test]
async fn g8_an_http2_stream_that_is_read_slowly_is_not_ended() {
    let server = Server::with(|config| config.http.write_stall = Duration::from_millis(300)).await;
    let payload = "x".repeat(200_000);
    server.timeline.publish(&format!(
        "{{\"Topic\":\"Job\",\"Type\":\"A\",\"Payload\":{{\"x\":\"{payload}\"}}}}"
    ));
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(Some(64_000));
    let (mut sender, connection) = builder.handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{}/v1/event/stream?index=1", server.addr);
    let request = hyper::Request::get(uri)
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut read = 0;
    while read < 200_000 {
        let frame = body.frame().await.unwrap().unwrap();
        read += frame.data_ref().unwrap().len();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Nothing more comes, for longer than a stall.
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.timeline.publish_many("Job", 1);
    let frame = body.frame().await.unwrap().unwrap();
    assert!(!frame.data_ref().unwrap().is_empty());
    assert_eq!(
        metric(&server, "tidings_http_connections_stalled_total").await,
        0
    );
}

#[tokio::test]
async fn http2_is_spoken_with_clients_that_know() {
    let mut server = Server::start().await;
    server.timeline.publish_many("Job", 2);
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let ask = |path: &str| {
        let uri = format!("http://{}{path}", server.addr);
        hyper::Request::get(uri)
            .body(Empty::<bytes::Bytes>::new())
            .unwrap()
    };
    let response = sender.send_request(ask("/v1/status")).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut streams = Vec::new();
    for _ in 0..3 {
        let response = sender
            .send_request(ask("/v1/event/stream?index=1"))
            .await
            .unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        streams.push(response.into_body());
    }
    for body in &mut streams {
        let mut text = String::new();
        while text.lines().count() < 3 {
            let frame = body.frame().await.unwrap().unwrap();
            text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
        assert!(text.starts_with("{}\n{\"Index\":1,"), "{text}");
    }
    assert_eq!(metric(&server, "tidings_http_connections").await, 2);
    server.begin_stop();
    for body in &mut streams {
        while let Some(frame) = body.frame().await {
            assert!(frame.unwrap().data_ref().is_none_or(|data| data.is_empty()));
        }
    }
    drop(sender);
    server.stopped().await;
    connection.await.unwrap().unwrap();
}
