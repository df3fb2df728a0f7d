//! The history: what is appended comes back, whatever happens between.
#![allow(clippy::unwrap_used)] // also in what the tests share

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::Frames;
use tidings_event::{DigestFilter, Filter, FrameView, Index, NamespaceSet, TopicSet};
use tidings_store::{History, HistoryConfig, StoreError, VerifyOnStart};
use tidings_timeline::{FrameBatch, HistoryError, HistoryReader};

const ALL: DigestFilter = DigestFilter::All;

/// Seals the newest segment, and waits for the disk.
fn seal(history: &mut History) {
    if let Some(pending) = history.seal().unwrap() {
        pending.complete().unwrap();
    }
}

fn open(dir: &Path) -> History {
    History::open(dir, HistoryConfig::default()).unwrap().0
}

fn checked(dir: &Path) -> Result<History, StoreError> {
    let config = HistoryConfig {
        verify: VerifyOnStart::All,
        ..HistoryConfig::default()
    };
    History::open(dir, config).map(|(history, _)| history)
}

/// Everything from `from` on, read in pieces of at most `bytes_max`.
fn read_all(reader: &dyn HistoryReader, from: u64, bytes_max: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut next = Index(from);
    while next <= reader.newest() {
        let read = reader.read(next, bytes_max, &ALL).unwrap();
        assert!(!read.bytes.is_empty() && read.next > next);
        all.extend_from_slice(&read.bytes);
        next = read.next;
    }
    all
}

fn lines(batches: &[Arc<FrameBatch>]) -> Vec<u8> {
    batches
        .iter()
        .flat_map(|batch| batch.bytes.to_vec())
        .collect()
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn file(dir: &Path, first: u64, suffix: &str) -> std::path::PathBuf {
    dir.join(format!("{first:020}.{suffix}"))
}

/// Ten batches of three frames: 1–6 and 7–18 sealed, 19–30 not.
fn three_segments(dir: &Path) -> Vec<Arc<FrameBatch>> {
    let mut frames = Frames::new();
    let mut history = open(dir);
    let batches: Vec<_> = (0..10).map(|at| frames.batch(3, at * 7)).collect();
    for (at, batch) in batches.iter().enumerate() {
        if at == 2 || at == 6 {
            seal(&mut history);
        }
        history.append(batch).unwrap();
    }
    history.sync().unwrap();
    batches
}

#[test]
fn files_are_exactly_the_lines() {
    let dir = tempfile::tempdir().unwrap();
    let batches = three_segments(dir.path());
    assert_eq!(
        fs::read(file(dir.path(), 1, "ndjson")).unwrap(),
        lines(&batches[..2])
    );
    assert_eq!(
        fs::read(file(dir.path(), 7, "ndjson")).unwrap(),
        lines(&batches[2..6])
    );
    assert_eq!(
        fs::read(file(dir.path(), 19, "ndjson")).unwrap(),
        lines(&batches[6..])
    );

    let history = checked(dir.path()).unwrap();
    for bytes_max in [1, 500, 2000, 1 << 20] {
        assert_eq!(
            read_all(&*history.reader(), 1, bytes_max),
            lines(&batches),
            "{bytes_max}"
        );
    }
    let segments = history.segments();
    let shape: Vec<_> = segments
        .iter()
        .map(|s| (s.first.get(), s.last.get(), s.sealed))
        .collect();
    assert_eq!(shape, [(1, 6, true), (7, 18, true), (19, 30, false)]);
    assert_eq!(segments[0].first_time, batches[0].time);
    assert_eq!(segments[1].last_time, batches[5].time);
    assert_eq!(segments[2].first_time, batches[6].time);
}

#[test]
fn a_read_begins_anywhere_and_ends_on_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let batches = three_segments(dir.path());
    let history = open(dir.path());
    let reader = history.reader();
    assert_eq!((reader.oldest(), reader.newest()), (Index(1), Index(30)));
    for from in 1..=30 {
        let read = reader.read(Index(from), 700, &ALL).unwrap();
        assert!(read.bytes.ends_with(b"\n"));
        assert!(read.bytes.len() <= 700);
        let first = read
            .bytes
            .split_inclusive(|&byte| byte == b'\n')
            .next()
            .unwrap();
        assert_eq!(FrameView::parse(first).unwrap().index(), Index(from));
        let count = read.bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
        assert_eq!(read.next.get(), from + count);
    }
    let beyond = reader.read(Index(31), 700, &ALL).unwrap();
    assert!(beyond.bytes.is_empty() && beyond.next == Index(31));
    assert!(matches!(
        reader.read(Index(0), 700, &ALL),
        Err(HistoryError::Gap { oldest: Index(1) })
    ));
    drop(batches);
}

