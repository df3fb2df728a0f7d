use std::time::Duration;

use serde_json::json;
use tidings_api::ServerChange;

use crate::support::{Server, metric};

#[tokio::test]
async fn the_servers_are_told_of() {
    let server = Server::start().await;
    let answer = server.get("/v1/servers").await.json();
    assert_eq!(answer["Leader"], "n1");
    assert_eq!(
        answer["Servers"],
        json!([
            {"Id": "18446744073709551615", "Name": "n1", "Peer": "h:7481", "Http": "h:7480",
             "Role": "voter", "Leader": true, "LastContactMs": null, "Matched": null,
             "ClockAheadMs": null},
            {"Id": "2", "Name": "n2", "Peer": "", "Http": "",
             "Role": "standby", "Leader": false, "LastContactMs": 7, "Matched": 4, "ClockAheadMs": -1500},
        ])
    );
    let status = server.get("/v1/status").await.json();
    assert_eq!(status["Servers"], answer["Servers"]);
    assert_eq!(status["LastContactMs"], 0);

    assert_eq!(metric(&server, "tidings_leader").await, 1);
    assert_eq!(metric(&server, "tidings_servers{role=\"voter\"}").await, 1);
    let skew = "tidings_server_clock_skew_milliseconds{server=\"n2\"}";
    assert_eq!(metric(&server, skew).await, 1500);
    let lag = "tidings_server_lag_entries{server=\"n2\"}";
    assert_eq!(metric(&server, lag).await, 2);
    server.timeline.set_silence(None);
    assert_eq!(metric(&server, "tidings_leader_known").await, 0);
    assert_eq!(
        server.get("/v1/servers").await.json()["Leader"],
        json!(null)
    );
}

#[tokio::test]
async fn servers_are_changed_or_it_is_said_why_not() {
    let server = Server::start().await;
    let long = format!("/v1/servers/{}", "n".repeat(300));
    for (method, target, status, code) in [
        ("DELETE", "/v1/servers/n2", 200, ""),
        ("DELETE", "/v1/servers/n3", 409, "servers_refused"),
        ("POST", "/v1/servers/n2/promote", 503, "change_unfinished"),
        ("POST", "/v1/servers/transfer-leader", 200, ""),
        ("POST", "/v1/servers/transfer-leader?to=n2", 200, ""),
        (
            "POST",
            "/v1/servers/transfer-leader?to=n4",
            409,
            "servers_refused",
        ),
        ("DELETE", long.as_str(), 400, "server_invalid"),
        ("GET", "/v1/servers/n2", 405, "method_not_allowed"),
    ] {
        let answer = server.request(method, target, &[], b"").await;
        assert_eq!(
            answer.status,
            status,
            "{method} {target}: {}",
            answer.text()
        );
        if status != 200 {
            assert_eq!(answer.code(), code, "{method} {target}");
        }
    }
    let changes = server.timeline.changes();
    assert_eq!(changes[0], ServerChange::Remove("n2".to_owned()));
    assert_eq!(changes[3], ServerChange::TransferLeader(None));
    assert_eq!(
        changes[4],
        ServerChange::TransferLeader(Some("n2".to_owned()))
    );
    assert_eq!(changes.len(), 6);
    server.timeline.set_silence(None);
    let answer = server.request("DELETE", "/v1/servers/n2", &[], b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "no_leader"));
    assert!(answer.header("retry-after").is_some());
    // a page of another site must not
    let origin = [("origin", "http://elsewhere.example")];
    let answer = server
        .request("DELETE", "/v1/servers/n2", &origin, b"")
        .await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn reads_say_how_fresh_they_must_be_and_are() {
    let server = Server::start().await;
    server
        .request("PUT", "/v1/state/Volume/a", &[], b"{}")
        .await;
    server.timeline.set_silence(Some(Duration::from_millis(40)));
    for target in ["/v1/state/Volume/a", "/v1/state/Volume"] {
        let answer = server.get(target).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-nomad-lastcontact"), Some("40"));
        assert_eq!(answer.header("x-nomad-knownleader"), Some("true"));
    }
    assert_eq!(server.timeline.barriers(), 0);
    for query in [
        "consistent",
        "consistent=true",
        "consistent=true&stale=false",
    ] {
        let answer = server.get(&format!("/v1/state/Volume/a?{query}")).await;
        assert_eq!(answer.status, 200, "{query}");
    }
    assert_eq!(server.timeline.barriers(), 3);
    for (query, code) in [
        ("consistent&stale", "stale_and_consistent"),
        ("consistent=yes", "consistent_invalid"),
        ("stale=yes", "stale_invalid"),
    ] {
        for target in ["/v1/state/Volume/a", "/v1/state/Volume"] {
            let answer = server.get(&format!("{target}?{query}")).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, code));
        }
    }

    server.timeline.set_silence(None);
    for query in ["", "?stale=false", "?consistent"] {
        let answer = server.get(&format!("/v1/state/Volume/a{query}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "no_leader"));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let answer = server.get("/v1/state/Volume/a?stale").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-nomad-knownleader"), Some("false"));
    let silence: u64 = answer
        .header("x-nomad-lastcontact")
        .unwrap()
        .parse()
        .unwrap();
    assert!(silence < 60_000, "since the start: {silence}");
}

