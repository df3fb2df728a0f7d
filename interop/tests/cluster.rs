//! Three servers as processes, on loopback: killed and stopped under load.
//!
//! `cargo xtask cluster --rounds N` runs this longer, against a release build.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use tidings_interop::cluster::{Cluster, ClusterOptions, Load, rounds, verify};

/// Events that have to be taken between two blows.
const BETWEEN: u64 = 150;
/// Longer than an election takes: another server leads meanwhile.
const STOPPED: Duration = Duration::from_secs(3);

#[test]
fn g1_g2_g4_g5_kill_9_of_leaders_followers_and_agents_loses_and_repeats_nothing() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let load = Load::start(&cluster);
    load.await_progress(BETWEEN)?;
    for round in 0..rounds()? {
        let leader = cluster.leader()?;
        cluster.servers[leader].kill()?;
        let waited = load.await_progress(BETWEEN)?;
        println!("round {round}: without leader {leader}, {BETWEEN} events in {waited:?}");
        cluster.servers[leader].restart_in_place()?;
        cluster.servers[leader].await_ready()?;

        let follower = cluster.follower()?;
        cluster.servers[follower].kill()?;
        load.await_progress(BETWEEN)?;
        cluster.servers[follower].restart_in_place()?;
        cluster.servers[follower].await_ready()?;
        load.await_progress(BETWEEN)?;

        // What an agent has answered for is on the timeline, or on its disk.
        let agent = round % cluster.agents.len();
        cluster.agents[agent].kill()?;
        load.await_progress(BETWEEN)?;
        cluster.agents[agent].restart_in_place()?;
        load.await_progress(BETWEEN)?;
    }
    verify(cluster, &load.finish()?)
}

/// Agents are told of peer addresses alone, and follow the servers wherever these go: past a leader
/// that is killed for good, and to the one that takes its place.
#[test]
fn g4_g5_agents_that_joined_go_on_when_a_leader_dies_and_a_server_is_replaced() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let load = Load::start(&cluster);
    load.await_progress(BETWEEN)?;
    let leader = cluster.leader()?;
    let mut dead = cluster.servers.remove(leader);
    dead.kill()?;
    load.await_acknowledged(BETWEEN)?;

    // Nobody is called like this one.
    cluster.launch_server_named("new", 3)?;
    cluster.servers[2].await_ready()?;
    let target = format!("/v1/servers/server-{leader}");
    let removed = cluster.servers[0].request("DELETE", &target, &[], b"")?;
    ensure!(removed.status == 200, "not removed: {}", removed.text());
    load.await_acknowledged(BETWEEN)?;

    // The next leader as well: what there is now is the new server and one that was there before.
    let leader = cluster.leader()?;
    cluster.servers[leader].kill()?;
    load.await_acknowledged(BETWEEN)?;
    cluster.servers[leader].restart_in_place()?;
    cluster.servers[leader].await_ready()?;
    load.await_acknowledged(BETWEEN)?;
    verify(cluster, &load.finish()?)
}

/// Everything is gone at once, and an agent goes on taking: what it took comes once.
#[test]
fn g5_what_agents_take_without_servers_comes_once_and_in_order() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let load = Load::start(&cluster);
    load.await_progress(BETWEEN)?;
    for _ in 0..rounds()? {
        for server in &mut cluster.servers {
            server.kill()?;
        }
        let kept = load.kept();
        load.await_progress(BETWEEN)?;
        ensure!(load.kept() > kept, "the agents kept nothing");
        cluster.agents[0].kill()?;
        cluster.agents[0].restart_in_place()?;
        load.await_progress(BETWEEN)?;
        for server in &mut cluster.servers {
            server.restart_in_place()?;
        }
        for server in &mut cluster.servers {
            server.await_ready()?;
        }
        load.await_acknowledged(BETWEEN)?;
    }
    verify(cluster, &load.finish()?)
}

#[test]
fn g1_g2_a_leader_that_stands_still_is_replaced_and_catches_up() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::default())?;
    let load = Load::start(&cluster);
    load.await_progress(BETWEEN)?;
    for _ in 0..rounds()? {
        let leader = cluster.leader()?;
        cluster.servers[leader].pause()?;
        let others: Vec<usize> = (0..3).filter(|it| *it != leader).collect();
        cluster.leader_among(&others)?;
        load.await_progress(BETWEEN)?;
        // Not a wait for a condition: how long it stands still is what is tried.
        sleep(STOPPED);
        cluster.servers[leader].resume()?;
        load.await_progress(BETWEEN)?;
    }
    verify(cluster, &load.finish()?)
}