#[test]
fn checksums_are_those_of_the_lines() {
    let dir = tempfile::tempdir().unwrap();
    let batches = three_segments(dir.path());
    let wanted: Vec<u32> = lines(&batches)
        .split_inclusive(|&byte| byte == b'\n')
        .map(crc32fast::hash)
        .collect();
    let history = open(dir.path());
    let reader = history.reader();
    for count_max in [1, 5, 100] {
        let mut found = Vec::new();
        while found.len() < 30 {
            let next = Index(found.len() as u64 + 1);
            let some = reader.checksums(next, count_max).unwrap();
            assert!((1..=count_max).contains(&some.len()));
            found.extend(some);
        }
        assert_eq!(found, wanted);
    }
    assert!(reader.checksums(Index(31), 1).unwrap().is_empty());
    assert!(matches!(
        reader.checksums(Index(0), 1),
        Err(HistoryError::Gap { oldest: Index(1) })
    ));
}

#[test]
fn a_filtered_read_leaves_out_what_cannot_match() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::new();
    let mut history = open(dir.path());
    let batches: Vec<_> = (0..40)
        .map(|at| frames.batch(50, if at % 3 == 0 { 3000 } else { 20 }))
        .collect();
    for (at, batch) in batches.iter().enumerate() {
        history.append(batch).unwrap();
        if at % 16 == 15 {
            seal(&mut history);
        }
    }
    let topics = TopicSet::parse(["T3:k3"]).unwrap();
    let filter = Filter::new(topics, NamespaceSet::parse(Some("*")), None);
    let want = filter.digests();
    let reader = history.reader();
    for bytes_max in [1, 5_000, 1 << 20] {
        let (mut next, mut found, mut bytes) = (Index(1), 0, 0);
        while next <= reader.newest() {
            let read = reader.read(next, bytes_max, &want).unwrap();
            assert!(read.next > next);
            let mut last = next.previous();
            for line in read.bytes.split_inclusive(|&byte| byte == b'\n') {
                let frame = FrameView::parse(line).unwrap();
                assert!(frame.index() > last && frame.index() < read.next);
                last = frame.index();
                found += usize::from(frame.events()[0].key() == "k3");
            }
            bytes += read.bytes.len();
            next = read.next;
        }
        assert_eq!(found, 40, "no matching frame is left out");
        assert!(bytes < lines(&batches).len() / 10, "most of the others are");
    }
}

