//! What the store promises on a disk that fails: the smallest cases of what whole runs have found.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tidings_event::{Index, Limits, NewEvent, Timestamp};
use tidings_host::fs;
use tidings_host::simulated::{self, Disk, world};
use tidings_store::{
    History, HistoryConfig, Incoming, IncomingFile, LogRecord, Missing, RaftLog, RaftLogConfig,
    SnapshotOffer, StoreError, VerifyOnStart,
};
use tidings_timeline::{Applied, Batch, CommandGroup, Settings, Stamper, StateMachine};

const SEEDS: u64 = 100;

fn record(index: u64) -> LogRecord {
    LogRecord {
        index,
        term: 1,
        leader: vec![1],
        kind: 0,
        parts: vec![Bytes::from(vec![index as u8; 700])],
    }
}

fn open_log(life: &str, disk: &Arc<Disk>) -> (RaftLog, u64) {
    world::mount(life, disk);
    let config = RaftLogConfig {
        segment_bytes: 64 << 10,
        ..RaftLogConfig::default()
    };
    let (log, state) = RaftLog::open(Path::new(&format!("/{life}/raft")), config).unwrap();
    (log, state.last.map_or(0, |last| last.index))
}

/// G2: what a start has counted is there after a power cut, though the flush before it had failed.
#[tokio::test(start_paused = true)]
async fn g2_records_of_a_failed_flush_that_a_start_counts_are_on_the_disk() {
    for seed in 0..SEEDS {
        simulated::begin(seed);
        let disk = Disk::new("a", 64 << 20);
        let (log, _) = open_log("a-1", &disk);
        log.append_and_wait((1..4).map(record).collect()).unwrap();
        disk.set_faults(|faults| faults.fail_next_sync = true);
        log.append_and_wait((4..9).map(record).collect())
            .unwrap_err();
        log.close();

        let disk = disk.after_kill();
        let (log, counted) = open_log("a-2", &disk);
        assert!(counted >= 3, "seed {seed}");
        log.append_and_wait(vec![record(counted + 1)]).unwrap();
        log.close();

        let disk = disk.after_power_cut();
        let (log, found) = open_log("a-3", &disk);
        assert_eq!(found, counted + 1, "seed {seed}");
        log.close();
        simulated::end();
    }
}

