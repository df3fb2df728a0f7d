//! What goes wrong with agents, and between them and servers.

use std::sync::Arc;
use std::time::Duration;

use tidings_host::simulated::{Rng, world};
use tokio::time::{self, Instant};

use super::{Agent, DISK_BYTES};
use crate::cluster::Cluster;
use crate::server::Stop;
use crate::trace::note;

#[derive(Debug, Clone, Copy)]
enum Fault {
    PowerCut,
    /// In the middle of one of the next operations of the disk.
    PowerCutSoon,
    Kill,
    Orderly,
    /// No server is reached.
    Cut,
    /// Answers do not come back, or nothing gets there, of some servers.
    OneWay,
    /// There is no server for a while.
    ServersAway,
    SlowDisk,
    FullDisk,
    FailingFlush,
    Clock,
}

/// Brings faults about until the time is over.
pub(crate) async fn torment(cluster: Arc<Cluster>, mut rng: Rng) {
    let end = Instant::now() + cluster.scenario.faults_for;
    let agents = cluster.agents.clone();
    let faults = kinds(&cluster);
    if agents.is_empty() || faults.is_empty() {
        return;
    }
    loop {
        time::sleep(Duration::from_millis(rng.within(50..4_000))).await;
        if Instant::now() >= end {
            return;
        }
        let agent = agents[rng.place(agents.len())].clone();
        let fault = faults[rng.place(faults.len())];
        strike(&cluster, &agent, fault, &mut rng);
    }
}

fn kinds(cluster: &Cluster) -> Vec<Fault> {
    let kinds = &cluster.scenario.faults;
    let mut faults = Vec::new();
    let mut add = |enabled: bool, some: &[Fault]| {
        if enabled {
            faults.extend_from_slice(some);
        }
    };
    let stops = [
        Fault::PowerCut,
        Fault::PowerCutSoon,
        Fault::PowerCutSoon,
        Fault::Kill,
        Fault::Kill,
        Fault::Orderly,
        Fault::ServersAway,
    ];
    add(kinds.restarts, &stops);
    add(
        kinds.partitions,
        &[Fault::Cut, Fault::OneWay, Fault::OneWay],
    );
    add(kinds.slow_disks, &[Fault::SlowDisk]);
    add(kinds.full_disks, &[Fault::FullDisk]);
    add(kinds.failing_disks, &[Fault::FailingFlush]);
    add(kinds.clocks, &[Fault::Clock]);
    faults
}

fn strike(cluster: &Arc<Cluster>, agent: &Arc<Agent>, fault: Fault, rng: &mut Rng) {
    let (name, trace) = (agent.name.clone(), &cluster.trace);
    let pause = Duration::from_millis(rng.within(200..8_000));
    let agent = agent.clone();
    match fault {
        Fault::PowerCut | Fault::Kill | Fault::Orderly => {
            let how = match fault {
                Fault::PowerCut => Stop::PowerCut,
                Fault::Kill => Stop::Kill,
                _ => Stop::Orderly,
            };
            note!(trace, "nemesis: {name} {how:?}");
            agent.stop(how);
            after(pause, move || agent.start());
        }
        Fault::PowerCutSoon => {
            let operations = rng.within(1..30);
            note!(
                trace,
                "nemesis: {name} loses power at operation {operations}"
            );
            agent.disk().cut_after(operations);
            after(pause + Duration::from_secs(1), move || agent.start());
        }
        Fault::Cut | Fault::OneWay => {
            let net = world::net();
            let (some, there) = (matches!(fault, Fault::OneWay), rng.percent(50));
            note!(trace, "nemesis: {name} cut, some: {some}, there: {there}");
            for server in cluster.servers() {
                if some && rng.percent(40) {
                    continue;
                }
                if !some || there {
                    net.change(&name, &server.name, |way| way.is_cut = true);
                }
                if !some || !there {
                    net.change(&server.name, &name, |way| way.is_cut = true);
                }
            }
            let (trace, pause) = (
                trace.clone(),
                Duration::from_millis(rng.within(200..15_000)),
            );
            after(pause, move || {
                note!(trace, "nemesis: ways healed");
                world::net().heal();
            });
        }
        Fault::ServersAway => {
            let how = match rng.percent(50) {
                true => Stop::Kill,
                false => Stop::PowerCut,
            };
            note!(trace, "nemesis: no server is there, {how:?}");
            for server in cluster.servers() {
                server.stop(how);
                let pause = Duration::from_millis(rng.within(3_000..20_000));
                after(pause, move || server.start());
            }
        }
        Fault::SlowDisk => {
            let most = rng.within(2_000..900_000);
            note!(trace, "nemesis: disk of {name} takes {most} µs");
            let set = |agent: &Agent, range| {
                agent
                    .disk()
                    .set_faults(|faults| faults.flush_micros = range);
            };
            set(&agent, 1_000..most);
            after(pause, move || set(&agent, 20..400));
        }
        Fault::FullDisk => {
            let left = [0, 300, 5_000, 60_000][rng.place(4)];
            let left = rng.within(0..left + 1);
            note!(trace, "nemesis: disk of {name} has {left} bytes left");
            let disk = agent.disk();
            disk.set_capacity(disk.used() + left);
            after(pause, move || {
                agent.disk().set_capacity(DISK_BYTES);
                agent.start();
            });
        }
        Fault::FailingFlush => {
            note!(trace, "nemesis: a flush of {name} fails");
            agent
                .disk()
                .set_faults(|faults| faults.fail_next_sync = true);
            let how = [Stop::Kill, Stop::Orderly, Stop::PowerCut][rng.place(3)];
            after(pause, move || start_if_failed(&agent, how));
        }
        Fault::Clock => {
            // Seconds, hours, and further ahead than the timeline bears.
            let most = [2_000_000, 7_200_000_000, 3 * 86_400_000_000][rng.place(3)];
            let micros = rng.within(0..2 * most) as i64 - most as i64;
            note!(trace, "nemesis: clock of {name} off by {micros} µs");
            agent.set_clock(micros);
        }
    }
}

fn after(pause: Duration, work: impl FnOnce() + Send + 'static) {
    tokio::spawn(async move {
        time::sleep(pause).await;
        work();
    });
}

/// As its operator does who was told that its disk fails.
fn start_if_failed(agent: &Arc<Agent>, how: Stop) {
    if agent.has_failed() {
        agent.stop(how);
    }
    let agent = agent.clone();
    after(Duration::from_secs(1), move || agent.start());
}

/// Nothing is wrong any more, and everybody is started who is not there.
pub(crate) fn heal(cluster: &Cluster) {
    for agent in &cluster.agents {
        let disk = agent.disk();
        disk.set_capacity(DISK_BYTES);
        disk.set_faults(|faults| *faults = Default::default());
        disk.cut_never();
        agent.set_clock(0);
        start_if_failed(agent, Stop::Kill);
    }
}