#[test]
fn a_torn_end_is_cut_wherever_it_was_torn() {
    let source = tempfile::tempdir().unwrap();
    let mut frames = Frames::new();
    let mut history = open(source.path());
    let batches: Vec<_> = (0..3).map(|_| frames.batch(1, 30)).collect();
    batches
        .iter()
        .for_each(|batch| history.append(batch).unwrap());
    drop(history);
    let all = lines(&batches);
    let index = fs::read(file(source.path(), 1, "idx")).unwrap();
    let ends: Vec<usize> = batches
        .iter()
        .scan(0, |end, b| {
            *end += b.bytes.len();
            Some(*end)
        })
        .collect();

    let check = |lines_end: usize, index_end: usize, fill: bool| {
        let dir = tempfile::tempdir().unwrap();
        let mut torn = all[..lines_end].to_vec();
        if fill {
            // The size was on disk already, the bytes were not.
            torn.resize(all.len(), 0);
        }
        fs::write(file(dir.path(), 1, "ndjson"), &torn).unwrap();
        fs::write(file(dir.path(), 1, "idx"), &index[..index_end]).unwrap();
        let whole = ends.iter().filter(|&&end| end <= lines_end).count();
        let (mut history, report) = History::open(dir.path(), HistoryConfig::default()).unwrap();
        assert_eq!(
            report.newest,
            Index(whole as u64),
            "{lines_end} {index_end}"
        );
        assert_eq!(
            read_all(&*history.reader(), 1, 1 << 20),
            lines(&batches[..whole])
        );
        // What was lost is applied again, and then all is as it was.
        batches[whole..]
            .iter()
            .for_each(|batch| history.append(batch).unwrap());
        drop(history);
        let (_, report) = History::open(dir.path(), HistoryConfig::default()).unwrap();
        assert_eq!((report.cut, report.reindexed), (None, 0));
        assert_eq!(fs::read(file(dir.path(), 1, "ndjson")).unwrap(), all);
        assert_eq!(fs::read(file(dir.path(), 1, "idx")).unwrap(), index);
    };
    for lines_end in ends[1]..=all.len() {
        check(lines_end, index.len(), false);
        check(lines_end, index.len(), true);
        check(lines_end, index.len() - 16, false);
    }
    for index_end in 0..=index.len() {
        check(all.len(), index_end, false);
        check(ends[1], index_end, false);
    }
}

#[test]
fn a_flipped_byte_never_comes_out() {
    let source = tempfile::tempdir().unwrap();
    let batches = three_segments(source.path());
    let all = lines(&batches);
    for (first, suffix, sealed) in [
        (7, "ndjson", true),
        (7, "idx", true),
        (19, "ndjson", false),
        (19, "idx", false),
    ] {
        let name = file(source.path(), first, suffix);
        let bytes = fs::read(&name).unwrap();
        for at in (0..bytes.len()).step_by(if suffix == "idx" { 1 } else { 7 }) {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(source.path(), dir.path());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            fs::write(file(dir.path(), first, suffix), &flipped).unwrap();
            match checked(dir.path()) {
                Err(StoreError::Damaged { path, help, .. }) => {
                    assert!(sealed, "{suffix} at {at}");
                    assert_eq!(path.file_stem(), name.file_stem());
                    assert!(help.contains("tidings verify --data-dir"));
                }
                Err(other) => panic!("{suffix} at {at}: {other}"),
                Ok(history) => {
                    assert!(!sealed, "{suffix} at {at}");
                    let found = read_all(&*history.reader(), 1, 1 << 20);
                    assert!(all.starts_with(&found));
                    assert!(found.len() >= lines(&batches[..6]).len());
                }
            }
        }
    }
}

#[test]
fn damage_is_found_while_reading() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    let history = open(dir.path());
    let path = file(dir.path(), 7, "ndjson");
    let mut bytes = fs::read(&path).unwrap();
    bytes[10] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = history.reader().read(Index(7), 1 << 20, &ALL).unwrap_err();
    assert!(
        matches!(
            error,
            HistoryError::Damaged {
                index: Index(7),
                offset: 0,
                ..
            }
        ),
        "{error}"
    );
    // Only what is damaged is refused.
    assert_eq!(
        history.reader().read(Index(8), 1 << 20, &ALL).unwrap().next,
        Index(19)
    );
}

