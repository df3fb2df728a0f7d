use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use openraft::{
    ChangeMembers, Instant, Raft, ReadPolicy,
    async_runtime::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};
use tokio::time;

use super::{
    me::Me,
    message::{Change, Changed, Heard, Listed, ReadAt, Stands},
};
use crate::{
    binding::{Binding, Peer},
    error::chain,
    machine::Machine,
};

/// How long one change may take: both steps of it, with a majority of servers that are busy.
pub(crate) const CHANGE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Whoever was heard within this time is counted on. Several signs of life.
const CONTACT_MAX: Duration = Duration::from_secs(2);
/// How long a leader that has just begun waits for the first word of those that it has not heard yet,
/// before it takes them for gone. Several signs of life.
const FIRST_WORD_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a majority may take to confirm that this server leads.
const CONFIRM_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long the lead may take to pass to another server.
const TRANSFER_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long a server may take to get its vote before the caller is told to look later.
const PROMOTE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Entries that a server may lack and still be given the lead: it gets them within the transfer.
const TRANSFER_LAG_MAX: u64 = 1024;
/// How often it is looked whether something has come about.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What only the leader can do or tell, apart from recording commands.
pub(crate) struct Leadership {
    pub me: Arc<Me>,
    pub raft: Raft<Binding, Machine>,
}

/// The members at one moment, as their leader sees them.
struct Roll {
    voters: BTreeSet<u64>,
    peers: BTreeMap<u64, Peer>,
    /// Those that were heard a moment ago, this server among them.
    here: BTreeSet<u64>,
    /// Those of whom nothing was heard since this server leads.
    unheard: BTreeSet<u64>,
    matched: BTreeMap<u64, u64>,
    last: u64,
}

impl Leadership {
    /// Carries out a change, if this server leads.
    pub async fn change(&self, change: &Change) -> Changed {
        self.hear(|roll| roll.unheard.is_empty()).await;
        let Some(roll) = self.roll() else {
            return self.not_leader();
        };
        let done = match change {
            Change::Remove { server } => self.remove(&roll, server).await,
            Change::Promote { server } => self.promote(&roll, server).await,
            Change::Transfer { to } => self.transfer(&roll, to.as_deref()).await,
        };
        done.unwrap_or_else(|changed| changed)
    }

    fn not_leader(&self) -> Changed {
        let leader = self.me.leader().filter(|&id| id != self.me.server.id);
        Changed::NotLeader { leader }
    }