fn batch(n: u64) -> Batch {
    let event = format!(r#"{{"Topic":"Job","Type":"T","Key":"k{n}"}}"#);
    let mut group = CommandGroup::new();
    group
        .publish(
            &[NewEvent::parse(event.as_bytes()).unwrap()],
            &mut Stamper::new("n1", "test", 1),
            &Limits::default(),
        )
        .unwrap();
    Batch {
        time: Timestamp::from_unix_micros(0),
        groups: vec![group.into_bytes()],
    }
}

fn try_open_history(life: &str, disk: &Arc<Disk>) -> Result<History, StoreError> {
    world::mount(life, disk);
    let config = HistoryConfig {
        verify: VerifyOnStart::All,
        durable_to: Some(Index::ZERO),
    };
    let dir = format!("/{life}/history");
    let (mut history, _) = History::open(Path::new(&dir), config)?;
    history.cut_after(Index::ZERO)?;
    history.check_oldest(Index::FIRST)?;
    Ok(history)
}

fn open_history(life: &str, disk: &Arc<Disk>) -> History {
    try_open_history(life, disk).unwrap()
}

fn append(history: &mut History, timeline: &mut StateMachine, frames: u64) {
    for n in 1..=frames {
        let Applied { frames, .. } = timeline.apply(&batch(n)).unwrap();
        history.append(&frames.unwrap()).unwrap();
    }
}

/// A power cut in the middle of bringing a sealed segment to the disk leaves nothing that the next
/// start refuses: no end of its index without the beginning.
#[tokio::test(start_paused = true)]
async fn a_power_cut_while_a_segment_is_sealed_is_no_damage() {
    for seed in 0..SEEDS {
        simulated::begin(seed);
        let disk = Disk::new("a", 64 << 20);
        let mut history = open_history("a-1", &disk);
        let mut timeline = StateMachine::new(Settings::default());
        append(&mut history, &mut timeline, 100);
        let pending = history.seal().unwrap().unwrap();
        disk.cut_after(seed % 5 + 1);
        let _ = pending.complete();

        let disk = disk.after_power_cut();
        let opened = try_open_history("a-2", &disk);
        assert!(opened.is_ok(), "seed {seed}: {opened:?}");
        simulated::end();
    }
}

/// A power cut while retention removes segments leaves none of them without its index alone.
#[tokio::test(start_paused = true)]
async fn a_power_cut_while_segments_are_removed_is_no_damage() {
    for seed in 0..SEEDS {
        simulated::begin(seed);
        let disk = Disk::new("a", 64 << 20);
        let mut history = open_history("a-1", &disk);
        let mut timeline = StateMachine::new(Settings::default());
        for _ in 0..4 {
            append(&mut history, &mut timeline, 5);
            history.seal().unwrap().unwrap().complete().unwrap();
        }
        disk.cut_after(seed % 16 + 1);
        let _ = history.retain(Index(16));

        let disk = disk.after_power_cut();
        world::mount("a-2", &disk);
        let config = HistoryConfig {
            verify: VerifyOnStart::All,
            durable_to: Some(Index(20)),
        };
        let opened = History::open(Path::new("/a-2/history"), config);
        assert!(opened.is_ok(), "seed {seed}: {opened:?}");
        simulated::end();
    }
}

/// Of a start that failed to take the end off an index, the next one knows nothing: it takes it off
/// once more, though it looks as if it were done.
#[tokio::test(start_paused = true)]
async fn a_footer_that_a_failed_flush_left_on_the_disk_goes_at_the_next_start() {
    for seed in 0..SEEDS {
        simulated::begin(seed);
        let disk = Disk::new("a", 64 << 20);
        let mut history = open_history("a-1", &disk);
        let mut timeline = StateMachine::new(Settings::default());
        append(&mut history, &mut timeline, 40);
        history.seal().unwrap().unwrap().complete().unwrap();

        let disk = disk.after_kill();
        disk.set_faults(|faults| faults.fail_next_sync = true);
        assert!(try_open_history("a-2", &disk).is_err(), "seed {seed}");

        let disk = disk.after_kill();
        let mut history = open_history("a-3", &disk);
        let mut timeline = StateMachine::new(Settings::default());
        append(&mut history, &mut timeline, 20);

        let disk = disk.after_power_cut();
        let opened = try_open_history("a-4", &disk);
        assert!(opened.is_ok(), "seed {seed}: {opened:?}");
        simulated::end();
    }
}

/// A power cut in the first start may leave the index of a segment without its lines; the next start
/// begins with it, and does not remove it as a leftover.
#[tokio::test(start_paused = true)]
async fn a_segment_that_is_begun_anew_keeps_its_index() {
    for seed in 0..SEEDS {
        simulated::begin(seed);
        let disk = Disk::new("a", 64 << 20);
        disk.cut_after(seed % 20 + 1);
        let _ = try_open_history("a-1", &disk);

        let disk = disk.after_power_cut();
        let mut history = open_history("a-2", &disk);
        let mut timeline = StateMachine::new(Settings::default());
        append(&mut history, &mut timeline, 3);
        for name in ["00000000000000000001.ndjson", "00000000000000000001.idx"] {
            let found = disk.peek(&Path::new("/a-2/history").join(name));
            assert!(found.is_some(), "seed {seed}: {name}");
        }
        simulated::end();
    }
}

/// A start without a snapshot makes the history again; a power cut in the middle of it leaves nothing
/// that the next start refuses.
#[tokio::test(start_paused = true)]
async fn a_power_cut_while_sealed_segments_are_made_again_is_no_damage() {
    for seed in 0..SEEDS {
        simulated::begin(seed);
        let mut disk = Disk::new("a", 64 << 20);
        for life in 0..4 {
            let mut history = open_history(&format!("a-{life}"), &disk);
            let mut timeline = StateMachine::new(Settings::default());
            let frames = world::random() % 40 + 1;
            for n in 1..=frames {
                let Applied { frames, .. } = timeline.apply(&batch(n)).unwrap();
                history.append(&frames.unwrap()).unwrap();
                if n % 7 == 0
                    && let Some(pending) = history.seal().unwrap()
                    && world::random().is_multiple_of(2)
                {
                    pending.complete().unwrap();
                }
            }
            disk = disk.after_power_cut();
        }
        simulated::end();
    }
}

/// What the simulated disk promises: nothing is found in a folder that is not there.
#[tokio::test(start_paused = true)]
async fn a_folder_that_a_power_cut_loses_takes_what_is_in_it_along() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..SEEDS {
        simulated::begin(seed);
        let disk = Disk::new("a", 64 << 20);
        world::mount("a-1", &disk);
        fs::create_dir_all("/a-1/outer/inner").unwrap();

        let disk = disk.after_power_cut();
        world::mount("a-2", &disk);
        let (outer, inner) = (Path::new("/a-2/outer"), Path::new("/a-2/outer/inner"));
        assert!(fs::is_dir(outer) || !fs::is_dir(inner), "seed {seed}");
        match fs::is_dir(outer) {
            true => kept += 1,
            false => lost += 1,
        }
        simulated::end();
    }
    assert!(lost > 0 && kept > 0, "{lost} lost, {kept} kept");
}

/// What another server sent and a flush did not bring to the disk is fetched once more: it reads well,
/// and a second flush would say that it is there.
#[tokio::test(start_paused = true)]
async fn a_piece_of_a_snapshot_whose_flush_failed_is_not_believed() {
    simulated::begin(1);
    let disk = Disk::new("a", 64 << 20);
    let mut history = open_history("a-1", &disk);
    append(&mut history, &mut StateMachine::new(Settings::default()), 9);
    let pinned = history.pin(Index(9));
    let segments = pinned.digests().unwrap();
    let lines = pinned
        .read(Index(1), 0, segments[0].bytes as usize)
        .unwrap();

    let disk = Disk::new("b", 64 << 20);
    world::mount("b-1", &disk);
    let mut incoming = Incoming::new(Path::new("/b-1/data"));
    let offer = SnapshotOffer {
        state_bytes: 1,
        state_crc: 0,
        frame: Index(9),
        segments,
    };
    let file = IncomingFile::Segment(Index(1));
    let missing = |found: &[Missing]| found.iter().any(|m| m.file == file && m.from == 0);
    assert!(missing(&incoming.begin(offer.clone()).unwrap()));
    disk.set_faults(|faults| faults.fail_next_sync = true);
    incoming.write(file, 0, &lines).unwrap_err();
    assert!(missing(&incoming.begin(offer.clone()).unwrap()));
    assert!(incoming.write(file, 0, &lines).unwrap());
    assert!(!missing(&incoming.begin(offer).unwrap()));
    simulated::end();
}
