use std::time::Duration;

use tidings_event::Index;
use tidings_timeline::{RetentionSettings, Settings};
use tokio::time::timeout;

use crate::server::{Server, frames, publish_one};

/// Waits for what the upkeep is to bring about.
pub async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let wait = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_grown_log_is_replaced_by_a_snapshot() {
    let mut server = Server::new();
    server.config.disk.snapshot_log_bytes = 10_000;
    server.config.disk.log_entries_kept = 3;
    let replica = server.open().await;
    for n in 0..100 {
        publish_one(&replica, &n.to_string()).await;
    }
    until("snapshot", || replica.status().snapshot.is_some()).await;
    until("log cut", || {
        let status = replica.status();
        status.log_first.is_some_and(|first| first > 50)
    })
    .await;
    let status = replica.status();
    assert!(status.log_bytes_since_snapshot < 10_000, "{status:?}");
    assert!(
        status.log_last > status.log_first,
        "some entries stay: {status:?}"
    );
    replica.shutdown().await;
    let replica = server.open().await;
    assert_eq!(replica.state().index, Index(100));
    replica.shutdown().await;
}

#[tokio::test]
async fn old_frames_go_when_retention_allows() {
    let mut server = Server::new();
    let retention = RetentionSettings {
        age_s: 60,
        bytes: 0,
        frames: 0,
    };
    server.config.settings = Some(Settings {
        retention,
        ..Settings::default()
    });
    server.config.disk.retention_interval = Duration::from_millis(10);
    let replica = server.open().await;
    for n in 0..5 {
        publish_one(&replica, &format!("old{n}")).await;
    }
    server.pass_seconds(30);
    assert_eq!(publish_one(&replica, "middle").await, Index(6));
    assert_eq!(replica.state().oldest, Index(1));
    server.pass_seconds(31);
    until("sealed", || replica.status().history_segments == 2).await;
    assert_eq!(publish_one(&replica, "young").await, Index(7));
    assert_eq!(
        replica.state().oldest,
        Index(1),
        "the middle one is not old enough"
    );
    server.pass_seconds(30);
    until("dropped", || replica.state().oldest == Index(7)).await;
    until("gone", || replica.status().frames_oldest == Index(7)).await;
    replica.shutdown().await;
    assert_eq!(frames(&server.config.data_dir), [(7, "young".to_owned())]);

    let replica = server.open().await;
    assert_eq!(
        (replica.state().oldest, replica.state().index),
        (Index(7), Index(7))
    );
    assert_eq!(publish_one(&replica, "next").await, Index(8));
    replica.shutdown().await;
}

#[tokio::test]
async fn a_segment_is_sealed_at_its_size_and_again_at_the_same_place() {
    let mut server = Server::new();
    let settings = Settings {
        segment_bytes: 2_000,
        ..Settings::default()
    };
    server.config.settings = Some(settings);
    let replica = server.open().await;
    for n in 0..40 {
        publish_one(&replica, &n.to_string()).await;
    }
    let segments = replica.status().history_segments;
    assert!(segments > 3, "{segments}");
    let names = |server: &Server| {
        let mut names: Vec<_> = std::fs::read_dir(server.config.data_dir.join("history"))
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = names(&server);
    drop(replica);
    crate::restart::wait_until_free(&server).await;
    // all of it is applied again: the same borders
    let replica = server.open().await;
    assert_eq!(names(&server), before);
    replica.shutdown().await;
}
