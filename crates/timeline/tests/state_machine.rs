//! The state machine as its callers see it: contiguous indexes, one history, nothing applied twice.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use proptest::prelude::*;
use tidings_event::{FrameView, Index, Limits, NamespaceSet, NewEvent, Timestamp};
use tidings_timeline::{
    Applied, Batch, CommandGroup, EntryChange, Outcome, Refusal, Settings, Stamper, StateMachine,
    TimelineId,
};

fn event(json: &str) -> NewEvent<'_> {
    NewEvent::parse(json.as_bytes()).unwrap()
}

fn stamper() -> Stamper {
    let mut stamper = Stamper::new("n1", "test", 1);
    stamper.set_time(Timestamp::from_unix_micros(1_795_333_547_123_456));
    stamper
}

fn batch(group: CommandGroup, seconds: i64) -> Batch {
    Batch {
        time: Timestamp::from_unix_micros(seconds * 1_000_000),
        groups: vec![group.into_bytes()],
    }
}

fn publish(machine: &mut StateMachine, transactions: &[&[&str]]) -> Applied {
    let mut group = CommandGroup::new();
    let mut stamper = stamper();
    for transaction in transactions {
        let events: Vec<_> = transaction.iter().map(|json| event(json)).collect();
        group
            .publish(&events, &mut stamper, &Limits::default())
            .unwrap();
    }
    machine.apply(&batch(group, 1)).unwrap()
}

fn change(machine: &mut StateMachine, delete: bool, json: &str, cas: Option<u64>) -> Outcome {
    let mut group = CommandGroup::new();
    let event = event(json);
    let change = EntryChange {
        cas: cas.map(Index),
        event: &event,
    };
    if delete {
        group
            .delete_entry(change, &mut stamper(), &Limits::default())
            .unwrap();
    } else {
        group
            .put_entry(change, &mut stamper(), &Limits::default())
            .unwrap();
    }
    machine.apply(&batch(group, 2)).unwrap().outcomes.remove(0)
}

#[test]
fn a_transaction_is_one_frame_in_the_one_form() {
    let mut machine = StateMachine::new(Settings::default());
    let applied = publish(
        &mut machine,
        &[
            &[
                r#"{"Topic":"Job","Type":"JobRegistered","Key":"web","Id":"a","Payload":{ "n": 1.0 }}"#,
            ],
            &[
                r#"{"Topic":"Job","Type":"A","Id":"b"}"#,
                r#"{"Topic":"Node","Type":"B","Id":"c","FilterKeys":["x","y"],"Namespace":""}"#,
            ],
        ],
    );
    assert_eq!(
        applied.outcomes,
        vec![
            Outcome::Published { index: Index(1) },
            Outcome::Published { index: Index(2) }
        ]
    );
    let frames = applied.frames.unwrap();
    assert_eq!(
        std::str::from_utf8(&frames.bytes).unwrap(),
        concat!(
            r#"{"Index":1,"Events":[{"Index":1,"Topic":"Job","Type":"JobRegistered","Key":"web","Namespace":"default","FilterKeys":null,"Id":"a","Time":"2026-11-22T07:45:47.123456Z","Node":"n1","Source":"test","Payload":{"n":1.0}}]}"#,
            "\n",
            r#"{"Index":2,"Events":[{"Index":2,"Topic":"Job","Type":"A","Key":"","Namespace":"default","FilterKeys":null,"Id":"b","Time":"2026-11-22T07:45:47.123456Z","Node":"n1","Source":"test","Payload":null},"#,
            r#"{"Index":2,"Topic":"Node","Type":"B","Key":"","Namespace":"","FilterKeys":["x","y"],"Id":"c","Time":"2026-11-22T07:45:47.123456Z","Node":"n1","Source":"test","Payload":null}]}"#,
            "\n",
        )
    );
    let view = FrameView::parse(&frames.line(1))
        .map(|view| view.digest())
        .unwrap();
    assert_eq!(
        view, frames.digests[1],
        "a stored line gives the digest that was written beside it"
    );
}

