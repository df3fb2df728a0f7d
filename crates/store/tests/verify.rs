//! Checking a data directory.
#![allow(clippy::unwrap_used)] // also in what the tests share

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use support::Frames;
use tidings_event::Index;
use tidings_store::{
    DataDir, History, HistoryConfig, LogId, LogRecord, RaftLog, RaftLogConfig, SnapshotStore,
    StoreError, VerifyOnStart, verify,
};

/// Seals the newest segment, and waits for the disk.
fn seal(history: &mut History) {
    if let Some(pending) = history.seal().unwrap() {
        pending.complete().unwrap();
    }
}

/// A data directory with something of everything in it.
fn fill(path: &Path) {
    let data = DataDir::open(path).unwrap();
    let mut frames = Frames::new();
    let (mut history, _) = History::open(&data.history(), HistoryConfig::default()).unwrap();
    for _ in 0..3 {
        history.append(&frames.batch(4, 50)).unwrap();
        seal(&mut history);
    }
    history.append(&frames.batch(4, 50)).unwrap();
    let config = RaftLogConfig {
        segment_bytes: 512,
        ..RaftLogConfig::default()
    };
    let (log, _) = RaftLog::open(&data.raft(), config).unwrap();
    for index in 0..20 {
        let payload = Bytes::from(format!("payload {index}"));
        let record = LogRecord {
            index,
            term: 1,
            leader: vec![1],
            kind: 1,
            parts: vec![payload],
        };
        log.append_and_wait(vec![record]).unwrap();
    }
    log.save_vote(b"vote").unwrap();
    log.save_committed(&LogId {
        index: 18,
        term: 1,
        leader: vec![1],
    })
    .unwrap();
    log.purge_to(LogId {
        index: 8,
        term: 1,
        leader: vec![1],
    })
    .unwrap();
    let snapshots = SnapshotStore::open(&data.snapshots()).unwrap();
    snapshots.write(8, Index(12), b"meta", b"data").unwrap();
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["history", "raft", "snapshots"] {
        files.extend(
            fs::read_dir(path.join(folder))
                .unwrap()
                .map(|entry| entry.unwrap().path()),
        );
    }
    files.sort();
    files
}

#[test]
fn a_sound_directory_has_no_faults_and_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let before: Vec<_> = files(dir.path())
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    let mut progress = Vec::new();
    let report = verify(dir.path(), &mut |step| progress.push(step)).unwrap();
    assert_eq!(
        (&report.faults, &report.repairable),
        (&Vec::new(), &Vec::new())
    );
    assert_eq!((report.segments, report.frames), (4, 16));
    assert!(
        (11..=20).contains(&report.raft_records),
        "{}",
        report.raft_records
    );
    assert!(
        progress
            .last()
            .is_some_and(|step| step.bytes_done <= step.bytes_total)
    );
    let after: Vec<_> = files(dir.path())
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    assert_eq!(before, after);
}

#[test]
fn a_fault_in_any_file_is_named() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    for path in files(source.path()) {
        let name = path.strip_prefix(source.path()).unwrap();
        let text = name.to_string_lossy();
        // A spare segment holds nothing; the newest files of history and log may be torn.
        let newest = text.contains("00013")
            || files(source.path()).iter().rfind(|p| {
                p.extension().is_some_and(|e| e == "log") && !p.to_string_lossy().contains("spare")
            }) == Some(&path);
        if text.contains("spare") || text.ends_with("committed") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        for at in [0, used / 3, used / 2, used - 1] {
            let dir = tempfile::tempdir().unwrap();
            for other in files(source.path()) {
                let to = dir.path().join(other.strip_prefix(source.path()).unwrap());
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(&other, to).unwrap();
            }
            fs::copy(source.path().join("format"), dir.path().join("format")).unwrap();
            let mut flipped = bytes.clone();
            flipped[at] ^= 2;
            fs::write(dir.path().join(name), flipped).unwrap();
            let report = verify(dir.path(), &mut |_| {}).unwrap();
            let all: Vec<_> = report.faults.iter().chain(&report.repairable).collect();
            assert_eq!(all.len(), usize::from(!all.is_empty()), "{all:?}");
            let named = all.first().map(|fault| fault.path.file_stem());
            // An index that is made anew from its lines is no fault.
            let renewed = newest && text.ends_with(".idx");
            assert!(
                renewed && named.is_none() || named == Some(path.file_stem()),
                "{text} at {at}: {all:?}"
            );
            assert!(newest || !report.faults.is_empty(), "{text} at {at}");
        }
    }
}

