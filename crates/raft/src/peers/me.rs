use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use openraft::{RaftMetrics, async_runtime::WatchReceiver, type_config::alias::WatchReceiverOf};
use parking_lot::Mutex;
use tidings_timeline::TimelineId;

use super::message::{Hello, Refused, RefusedReason, Server, Stage, VERSION_MAX, VERSION_MIN};
use crate::{binding::Binding, machine::MachineShared, status::WaitsFor};

/// Servers that are remembered, so that whoever talks much fills no memory.
const SERVERS_MAX: usize = 64;
/// Bytes of a name or an address that are remembered.
const TEXT_BYTES_MAX: usize = 256;

/// What this server says of itself, and whom it knows.
pub(crate) struct Me {
    pub server: Server,
    pub expects: u32,
    /// What the data directory says; the state has it only once the log is applied.
    pub stored_timeline: Option<TimelineId>,
    pub machine: Arc<MachineShared>,
    /// Set when the engine is there.
    metrics: OnceLock<WatchReceiverOf<Binding, RaftMetrics<Binding>>>,
    known: Mutex<BTreeMap<u64, Server>>,
    /// The fresh servers that answered in the last round, this one among them while it is fresh.
    fresh: Mutex<BTreeSet<u64>>,
}

impl Me {
    pub fn new(
        server: Server,
        expects: u32,
        stored_timeline: Option<TimelineId>,
        machine: Arc<MachineShared>,
    ) -> Me {
        Me {
            fresh: Mutex::new(BTreeSet::from([server.id])),
            server,
            expects,
            stored_timeline,
            machine,
            metrics: OnceLock::new(),
            known: Mutex::default(),
        }
    }

    /// Takes note of the engine; before that nobody is a member.
    pub fn watch(&self, metrics: WatchReceiverOf<Binding, RaftMetrics<Binding>>) {
        // set once, by who starts the engine
        let _ = self.metrics.set(metrics);
    }

    pub fn timeline(&self) -> Option<TimelineId> {
        self.machine.view.load().timeline.or(self.stored_timeline)
    }

    /// The leader, as far as this server knows.
    pub fn leader(&self) -> Option<u64> {
        self.metrics.get()?.borrow_watched().current_leader
    }

    /// The members of the cluster, as this server's log has them.
    pub fn members(&self) -> BTreeMap<u64, Server> {
        let Some(metrics) = self.metrics.get() else {
            return BTreeMap::new();
        };
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        let server = |(&id, peer): (&u64, &crate::binding::Peer)| {
            let server = Server {
                id,
                name: peer.name.clone(),
                address: peer.address.clone(),
            };
            (id, server)
        };
        nodes.map(server).collect()
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

    /// Whom this server waits for before it is in a cluster; `None` once it is.
    pub fn waits_for(&self) -> Option<WaitsFor> {
        match self.stage() {
            Stage::Member => None,
            Stage::Begun => Some(WaitsFor::Cluster),
            Stage::Fresh => {
                let known = self.known.lock();
                let name = |id: &u64| match known.get(id) {
                    _ if *id == self.server.id => self.server.name.clone(),
                    Some(server) => server.name.clone(),
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
        others.extend(self.known.lock().clone());
        others.remove(&self.server.id);
        others
    }

    /// Where to look for a server, the likeliest address first.
    pub fn addresses_of(&self, id: u64) -> Vec<String> {
        let learned = self
            .known
            .lock()
            .get(&id)
            .map(|server| server.address.clone());
        let recorded = self.members().remove(&id).map(|server| server.address);
        let mut addresses: Vec<String> = learned.into_iter().chain(recorded).collect();
        addresses.dedup();
        // a server that was alone before has none in the log
        addresses.retain(|address| !address.is_empty());
        addresses
    }

    /// Remembers how a server introduced itself.
    pub fn learn(&self, server: &Server) {
        let sound = server.id != self.server.id
            && !server.address.is_empty()
            && server.address.len() <= TEXT_BYTES_MAX
            && server.name.len() <= TEXT_BYTES_MAX;
        let mut known = self.known.lock();
        if sound && (known.len() < SERVERS_MAX || known.contains_key(&server.id)) {
            known.insert(server.id, server.clone());
        }
    }

    /// Remembers what others say of a server, unless it has introduced itself.
    pub fn hear_of(&self, server: &Server) {
        if !self.known.lock().contains_key(&server.id) {
            self.learn(server);
        }
    }

    /// Forgets an address at which nobody, or somebody else, answered.
    pub fn forget(&self, id: u64, address: &str) {
        let mut known = self.known.lock();
        if known
            .get(&id)
            .is_some_and(|server| server.address == address)
        {
            known.remove(&id);
        }
    }

    /// What the first message says.
    pub fn hello(&self) -> Hello {
        let stage = self.stage();
        Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
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
        }
    }

    /// Whether this server talks to the one that says `hello`.
    pub fn admit(&self, hello: &Hello) -> Result<(), Refused> {
        let refused = |reason, sentence| Err(Refused { reason, sentence });
        if hello.version_max < VERSION_MIN || hello.version_min > VERSION_MAX {
            return refused(
                RefusedReason::Versions,
                format!(
                    "server {} ({}) speaks versions {} to {} of the peers' protocol, this one {} \
                     to {}: update the older of the two",
                    hello.server.id,
                    hello.server.name,
                    hello.version_min,
                    hello.version_max,
                    VERSION_MIN,
                    VERSION_MAX
                ),
            );
        }
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