#[test]
fn a_sealed_segment_needs_its_index_and_its_neighbours() {
    let source = tempfile::tempdir().unwrap();
    three_segments(source.path());
    for (first, suffix) in [(1, "idx"), (7, "idx"), (7, "ndjson")] {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(source.path(), dir.path());
        fs::remove_file(file(dir.path(), first, suffix)).unwrap();
        let error = History::open(dir.path(), HistoryConfig::default()).unwrap_err();
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    copy_dir(source.path(), dir.path());
    fs::remove_file(file(dir.path(), 7, "ndjson")).unwrap();
    fs::remove_file(file(dir.path(), 7, "idx")).unwrap();
    let error = History::open(dir.path(), HistoryConfig::default()).unwrap_err();
    assert!(error.to_string().contains("frames 7 to 18"), "{error}");
}

#[test]
fn going_back_and_applying_again_gives_the_same_bytes() {
    let source = tempfile::tempdir().unwrap();
    let batches = three_segments(source.path());
    for last in (0..=30).step_by(3) {
        for retained in [1, 7, 19] {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(source.path(), dir.path());
            let mut history = open(dir.path());
            history.retain(Index(retained)).unwrap();
            history.cut_after(Index(last)).unwrap();
            assert_eq!(history.newest(), Index(last));
            for (at, batch) in batches.iter().enumerate().skip(last as usize / 3) {
                // Sealing what is sealed already, or empty, changes nothing.
                if at == 2 || at == 6 {
                    seal(&mut history);
                }
                history.append(batch).unwrap();
            }
            history.retain(Index(retained)).unwrap();
            drop(history);
            let history = checked(dir.path()).unwrap();
            let oldest = history.reader().oldest().get();
            assert!(oldest <= retained.max(last + 1), "{last} {retained}");
            let from = (oldest as usize - 1) / 3;
            assert_eq!(
                read_all(&*history.reader(), oldest, 1 << 20),
                lines(&batches[from..])
            );
            for first in [7, 19].into_iter().filter(|&first| first >= oldest) {
                for suffix in ["ndjson", "idx"] {
                    let (ours, theirs) = (
                        file(dir.path(), first, suffix),
                        file(source.path(), first, suffix),
                    );
                    assert_eq!(
                        fs::read(ours).unwrap(),
                        fs::read(theirs).unwrap(),
                        "{first}.{suffix} {last}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_history_that_ends_before_the_snapshot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    let mut history = open(dir.path());
    let error = history.cut_after(Index(31)).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::HistoryShort {
                newest: 30,
                wanted: 31,
                ..
            }
        ),
        "{error}"
    );
    drop(history);

    // A fault in what was synced is damage, in what was not it is cut.
    let path = file(dir.path(), 19, "ndjson");
    let mut bytes = fs::read(&path).unwrap();
    bytes[5] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let durable = |index| HistoryConfig {
        durable_to: Some(Index(index)),
        ..HistoryConfig::default()
    };
    let error = History::open(dir.path(), durable(19)).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "nothing was changed");
    let (_, report) = History::open(dir.path(), durable(18)).unwrap();
    assert_eq!(
        (report.newest, report.cut.map(|cut| cut.offset)),
        (Index(18), Some(0))
    );

    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        History::open(empty.path(), durable(1)),
        Err(StoreError::HistoryShort { .. })
    ));
}

#[test]
fn batches_must_follow() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::new();
    let (first, second) = (frames.batch(2, 1), frames.batch(2, 1));
    let mut history = open(dir.path());
    assert!(matches!(
        history.append(&second),
        Err(StoreError::OutOfOrder {
            expected: 1,
            got: 3
        })
    ));
    history.append(&first).unwrap();
    history.append(&second).unwrap();
    assert!(history.append(&second).is_err());
    assert_eq!(history.newest(), Index(4));
}

