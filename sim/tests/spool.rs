//! What the spool of an agent promises on a disk that fails and under a clock that jumps: the smallest
//! cases of what whole runs have found.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidings_event::{Limits, NewEvent, Timestamp};
use tidings_host::simulated::{self, Disk, Rng, world};
use tidings_spool::{
    Answer, Answers, Ended, NoServer, NotTaken, Numbers, Outbox, Reach, Sending, SpoolConfig,
    SpoolError, Upstream,
};
use tidings_timeline::{
    Batch, CommandGroup, Outcome, SenderNumber, Settings, Stamper, StateMachine,
};
use tokio::sync::mpsc;

const SEEDS: u64 = 200;
const HOUR_MICROS: i64 = 3_600_000_000;

/// A timeline that takes all that comes at once, or is away.
#[derive(Clone)]
struct Timeline {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    machine: StateMachine,
    is_away: bool,
    /// What was taken, in order.
    taken: Vec<Bytes>,
}

struct Lines(mpsc::Sender<Bytes>);

struct Outcomes {
    timeline: Timeline,
    lines: mpsc::Receiver<Bytes>,
    of: SenderNumber,
}

impl Timeline {
    fn new() -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                machine: StateMachine::new(Settings::default()),
                is_away: false,
                taken: Vec::new(),
            })),
        }
    }

    fn be_away(&self, is_away: bool) {
        self.inner.lock().unwrap().is_away = is_away;
    }

    fn taken(&self) -> Vec<Bytes> {
        self.inner.lock().unwrap().taken.clone()
    }

    fn take(&self, of: SenderNumber, line: &Bytes) -> Result<Answer, NoServer> {
        let mut inner = self.inner.lock().unwrap();
        if inner.is_away {
            return Err(NoServer {
                reason: "it is away".to_owned(),
                passes: true,
            });
        }
        let limits = Limits::default();
        let mut group = CommandGroup::new();
        let events = NewEvent::parse_line(line, &limits).unwrap();
        let mut stamper = Stamper::new("n1", "test", 1);
        group
            .publish_numbered(of, &events, &mut stamper, &limits)
            .unwrap();
        let batch = Batch {
            time: Timestamp::from_unix_micros(world::since_epoch().as_micros() as i64),
            groups: vec![group.into_bytes()],
        };
        let outcome = inner.machine.apply(&batch).unwrap().outcomes.remove(0);
        if matches!(outcome, Outcome::Published { .. }) {
            inner.taken.push(line.clone());
        }
        Ok(match outcome {
            Outcome::Refused(refusal) => Answer::Refused {
                code: refusal.code().to_owned(),
                message: refusal.to_string(),
            },
            outcome => Answer::Outcome(outcome),
        })
    }
}

impl Upstream for Timeline {
    type Sending = Lines;
    type Answers = Outcomes;

    async fn send(&self, numbers: Numbers) -> (Lines, Outcomes) {
        let (sender, lines) = mpsc::channel(8);
        let of = SenderNumber {
            sender: numbers.id.parse::<ulid::Ulid>().unwrap().0,
            epoch: numbers.epoch,
            number: numbers.first,
        };
        let timeline = self.clone();
        (
            Lines(sender),
            Outcomes {
                timeline,
                lines,
                of,
            },
        )
    }
}

impl Sending for Lines {
    async fn take(&self, line: Bytes) -> Result<(), Ended> {
        self.0.send(line).await.map_err(|_| Ended)
    }
}

impl Answers for Outcomes {
    async fn next(&mut self) -> Option<Result<Answer, NoServer>> {
        let line = self.lines.recv().await?;
        let answer = self.timeline.take(self.of, &line);
        self.of.number += 1;
        Some(answer)
    }
}

/// One agent, life after life.
struct Agent {
    disk: Arc<Disk>,
    life: u32,
    clock_micros: Arc<AtomicI64>,
    timeline: Timeline,
}

impl Agent {
    fn new(seed: u64) -> Self {
        simulated::begin(seed);
        Self {
            disk: Disk::new("x", 16 << 20),
            life: 0,
            clock_micros: Arc::default(),
            timeline: Timeline::new(),
        }
    }

    async fn start(&mut self) -> Result<Outbox, SpoolError> {
        self.life += 1;
        let mount = format!("x-{}", self.life);
        world::mount(&mount, &self.disk);
        let offset = self.clock_micros.clone();
        let config = SpoolConfig {
            file_bytes: 2_000,
            answer_within: Duration::from_millis(50),
            clock: Arc::new(move || {
                let now = world::since_epoch().as_micros() as i64;
                Timestamp::from_unix_micros(now + offset.load(Ordering::Relaxed))
            }),
            ..SpoolConfig::new(PathBuf::from(format!("/{mount}/spool")))
        };
        let newest = Arc::new(AtomicU64::new(0));
        Outbox::start(config, self.timeline.clone(), Reach::default(), newest).await
    }

    fn end(&mut self, power_cut: bool) {
        self.disk = match power_cut {
            true => self.disk.after_power_cut(),
            false => self.disk.after_kill(),
        };
    }
}

fn line(n: u64) -> Bytes {
    let text = "x".repeat((n * 37 % 400) as usize);
    Bytes::from(format!(
        r#"{{"Events":[{{"Topic":"Job","Type":"T","Key":"k{n}","Payload":{{"text":"{text}"}}}}]}}"#
    ))
}