    /// `None` when this server does not lead.
    fn roll(&self) -> Option<Roll> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let (heard, has) = (metrics.heartbeat.as_ref()?, metrics.replication.as_ref()?);
        let membership = metrics.membership_config.membership();
        let is_here = |(&id, at): (&u64, &Option<_>)| {
            let at: &openraft::type_config::alias::SerdeInstantOf<Binding> = at.as_ref()?;
            (at.elapsed() < CONTACT_MAX).then_some(id)
        };
        let here = heard.iter().filter_map(is_here).chain([self.me.server.id]);
        let unheard = heard.iter().filter(|(_, at)| at.is_none());
        let matched = has
            .iter()
            .filter_map(|(&id, has)| Some((id, has.as_ref()?.index)));
        Some(Roll {
            voters: membership.voter_ids().collect(),
            peers: membership
                .nodes()
                .map(|(&id, peer)| (id, peer.clone()))
                .collect(),
            here: here.collect(),
            unheard: unheard
                .map(|(&id, _)| id)
                .filter(|&id| id != self.me.server.id)
                .collect(),
            matched: matched.collect(),
            last: metrics.last_log_index.unwrap_or(0),
        })
    }

    /// Whether voters are being changed: a set of them is there beside the one that it becomes.
    pub fn is_between_voters(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        membership.get_joint_config().len() > 1
    }

    /// Waits for the first words of others: a server that has just begun to lead has heard nobody, which
    /// says nothing of them.
    async fn hear(&self, enough: impl Fn(&Roll) -> bool) {
        let heard = || self.roll().is_none_or(|roll| enough(&roll));
        come_about(FIRST_WORD_WAIT_MAX, heard).await;
    }

    /// Whether a server was heard a moment ago. Only the leader knows.
    pub async fn is_here(&self, id: u64) -> bool {
        self.hear(|roll| !roll.unheard.contains(&id)).await;
        self.roll().is_some_and(|roll| roll.here.contains(&id))
    }

    /// Whether a server votes, as the leader knows.
    pub fn votes(&self, id: u64) -> bool {
        self.roll().is_some_and(|roll| roll.voters.contains(&id))
    }

    async fn remove(&self, roll: &Roll, server: &str) -> Result<Changed, Changed> {
        let id = roll.find(server)?;
        let name = roll.name(id);
        let change = if roll.voters.contains(&id) {
            let mut rest = roll.voters.clone();
            rest.remove(&id);
            roll.check_majority(&rest, |rest, here| match rest {
                "" => format!("{name} is the only server that votes: without it nobody could lead"),
                rest => format!(
                    "without {name}, {rest} would vote, and of these only {here} can be reached, \
                     which is no majority: bring one of the others back first"
                ),
            })?;
            if id == self.me.server.id {
                // whoever leads then removes this one
                self.transfer(roll, None).await?;
                return Err(self.not_leader());
            }
            ChangeMembers::RemoveVoters(BTreeSet::from([id]))
        } else {
            ChangeMembers::RemoveNodes(BTreeSet::from([id]))
        };
        self.carry_out(change).await?;
        tracing::info!(server = id, name, "a server was removed");
        Ok(Changed::Done)
    }

    async fn promote(&self, roll: &Roll, server: &str) -> Result<Changed, Changed> {
        let id = roll.find(server)?;
        let Some(peer) = roll.peers.get(&id).filter(|_| !roll.voters.contains(&id)) else {
            return Ok(Changed::Done);
        };
        if peer.standby {
            let peer = Peer {
                standby: false,
                ..peer.clone()
            };
            self.carry_out(ChangeMembers::SetNodes(BTreeMap::from([(id, peer)])))
                .await?;
        }
        // the vote itself is given as to every other server that has caught up
        let votes = || {
            let roll = self.roll();
            roll.is_some_and(|roll| roll.voters.contains(&id))
        };
        match come_about(PROMOTE_WAIT_MAX, votes).await {
            true => Ok(Changed::Done),
            false => Err(Changed::Unfinished {
                sentence: format!(
                    "{} is {} entries behind; it gets its vote by itself once it has caught up",
                    roll.name(id),
                    self.roll().map_or(0, |roll| roll.lag(id)),
                ),
            }),
        }
    }

    async fn transfer(&self, roll: &Roll, to: Option<&str>) -> Result<Changed, Changed> {
        let refused = |sentence| Err(Changed::Refused { sentence });
        let to = match to {
            Some(server) => roll.find(server)?,
            None => {
                let others = roll.voters.intersection(&roll.here);
                let others = others.filter(|&&id| id != self.me.server.id);
                match others.copied().min_by_key(|&id| roll.lag(id)) {
                    Some(id) => id,
                    None => {
                        return refused(
                            "no other server that votes can be reached: nobody could lead instead"
                                .to_owned(),
                        );
                    }
                }
            }
        };
        if to == self.me.server.id {
            return Ok(Changed::Done);
        }
        let name = roll.name(to);
        if !roll.voters.contains(&to) {
            return refused(format!(
                "{name} has no vote and cannot lead: promote it first"
            ));
        }
        if !roll.here.contains(&to) {
            return refused(format!("{name} cannot be reached and cannot lead"));
        }
        if roll.lag(to) > TRANSFER_LAG_MAX {
            return refused(format!(
                "{name} lacks {} entries and cannot lead yet: try again when it has caught up",
                roll.lag(to)
            ));
        }
        if let Err(error) = self.raft.trigger().transfer_leader(to).await {
            return refused(format!("this server has stopped: {}", chain(&error)));
        }
        let leads = || {
            let leader = self.me.leader();
            leader.is_some_and(|leader| leader != self.me.server.id)
        };
        match come_about(TRANSFER_WAIT_MAX, leads).await {
            true => {
                tracing::info!(server = to, name, "handed over the lead");
                Ok(Changed::Done)
            }
            false => Err(Changed::Unfinished {
                sentence: format!("{name} was asked to lead and has not begun to"),
            }),
        }
    }

    /// What is to change because servers have caught up: who lacks at most `lag_max` entries gets its
    /// vote, unless it waits for a person, and the place of the one that it replaces.
    pub fn promotions(&self, lag_max: u64) -> Vec<ChangeMembers<u64, Peer>> {
        let Some(roll) = self.roll() else {
            return Vec::new();
        };
        let mut changes = Vec::new();
        for (&id, peer) in &roll.peers {
            let has_the_log = roll.matched.contains_key(&id) && roll.lag(id) <= lag_max;
            if roll.voters.contains(&id) || !has_the_log {
                continue;
            }
            if let Some(old) = peer.replaces {
                let settled = Peer {
                    replaces: None,
                    ..peer.clone()
                };
                changes.push(ChangeMembers::SetNodes(BTreeMap::from([(id, settled)])));
                if roll.voters.contains(&old) {
                    changes.push(ChangeMembers::RemoveVoters(BTreeSet::from([old])));
                } else if roll.peers.contains_key(&old) {
                    changes.push(ChangeMembers::RemoveNodes(BTreeSet::from([old])));
                }
            }
            if !peer.standby {
                changes.push(ChangeMembers::AddVoterIds(BTreeSet::from([id])));
            }
        }
        changes
    }

    /// Members that say something else of themselves than the log has.
    pub fn moved(&self) -> BTreeMap<u64, Peer> {
        let recorded = self.me.peers();
        let mut moved = BTreeMap::new();
        for (&id, peer) in &recorded {
            let (server, http) = if id == self.me.server.id {
                (self.me.server.clone(), self.me.http.clone())
            } else {
                match self.me.acquaintance(id) {
                    Some(known) if known.said.is_some_and(|said| said.clock_ahead.is_some()) => {
                        (known.server, known.http)
                    }
                    // a server of version 1 does not say everything
                    Some(known) if known.said.is_some() => (known.server, peer.http.clone()),
                    _ => continue,
                }
            };
            let is_taken = recorded
                .iter()
                .any(|(&other, peer)| other != id && peer.name == server.name);
            let new = Peer {
                // two servers of one name could not be told apart
                name: match is_taken {
                    true => peer.name.clone(),
                    false => server.name,
                },
                address: server.address,
                http,
                ..peer.clone()
            };
            if new != *peer {
                moved.insert(id, new);
            }
        }
        moved
    }

    /// Changes the members, in two steps where voters change.
    pub async fn carry_out(&self, change: ChangeMembers<u64, Peer>) -> Result<(), Changed> {
        let changed = time::timeout(CHANGE_WAIT_MAX, self.raft.change_membership(change, false));
        match changed.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(Changed::NotLeader {
                    leader: to.leader_id,
                })
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            )))) => Err(Changed::Refused {
                sentence: "the servers of the cluster are changing already: try again when that \
                           is done"
                    .to_owned(),
            }),
            Ok(Err(error)) => Err(Changed::Unfinished {
                sentence: chain(&error),
            }),
            Err(_) => Err(Changed::Unfinished {
                sentence: format!(
                    "no majority has confirmed it within {} s; it is done when one does",
                    CHANGE_WAIT_MAX.as_secs()
                ),
            }),
        }
    }

    /// Up to where to read. Asks a majority whether this server leads still.
    pub async fn read_at(&self) -> ReadAt {
        if !self.raft.is_leader() {
            let leader = self.me.leader().filter(|&id| id != self.me.server.id);
            return ReadAt::NotLeader { leader };
        }
        let read = self.raft.get_read_log_id(ReadPolicy::ReadIndex);
        match time::timeout(CONFIRM_WAIT_MAX, read).await {
            Ok(Ok((read, _))) => ReadAt::Index(Some(read.log_id().index)),
            _ => ReadAt::Unconfirmed,
        }
    }

    /// What this server knows of the members, if it leads.
    pub fn list(&self) -> Listed {
        let heard = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let (contact, matched) = (metrics.heartbeat.clone(), metrics.replication.clone());
            contact.zip(matched).zip(Some(metrics.last_log_index))
        };
        let Some(((contact, matched), last)) = heard else {
            let leader = self.me.leader().filter(|&id| id != self.me.server.id);
            return Listed::NotLeader { leader };
        };
        let heard = |server: u64| {
            let at = contact.get(&server).copied().flatten();
            let has = matched.get(&server).copied().flatten();
            match server == self.me.server.id {
                true => Heard {
                    server,
                    contact_ms: Some(0),
                    matched: last,
                },
                false => Heard {
                    server,
                    contact_ms: at.map(|at| at.elapsed().as_millis() as u64),
                    matched: has.map(|has| has.index),
                },
            }
        };
        Listed::Members(self.me.members().into_keys().map(heard).collect())
    }

    /// Whether a server belongs to the cluster, as far as this one can tell.
    pub async fn standing(&self, id: u64) -> Stands {
        match self.read_at().await {
            // what a majority has confirmed after the question is not older than it
            ReadAt::Index(_) => match self.me.peers().contains_key(&id) {
                true => Stands::Member,
                false => Stands::Removed,
            },
            ReadAt::NotLeader { .. } | ReadAt::Unconfirmed => Stands::Unknown,
        }
    }
}