/// Every route that tells of servers, changes or compares them, or hands out what they hold.
const OF_SERVERS: [(&str, &str); 7] = [
    ("GET", "/v1/servers"),
    ("POST", "/v1/servers/n2/promote"),
    ("DELETE", "/v1/servers/n2"),
    ("POST", "/v1/servers/transfer-leader"),
    ("GET", "/v1/history/digests"),
    ("GET", "/v1/snapshot"),
    ("POST", "/v1/snapshot"),
];

#[tokio::test]
async fn without_the_token_servers_are_neither_told_of_nor_changed_nor_compared_nor_saved() {
    let with_token = |config: &mut tidings_api::ApiConfig| {
        config.http.token = tidings_api::Token::new("secret");
    };
    let server = Server::with(with_token).await;
    let wrong: [&[(&str, &str)]; 4] = [
        &[],
        &[("x-nomad-token", "secre")],
        &[("authorization", "Bearer secrets")],
        &[("authorization", "Basic secret")],
    ];
    for (method, target) in OF_SERVERS {
        for headers in wrong {
            let answer = server.request(method, target, headers, b"tdgarch1").await;
            assert_eq!(answer.status, 403, "{method} {target} {headers:?}");
            assert_eq!(answer.code(), "permission_denied", "{method} {target}");
        }
        // the same is let through to be done or refused for what it is
        let token = [("authorization", "Bearer secret")];
        let answer = server.request(method, target, &token, b"").await;
        assert_ne!(answer.status, 403, "{method} {target}");
    }
    assert_eq!(server.timeline.changes().len(), 3, "with the token alone");
}

/// Without a token nothing protects a server but the name that it is asked under, and what a browser
/// says of the page that asks.
#[tokio::test]
async fn without_any_token_pages_of_others_change_save_and_restore_nothing() {
    let server = Server::start().await;
    for (method, target) in OF_SERVERS {
        let mut wire = crate::support::Wire::connect(server.addr).await;
        let head = format!("{method} {target} HTTP/1.1\r\nHost: evil.example\r\n\r\n");
        wire.send(head.as_bytes()).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 403, "{method} {target}");
        assert_eq!(answer.code(), "host_unknown", "{method} {target}");
        if method != "GET" {
            let origin = [("origin", "http://elsewhere.example")];
            let answer = server.request(method, target, &origin, b"").await;
            assert_eq!(answer.status, 403, "{method} {target}");
        }
    }
    assert_eq!(server.timeline.changes().len(), 0);
}
