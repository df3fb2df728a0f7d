use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::record::{LogId, LogRecord, SEGMENT_HEAD_BYTES};
use super::{RaftLog, RaftLogConfig};
use crate::checked_file::{self, Kind};
use crate::error::StoreError;
use crate::layout::DiskName;

/// Failures and waits that a test asks for, in place of a disk that has them.
pub(crate) struct Injected {
    /// Writes that still succeed; then the disk is full.
    writes_left: AtomicI64,
    /// Syncs that still succeed.
    syncs_left: AtomicI64,
    /// Held by a test to keep a sync from ending.
    gate: Mutex<()>,
    syncs: AtomicI64,
    /// Syncs of prepared space that still succeed.
    fill_syncs_left: AtomicI64,
    /// The next write panics.
    panics: AtomicBool,
    /// How long each sync seems to take, in microseconds; 0: as long as it does.
    sync_micros: AtomicU64,
}

impl Default for Injected {
    fn default() -> Self {
        Self {
            writes_left: AtomicI64::new(i64::MAX),
            syncs_left: AtomicI64::new(i64::MAX),
            gate: Mutex::new(()),
            syncs: AtomicI64::new(0),
            fill_syncs_left: AtomicI64::new(i64::MAX),
            panics: AtomicBool::new(false),
            sync_micros: AtomicU64::new(0),
        }
    }
}

impl Injected {
    pub(crate) fn check_fill_sync(&self) -> io::Result<()> {
        match self.fill_syncs_left.fetch_sub(1, Ordering::SeqCst) {
            1.. => Ok(()),
            _ => Err(io::Error::other("medium error")),
        }
    }

    pub(crate) fn sync_took(&self, measured: Duration) -> Duration {
        match self.sync_micros.load(Ordering::SeqCst) {
            0 => measured,
            micros => Duration::from_micros(micros),
        }
    }

    pub(crate) fn check_write(&self) -> io::Result<()> {
        assert!(!self.panics.load(Ordering::SeqCst), "injected panic");
        match self.writes_left.fetch_sub(1, Ordering::SeqCst) {
            1.. => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    pub(crate) fn check_sync(&self) -> io::Result<()> {
        drop(self.gate.lock());
        self.syncs.fetch_add(1, Ordering::SeqCst);
        match self.syncs_left.fetch_sub(1, Ordering::SeqCst) {
            1.. => Ok(()),
            _ => Err(io::Error::other("medium error")),
        }
    }

    fn hold(&self) -> MutexGuard<'_, ()> {
        self.gate.lock()
    }
}

fn record(index: u64, payload: &[u8]) -> LogRecord {
    LogRecord {
        index,
        term: 1 + index / 10,
        leader: vec![9, 9],
        kind: 2,
        parts: vec![Bytes::copy_from_slice(payload)],
    }
}

fn id(index: u64) -> LogId {
    record(index, b"").id()
}

fn small() -> RaftLogConfig {
    RaftLogConfig {
        segment_bytes: 4096,
        ..RaftLogConfig::default()
    }
}

fn open(dir: &Path, config: RaftLogConfig) -> RaftLog {
    RaftLog::open(dir, config).unwrap().0
}

fn append(log: &RaftLog, indexes: std::ops::Range<u64>) {
    let records = indexes.map(|index| record(index, format!("payload {index}").as_bytes()));
    log.append_and_wait(records.collect()).unwrap();
}

fn payloads(log: &RaftLog) -> Vec<String> {
    let state = log.state();
    let (Some(first), Some(last)) = (state.first, state.last) else {
        return Vec::new();
    };
    log.read(first.index..last.index + 1)
        .unwrap()
        .iter()
        .map(|record| String::from_utf8(record.parts.concat()).unwrap())
        .collect()
}

fn expected(indexes: std::ops::Range<u64>) -> Vec<String> {
    indexes.map(|index| format!("payload {index}")).collect()
}

fn segment(dir: &Path, first: u64) -> PathBuf {
    dir.join(DiskName::RaftSegment(first).file_name())
}

/// A log of records 0 to 4, each synced by itself; its bytes, and where each record starts.
fn five_records() -> (Vec<u8>, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), small());
    for index in 0..5 {
        append(&log, index..index + 1);
    }
    let mut offsets: Vec<usize> = {
        let state = log.inner.shared.state.lock();
        let segment = state.segments.back().unwrap();
        let ends = std::iter::once(segment.end as usize);
        segment
            .offsets
            .iter()
            .map(|&offset| offset as usize)
            .chain(ends)
            .collect()
    };
    offsets.sort_unstable();
    drop(log);
    (fs::read(segment(dir.path(), 0)).unwrap(), offsets)
}

