//! All servers of a run, and what was seen of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidings_host::simulated::{Mutex, MutexGuard};
use tidings_raft::{MemberRole, Role};

use crate::agents::Agent;
use crate::evidence::{DiskHistory, Evidence};
use crate::scenario::Scenario;
use crate::server::{Server, Status};
use crate::trace::Trace;

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const AGENT_NAMES: [&str; 2] = ["x", "y"];

pub(crate) struct Cluster {
    servers: Mutex<Vec<Arc<Server>>>,
    pub agents: Vec<Arc<Agent>>,
    pub scenario: Scenario,
    pub trace: Trace,
    evidence: Mutex<Evidence>,
    /// Whether somebody is at one of the servers: damages it, mends it, takes it out.
    operated: AtomicBool,
}

impl Cluster {
    pub fn new(scenario: Scenario, trace: Trace) -> Arc<Self> {
        let join: Vec<String> = (0..2).map(|n| format!("{}:7481", NAMES[n])).collect();
        let expect = scenario.servers as u32;
        let servers = NAMES[..scenario.servers]
            .iter()
            .map(|name| Server::new(name, &scenario, (expect, join.clone()), &trace))
            .collect();
        let told: Vec<String> = NAMES[..scenario.servers]
            .iter()
            .map(ToString::to_string)
            .collect();
        let agents = AGENT_NAMES[..scenario.agents.count]
            .iter()
            .map(|name| Agent::new(name, &scenario.agents, &told, &trace))
            .collect();
        Arc::new(Self {
            servers: Mutex::new(servers),
            agents,
            scenario,
            trace,
            evidence: Mutex::default(),
            operated: AtomicBool::new(false),
        })
    }

    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.servers.lock().clone()
    }

    pub fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock()
    }

    /// Adds a server that joins the others; `None` when there are enough.
    pub fn add_server(&self, standby: bool) -> Option<Arc<Server>> {
        let mut servers = self.servers.lock();
        let name = NAMES.get(servers.len())?;
        let join = servers.iter().map(|server| server.address()).collect();
        let server = Server::new(name, &self.scenario, (0, join), &self.trace);
        server.wishes.standby.store(standby, Ordering::Relaxed);
        servers.push(server.clone());
        for agent in &self.agents {
            agent.learn(name);
        }
        Some(server)
    }

    /// The server that leads, as it thinks.
    pub fn leader(&self) -> Option<Arc<Server>> {
        self.servers()
            .into_iter()
            .find(|server| server.access().is_some_and(|a| a.replica.is_leader()))
    }

    /// The servers of which nobody wanted that they go.
    pub fn wanted(&self) -> Vec<Arc<Server>> {
        let mut servers = self.servers();
        servers.retain(|server| !server.wishes.removal_asked.load(Ordering::Relaxed));
        servers
    }

    /// Starts those that are out and have ended, so that they say why they do not start.
    pub fn start_removed(&self) {
        for server in self.servers() {
            let may_be_gone = server.wishes.removal_asked.load(Ordering::Relaxed);
            let says_so = outsider(&server).is_ok();
            if may_be_gone && server.is_idle() && !says_so {
                server.start();
            }
        }
    }

    /// Begins work at one of the servers; `false` while there is some: at most one is damaged or on its
    /// way out at a time.
    pub fn begin_operation(&self) -> bool {
        !self.operated.swap(true, Ordering::Relaxed)
    }

    pub fn end_operation(&self) {
        self.operated.store(false, Ordering::Relaxed);
    }

    pub fn is_operated(&self) -> bool {
        self.operated.load(Ordering::Relaxed)
    }

    /// Who is in the cluster, as the one says that leads it.
    pub fn members(&self) -> Option<BTreeMap<u64, MemberRole>> {
        let access = self.leader()?.access()?;
        let members = access.replica.members().into_iter();
        Some(
            members
                .map(|member| (member.node_id, member.role))
                .collect(),
        )
    }

    /// Why the servers are not at rest, all alike; `None` when they are.
    pub fn unrest(&self) -> Option<String> {
        let Some(members) = self.members() else {
            return Some("nobody leads".to_owned());
        };
        let mut applied = None;
        let mut there = BTreeSet::new();
        for server in self.servers() {
            let name = &server.name;
            let id = server.node_id();
            let Some((id, role)) = id.and_then(|id| Some((id, *members.get(&id)?))) else {
                match outsider(&server) {
                    Ok(()) => continue,
                    Err(unrest) => return Some(unrest),
                }
            };
            there.insert(id);
            let Some(access) = server.access() else {
                return Some(match server.status() {
                    Status::Refuses(reason) => format!("{name} does not start: {reason}"),
                    status => format!("{name} is {status:?}"),
                });
            };
            if server.wishes.removed.load(Ordering::Relaxed) {
                return Some(format!("{name} was removed and is a {role:?}"));
            }
            let status = access.replica.status();
            if status.leader.is_none() {
                return Some(format!("{name} knows no leader"));
            }
            let may_stand_by = server.wishes.standby.load(Ordering::Relaxed)
                && !server.wishes.promoted.load(Ordering::Relaxed);
            let is_settled = match role {
                MemberRole::Voter => status.role != Role::Learner,
                MemberRole::Standby => may_stand_by,
                MemberRole::Learner => false,
            };
            if !is_settled {
                return Some(format!("{name} is a {role:?} and {:?}", status.role));
            }
            let here = (status.applied, status.frames_newest, status.members.len());
            match applied {
                None => applied = Some((here, name.clone())),
                Some((there, ref first)) if there != here => {
                    return Some(format!("{first} is at {there:?} and {name} at {here:?}"));
                }
                Some(_) => {}
            }
        }
        if let Some(id) = members.keys().find(|id| !there.contains(id)) {
            return Some(format!("{id} is a member, and no server has this number"));
        }
        self.agents.iter().find_map(|agent| agent.unrest())
    }

    /// The histories, as they lie on the disks.
    pub fn histories(&self) -> Vec<DiskHistory> {
        let read = |server: &Arc<Server>| {
            let disk = server.disk();
            let files = disk.files_below(Path::new("/disk/data/history"));
            let lines = files
                .into_iter()
                .filter(|path| path.extension().is_some_and(|kind| kind == "ndjson"));
            let segments = lines.filter_map(|path| {
                let name = path.file_name()?.to_string_lossy().into_owned();
                Some((name, disk.peek(&Path::new("/disk").join(path))?.into()))
            });
            DiskHistory {
                server: server.name.clone(),
                segments: segments.collect(),
            }
        };
        let servers = self.servers();
        let members = servers.iter().filter(|server| server.access().is_some());
        members.map(read).collect()
    }
}

/// Whether it is well that a server is not in the cluster.
fn outsider(server: &Server) -> Result<(), String> {
    let name = &server.name;
    if !server.wishes.removal_asked.load(Ordering::Relaxed) {
        return Err(format!(
            "{name} is not in the cluster, and is {:?}",
            server.status()
        ));
    }
    match server.status() {
        Status::Refuses(reason) if reason.contains("was removed") => Ok(()),
        status => Err(format!("{name} was removed and is {status:?}")),
    }
}
