//! One run: all rounds of all workloads on all systems.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::arguments::Options;
use crate::deployment::Deployment;
use crate::machine::{Description, Limits, memory};
use crate::payload::PAYLOAD_BYTES;
use crate::peers::{Peer, Running};
use crate::process::{self, DataRoot, end_on_signals};
use crate::programs::{Programs, Search};
use crate::report::count;
use crate::results::{Failure, Results};
use crate::workloads::{Measure, Scale, Workload, line_bytes};

/// Sockets of the generator, and as many of the server, with room to spare.
const OPEN_FILES_MIN: u64 = 8_192;
/// A quick run has as many subscribers as this leaves.
const OPEN_FILES_MIN_QUICK: u64 = 512;
/// What a server has open beside its subscribers.
const OPEN_FILES_SPARE: u64 = 300;
/// Wanted where it is allowed; the servers inherit it.
const OPEN_FILES_WANTED: u64 = 20_000;
/// The length of the bare broadcaster's lines when the agent did not run.
const LINE_BYTES_DEFAULT: usize = 520;

/// Measures what the arguments ask for, telling its progress on stderr.
///
/// # Errors
///
/// It cannot begin: a program is missing, or the machine allows too little.
/// What fails later is in the results.
pub fn run(options: &Options, deployment: Deployment, frames: Option<u64>) -> Result<Results> {
    let peers = options.chosen_peers(deployment)?;
    let workloads = options.chosen_workloads(deployment)?;
    let rounds = options.chosen_rounds();
    let mut scale = if options.quick {
        let mut scale = Scale::quick();
        let open_files = allow_many_files(OPEN_FILES_MIN_QUICK)?;
        let most = usize::try_from(open_files - OPEN_FILES_SPARE)?;
        for counts in [&mut scale.subscribers, &mut scale.idle] {
            counts
                .iter_mut()
                .for_each(|count| *count = most.min(*count));
            counts.dedup();
        }
        // Each of an agent's subscribers is a socket of ours and one of the agent's, on the way to
        // a server's: the limit is for each process.
        scale.relay_subscribers = most.min(scale.relay_subscribers);
        scale
    } else {
        allow_many_files(OPEN_FILES_MIN)?;
        Scale::full()
    };
    if let Some(frames) = frames {
        scale.catch_up_events = frames;
    }
    if let Some(seconds) = options.seconds {
        scale.publish = Duration::from_secs(seconds);
    }
    let places = Places::of(options)?;
    let programs = Programs::find(
        &peers,
        &Search {
            tools: &places.target.join("bench-tools"),
            tidings: &places.tidings,
            install: !options.no_install,
        },
    )?;
    let figures = if options.quick {
        process::Results::DoNotCount
    } else {
        process::Results::Count
    };
    let data = DataRoot::create(&places.data, figures)?;
    end_on_signals()?;

    let line_bytes = if deployment == Deployment::Single && peers.contains(&Peer::Tidings) {
        let running = Running::start(
            Peer::Tidings,
            deployment,
            &programs,
            &data.path().join("probe"),
            LINE_BYTES_DEFAULT,
        )?;
        line_bytes(&running).context("ask tidings for one event")?
    } else {
        LINE_BYTES_DEFAULT
    };
    let mut results = Results {
        deployment,
        machine: Description::read(),
        limits: Vec::new(),
        versions: programs.versions().clone(),
        rounds,
        quick: options.quick,
        scale: scale.clone(),
        payload_bytes: PAYLOAD_BYTES,
        line_bytes,
        cells: Vec::new(),
        failures: Vec::new(),
    };
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}: the machine's limits");
        let limits = Limits::measure(data.path(), scale.machine).context("measure the machine")?;
        results.limits.push(limits);
        for workload in &workloads {
            for peer in in_turn(&peers, round) {
                if !workload.applies_to(peer, deployment) {
                    continue;
                }
                eprintln!("round {round} of {rounds}: {} on {peer}", workload.name());
                for repetition in 0..workload.repetitions(&scale) {
                    let name = format!("{}-{peer}-{round}-{repetition}", workload.name());
                    let folder = data.path().join(name);
                    memory::warm();
                    let start = || Running::start(peer, deployment, &programs, &folder, line_bytes);
                    if let Err(error) = measure(*workload, peer, start, &scale, &mut results) {
                        let reason = format!("{error:#}");
                        eprintln!("    failed: {reason}");
                        results.failures.push(Failure {
                            workload: *workload,
                            peer,
                            round,
                            reason,
                        });
                    }
                }
            }
        }
    }
    Ok(results)
}

