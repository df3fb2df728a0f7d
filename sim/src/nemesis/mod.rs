//! What goes wrong, and when: decided by the seed.

mod damage;
mod elections;
mod members;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidings_host::simulated::{Rng, net::Way, world};
use tokio::time::{self, Instant};

use crate::cluster::Cluster;
use crate::server::{Server, Status, Stop};
use crate::trace::note;

/// The kinds of faults, chosen among by weight.
#[derive(Debug, Clone, Copy)]
enum Fault {
    PowerCut,
    /// In the middle of one of the next operations of the disk.
    PowerCutSoon,
    PowerCutAll,
    Kill,
    Orderly,
    Partition,
    OneWay,
    IsolateLeader,
    SlowNetwork,
    SlowDisk,
    FullDisk,
    FailingFlush,
    Clock,
    AddServer,
    AddAndRemove,
    Remove,
    RemoveLeader,
    Promote,
    Transfer,
    Overthrow,
    Damage,
}

/// Brings faults about until the time is over, then heals everything.
pub(crate) async fn torment(cluster: Arc<Cluster>, mut rng: Rng) {
    let end = Instant::now() + cluster.scenario.faults_for;
    let faults = kinds(&cluster);
    while Instant::now() < end {
        time::sleep(Duration::from_millis(rng.within(50..4_000))).await;
        if faults.is_empty() {
            continue;
        }
        let fault = faults[rng.place(faults.len())];
        strike(&cluster, fault, &mut rng);
    }
    heal(&cluster).await;
}

fn kinds(cluster: &Cluster) -> Vec<Fault> {
    let kinds = &cluster.scenario.faults;
    let mut faults = Vec::new();
    let mut add = |enabled: bool, some: &[Fault]| {
        if enabled {
            faults.extend_from_slice(some);
        }
    };
    add(
        kinds.restarts,
        &[
            Fault::PowerCut,
            Fault::PowerCutSoon,
            Fault::PowerCutSoon,
            Fault::PowerCutAll,
            Fault::Kill,
            Fault::Orderly,
        ],
    );
    add(
        kinds.partitions,
        &[Fault::Partition, Fault::OneWay, Fault::IsolateLeader],
    );
    add(kinds.slow_network, &[Fault::SlowNetwork]);
    add(kinds.slow_disks, &[Fault::SlowDisk]);
    add(kinds.full_disks, &[Fault::FullDisk]);
    add(kinds.failing_disks, &[Fault::FailingFlush]);
    add(kinds.clocks, &[Fault::Clock]);
    add(kinds.members, &[Fault::AddServer, Fault::Promote]);
    add(
        kinds.removals,
        &[Fault::Remove, Fault::RemoveLeader, Fault::AddAndRemove],
    );
    add(
        kinds.elections,
        &[Fault::Transfer, Fault::Overthrow, Fault::Overthrow],
    );
    add(kinds.damage, &[Fault::Damage]);
    faults
}

