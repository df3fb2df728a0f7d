use std::path::PathBuf;

use tidings_event::Index;
use tidings_raft::OpenError;
use tidings_store::StoreError;
use tidings_timeline::{Outcome, Settings};

use crate::server::{NODE, Server, frames, history, publish, publish_one, put};

#[tokio::test]
async fn a_restart_keeps_state_indexes_and_bytes() {
    let server = Server::new();
    let replica = server.open().await;
    assert_eq!(publish_one(&replica, "a").await, Index(1));
    replica.propose(put("node-1", Some(0))).await.unwrap();
    assert_eq!(publish_one(&replica, "b").await, Index(3));
    replica.shutdown().await;
    let bytes = history(&server.config.data_dir);

    let replica = server.open().await;
    assert_eq!(history(&server.config.data_dir), bytes);
    let state = replica.state();
    assert_eq!(state.index, Index(3));
    assert_eq!(
        state
            .entry("Node", "default", "node-1")
            .unwrap()
            .modify_index,
        Index(2)
    );
    assert_eq!(replica.broker().newest(), Index(3));
    assert_eq!(publish_one(&replica, "c").await, Index(4));
    replica.shutdown().await;
}

#[tokio::test]
async fn a_repeat_is_known_after_a_restart() {
    let server = Server::new();
    let replica = server.open().await;
    let first = replica.propose(publish("a", Some("id-1"))).await.unwrap();
    assert_eq!(first, [Outcome::Published { index: Index(1) }]);
    replica.shutdown().await;

    let replica = server.open().await;
    let again = replica.propose(publish("a", Some("id-1"))).await.unwrap();
    assert_eq!(again, [Outcome::Duplicate { index: Index(1) }]);
    assert_eq!(replica.state().index, Index(1));
    replica.shutdown().await;
}

#[tokio::test]
async fn a_snapshot_replaces_the_log_before_it() {
    let mut server = Server::new();
    server.config.disk.log_entries_kept = 0;
    let replica = server.open().await;
    for n in 0..20 {
        publish_one(&replica, &format!("a{n}")).await;
    }
    assert!(replica.snapshot().await);
    let mut status = replica.status();
    assert_eq!(status.snapshot_frame, Index(20));
    // the log is cut a moment after the snapshot
    while status
        .log_first
        .is_some_and(|first| Some(first) <= status.snapshot)
    {
        tokio::task::yield_now().await;
        status = replica.status();
    }
    for n in 0..5 {
        publish_one(&replica, &format!("b{n}")).await;
    }
    // without shutdown: the snapshot, and five frames from the log
    drop(replica);
    wait_until_free(&server).await;

    let replica = server.open().await;
    assert_eq!(replica.state().index, Index(25));
    assert_eq!(publish_one(&replica, "c").await, Index(26));
    replica.shutdown().await;
    let keys: Vec<String> = frames(&server.config.data_dir)
        .into_iter()
        .map(|f| f.1)
        .collect();
    assert_eq!(keys.len(), 26);
    assert_eq!(
        (&*keys[0], &*keys[19], &*keys[24], &*keys[25]),
        ("a0", "a19", "b4", "c")
    );
}

