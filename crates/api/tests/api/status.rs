use serde_json::json;

use crate::support::{Server, metric};

#[tokio::test]
async fn the_status_tells_how_things_are() {
    let server = Server::start().await;
    server.timeline.publish_many("Job", 3);
    let mut stream = server.follow("/v1/event/stream", &[]).await;
    stream.indexes(3).await;
    let answer = server.get("/v1/status").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let status = answer.json();
    assert_eq!(
        (&status["Node"], &status["Role"], &status["Ready"]),
        (&json!("n1"), &json!("leader"), &json!(true))
    );
    assert_eq!(status["Timeline"]["Oldest"], 1);
    assert_eq!(status["Timeline"]["Newest"], 3);
    assert_eq!(status["Http"]["Streams"], 1);
    assert_eq!(status["Http"]["Connections"], 2);
    assert!(status["Settings"]["segment_bytes"].is_number());
    assert!(status["Version"].is_string());
}

#[tokio::test]
async fn snapshots_count_among_the_bytes_of_streams() {
    let server = Server::start().await;
    for key in ["a", "b"] {
        let target = format!("/v1/state/Volume/{key}");
        server.request("PUT", &target, &[], b"{}").await;
    }
    let before = metric(&server, "tidings_stream_bytes_total").await;
    let mut wire = server.follow("/v1/event/stream?from=snapshot", &[]).await;
    let frames = wire.frames(3).await;
    assert_eq!(frames[2]["Marker"], "SnapshotEnd");
    assert!(metric(&server, "tidings_stream_bytes_total").await > before + 200);
}

#[tokio::test]
async fn health_is_open_and_says_why_not() {
    let server = Server::start().await;
    assert_eq!(
        server.get("/v1/health/live").await.json(),
        json!({"Live": true})
    );
    assert_eq!(
        server.get("/v1/health/ready").await.json(),
        json!({"Ready": true})
    );
    server.timeline.set_not_ready(Some("the disk is full"));
    assert_eq!(server.get("/v1/health/live").await.status, 200);
    let answer = server.get("/v1/health/ready").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "not_ready"));
    assert_eq!(answer.message(), "the disk is full");
    assert_eq!(
        server.get("/v1/status").await.json()["NotReady"],
        "the disk is full"
    );
}

#[tokio::test]
async fn metrics_are_in_the_form_of_prometheus() {
    let server = Server::start().await;
    server.post(r#"{"Topic":"Job","Type":"A"}"#).await;
    server.get("/nowhere").await;
    let answer = server.get("/v1/metrics").await;
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let text = answer.text();
    for line in [
        "tidings_published_transactions_total 1",
        "tidings_publish_seconds_count 1",
        "tidings_http_errors_total{class=\"4xx\"} 1",
        "tidings_timeline_newest_index 1",
        "tidings_ready 1",
        "tidings_streams{kind=\"lines\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    let mut families: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("# TYPE"))
        .collect();
    let count = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), count, "a family is told of once");
}

#[tokio::test]
async fn the_description_bears_the_version_that_runs() {
    let server = Server::with(|config| config.version = String::from("9.9.9")).await;
    let description = server.get("/v1/openapi.json").await.json();
    assert_eq!(description["info"]["version"], "9.9.9");
    assert_eq!(description["openapi"], "3.1.0");
}
