#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use std::sync::Arc;

use tidings_event::{Index, Limits, NewEvent, Timestamp};

use crate::{Batch, CommandGroup, FrameBatch, Settings, Stamper, StateMachine};

/// A state machine that has made `index` frames.
fn machine_at(index: u64) -> StateMachine {
    let mut machine = StateMachine::new(Settings::default());
    if index > 0 {
        let group = group(index as usize, |_| event("Filler", "k", "default"));
        machine.apply(&batch(group)).unwrap();
    }
    machine
}

pub(super) fn batch(group: CommandGroup) -> Batch {
    Batch {
        time: Timestamp::from_unix_micros(1_000_000),
        groups: vec![group.into_bytes()],
    }
}

pub(super) fn event<'a>(topic: &'a str, key: &'a str, namespace: &'a str) -> NewEvent<'a> {
    let mut event = NewEvent::parse(br#"{"Topic":"T","Type":"Tested","Payload":{"n":1}}"#).unwrap();
    event.topic = topic.into();
    event.key = key.into();
    event.namespace = namespace.into();
    event
}

pub(super) fn group<'a>(count: usize, event: impl Fn(usize) -> NewEvent<'a>) -> CommandGroup {
    let mut stamper = Stamper::new("n1", "test", 7);
    let mut group = CommandGroup::new();
    for at in 0..count {
        group
            .publish(&[event(at)], &mut stamper, &Limits::default())
            .unwrap();
    }
    group
}

/// `count` frames from `first` on.
pub(super) fn frames(first: u64, count: usize) -> Arc<FrameBatch> {
    let mut machine = machine_at(first - 1);
    let applied = machine
        .apply(&batch(group(count, |_| event("T", "k", "default"))))
        .unwrap();
    let frames = applied.frames.unwrap();
    assert_eq!(frames.first, Index(first));
    frames
}

#[cfg(not(tidings_loom))]
mod subscriptions {
    use std::sync::Mutex;
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;
    use tidings_event::{DigestFilter, Filter, FrameView, NamespaceSet, TopicSet};

    use super::*;
    use crate::{
        Broker, BrokerConfig, HistoryError, HistoryRead, HistoryReader, Subscription,
        SubscriptionEnd,
    };

    /// A history in memory, cut at `oldest`.
    #[derive(Default)]
    struct MemoryHistory {
        lines: Mutex<Vec<Bytes>>,
        oldest: Mutex<u64>,
    }

    impl HistoryReader for MemoryHistory {
        fn oldest(&self) -> Index {
            Index((*self.oldest.lock().unwrap()).max(1))
        }
        fn newest(&self) -> Index {
            Index(self.lines.lock().unwrap().len() as u64)
        }
        fn read(
            &self,
            from: Index,
            bytes_max: usize,
            want: &DigestFilter,
        ) -> Result<HistoryRead, HistoryError> {
            if from < self.oldest() {
                return Err(HistoryError::Gap {
                    oldest: self.oldest(),
                });
            }
            let lines = self.lines.lock().unwrap();
            let mut bytes = Vec::new();
            let mut next = from;
            let mut other_namespaces = false;
            for line in &lines[from.get() as usize - 1..] {
                let digest = FrameView::parse(line).unwrap().digest();
                if want.may_match(digest) {
                    other_namespaces |= digest.has_other_namespace();
                    bytes.extend_from_slice(line);
                }
                next = next.next();
                if bytes.len() >= bytes_max {
                    break;
                }
            }
            Ok(HistoryRead {
                bytes: bytes.into(),
                next,
                other_namespaces,
            })
        }
    }

    struct Fixture {
        machine: StateMachine,
        history: Arc<MemoryHistory>,
        broker: Arc<Broker>,
    }

    impl Fixture {
        fn new(config: BrokerConfig) -> Fixture {
            let history = Arc::new(MemoryHistory::default());
            let broker = Broker::new(history.clone(), Index::ZERO, config);
            tokio::spawn(broker.clone().run_wakeups(tokio::time::sleep));
            Fixture {
                machine: StateMachine::new(Settings::default()),
                history,
                broker,
            }
        }