/// Opens a log of one segment with these bytes, twice: what was repaired stays repaired.
fn open_bytes(bytes: &[u8]) -> Result<(Vec<String>, bool), StoreError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(segment(dir.path(), 0), bytes).unwrap();
    let (log, state) = RaftLog::open(dir.path(), small())?;
    let found = payloads(&log);
    drop(log);
    let (log, again) = RaftLog::open(dir.path(), small()).unwrap();
    assert_eq!(again.torn, None);
    assert_eq!(payloads(&log), found);
    // And it can be appended to.
    let next = found.len() as u64;
    append(&log, next..next + 1);
    assert_eq!(payloads(&log), expected(0..next + 1));
    Ok((found, state.torn.is_some()))
}

#[test]
fn a_torn_last_record_is_cut_wherever_it_was_torn() {
    let (bytes, offsets) = five_records();
    let (start, end) = (offsets[4], offsets[5]);
    for cut in start..=end {
        let whole = cut == end;
        for shorten in [false, true] {
            let mut torn = bytes.clone();
            if shorten {
                torn.truncate(cut);
            } else {
                torn[cut..].fill(0);
            }
            let (found, reported) = open_bytes(&torn).unwrap();
            assert_eq!(
                found,
                expected(0..if whole { 5 } else { 4 }),
                "cut at {cut}"
            );
            // Less than its generation and what was synced is indistinguishable from space that was never used.
            assert!(!reported || !whole);
            assert!(
                reported || whole || cut < start + 14 || shorten,
                "cut at {cut}"
            );
        }
    }
}

#[test]
fn a_flipped_byte_is_damage_unless_it_may_be_a_torn_write() {
    let (bytes, offsets) = five_records();
    for at in 0..offsets[5] + 64 {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x20;
        match open_bytes(&flipped) {
            Err(StoreError::Damaged { offset, help, .. }) => {
                assert!(at < offsets[4], "flip at {at}");
                assert!(
                    offset <= at as u64 + SEGMENT_HEAD_BYTES as u64,
                    "flip at {at} was found at {offset}"
                );
                assert!(help.contains("tidings verify --data-dir"));
            }
            Err(other) => panic!("flip at {at}: {other}"),
            // The last write may always have been torn; behind it nothing matters.
            Ok((found, _)) if at < offsets[5] => {
                assert!(at >= offsets[4], "flip at {at}");
                assert_eq!(found, expected(0..4));
            }
            Ok((found, _)) => assert_eq!(found, expected(0..5)),
        }
    }
}

#[test]
fn a_hole_in_the_last_write_is_torn_and_what_was_behind_it_never_returns() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), small());
    append(&log, 0..2);
    // One write of three records; a power failure may keep any of its sectors.
    append(&log, 2..5);
    let offsets = log
        .inner
        .shared
        .state
        .lock()
        .segments
        .back()
        .unwrap()
        .offsets
        .clone();
    drop(log);
    let path = segment(dir.path(), 0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[offsets[2] as usize..offsets[3] as usize].fill(0);
    fs::write(&path, &bytes).unwrap();

    let (log, state) = RaftLog::open(dir.path(), small()).unwrap();
    assert_eq!(
        state.torn.map(|torn| torn.offset),
        Some(u64::from(offsets[2]))
    );
    // As long as the record that was lost, so that the old ones would follow it.
    append(&log, 2..3);
    drop(log);
    assert_eq!(payloads(&open(dir.path(), small())), expected(0..3));
}

