//! Numbers of senders: each transaction once and in order, whatever is sent again, lost or replayed.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use proptest::prelude::*;
use tidings_event::{FrameView, Index, Limits, NewEvent, Timestamp};
use tidings_timeline::{
    Batch, CommandGroup, Outcome, Refusal, SenderNumber, Settings, Stamper, StateMachine,
};

const START: i64 = 1_795_000_000_000_000;

/// Transaction `number` of a sender's epoch; its key says which it is.
fn push(group: &mut CommandGroup, sender: u128, epoch: u64, number: u64) {
    let json = format!(r#"{{"Topic":"T","Type":"A","Key":"{sender}.{epoch}.{number}"}}"#);
    let event = NewEvent::parse(json.as_bytes()).unwrap();
    let of = SenderNumber {
        sender,
        epoch: START as u64 + epoch,
        number,
    };
    let mut stamper = Stamper::new("n1", "test", 1);
    group
        .publish_numbered(of, &[event], &mut stamper, &Limits::default())
        .unwrap();
}

fn batch(group: CommandGroup, at: usize) -> Batch {
    Batch {
        time: Timestamp::from_unix_micros(START + at as i64),
        groups: vec![group.into_bytes()],
    }
}

/// The keys of all frames that a batch made.
fn keys(applied: &tidings_timeline::Applied) -> Vec<String> {
    let Some(frames) = &applied.frames else {
        return Vec::new();
    };
    (0..frames.len())
        .map(|ordinal| {
            let line = frames.line(ordinal);
            let view = FrameView::parse(&line).unwrap();
            view.events()[0].key().into_owned()
        })
        .collect()
}

#[test]
fn a_transaction_refused_for_its_ids_has_had_its_turn() {
    let mut machine = StateMachine::new(Settings::default());
    let limits = Limits::default();
    let mut stamper = Stamper::new("n1", "test", 1);
    let mut group = CommandGroup::new();
    let event = |id: &'static str| NewEvent::parse(id.as_bytes()).unwrap();
    let (one, two) = (
        event(r#"{"Topic":"T","Type":"A","Id":"1"}"#),
        event(r#"{"Topic":"T","Type":"A","Id":"2"}"#),
    );
    let of = |number| SenderNumber {
        sender: 1,
        epoch: START as u64,
        number,
    };
    group
        .publish_numbered(of(1), std::slice::from_ref(&one), &mut stamper, &limits)
        .unwrap();
    group
        .publish_numbered(of(2), &[one.clone(), two.clone()], &mut stamper, &limits)
        .unwrap();
    group
        .publish_numbered(of(3), std::slice::from_ref(&one), &mut stamper, &limits)
        .unwrap();
    group
        .publish_numbered(of(4), std::slice::from_ref(&two), &mut stamper, &limits)
        .unwrap();
    let applied = machine.apply(&batch(group, 1)).unwrap();
    let index = |index| Index(index);
    assert_eq!(
        applied.outcomes,
        [
            Outcome::Published { index: index(1) },
            Outcome::Refused(Box::new(Refusal::PartlyDuplicate { index: index(1) })),
            Outcome::Duplicate { index: index(1) },
            Outcome::Published { index: index(2) },
        ]
    );
    assert_eq!(machine.view().senders, 1);
}

#[test]
fn a_snapshot_without_senders_is_of_the_version_before() {
    let mut machine = StateMachine::new(Settings::default());
    assert_eq!(machine.snapshot()[0], 1);
    let mut group = CommandGroup::new();
    push(&mut group, 1, 0, 1);
    machine.apply(&batch(group, 1)).unwrap();
    let snapshot = machine.snapshot();
    assert_eq!(snapshot[0], 2);
    let restored = StateMachine::restore(&snapshot).unwrap();
    assert_eq!(restored.snapshot(), snapshot);
    // Cut at any place it is refused, never taken for a smaller one.
    for end in 1..snapshot.len() {
        assert!(StateMachine::restore(&snapshot[..end]).is_err());
    }
}

/// What a network does to a sender's requests.
#[derive(Clone, Debug)]
enum Step {
    /// It sends from its first unanswered number on, so many; the first `heard` answers arrive.
    Send { sender: u8, count: u8, heard: u8 },
    /// An old request arrives again, long after.
    Late { pick: u16 },
    /// The sender restarts: a new epoch for what comes, as soon as the former is answered.
    Restart { sender: u8 },
    /// Another server takes over from a snapshot.
    TakeOver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u8, 1..9_u8, 0..9_u8)
            .prop_map(|(sender, count, heard)| Step::Send { sender, count, heard }),
        3 => any::<u16>().prop_map(|pick| Step::Late { pick }),
        1 => (0..3_u8).prop_map(|sender| Step::Restart { sender }),
        1 => Just(Step::TakeOver),
    ]
}

#[derive(Clone, Copy, Default)]
struct Sender {
    epoch: u64,
    /// Answered up to here.
    heard: u64,
    /// Sent up to here at some time.
    sent: u64,
    wants_restart: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is sent again, answered or not, late or in time, over any change of server: every
    /// number is on the timeline once, in order, and a repeat is told the index that it has.
    #[test]
    fn g5_each_number_is_taken_once_and_in_order(steps in proptest::collection::vec(step(), 1..60)) {
        let mut machine = StateMachine::new(Settings::default());
        let mut senders = [Sender::default(); 3];
        let mut requests: Vec<(u128, u64, u64, u64)> = Vec::new();
        let mut timeline: Vec<String> = Vec::new();
        let mut batches = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            let (sender, epoch, first, count) = match *step {
                Step::Send { sender, count, .. } => {
                    let state = &mut senders[usize::from(sender)];
                    if state.wants_restart && state.heard == state.sent {
                        *state = Sender { epoch: state.epoch + 1, ..Sender::default() };
                    }
                    let first = state.heard + 1;
                    let count = if state.wants_restart {
                        state.sent - state.heard
                    } else {
                        u64::from(count)
                    };
                    state.sent = state.sent.max(first + count - 1);
                    (u128::from(sender), state.epoch, first, count)
                }
                Step::Late { pick } if !requests.is_empty() => {
                    requests[usize::from(pick) % requests.len()]
                }
                Step::Restart { sender } => {
                    senders[usize::from(sender)].wants_restart = true;
                    continue;
                }
                Step::TakeOver => {
                    machine = StateMachine::restore(&machine.snapshot()).unwrap();
                    continue;
                }
                Step::Late { .. } => continue,
            };
            requests.push((sender, epoch, first, count));
            let mut group = CommandGroup::new();
            for number in first..first + count {
                push(&mut group, sender, epoch, number);
            }
            let batch = batch(group, at);
            let applied = machine.apply(&batch).unwrap();
            batches.push(batch);
            timeline.extend(keys(&applied));
            for (number, outcome) in (first..).zip(&applied.outcomes) {
                let key = format!("{sender}.{epoch}.{number}");
                let place = timeline.iter().position(|taken| *taken == key);
                match outcome {
                    Outcome::Published { index } | Outcome::Duplicate { index }
                        if *index != Index::ZERO =>
                    {
                        prop_assert_eq!(place.map(|place| place as u64 + 1), Some(index.get()));
                    }
                    // Of an epoch that is over.
                    Outcome::Duplicate { .. } => {
                        prop_assert!(epoch < senders[sender as usize].epoch || place.is_some());
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            if let Step::Send { sender, heard, .. } = *step {
                let state = &mut senders[usize::from(sender)];
                state.heard += u64::from(heard).min(count);
            }
        }
        // Each once and in order.
        for sender in 0..3_u128 {
            let prefix = format!("{sender}.");
            let taken: Vec<(u64, u64)> = timeline
                .iter()
                .filter_map(|key| key.strip_prefix(&prefix)?.split_once('.'))
                .map(|(epoch, number)| (epoch.parse().unwrap(), number.parse().unwrap()))
                .collect();
            for pair in taken.windows(2) {
                let follows = pair[1] == (pair[0].0, pair[0].1 + 1) || pair[1].0 > pair[0].0 && pair[1].1 == 1;
                prop_assert!(follows, "{:?}", pair);
            }
            let state = senders[sender as usize];
            let last = taken.iter().filter(|(epoch, _)| *epoch == state.epoch).count() as u64;
            prop_assert!(last >= state.heard, "what was answered is there");
        }
        // A server that applies all of it anew has the same.
        let mut again = StateMachine::new(Settings::default());
        for batch in &batches {
            again.apply(batch).unwrap();
        }
        prop_assert_eq!(again.snapshot(), machine.snapshot());
    }
}
