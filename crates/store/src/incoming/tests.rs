use std::collections::BTreeMap;

use tidings_event::{Limits, NewEvent, Timestamp};
use tidings_timeline::{Batch, CommandGroup, HistoryReader as _, Settings, Stamper, StateMachine};

use super::install::finish_stepwise;
use super::*;
use crate::history::{History, HistoryConfig};
use crate::snapshots::SnapshotStore;
use crate::{DataDir, PinnedHistory};

/// Frames that fit into one segment.
const SEGMENT_FRAMES: u64 = 5;

/// A server: its data directory, opened, and its state.
struct Server {
    dir: tempfile::TempDir,
    data: Option<DataDir>,
    history: History,
    timeline: StateMachine,
}

impl Server {
    fn new() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let (history, _) = History::open(&data.history(), HistoryConfig::default()).unwrap();
        // about the bytes of a frame; the indexes are of one or two digits
        let line = 294;
        Server {
            dir,
            data: Some(data),
            history,
            timeline: StateMachine::new(Settings {
                segment_bytes: SEGMENT_FRAMES * line - line / 2,
                ..Settings::default()
            }),
        }
    }

    fn with(frames: u64) -> Server {
        let mut server = Server::new();
        (0..frames).for_each(|n| server.publish(n));
        server
    }

    fn publish(&mut self, n: u64) {
        let event = format!(
            r#"{{"Topic":"Job","Type":"T","Key":"k{n:06}","Id":"{n:026}","Payload":{{"p":"{:060}"}}}}"#,
            n
        );
        let mut group = CommandGroup::new();
        group
            .publish(
                &[NewEvent::parse(event.as_bytes()).unwrap()],
                &mut Stamper::new("n1", "test", 1),
                &Limits::default(),
            )
            .unwrap();
        self.apply(group);
    }

    fn apply(&mut self, group: CommandGroup) {
        let batch = Batch {
            time: Timestamp::from_unix_micros(1_000_000),
            groups: vec![group.into_bytes()],
        };
        let applied = self.timeline.apply(&batch).unwrap();
        if let Some(frames) = applied.frames {
            self.history.append(&frames).unwrap();
        }
        if applied.seal {
            self.history.seal().unwrap();
        }
        if let Some(oldest) = applied.retain {
            self.history.retain(oldest).unwrap();
        }
    }

    fn offer(&self) -> (SnapshotOffer, Vec<u8>, PinnedHistory) {
        let state = self.timeline.snapshot();
        let pinned = self.history.pin(self.timeline.index());
        let offer = SnapshotOffer {
            state_bytes: state.len() as u64,
            state_crc: crc32fast::hash(&state),
            frame: self.timeline.index(),
            segments: pinned.digests().unwrap(),
        };
        (offer, state, pinned)
    }

    fn lines(&self) -> BTreeMap<String, Vec<u8>> {
        lines_in(&self.dir.path().join("history"))
    }

    /// Fetches what is missing; how many bytes that were.
    fn fetch(&self, incoming: &mut Incoming, from: &Server) -> u64 {
        let (offer, state, pinned) = from.offer();
        let missing = incoming.begin(offer.clone()).unwrap();
        let mut fetched = 0;
        for Missing { file, from } in missing {
            let bytes = match file {
                IncomingFile::State => Bytes::from(state.clone()).slice(from as usize..),
                IncomingFile::Segment(first) => {
                    pinned.check(first).unwrap();
                    let segment = offer.segments.iter().find(|s| s.first == first).unwrap();
                    let bytes = (segment.bytes - from) as usize;
                    pinned.read(first, from, bytes).unwrap()
                }
            };
            fetched += bytes.len() as u64;
            let mut at = from;
            let mut whole = false;
            for piece in bytes.chunks(100) {
                assert!(!whole);
                whole = incoming.write(file, at, piece).unwrap();
                at += piece.len() as u64;
            }
            assert!(whole);
        }
        assert_eq!(incoming.missing_bytes(), 0);
        fetched
    }
}

fn lines_in(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    disk::list(folder, false)
        .unwrap()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".ndjson"))
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect()
}

/// Bytes in the segment that is being written, as the state has it.
fn active_bytes(server: &Server) -> u64 {
    server.timeline.segment_bytes()
}

fn reopened(dir: &Path, frame: u64) -> History {
    let config = HistoryConfig {
        verify: crate::VerifyOnStart::All,
        durable_to: Some(Index(frame)),
    };
    let data = DataDir::open(dir).unwrap();
    History::open(&data.history(), config).unwrap().0
}