#[test]
fn damage_in_an_earlier_segment_and_missing_segments_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = RaftLogConfig {
        segment_bytes: 256,
        ..small()
    };
    let log = open(dir.path(), config.clone());
    (0..20).for_each(|index| append(&log, index..index + 1));
    drop(log);
    let mut segments: Vec<PathBuf> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter(|path| !path.to_string_lossy().contains("spare"))
        .collect();
    segments.sort();
    assert!(segments.len() > 3);

    // The last record of a segment that is not the last: it was synced before the next began.
    let whole = fs::read(&segments[1]).unwrap();
    let last_used = whole.iter().rposition(|&byte| byte != 0).unwrap();
    let mut flipped = whole.clone();
    flipped[last_used] ^= 1;
    fs::write(&segments[1], &flipped).unwrap();
    let error = RaftLog::open(dir.path(), config.clone()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged { path, .. } if *path == segments[1]),
        "{error}"
    );

    fs::remove_file(&segments[1]).unwrap();
    assert!(RaftLog::open(dir.path(), config.clone()).is_err());
    fs::write(&segments[1], &whole).unwrap();
    let first = fs::read(&segments[0]).unwrap();
    fs::remove_file(&segments[0]).unwrap();
    let error = RaftLog::open(dir.path(), config.clone()).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    fs::write(&segments[0], first).unwrap();
    assert_eq!(payloads(&open(dir.path(), config)), expected(0..20));
}

#[test]
fn a_truncation_that_was_interrupted_is_finished() {
    let source = tempfile::tempdir().unwrap();
    let config = RaftLogConfig {
        segment_bytes: 400,
        ..small()
    };
    let log = open(source.path(), config.clone());
    (0..20).for_each(|index| append(&log, index..index + 1));
    drop(log);
    for from in 0..20 {
        for overwritten in [0, 40, 90] {
            let dir = tempfile::tempdir().unwrap();
            for entry in fs::read_dir(source.path()).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
            }
            let log = open(dir.path(), config.clone());
            let (path, cut) = {
                let state = log.inner.shared.state.lock();
                let segment = state.segments.iter().rfind(|s| s.first <= from).unwrap();
                (segment.path.clone(), segment.span(from, from).0 as usize)
            };
            drop(log);
            let marker = dir.path().join("truncating");
            checked_file::write(&marker, Kind::Truncating, &u64::to_le_bytes(from)).unwrap();
            // Some sectors in the middle of what is cut off are zero already.
            let mut bytes = fs::read(&path).unwrap();
            let hole = (cut + 10).min(bytes.len())..(cut + 10 + overwritten).min(bytes.len());
            bytes[hole].fill(0);
            fs::write(&path, bytes).unwrap();

            let log = open(dir.path(), config.clone());
            assert!(!marker.exists());
            assert_eq!(payloads(&log), expected(0..from), "from {from}");
            append(&log, from..from + 1);
            drop(log);
            assert_eq!(
                payloads(&open(dir.path(), config.clone())),
                expected(0..from + 1)
            );
        }
    }
}

#[test]
fn what_was_truncated_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), small());
    append(&log, 0..10);
    log.truncate_after(3).unwrap();
    assert_eq!(payloads(&log), expected(0..4));
    assert_eq!(log.state().last, Some(id(3)));
    drop(log);
    let log = open(dir.path(), small());
    assert_eq!(payloads(&log), expected(0..4));
    log.append_and_wait(vec![record(4, b"other")]).unwrap();
    log.truncate_from(0).unwrap();
    assert_eq!((log.state().first, log.state().last), (None, None));
    drop(log);
    let log = open(dir.path(), small());
    assert_eq!(log.state().last, None);
    append(&log, 0..1);
    assert_eq!(payloads(&log), expected(0..1));
}

