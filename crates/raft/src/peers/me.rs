use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{RaftMetrics, async_runtime::WatchReceiver, type_config::alias::WatchReceiverOf};
use parking_lot::Mutex;
use tidings_timeline::TimelineId;
use tokio::time::Instant;

use super::{
    acquaintances::{Acquaintance, Acquaintances},
    message::{
        Found, FoundServer, Greeting, Hello, More, Refused, RefusedReason, Server, Stage,
        VERSION_MAX, VERSION_MIN,
    },
    reception::Reception,
    room::Room,
    wire::Wire,
};
use crate::{
    binding::{Binding, Peer},
    config::{Clock, PeersConfig, PeersLimits, ReplicaConfig},
    machine::MachineShared,
    status::{PeersStatus, WaitsFor},
};

/// What this server says of itself, and whom it knows.
pub(crate) struct Me {
    pub server: Server,
    /// Where it answers clients.
    pub http: String,
    pub standby: bool,
    pub replaces: Option<u64>,
    pub expects: u32,
    /// The newest version of the messages that it speaks.
    pub version_max: u8,
    pub wire: Wire,
    pub limits: PeersLimits,
    /// Who may connect.
    pub reception: Arc<Reception>,
    /// The memory for what others send.
    pub room: Arc<Room>,
    pub clock: Clock,
    /// What the data directory says; the state has it only once the log is applied.
    pub stored_timeline: Option<TimelineId>,
    pub machine: Arc<MachineShared>,
    /// Set when the engine is there.
    metrics: OnceLock<WatchReceiverOf<Binding, RaftMetrics<Binding>>>,
    known: Mutex<Acquaintances>,
    /// The fresh servers that answered in the last round, this one among them while it is fresh.
    fresh: Mutex<BTreeSet<u64>>,
    /// Why the cluster does not take this server in, as it said last.
    not_admitted: Mutex<Option<String>>,
    /// What keeps this server from forming a cluster with those that it sees.
    disagreement: Mutex<Option<String>>,
    /// The leader that was last heard, and when.
    heard: Mutex<Option<(u64, Instant)>>,
    /// Whether the leader knows nothing of this server, which was never a member for good: it is to
    /// ask to be taken in once more.
    admission_lost: AtomicBool,
}

impl Me {
    pub fn new(
        config: &ReplicaConfig,
        peers: &PeersConfig,
        stored_timeline: Option<TimelineId>,
        machine: Arc<MachineShared>,
    ) -> Me {
        Me {
            fresh: Mutex::new(BTreeSet::from([config.node_id])),
            admission_lost: AtomicBool::new(false),
            server: Server {
                id: config.node_id,
                name: config.node_name.clone(),
                address: peers.advertise.clone(),
            },
            http: peers.http.clone(),
            standby: peers.standby,
            replaces: peers.replaces,
            expects: peers.bootstrap_expect,
            version_max: peers
                .version_max
                .map_or(VERSION_MAX, |max| max.clamp(VERSION_MIN, VERSION_MAX)),
            wire: Wire {
                transport: peers.transport.clone(),
                tls: peers.tls.clone(),
            },
            reception: Reception::new(peers.limits.clone()),
            room: Room::new(peers.limits.buffered_bytes_max),
            limits: peers.limits.clone(),
            clock: config.clock.clone(),
            stored_timeline,
            machine,
            metrics: OnceLock::new(),
            known: Mutex::default(),
            not_admitted: Mutex::default(),
            disagreement: Mutex::default(),
            heard: Mutex::default(),
        }
    }

    /// Takes note of the engine; before that nobody is a member.
    pub fn watch(&self, metrics: WatchReceiverOf<Binding, RaftMetrics<Binding>>) {
        // set once, by who starts the engine
        let _ = self.metrics.set(metrics);
    }

    /// What others have open here.
    pub fn stats(&self) -> PeersStatus {
        PeersStatus {
            connections: self.reception.connections(),
            connections_refused: self.reception.refused(),
            buffered_bytes: self.room.bytes(),
            buffered_bytes_max: self.room.bytes_max(),
            messages_refused: self.room.refused(),
        }
    }

    pub fn timeline(&self) -> Option<TimelineId> {
        self.machine.view.load().timeline.or(self.stored_timeline)
    }

    /// The leader, as far as this server knows.
    pub fn leader(&self) -> Option<u64> {
        self.metrics.get()?.borrow_watched().current_leader
    }

    /// Takes note that a leader was heard.
    pub fn heard(&self, leader: u64) {
        *self.heard.lock() = Some((leader, Instant::now()));
    }