#[test]
fn a_timeline_is_founded_once_and_keeps_its_id() {
    let mut machine = StateMachine::new(Settings::default());
    assert_eq!(machine.view().timeline, None);
    for id in [7, 8] {
        let mut group = CommandGroup::new();
        group.found(TimelineId(id));
        machine.apply(&batch(group, 1)).unwrap();
    }
    let restored = StateMachine::restore(&machine.snapshot()).unwrap();
    for machine in [machine, restored] {
        assert_eq!(machine.view().timeline, Some(TimelineId(7)));
    }
    assert_eq!(TimelineId(7).to_string(), "00000000000000000000000007");
}

#[test]
fn the_same_ids_give_the_first_index_again() {
    let mut machine = StateMachine::new(Settings::default());
    let one = r#"{"Topic":"Job","Type":"A","Id":"1"}"#;
    let two = r#"{"Topic":"Job","Type":"A","Id":"2"}"#;
    let three = r#"{"Topic":"Job","Type":"A","Id":"3"}"#;
    publish(&mut machine, &[&[one, two]]);
    let again = publish(
        &mut machine,
        &[&[one, two], &[one], &[three], &[one, three], &[three]],
    );
    assert_eq!(
        again.outcomes,
        vec![
            Outcome::Duplicate { index: Index(1) },
            Outcome::Duplicate { index: Index(1) },
            Outcome::Published { index: Index(2) },
            Outcome::Refused(Box::new(Refusal::PartlyDuplicate { index: Index(1) })),
            Outcome::Duplicate { index: Index(2) },
        ]
    );
}

