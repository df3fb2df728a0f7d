//! A replica in a temporary directory, with a clock that only tests move.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use tempfile::TempDir;
use tidings_event::{FrameView, Index, Limits, NewEvent, Timestamp};
use tidings_raft::{DiskLimits, OpenError, QueueLimits, Replica, ReplicaConfig, VerifyHistory};
use tidings_timeline::{BrokerConfig, CommandGroup, EntryChange, Outcome, Stamper};

pub struct Server {
    pub dir: TempDir,
    pub config: ReplicaConfig,
    clock: Arc<AtomicI64>,
}

pub const NODE: u64 = 7;

impl Server {
    pub fn new() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicI64::new(1_800_000_000_000_000));
        let config = ReplicaConfig {
            data_dir: dir.path().join("data"),
            node_id: NODE,
            node_name: "n7".to_owned(),
            settings: None,
            queue: QueueLimits::default(),
            disk: DiskLimits {
                free_reserve: 0,
                ..DiskLimits::default()
            },
            broker: BrokerConfig::default(),
            verify: VerifyHistory::All,
            clock: {
                let clock = clock.clone();
                Arc::new(move || Timestamp::from_unix_micros(clock.load(Ordering::SeqCst)))
            },
        };
        Server { dir, config, clock }
    }

    pub async fn open(&self) -> Replica {
        self.try_open().await.unwrap()
    }

    pub async fn try_open(&self) -> Result<Replica, OpenError> {
        Replica::open(self.config.clone()).await
    }

    pub fn pass_seconds(&self, seconds: i64) {
        self.clock.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

pub fn stamper(seed: u128) -> Stamper {
    Stamper::new("n7", "test", seed)
}

/// A group that publishes one event, with an Id when one is given.
pub fn publish(key: &str, id: Option<&str>) -> CommandGroup {
    let mut group = CommandGroup::new();
    add_event(&mut group, key, id);
    group
}

pub fn add_event(group: &mut CommandGroup, key: &str, id: Option<&str>) {
    let id = id.map_or(String::new(), |id| format!(r#","Id":"{id}""#));
    let json = format!(
        r#"{{"Topic":"Job","Type":"JobRegistered","Key":"{key}"{id},"Payload":{{"n":1}}}}"#
    );
    let event = NewEvent::parse(json.as_bytes()).unwrap();
    group
        .publish(&[event], &mut stamper(fnv(key)), &Limits::default())
        .unwrap();
}

/// A group that writes one entry of the state.
pub fn put(key: &str, cas: Option<u64>) -> CommandGroup {
    change(key, cas, false)
}

/// A group that removes one entry of the state.
pub fn delete(key: &str, cas: Option<u64>) -> CommandGroup {
    change(key, cas, true)
}

fn change(key: &str, cas: Option<u64>, deletes: bool) -> CommandGroup {
    let json =
        format!(r#"{{"Topic":"Node","Type":"Changed","Key":"{key}","Payload":{{"k":"{key}"}}}}"#);
    let event = NewEvent::parse(json.as_bytes()).unwrap();
    let change = EntryChange {
        cas: cas.map(Index),
        event: &event,
    };
    let mut group = CommandGroup::new();
    let (mut stamper, limits) = (stamper(fnv(key)), Limits::default());
    if deletes {
        group.delete_entry(change, &mut stamper, &limits).unwrap();
    } else {
        group.put_entry(change, &mut stamper, &limits).unwrap();
    }
    group
}

/// Seeds that differ from key to key.
fn fnv(text: &str) -> u128 {
    text.bytes().fold(14_695_981_039_346_656_037, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(1_099_511_628_211)
    })
}

/// Publishes one event and tells under which index.
pub async fn publish_one(replica: &Replica, key: &str) -> Index {
    let outcomes = replica.propose(publish(key, None)).await.unwrap();
    let [Outcome::Published { index }] = outcomes[..] else {
        panic!("not published: {outcomes:?}");
    };
    index
}

/// All lines of the history, in order.
pub fn history(data_dir: &Path) -> Vec<u8> {
    let mut files: Vec<_> = std::fs::read_dir(data_dir.join("history"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "ndjson")
        })
        .collect();
    files.sort();
    files
        .into_iter()
        .flat_map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// The indexes and first keys of all frames in the history.
pub fn frames(data_dir: &Path) -> Vec<(u64, String)> {
    let lines = history(data_dir);
    lines
        .split_inclusive(|&byte| byte == b'\n')
        .map(|line| {
            let frame = FrameView::parse(line).unwrap();
            (frame.index().get(), frame.events()[0].key().into_owned())
        })
        .collect()
}