#[test]
fn missing_segments_are_named() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    for suffix in ["ndjson", "idx"] {
        fs::remove_file(
            dir.path()
                .join(format!("history/00000000000000000005.{suffix}")),
        )
        .unwrap();
    }
    let report = verify(dir.path(), &mut |_| {}).unwrap();
    assert_eq!(report.faults.len(), 1);
    assert!(
        report.faults[0]
            .path
            .ends_with("00000000000000000005.ndjson")
    );
    assert!(report.faults[0].what.contains("missing"));
}

#[test]
fn a_directory_in_use_is_not_checked() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        verify(dir.path(), &mut |_| {}),
        Err(StoreError::Missing { .. })
    ));
    let data = DataDir::open(dir.path()).unwrap();
    let error = verify(dir.path(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("in use by process"), "{error}");
    drop(data);
    verify(dir.path(), &mut |_| {}).unwrap();
}

/// A data directory with segments 1–4, 5–8, 9–12 and 13–16, and a snapshot at this frame.
fn with_snapshot_at(frame: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let data = DataDir::open(dir.path()).unwrap();
    let snapshots = SnapshotStore::open(&data.snapshots()).unwrap();
    snapshots.write(9, Index(frame), b"meta", b"data").unwrap();
    dir
}

/// Flips a byte in the first line of a segment.
fn flip_in_segment(dir: &Path, first: u64) -> PathBuf {
    let path = dir.join(format!("history/{first:020}.ndjson"));
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_fault_counts_as_far_as_the_snapshot_reaches() {
    // Snapshot, flipped segment, whether a start refuses.
    for (frame, first, refused) in [
        (16, 13, true),
        (13, 13, true),
        (12, 13, false),
        (11, 13, false),
        (11, 9, true),
        (9, 9, true),
        (7, 9, false),
        (7, 5, true),
        (4, 9, false),
        (0, 5, false),
    ] {
        let dir = with_snapshot_at(frame);
        let path = flip_in_segment(dir.path(), first);
        let report = verify(dir.path(), &mut |_| {}).unwrap();
        let (found, none) = if refused {
            (&report.faults, &report.repairable)
        } else {
            (&report.repairable, &report.faults)
        };
        assert_eq!(none, &Vec::new(), "{frame} {first}");
        assert_eq!(found.len(), 1, "{frame} {first}: {found:?}");
        assert_eq!(
            (&found[0].path, found[0].offset),
            (&path, 0),
            "{frame} {first}"
        );
        let config = HistoryConfig {
            durable_to: Some(Index(frame)),
            verify: VerifyOnStart::All,
        };
        let opened = History::open(&dir.path().join("history"), config);
        assert_eq!(opened.is_err(), refused, "{frame} {first}");
    }
}

#[test]
fn a_history_that_ends_before_the_snapshot_is_a_fault() {
    let dir = with_snapshot_at(17);
    let report = verify(dir.path(), &mut |_| {}).unwrap();
    assert_eq!(report.faults.len(), 1, "{:?}", report.faults);
    let dir = with_snapshot_at(1);
    fs::remove_dir_all(dir.path().join("history")).unwrap();
    fs::create_dir(dir.path().join("history")).unwrap();
    let report = verify(dir.path(), &mut |_| {}).unwrap();
    assert_eq!(report.faults.len(), 1, "{:?}", report.faults);
}

#[test]
fn a_log_that_ends_before_what_was_acknowledged_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let mut segments: Vec<PathBuf> = files(dir.path())
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter(|path| !path.to_string_lossy().contains("spare"))
        .collect();
    // Record 18 was committed; 19 may be torn off, together they may not.
    let newest = segments.pop().unwrap();
    fs::remove_file(&newest).unwrap();
    let report = verify(dir.path(), &mut |_| {}).unwrap();
    let [fault] = &report.faults[..] else {
        panic!("{report:?}");
    };
    assert_eq!(Some(&fault.path), segments.last());
    assert!(
        fault.what.contains("up to 18 were acknowledged"),
        "{fault:?}"
    );
}

#[test]
fn a_history_without_its_beginning_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let first = dir.path().join("history/00000000000000000001.ndjson");
    fs::remove_file(&first).unwrap();
    let report = verify(dir.path(), &mut |_| {}).unwrap();
    assert!(
        report.faults.iter().any(|fault| fault.path == first),
        "{report:?}"
    );
}