#[test]
fn callbacks_come_in_order_after_the_sync_that_covers_them() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), small());
    append(&log, 0..1);
    let (sender, receiver) = channel();
    let held = log.inner.shared.injected.hold();
    let before = log.inner.shared.injected.syncs.load(Ordering::SeqCst);
    for index in 1..50 {
        let sender = sender.clone();
        let done =
            Box::new(move |result: io::Result<()>| sender.send((index, result.is_ok())).unwrap());
        log.append(vec![record(index, b"x")], done);
    }
    // They can be read before they are on disk; nobody has been told that they are.
    assert_eq!(log.read(0..50).unwrap().len(), 50);
    assert!(receiver.try_recv().is_err());
    drop(held);
    let told: Vec<(u64, bool)> = (1..50).map(|_| receiver.recv().unwrap()).collect();
    assert_eq!(told, (1..50).map(|index| (index, true)).collect::<Vec<_>>());
    let syncs = log.inner.shared.injected.syncs.load(Ordering::SeqCst) - before;
    // What queued up behind the first sync shares the next one.
    assert!((1..=2).contains(&syncs), "{syncs} syncs");
}

#[test]
fn a_failed_write_or_sync_stops_the_log_and_loses_nothing_that_was_acknowledged() {
    for full_disk in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), small());
        append(&log, 0..3);
        let injected = &log.inner.shared.injected;
        let left = if full_disk {
            &injected.writes_left
        } else {
            &injected.syncs_left
        };
        left.store(0, Ordering::SeqCst);
        let error = log.append_and_wait(vec![record(3, b"lost")]).unwrap_err();
        assert_eq!(
            error.kind() == io::ErrorKind::StorageFull,
            full_disk,
            "{error}"
        );
        left.store(i64::MAX, Ordering::SeqCst);
        // Nothing tries again: a sync that succeeds after one that failed proves nothing.
        let error = log.append_and_wait(vec![record(4, b"later")]).unwrap_err();
        assert!(
            error.to_string().contains("stopped after a failed write"),
            "{error}"
        );
        assert!(matches!(
            log.truncate_after(1),
            Err(StoreError::Poisoned { .. })
        ));
        assert!(matches!(
            log.purge_to(id(1)),
            Err(StoreError::Poisoned { .. })
        ));
        assert!(log.poisoned().is_some());
        drop(log);
        let found = payloads(&open(dir.path(), small()));
        assert_eq!(found[..3], expected(0..3));
    }
}

#[test]
fn records_must_follow_and_fit() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), small());
    assert!(
        log.append_and_wait(vec![record(5, b"")]).is_err(),
        "a log begins at 0 or 1"
    );
    append(&log, 1..3);
    assert!(log.append_and_wait(vec![record(4, b"")]).is_err());
    let long = LogRecord {
        leader: vec![0; 256],
        ..record(3, b"")
    };
    assert!(log.append_and_wait(vec![long]).is_err());
    append(&log, 3..4);
    assert!(matches!(
        log.read(0..2),
        Err(StoreError::NotInLog {
            wanted: 0,
            first: 1,
            end: 4
        })
    ));
    assert!(matches!(
        log.read(2..5),
        Err(StoreError::NotInLog { wanted: 4, .. })
    ));
    assert_eq!(log.read(2..2).unwrap(), []);
}

#[test]
fn purging_beyond_the_end_moves_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), small());
    append(&log, 0..5);
    log.purge_to(id(99)).unwrap();
    assert_eq!((log.state().first, log.state().last), (None, Some(id(99))));
    assert!(log.append_and_wait(vec![record(5, b"")]).is_err());
    append(&log, 100..103);
    log.purge_to(id(50)).unwrap();
    drop(log);
    let log = open(dir.path(), small());
    let state = log.state();
    assert_eq!(state.first, Some(id(100)));
    assert_eq!((state.last, state.purged), (Some(id(102)), Some(id(99))));
    assert_eq!(payloads(&log), expected(100..103));
}

