use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tidings_event::Index;
use tidings_raft::{FreeSpace, OpenError, ProposeError};
use tidings_timeline::{RetentionSettings, Settings};

use crate::server::{Server, frames, history, publish, publish_one};

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
    let before = replica.status().batches;
    let many = (0..50).map(|n| replica.propose(publish(&n.to_string(), None)));
    for result in futures_util::future::join_all(many).await {
        result.unwrap();
    }
    assert_eq!(replica.status().batches - before, 50);
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
    // Nothing that retention would have to say.
    server.config.settings = Some(Settings {
        retention: RetentionSettings {
            age_s: 0,
            bytes: 0,
            frames: 0,
        },
        ..Settings::default()
    });
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

#[tokio::test]
async fn a_full_disk_takes_what_frees_it_and_goes_on_by_itself() {
    let mut server = Server::new();
    let free = Arc::new(AtomicU64::new(u64::MAX));
    server.config.disk.free_space = Some(FreeSpace::new({
        let free = free.clone();
        move || free.load(Ordering::SeqCst)
    }));
    server.config.disk.free_reserve = 1_000;
    server.config.disk.retention_interval = Duration::from_millis(10);
    let replica = server.open().await;
    for n in 0..10 {
        publish_one(&replica, &n.to_string()).await;
    }
    free.store(0, Ordering::SeqCst);
    let full = replica.propose(publish("k", None)).await.unwrap_err();
    assert_eq!(full.code(), "disk_full");
    assert!(!replica.snapshot().await, "no room, and that stops nothing");

    // All of it is in one segment: it is closed, and then it goes.
    let retention = RetentionSettings {
        age_s: 0,
        bytes: 0,
        frames: 5,
    };
    let settings = Settings {
        retention,
        ..Settings::default()
    };
    // Together with one that is refused.
    let (changed, refused) = futures_util::future::join(
        replica.propose_settings(settings),
        replica.propose(publish("k", None)),
    )
    .await;
    changed.unwrap();
    assert_eq!(refused.unwrap_err().code(), "disk_full");
    crate::upkeep::until("freed", || replica.state().oldest == Index(11)).await;
    assert_eq!(replica.status().damaged, None);
    free.store(u64::MAX, Ordering::SeqCst);
    assert_eq!(publish_one(&replica, "after").await, Index(11));
    assert!(replica.snapshot().await);
    replica.shutdown().await;
    assert_eq!(frames(&server.config.data_dir), [(11, "after".to_owned())]);
}

#[tokio::test]
async fn an_entry_that_no_record_holds_is_refused_at_start() {
    let mut server = Server::new();
    server.config.queue.group_bytes_max = 256 << 20;
    let refused = server.try_open().await.err().unwrap();
    assert!(
        matches!(
            refused,
            OpenError::Setting {
                setting: "queue.group_bytes_max",
                ..
            }
        ),
        "{refused}"
    );
    server.config.queue.group_bytes_max = 255 << 20;
    server.open().await.shutdown().await;
}
