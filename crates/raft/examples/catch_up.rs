//! How quickly a new server gets a history that the log has let go of.
//!
//! ```text
//! cargo run --release -p tidings-raft --example catch_up -- [FRAMES] [PAYLOAD BYTES] [FOLDER]
//! ```
//! One server records the frames and cuts its log; another with an empty directory joins it. Both are
//! in this process, on one disk: the figure is what both of them together reach.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use tidings_event::{Limits, NewEvent, Timestamp};
use tidings_raft::{
    DiskLimits, PeersConfig, PeersLimits, QueueLimits, Replica, ReplicaConfig, TcpTransport,
    VerifyHistory,
};
use tidings_timeline::{BrokerConfig, CommandGroup, Stamper};
use tokio::{net::TcpListener, time};

/// Frames in one group.
const GROUP_FRAMES: u64 = 1000;
/// Groups on their way.
const GROUPS_IN_FLIGHT: usize = 8;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number = |or| args.next().map_or(Ok(or), |arg| arg.parse::<u64>());
    let (frames, payload) = (number(1_000_000)?, number(64)?);
    let folder = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(folder)?;

    let (old, address) = start(&folder.path().join("old"), "old", 1, &[]).await?;
    time::timeout(time::Duration::from_secs(30), old.ready()).await?;
    record(&old, frames, payload as usize).await?;
    ensure!(old.snapshot().await, "no snapshot");
    let status = old.status();
    ensure!(status.log_first.is_none(), "the log was not cut");
    println!(
        "{} frames, {} MiB of history in {} segments",
        status.frames_newest,
        status.history_bytes >> 20,
        status.history_segments
    );

    let begun = Instant::now();
    let (new, _) = start(&folder.path().join("new"), "new", 0, &[address]).await?;
    let mut applied = new.applied();
    let newest = status.frames_newest;
    applied.wait_for(|index| *index >= newest).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = new.status().history_bytes;
    println!(
        "{seconds:.2} s from an empty directory: {:.0} MB/s, {:.0} frames/s",
        bytes as f64 / 1e6 / seconds,
        newest.get() as f64 / seconds
    );
    new.shutdown().await;
    old.shutdown().await;
    same(&folder.path().join("old"), &folder.path().join("new"))
}

async fn start(
    data_dir: &Path,
    name: &str,
    expect: u32,
    join: &[String],
) -> anyhow::Result<(Replica, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let config = ReplicaConfig {
        data_dir: data_dir.to_owned(),
        node_id: 0,
        node_name: name.to_owned(),
        settings: None,
        queue: QueueLimits::default(),
        disk: DiskLimits {
            log_entries_kept_for_peers: 0,
            ..DiskLimits::default()
        },
        broker: BrokerConfig::default(),
        verify: VerifyHistory::Tail,
        clock: Arc::new(|| Timestamp::from_unix_micros(1_800_000_000_000_000)),
    };
    let peers = PeersConfig {
        transport: TcpTransport::shared(listener, &address),
        tls: None,
        advertise: address.clone(),
        http: String::new(),
        bootstrap_expect: expect,
        join: join.to_vec(),
        standby: false,
        replaces: None,
        version_max: None,
        limits: PeersLimits::default(),
    };
    let replica = Replica::open_with_peers(config, peers).await?;
    Ok((replica, address))
}

async fn record(replica: &Replica, frames: u64, payload: usize) -> anyhow::Result<()> {
    let text = "x".repeat(payload);
    let mut stamper = Stamper::new("n", "bench", 1);
    let mut underway = std::collections::VecDeque::new();
    let mut made = 0;
    while made < frames {
        let mut group = CommandGroup::new();
        for _ in 0..GROUP_FRAMES.min(frames - made) {
            made += 1;
            let json = format!(
                r#"{{"Topic":"Job","Type":"Registered","Key":"k{made}","Payload":{{"n":"{text}"}}}}"#
            );
            let event = NewEvent::parse(json.as_bytes())?;
            group.publish(&[event], &mut stamper, &Limits::default())?;
        }
        underway.push_back(replica.submit(group).await?);
        if underway.len() >= GROUPS_IN_FLIGHT {
            underway.pop_front().context("one is there")?.await?;
        }
    }
    for answer in underway {
        answer.await?;
    }
    Ok(())
}

/// Whether two servers have the same history, file by file.
fn same(one: &Path, other: &Path) -> anyhow::Result<()> {
    let mut files = 0;
    for entry in std::fs::read_dir(one.join("history"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "ndjson") {
            let name = path.file_name().context("a name")?;
            let twin = other.join("history").join(name);
            ensure!(
                std::fs::read(&path)? == std::fs::read(&twin)?,
                "{} differs",
                twin.display()
            );
            files += 1;
        }
    }
    println!("{files} segments are the same");
    Ok(())
}