fn measure(
    workload: Workload,
    peer: Peer,
    start: impl FnOnce() -> Result<Running>,
    scale: &Scale,
    results: &mut Results,
) -> Result<()> {
    let mut running = start()?;
    workload
        .run(&mut running, scale, &mut |case, measure| {
            eprintln!("    {case}: {}", in_short(&measure));
            results.add(workload, case, peer, measure);
        })
        .map_err(|error| anyhow::anyhow!("{error:#}{}", running.obituary()))
}

/// The systems, beginning with another one in every round.
fn in_turn(peers: &[Peer], round: usize) -> Vec<Peer> {
    let mut peers = peers.to_vec();
    if !peers.is_empty() {
        let first = (round - 1) % peers.len();
        peers.rotate_left(first);
    }
    peers
}

fn in_short(measure: &Measure) -> String {
    let parts = [
        measure.rate.map(|rate| format!("{}/s", count(rate))),
        measure.cpu_us.map(|cpu| format!("{cpu:.2} µs CPU")),
        measure.p50_us.map(|p50| format!("p50 {} µs", count(p50))),
        measure.p99_us.map(|p99| format!("p99 {} µs", count(p99))),
        measure.kib.map(|kib| format!("{kib:.1} KiB")),
        measure.mb_rate.map(|rate| format!("{rate:.1} MB/s")),
        measure.gap_ms.map(|gap| format!("{gap:.0} ms")),
        measure
            .streams
            .map(|streams| format!("{streams:.0} streams")),
        measure
            .generator_busy
            .map(|busy| format!("generator {:.0} %", busy * 100.0)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Where programs and data are.
struct Places {
    target: PathBuf,
    tidings: PathBuf,
    data: PathBuf,
}

impl Places {
    /// This program is `<target>/<profile>/tidings-bench`.
    fn of(options: &Options) -> Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        let profile = program.parent().context("find this program's folder")?;
        let target = profile.parent().unwrap_or(profile).to_owned();
        let absolute = |path: &Path| {
            std::path::absolute(path).with_context(|| format!("find {}", path.display()))
        };
        Ok(Self {
            tidings: match &options.tidings {
                Some(path) => absolute(path)?,
                None => profile.join("tidings"),
            },
            data: match &options.data_dir {
                Some(path) => absolute(path)?,
                None => target.join("bench-data"),
            },
            target,
        })
    }
}

/// Thousands of subscribers are thousands of sockets. Gives how many files may be open.
fn allow_many_files(min: u64) -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(OPEN_FILES_WANTED);
    let current = hard.min(OPEN_FILES_WANTED);
    if current < min {
        bail!(
            "this program may open {hard} files and needs {min}: raise the hard limit (`ulimit -Hn`)"
        );
    }
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(current.max(limit.current.unwrap_or(0))),
            maximum: limit.maximum,
        },
    )
    .context("raise the number of open files")?;
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_begins_with_another_system() {
        let peers = [Peer::Tidings, Peer::Nats, Peer::Etcd];
        assert_eq!(in_turn(&peers, 1), peers);
        assert_eq!(in_turn(&peers, 3), [Peer::Etcd, Peer::Tidings, Peer::Nats]);
        assert!(in_turn(&[], 1).is_empty());
    }
}