#[test]
fn votes_are_kept_and_a_damaged_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), small());
    assert_eq!((log.vote(), log.committed()), (None, None));
    log.save_vote(b"term 3").unwrap();
    append(&log, 0..9);
    log.save_committed(&id(7)).unwrap();
    log.save_committed(&id(8)).unwrap();
    drop(log);
    let log = open(dir.path(), small());
    assert_eq!(log.vote().as_deref(), Some(&b"term 3"[..]));
    assert_eq!(log.committed(), Some(id(8)));
    assert!(log.available_bytes() > 0);
    drop(log);
    fs::write(dir.path().join("vote"), b"garbage").unwrap();
    assert!(matches!(
        RaftLog::open(dir.path(), small()),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn segments_are_filled_in_steps_and_purged_ones_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = RaftLogConfig {
        cache_bytes: 0,
        ..RaftLogConfig::default()
    };
    let log = open(dir.path(), config.clone());
    append(&log, 0..1);
    let size = fs::metadata(segment(dir.path(), 0)).unwrap().len();
    assert_eq!(
        size,
        super::prepare::FIRST_FILL_BYTES,
        "a small agent does not wait for 64 MiB"
    );
    let large = vec![7; 3 << 20];
    for index in 1..6 {
        log.append_and_wait(vec![record(index, &large)]).unwrap();
    }
    assert!(fs::metadata(segment(dir.path(), 0)).unwrap().len() >= 15 << 20);
    assert_eq!(log.read(5..6).unwrap()[0].parts.concat(), large);
    assert_eq!(log.read_limited(0..6, 1).unwrap().len(), 1);
    assert_eq!(log.read_limited(1..6, 4 << 20).unwrap().len(), 2);
    assert!(log.bytes_since(4) > 3 << 20 && log.bytes_since(4) < 4 << 20);
    log.purge_to(id(5)).unwrap();
    assert!(dir.path().join("spare.0.log").exists());
    append(&log, 6..8);
    assert!(!dir.path().join("spare.0.log").exists());
    drop(log);
    let log = open(dir.path(), config);
    assert_eq!(payloads(&log), expected(6..8));
    assert_eq!(
        log.state().bytes,
        fs::metadata(segment(dir.path(), 6))
            .map(|_| log.bytes_since(0))
            .unwrap()
    );
    let file = fs::read(segment(dir.path(), 6)).unwrap();
    let end = SEGMENT_HEAD_BYTES + log.bytes_since(0) as usize;
    assert!(
        file[end..].iter().any(|&byte| byte != 0),
        "the remains of its earlier life"
    );
}

/// The spare segments and their sizes.
fn spares(dir: &Path) -> Vec<(String, u64)> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                entry.metadata().unwrap().len(),
            )
        })
        .filter(|(name, _)| name.starts_with("spare."))
        .collect();
    found.sort();
    found
}

#[test]
fn as_many_purged_segments_are_kept_as_there_are_places() {
    let dir = tempfile::tempdir().unwrap();
    let config = RaftLogConfig {
        segment_bytes: 256,
        ..small()
    };
    let log = open(dir.path(), config.clone());
    (0..40).for_each(|index| append(&log, index..index + 1));
    let segments = log.state().segments;
    assert!(segments > 6, "{segments}");
    log.purge_to(id(35)).unwrap();
    let names = ["spare.0.log", "spare.1.log", "spare.2.log", "spare.3.log"];
    let kept = spares(dir.path());
    assert_eq!(
        kept.iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>(),
        names
    );
    drop(log);

    // The next run uses them, and knows their records for old ones.
    let log = open(dir.path(), config.clone());
    assert_eq!(spares(dir.path()), kept);
    (40..48).for_each(|index| append(&log, index..index + 1));
    assert!(spares(dir.path()).len() < 4);
    drop(log);
    let log = open(dir.path(), config);
    assert_eq!(payloads(&log), expected(36..48));
    assert_eq!(log.state().torn, None);
}