#[test]
fn readers_follow_an_appender_that_seals_and_drops() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = open(dir.path());
    let reader = history.reader();
    let finished = AtomicBool::new(false);
    const BATCHES: u64 = 600;
    const FRAMES: u64 = 20;
    std::thread::scope(|scope| {
        for slow in [false, false, true] {
            let (reader, finished) = (Arc::clone(&reader), &finished);
            scope.spawn(move || {
                let (mut next, mut seen, mut gaps) = (Index(1), 0, 0);
                loop {
                    let done = finished.load(Ordering::SeqCst);
                    match reader.read(next, if slow { 2_000 } else { 100_000 }, &ALL) {
                        Ok(read) => {
                            for line in read.bytes.split_inclusive(|&byte| byte == b'\n') {
                                assert_eq!(FrameView::parse(line).unwrap().index(), next);
                                next = next.next();
                                seen += 1;
                            }
                            assert_eq!(read.next, next);
                        }
                        Err(HistoryError::Gap { oldest }) => {
                            assert!(oldest > next);
                            gaps += 1;
                            next = oldest;
                        }
                        Err(other) => panic!("{other}"),
                    }
                    if done && next > reader.newest() {
                        break;
                    }
                }
                assert_eq!(next.get(), BATCHES * FRAMES + 1);
                assert!(seen > 0 && (gaps > 0 || seen == BATCHES * FRAMES));
            });
        }
        let mut frames = Frames::new();
        for at in 0..BATCHES {
            history.append(&frames.batch(FRAMES as usize, 100)).unwrap();
            if at % 10 == 9 {
                seal(&mut history);
                history
                    .retain(Index((at * FRAMES).saturating_sub(1000)))
                    .unwrap();
            }
        }
        finished.store(true, Ordering::SeqCst);
    });
    assert!(history.segments().len() < 10);
}

/// What a crash leaves of a history that was sealed twice: frames 1–6 and 7–18 in sealed segments,
/// 19–30 in the newest. Seals up to frame `completed` are complete, and no others.
fn crashed(dir: &Path, batches: &[Arc<FrameBatch>], completed: u64) {
    let mut history = open(dir);
    for (at, batch) in batches.iter().enumerate() {
        if (at == 2 || at == 6)
            && let Some(pending) = history.seal().unwrap()
            && at as u64 * 3 <= completed
        {
            pending.complete().unwrap();
        }
        history.append(batch).unwrap();
    }
}

fn contents(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    found.sort();
    found
}

/// What happened to the lines of a segment when the power failed.
#[derive(Debug, Clone, Copy)]
enum Harm {
    None,
    /// Everything from this frame on is gone.
    Truncated(u64),
    /// A byte of this frame is another.
    Flipped(u64),
}

impl Harm {
    fn frame(self) -> u64 {
        match self {
            Self::None => u64::MAX,
            Self::Truncated(frame) | Self::Flipped(frame) => frame,
        }
    }