/// A handle that is dropped leaves its thread to end by itself.
pub async fn wait_until_free(server: &Server) {
    loop {
        match tidings_store::DataDir::open(&server.config.data_dir) {
            Ok(_) => return,
            Err(tidings_store::StoreError::Locked { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_history_that_is_gone_comes_back_from_the_log() {
    let server = Server::new();
    let replica = server.open().await;
    for n in 0..10 {
        publish_one(&replica, &format!("a{n}")).await;
    }
    let bytes = history(&server.config.data_dir);
    drop(replica);
    wait_until_free(&server).await;
    std::fs::remove_dir_all(server.config.data_dir.join("history")).unwrap();
    let replica = server.open().await;
    assert_eq!(history(&server.config.data_dir), bytes);
    replica.shutdown().await;
}

#[tokio::test]
async fn settings_are_recorded_when_they_differ() {
    let mut server = Server::new();
    let wanted = Settings {
        dedupe_ids_max: 77,
        ..Settings::default()
    };
    server.config.settings = Some(wanted.clone());
    let replica = server.open().await;
    assert_eq!(*replica.state().settings, wanted);
    replica.shutdown().await;

    // recorded: they hold without being configured, and are not proposed again
    server.config.settings = None;
    let replica = server.open().await;
    assert_eq!(*replica.state().settings, wanted);
    replica.shutdown().await;
    server.config.settings = Some(wanted);
    let replica = server.open().await;
    assert_eq!(replica.status().batches, 0);
    replica.shutdown().await;
}

#[tokio::test]
async fn a_directory_belongs_to_one_server_and_one_process() {
    let mut server = Server::new();
    let replica = server.open().await;
    assert!(
        matches!(server.try_open().await, Err(OpenError::Store { .. })),
        "in use"
    );
    replica.shutdown().await;
    replica.shutdown().await;
    assert_eq!(
        tidings_raft::stored_node_id(&server.config.data_dir).unwrap(),
        Some(NODE)
    );

    server.config.node_id = NODE + 1;
    let other = server.try_open().await;
    assert!(matches!(
        other,
        Err(OpenError::OtherNode { stored: NODE, .. })
    ));

    server.config.node_id = NODE;
    let raft = server.config.data_dir.join("raft");
    std::fs::remove_dir_all(&raft).unwrap();
    assert!(matches!(
        server.try_open().await,
        Err(OpenError::LogMissing { node: NODE, .. })
    ));
}

#[tokio::test]
async fn a_log_without_its_snapshot_is_refused() {
    let mut server = Server::new();
    server.config.disk.log_entries_kept = 0;
    server.config.settings = Some(Settings {
        segment_bytes: 1_000,
        ..Settings::default()
    });
    let replica = server.open().await;
    for n in 0..10 {
        publish_one(&replica, &n.to_string()).await;
    }
    // the snapshot at shutdown, and then the log is cut
    assert!(replica.snapshot().await);
    while replica.status().log_first.is_some() {
        tokio::task::yield_now().await;
    }
    replica.shutdown().await;
    let snapshots = server.config.data_dir.join("snapshots");
    std::fs::remove_dir_all(&snapshots).unwrap();
    let before = history_files(&server);
    assert!(before.len() > 4, "segments and their indexes");
    assert!(matches!(
        server.try_open().await,
        Err(OpenError::LogBehind { covered: None, .. })
    ));
    assert_eq!(history_files(&server), before, "nothing was changed");
}

#[tokio::test]
async fn a_timeline_is_founded_once() {
    let server = Server::new();
    let replica = server.open().await;
    let timeline = replica.state().timeline.unwrap();
    publish_one(&replica, "a").await;
    replica.shutdown().await;
    let replica = server.open().await;
    assert_eq!(replica.state().timeline, Some(timeline));
    assert_eq!(replica.status().batches, 0, "not proposed again");
    replica.shutdown().await;
    let other = Server::new();
    let replica = other.open().await;
    assert_ne!(replica.state().timeline, Some(timeline));
    replica.shutdown().await;
}

/// All files of the history, and their bytes.
fn history_files(server: &Server) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(server.config.data_dir.join("history"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_history_without_its_oldest_frames_is_refused() {
    let mut server = Server::new();
    server.config.settings = Some(Settings {
        segment_bytes: 1_000,
        ..Settings::default()
    });
    let replica = server.open().await;
    for n in 0..20 {
        publish_one(&replica, &n.to_string()).await;
    }
    replica.shutdown().await;
    let history = server.config.data_dir.join("history");
    let oldest = history.join("00000000000000000001.ndjson");
    std::fs::rename(&oldest, history.join("kept")).unwrap();
    let missing = |refused: Result<tidings_raft::Replica, OpenError>| {
        matches!(
            refused,
            Err(OpenError::Store { source: StoreError::Missing { path, .. }, .. }) if path == oldest
        )
    };
    assert!(missing(server.try_open().await));
    // Without the note of where it begins, the state knows.
    std::fs::remove_file(history.join("oldest")).unwrap();
    assert!(missing(server.try_open().await));
    // It is put back, and all is well.
    std::fs::rename(history.join("kept"), &oldest).unwrap();
    wait_until_free(&server).await;
    let replica = server.open().await;
    assert_eq!(publish_one(&replica, "next").await, Index(21));
    replica.shutdown().await;
}
