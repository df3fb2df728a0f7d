//! Bits that flip on the disk of one server: it says so, serves nothing of it, and is rebuilt.
//!
//! The end of the log is spared: what the last flush brought to the disk cannot be told from what a
//! power cut tore.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidings_host::simulated::{Disk, Rng};
use tidings_raft::MemberRole;
use tokio::time::{self, Instant};

use crate::cluster::Cluster;
use crate::server::{Server, Status, Stop};
use crate::trace::note;
use crate::workload::follower;

/// How long a server may take to end, or to begin, before it is left to itself.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(100);
/// How long a rebuilt one may take to have everything again before something else is damaged.
const REBUILD_WAIT_MAX: Duration = Duration::from_secs(60);
/// How often it is looked how things are.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Errors that say nothing of what is on the disk: it is full, or dies.
const PASSING: [&str; 2] = ["os error 28", "os error 5)"];
/// What a refusal of damaged files speaks of.
const TELLING: [&str; 3] = ["damaged", "missing", "tidings rebuild"];

/// Flips a bit of a file of `server`, while it runs or not, and rebuilds it when it says so.
pub(super) fn strike(cluster: &Arc<Cluster>, server: Arc<Server>, mut rng: Rng) {
    let wanted = cluster.wanted();
    let is_wanted = wanted.iter().any(|other| other.name == server.name);
    if !is_wanted || !server.was_member() || !spares(cluster, &server) {
        return;
    }
    if !cluster.begin_operation() {
        return;
    }
    let cluster = cluster.clone();
    tokio::spawn(async move {
        damage(&cluster, &server, &mut rng).await;
        cluster.end_operation();
    });
}

/// Whether a majority of those that vote is left without this one: it is needed to take it in again.
/// Votes of numbers that nobody has any more are lost already.
fn spares(cluster: &Cluster, server: &Server) -> bool {
    let members = cluster.members().unwrap_or_default();
    let voters = members
        .iter()
        .filter(|(_, role)| **role == MemberRole::Voter);
    let voters: Vec<u64> = voters.map(|(&id, _)| id).collect();
    let others = cluster.servers().into_iter();
    let others = others.filter(|other| other.name != server.name);
    let there: Vec<u64> = others.filter_map(|other| other.node_id()).collect();
    let left = voters.iter().filter(|id| there.contains(id)).count();
    left > voters.len() / 2
}

async fn damage(cluster: &Arc<Cluster>, server: &Arc<Server>, rng: &mut Rng) {
    let at_rest = rng.percent(50);
    if at_rest {
        server.stop([Stop::Kill, Stop::Orderly, Stop::PowerCut][rng.place(3)]);
        if !server.idle_within(CHANGE_WAIT_MAX).await {
            return;
        }
    }
    let flipped = flip(&server.disk(), rng);
    note!(
        cluster.trace,
        "nemesis: a bit flips at {}, at rest: {at_rest}: {flipped:?}",
        server.name
    );
    if at_rest {
        server.start();
    }
    if flipped.is_none() {
        return;
    }
    if rng.percent(50) && !at_rest {
        follower::read_again(cluster, server).await;
    }
    let patience = Instant::now() + Duration::from_millis(rng.within(500..15_000));
    let mut found = None;
    while found.is_none() && Instant::now() < patience {
        time::sleep(LOOK_INTERVAL).await;
        found = refusal(server);
    }
    if found.is_none() {
        // Everything is read at a start.
        server.stop(Stop::Kill);
        server.idle_within(CHANGE_WAIT_MAX).await;
        let give_up = Instant::now() + CHANGE_WAIT_MAX;
        while found.is_none() && server.access().is_none() && Instant::now() < give_up {
            found = refusal(server);
            time::sleep(LOOK_INTERVAL).await;
        }
    }
    let Some(reason) = found else {
        note!(
            cluster.trace,
            "nemesis: {} knows nothing of a flipped bit",
            server.name
        );
        return;
    };
    if !TELLING.iter().any(|word| reason.contains(word)) {
        let what = format!("{} refuses its damaged files: {reason}", server.name);
        cluster.evidence().violate("damage", what);
    }
    time::sleep(Duration::from_millis(rng.within(0..5_000))).await;
    rebuild(cluster, server).await;
}

/// Whether somebody who has no room, or whose disk failed just now, only has to be asked again.
fn passes(reason: &str) -> bool {
    PASSING.iter().any(|error| reason.contains(error))
}

/// Why the server does not start. One that ended is started, and so is one that says nothing of what it
/// holds.
fn refusal(server: &Arc<Server>) -> Option<String> {
    match server.status() {
        Status::Refuses(reason) if !passes(&reason) => Some(reason),
        Status::Refuses(_) | Status::Down => {
            server.start();
            None
        }
        Status::Starting | Status::Up | Status::Stopping => None,
    }
}

async fn rebuild(cluster: &Arc<Cluster>, server: &Arc<Server>) {
    // Somebody may have started it once more.
    if !server.idle_within(CHANGE_WAIT_MAX).await {
        return;
    }
    let give_up = Instant::now() + CHANGE_WAIT_MAX;
    let mut was_tried = false;
    let rebuilt = loop {
        match server.rebuild() {
            Err(what) if passes(&what) && Instant::now() < give_up => {
                was_tried = true;
                time::sleep(LOOK_INTERVAL).await;
            }
            // The attempt before had come that far.
            Err(what) if was_tried && what.contains("nothing to set aside") => break Ok(()),
            rebuilt => break rebuilt,
        }
    };
    if let Err(what) = rebuilt {
        let what = format!("{} is not rebuilt: {what}", server.name);
        cluster.evidence().violate("damage", what);
        return;
    }
    server.start();
    let give_up = Instant::now() + REBUILD_WAIT_MAX;
    while Instant::now() < give_up {
        let members = cluster.members().unwrap_or_default();
        if server.node_id().is_some_and(|id| members.contains_key(&id)) {
            return;
        }
        refusal(server);
        time::sleep(LOOK_INTERVAL).await;
    }
}

/// Flips a bit of one of the files that count. What, if there is one.
fn flip(disk: &Disk, rng: &mut Rng) -> Option<(PathBuf, u64)> {
    let (folder, kind) = [
        ("history", "ndjson"),
        ("history", "idx"),
        ("raft", "log"),
        ("snapshots", "snap"),
        ("raft", ""),
    ][rng.place(5)];
    let mut files = disk.files_below(&Path::new("/disk/data").join(folder));
    files.retain(|path| match kind {
        "" => path.file_name().is_some_and(|name| name == "vote"),
        _ => path.extension().is_some_and(|is| is == kind) && !is_spare(path),
    });
    // The newest segment is one that is written.
    if kind == "ndjson" || kind == "idx" || kind == "log" {
        files.pop();
    }
    if files.is_empty() {
        return None;
    }
    let path = Path::new("/disk").join(files.swap_remove(rng.place(files.len())));
    let place = rng.number();
    disk.flip(&path, place).then_some((path, place))
}

fn is_spare(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with("spare")
}