fn strike(cluster: &Arc<Cluster>, fault: Fault, rng: &mut Rng) {
    let servers = cluster.servers();
    let one = servers[rng.place(servers.len())].clone();
    let pause = Duration::from_millis(rng.within(200..8_000));
    let trace = &cluster.trace;
    match fault {
        Fault::PowerCut | Fault::Kill | Fault::Orderly => {
            let how = match fault {
                Fault::PowerCut => Stop::PowerCut,
                Fault::Kill => Stop::Kill,
                _ => Stop::Orderly,
            };
            note!(trace, "nemesis: {} {how:?}", one.name);
            one.stop(how);
            start_again(one, pause);
        }
        Fault::PowerCutSoon => {
            let after = rng.within(1..40);
            note!(
                trace,
                "nemesis: {} loses power at operation {after}",
                one.name
            );
            one.disk().cut_after(after);
            start_again(one, pause + Duration::from_secs(1));
        }
        Fault::PowerCutAll => {
            note!(trace, "nemesis: power cut everywhere");
            for server in servers {
                server.stop(Stop::PowerCut);
                let pause = Duration::from_millis(rng.within(200..3_000));
                start_again(server, pause);
            }
        }
        Fault::Partition => {
            let side: Vec<bool> = servers.iter().map(|_| rng.percent(50)).collect();
            note!(trace, "nemesis: partition {side:?}");
            let net = world::net();
            for (from, here) in servers.iter().zip(&side) {
                for (to, there) in servers.iter().zip(&side) {
                    if here != there {
                        net.change(&from.name, &to.name, |way| way.is_cut = true);
                    }
                }
            }
            heal_network(cluster, pause);
        }
        Fault::OneWay => {
            let other = servers[rng.place(servers.len())].clone();
            note!(
                trace,
                "nemesis: nothing from {} to {}",
                one.name,
                other.name
            );
            world::net().change(&one.name, &other.name, |way| way.is_cut = true);
            heal_network(cluster, pause);
        }
        Fault::IsolateLeader => {
            let Some(leader) = cluster.leader() else {
                return;
            };
            let also_in = rng.percent(50);
            note!(
                trace,
                "nemesis: isolate {}, both ways: {also_in}",
                leader.name
            );
            let net = world::net();
            for other in servers.iter().filter(|other| other.name != leader.name) {
                net.change(&leader.name, &other.name, |way| way.is_cut = true);
                if also_in {
                    net.change(&other.name, &leader.name, |way| way.is_cut = true);
                }
            }
            heal_network(cluster, pause);
        }
        Fault::SlowNetwork => {
            let (least, most) = (rng.within(0..20_000), rng.within(20_001..300_000));
            let loss = rng.within(0..25);
            note!(trace, "nemesis: network {least}..{most} µs, {loss} % lost");
            world::net().set_usual(Way {
                delay_micros: least..most,
                loss_percent: loss,
                is_cut: false,
            });
            let trace = cluster.trace.clone();
            after(pause, move || {
                note!(trace, "nemesis: network as usual");
                world::net().set_usual(Way::default());
            });
        }
        Fault::SlowDisk => {
            let most = rng.within(2_000..400_000);
            note!(trace, "nemesis: disk of {} takes {most} µs", one.name);
            one.disk()
                .set_faults(|faults| faults.flush_micros = 1_000..most);
            after(pause, move || {
                one.disk()
                    .set_faults(|faults| faults.flush_micros = 20..400);
            });
        }
        Fault::FullDisk => {
            let disk = one.disk();
            // Within the reserve, at its edge, or to the last byte.
            let left = [0, 3_000, 200_000, 5 << 20][rng.place(4)];
            let left = rng.within(0..left + 1);
            note!(trace, "nemesis: disk of {} has {left} bytes left", one.name);
            disk.set_capacity(disk.used() + left);
            let capacity = cluster.scenario.disk_bytes;
            let trace = cluster.trace.clone();
            after(pause, move || {
                note!(trace, "nemesis: disk of {} has room", one.name);
                one.disk().set_capacity(capacity);
                one.start();
            });
        }
        Fault::FailingFlush => {
            note!(trace, "nemesis: a flush of {} fails", one.name);
            one.disk().set_faults(|faults| faults.fail_next_sync = true);
            start_again(one, pause + Duration::from_secs(1));
        }
        Fault::Clock => {
            let most = [2_000_000, 120_000_000, 7_200_000_000][rng.place(3)];
            let micros = rng.within(0..2 * most) as i64 - most as i64;
            note!(trace, "nemesis: clock of {} off by {micros} µs", one.name);
            one.set_clock(micros);
        }
        Fault::AddServer => {
            members::add(cluster, rng.percent(30));
        }
        Fault::AddAndRemove => {
            if let Some(added) = members::add(cluster, rng.percent(30)) {
                let at = Duration::from_millis(rng.within(0..3_000));
                members::remove(cluster, added, at, rng.fork("removal"));
            }
        }
        Fault::Remove => members::remove(cluster, one, Duration::ZERO, rng.fork("removal")),
        Fault::RemoveLeader => {
            if let Some(leader) = cluster.leader() {
                members::remove(cluster, leader, Duration::ZERO, rng.fork("removal"));
            }
        }
        Fault::Promote => members::promote(cluster, rng.fork("promotion")),
        Fault::Transfer => members::transfer(cluster, rng.fork("transfer")),
        Fault::Overthrow => elections::overthrow(cluster, rng.fork("election")),
        Fault::Damage => damage::strike(cluster, one, rng.fork("damage")),
    }
}

fn after(pause: Duration, work: impl FnOnce() + Send + 'static) {
    tokio::spawn(async move {
        time::sleep(pause).await;
        work();
    });
}

fn start_again(server: Arc<Server>, pause: Duration) {
    after(pause, move || server.start());
}

fn heal_network(cluster: &Arc<Cluster>, pause: Duration) {
    let trace = cluster.trace.clone();
    after(pause, move || {
        note!(trace, "nemesis: ways healed");
        world::net().heal();
    });
}

/// Nothing is wrong any more, and everybody is started who is not there.
async fn heal(cluster: &Arc<Cluster>) {
    note!(cluster.trace, "nemesis: the end");
    world::net().set_usual(Way::default());
    world::net().heal();
    // What was to go wrong later must not.
    time::sleep(Duration::from_secs(10)).await;
    world::net().set_usual(Way::default());
    world::net().heal();
    for server in cluster.servers() {
        let disk = server.disk();
        // Somebody makes room: for what is there, and once more for what a server is sent.
        disk.set_capacity(2 * cluster.scenario.disk_bytes);
        disk.set_faults(|faults| *faults = Default::default());
        disk.cut_never();
        server.set_clock(0);
    }
    crate::agents::nemesis::heal(cluster);
    // One that is just ending starts once it has; one that was removed says so and does not.
    for _ in 0..60 {
        let is_settled = |server: &Arc<Server>| match server.status() {
            Status::Up => true,
            Status::Refuses(_) => server.wishes.removal_asked.load(Ordering::Relaxed),
            Status::Down | Status::Starting | Status::Stopping => false,
        };
        if cluster.servers().iter().all(is_settled) && !cluster.is_operated() {
            break;
        }
        for server in cluster
            .servers()
            .iter()
            .filter(|server| !is_settled(server))
        {
            server.start();
        }
        time::sleep(Duration::from_secs(2)).await;
    }
}
