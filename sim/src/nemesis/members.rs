//! Servers that come, go, get their vote, and pass on the lead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidings_host::simulated::Rng;
use tidings_raft::ChangeError;
use tokio::time;

use crate::cluster::Cluster;
use crate::server::{Access, Server, Stop};
use crate::trace::note;
use crate::workload::follower;

/// Servers that stay in the cluster, whatever happens.
const SERVERS_MIN: usize = 3;
/// How often a removal is asked for until somebody says what became of it.
const ASKS_MAX: u32 = 5;
/// How long a server may take to notice that it was removed before somebody ends it.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(15);

/// Has a new server join.
pub(super) fn add(cluster: &Arc<Cluster>, standby: bool) -> Option<Arc<Server>> {
    let server = cluster.add_server(standby)?;
    note!(
        cluster.trace,
        "nemesis: {} joins, standby: {standby}",
        server.name
    );
    follower::watch(cluster, &server);
    server.start();
    Some(server)
}

/// One of the servers that are up.
fn any_up(cluster: &Cluster, rng: &mut Rng) -> Option<(Arc<Server>, Access)> {
    let mut up: Vec<_> = cluster
        .servers()
        .into_iter()
        .filter_map(|server| Some((server.clone(), server.access()?)))
        .collect();
    match up.is_empty() {
        true => None,
        false => Some(up.swap_remove(rng.place(up.len()))),
    }
}

/// Takes a server out, which may be down, and puts a new one in its place, or not.
pub(super) fn remove(cluster: &Arc<Cluster>, server: Arc<Server>, after: Duration, mut rng: Rng) {
    let is_wanted = !server.wishes.removal_asked.load(Ordering::Relaxed);
    if !is_wanted || cluster.wanted().len() <= SERVERS_MIN || !cluster.begin_operation() {
        return;
    }
    let cluster = cluster.clone();
    tokio::spawn(async move {
        time::sleep(after).await;
        take_out(&cluster, &server, &mut rng).await;
        cluster.end_operation();
    });
}

async fn take_out(cluster: &Arc<Cluster>, server: &Arc<Server>, rng: &mut Rng) {
    let trace = &cluster.trace;
    if rng.percent(30) {
        note!(trace, "nemesis: {} is down when it is removed", server.name);
        server.stop(Stop::Kill);
        time::sleep(Duration::from_millis(rng.within(0..3_000))).await;
    }
    let number = server.node_id().filter(|_| rng.percent(50));
    let whom = number.map_or_else(|| server.name.clone(), |id| id.to_string());
    let knows_itself = server.was_member();
    server.wishes.removal_asked.store(true, Ordering::Relaxed);
    let mut may_be_gone = false;
    let mut is_gone = false;
    for _ in 0..ASKS_MAX {
        let Some((at, mut access)) = any_up(cluster, rng) else {
            time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let replica = access.replica.clone();
        let removed = access.during(replica.remove_server(&whom)).await;
        note!(
            trace,
            "nemesis: {} removes {} ({whom}): {removed:?}",
            at.name,
            server.name
        );
        match removed {
            Some(Ok(())) => {
                is_gone = true;
                break;
            }
            // Nothing was changed, unless an earlier attempt has.
            Some(Err(ChangeError::Refused { .. } | ChangeError::Alone)) => break,
            Some(Err(ChangeError::NoLeader { .. })) => {}
            Some(Err(ChangeError::Unfinished { .. })) | None => may_be_gone = true,
        }
        time::sleep(Duration::from_millis(rng.within(0..1_000))).await;
    }
    if !is_gone {
        let asked = &server.wishes.removal_asked;
        asked.store(may_be_gone, Ordering::Relaxed);
        return;
    }
    // One that never knew itself to be a member asks to be taken in once more.
    if !knows_itself {
        return;
    }
    server.wishes.removed.store(true, Ordering::Relaxed);
    replace(cluster, server, rng).await;
}

/// Has a new server take the place of one that was removed: on the same machine, on another, or not.
async fn replace(cluster: &Arc<Cluster>, server: &Arc<Server>, rng: &mut Rng) {
    match rng.within(0..4) {
        0 => {}
        1 => {
            add(cluster, false);
        }
        _ => {
            let notices = rng.percent(50);
            if !notices || !server.idle_within(LEAVE_WAIT_MAX).await {
                server.stop(Stop::Kill);
                server.idle_within(LEAVE_WAIT_MAX).await;
            }
            let others = cluster.servers().into_iter();
            let others = others.filter(|other| other.name != server.name);
            let join = others.map(|other| other.address()).collect();
            if server.renew(join) {
                note!(cluster.trace, "nemesis: {} is a new server", server.name);
                server.start();
            }
        }
    }
}

/// Gives a standby its vote.
pub(super) fn promote(cluster: &Arc<Cluster>, mut rng: Rng) {
    let mut waiting = cluster.wanted();
    waiting.retain(|server| {
        let wishes = &server.wishes;
        wishes.standby.load(Ordering::Relaxed) && !wishes.promoted.load(Ordering::Relaxed)
    });
    if waiting.is_empty() {
        return;
    }
    let server = waiting.swap_remove(rng.place(waiting.len()));
    let cluster = cluster.clone();
    tokio::spawn(async move {
        let Some((at, mut access)) = any_up(&cluster, &mut rng) else {
            return;
        };
        let replica = access.replica.clone();
        let promoted = access.during(replica.promote(&server.name)).await;
        note!(
            cluster.trace,
            "nemesis: {} promotes {}: {promoted:?}",
            at.name,
            server.name
        );
        if let Some(Ok(())) = promoted {
            server.wishes.promoted.store(true, Ordering::Relaxed);
        }
    });
}

/// Has another server lead, of which nobody says that it can.
pub(super) fn transfer(cluster: &Arc<Cluster>, mut rng: Rng) {
    let cluster = cluster.clone();
    tokio::spawn(async move {
        let Some((at, mut access)) = any_up(&cluster, &mut rng) else {
            return;
        };
        let servers = cluster.servers();
        let to = &servers[rng.place(servers.len())];
        let to = rng.percent(70).then_some(to.name.as_str());
        let replica = access.replica.clone();
        let passed = access.during(replica.transfer_leader(to)).await;
        note!(
            cluster.trace,
            "nemesis: {} passes the lead to {to:?}: {passed:?}",
            at.name
        );
    });
}