#[test]
fn either_all_events_of_a_transaction_bear_an_id_or_none() {
    let with = event(r#"{"Topic":"Job","Type":"A","Id":"1"}"#);
    let without = event(r#"{"Topic":"Job","Type":"A"}"#);
    let mut group = CommandGroup::new();
    let mut publish = |events: &[NewEvent<'_>]| {
        let refused = group.publish(events, &mut stamper(), &Limits::default());
        refused.map_err(|error| error.code())
    };
    assert_eq!(publish(&[with.clone(), without.clone()]), Err("some_ids"));
    assert_eq!(publish(&[without.clone(), without]), Ok(()));
    assert_eq!(publish(&[with]), Ok(()));
    assert_eq!(group.len(), 2);
}

#[test]
fn ids_are_remembered_within_the_window_and_across_restarts() {
    let settings = Settings {
        dedupe_ids_max: 2,
        ..Settings::default()
    };
    let mut machine = StateMachine::new(settings);
    let json = |id: u32| format!(r#"{{"Topic":"Job","Type":"A","Id":"{id}"}}"#);
    for id in 1..=3 {
        publish(&mut machine, &[&[&json(id)]]);
    }
    let mut machine = StateMachine::restore(&machine.snapshot()).unwrap();
    let outcomes = publish(&mut machine, &[&[&json(2)], &[&json(1)]]).outcomes;
    assert_eq!(
        outcomes,
        vec![
            Outcome::Duplicate { index: Index(2) },
            Outcome::Published { index: Index(4) }
        ]
    );
}

#[test]
fn ids_are_forgotten_by_age() {
    let settings = Settings {
        dedupe_age_s: 10,
        ..Settings::default()
    };
    let mut machine = StateMachine::new(settings);
    let publish_at = |machine: &mut StateMachine, seconds| {
        let mut group = CommandGroup::new();
        let one = event(r#"{"Topic":"Job","Type":"A","Id":"1"}"#);
        group
            .publish(&[one], &mut stamper(), &Limits::default())
            .unwrap();
        machine
            .apply(&batch(group, seconds))
            .unwrap()
            .outcomes
            .remove(0)
    };
    assert_eq!(
        publish_at(&mut machine, 0),
        Outcome::Published { index: Index(1) }
    );
    assert_eq!(
        publish_at(&mut machine, 10),
        Outcome::Duplicate { index: Index(1) }
    );
    publish(&mut machine, &[]); // time 1: nothing is forgotten
    let mut tick = CommandGroup::new();
    tick.retain(Index::ZERO);
    machine.apply(&batch(tick, 11)).unwrap();
    assert_eq!(
        publish_at(&mut machine, 11),
        Outcome::Published { index: Index(2) }
    );
}

#[test]
fn entries_are_changed_under_their_conditions() {
    let mut machine = StateMachine::new(Settings::default());
    let put = r#"{"Topic":"Volume","Type":"EntryPut","Key":"gv1","Payload":{"a":1}}"#;
    let stored = |index| Outcome::Stored {
        index: Index(index),
    };
    let mismatch =
        |expected, current| Outcome::Refused(Box::new(Refusal::CasMismatch { expected, current }));
    assert_eq!(change(&mut machine, false, put, Some(3)), mismatch(3, 0));
    assert_eq!(change(&mut machine, false, put, Some(0)), stored(1));
    assert_eq!(change(&mut machine, false, put, Some(0)), mismatch(0, 1));
    assert_eq!(change(&mut machine, false, put, Some(1)), stored(2));
    let view = machine.view();
    let entry = view.entry("Volume", "default", "gv1").unwrap();
    assert_eq!(
        (entry.create_index, entry.modify_index),
        (Index(1), Index(2))
    );
    assert_eq!(
        FrameView::parse(&entry.line()).unwrap().events()[0].payload(),
        r#"{"a":1}"#
    );
    assert_eq!(view.topic_index("Volume"), Index(2));
    assert_eq!(change(&mut machine, true, put, Some(1)), mismatch(1, 2));
    assert_eq!(
        change(&mut machine, true, put, Some(2)),
        Outcome::Deleted { index: Index(3) }
    );
    assert_eq!(
        change(&mut machine, true, put, None),
        Outcome::Refused(Box::new(Refusal::NoEntry))
    );
    // What was taken before does not change.
    assert_eq!(view.list("Volume", &NamespaceSet::All, "gv").count(), 1);
    assert_eq!(
        machine
            .view()
            .list("Volume", &NamespaceSet::All, "")
            .count(),
        0
    );
    assert_eq!(machine.view().topic_index("Volume"), Index(3));
}

#[test]
fn segments_are_sealed_by_size_or_by_command_never_empty() {
    let settings = Settings {
        segment_bytes: 600,
        ..Settings::default()
    };
    let mut machine = StateMachine::new(settings);
    let one: &[&str] = &[r#"{"Topic":"Job","Type":"A"}"#];
    let sealed: Vec<bool> = (0..6).map(|_| publish(&mut machine, &[one]).seal).collect();
    assert_eq!(sealed, vec![false, false, true, false, false, true]);
    let mut group = CommandGroup::new();
    group.seal();
    assert!(
        !machine.apply(&batch(group.clone(), 1)).unwrap().seal,
        "nothing is in it yet"
    );
    publish(&mut machine, &[one]);
    assert!(machine.apply(&batch(group, 1)).unwrap().seal);
}

#[test]
fn what_is_kept_never_goes_back_nor_beyond_the_newest() {
    let mut machine = StateMachine::new(Settings::default());
    let one: &[&str] = &[r#"{"Topic":"Job","Type":"A"}"#];
    publish(&mut machine, &[one, one, one]);
    let mut retain = |oldest| {
        let mut group = CommandGroup::new();
        group.retain(Index(oldest));
        machine.apply(&batch(group, 1)).unwrap().retain
    };
    assert_eq!(retain(2), Some(Index(2)));
    assert_eq!(retain(1), None);
    assert_eq!(retain(99), Some(Index(4)));
}

#[derive(Clone, Debug)]
enum Step {
    Publish {
        topic: u8,
        id: Option<u8>,
        events: u8,
    },
    Put {
        key: u8,
        cas: Option<u8>,
    },
    Delete {
        key: u8,
    },
    Retain {
        oldest: u8,
    },
    Seal,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, proptest::option::of(0..20_u8), 1..4_u8)
            .prop_map(|(topic, id, events)| Step::Publish { topic, id, events }),
        2 => (0..4_u8, proptest::option::of(0..6_u8)).prop_map(|(key, cas)| Step::Put { key, cas }),
        1 => (0..4_u8).prop_map(|key| Step::Delete { key }),
        1 => (0..30_u8).prop_map(|oldest| Step::Retain { oldest }),
        1 => Just(Step::Seal),
    ]
}

fn group_of(steps: &[Step], stamper: &mut Stamper) -> CommandGroup {
    let mut group = CommandGroup::new();
    let limits = Limits::default();
    for step in steps {
        match step {
            Step::Publish { topic, id, events } => {
                let texts: Vec<String> = (0..*events)
                    .map(|at| match id {
                        Some(id) => {
                            format!(r#"{{"Topic":"T{topic}","Type":"A","Id":"{id}-{at}"}}"#)
                        }
                        None => {
                            format!(r#"{{"Topic":"T{topic}","Type":"A","Payload":{{"at":{at}}}}}"#)
                        }
                    })
                    .collect();
                let events: Vec<_> = texts.iter().map(|text| event(text)).collect();
                group.publish(&events, stamper, &limits).unwrap();
            }
            Step::Put { key, cas } => {
                let text =
                    format!(r#"{{"Topic":"S","Type":"EntryPut","Key":"k{key}","Payload":{{}}}}"#);
                let event = event(&text);
                let cas = cas.map(|cas| Index(u64::from(cas)));
                group
                    .put_entry(EntryChange { cas, event: &event }, stamper, &limits)
                    .unwrap();
            }
            Step::Delete { key } => {
                let text = format!(r#"{{"Topic":"S","Type":"EntryDeleted","Key":"k{key}"}}"#);
                let event = event(&text);
                group
                    .delete_entry(
                        EntryChange {
                            cas: None,
                            event: &event,
                        },
                        stamper,
                        &limits,
                    )
                    .unwrap();
            }
            Step::Retain { oldest } => group.retain(Index(u64::from(*oldest))),
            Step::Seal => group.seal(),
        }
    }
    group
}

proptest! {
    /// Indexes are contiguous, and whoever stops anywhere, is restored from a snapshot and goes on
    /// (with batches that went through bytes) ends up with the same bytes.
    #[test]
    fn g1_g3_the_same_batches_give_the_same_bytes_across_restarts(
        batches in proptest::collection::vec(proptest::collection::vec(step(), 1..8), 1..20),
        restart in 0..20_usize,
    ) {
        let settings = Settings { segment_bytes: 2_000, dedupe_ids_max: 10, ..Settings::default() };
        let mut stamper = stamper();
        let mut one = StateMachine::new(settings.clone());
        let mut other = StateMachine::new(settings);
        let mut newest = 0;
        for (at, steps) in batches.iter().enumerate() {
            let batch = batch(group_of(steps, &mut stamper), at as i64);
            let joined: Vec<u8> = batch.parts().concat();
            if at == restart {
                other = StateMachine::restore(&one.snapshot()).unwrap();
            }
            let applied = one.apply(&batch).unwrap();
            let again = other.apply(&Batch::decode(joined.into()).unwrap()).unwrap();
            prop_assert_eq!(&applied.outcomes, &again.outcomes);
            prop_assert_eq!((applied.seal, applied.retain), (again.seal, again.retain));
            prop_assert_eq!(applied.frames.is_some(), again.frames.is_some());
            if let (Some(frames), Some(same)) = (applied.frames, again.frames) {
                prop_assert_eq!(&frames.bytes, &same.bytes);
                for ordinal in 0..frames.len() {
                    newest += 1;
                    let line = frames.line(ordinal);
                    let view = FrameView::parse(&line).unwrap();
                    prop_assert_eq!(view.index(), Index(newest));
                    prop_assert_eq!(view.digest(), frames.digests[ordinal]);
                    prop_assert_eq!(crc32fast::hash(&line), frames.crcs[ordinal]);
                }
            }
        }
        prop_assert_eq!(one.index(), Index(newest));
        prop_assert_eq!(one.snapshot(), other.snapshot());
    }

    /// Any bytes in the log: an error or a harmless batch, no panic.
    #[test]
    fn g9_arbitrary_batches_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), tag in 0..10_u8) {
        let mut batch = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, tag];
        batch.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        batch.extend_from_slice(&bytes);
        for bytes in [bytes, batch] {
            if let Ok(batch) = Batch::decode(bytes.into()) {
                let mut machine = StateMachine::new(Settings::default());
                let _ = machine.apply(&batch);
            }
        }
    }
}
