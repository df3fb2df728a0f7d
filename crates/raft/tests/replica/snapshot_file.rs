use std::{collections::BTreeMap, path::Path};

use proptest::prelude::*;
use tidings_event::Index;
use tidings_raft::{
    Replica, RestoreScope, Restored, SaveHistory, SnapshotFileError, SnapshotInfo,
    found_from_snapshot, snapshot_inspect, snapshot_without_history,
};
use tidings_timeline::{RetentionSettings, Settings, StateView};

use crate::server::{Server, delete, publish_one, put};

async fn saved(replica: &Replica, history: SaveHistory) -> Vec<u8> {
    let mut file = Vec::new();
    let info = replica.snapshot_save(&mut file, history).await.unwrap();
    assert_eq!(info.file_bytes, file.len() as u64);
    file
}

/// More than any state of these tests has.
const STATE_BYTES_MAX: u64 = 1 << 20;

async fn restore(replica: &Replica, file: &[u8]) -> Result<Restored, SnapshotFileError> {
    let scope = RestoreScope::OwnTimeline;
    replica.snapshot_restore(file, scope, STATE_BYTES_MAX).await
}

/// Entries without what tells when they were written.
fn entries(view: &StateView) -> BTreeMap<String, String> {
    view.entries()
        .map(|entry| {
            let line = String::from_utf8(entry.line().to_vec()).unwrap();
            let payload = line.split(r#""Payload":"#).nth(1).unwrap().to_owned();
            (format!("{}:{}", entry.name.topic, entry.name.key), payload)
        })
        .collect()
}

fn lines(data_dir: &Path) -> String {
    let mut files: Vec<_> = std::fs::read_dir(data_dir.join("history"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "ndjson"))
        .collect();
    files.sort();
    let read = |path| String::from_utf8(std::fs::read(path).unwrap()).unwrap();
    files.into_iter().map(read).collect()
}

/// Small segments, for there to be some.
fn settings() -> Settings {
    Settings {
        segment_bytes: 1500,
        ..Settings::default()
    }
}

async fn with_entries(server: &mut Server) -> Replica {
    server.config.settings = Some(settings());
    let replica = server.open().await;
    for key in ["a", "b", "c"] {
        replica.propose(put(key, None)).await.unwrap();
    }
    for n in 0..20 {
        publish_one(&replica, &format!("e{n}")).await;
    }
    replica
}

#[tokio::test]
async fn a_saved_snapshot_tells_what_it_holds() {
    let mut server = Server::new();
    let replica = with_entries(&mut server).await;
    let file = saved(&replica, SaveHistory::Included).await;
    let info = snapshot_inspect(&file[..]).await.unwrap();
    assert_eq!(info.newest, replica.state().index);
    assert_eq!(info.oldest, Index::FIRST);
    assert_eq!((info.entries, info.servers.len()), (3, 1));
    assert_eq!(info.timeline, replica.state().timeline);
    assert_eq!(info.node, "n7");
    assert_eq!(
        info.history_bytes,
        lines(&server.config.data_dir).len() as u64
    );
    assert!(info.segments > 1);

    let small = saved(&replica, SaveHistory::LeftOut).await;
    let info = snapshot_inspect(&small[..]).await.unwrap();
    assert_eq!((info.segments, info.history_bytes), (0, 0));
    assert_eq!(info.oldest, info.newest.next());
    assert!(small.len() < file.len());

    let mut without = Vec::new();
    snapshot_without_history(&file[..], &mut without)
        .await
        .unwrap();
    let without = snapshot_inspect(&without[..]).await.unwrap();
    assert_eq!(
        SnapshotInfo {
            made: info.made,
            ..without
        },
        info
    );
    let mut unused = Vec::new();
    let cut = snapshot_without_history(&file[..100], &mut unused).await;
    assert_eq!(cut.unwrap_err().code(), "snapshot_damaged");
    replica.shutdown().await;
}

/// G3: indexes go on, and what was recorded stays.
#[tokio::test]
async fn g3_a_restore_brings_entries_back_as_changes_of_their_own() {
    let mut server = Server::new();
    let replica = with_entries(&mut server).await;
    let file = saved(&replica, SaveHistory::Included).await;
    let before = entries(&replica.state());
    let history = lines(&server.config.data_dir);

    replica.propose(delete("a", None)).await.unwrap();
    replica.propose(put("d", None)).await.unwrap();
    let changed = Settings {
        retention: RetentionSettings {
            age_s: 5,
            ..RetentionSettings::default()
        },
        ..settings()
    };
    replica.propose_settings(changed).await.unwrap();
    let newest = replica.state().index;
    assert_ne!(entries(&replica.state()), before);

    let restored = restore(&replica, &file).await.unwrap();
    assert_eq!((restored.written, restored.removed), (1, 1));
    let state = replica.state();
    assert_eq!(entries(&state), before);
    assert_eq!(
        state.settings.retention.age_s, 5,
        "settings are the servers'"
    );
    assert_eq!(restored.index, Index(newest.get() + 3));
    assert_eq!(state.index, restored.index);
    let after = lines(&server.config.data_dir);
    assert!(after.starts_with(&history), "nothing is taken back");
    let added: Vec<&str> = after.lines().skip(newest.get() as usize).collect();
    assert_eq!(added.len(), 3);
    assert!(added[0].contains(r#""Key":"a""#), "{}", added[0]);
    assert!(
        added[1].contains(r#""Type":"RemovedByRestore""#),
        "{}",
        added[1]
    );
    assert!(
        added[2].contains(r#""Type":"StateRestored""#),
        "{}",
        added[2]
    );

    // Once more changes nothing but for the event that tells of it.
    let again = restore(&replica, &file).await.unwrap();
    assert_eq!((again.written, again.removed), (0, 0));
    assert_eq!(again.index, restored.index.next());
    replica.shutdown().await;
    let replica = server.open().await;
    assert_eq!(entries(&replica.state()), before);
    replica.shutdown().await;
}

#[tokio::test]
async fn a_snapshot_of_another_timeline_is_refused_unless_it_is_asked_for() {
    let mut server = Server::new();
    let replica = with_entries(&mut server).await;
    let file = saved(&replica, SaveHistory::LeftOut).await;
    replica.shutdown().await;
    let other = Server::new();
    let replica = other.open().await;
    let before = replica.state().index;
    let refused = restore(&replica, &file).await.unwrap_err();
    assert_eq!(refused.code(), "other_timeline");
    assert_eq!(replica.state().index, before);
    let any = RestoreScope::AnyTimeline;
    let restored = replica.snapshot_restore(&file[..], any, STATE_BYTES_MAX);
    let restored = restored.await.unwrap();
    assert_eq!((restored.written, restored.removed), (3, 0));
    assert_eq!(replica.state().entries_len(), 3);
    replica.shutdown().await;
}

#[tokio::test]
async fn a_snapshot_that_is_cut_or_changed_is_refused_and_nothing_changes() {
    let mut server = Server::new();
    let replica = with_entries(&mut server).await;
    let file = saved(&replica, SaveHistory::Included).await;
    replica.propose(delete("a", None)).await.unwrap();
    let before = replica.state().index;
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(
            snapshot_inspect(&changed[..]).await.is_err(),
            "change at {at}"
        );
        assert!(snapshot_inspect(&file[..at]).await.is_err(), "cut at {at}");
    }
    let longer = [&file[..], b"x"].concat();
    assert!(snapshot_inspect(&longer[..]).await.is_err());
    for at in [9, file.len() / 2, file.len() - 1] {
        let cut = restore(&replica, &file[..at]).await;
        assert_eq!(cut.unwrap_err().code(), "snapshot_damaged");
        let mut changed = file.clone();
        changed[at] ^= 1;
        let changed = restore(&replica, &changed).await;
        assert_eq!(changed.unwrap_err().code(), "snapshot_damaged");
    }
    let scope = RestoreScope::OwnTimeline;
    let too_large = replica.snapshot_restore(&file[..], scope, 100).await;
    assert_eq!(too_large.unwrap_err().code(), "snapshot_too_large");
    let other = restore(&replica, b"{\"Index\":1}").await.unwrap_err();
    assert!(matches!(other, SnapshotFileError::NotASnapshot { .. }));
    assert!(other.to_string().contains("tidings snapshot save"));
    assert_eq!(replica.state().index, before);
    replica.shutdown().await;
}

/// All servers are lost: one begins with the snapshot, as another timeline with the same history.
#[tokio::test]
async fn a_cluster_is_founded_with_a_snapshot_in_an_empty_directory() {
    for history in [SaveHistory::Included, SaveHistory::LeftOut] {
        let mut server = Server::new();
        let replica = with_entries(&mut server).await;
        let file = saved(&replica, history).await;
        let (state, old) = (entries(&replica.state()), replica.state());
        replica.shutdown().await;

        let dir = tempfile::tempdir().unwrap();
        let mut fresh = Server::new();
        fresh.config.data_dir = dir.path().join("data");
        let info = found_from_snapshot(&fresh.config.data_dir, "n9", &file[..]);
        let info = info.await.unwrap();
        assert_eq!(info.newest, old.index);
        // not a second time
        let again = found_from_snapshot(&fresh.config.data_dir, "n9", &file[..]);
        assert_eq!(again.await.unwrap_err().code(), "not_empty");
        let report = tidings_store::verify(&fresh.config.data_dir, &mut |_| {}).unwrap();
        assert_eq!(report.faults, []);

        let stored = tidings_raft::stored_node_id(&fresh.config.data_dir).unwrap();
        fresh.config.node_id = stored.unwrap();
        for _ in 0..2 {
            let replica = fresh.open().await;
            let now = replica.state();
            assert_eq!(entries(&now), state);
            assert!(now.timeline.is_some() && now.timeline != old.timeline);
            assert_eq!(replica.status().members.len(), 1);
            let next = publish_one(&replica, "more").await;
            assert_eq!(next, now.index.next(), "indexes go on");
            replica.shutdown().await;
        }
        let kept = lines(&fresh.config.data_dir);
        let expected = lines(&server.config.data_dir);
        assert_eq!(
            kept.starts_with(&expected),
            history == SaveHistory::Included
        );
    }
}

#[tokio::test]
async fn nothing_is_founded_with_a_damaged_snapshot() {
    let mut server = Server::new();
    let replica = with_entries(&mut server).await;
    let mut file = saved(&replica, SaveHistory::Included).await;
    replica.shutdown().await;
    let last = file.len() - 200;
    let whole = file.clone();
    file[last] ^= 1;
    let dir = tempfile::tempdir().unwrap();
    let founded = found_from_snapshot(dir.path(), "n9", &file[..]).await;
    assert_eq!(founded.unwrap_err().code(), "snapshot_damaged");
    assert!(!dir.path().join("node").exists());
    // A good copy is taken after it, though much of the other has come.
    let other = tempfile::tempdir().unwrap();
    let cut = found_from_snapshot(other.path(), "n9", &file[..last]).await;
    assert_eq!(cut.unwrap_err().code(), "snapshot_damaged");
    let founded = found_from_snapshot(other.path(), "n9", &whole[..]).await;
    assert_eq!(founded.unwrap().newest, Index(23));
    let report = tidings_store::verify(other.path(), &mut |_| {}).unwrap();
    assert_eq!(report.faults, []);
    // Where a server was, or waits to be one, nothing is founded.
    for name in ["node.candidate", "member", "removed", "damaged"] {
        let used = tempfile::tempdir().unwrap();
        std::fs::write(used.path().join(name), "7\n").unwrap();
        let refused = found_from_snapshot(used.path(), "n9", &whole[..]).await;
        assert_eq!(refused.unwrap_err().code(), "not_empty", "{name}");
        assert!(!used.path().join("history").exists(), "nothing is made");
    }
    // What had come is in the way of nobody.
    let mut fresh = Server::new();
    fresh.config.data_dir = dir.path().to_owned();
    let replica = fresh.open().await;
    publish_one(&replica, "first").await;
    replica.shutdown().await;
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        begins_well in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if begins_well && bytes.len() > 9 {
            bytes[..9].copy_from_slice(b"tdgarch1\x01");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _ = runtime.block_on(snapshot_inspect(&bytes[..]));
    }
}
