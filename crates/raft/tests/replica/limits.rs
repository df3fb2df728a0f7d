use std::time::Duration;

use tidings_raft::ProposeError;

use crate::server::{Server, history, publish, publish_one};

#[tokio::test]
async fn a_full_queue_sends_callers_away_and_recovers() {
    let mut server = Server::new();
    let one = publish("k", None).bytes_len();
    server.config.queue.bytes_max = 2 * one;
    let replica = server.open().await;
    // On one thread, none of these is drained before all are in line.
    let many = (0..10).map(|_| replica.propose(publish("k", None)));
    let results = futures_util::future::join_all(many).await;
    let overloaded = |result: &Result<_, ProposeError>| matches!(result, Err(ProposeError::Overloaded { retry_after }) if !retry_after.is_zero());
    let refused = results.iter().filter(|result| overloaded(result)).count();
    let taken = results.iter().filter(|result| result.is_ok()).count();
    assert!(
        refused > 0 && taken >= 2,
        "{taken} taken, {refused} refused"
    );
    assert_eq!(refused + taken, 10);
    publish_one(&replica, "again").await;
    assert_eq!(
        replica.state().index.get(),
        taken as u64 + 1,
        "the refused ones left nothing"
    );
    replica.shutdown().await;
}

#[tokio::test]
async fn a_caller_waits_a_little_for_a_place() {
    let mut server = Server::new();
    server.config.queue.groups_max = 1;
    server.config.queue.batch_groups_max = 1;
    server.config.queue.wait_max = Duration::from_secs(60);
    let replica = server.open().await;
    let many = (0..50).map(|n| replica.propose(publish(&n.to_string(), None)));
    for result in futures_util::future::join_all(many).await {
        result.unwrap();
    }
    assert_eq!(replica.status().batches, 50);
    replica.shutdown().await;
}

#[tokio::test]
async fn a_group_beyond_the_limit_is_refused() {
    let mut server = Server::new();
    server.config.queue.group_bytes_max = 10;
    let replica = server.open().await;
    let refused = replica.propose(publish("k", None)).await.unwrap_err();
    assert!(matches!(
        refused,
        ProposeError::TooLarge { bytes_max: 10, .. }
    ));
    replica.shutdown().await;
}

#[tokio::test]
async fn a_full_disk_takes_nothing_and_leaves_the_log_alone() {
    let mut server = Server::new();
    let replica = server.open().await;
    publish_one(&replica, "before").await;
    replica.shutdown().await;

    server.config.disk.free_reserve = u64::MAX;
    let replica = server.open().await;
    let before = (replica.status().log_last, history(&server.config.data_dir));
    for _ in 0..3 {
        let refused = replica.propose(publish("k", None)).await.unwrap_err();
        let ProposeError::DiskFull {
            free,
            reserve: u64::MAX,
        } = refused
        else {
            panic!("{refused}");
        };
        assert!(free > 0);
    }
    assert_eq!(
        (replica.status().log_last, history(&server.config.data_dir)),
        before
    );
    assert_eq!(replica.status().refused_disk_full, 3);
    assert_eq!(replica.status().damaged, None);
    replica.shutdown().await;

    // there is room again
    server.config.disk.free_reserve = 0;
    let replica = server.open().await;
    publish_one(&replica, "after").await;
    replica.shutdown().await;
}

#[tokio::test]
async fn after_shutdown_nothing_is_taken() {
    let server = Server::new();
    let replica = server.open().await;
    let index = publish_one(&replica, "a").await;
    replica.shutdown().await;
    let refused = replica.propose(publish("b", None)).await.unwrap_err();
    assert!(matches!(refused, ProposeError::Stopped { .. }));
    assert_eq!(refused.code(), "stopped");
    assert_eq!(
        replica.state().index,
        index,
        "what was there can still be read"
    );
    assert!(replica.broker().is_closed());
}
