//! Three servers on hosts of their own, whose network is cut, slow and lossy, under load.
//!
//! These need to make network namespaces: as root, or with what `Network` says when it may not.
//! `cargo xtask cluster --rounds N` runs them longer, against a release build.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use tidings_interop::Link;
use tidings_interop::cluster::{Cluster, ClusterOptions, Load, rounds, verify};

/// Events that have to be taken between two faults.
const BETWEEN: u64 = 150;
/// Longer than an election takes.
const PARTED: Duration = Duration::from_secs(3);

fn on_hosts() -> Result<Cluster> {
    Cluster::start(ClusterOptions {
        on_hosts: true,
        ..ClusterOptions::default()
    })
}

/// Everybody's host numbers but one's.
fn all_but(cluster: &Cluster, host: usize) -> Vec<usize> {
    let hosts = cluster.servers.len() + cluster.agents.len();
    (0..hosts).filter(|it| *it != host).collect()
}

fn servers_but(cluster: &Cluster, server: usize) -> Vec<usize> {
    (0..cluster.servers.len())
        .filter(|it| *it != server)
        .collect()
}

#[test]
fn g1_g2_g4_a_leader_that_is_cut_off_is_replaced_and_takes_nothing_back() -> Result<()> {
    let cluster = on_hosts()?;
    let load = Load::start(&cluster);
    load.await_progress(BETWEEN)?;
    for _ in 0..rounds()? {
        // Clients still reach it, and must not be told that anything of theirs is stored.
        let leader = cluster.leader()?;
        cluster.network()?.part(leader, &all_but(&cluster, leader));
        let next = cluster.leader_among(&servers_but(&cluster, leader))?;
        ensure!(next != leader, "it cannot lead without a majority");
        load.await_progress(BETWEEN)?;
        cluster.network()?.heal();
        load.await_progress(BETWEEN)?;
    }
    ensure!(cluster.network()?.dropped() > 0, "nothing was cut");
    verify(cluster, &load.finish()?)
}

#[test]
fn g1_g2_g4_cuts_in_one_direction_keep_nobody_from_agreeing() -> Result<()> {
    let cluster = on_hosts()?;
    let load = Load::start(&cluster);
    load.await_progress(BETWEEN)?;
    for _ in 0..rounds()? {
        // The leader hears nothing more from the others, which go on to hear it.
        let leader = cluster.leader()?;
        for server in servers_but(&cluster, leader) {
            cluster.network()?.cut(server, leader);
        }
        load.await_progress(BETWEEN)?;
        cluster.network()?.heal();
        load.await_progress(BETWEEN)?;

        // A follower hears nothing more of the others, and is heard: it must not unseat the leader
        // again and again.
        let follower = cluster.follower()?;
        for server in servers_but(&cluster, follower) {
            cluster.network()?.cut(server, follower);
        }
        load.await_progress(BETWEEN)?;
        sleep(PARTED);
        load.await_progress(BETWEEN)?;
        cluster.network()?.heal();
        load.await_progress(BETWEEN)?;
    }
    verify(cluster, &load.finish()?)
}

#[test]
fn g1_g2_g4_a_slow_and_lossy_network_loses_no_event() -> Result<()> {
    let mut cluster = on_hosts()?;
    let load = Load::start(&cluster);
    load.await_progress(BETWEEN)?;
    let (delay, jitter) = (Duration::from_millis(20), Duration::from_millis(10));
    cluster.network()?.shape(Link::poor(delay, jitter, 20));
    load.await_progress(BETWEEN)?;
    let leader = cluster.leader()?;
    cluster.servers[leader].kill()?;
    load.await_progress(BETWEEN)?;
    cluster.servers[leader].restart_in_place()?;
    cluster.servers[leader].await_ready()?;
    load.await_progress(BETWEEN)?;
    ensure!(
        cluster.network()?.dropped() > 0,
        "nothing was lost on the way"
    );
    cluster.network()?.heal();
    verify(cluster, &load.finish()?)
}

#[test]
fn g2_without_a_majority_nothing_is_acknowledged() -> Result<()> {
    let cluster = on_hosts()?;
    let load = Load::start(&cluster);
    load.await_progress(BETWEEN)?;
    for server in 0..cluster.servers.len() {
        cluster.network()?.part(server, &all_but(&cluster, server));
    }
    // What was on its way when the last majority ended may still be answered.
    sleep(Duration::from_secs(1));
    let before = load.acknowledged();
    sleep(PARTED);
    ensure!(
        load.acknowledged() == before,
        "servers that are alone acknowledged something"
    );
    cluster.network()?.heal();
    load.await_progress(BETWEEN)?;
    verify(cluster, &load.finish()?)
}
