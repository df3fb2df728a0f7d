//! Leaders that are cut off, and voters that lose their power right after they voted.
//!
//! ```text
//!   old leader │ voters, others      the others elect a new leader, the voters acknowledge for it
//!   old leader, voters │ others      the voters have lost their power between: all that they
//!                                    have promised must have been on their disks
//! ```

use std::sync::Arc;
use std::time::Duration;

use tidings_host::simulated::{Rng, world};
use tokio::time;

use crate::cluster::Cluster;
use crate::server::{Server, Stop};
use crate::trace::note;

/// How long the others may take to elect a new leader.
const ELECTION_WAIT_MAX: Duration = Duration::from_secs(3);
/// How often it is looked whether there is one.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long one that lost its power may take to be gone.
const DOWN_WAIT_MAX: Duration = Duration::from_secs(2);

/// Cuts the leader off, has those lose their power who voted for its successor, and lets the old
/// leader reach them alone when they are back.
pub(super) fn overthrow(cluster: &Arc<Cluster>, mut rng: Rng) {
    let Some(old) = cluster.leader() else {
        return;
    };
    let cluster = cluster.clone();
    tokio::spawn(async move {
        let mut others = cluster.wanted();
        others.retain(|server| server.name != old.name);
        // As many as make a majority together with the old leader.
        let mut voters = Vec::new();
        for _ in 0..others.len().div_ceil(2) {
            voters.push(others.swap_remove(rng.place(others.len())));
        }
        if others.is_empty() {
            return;
        }
        let all: Vec<_> = others.iter().chain(&voters).cloned().collect();
        let names: Vec<&str> = voters.iter().map(|voter| voter.name.as_str()).collect();
        let early = rng.percent(40);
        note!(
            cluster.trace,
            "nemesis: {} is cut off, and {names:?} lose power, while they vote: {early}",
            old.name
        );
        cut(std::slice::from_ref(&old), &all);
        if early {
            for voter in &voters {
                voter.disk().cut_after(rng.within(1..10));
            }
        }
        wait_for_successor(&cluster, &old).await;
        time::sleep(Duration::from_millis(rng.within(0..400))).await;
        for voter in &voters {
            voter.disk().cut_never();
            voter.stop(Stop::PowerCut);
        }
        for voter in &voters {
            voter.idle_within(DOWN_WAIT_MAX).await;
        }
        time::sleep(Duration::from_millis(rng.within(0..300))).await;
        note!(
            cluster.trace,
            "nemesis: {names:?} are with {} now",
            old.name
        );
        let net = world::net();
        net.heal();
        voters.push(old);
        cut(&voters, &others);
        voters.iter().for_each(Server::start);
        time::sleep(Duration::from_millis(rng.within(500..4_000))).await;
        note!(cluster.trace, "nemesis: ways healed");
        net.heal();
    });
}

/// Cuts all ways between two sides.
fn cut(here: &[Arc<Server>], there: &[Arc<Server>]) {
    let net = world::net();
    for one in here {
        for other in there {
            net.change(&one.name, &other.name, |way| way.is_cut = true);
            net.change(&other.name, &one.name, |way| way.is_cut = true);
        }
    }
}

async fn wait_for_successor(cluster: &Cluster, old: &Server) {
    let led = async {
        loop {
            let leads = |server: &Arc<Server>| {
                let access = server.access().filter(|_| server.name != old.name);
                access.is_some_and(|access| access.replica.is_leader())
            };
            if cluster.servers().iter().any(leads) {
                return;
            }
            time::sleep(LOOK_INTERVAL).await;
        }
    };
    let _ = time::timeout(ELECTION_WAIT_MAX, led).await;
}
