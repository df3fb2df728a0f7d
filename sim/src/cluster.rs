//! All servers of a run, and what was seen of them.

use std::path::Path;
use std::sync::Arc;

use tidings_host::simulated::{Mutex, MutexGuard};
use tidings_raft::{MemberRole, Role};

use crate::evidence::{DiskHistory, Evidence};
use crate::scenario::Scenario;
use crate::server::{Server, Status};
use crate::trace::Trace;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

pub(crate) struct Cluster {
    servers: Mutex<Vec<Arc<Server>>>,
    pub scenario: Scenario,
    pub trace: Trace,
    evidence: Mutex<Evidence>,
}

impl Cluster {
    pub fn new(scenario: Scenario, trace: Trace) -> Arc<Self> {
        let join: Vec<String> = (0..2).map(|n| format!("{}:7481", NAMES[n])).collect();
        let expect = scenario.servers as u32;
        let servers = NAMES[..scenario.servers]
            .iter()
            .map(|name| Server::new(name, &scenario, (expect, join.clone()), &trace))
            .collect();
        Arc::new(Self {
            servers: Mutex::new(servers),
            scenario,
            trace,
            evidence: Mutex::default(),
        })
    }

    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.servers.lock().clone()
    }

    pub fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock()
    }

    /// Adds a server that joins the others; `None` when there are enough.
    pub fn add_server(&self) -> Option<Arc<Server>> {
        let mut servers = self.servers.lock();
        let name = NAMES.get(servers.len())?;
        let join = servers.iter().map(|server| server.address()).collect();
        let server = Server::new(name, &self.scenario, (0, join), &self.trace);
        servers.push(server.clone());
        Some(server)
    }

    /// The server that leads, as it thinks.
    pub fn leader(&self) -> Option<Arc<Server>> {
        self.servers()
            .into_iter()
            .find(|server| server.access().is_some_and(|a| a.replica.is_leader()))
    }

    /// Why the servers are not at rest, all alike; `None` when they are.
    pub fn unrest(&self) -> Option<String> {
        let mut applied = None;
        let servers = self.servers();
        for server in &servers {
            let Some(access) = server.access() else {
                return Some(match server.status() {
                    Status::Refuses(reason) => format!("{} does not start: {reason}", server.name),
                    status => format!("{} is {status:?}", server.name),
                });
            };
            let status = access.replica.status();
            let here = (status.applied, status.frames_newest);
            if status.leader.is_none() {
                return Some(format!("{} knows no leader", server.name));
            }
            let votes = status
                .members
                .iter()
                .filter(|member| member.role == MemberRole::Voter)
                .count();
            if votes != servers.len() || status.role == Role::Learner {
                return Some(format!(
                    "{} knows {votes} voters of {}",
                    server.name,
                    servers.len()
                ));
            }
            match applied {
                None => applied = Some((here, server.name.clone())),
                Some((there, ref first)) if there != here => {
                    return Some(format!(
                        "{first} is at {there:?} and {} at {here:?}",
                        server.name
                    ));
                }
                Some(_) => {}
            }
        }
        None
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
        self.servers().iter().map(read).collect()
    }
}
