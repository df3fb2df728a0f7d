//! Who belongs to the cluster, as a [`Replica`] tells it.

use std::time::Duration;

use openraft::{Instant as _, ReadPolicy, async_runtime::WatchReceiver};
use tokio::time::{self, Instant};

use crate::{
    binding::Peer,
    peers::{CallError, Change, Changed, List, Listed, Read, ReadAt, kind},
    replica::Replica,
    status::{Member, MemberRole},
};

/// How long a change waits for somebody to lead. Longer than an election takes.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the leader may take to answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(15);
/// How long after an attempt that found no leader the next is made.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// How long a list of the servers waits for what the leader knows.
const LIST_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a read may wait for what was recorded before it.
const READ_WAIT_MAX: Duration = Duration::from_secs(5);

/// Why a change of the members, or of who leads, did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This server holds the timeline alone.
    #[error("this server holds the timeline alone: start it with peers to have others")]
    Alone,
    /// Nothing was changed.
    #[error("no server leads the cluster ({reason}): nothing was changed; try again when one does")]
    NoLeader {
        /// What stood in the way last.
        reason: String,
    },
    /// It cannot be done as things are, and nothing was changed.
    #[error("{sentence}")]
    Refused {
        /// Why, and what to do.
        sentence: String,
    },
    /// It was begun, and its end has not been seen: look at the members.
    #[error("not done yet: {sentence}")]
    Unfinished {
        /// What is known of it.
        sentence: String,
    },
}

/// Why a read cannot be sure to see everything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads, or no majority confirms who does.
    #[error(
        "no leader has confirmed within {} s what is newest: try again, or read what this server has",
        READ_WAIT_MAX.as_secs()
    )]
    NoLeader,
    /// The leader's newest has not come here in time.
    #[error(
        "this server lacks entries up to {index} of the log after {} s: try again, ask another, or \
         read what this server has",
        READ_WAIT_MAX.as_secs()
    )]
    Behind {
        /// What would have to be here.
        index: u64,
    },
}