    /// How long ago the leader was heard; zero when this server leads.
    pub fn last_contact(&self) -> Option<Duration> {
        let leader = self.leader();
        if leader == Some(self.server.id) {
            return Some(Duration::ZERO);
        }
        let heard = *self.heard.lock();
        heard.map(|(_, at)| at.elapsed())
    }

    /// The members of the cluster, as this server's log has them.
    pub fn peers(&self) -> BTreeMap<u64, Peer> {
        let Some(metrics) = self.metrics.get() else {
            return BTreeMap::new();
        };
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        nodes.map(|(&id, peer)| (id, peer.clone())).collect()
    }

    /// The members of the cluster, as this server's log has them.
    pub fn members(&self) -> BTreeMap<u64, Server> {
        let server = |(id, peer): (u64, Peer)| {
            let server = Server {
                id,
                name: peer.name,
                address: peer.address,
            };
            (id, server)
        };
        self.peers().into_iter().map(server).collect()
    }

    /// Whether this server belongs to a cluster, as far as it knows.
    pub fn is_member(&self) -> bool {
        let lost = self.admission_lost.load(Ordering::Relaxed);
        !lost && self.members().contains_key(&self.server.id)
    }

    /// Takes note of whether the leader knows nothing of an admission that this server has in its log.
    pub fn set_admission_lost(&self, lost: bool) {
        self.admission_lost.store(lost, Ordering::Relaxed);
    }

    pub fn stage(&self) -> Stage {
        if !self.members().is_empty() {
            Stage::Member
        } else if self.machine.log.is_new() {
            Stage::Fresh
        } else {
            Stage::Begun
        }
    }

    /// The fresh servers that this one could reach in its last round.
    pub fn fresh(&self) -> BTreeSet<u64> {
        self.fresh.lock().clone()
    }

    pub fn set_fresh(&self, fresh: BTreeSet<u64>) {
        *self.fresh.lock() = fresh;
    }

    /// Takes note of what the cluster answers to the wish to join.
    pub fn set_not_admitted(&self, refused: Option<String>) {
        *self.not_admitted.lock() = refused;
    }

    /// Takes note of what is in the way of forming a cluster.
    pub fn set_disagreement(&self, reason: Option<String>) {
        *self.disagreement.lock() = reason;
    }

    /// Whom this server waits for before it is in a cluster; `None` once it is.
    pub fn waits_for(&self) -> Option<WaitsFor> {
        if self.members().contains_key(&self.server.id) {
            return None;
        }
        if let Some(refused) = self.not_admitted.lock().clone() {
            return Some(WaitsFor::Admission { refused });
        }
        if let Some(reason) = self.disagreement.lock().clone() {
            return Some(WaitsFor::Agreement { reason });
        }
        match self.stage() {
            Stage::Member => None,
            Stage::Begun => Some(WaitsFor::Cluster),
            Stage::Fresh => {
                let known = self.known.lock();
                let name = |id: &u64| match known.get(*id) {
                    _ if *id == self.server.id => self.server.name.clone(),
                    Some(known) => known.server.name.clone(),
                    None => id.to_string(),
                };
                let mut here: Vec<String> = self.fresh().iter().map(name).collect();
                here.sort();
                Some(match here.len() < self.expects as usize {
                    true => WaitsFor::Servers {
                        here,
                        expected: self.expects,
                    },
                    false => WaitsFor::Cluster,
                })
            }
        }
    }

    /// Everybody but this server: as they introduced themselves, or else as the log has them.
    pub fn others(&self) -> BTreeMap<u64, Server> {
        let mut others = self.members();
        let known = self.known.lock();
        others.extend(known.iter().map(|(&id, known)| (id, known.server.clone())));
        others.remove(&self.server.id);
        others
    }

    /// What is known of a server from itself or from others, beside the log.
    pub fn acquaintance(&self, id: u64) -> Option<Acquaintance> {
        self.known.lock().get(id).cloned()
    }

    /// What the clock of a server was ahead of this one's when they last met, in microseconds.
    pub fn clock_ahead(&self, id: u64) -> Option<i64> {
        self.acquaintance(id)?.said?.clock_ahead
    }

    /// Where servers answer clients, as they say themselves or as the log has it.
    pub fn https(&self) -> BTreeMap<u64, String> {
        let recorded = self.peers().into_iter().map(|(id, peer)| (id, peer.http));
        let mut https: BTreeMap<u64, String> = recorded.collect();
        let known = self.known.lock();
        let said = known.iter().map(|(&id, known)| (id, known.http.clone()));
        https.extend(said.filter(|(_, http)| !http.is_empty()));
        https.insert(self.server.id, self.http.clone());
        https.retain(|_, http| !http.is_empty());
        https
    }

