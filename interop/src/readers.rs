//! What a fuzzer calls: every reader of bytes that come from outside, with the
//! properties that must hold for any input.
//!
//! Each function takes arbitrary bytes and panics when a property is broken. The
//! fuzz targets in `fuzz/` call them for hours; `tests/fuzz_smoke.rs` calls them
//! with seeded random inputs in every test run.

use anyhow::Context;
use bytes::Bytes;
use tidings_event::{
    Expression, Filter, FrameView, Limits, NamespaceSet, NewEvent, Selected, Stamp, Timestamp,
    TopicSet, from_cloudevent, from_cloudevent_batch,
};
use tidings_store::fuzzing::{open_history_segment, open_raft_segment};
use tidings_store::{History, HistoryConfig, LogRecord, RaftLog, RaftLogConfig};
use tidings_timeline::{Batch, CommandGroup, EntryChange, Settings, Stamper, StateMachine};

/// Takes arbitrary bytes; panics when a property is broken.
pub type Reader = fn(&[u8]);

/// The readers, by the names of their fuzz targets.
pub const READERS: [(&str, Reader); 6] = [
    ("event_request", event_request),
    ("frame_line", frame_line),
    ("command", command),
    ("segment", segment),
    ("topic_query", topic_query),
    ("cel", cel),
];

/// A frame with all there is to match against.
const FRAME: &[u8] = br#"{"Index":7,"Events":[{"Index":7,"Topic":"Job","Type":"JobRegistered","Key":"web","Namespace":"default","FilterKeys":["a","b"],"Id":"01J0","Time":"2026-11-22T07:45:47.123456Z","Node":"n1","Source":"api","Payload":{"Job":{"ID":"web","Priority":50,"Meta":null}}},{"Index":7,"Topic":"Node","Type":"NodeDrain","Key":"n1","Namespace":"","FilterKeys":null,"Id":"01J1","Time":"2026-11-22T07:45:47.123456Z","Node":"n1","Source":"api","Payload":null}]}
"#;

fn stamper() -> Stamper {
    let mut stamper = Stamper::new("n1", "fuzz", 1);
    stamper.set_time(Timestamp::from_unix_micros(1_800_000_000_000_000));
    stamper
}

/// What a publisher sends, in each of its forms: what is taken comes out of the
/// timeline as valid frames, and is the same when it is taken again.
pub fn event_request(input: &[u8]) {
    let limits = Limits::default();
    let mut transactions = Vec::new();
    transactions.extend(NewEvent::parse_transaction(input, &limits));
    transactions.extend(NewEvent::parse_line(input, &limits));
    transactions.extend(NewEvent::parse(input).map(|event| vec![event]));
    transactions.extend(from_cloudevent(input).map(|event| vec![event]));
    transactions.extend(from_cloudevent_batch(input, &limits));
    for events in transactions {
        let mut group = CommandGroup::new();
        if group.publish(&events, &mut stamper(), &limits).is_err() {
            assert!(
                group.is_empty(),
                "a refused transaction leaves nothing behind"
            );
            continue;
        }
        let batch = Batch {
            time: stamper().time(),
            groups: vec![group.into_bytes()],
        };
        let applied = StateMachine::new(Settings::default())
            .apply(&batch)
            .expect("a command that we made can be applied");
        let frames = applied.frames.expect("a transaction makes a frame");
        assert_eq!(frames.len(), 1);
        assert!(
            frames.bytes.ends_with(b"\n")
                && frames.bytes.iter().filter(|b| **b == b'\n').count() == 1
        );
        let view = FrameView::parse(&frames.bytes).expect("a frame that we wrote can be read");
        serde_json::from_slice::<tidings_event::Frame>(&frames.bytes).expect("a frame is JSON");
        assert_eq!(view.events().len(), events.len());
        for (event, came) in events.iter().zip(view.events()) {
            assert_eq!(came.topic(), event.topic);
            assert_eq!(came.key(), event.key);
            assert_eq!(came.namespace(), event.namespace);
            assert_eq!(came.index(), view.index());
            published_again(came.raw(), came.body(), &limits);
        }
    }
}

/// An event from a stream can be published again, and its bytes stay as they are.
fn published_again(raw: &str, body: &str, limits: &Limits) {
    let event = NewEvent::parse(raw.as_bytes()).expect("an event that we wrote can be published");
    let stamp = Stamp {
        time: &Timestamp::from_unix_micros(0).text(),
        id: "unused",
        node: "unused",
        source: "unused",
    };
    let mut again = Vec::new();
    event
        .push_body(&stamp, limits, &mut again)
        .expect("an event that was taken is within the limits");
    assert_eq!(String::from_utf8_lossy(&again), body);
}