    fn apply(self, dir: &Path, all: &[u8]) {
        let frame = self.frame();
        let first = match frame {
            1..=6 => 1,
            7..=18 => 7,
            19..=30 => 19,
            _ => return,
        };
        let start_of = |frame: u64| -> usize {
            let before = all.split_inclusive(|&byte| byte == b'\n');
            before.take(frame as usize - 1).map(<[u8]>::len).sum()
        };
        let offset = start_of(frame) - start_of(first);
        let path = file(dir, first, "ndjson");
        let mut bytes = fs::read(&path).unwrap();
        match self {
            Self::None => {}
            Self::Truncated(_) => bytes.truncate(offset + 5),
            Self::Flipped(_) => bytes[offset + 9] ^= 1,
        }
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_crash_before_a_seal_is_complete_takes_nothing_that_is_durable() {
    let source = tempfile::tempdir().unwrap();
    let batches = three_segments(source.path());
    drop(checked(source.path()).unwrap());
    let all = lines(&batches);
    let harms = [
        Harm::None,
        Harm::Truncated(2),
        Harm::Flipped(6),
        Harm::Truncated(7),
        Harm::Truncated(12),
        Harm::Flipped(12),
        Harm::Flipped(18),
        Harm::Truncated(18),
        Harm::Flipped(20),
    ];
    for durable in (0..=30).step_by(3) {
        // A snapshot at the very end of a segment may come before or after the seal.
        for completed in [durable, durable - durable.min(1)] {
            for harm in harms {
                let case = format!("durable to {durable}, sealed to {completed}, {harm:?}");
                let dir = tempfile::tempdir().unwrap();
                crashed(dir.path(), &batches, completed);
                harm.apply(dir.path(), &all);
                let before = contents(dir.path());
                let config = HistoryConfig {
                    durable_to: Some(Index(durable)),
                    ..HistoryConfig::default()
                };
                let opened = History::open(dir.path(), config.clone());
                if harm.frame() <= durable && opened.is_err() {
                    assert!(contents(dir.path()) == before, "{case}: nothing is changed");
                    continue;
                }
                let (mut history, _) = opened.unwrap_or_else(|error| panic!("{case}: {error}"));
                if harm.frame() <= durable {
                    // Of a segment whose seal is complete only the sizes are checked at start.
                    assert!(matches!(harm, Harm::Flipped(_)), "{case}");
                    let sealed = history.segments().iter().any(|segment| {
                        segment.sealed
                            && (segment.first..=segment.last).contains(&Index(harm.frame()))
                    });
                    assert!(sealed, "{case}");
                    drop(history);
                    assert!(checked(dir.path()).is_err(), "{case}");
                    continue;
                }
                history.cut_after(Index(durable)).unwrap();
                assert_eq!(history.newest(), Index(durable), "{case}");
                let kept = durable as usize / 3;
                assert!(
                    read_all(&*history.reader(), 1, 1 << 20) == lines(&batches[..kept]),
                    "{case}"
                );
                let firsts = contents(dir.path());
                assert!(
                    firsts
                        .iter()
                        .filter(|(path, _)| path.extension().is_some())
                        .all(|(path, _)| path.file_stem().unwrap().to_str().unwrap()
                            <= format!("{:020}", durable + 1).as_str()),
                    "{case}: nothing that begins later is left"
                );
                for (at, batch) in batches.iter().enumerate().skip(kept) {
                    if at == 2 || at == 6 {
                        seal(&mut history);
                    }
                    history.append(batch).unwrap();
                }
                drop(history);
                for ((path, ours), (_, theirs)) in
                    contents(dir.path()).iter().zip(contents(source.path()))
                {
                    // Sealed with nothing appended since the start: the index bears the time at
                    // which the lines were last written.
                    let by_clock = completed < durable
                        && [6, 18].contains(&durable)
                        && path.extension().is_some_and(|suffix| suffix == "idx");
                    assert!(by_clock || *ours == theirs, "{case}: {}", path.display());
                }
                checked(dir.path()).unwrap_or_else(|error| panic!("{case}: {error}"));
            }
        }
    }
}

#[test]
fn appending_at_once_removes_what_begins_after_the_durable_part() {
    let dir = tempfile::tempdir().unwrap();
    let batches = three_segments(dir.path());
    let config = HistoryConfig {
        durable_to: Some(Index(6)),
        ..HistoryConfig::default()
    };
    // The second segment begins right behind the snapshot and is whole; the third is made again.
    let (mut history, report) = History::open(dir.path(), config).unwrap();
    assert_eq!((report.newest, report.cut), (Index(18), None));
    seal(&mut history);
    history.append(&batches[6]).unwrap();
    assert_eq!(
        read_all(&*history.reader(), 1, 1 << 20),
        lines(&batches[..7])
    );
    drop(history);
    assert_eq!(
        read_all(&*checked(dir.path()).unwrap().reader(), 1, 1 << 20),
        lines(&batches[..7])
    );
}

#[test]
fn a_segment_is_read_while_its_seal_is_pending() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::new();
    let batches: Vec<_> = (0..4).map(|_| frames.batch(3, 40)).collect();
    let mut history = open(dir.path());
    let reader = history.reader();
    let mut pending = Vec::new();
    for batch in &batches {
        history.append(batch).unwrap();
        pending.extend(history.seal().unwrap());
    }
    assert_eq!(pending.len(), 4);
    for bytes_max in [1, 700, 1 << 20] {
        assert_eq!(read_all(&*reader, 1, bytes_max), lines(&batches));
    }
    pending
        .iter()
        .rev()
        .for_each(|seal| seal.complete().unwrap());
    assert_eq!(read_all(&*reader, 1, 700), lines(&batches));
    drop(history);
    checked(dir.path()).unwrap();
}

#[test]
fn a_sync_completes_the_seals_before_it() {
    for on_another_thread in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Frames::new();
        let mut history = open(dir.path());
        let mut pending = Vec::new();
        for _ in 0..3 {
            history.append(&frames.batch(3, 40)).unwrap();
            pending.extend(history.seal().unwrap());
        }
        history.append(&frames.batch(3, 40)).unwrap();
        let sizes = |dir: &Path| {
            [1, 4, 7].map(|first| fs::metadata(file(dir, first, "idx")).unwrap().len())
        };
        let before = sizes(dir.path());
        if on_another_thread {
            let unsynced = history.unsynced();
            std::thread::spawn(move || unsynced.sync())
                .join()
                .unwrap()
                .unwrap();
        } else {
            history.sync().unwrap();
        }
        assert!(
            sizes(dir.path())
                .iter()
                .zip(before)
                .all(|(now, before)| *now > before),
            "every index has its footer"
        );
        // Completing again changes nothing.
        let after = contents(dir.path());
        pending.iter().for_each(|seal| seal.complete().unwrap());
        assert!(contents(dir.path()) == after);
        drop(history);
        let history = checked(dir.path()).unwrap();
        assert_eq!(history.segments().iter().filter(|s| s.sealed).count(), 3);
    }
}

