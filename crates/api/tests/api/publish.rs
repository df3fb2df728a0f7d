use std::time::Duration;

use serde_json::{Value, json};
use tidings_api::ProposeFailure;
use tidings_event::Limits;

use crate::support::{Answer, Server, Wire, eventually, metric};

const JSON: (&str, &str) = ("content-type", "application/json");
const LINES: (&str, &str) = ("content-type", "application/x-ndjson");

async fn post_lines(server: &Server, body: &str) -> Vec<Value> {
    let answer = server
        .request("POST", "/v1/events", &[LINES], body.as_bytes())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn a_transaction_is_one_frame_and_a_repeat_is_known() {
    let server = Server::start().await;
    let body = r#"{"Events":[{"Topic":"Job","Type":"A","Key":"a","Id":"one","Payload":{"x": 1.0}},{"Topic":"Job","Type":"B","Id":"two"}]}"#;
    let answer = server.post(body).await;
    assert_eq!((answer.status, answer.text()), (200, "{\"Index\":1}\n"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        server.post(body).await.json(),
        json!({"Index": 1, "Duplicate": true})
    );
    let bare = server.post(r#"{"Topic":"Job","Type":"C"}"#).await;
    assert_eq!(bare.json(), json!({"Index": 2}));

    let partly = server
        .post(r#"{"Events":[{"Topic":"Job","Type":"A","Id":"one"},{"Topic":"Job","Type":"B","Id":"new"}]}"#)
        .await;
    assert_eq!(
        (partly.status, partly.code().as_str()),
        (409, "partly_duplicate")
    );
    assert_eq!(partly.json()["Error"]["Index"], 1);

    let mut wire = server.follow("/v1/event/stream?index=1", &[]).await;
    let frames = wire.frames(2).await;
    let events = frames[0]["Events"].as_array().unwrap();
    assert_eq!(
        (events.len(), &events[0]["Id"], &events[0]["Node"]),
        (2, &"one".into(), &"n1".into())
    );
    assert_eq!(
        (&events[0]["Source"], &events[0]["Namespace"]),
        (&"api".into(), &"default".into())
    );
    assert_eq!(frames[1]["Events"][0]["Id"].as_str().unwrap().len(), 26);
}

#[tokio::test]
async fn numbers_of_a_sender_make_a_repeat_known_and_a_hole_refused() {
    let server = Server::start().await;
    // The time of the timeline that tests have.
    let epoch = 1_700_000_000_000_000_u64;
    let post = async |kind, first: u64, body: &str| {
        let sender = format!("01K0000000000000000000000A {epoch} {first}");
        let headers = [kind, ("x-tidings-sender", sender.as_str())];
        let path = "/v1/events";
        server
            .request("POST", path, &headers, body.as_bytes())
            .await
    };
    let line = |key: u64| format!("{{\"Topic\":\"T\",\"Type\":\"A\",\"Key\":\"{key}\"}}\n");
    let first = post(JSON, 1, &line(1)).await;
    assert_eq!((first.status, first.text()), (200, "{\"Index\":1}\n"));
    // A blank line has no number, one that is refused has.
    let lines = format!("{}\n{}nonsense\n{}", line(1), line(2), line(4));
    let answer = post(LINES, 1, &lines).await;
    let answers: Vec<Value> = answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers[0], json!({"Index": 1, "Duplicate": true}));
    assert_eq!(answers[1], json!({"Index": 2}));
    assert_eq!(answers[2]["Error"]["Code"], "malformed_json");
    assert_eq!(answers[3]["Error"]["Code"], "sender_gap");
    let gap = post(JSON, 4, &line(4)).await;
    assert_eq!((gap.status, gap.code().as_str()), (409, "sender_gap"));
    assert_eq!(gap.json()["Error"]["Expected"], 3);
    let status = server.get("/v1/status").await.json();
    assert!(status.to_string().contains("\"Senders\":1"), "{status}");

    let cloud = ("content-type", "application/cloudevents+json");
    for (kind, sender) in [(JSON, "me 1 1"), (cloud, "01K0000000000000000000000A 1 1")] {
        let headers = [kind, ("x-tidings-sender", sender)];
        let refused = server.request("POST", "/v1/events", &headers, b"{}").await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (400, "sender_invalid")
        );
    }
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let server = Server::with(|config| {
        config.limits = Limits {
            event_bytes: 2_000,
            transaction_bytes: 3_000,
            transaction_events: 3,
            ..Limits::default()
        };
        config.publish.body_bytes = 10_000;
    })
    .await;
    let event = |bytes: usize| {
        format!(
            r#"{{"Topic":"Job","Type":"A","Payload":{{"p":"{}"}}}}"#,
            "x".repeat(bytes)
        )
    };
    let many = |events: &[String]| format!(r#"{{"Events":[{}]}}"#, events.join(","));
    for (body, status, code) in [
        (String::from("{"), 400, "malformed_json"),
        (String::new(), 400, "malformed_json"),
        (String::from(r#"{"Events":[]}"#), 400, "no_events"),
        (String::from(r#"{"Topic":"Job"}"#), 400, "field_missing"),
        (
            String::from(r#"{"Topic":"a:b","Type":"A"}"#),
            400,
            "field_text",
        ),
        (
            String::from(r#"{"Topic":"Job","Type":"A","Payload":[1]}"#),
            400,
            "payload_kind",
        ),
        (
            String::from(r#"{"Topic":"Job","Type":"A","Tpoic":1}"#),
            400,
            "malformed_json",
        ),
        (event(1_500), 200, ""),
        (event(2_000), 413, "event_too_large"),
        (many(&vec![event(10); 3]), 200, ""),
        (many(&vec![event(10); 4]), 413, "too_many_events"),
        (many(&vec![event(1_500); 2]), 413, "transaction_too_large"),
        (event(11_000), 413, "transaction_too_large"),
    ] {
        let answer = server.post(&body).await;
        assert_eq!(answer.status, status, "{body:.80} {}", answer.text());
        if status != 200 {
            assert_eq!(answer.code(), code);
            assert_eq!(answer.header("content-type"), Some("application/json"));
        }
    }
    for headers in [&[][..], &[("content-type", "text/plain")]] {
        let answer = server.request("POST", "/v1/events", headers, b"{}").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (415, "content_type_unsupported")
        );
        for accepted in [
            "application/json",
            "application/x-ndjson",
            "application/cloudevents+json",
        ] {
            assert!(answer.message().contains(accepted));
        }
    }
    let typed = ("content-type", "Application/JSON; charset=utf-8");
    let answer = server
        .request("POST", "/v1/events", &[typed], event(1).as_bytes())
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_and_may_not_pause() {
    let server = Server::with(|config| {
        config.publish.body_bytes = 10_000;
        config.publish.body_pause = Duration::from_millis(50);
    })
    .await;
    let chunked = ("transfer-encoding", "chunked");
    let mut wire = Wire::connect(server.addr).await;
    wire.send_head("POST", "/v1/events", &[JSON, chunked], None)
        .await;
    for _ in 0..3 {
        wire.send_chunk(&[b' '; 4_000]).await;
    }
    assert_eq!(wire.answer().await.status, 413);

    let mut wire = Wire::connect(server.addr).await;
    wire.send_head("POST", "/v1/events", &[JSON, chunked], None)
        .await;
    wire.send_chunk(b"{\"Topic\":").await;
    let answer = wire.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (408, "body_timeout")
    );
}

#[tokio::test]
async fn g9_bodies_and_lines_that_dribble_are_cut_off() {
    let server = Server::with(|config| {
        config.publish.body_timeout = Duration::from_millis(200);
    })
    .await;
    let mut wire = Wire::connect(server.addr).await;
    let headers = [JSON, ("transfer-encoding", "chunked")];
    wire.send_head("POST", "/v1/events", &headers, None).await;
    for _ in 0..6 {
        wire.send_chunk(b" ").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = wire.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (408, "body_timeout")
    );

    let mut wire = Wire::connect(server.addr).await;
    let headers = [LINES, ("transfer-encoding", "chunked")];
    wire.send_head("POST", "/v1/events", &headers, None).await;
    wire.head().await;
    let line = b"{\"Topic\":\"Job\",\"Type\":\"A\"}\n{";
    // Between lines, and with another beginning each time, it may take as long as it likes.
    for index in 1..4 {
        wire.send_chunk(&line[..line.len() - 1]).await;
        tokio::time::sleep(Duration::from_millis(120)).await;
        assert_eq!(wire.lines(1).await, [format!("{{\"Index\":{index}}}")]);
    }
    wire.send_chunk(line).await;
    assert_eq!(wire.lines(1).await, ["{\"Index\":4}"]);
    let refused = wire.lines(1).await.remove(0);
    assert!(refused.contains("body_timeout"), "{refused}");
    assert_eq!(wire.chunk().await, None);
}

#[tokio::test]
async fn g9_bodies_that_arrive_have_a_bound_together() {
    let server = Server::with(|config| config.publish.buffered_bytes = 1_000).await;
    let mut half = Wire::connect(server.addr).await;
    half.send_head("POST", "/v1/events", &[JSON], Some(2_000))
        .await;
    half.send(&[b' '; 900]).await;
    eventually("it has come", async || {
        metric(&server, "tidings_http_buffered_bytes").await == 900
    })
    .await;
    let event = format!("{{\"Topic\":\"Job\",\"Type\":\"A\"}}{}", " ".repeat(200));
    let answer = server.post(&event).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    let answers = post_lines(&server, &event).await;
    assert_eq!(answers[0]["Error"]["Code"], "overloaded");
    drop(half);
    eventually("it is given back", async || {
        metric(&server, "tidings_http_buffered_bytes").await == 0
    })
    .await;
    assert_eq!(server.post(&event).await.status, 200);
}

#[tokio::test]
async fn lines_are_answered_in_order_and_errors_do_not_end_them() {
    let server = Server::start().await;
    let answers = post_lines(
        &server,
        concat!(
            "{\"Topic\":\"Job\",\"Type\":\"A\",\"Id\":\"x\"}\n",
            "{\"Events\":[{\"Topic\":\"Job\",\"Type\":\"A\"},{\"Topic\":\"Job\",\"Type\":\"B\"}]}\r\n",
            "\n",
            "not json\n",
            "{\"Topic\":\"Job\",\"Type\":\"A\",\"Id\":\"x\"}\n",
            "{\"Topic\":\"Job\"}\n",
            "{\"Topic\":\"Job\",\"Type\":\"last, without a newline\"}",
        ),
    )
    .await;
    assert_eq!(answers.len(), 6);
    assert_eq!(answers[0], json!({"Index": 1}));
    assert_eq!(answers[1], json!({"Index": 2}));
    assert_eq!(answers[2]["Error"]["Code"], "malformed_json");
    assert_eq!(answers[3], json!({"Index": 1, "Duplicate": true}));
    assert_eq!(answers[4]["Error"]["Code"], "field_missing");
    assert_eq!(answers[5], json!({"Index": 3}));
    assert_eq!(
        metric(&server, "tidings_published_transactions_total").await,
        3
    );
    assert_eq!(metric(&server, "tidings_publish_refused_total").await, 2);
}

#[tokio::test]
async fn answers_stream_back_while_lines_arrive() {
    let server = Server::start().await;
    let mut wire = Wire::connect(server.addr).await;
    let headers = [LINES, ("transfer-encoding", "chunked")];
    wire.send_head("POST", "/v1/events", &headers, None).await;
    // The answer begins before anything was sent.
    assert_eq!(wire.head().await.status, 200);
    for index in 1..=3 {
        // A line in two pieces, and the beginning of the next one with it.
        wire.send_chunk(b"{\"Topic\":\"Job\",").await;
        wire.send_chunk(b"\"Type\":\"A\"}\n").await;
        let answer = wire.lines(1).await.remove(0);
        assert_eq!(answer, format!("{{\"Index\":{index}}}"));
    }
    wire.send(b"0\r\n\r\n").await;
    assert_eq!(wire.chunk().await, None);
}

#[tokio::test]
async fn many_lines_go_in_few_groups() {
    let server = Server::start().await;
    let line = "{\"Topic\":\"Job\",\"Type\":\"A\",\"Payload\":{\"n\":12345}}\n";
    let answers = post_lines(&server, &line.repeat(20_000)).await;
    assert_eq!(answers.len(), 20_000);
    for (at, answer) in answers.iter().enumerate() {
        assert_eq!(answer["Index"], at as u64 + 1);
    }
    assert!(
        server.timeline.groups() < 500,
        "{}",
        server.timeline.groups()
    );
}

#[tokio::test]
async fn a_stream_is_not_read_beyond_what_may_wait() {
    let server = Server::with(|config| {
        config.publish.groups_in_flight = 2;
        config.publish.group_bytes = 1;
    })
    .await;
    server.timeline.close_gate();
    let mut wire = Wire::connect(server.addr).await;
    let headers = [LINES, ("transfer-encoding", "chunked")];
    wire.send_head("POST", "/v1/events", &headers, None).await;
    wire.head().await;
    for sent in 1..=4 {
        wire.send_chunk(b"{\"Topic\":\"Job\",\"Type\":\"A\"}\n")
            .await;
        let taken = sent.min(2);
        eventually("the line is taken", async || {
            server.timeline.groups() == taken
        })
        .await;
    }
    assert_eq!(server.timeline.groups(), 2);
    server.timeline.open_gate();
    let answers = wire.lines(4).await;
    assert_eq!(
        answers,
        [
            "{\"Index\":1}",
            "{\"Index\":2}",
            "{\"Index\":3}",
            "{\"Index\":4}"
        ]
    );
}

#[tokio::test]
async fn a_line_that_is_too_long_ends_the_stream() {
    let server = Server::with(|config| config.publish.line_bytes = 200).await;
    let good = "{\"Topic\":\"Job\",\"Type\":\"A\"}\n";
    let long = format!("{{\"Topic\":\"Job\",\"Type\":\"{}\"}}\n", "x".repeat(300));
    let answers = post_lines(&server, &format!("{good}{long}{good}")).await;
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0], json!({"Index": 1}));
    assert_eq!(answers[1]["Error"]["Code"], "line_too_long");
    // The same for one that never ends.
    let answers = post_lines(&server, &long.trim_end().replace('}', "")).await;
    assert_eq!(answers[0]["Error"]["Code"], "line_too_long");
    assert_eq!(server.timeline.newest().get(), 1);
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_is_told_to_go_on() {
    let server = Server::start().await;
    let mut wire = Wire::connect(server.addr).await;
    let headers = [
        LINES,
        ("transfer-encoding", "chunked"),
        ("expect", "100-continue"),
    ];
    wire.send_head("POST", "/v1/events", &headers, None).await;
    assert_eq!(wire.head().await.status, 100);
    wire.send_chunk(b"{\"Topic\":\"Job\",\"Type\":\"A\"}\n")
        .await;
    assert_eq!(wire.head().await.status, 200);
    assert_eq!(wire.lines(1).await, ["{\"Index\":1}"]);
}

#[tokio::test]
async fn overload_is_waited_out_by_streams_and_told_to_requests() {
    let server = Server::start().await;
    let event = "{\"Topic\":\"Job\",\"Type\":\"A\"}";
    server.timeline.overload(1);
    let answer = server.post(event).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    server.timeline.overload(3);
    assert_eq!(post_lines(&server, event).await, [json!({"Index": 1})]);
    assert_eq!(metric(&server, "tidings_publish_overloaded_total").await, 1);

    let server = Server::with(|config| config.publish.overload_wait = Duration::ZERO).await;
    server.timeline.overload(1);
    let answers = post_lines(&server, &format!("{event}\nbad\n{event}\n")).await;
    let codes: Vec<_> = answers
        .iter()
        .map(|answer| &answer["Error"]["Code"])
        .collect();
    assert_eq!(codes, ["overloaded", "malformed_json", "overloaded"]);
}

#[tokio::test]
async fn failures_of_the_timeline_have_their_status() {
    let server = Server::start().await;
    type Case = (fn() -> ProposeFailure, u16, &'static str, bool);
    let cases: [Case; 5] = [
        (
            || ProposeFailure::DiskFull {
                free: 1,
                reserve: 2,
            },
            507,
            "disk_full",
            true,
        ),
        (
            || ProposeFailure::TooLarge { bytes: 2, limit: 1 },
            413,
            "transaction_too_large",
            false,
        ),
        (|| ProposeFailure::NoLeader, 503, "no_leader", true),
        (|| ProposeFailure::Stopped, 503, "stopping", true),
        (|| ProposeFailure::Unknown, 503, "outcome_unknown", true),
    ];
    for (failure, status, code, retry) in cases {
        server.timeline.fail(Some(failure));
        let event = "{\"Topic\":\"Job\",\"Type\":\"A\"}";
        let check = |answer: Answer| {
            assert_eq!((answer.status, answer.code().as_str()), (status, code));
            assert_eq!(answer.header("retry-after").is_some(), retry, "{code}");
        };
        check(server.post(event).await);
        check(
            server
                .request("PUT", "/v1/state/Volume/a", &[], b"{}")
                .await,
        );
        assert_eq!(post_lines(&server, event).await[0]["Error"]["Code"], code);
    }
}

#[tokio::test]
async fn cloudevents_are_taken_one_by_one_and_in_batches() {
    let server = Server::start().await;
    let event = |id: u32| json!({"specversion": "1.0", "id": id.to_string(), "source": "/here", "type": "a.b", "subject": "s", "data": {"n": id}});
    let single = (
        "content-type",
        "application/cloudevents+json; charset=UTF-8",
    );
    let body = event(1).to_string();
    let answer = server
        .request("POST", "/v1/events", &[single], body.as_bytes())
        .await;
    assert_eq!((answer.status, answer.json()), (200, json!({"Index": 1})));
    let answer = server
        .request("POST", "/v1/events", &[single], body.as_bytes())
        .await;
    assert_eq!(answer.json(), json!({"Index": 1, "Duplicate": true}));
    let batch = ("content-type", "application/cloudevents-batch+json");
    let body = json!([event(2), event(3)]).to_string();
    let answer = server
        .request("POST", "/v1/events", &[batch], body.as_bytes())
        .await;
    assert_eq!(answer.json(), json!({"Index": 2}));
    let wrong = server
        .request("POST", "/v1/events", &[single], br#"{"specversion":"0.3"}"#)
        .await;
    assert_eq!(
        (wrong.status, wrong.code().as_str()),
        (400, "cloudevent_version")
    );

    let mut wire = server.follow("/v1/event/stream?index=1", &[]).await;
    let frames = wire.frames(2).await;
    assert_eq!(frames[0]["Events"][0]["Type"], "a.b");
    assert_eq!(frames[0]["Events"][0]["Key"], "s");
    assert_eq!(frames[1]["Events"].as_array().unwrap().len(), 2);
}