/// A frame's line: anything may be asked of what could be read.
pub fn frame_line(input: &[u8]) {
    let Ok(view) = FrameView::parse(input) else {
        return;
    };
    let _ = view.digest();
    for event in view.events() {
        let _ = (
            event.topic(),
            event.type_(),
            event.key(),
            event.namespace(),
            event.filter_keys(),
        );
        let _ = (
            event.id(),
            event.time(),
            event.node(),
            event.source(),
            event.payload(),
        );
        let _ = tidings_event::to_cloudevent(event);
    }
    for topics in ["Job", "*:web", "Node:n1"] {
        let topics = TopicSet::parse([topics]).expect("a topic of the right form");
        let filter = Filter::new(topics, NamespaceSet::parse(Some("*")), None);
        let matching = view
            .events()
            .iter()
            .filter(|event| filter.matches(event))
            .count();
        match filter.select(input).expect("a line that could be read") {
            Selected::None => assert_eq!(matching, 0),
            Selected::All => assert_eq!(matching, view.events().len()),
            Selected::Some(line) => {
                let selected = FrameView::parse(&line).expect("a selection is a frame");
                assert_eq!(
                    (selected.events().len(), selected.index()),
                    (matching, view.index())
                );
            }
        }
    }
}

/// A log entry: it is refused, or applied; and a snapshot of the outcome is read back the same.
pub fn command(input: &[u8]) {
    let Ok(batch) = Batch::decode(Bytes::copy_from_slice(input)) else {
        return;
    };
    let again =
        Batch::decode(Bytes::from(batch.parts().concat())).expect("what we encoded can be decoded");
    assert_eq!((again.time, &again.groups), (batch.time, &batch.groups));
    let mut machine = StateMachine::new(Settings::default());
    if machine.apply(&batch).is_err() {
        return;
    }
    let snapshot = machine.snapshot();
    let restored = StateMachine::restore(&snapshot).expect("our own snapshot can be read");
    assert_eq!(restored.snapshot(), snapshot);
    // And a snapshot of anything is refused or read, no more.
    let _ = StateMachine::restore(input);
}

/// Files as a crash, a bad disk or a stranger may leave them.
///
/// ```text
/// which u8 │ length of the lines u16 │ lines … │ index …      a history segment (which is even)
/// which u8 │ bytes …                                          a Raft log segment (which is odd)
/// ```
pub fn segment(input: &[u8]) {
    let Some((which, rest)) = input.split_first() else {
        return;
    };
    if which % 2 == 1 {
        return open_raft_segment(1, rest);
    }
    let Some((length, rest)) = rest.split_first_chunk() else {
        return;
    };
    let (lines, index) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    open_history_segment(1, lines, index);
}

/// Segments as the store writes them, in the form that [`segment`] takes.
fn segment_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let folder = tempfile::tempdir()?;
    let (mut history, _) = History::open(&folder.path().join("history"), HistoryConfig::default())?;
    let mut machine = StateMachine::new(Settings::default());
    for _ in 0..3 {
        let applied = machine.apply(&Batch {
            time: stamper().time(),
            groups: vec![every_command()],
        })?;
        let frames = applied.frames.context("commands that make frames")?;
        history.append(&frames)?;
    }
    history.sync()?;
    let active = history_seed(&history)?;
    history.seal()?;
    let sealed = history_seed(&history)?;

    let raft = folder.path().join("raft");
    let config = RaftLogConfig {
        segment_bytes: 4_096,
        ..RaftLogConfig::default()
    };
    let (log, _) = RaftLog::open(&raft, config)?;
    let record = |index| LogRecord {
        index,
        term: 1,
        leader: vec![1],
        kind: 0,
        parts: vec![every_command()],
    };
    log.append_and_wait((1..=3).map(record).collect())?;
    let segment = std::fs::read(raft.join(format!("{:020}.log", 1)))?;
    Ok(vec![active, sealed, [&[1][..], &segment].concat()])
}

/// The first segment of a history.
fn history_seed(history: &History) -> anyhow::Result<Vec<u8>> {
    let path = history
        .segments()
        .first()
        .context("a history has a segment")?
        .path
        .clone();
    let lines = std::fs::read(&path)?;
    let index = std::fs::read(path.with_extension("idx"))?;
    Ok([
        &[0][..],
        &u16::try_from(lines.len())?.to_le_bytes(),
        &lines,
        &index,
    ]
    .concat())
}

/// One command of each kind, encoded.
fn every_command() -> Bytes {
    let limits = Limits::default();
    let event = NewEvent::parse(
        br#"{"Topic":"Job","Type":"T","Key":"k","FilterKeys":["f"],"Payload":{"a":1}}"#,
    )
    .expect("an event");
    let change = EntryChange {
        cas: None,
        event: &event,
    };
    let mut group = CommandGroup::new();
    group
        .publish(std::slice::from_ref(&event), &mut stamper(), &limits)
        .expect("within the limits");
    group
        .put_entry(change, &mut stamper(), &limits)
        .expect("within the limits");
    group
        .delete_entry(change, &mut stamper(), &limits)
        .expect("within the limits");
    group.change_settings(&Settings::default());
    group.into_bytes()
}