#[test]
fn records_in_a_spare_segment_never_return_though_no_segment_tells_its_generation() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), small());
    append(&log, 0..5);
    // The only segment goes, and with it the highest generation in use.
    log.purge_to(id(9)).unwrap();
    assert_eq!(log.state().segments, 0);
    drop(log);
    let log = open(dir.path(), small());
    append(&log, 10..11);
    assert_eq!(spares(dir.path()), [], "the spare one was used");
    drop(log);
    let log = open(dir.path(), small());
    assert_eq!(payloads(&log), expected(10..11));
    assert_eq!(log.state().torn, None);
}

#[test]
fn what_cannot_serve_as_a_spare_segment_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let config = RaftLogConfig {
        segment_bytes: 256,
        ..small()
    };
    fs::write(dir.path().join("spare.0.log"), vec![0; 256]).unwrap();
    fs::write(dir.path().join("spare.1.log"), vec![0; 300]).unwrap();
    fs::write(dir.path().join("spare.2.log"), vec![0; 40]).unwrap();
    fs::write(dir.path().join("spare.3.log"), vec![7; 256]).unwrap();
    let log = open(dir.path(), config);
    assert_eq!(spares(dir.path()), [("spare.0.log".to_owned(), 256)]);
    append(&log, 0..1);
    assert_eq!(spares(dir.path()), []);
    assert_eq!(payloads(&log), expected(0..1));
}

#[test]
fn flushes_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), small());
    assert_eq!(log.stats().flushes, 0);
    append(&log, 0..5);
    append(&log, 5..6);
    assert_eq!(log.stats().flushes, 2);
    drop(log);
    assert_eq!(open(dir.path(), small()).stats().flushes, 0);
}

#[test]
fn a_torn_record_that_was_committed_is_damage_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), small());
    append(&log, 0..3);
    append(&log, 3..4);
    log.save_committed(&id(2)).unwrap();
    let path = segment(dir.path(), 0);
    let start = log.inner.shared.state.lock().segments[0].offsets[3] as usize;
    drop(log);
    let mut torn = fs::read(&path).unwrap();
    torn[start + 20] ^= 1;
    fs::write(&path, &torn).unwrap();
    // Nobody was told of the last one.
    let log = open(dir.path(), small());
    assert_eq!(payloads(&log), expected(0..3));
    append(&log, 3..4);
    log.save_committed(&id(3)).unwrap();
    drop(log);

    fs::write(&path, &torn).unwrap();
    let error = RaftLog::open(dir.path(), small()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged { path: at, offset, help, .. }
            if *at == path && *offset == start as u64 && help.contains("tidings verify")),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), torn);
    // Nor is a log that has lost its last file taken for a shorter one.
    fs::remove_file(&path).unwrap();
    let error = RaftLog::open(dir.path(), small()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn while_space_is_short_purged_segments_go() {
    let dir = tempfile::tempdir().unwrap();
    let config = RaftLogConfig {
        segment_bytes: 256,
        ..small()
    };
    let log = open(dir.path(), config);
    (0..20).for_each(|index| append(&log, index..index + 1));
    log.purge_to(id(10)).unwrap();
    assert_ne!(spares(dir.path()), []);
    log.keep_spares(false).unwrap();
    assert_eq!(spares(dir.path()), []);
    log.purge_to(id(18)).unwrap();
    assert_eq!(spares(dir.path()), []);
    log.keep_spares(true).unwrap();
    (20..40).for_each(|index| append(&log, index..index + 1));
    log.purge_to(id(38)).unwrap();
    assert_ne!(spares(dir.path()), []);
    assert_eq!(payloads(&log), expected(39..40));
}

#[test]
fn space_that_was_prepared_and_not_synced_stops_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), RaftLogConfig::default());
    append(&log, 0..1);
    let injected = &log.inner.shared.injected;
    injected.fill_syncs_left.store(0, Ordering::SeqCst);
    let large = vec![7; 3 << 20];
    // More than half of what there is: the next piece is prepared.
    log.append_and_wait(vec![record(1, &large)]).unwrap();
    let error = log.append_and_wait(vec![record(2, &large)]).unwrap_err();
    assert!(error.to_string().contains("medium error"), "{error}");
    assert!(log.poisoned().is_some());
    assert!(log.append_and_wait(vec![record(2, b"")]).is_err());
}

