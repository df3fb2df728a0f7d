//! Three servers of which one has no space left on its disk, under load.

use anyhow::{Result, ensure};
use tidings_interop::Tmpfs;
use tidings_interop::cluster::{Cluster, ClusterOptions, Load, rounds, verify};

/// Each server's disk: room for what the test publishes, twice (log and history).
const DISK_MIB: u32 = 256;
/// Events that have to be taken between two faults.
const BETWEEN: u64 = 150;

/// A cluster whose servers have a disk each.
fn on_disks() -> Result<(Vec<Tmpfs>, Cluster)> {
    let disks: Vec<Tmpfs> = (0..3)
        .map(|_| Tmpfs::mount(DISK_MIB))
        .collect::<Result<_>>()?;
    let cluster = Cluster::start(ClusterOptions {
        data_dirs: disks.iter().map(|disk| disk.path().join("data")).collect(),
        ..ClusterOptions::default()
    })?;
    Ok((disks, cluster))
}

/// Gives the space back; a server that has ended for want of it is started again.
fn give_back(disk: &Tmpfs, cluster: &mut Cluster, server: usize) -> Result<()> {
    disk.give_back()?;
    if cluster.servers[server].has_ended()? {
        cluster.servers[server].restart_in_place()?;
    }
    cluster.servers[server].await_ready()
}

#[test]
fn g1_g2_a_follower_without_space_holds_nobody_up_and_comes_back() -> Result<()> {
    let (disks, mut cluster) = on_disks()?;
    let load = Load::start(&cluster);
    load.await_progress(BETWEEN)?;
    for _ in 0..rounds()? {
        let follower = cluster.follower()?;
        disks[follower].fill_up_to(0)?;
        load.await_progress(4 * BETWEEN)?;
        give_back(&disks[follower], &mut cluster, follower)?;
        load.await_progress(BETWEEN)?;
    }
    verify(cluster, &load.finish()?)
}

#[test]
fn g1_g2_a_leader_without_space_is_replaced_and_comes_back() -> Result<()> {
    let (disks, mut cluster) = on_disks()?;
    let load = Load::start(&cluster);
    load.await_progress(BETWEEN)?;
    for _ in 0..rounds()? {
        let leader = cluster.leader()?;
        disks[leader].fill_up_to(0)?;
        // The others have space: somebody takes events again.
        load.await_progress(4 * BETWEEN)?;
        ensure!(cluster.leader()? != leader, "a server without space leads");
        give_back(&disks[leader], &mut cluster, leader)?;
        load.await_progress(BETWEEN)?;
    }
    verify(cluster, &load.finish()?)
}