impl Roll {
    /// The number of a server that goes by `name_or_id`.
    fn find(&self, name_or_id: &str) -> Result<u64, Changed> {
        let refused = |sentence| Err(Changed::Refused { sentence });
        let named = |(&id, peer): (&u64, &Peer)| (peer.name == name_or_id).then_some(id);
        let named: Vec<u64> = self.peers.iter().filter_map(named).collect();
        let numbered = name_or_id.parse().ok();
        match (
            &named[..],
            numbered.filter(|id| self.peers.contains_key(id)),
        ) {
            ([id], _) => Ok(*id),
            ([], Some(id)) => Ok(id),
            ([], None) => refused(format!(
                "no server of the cluster is called {name_or_id}; there are {}",
                self.names(self.peers.keys())
            )),
            (several, _) => refused(format!(
                "several servers are called {name_or_id}: say which by its number, {several:?}"
            )),
        }
    }

    fn name(&self, id: u64) -> String {
        match self.peers.get(&id) {
            Some(peer) => peer.name.clone(),
            None => id.to_string(),
        }
    }

    fn names<'i>(&self, ids: impl IntoIterator<Item = &'i u64>) -> String {
        let names: Vec<String> = ids.into_iter().map(|&id| self.name(id)).collect();
        names.join(", ")
    }

    /// Entries that a server lacks.
    fn lag(&self, id: u64) -> u64 {
        self.last
            .saturating_sub(self.matched.get(&id).copied().unwrap_or(0))
    }

    /// Refuses what would leave `voters` without a majority that can be reached.
    fn check_majority(
        &self,
        voters: &BTreeSet<u64>,
        sentence: impl Fn(&str, &str) -> String,
    ) -> Result<(), Changed> {
        let here: BTreeSet<u64> = voters.intersection(&self.here).copied().collect();
        match here.len() * 2 > voters.len() {
            true => Ok(()),
            false => Err(Changed::Refused {
                sentence: sentence(&self.names(voters), &self.names(&here)),
            }),
        }
    }
}

/// Whether a condition of which nobody tells comes about within `wait_max`.
async fn come_about(wait_max: Duration, condition: impl Fn() -> bool) -> bool {
    let come = async {
        while !condition() {
            time::sleep(LOOK_INTERVAL).await;
        }
    };
    time::timeout(wait_max, come).await.is_ok()
}
