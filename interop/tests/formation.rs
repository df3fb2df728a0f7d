//! Servers that are killed while they become a cluster.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use tidings_interop::cluster::{Cluster, ClusterOptions, rounds};

/// Clusters that are formed in one round.
const FORMATIONS: usize = 4;
/// When a blow falls after the one before: from before the first greeting to after the first election.
const PAUSES_MS: [u64; 7] = [30, 450, 150, 700, 250, 90, 1100];

/// `kill -9` again and again before there is a cluster, and just after: there is one in the end, with one
/// timeline that all have.
#[test]
fn kill_9_during_formation_ends_with_one_cluster_and_one_timeline() -> Result<()> {
    let mut pauses = PAUSES_MS.iter().copied().cycle();
    for formation in 0..FORMATIONS * rounds()? {
        let mut cluster = Cluster::launch(ClusterOptions {
            agents: 0,
            ..ClusterOptions::default()
        })?;
        for blow in 0..6 {
            // not a wait for a condition: when the blow falls is what is tried
            sleep(Duration::from_millis(pauses.next().unwrap_or_default()));
            let server = (formation + blow) % 3;
            cluster.servers[server].kill()?;
            if blow % 3 == 2 {
                // all three at once
                for other in [(server + 1) % 3, (server + 2) % 3] {
                    cluster.servers[other].kill()?;
                    cluster.servers[other].restart_in_place()?;
                }
            }
            cluster.servers[server].restart_in_place()?;
        }
        for server in &mut cluster.servers {
            server.await_ready()?;
        }
        let mut ids = BTreeSet::new();
        let mut members = BTreeSet::new();
        for (number, server) in cluster.servers.iter().enumerate() {
            let event = format!(r#"{{"Events":[{{"Topic":"T","Type":"t","Id":"{number}"}}]}}"#);
            let index = server.publish_text(&event)?;
            for other in 0..3 {
                cluster.await_frame(other, index)?;
            }
        }
        for server in &cluster.servers {
            let status = server.get_json("/v1/status")?;
            ids.insert(status["Timeline"]["Id"].to_string());
            let servers = status["Servers"].as_array().into_iter().flatten();
            let numbers: Vec<String> = servers.map(|it| it["Id"].to_string()).collect();
            ensure!(numbers.len() == 3, "formation {formation}: {status}");
            members.insert(numbers);
        }
        ensure!(ids.len() == 1, "formation {formation}: timelines {ids:?}");
        ensure!(
            members.len() == 1,
            "formation {formation}: groups {members:?}"
        );
        cluster.stop()?;
    }
    Ok(())
}