#[test]
fn a_history_is_copied_byte_for_byte_wherever_it_ends() {
    for frames in 0..=2 * SEGMENT_FRAMES + 1 {
        let source = Server::with(frames);
        let target = Server::new();
        let mut incoming = Incoming::new(target.dir.path());
        target.fetch(&mut incoming, &source);
        incoming.prepare(active_bytes(&source)).unwrap();
        let state = incoming.state().unwrap();
        incoming.install(7, b"meta", &state).unwrap();
        drop(target.data);
        let mut history = reopened(target.dir.path(), frames);
        assert_eq!(history.newest(), Index(frames));
        history.cut_after(Index(frames)).unwrap();
        assert_eq!(
            lines_in(&target.dir.path().join("history")),
            source.lines(),
            "{frames} frames"
        );
        let snapshots = SnapshotStore::open(&target.dir.path().join("snapshots")).unwrap();
        let snapshot = snapshots.latest().unwrap().unwrap();
        assert_eq!((snapshot.index, snapshot.frame), (7, Index(frames)));
        assert_eq!(snapshot.data, source.timeline.snapshot());
        assert!(incoming.is_empty());
        let report = crate::verify(target.dir.path(), &mut |_| {}).unwrap();
        assert_eq!(report.faults, []);
    }
}

#[test]
fn the_active_segment_is_copied_just_up_to_the_frame() {
    let mut source = Server::with(SEGMENT_FRAMES + 2);
    let (offer, _, _) = source.offer();
    let at_snapshot = source.lines();
    let pinned = source.history.pin(offer.frame);
    // It grows, is sealed and let go of while it is copied.
    for n in 100..100 + 4 * SEGMENT_FRAMES {
        source.publish(n);
    }
    assert_eq!(
        source.history.pin(offer.frame).digests().unwrap(),
        offer.segments
    );
    let mut group = CommandGroup::new();
    group.retain(Index(3 * SEGMENT_FRAMES));
    source.apply(group);
    assert!(source.history.reader().oldest() > offer.frame);
    assert_eq!(pinned.digests().unwrap(), offer.segments);
    for (segment, bytes) in offer.segments.iter().zip(at_snapshot.values()) {
        let read = pinned
            .read(segment.first, 0, segment.bytes as usize)
            .unwrap();
        assert_eq!(&read[..], &bytes[..]);
    }
    let before = source.lines().len();
    drop(pinned);
    assert_eq!(
        source.lines().len(),
        before - 2,
        "gone with the last reader"
    );
}

#[test]
fn what_has_come_is_not_fetched_again_and_what_is_there_is_not_fetched_at_all() {
    let source = Server::with(4 * SEGMENT_FRAMES + 2);
    let mut target = Server::with(SEGMENT_FRAMES + 1);
    let (offer, state, pinned) = source.offer();
    let total = offer.state_bytes + offer.segments.iter().map(|s| s.bytes).sum::<u64>();
    for pending in 0..2 {
        // The own seal must be complete to be relied on.
        if pending == 1 {
            target.history.sync().unwrap();
        }
        let mut incoming = Incoming::new(target.dir.path());
        let missing = incoming.begin(offer.clone()).unwrap();
        let linked = !missing
            .iter()
            .any(|m| m.file == IncomingFile::Segment(Index(1)));
        assert_eq!(linked, pending == 1);
    }
    let own = offer.segments[0].bytes;
    let mut incoming = Incoming::new(target.dir.path());
    incoming.begin(offer.clone()).unwrap();
    assert_eq!(incoming.missing_bytes(), total - own);
    let second = offer.segments[1];
    let half = second.bytes / 2;
    let bytes = pinned.read(second.first, 0, half as usize).unwrap();
    let file = IncomingFile::Segment(second.first);
    assert!(!incoming.write(file, 0, &bytes).unwrap());
    assert!(incoming.write(IncomingFile::State, 0, &state).unwrap());

    // After a restart.
    let mut incoming = Incoming::new(target.dir.path());
    let missing = incoming.begin(offer.clone()).unwrap();
    assert_eq!(
        incoming.missing_bytes(),
        total - own - half - offer.state_bytes
    );
    assert!(missing.contains(&Missing { file, from: half }));
    assert_eq!(
        target.fetch(&mut incoming, &source),
        total - own - half - offer.state_bytes
    );
    incoming.prepare(active_bytes(&source)).unwrap();
    let state = incoming.state().unwrap();
    incoming.install(9, b"", &state).unwrap();
    assert_eq!(lines_in(&target.dir.path().join("history")), source.lines());
}

#[test]
fn a_later_offer_goes_on_where_the_earlier_one_was() {
    let mut source = Server::with(SEGMENT_FRAMES + 2);
    let target = Server::new();
    let mut incoming = Incoming::new(target.dir.path());
    let first = target.fetch(&mut incoming, &source);
    let state_bytes = source.timeline.snapshot().len() as u64;
    source.publish(77);
    let lines: u64 = source
        .lines()
        .values()
        .map(|lines| lines.len() as u64)
        .sum();
    let second = target.fetch(&mut incoming, &source);
    let state_again = source.timeline.snapshot().len() as u64;
    assert_eq!(first - state_bytes + second - state_again, lines);
}

