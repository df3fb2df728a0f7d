use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Answer, Server, Wire, eventually, metric};

async fn put(server: &Server, target: &str, body: &str) -> Answer {
    server.request("PUT", target, &[], body.as_bytes()).await
}

fn keys(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let entries = answer.json();
    let entries = entries.as_array().unwrap();
    entries
        .iter()
        .map(|entry| entry["Key"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn entries_are_written_read_and_deleted_and_events_tell() {
    let server = Server::start().await;
    let answer = put(&server, "/v1/state/Volume/a/b%20c", r#"{ "size": 1.0 }"#).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"Index": 1})));
    put(
        &server,
        "/v1/state/Volume/a/b%20c?type=Grown",
        r#"{"size":2}"#,
    )
    .await;
    let answer = server.get("/v1/state/Volume/a/b%20c").await;
    assert_eq!(answer.status, 200);
    let mut entry = answer.json();
    assert!(entry["Time"].as_str().unwrap().ends_with('Z'));
    entry.as_object_mut().unwrap().remove("Time");
    assert_eq!(
        entry,
        json!({"Topic": "Volume", "Namespace": "default", "Key": "a/b c", "CreateIndex": 1, "ModifyIndex": 2, "Payload": {"size": 2}})
    );
    for (name, value) in [
        ("x-nomad-index", "2"),
        ("x-tidings-index", "2"),
        ("x-nomad-knownleader", "true"),
        ("x-nomad-lastcontact", "0"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let elsewhere = server.get("/v1/state/Volume/a/b%20c?namespace=other").await;
    assert_eq!(
        (elsewhere.status, elsewhere.code().as_str()),
        (404, "no_entry")
    );
    let answer = server
        .request("DELETE", "/v1/state/Volume/a/b%20c", &[], b"")
        .await;
    assert_eq!((answer.status, answer.json()), (200, json!({"Index": 3})));
    let answer = server
        .request("DELETE", "/v1/state/Volume/a/b%20c", &[], b"")
        .await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "no_entry"));
    let answer = server.get("/v1/state/Volume/a/b%20c").await;
    assert_eq!(
        (answer.status, answer.header("x-nomad-index")),
        (404, Some("3"))
    );

    let mut wire = server
        .follow("/v1/event/stream?topic=Volume:a/b%20c", &[])
        .await;
    let types: Vec<Value> = wire
        .frames(3)
        .await
        .iter()
        .map(|frame| frame["Events"][0]["Type"].clone())
        .collect();
    assert_eq!(types, ["EntryPut", "Grown", "EntryDeleted"]);
    assert_eq!(metric(&server, "tidings_state_changes_total").await, 3);
}

#[tokio::test]
async fn changes_can_depend_on_what_is_there() {
    let server = Server::start().await;
    let target = "/v1/state/Volume/a";
    assert_eq!(
        put(&server, &format!("{target}?cas=0"), "{}").await.status,
        200
    );
    let answer = put(&server, &format!("{target}?cas=0"), "{}").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (409, "cas_mismatch")
    );
    assert_eq!(answer.json()["Error"]["ModifyIndex"], 1);
    assert_eq!(
        put(&server, &format!("{target}?cas=1"), "{}").await.json()["Index"],
        2
    );
    assert_eq!(
        put(&server, &format!("{target}?cas=1"), "{}").await.status,
        409
    );
    let answer = server
        .request("DELETE", &format!("{target}?cas=1"), &[], b"")
        .await;
    assert_eq!(answer.status, 409);
    let answer = server
        .request("DELETE", &format!("{target}?cas=2"), &[], b"")
        .await;
    assert_eq!(answer.json()["Index"], 3);
    let answer = put(&server, &format!("{target}?cas=x"), "{}").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "cas_invalid")
    );
}

#[tokio::test]
async fn payloads_and_names_are_checked() {
    let server = Server::start().await;
    for (target, body, status, code) in [
        ("/v1/state/Volume/a", "", 400, "malformed_json"),
        ("/v1/state/Volume/a", "[1]", 400, "payload_kind"),
        ("/v1/state/Volume/a", "null", 400, "payload_kind"),
        ("/v1/state/Volume/a", "{} {}", 400, "malformed_json"),
        ("/v1/state/a%3Ab/a", "{}", 400, "field_text"),
        ("/v1/state/Volume/a?namespace=*", "{}", 400, "field_text"),
    ] {
        let answer = put(&server, target, body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{target} {body}"
        );
    }
    assert_eq!(
        server.get("/v1/state/Volume/a?namespace=*").await.code(),
        "namespace_invalid"
    );
}

#[tokio::test]
async fn lists_are_chosen_from_and_paged() {
    let server = Server::start().await;
    for (namespace, key, size) in [
        ("default", "b1", 1),
        ("default", "a1", 2),
        ("default", "a2", 3),
        ("other", "a3", 4),
    ] {
        let target = format!("/v1/state/Volume/{key}?namespace={namespace}");
        put(&server, &target, &format!("{{\"size\":{size}}}")).await;
    }
    put(&server, "/v1/state/Other/x", "{}").await;
    for (query, expected) in [
        ("", vec!["a1", "a2", "b1"]),
        ("?namespace=*", vec!["a1", "a2", "b1", "a3"]),
        ("?namespace=other", vec!["a3"]),
        ("?prefix=a", vec!["a1", "a2"]),
        ("?namespace=*&prefix=a", vec!["a1", "a2", "a3"]),
        ("?filter=Payload.size+%3E+1", vec!["a1", "a2"]),
        ("?filter=Key+%3D%3D+%22b1%22", vec!["b1"]),
    ] {
        let answer = server.get(&format!("/v1/state/Volume{query}")).await;
        assert_eq!(keys(&answer), expected, "{query}");
        assert_eq!(answer.header("x-nomad-nexttoken"), None);
    }
    assert_eq!(server.get("/v1/state/Nothing").await.json(), json!([]));

    let mut found = Vec::new();
    let mut next = String::new();
    for _ in 0..4 {
        let target = format!("/v1/state/Volume?namespace=*&per_page=1{next}");
        let answer = server.get(&target).await;
        found.extend(keys(&answer));
        match answer.header("x-nomad-nexttoken") {
            Some(token) => next = format!("&next_token={token}"),
            None => next.clear(),
        }
    }
    assert_eq!(found, ["a1", "a2", "b1", "a3"]);
    assert_eq!(next, "");
}

#[tokio::test]
async fn a_list_that_asks_for_no_pages_is_cut_at_the_limit() {
    let server = Server::with(|config| config.state.page_entries_max = 2).await;
    for key in ["a", "b", "c"] {
        put(&server, &format!("/v1/state/Volume/{key}"), "{}").await;
    }
    for query in ["", "?per_page=100"] {
        let answer = server.get(&format!("/v1/state/Volume{query}")).await;
        assert_eq!(keys(&answer), ["a", "b"]);
        assert!(answer.header("x-nomad-nexttoken").is_some());
    }
}

#[tokio::test]
async fn errors_are_the_sentences_of_nomad() {
    let server = Server::start().await;
    for (query, message) in [
        ("index=x", "Invalid index"),
        ("index=-1", "Invalid index"),
        ("wait=5", "Invalid wait time"),
        (
            "stale=perhaps",
            "Expect `true` or `false` for `stale` query string parameter",
        ),
        (
            "per_page=x",
            "Expect a number for `per_page` query string parameter",
        ),
    ] {
        let answer = server.get(&format!("/v1/state/Volume?{query}")).await;
        assert_eq!(
            (answer.status, answer.message().as_str()),
            (400, message),
            "{query}"
        );
    }
    for (query, code) in [
        ("filter=1+%2B", "filter_invalid"),
        ("next_token=x", "next_token_invalid"),
    ] {
        let answer = server.get(&format!("/v1/state/Volume?{query}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, code));
    }
    for query in ["stale", "stale=true", "stale=false", "wait=1000ms"] {
        assert_eq!(
            server
                .get(&format!("/v1/state/Volume?{query}"))
                .await
                .status,
            200
        );
    }
}

#[tokio::test]
async fn a_blocking_query_wakes_for_its_topic_only() {
    let server = Server::start().await;
    // Nothing was ever changed: the index is 1 nevertheless, so that one can wait for it.
    assert_eq!(
        server.get("/v1/state/Volume").await.header("x-nomad-index"),
        Some("1")
    );
    put(&server, "/v1/state/Volume/a", "{}").await;
    put(&server, "/v1/state/Volume/b", "{}").await;
    let changes = async {
        while metric(&server, "tidings_blocking_queries").await < 2 {}
        put(&server, "/v1/state/Other/x", "{}").await;
        server.timeline.publish_many("Volume", 1);
        put(&server, "/v1/state/Volume/a", "{\"v\":2}").await;
        assert_eq!(metric(&server, "tidings_blocking_queries").await, 1);
        put(&server, "/v1/state/Volume/b", "{\"v\":2}").await;
    };
    let (list, entry, ()) = tokio::join!(
        server.get("/v1/state/Volume?index=2&wait=10s"),
        server.get("/v1/state/Volume/b?index=2&wait=10s"),
        async {
            // Asked for without waiting, an unchanged entry is answered at once.
            assert_eq!(server.get("/v1/state/Volume/a?index=0").await.status, 200);
            changes.await;
        },
    );
    assert_eq!(list.header("x-nomad-index"), Some("5"));
    assert_eq!(list.json()[0]["Payload"], json!({"v": 2}));
    assert_eq!(
        (entry.header("x-nomad-index"), &entry.json()["ModifyIndex"]),
        (Some("6"), &6.into())
    );
    // Behind already: answered at once.
    assert_eq!(
        server
            .get("/v1/state/Volume?index=5&wait=10s")
            .await
            .header("x-nomad-index"),
        Some("6")
    );
}

#[tokio::test]
async fn a_condition_that_cannot_be_read_changes_nothing() {
    let server = Server::start().await;
    for cas in [
        "",
        "x",
        "-1",
        "18446744073709551615",
        "18446744073709551616",
    ] {
        let target = format!("/v1/state/Volume/a?cas={cas}");
        for method in ["PUT", "DELETE"] {
            let answer = server.request(method, &target, &[], b"{}").await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "cas_invalid"),
                "{method} {cas:?}"
            );
        }
    }
    assert_eq!(server.timeline.newest().get(), 0);
}

#[tokio::test]
async fn names_that_are_no_text_are_refused_in_json() {
    let server = Server::start().await;
    for (method, target) in [
        ("GET", "/v1/state/T/%FF"),
        ("PUT", "/v1/state/T/%FF"),
        ("GET", "/v1/state/%FF"),
    ] {
        let answer = server.request(method, target, &[], b"{}").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "path_invalid"),
            "{method} {target}"
        );
    }
}

#[tokio::test]
async fn the_first_change_of_all_wakes_who_was_told_index_1() {
    let server = Server::start().await;
    let empty = server.get("/v1/state/Volume").await;
    assert_eq!(empty.header("x-nomad-index"), Some("1"));
    let mut wire = Wire::connect(server.addr).await;
    wire.send_head("GET", "/v1/state/Volume?index=1&wait=100s", &[], None)
        .await;
    eventually("it waits", async || {
        metric(&server, "tidings_blocking_queries").await == 1
    })
    .await;
    put(&server, "/v1/state/Volume/a", "{}").await;
    let answer = wire.answer().await;
    assert_eq!(answer.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_blocking_query_ends_when_its_time_is_over() {
    let server = Server::start().await;
    put(&server, "/v1/state/Volume/a", "{}").await;
    let began = Instant::now();
    let answer = server.get("/v1/state/Volume?index=1&wait=50ms").await;
    assert_eq!(
        (answer.status, answer.header("x-nomad-index")),
        (200, Some("1"))
    );
    assert!(began.elapsed() >= Duration::from_millis(50));
}