impl Replica {
    /// All servers of the cluster, by number.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let own_id = self.node_id();
        let (leader, contact) = (metrics.current_leader, self.last_contact());
        let member = |(&node_id, peer): (&u64, &Peer)| {
            let said = self
                .me()
                .and_then(|me| me.acquaintance(node_id))
                .and_then(|acquaintance| acquaintance.said);
            let last_contact = match &metrics.heartbeat {
                _ if node_id == own_id => Some(Duration::ZERO),
                Some(heard) => heard
                    .get(&node_id)
                    .copied()
                    .flatten()
                    .map(|at| at.elapsed()),
                None if Some(node_id) == leader => contact,
                None => None,
            };
            let matched = match &metrics.replication {
                Some(_) if node_id == own_id => metrics.last_log_index,
                Some(has) => has.get(&node_id).copied().flatten().map(|id| id.index),
                None => None,
            };
            Member {
                node_id,
                name: peer.name.clone(),
                address: peer.address.clone(),
                http: peer.http.clone(),
                role: match voters.contains(&node_id) {
                    true => MemberRole::Voter,
                    false if peer.standby => MemberRole::Standby,
                    false => MemberRole::Learner,
                },
                last_contact,
                matched,
                clock_ahead_ms: said
                    .and_then(|said| said.clock_ahead)
                    .map(|micros| micros / 1000),
                disk_short: said.map(|said| said.disk_free < said.disk_reserve),
            }
        };
        membership.nodes().map(member).collect()
    }

    /// As [`Replica::members`], with what only the leader knows of them: it is asked. Without an answer
    /// in time, what is known here.
    pub async fn members_as_led(&self) -> Vec<Member> {
        let mut members = self.members();
        let Some(forwarder) = self.forwarder() else {
            return members;
        };
        let Some(leader) = forwarder.leader().filter(|&id| id != self.node_id()) else {
            return members;
        };
        let kinds = (kind::LIST, kind::LISTED);
        let asked = forwarder.ask(leader, kinds, &List {}, LIST_WAIT_MAX);
        // dialling a leader that has just gone takes longer than anybody wants to wait for a list
        let listed = match time::timeout(LIST_WAIT_MAX, asked).await {
            Ok(Ok(Listed::Members(heard))) => heard,
            _ => return members,
        };
        for member in &mut members {
            let heard = listed.iter().find(|heard| heard.server == member.node_id);
            if let Some(heard) = heard {
                member.last_contact = heard.contact_ms.map(Duration::from_millis);
                member.matched = heard.matched;
            }
        }
        members
    }

    /// How long ago the leader was heard: zero on the leader itself, `None` when it never was.
    pub fn last_contact(&self) -> Option<Duration> {
        match self.me() {
            Some(me) => me.last_contact(),
            None => self.is_leader().then_some(Duration::ZERO),
        }
    }

    /// Takes a server out of the cluster. It is told, and stops. Refused where the others would have
    /// no majority. The leader removes itself by handing over first.
    ///
    /// # Errors
    ///
    /// See [`ChangeError`].
    pub async fn remove_server(&self, name_or_id: &str) -> Result<(), ChangeError> {
        let server = name_or_id.to_owned();
        self.change(Change::Remove { server }).await
    }

    /// Gives a standby its vote, as soon as it has caught up. No change for who has one.
    ///
    /// # Errors
    ///
    /// See [`ChangeError`].
    pub async fn promote(&self, name_or_id: &str) -> Result<(), ChangeError> {
        let server = name_or_id.to_owned();
        self.change(Change::Promote { server }).await
    }

    /// Lets another server lead: the one that is named, or the one that has most of the log.
    ///
    /// # Errors
    ///
    /// See [`ChangeError`].
    pub async fn transfer_leader(&self, name_or_id: Option<&str>) -> Result<(), ChangeError> {
        let to = name_or_id.map(str::to_owned);
        self.change(Change::Transfer { to }).await
    }

    /// Has a change carried out by whoever leads.
    async fn change(&self, change: Change) -> Result<(), ChangeError> {
        let Some(forwarder) = self.forwarder() else {
            return Err(ChangeError::Alone);
        };
        let give_up = Instant::now() + LEADER_WAIT_MAX;
        let mut reason = "none is known here".to_owned();
        while Instant::now() < give_up {
            let changed = match forwarder.leader() {
                None => Err(CallError::not_sent("none is known here")),
                Some(leader) if leader == self.node_id() => {
                    Ok(forwarder.leadership.change(&change).await)
                }
                Some(leader) => {
                    let kinds = (kind::CHANGE, kind::CHANGED);
                    forwarder.ask(leader, kinds, &change, ANSWER_WAIT_MAX).await
                }
            };
            match changed {
                Ok(Changed::Done) => return Ok(()),
                Ok(Changed::Refused { sentence }) => return Err(ChangeError::Refused { sentence }),
                Ok(Changed::Unfinished { sentence }) => {
                    return Err(ChangeError::Unfinished { sentence });
                }
                Ok(Changed::NotLeader { .. }) => reason = "the lead is changing".to_owned(),
                Err(CallError::NotSent { reason: why }) => reason = why.to_string(),
                Err(CallError::Refused(refused)) => {
                    return Err(ChangeError::Refused {
                        sentence: refused.sentence,
                    });
                }
                Err(CallError::Lost { reason }) => {
                    return Err(ChangeError::Unfinished {
                        sentence: format!("the leader gave no answer ({reason})"),
                    });
                }
            }
            time::sleep(RETRY_DELAY).await;
        }
        Err(ChangeError::NoLeader { reason })
    }

    /// Waits until the state here has everything that was acknowledged, by whichever server, before
    /// this was called.
    ///
    /// # Errors
    ///
    /// When no leader confirms what is newest, or this server does not get it in time.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let give_up = Instant::now() + READ_WAIT_MAX;
        let index = time::timeout_at(give_up, self.read_index()).await;
        let Some(index) = index.map_err(|_| ReadError::NoLeader)? else {
            return Ok(());
        };
        let mut metrics = self.raft().metrics();
        let applied = async {
            loop {
                let applied = metrics.borrow_watched().last_applied.map(|id| id.index);
                if applied >= Some(index) {
                    return true;
                }
                if metrics.changed().await.is_err() {
                    // the engine has stopped
                    return false;
                }
            }
        };
        match time::timeout_at(give_up, applied).await {
            Ok(true) => Ok(()),
            _ => Err(ReadError::Behind { index }),
        }
    }

    /// The entry up to which to read, once somebody has told it.
    async fn read_index(&self) -> Option<u64> {
        loop {
            let read = match self.forwarder() {
                None => {
                    let read = self.raft().get_read_log_id(ReadPolicy::ReadIndex).await;
                    read.map_or(ReadAt::Unconfirmed, |(read, _)| {
                        ReadAt::Index(Some(read.log_id().index))
                    })
                }
                Some(forwarder) => match forwarder.leader() {
                    None => ReadAt::NotLeader { leader: None },
                    Some(leader) if leader == self.node_id() => {
                        forwarder.leadership.read_at().await
                    }
                    Some(leader) => {
                        let kinds = (kind::READ, kind::READ_AT);
                        let asked = forwarder.ask(leader, kinds, &Read {}, READ_WAIT_MAX);
                        asked.await.unwrap_or(ReadAt::Unconfirmed)
                    }
                },
            };
            if let ReadAt::Index(index) = read {
                return index;
            }
            time::sleep(RETRY_DELAY).await;
        }
    }
}