#[test]
fn a_history_whose_oldest_segments_are_gone_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut frames = Frames::new();
    let mut history = open(dir.path());
    for _ in 0..4 {
        history.append(&frames.batch(4, 50)).unwrap();
        seal(&mut history);
    }
    history.retain(Index(5)).unwrap();
    history.sync().unwrap();
    drop(history);
    assert_eq!(open(dir.path()).reader().oldest(), Index(5));
    let lines = |first: u64| dir.path().join(format!("{first:020}.ndjson"));
    let index = |first: u64| dir.path().join(format!("{first:020}.idx"));
    let before = fs::read(lines(5)).unwrap();
    fs::remove_file(lines(5)).unwrap();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let left = names();
    for durable_to in [None, Some(Index(16)), Some(Index(6))] {
        let config = HistoryConfig {
            durable_to,
            ..HistoryConfig::default()
        };
        let error = History::open(dir.path(), config).unwrap_err();
        assert!(
            matches!(&error, StoreError::Missing { path, .. } if *path == lines(5)),
            "{error}"
        );
        assert_eq!(names(), left);
    }
    assert!(index(5).exists(), "nothing was changed");
    // What is made again from the log need not be there.
    let config = HistoryConfig {
        durable_to: Some(Index(4)),
        ..HistoryConfig::default()
    };
    History::open(dir.path(), config).unwrap();
    fs::write(lines(5), before).unwrap();
}

/// What a power cut may leave of a segment that was just begun, whatever the file system makes durable
/// first.
#[test]
fn an_index_that_a_crash_left_without_lines_is_taken_over() {
    for sealed_before in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Frames::new();
        let mut history = open(dir.path());
        let mut first = 1;
        for _ in 0..sealed_before {
            history.append(&frames.batch(4, 50)).unwrap();
            seal(&mut history);
            first += 4;
        }
        history.sync().unwrap();
        drop(history);
        fs::remove_file(file(dir.path(), first, "ndjson")).unwrap();
        assert!(file(dir.path(), first, "idx").exists());
        if sealed_before == 0 {
            // Nor is it known where the history begins.
            fs::remove_file(dir.path().join("oldest")).unwrap();
        }

        let mut history = open(dir.path());
        history.check_oldest(Index(1)).unwrap();
        history.append(&frames.batch(4, 50)).unwrap();
        seal(&mut history);
        history.sync().unwrap();
        drop(history);
        let history = checked(dir.path()).unwrap();
        assert_eq!(history.newest(), Index(first + 3));
    }
}