#[test]
fn what_was_changed_on_its_way_is_refused_and_nothing_is_replaced() {
    let source = Server::with(2 * SEGMENT_FRAMES + 1);
    let target = Server::with(3);
    let before = target.lines();
    let (offer, state, pinned) = source.offer();
    let segment = offer.segments[0];
    let file = IncomingFile::Segment(segment.first);
    let bytes = pinned
        .read(segment.first, 0, segment.bytes as usize)
        .unwrap();
    let mut incoming = Incoming::new(target.dir.path());
    incoming.begin(offer.clone()).unwrap();
    for at in (0..bytes.len()).step_by(7) {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1;
        let refused = incoming.write(file, 0, &changed).unwrap_err();
        assert!(matches!(refused, IncomingError::Content { .. }), "{at}");
        assert!(incoming.prepare(0).is_err());
    }
    let mut changed = state.clone();
    changed[5] ^= 1;
    let refused = incoming
        .write(IncomingFile::State, 0, &changed)
        .unwrap_err();
    assert!(matches!(refused, IncomingError::Content { .. }));
    // Pieces that leave something out, come twice, or are too much.
    for (at, piece) in [(1, &bytes[1..9]), (0, &[&bytes[..], b"x"].concat()[..])] {
        let refused = incoming.write(file, at, piece).unwrap_err();
        assert!(matches!(refused, IncomingError::Piece { .. }));
    }
    let unknown = IncomingFile::Segment(Index(2));
    assert!(incoming.write(unknown, 0, b"x").is_err());
    assert!(matches!(
        incoming.prepare(active_bytes(&source)),
        Err(IncomingError::Incomplete { .. })
    ));
    assert_eq!(target.lines(), before);

    // It is fetched again and is right; the border must be the state's.
    target.fetch(&mut incoming, &source);
    let elsewhere = active_bytes(&source) + 1;
    assert!(matches!(
        incoming.prepare(elsewhere),
        Err(IncomingError::Offer { .. })
    ));
    incoming.prepare(active_bytes(&source)).unwrap();
}

#[test]
fn offers_that_make_no_sense_are_refused() {
    let source = Server::with(2 * SEGMENT_FRAMES + 1);
    let (offer, ..) = source.offer();
    let target = Server::new();
    let mut incoming = Incoming::new(target.dir.path());
    let changes: [fn(&mut SnapshotOffer); 10] = [
        |offer| offer.state_bytes = 0,
        |offer| offer.state_bytes = u64::MAX,
        |offer| offer.frame = Index(u64::MAX),
        |offer| offer.frame = offer.frame.next(),
        |offer| offer.segments[0].first = Index::ZERO,
        |offer| offer.segments[0].count = 0,
        |offer| offer.segments[0].count = u64::MAX,
        |offer| offer.segments[1].bytes = u64::MAX,
        |offer| offer.segments.truncate(1),
        |offer| offer.segments[1] = offer.segments[2],
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut offer = offer.clone();
        change(&mut offer);
        let refused = incoming.begin(offer).unwrap_err();
        assert!(matches!(refused, IncomingError::Offer { .. }), "{at}");
    }
    assert!(incoming.is_empty());
}

/// Old or new, never anything between, wherever the machine fails.
#[test]
fn a_crash_at_any_step_leaves_the_old_or_leads_to_the_new() {
    for frames in [SEGMENT_FRAMES, 2 * SEGMENT_FRAMES + 2] {
        for steps in 0.. {
            let source = Server::with(frames);
            let target = Server::with(3);
            let old = target.lines();
            let snapshots = SnapshotStore::open(&target.dir.path().join("snapshots")).unwrap();
            snapshots
                .write(2, Index(3), b"old", &target.timeline.snapshot())
                .unwrap();
            let mut incoming = Incoming::new(target.dir.path());
            target.fetch(&mut incoming, &source);
            incoming.prepare(active_bytes(&source)).unwrap();

            // Before it is decided, a start finds the old.
            let state = incoming.state().unwrap();
            let path = target.dir.path().join("incoming/00000000000000000009.snap");
            snapshots::write_file(&path, 9, Index(frames), b"new", &state).unwrap();
            drop(target.data);
            drop(DataDir::open(target.dir.path()).unwrap());
            assert_eq!(lines_in(&target.dir.path().join("history")), old);
            assert_eq!(snapshots.latest().unwrap().unwrap().index, 2);

            let frame = Index(frames);
            install::decide(target.dir.path(), Install { index: 9, frame }).unwrap();
            let mut left = steps;
            let crashed = finish_stepwise(target.dir.path(), &mut || {
                if left == 0 {
                    let error = std::io::Error::other("power failure");
                    return Err(StoreError::io("write", Path::new("anything"))(error));
                }
                left -= 1;
                Ok(())
            });
            if crashed.is_err() {
                let report = crate::verify(target.dir.path(), &mut |_| {}).unwrap();
                assert_eq!(report.faults, [], "{steps} steps");
            }
            let mut history = reopened(target.dir.path(), frames);
            history.cut_after(frame).unwrap();
            assert_eq!(
                lines_in(&target.dir.path().join("history")),
                source.lines(),
                "{steps} steps"
            );
            let snapshot = snapshots.latest().unwrap().unwrap();
            assert_eq!((snapshot.index, &snapshot.meta[..]), (9, &b"new"[..]));
            let incoming = Incoming::new(target.dir.path());
            assert!(incoming.is_empty() || crashed.is_ok() || steps > 4);
            if crashed.is_ok() {
                assert!(steps >= 5, "every step was one");
                break;
            }
        }
    }
}