/// The `topic=` and `namespace=` parameters, a value a line, the first one the namespace.
pub fn topic_query(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (namespace, topics) = text.split_once('\n').unwrap_or(("default", text));
    let Ok(topics) = TopicSet::parse(topics.split('\n')) else {
        return;
    };
    let filter = Filter::new(topics, NamespaceSet::parse(Some(namespace)), None);
    let view = FrameView::parse(FRAME).expect("a frame");
    let matching: Vec<_> = view
        .events()
        .iter()
        .filter(|event| filter.matches(event))
        .collect();
    match filter.select(FRAME).expect("a frame") {
        Selected::None => assert!(matching.is_empty()),
        Selected::All => assert_eq!(matching.len(), view.events().len()),
        Selected::Some(_) => assert!(!matching.is_empty()),
    }
    // What the broker skips without looking must be what the filter does not want.
    let digests = filter.digests();
    assert!(
        matching.is_empty() || digests.may_match(view.digest()),
        "a digest hides a match"
    );
}

/// An expression: it is refused, or gives an answer for any event.
pub fn cel(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let Ok(expression) = Expression::compile(text) else {
        return;
    };
    let filter = Filter::new(
        TopicSet::everything(),
        NamespaceSet::parse(Some("*")),
        Some(expression),
    );
    filter.select(FRAME).expect("a frame");
}

/// Inputs to begin from, good ones and nearly good ones.
pub fn seeds(reader: &str) -> Vec<Vec<u8>> {
    let texts: &[&str] = match reader {
        "event_request" => &[
            r#"{"Events":[{"Topic":"Job","Type":"JobRegistered","Key":"web","Namespace":"default","FilterKeys":["a",""],"Payload":{"Job":{"ID":"web","N":1.50,"Big":18446744073709551615}}}]}"#,
            r#"{"Events":[{"Topic":"A","Type":"B"},{"Topic":"C","Type":"D","Id":"x","Time":"2026-11-22T07:45:47Z","Node":"n","Source":"s","Payload":null,"Index":9}]}"#,
            r#" { "Topic" : "J\u00f6b" , "Type" : "\"\\\/\b\f\n\r\t" , "Key" : "\u2028\ud83d\ude00" , "Payload" : { "a" : [ 1e5 , -0.0 , true , null ] } } "#,
            r#"{"specversion":"1.0","id":"1","source":"/a","type":"com.example.b","subject":"k","time":"2026-11-22T07:45:47Z","datacontenttype":"application/json","data":{"x":1}}"#,
            r#"[{"specversion":"1.0","id":"1","source":"/a","type":"t","data_base64":"AAEC"},{"specversion":"1.0","id":"2","source":"/a","type":"t","data":"text"}]"#,
        ],
        "topic_query" => &[
            "default\nJob:web\nNode",
            "*\n*:*",
            "\n",
            "foo\n*:web\nJob\nJob:*",
            "default\na:b:c",
        ],
        "cel" => &[
            r#"Topic == "Job" && Payload.Job.Priority > 10"#,
            r#"Key.startsWith("w") || "a" in FilterKeys"#,
            r#"has(Payload.Job) && Payload.Job.ID.matches("^w.b$")"#,
            "Index % 2 == 0 ? size(Node) > 1 : true",
            r#"[1, 2, 3].exists(x, x == Index) && !(Namespace in ["default", ""])"#,
            r#"timestamp("2026-01-01T00:00:00Z") < timestamp(Time)"#,
        ],
        _ => &[],
    };
    let mut seeds: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    match reader {
        "frame_line" => seeds.push(FRAME.to_vec()),
        "segment" => seeds.extend(segment_seeds().expect("a temporary directory can be written")),
        "command" => seeds.push(
            Batch {
                time: stamper().time(),
                groups: vec![every_command()],
            }
            .parts()
            .concat(),
        ),
        "cel" => {
            // Nesting is where parsers overflow, and where evaluation may take for ever.
            seeds.extend(
                ["(", "[", "!", "-", "a.", "a[", "a?b:", "{1:"]
                    .map(|piece| piece.repeat(500).into_bytes()),
            );
            seeds.push(format!("{}Index{}", "(".repeat(900), ")".repeat(900)).into_bytes());
            seeds.push(format!("{}1 == 1", "1+".repeat(1_000)).into_bytes());
            let list = "[1,2,3,4,5,6,7,8,9,10].exists(x, ";
            seeds.push(format!("{}false{}", list.repeat(30), ")".repeat(30)).into_bytes());
        }
        _ => {}
    }
    seeds
}
