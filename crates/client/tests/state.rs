//! Entries, health and status.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod scripted;

use std::time::Duration;

use scripted::{Exchange, ScriptedAgent, answers, json, scene, soon};
use serde_json::value::RawValue;
use tidings_client::{ClientConfig, ListRequest, PutOptions};
use tidings_event::Index;

fn entry(key: &str) -> String {
    format!(
        r#"{{"Topic":"Job","Namespace":"ops","Key":"{key}","CreateIndex":1,"ModifyIndex":2,"Time":"2026-11-22T07:45:47.123456Z","Payload":{{"n":1.0}}}}"#
    )
}

fn in_ops() -> ClientConfig {
    ClientConfig {
        namespace: Some("ops".to_owned()),
        ..ClientConfig::default()
    }
}

#[tokio::test]
async fn one_entry_at_a_time() {
    let mismatch = r#"{"Error":{"Code":"cas_mismatch","Message":"it is at 5"}}"#;
    let absent = r#"{"Error":{"Code":"no_entry","Message":"no such entry"}}"#;
    let agent = ScriptedAgent::start_with(
        in_ops(),
        vec![
            answers(json("200 OK", "", &entry("a/b"))),
            answers(json("404 Not Found", "", absent)),
            answers(json("200 OK", "", r#"{"Index":9}"#)),
            answers(json("409 Conflict", "", mismatch)),
            answers(json("200 OK", "", r#"{"Index":10}"#)),
            answers(json("404 Not Found", "", absent)),
            answers(json("404 Not Found", "", "nothing here")),
        ],
    )
    .await;
    let client = &agent.client;
    let found = client.state_get("Job", "a/b", None).await.unwrap().unwrap();
    assert_eq!(found.modify_index, Index(2));
    assert_eq!(found.payload.get(), r#"{"n":1.0}"#);
    assert!(
        client
            .state_get("Job", "c", Some("x"))
            .await
            .unwrap()
            .is_none()
    );

    let payload = RawValue::from_string("{\"n\":1.00}".to_owned()).unwrap();
    let plain = PutOptions::default();
    let put = client.state_put("Job", "a", &payload, &plain);
    assert_eq!(put.await.unwrap(), Index(9));
    let options = PutOptions {
        compare_and_set: Some(Index(0)),
        event_type: Some("JobSeen".to_owned()),
        ..PutOptions::default()
    };
    let put = client.state_put("Job", "a", &payload, &options);
    assert_eq!(put.await.unwrap_err().code(), Some("cas_mismatch"));

    let deleted = client.state_delete("Job", "a", &plain).await.unwrap();
    assert_eq!(deleted, Some(Index(10)));
    assert_eq!(client.state_delete("Job", "a", &plain).await.unwrap(), None);
    // Something that is no agent knows no entries.
    let elsewhere = client.state_get("Job", "a", None).await.unwrap_err();
    assert_eq!(elsewhere.code(), Some("http_404"));

    assert_eq!(
        agent.requests(),
        [
            "GET /v1/state/Job/a%2Fb?namespace=ops",
            "GET /v1/state/Job/c?namespace=x",
            "PUT /v1/state/Job/a?namespace=ops",
            "PUT /v1/state/Job/a?namespace=ops&cas=0&type=JobSeen",
            "DELETE /v1/state/Job/a?namespace=ops",
            "DELETE /v1/state/Job/a?namespace=ops",
            "GET /v1/state/Job/a?namespace=ops",
        ]
    );
    assert_eq!(agent.bodies()[2], "{\"n\":1.00}");
}

#[tokio::test]
async fn pages_follow_each_other() {
    let page = |keys: &[&str]| {
        let entries: Vec<_> = keys.iter().map(|key| entry(key)).collect();
        format!("[{}]", entries.join(","))
    };
    let next = "X-Nomad-Index: 5\r\nX-Nomad-NextToken: b\r\n";
    let agent = ScriptedAgent::start(vec![
        answers(json("200 OK", next, &page(&["a"]))),
        answers(json("200 OK", "X-Nomad-Index: 5\r\n", &page(&["b", "c"]))),
    ])
    .await;
    let request = ListRequest {
        prefix: Some("p".to_owned()),
        per_page: Some(1),
        ..ListRequest::default()
    };
    let mut pages = agent.client.state_list("Job", request);
    let mut keys = Vec::new();
    while let Some(page) = soon(pages.next()).await {
        let page = page.unwrap();
        assert_eq!(page.index, Index(5));
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
    }
    assert_eq!(keys, ["a", "b", "c"]);
    assert_eq!(
        agent.requests(),
        [
            "GET /v1/state/Job?prefix=p&per_page=1",
            "GET /v1/state/Job?prefix=p&per_page=1&next_token=b",
        ]
    );
}

#[tokio::test]
async fn a_watch_tells_of_changes_and_outlives_the_agent() {
    let list = |index: u64, key: &str| {
        let body = format!("[{}]", entry(key));
        answers(json(
            "200 OK",
            &format!("X-Nomad-Index: {index}\r\n"),
            &body,
        ))
    };
    let agent = ScriptedAgent::start(vec![
        list(5, "a"),
        list(5, "a"),
        scene(|_: Exchange| async {}),
        list(8, "b"),
    ])
    .await;
    let mut watch = agent.client.state_watch("Job", ListRequest::default());
    let first = soon(watch.next()).await.unwrap();
    assert_eq!(
        (first.index, first.entries[0].key.as_str()),
        (Index(5), "a")
    );
    let second = soon(watch.next()).await.unwrap();
    assert_eq!(
        (second.index, second.entries[0].key.as_str()),
        (Index(8), "b")
    );
    assert_eq!(agent.requests()[0], "GET /v1/state/Job");
    assert_eq!(
        agent.requests()[3],
        "GET /v1/state/Job?index=5&wait=60000ms"
    );
}

#[tokio::test]
async fn health_and_status() {
    let starting = r#"{"Error":{"Code":"not_ready","Message":"still replaying"}}"#;
    let agent = ScriptedAgent::start(vec![
        answers(json("200 OK", "", "{}")),
        answers(json("503 Service Unavailable", "", starting)),
        answers(json("200 OK", "", r#"{"Node":"n1","Newest":7}"#)),
        answers(json("200 OK", "", "not json")),
    ])
    .await;
    assert!(agent.client.health().await.unwrap().is_ready());
    let health = agent.client.health().await.unwrap();
    assert_eq!(health.not_ready.as_deref(), Some("still replaying"));
    let status = agent.client.status().await.unwrap();
    assert_eq!(
        status.get("/Node").and_then(|node| node.as_str()),
        Some("n1")
    );
    let error = agent.client.status().await.unwrap_err();
    assert!(error.to_string().contains("is not understood"), "{error}");
}

#[tokio::test]
async fn an_agent_that_says_nothing_is_not_waited_for_for_ever() {
    let config = ClientConfig {
        request_timeout: Duration::from_millis(50),
        ..ClientConfig::default()
    };
    let silent = scene(|mut exchange: Exchange| async move { exchange.hang().await });
    let agent = ScriptedAgent::start_with(config, vec![silent]).await;
    let error = agent.client.status().await.unwrap_err();
    assert!(error.to_string().contains("no complete answer"), "{error}");
}
