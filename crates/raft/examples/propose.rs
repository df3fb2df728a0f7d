//! How many events a replica takes: `propose [tasks] [in flight] [events per group] [seconds]`.
//!
//! Each task keeps so many events in flight, in groups of events of about 300 bytes. Prints events
//! per second, latency, and what it cost.

use std::{
    env,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tidings_event::{Limits, NewEvent, Timestamp};
use tidings_raft::{DiskLimits, ProposeError, QueueLimits, Replica, ReplicaConfig, VerifyHistory};
use tidings_timeline::{BrokerConfig, CommandGroup, Stamper};

fn number(at: usize, default: u64) -> u64 {
    env::args()
        .nth(at)
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_unix_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Seconds of processor time that this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    // utime and stime, in hundredths: proc_pid_stat(5)
    (ticks(11) + ticks(12)) / 100.0
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (tasks, in_flight, per_group) = (number(1, 16), number(2, 64), number(3, 1));
    let seconds = number(4, 5);
    let dir = env::var_os("PROPOSE_DIR").map_or_else(env::temp_dir, Into::into);
    let data_dir = dir.join(format!("tidings-propose-{}", std::process::id()));
    let mut queue = QueueLimits::default();
    if let Some(unflushed) = env::var("PROPOSE_UNFLUSHED")
        .ok()
        .and_then(|n| n.parse().ok())
    {
        queue.unflushed_max = unflushed;
    }
    let config = ReplicaConfig {
        data_dir: data_dir.clone(),
        node_id: 1,
        node_name: "bench".to_owned(),
        settings: None,
        queue,
        disk: DiskLimits::default(),
        broker: BrokerConfig::default(),
        verify: VerifyHistory::Tail,
        clock: Arc::new(now),
    };
    let replica = Replica::open(config).await?;

    let payload = "x".repeat(60);
    let json = format!(
        r#"{{"Topic":"Job","Type":"JobRegistered","Key":"web","Payload":{{"text":"{payload}"}}}}"#
    );
    let event = NewEvent::parse(json.as_bytes())?;
    let mut group = CommandGroup::new();
    let mut stamper = Stamper::new("bench", "bench", 1);
    stamper.set_time(now());
    for _ in 0..per_group {
        group.publish(
            std::slice::from_ref(&event),
            &mut stamper,
            &Limits::default(),
        )?;
    }
    println!(
        "{} bytes an event, as a command",
        group.bytes_len() as u64 / per_group
    );

    let (answered, waited) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (began, cpu_began) = (Instant::now(), cpu_seconds());
    let until = began + Duration::from_secs(seconds);
    let mut workers = Vec::new();
    for _ in 0..tasks * (in_flight / per_group).max(1) {
        let (replica, group) = (replica.clone(), group.clone());
        let (answered, waited) = (answered.clone(), waited.clone());
        workers.push(tokio::spawn(async move {
            while Instant::now() < until {
                let asked = Instant::now();
                replica.propose(group.clone()).await?;
                answered.fetch_add(per_group, Ordering::Relaxed);
                waited.fetch_add(asked.elapsed().as_micros() as u64, Ordering::Relaxed);
            }
            Ok::<(), ProposeError>(())
        }));
    }
    for worker in workers {
        worker.await??;
    }
    let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu_began);
    let answered = answered.load(Ordering::Relaxed);
    let groups = (answered / per_group).max(1);
    let status = replica.status();
    println!(
        "{tasks} x {in_flight}, {per_group} a group: {:.0} events/s, mean latency {} us, \
         {:.2} us CPU an event, {:.0} entries/s of {:.0} events",
        answered as f64 / took,
        waited.load(Ordering::Relaxed) / groups,
        cpu * 1e6 / answered as f64,
        status.batches as f64 / took,
        answered as f64 / status.batches.max(1) as f64,
    );
    replica.shutdown().await;
    std::fs::remove_dir_all(&data_dir)?;
    Ok(())
}
