use std::sync::atomic::Ordering;

use serde_json::json;

use crate::support::Server;

#[tokio::test]
async fn digests_are_of_steps_and_tell_how_far_they_go() {
    let server = Server::start().await;
    server.timeline.found(7);
    server.timeline.publish_many("Job", 10);
    let whole = server.get("/v1/history/digests").await;
    assert!(whole.header("x-tidings-timeline").is_some());
    let whole = whole.json();
    assert_eq!(
        (&whole["From"], &whole["To"], &whole["Step"], &whole["Of"]),
        (&json!(1), &json!(10), &json!(10), &json!("checksums"))
    );
    assert_eq!(whole["Digests"].as_array().unwrap().len(), 1);
    assert_eq!(whole["Newest"], 10);

    let steps = server
        .get("/v1/history/digests?from=2&to=99&step=4&of=lines")
        .await
        .json();
    assert_eq!(steps["To"], 10);
    assert_eq!(steps["Digests"].as_array().unwrap().len(), 3);
    assert_eq!(steps["Damaged"], json!([]));
    let last = server
        .get("/v1/history/digests?from=10&of=lines")
        .await
        .json();
    assert_eq!(steps["Digests"][2], last["Digests"][0]);
    let beyond = server.get("/v1/history/digests?from=11").await.json();
    assert_eq!(
        (&beyond["To"], &beyond["Digests"]),
        (&json!(10), &json!([]))
    );
}

#[tokio::test]
async fn digests_that_cannot_be_given_are_refused() {
    let server = Server::start().await;
    server.timeline.publish_many("Job", 10);
    server.timeline.retain(4);
    for (query, status, code) in [
        ("from=0", 400, "index_invalid"),
        ("to=x", 400, "index_invalid"),
        ("step=0", 400, "step_invalid"),
        ("of=everything", 400, "of_invalid"),
        ("from=9&to=8", 400, "range_invalid"),
        ("from=3", 410, "index_gone"),
    ] {
        let answer = server.get(&format!("/v1/history/digests?{query}")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{query}"
        );
    }
}

/// G2: what is not what was written is named, and is no longer the same.
#[tokio::test]
async fn damaged_lines_are_named() {
    let server = Server::start().await;
    server.timeline.publish_many("Job", 2);
    let good = server.get("/v1/history/digests?of=lines").await.json();
    server
        .timeline
        .history()
        .damaged
        .store(true, Ordering::SeqCst);
    let bad = server.get("/v1/history/digests?of=lines").await.json();
    assert_ne!(good["Digests"], bad["Digests"]);
    let damaged: Vec<u64> = bad["Damaged"]
        .as_array()
        .unwrap()
        .iter()
        .map(|frame| frame["Index"].as_u64().unwrap())
        .collect();
    assert_eq!(damaged, [1, 2]);
}