#[test]
fn a_panic_of_the_flusher_leaves_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), small());
    append(&log, 0..3);
    log.inner
        .shared
        .injected
        .panics
        .store(true, Ordering::SeqCst);
    let (sender, receiver) = channel();
    let held = log.inner.flusher.lock();
    for index in 3..6 {
        let sender = sender.clone();
        let done = Box::new(move |result: io::Result<()>| sender.send(result.is_ok()).unwrap());
        log.append(vec![record(index, b"x")], done);
    }
    drop(held);
    drop(sender);
    assert_eq!(receiver.iter().collect::<Vec<_>>(), [false; 3]);
    assert!(matches!(
        log.purge_to(id(1)),
        Err(StoreError::Poisoned { .. })
    ));
    assert!(log.truncate_after(1).is_err());
    assert!(log.append_and_wait(vec![record(6, b"")]).is_err());
}

#[test]
fn a_closed_log_writes_nothing_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), small());
    append(&log, 0..3);
    log.close();
    log.close();
    assert!(log.append_and_wait(vec![record(3, b"")]).is_err());
    assert!(log.purge_to(id(1)).is_err());
    assert_eq!(log.read(0..3).unwrap().len(), 3, "it can still be read");
    // Nothing of it is in the way of another.
    assert_eq!(payloads(&open(dir.path(), small())), expected(0..3));
}

/// Appends one record; says whether it was synced by this thread.
fn is_direct(log: &RaftLog, index: u64) -> bool {
    let (sender, receiver) = channel();
    let done = Box::new(move |result: io::Result<()>| {
        result.unwrap();
        sender.send(std::thread::current().id()).unwrap();
    });
    log.append(vec![record(index, b"x")], done);
    receiver.recv().unwrap() == std::thread::current().id()
}

#[test]
fn a_little_that_comes_alone_is_synced_where_it_is_appended() {
    let dir = tempfile::tempdir().unwrap();
    let config = RaftLogConfig {
        direct_bytes_max: 200,
        ..RaftLogConfig::default()
    };
    let log = open(dir.path(), config);
    let injected = &log.inner.shared.injected;
    injected.sync_micros.store(100, Ordering::SeqCst);
    let next = Cell::new(0);
    let direct = || {
        let from = next.replace(next.get() + 60);
        let appended = from..from + 60;
        appended.filter(|&index| is_direct(&log, index)).count()
    };
    // A machine that is busy with something else makes syncs slow, too.
    let most_are_soon = || (0..50).any(|_| direct() >= 30);
    let first = direct();
    assert!(first < 60, "nothing was known of the disk");
    assert!(first >= 30 || most_are_soon(), "{first}");
    injected.sync_micros.store(50_000, Ordering::SeqCst);
    let slow = direct();
    assert!(slow <= 1, "{slow}: one is enough to see it");
    injected.sync_micros.store(100, Ordering::SeqCst);
    assert!(most_are_soon());
    let large = next.get();
    log.append_and_wait(vec![record(large, &[7; 300])]).unwrap();

    // A sync that is under way is not waited for by whoever appends.
    let held = injected.hold();
    let (sender, receiver) = channel();
    let under_way = large + 1;
    let mut index = under_way;
    std::thread::scope(|scope| {
        let done = {
            let sender = sender.clone();
            Box::new(move |_: io::Result<()>| sender.send(()).unwrap())
        };
        scope.spawn(|| log.append(vec![record(under_way, b"x")], done));
        while log.state().last != Some(id(under_way)) {
            std::thread::yield_now();
        }
        for _ in 0..20 {
            index += 1;
            let sender = sender.clone();
            let done = Box::new(move |_: io::Result<()>| sender.send(()).unwrap());
            log.append(vec![record(index, b"x")], done);
        }
        let before = log.stats().flushes;
        drop(held);
        (0..21).for_each(|_| receiver.recv().unwrap());
        assert!(log.stats().flushes - before <= 3, "they share a sync");
    });
}