        fn publish(&mut self, group: CommandGroup) {
            let frames = self.machine.apply(&batch(group)).unwrap().frames.unwrap();
            let mut lines = self.history.lines.lock().unwrap();
            lines.extend((0..frames.len()).map(|ordinal| frames.line(ordinal)));
            drop(lines);
            self.broker.append(frames);
        }
    }

    fn small() -> BrokerConfig {
        BrokerConfig {
            ring_bytes: 4_000,
            chunk_bytes: 700,
            read_bytes: 900,
            ..BrokerConfig::default()
        }
    }

    fn filter(topics: &[&str], namespace: Option<&str>) -> Filter {
        Filter::new(
            TopicSet::parse(topics.iter().copied()).unwrap(),
            NamespaceSet::parse(namespace),
            None,
        )
    }

    /// Reads until everything up to `last` was considered; the indexes of what came.
    async fn read_up_to(subscription: &mut Subscription, last: u64) -> Vec<u64> {
        let mut seen = Vec::new();
        while subscription.cursor() < Index(last) {
            let next = tokio::time::timeout(Duration::from_secs(10), subscription.next());
            let slice = match next.await {
                Ok(slice) => slice.unwrap(),
                Err(_) => panic!("stuck at {}", subscription.cursor()),
            };
            for line in slice.bytes.split_inclusive(|byte| *byte == b'\n') {
                seen.push(FrameView::parse(line).unwrap().index().get());
            }
            assert!(seen.last().is_none_or(|index| *index <= slice.last.get()));
        }
        seen
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn g4_a_reader_that_falls_behind_the_ring_goes_on_from_disk_without_a_gap() {
        let mut fixture = Fixture::new(small());
        let mut early = fixture.broker.subscribe(Filter::everything(), Index(1));
        for _ in 0..50 {
            fixture.publish(group(5, |_| event("T", "k", "default")));
        }
        assert!(fixture.broker.stats().ring_oldest > Index(200));
        assert_eq!(
            read_up_to(&mut early, 250).await,
            (1..=250).collect::<Vec<_>>()
        );
        assert!(fixture.broker.stats().history_reads > 0);
        // And it comes back to memory.
        let reads = fixture.broker.stats().history_reads;
        fixture.publish(group(3, |_| event("T", "k", "default")));
        assert_eq!(read_up_to(&mut early, 253).await, vec![251, 252, 253]);
        assert_eq!(fixture.broker.stats().history_reads, reads);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_filtered_reader_gets_what_it_asked_for_from_disk_memory_and_live() {
        let mut fixture = Fixture::new(small());
        let publish = |fixture: &mut Fixture| {
            fixture.publish(group(10, |at| match at {
                0 => event("Job", "web", "default"),
                1 => event("Job", "db", "default"),
                2 => event("Job", "web", "other"),
                3 => event("Node", "web", ""),
                _ => event("Noise", "x", "default"),
            }));
        };
        for _ in 0..30 {
            publish(&mut fixture);
        }
        let mut jobs = fixture
            .broker
            .subscribe(filter(&["Job:web"], None), Index(1));
        let mut keys = fixture
            .broker
            .subscribe(filter(&["*:web"], Some("*")), Index(1));
        let tens = |offsets: &[u64], upto: u64| -> Vec<u64> {
            (0..upto / 10)
                .flat_map(|ten| offsets.iter().map(move |offset| ten * 10 + offset))
                .collect()
        };
        assert_eq!(read_up_to(&mut jobs, 291).await, tens(&[1], 300));
        assert_eq!(read_up_to(&mut keys, 294).await, tens(&[1, 3, 4], 300));
        publish(&mut fixture);
        assert_eq!(read_up_to(&mut jobs, 301).await, vec![301]);
        assert_eq!(read_up_to(&mut keys, 304).await, vec![301, 303, 304]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_filtered_reader_that_was_told_too_much_loses_nothing() {
        let mut fixture = Fixture::new(small());
        let mut jobs = fixture
            .broker
            .subscribe(filter(&["Job:web"], None), Index(1));
        fixture.publish(group(1, |_| event("Job", "web", "default")));
        assert_eq!(read_up_to(&mut jobs, 1).await, vec![1]);
        for _ in 0..60 {
            fixture.publish(group(100, |_| event("Job", "web", "default")));
        }
        assert_eq!(
            read_up_to(&mut jobs, 6_001).await,
            (2..=6_001).collect::<Vec<_>>()
        );
        fixture.publish(group(1, |_| event("Job", "web", "default")));
        assert_eq!(read_up_to(&mut jobs, 6_002).await, vec![6_002]);
    }

    #[tokio::test]
    async fn a_reader_older_than_what_is_kept_is_told_so() {
        let mut fixture = Fixture::new(small());
        for _ in 0..50 {
            fixture.publish(group(5, |_| event("T", "k", "default")));
        }
        *fixture.history.oldest.lock().unwrap() = 100;
        let mut late = fixture.broker.subscribe(Filter::everything(), Index(3));
        match late.next().await {
            Err(SubscriptionEnd::Gap { wanted, oldest }) => {
                assert_eq!((wanted, oldest), (Index(3), Index(100)));
            }
            other => panic!("{other:?}"),
        }
        late.seek(Index(100));
        assert_eq!(read_up_to(&mut late, 250).await.first(), Some(&100));
    }

    #[tokio::test]
    async fn closing_ends_subscriptions() {
        let fixture = Fixture::new(small());
        let mut waiting = fixture.broker.subscribe(Filter::everything(), Index(1));
        let mut filtered = fixture.broker.subscribe(filter(&["Job"], None), Index(1));
        let broker = fixture.broker.clone();
        let ended = tokio::spawn(async move { (waiting.next().await, filtered.next().await) });
        tokio::task::yield_now().await;
        broker.close();
        let (one, other) = ended.await.unwrap();
        assert!(matches!(one, Err(SubscriptionEnd::Closed)));
        assert!(matches!(other, Err(SubscriptionEnd::Closed)));
        assert_eq!(broker.stats().subscriptions, 0);
    }

    /// A filter that rejects a whole ring lets others have their turn meanwhile, and misses nothing.
    #[tokio::test]
    async fn g8_a_scan_that_finds_nothing_gives_way_to_others() {
        let mut fixture = Fixture::new(BrokerConfig::default());
        let payload = format!("{{\"a\":\"{}\"}}", "x".repeat(20_000));
        let payload = serde_json::value::RawValue::from_string(payload).unwrap();
        for _ in 0..10 {
            fixture.publish(group(10, |at| {
                let mut event = event("T", if at == 9 { "last" } else { "k" }, "default");
                event.payload = std::borrow::Cow::Owned(payload.clone());
                event
            }));
        }
        for (text, expected) in [("Key == 'none'", vec![]), ("Key == 'last'", vec![100])] {
            let expression = tidings_event::Expression::compile(text).unwrap();
            let filter = Filter::new(TopicSet::everything(), NamespaceSet::All, Some(expression));
            let mut scan = fixture.broker.subscribe(filter, Index(1));
            let mut turns = 0;
            let mut seen = Vec::new();
            while scan.cursor() < Index(100) {
                let before = scan.cursor();
                let next = std::future::poll_fn(|context| {
                    std::task::Poll::Ready(match scan.poll_next(context) {
                        std::task::Poll::Ready(slice) => Some(slice.unwrap()),
                        std::task::Poll::Pending => None,
                    })
                });
                let slice = next.await;
                assert!(scan.cursor().get() - before.get() <= 15, "256 KiB a turn");
                turns += 1;
                seen.extend(slice.map(|slice| slice.last.get()));
            }
            assert!(turns > 5, "{turns}");
            assert_eq!(seen.last().copied(), expected.last().copied());
        }
    }

    /// Readers that do not read hold one read each, and nothing is read ahead of them.
    #[tokio::test(flavor = "multi_thread")]
    async fn g8_readers_that_stall_hold_little_each() {
        let mut fixture = Fixture::new(BrokerConfig {
            held_bytes: 2_000,
            ..small()
        });
        for _ in 0..50 {
            fixture.publish(group(5, |_| event("T", "k", "default")));
        }
        let mut stalled = Vec::new();
        for _ in 0..8 {
            let mut reader = fixture.broker.subscribe(Filter::everything(), Index(1));
            let slice = reader.next().await.unwrap();
            stalled.push((reader, slice));
        }
        let one = stalled[0].1.bytes.len() as u64;
        let held = fixture.broker.stats().held_bytes;
        // The first few, before there was too much, may have read ahead.
        assert!(held <= one * 8 + 2 * 2_000, "{held} of {one} each");
        let reads = fixture.broker.stats().history_reads;
        assert!(reads <= 12, "{reads}");
        // They go on where they were.
        let (mut reader, slice) = stalled.pop().unwrap();
        let next = reader.next().await.unwrap();
        let first = next.bytes.split(|byte| *byte == b'\n').next().unwrap();
        assert_eq!(FrameView::parse(first).unwrap().index(), slice.last.next());
        drop((slice, next, reader, stalled));
        for _ in 0..1_000 {
            if fixture.broker.stats().held_bytes == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("what nobody has is not counted");
    }

    #[tokio::test]
    async fn g8_memory_is_bounded_whoever_reads_or_not() {
        let mut fixture = Fixture::new(small());
        let _stuck = fixture.broker.subscribe(Filter::everything(), Index(1));
        for _ in 0..200 {
            fixture.publish(group(5, |_| event("T", "k", "default")));
            let newest = frames(1, 5).memory() as u64;
            assert!(fixture.broker.stats().ring_bytes <= 4_000 + newest);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever the topics, the batch sizes and the position, a subscriber gets exactly what a
        /// plain scan of all lines gives, while frames keep coming.
        #[test]
        fn g4_every_filter_gets_exactly_what_matches(
            batches in proptest::collection::vec(proptest::collection::vec((0..4_usize, 0..4_usize, 0..3_usize), 1..30), 1..40),
            topic in 0..4_usize, key in 0..5_usize, from in 1..60_u64, namespace in 0..4_usize,
        ) {
            const TOPICS: [&str; 4] = ["A", "B", "C", "D"];
            const KEYS: [&str; 4] = ["k0", "k1", "k\"2", "k3"];
            const NAMESPACES: [&str; 3] = ["", "default", "other"];
            let wanted = match key {
                4 => TOPICS[topic].to_owned(),
                key if topic == 3 => format!("*:{}", KEYS[key]),
                key => format!("{}:{}", TOPICS[topic], KEYS[key]),
            };
            let namespace = [None, Some("*"), Some("other"), Some("none")][namespace];
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
            let (seen, expected) = runtime.block_on(async {
                let mut fixture = Fixture::new(small());
                let wanted_filter = filter(&[&wanted], namespace);
                let mut subscription = fixture.broker.subscribe(wanted_filter.clone(), Index(from));
                // A last frame that everybody gets, so that the reader knows when it is done.
                let total: usize = batches.iter().map(Vec::len).sum();
                let reader = tokio::spawn(async move {
                    let mut seen = Vec::new();
                    while seen.last() != Some(&(total as u64 + 60)) {
                        let slice = tokio::time::timeout(Duration::from_secs(20), subscription.next()).await.expect("stuck").unwrap();
                        for line in slice.bytes.split_inclusive(|byte| *byte == b'\n') {
                            seen.push(FrameView::parse(line).unwrap().index().get());
                        }
                    }
                    seen
                });
                for batch in &batches {
                    fixture.publish(group(batch.len(), |at| {
                        let (topic, key, namespace) = batch[at];
                        event(TOPICS[topic], KEYS[key], NAMESPACES[namespace])
                    }));
                    tokio::task::yield_now().await;
                }
                let (topic, key) = match wanted.split_once(':') {
                    Some(("*", key)) => ("A", key),
                    Some((topic, key)) => (topic, key),
                    None => (&*wanted, "k0"),
                };
                fixture.publish(group(60, |_| event(topic, key, "")));
                let seen = reader.await.unwrap();
                let lines = fixture.history.lines.lock().unwrap();
                let expected: Vec<u64> = lines.iter().enumerate()
                    .filter(|(at, line)| *at as u64 + 1 >= from && FrameView::parse(line).unwrap().events().iter().any(|event| wanted_filter.matches(event)))
                    .map(|(at, _)| at as u64 + 1)
                    .collect();
                fixture.broker.close();
                (seen, expected)
            });
            prop_assert_eq!(seen, expected);
        }
    }
}