/// Waits until nothing is left to send.
async fn drained(outbox: &Outbox) {
    let drains = async {
        while outbox.status().transactions > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let drained = tokio::time::timeout(Duration::from_secs(60), drains).await;
    drained.unwrap_or_else(|_| panic!("{:?}", outbox.status()));
}

/// G5: what was answered from the disk is on the timeline once and in order, whatever kills, power cuts
/// and failed flushes there were before a server was back; and none of them keeps the agent from
/// starting.
#[tokio::test(start_paused = true)]
async fn g5_what_was_answered_from_the_disk_outlives_kills_power_cuts_and_failed_flushes() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let mut agent = Agent::new(seed);
        let mut spooled = Vec::new();
        let mut n = 0;
        for life in 0..6 {
            agent.timeline.be_away(rng.percent(70));
            let started = agent.start().await;
            let outbox = started.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            for _ in 0..rng.within(0..20) {
                if rng.percent(10) {
                    agent.timeline.be_away(rng.percent(70));
                }
                if rng.percent(5) {
                    agent.disk.set_faults(|faults| faults.fail_next_sync = true);
                }
                n += 1;
                match outbox.take(vec![line(n)]) {
                    Ok(answers) if rng.percent(70) => match answers.await.as_deref() {
                        Ok([Answer::Spooled | Answer::Outcome(_)]) => spooled.push(line(n)),
                        Ok(other) => panic!("seed {seed}: {other:?}"),
                        Err(_) => {}
                    },
                    Ok(answers) => drop(answers),
                    Err(NotTaken::Failed { .. }) => break,
                    Err(other) => panic!("seed {seed}: {other}"),
                }
            }
            drop(outbox);
            agent.end(rng.percent(50));
            agent.disk.set_faults(|faults| *faults = Default::default());
            tokio::time::sleep(Duration::from_millis(100 * life)).await;
        }
        agent.timeline.be_away(false);
        let outbox = agent.start().await.unwrap();
        drained(&outbox).await;
        let mut taken = agent.timeline.taken();
        let places: Vec<usize> = spooled
            .iter()
            .map(|line| {
                let place = taken.iter().position(|taken| taken == line);
                place.unwrap_or_else(|| panic!("seed {seed}: {line:?} is lost"))
            })
            .collect();
        assert!(places.is_sorted(), "seed {seed}: {places:?}");
        let count = taken.len();
        taken.sort();
        taken.dedup();
        assert_eq!(taken.len(), count, "seed {seed}: some are there twice");
        drop(outbox);
        simulated::end();
    }
}

/// G5: an epoch that the timeline refused as too far ahead is followed by one that it takes, though the
/// clock then shows less than at an earlier epoch whose events it has.
#[tokio::test(start_paused = true)]
async fn g5_a_clock_that_was_ahead_and_is_set_back_hides_nothing() {
    let mut agent = Agent::new(1);
    let mut n = 0;
    // Half a day ahead is borne, two days are not.
    for (hours, is_borne) in [(12, true), (12, true), (48, false), (48, false)] {
        agent
            .clock_micros
            .store(hours * HOUR_MICROS, Ordering::Relaxed);
        let outbox = agent.start().await.unwrap();
        n += 1;
        let answered = outbox.take(vec![line(n)]).unwrap().await.unwrap();
        match is_borne {
            true => assert!(matches!(answered[..], [Answer::Outcome(_)]), "{answered:?}"),
            false => assert_eq!(answered, [Answer::Spooled]),
        }
        outbox.stop().await;
        drop(outbox);
        agent.end(false);
    }
    agent.clock_micros.store(0, Ordering::Relaxed);
    let outbox = agent.start().await.unwrap();
    n += 1;
    drop(outbox.take(vec![line(n)]).unwrap());
    drained(&outbox).await;
    let expected: Vec<Bytes> = (1..=n).map(line).collect();
    assert_eq!(agent.timeline.taken(), expected);
    drop(outbox);
    simulated::end();
}

/// G5: nothing is sent under an epoch that a start would not find.
#[tokio::test(start_paused = true)]
async fn g5_an_epoch_that_could_not_be_written_down_is_not_used() {
    for seed in 0..SEEDS {
        let mut agent = Agent::new(seed);
        agent
            .clock_micros
            .store(48 * HOUR_MICROS, Ordering::Relaxed);
        let outbox = agent.start().await.unwrap();
        let first = outbox.take(vec![line(1), line(2)]).unwrap().await.unwrap();
        assert_eq!(first, [Answer::Spooled, Answer::Spooled]);
        agent.clock_micros.store(0, Ordering::Relaxed);
        // The next epoch would be taken, and does not get to the disk.
        agent.disk.set_faults(|faults| faults.fail_next_sync = true);
        tokio::time::sleep(Duration::from_millis(seed * 60)).await;
        drop(outbox);
        agent.end(seed % 2 == 0);
        let outbox = agent.start().await.unwrap();
        drained(&outbox).await;
        assert_eq!(agent.timeline.taken(), [line(1), line(2)], "seed {seed}");
        drop(outbox);
        simulated::end();
    }
}