    /// Where to look for a server, the likeliest address first.
    pub fn addresses_of(&self, id: u64) -> Vec<String> {
        let learned = self
            .acquaintance(id)
            .map(|acquaintance| acquaintance.server.address);
        let recorded = self.members().remove(&id).map(|server| server.address);
        let mut addresses: Vec<String> = learned.into_iter().chain(recorded).collect();
        addresses.dedup();
        // a server that was alone before has none in the log
        addresses.retain(|address| !address.is_empty());
        addresses
    }

    /// Remembers how a server introduced itself.
    pub fn meet(&self, greeting: &Greeting) {
        if greeting.hello.server.id != self.server.id {
            self.known.lock().meet(greeting, (self.clock)());
        }
    }

    /// Remembers what others say of a server, unless it has introduced itself.
    pub fn hear_of(&self, server: &Server, http: &str) {
        if server.id != self.server.id {
            self.known.lock().hear_of(server, http);
        }
    }

    /// Forgets an address at which nobody, or somebody else, answered.
    pub fn forget(&self, id: u64, address: &str) {
        self.known.lock().forget(id, address);
    }

    /// What the first message says.
    pub fn greeting(&self) -> Greeting {
        let stage = self.stage();
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: self.version_max,
            timeline: self.timeline().map(|timeline| timeline.0),
            server: self.server.clone(),
            stage,
            expects: self.expects,
            fresh: match stage {
                Stage::Fresh => self.fresh().into_iter().collect(),
                Stage::Begun | Stage::Member => Vec::new(),
            },
            known: self.others().into_values().collect(),
            leader: self.leader(),
        };
        let space = &self.machine.space;
        let more = More {
            http: self.http.clone(),
            standby: self.standby,
            replaces: self.replaces,
            time: (self.clock)().as_unix_micros(),
            disk_free: space.free(),
            disk_reserve: space.reserve(),
            known_http: self.https().into_iter().collect(),
        };
        Greeting { hello, more }
    }

    /// What is told to somebody who looks for servers.
    pub fn found(&self) -> Found {
        let (members, leader) = (self.members(), self.leader());
        let mut https = self.https();
        let servers = match members.is_empty() {
            // no cluster yet
            true => {
                let mut servers = self.others();
                servers.insert(self.server.id, self.server.clone());
                servers
            }
            false => members,
        };
        let server = |(id, server): (u64, Server)| FoundServer {
            // of one that was alone before, the log has none
            server: match id == self.server.id {
                true => self.server.clone(),
                false => server,
            },
            http: https.remove(&id).unwrap_or_default(),
            leader: leader == Some(id),
        };
        Found {
            timeline: self.timeline().map(|timeline| timeline.0),
            servers: servers.into_iter().map(server).collect(),
        }
    }

    /// Whether this server and `whoever` have a version in common.
    pub fn admit_versions(&self, whoever: &str, min: u8, max: u8) -> Result<(), Refused> {
        if max >= VERSION_MIN && min <= self.version_max {
            return Ok(());
        }
        Err(Refused {
            reason: RefusedReason::Versions,
            sentence: format!(
                "{whoever} speaks versions {min} to {max} of the peers' protocol, this server {} \
                 to {}: update the older of the two",
                VERSION_MIN, self.version_max
            ),
        })
    }

    /// Whether this server talks to the one that says `hello`.
    pub fn admit(&self, greeting: &Greeting) -> Result<(), Refused> {
        let hello = &greeting.hello;
        let refused = |reason, sentence| Err(Refused { reason, sentence });
        let server = format!("server {} ({})", hello.server.id, hello.server.name);
        self.admit_versions(&server, hello.version_min, hello.version_max)?;
        if hello.server.id == self.server.id {
            return refused(
                RefusedReason::Itself,
                format!(
                    "number {} is this server itself ({}): it was joined to its own address, or \
                     its data directory was copied to another server, which needs an empty one",
                    self.server.id, self.server.name
                ),
            );
        }
        match (self.timeline(), hello.timeline.map(TimelineId)) {
            (Some(ours), Some(theirs)) if ours != theirs => refused(
                RefusedReason::OtherTimeline,
                format!(
                    "server {} ({}) holds timeline {theirs}, this one {ours}: to join it here, \
                     start it with an empty data directory",
                    hello.server.id, hello.server.name
                ),
            ),
            _ => Ok(()),
        }
    }
}
