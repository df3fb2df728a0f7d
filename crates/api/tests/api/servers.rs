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
