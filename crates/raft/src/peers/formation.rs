//! How servers that do not know each other become a cluster.
//!
//! ```text
//!            ┌──────────── everybody greets everybody ────────────┐
//! Fresh ─────┤ as many fresh servers as expected, and all of them │──▶ Form ──▶ initialize
//!            │ see the same ones; the smallest number asks        │   (all agree)
//!            └ somebody is a member already ──▶ Join ──▶ learner ─┴──▶ voter, once caught up
//! ```
//!
//! Two clusters must not come of it. A fresh server gives its word to one other, for one set of
//! servers, and only when it sees that very set itself; whoever has the word of all of a set begins
//! the cluster. The word is on the disk before it is given, and it binds for good: whoever has it may
//! have begun the cluster and gone before anybody heard. It passes to another only when the one that
//! has it gives its own word to that other, and so has not begun anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use openraft::{ChangeMembers, Raft};
use parking_lot::Mutex;
use tidings_host::spawn_blocking;
use tokio::{sync::Mutex as AsyncMutex, time};

use super::{
    change::Leadership,
    clocks,
    connection::{CallError, Connection},
    me::Me,
    message::{
        Changed, Form, FormMore, Formed, Greeting, Hello, Join, Joined, Refused, RefusedReason,
        Stage, encode, kind,
    },
};
use crate::{
    binding::{Binding, Peer},
    error::{OpenError, chain},
    identity,
    machine::Machine,
};

/// How often everybody is greeted while this server is not in a cluster, and afterwards: then it
/// only tells new addresses.
const ROUND_INTERVAL: Duration = Duration::from_millis(200);
const ROUND_INTERVAL_MEMBER: Duration = Duration::from_secs(5);
/// How long an answer to a question may take.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long the leader may take to make a server a learner.
const TAKE_IN_WAIT_MAX: Duration = Duration::from_secs(10);

/// This server's part in forming a cluster, and in taking others into it.
pub(crate) struct Formation {
    me: Arc<Me>,
    data_dir: PathBuf,
    /// To whom this server has given its word. Held while it asks others for theirs.
    word: AsyncMutex<Option<u64>>,
    /// What was last said of each address, so that it is said once.
    said: Mutex<BTreeMap<String, String>>,
    /// Whether this server has been a member: then it does not join once more.
    was_member: AtomicBool,
    /// The members whose clocks were too far off when they were met last.
    drifted: Mutex<BTreeSet<u64>>,
}

/// A server that answered, and the connection to it.
struct Met {
    greeting: Greeting,
    connection: Connection,
}

impl Met {
    /// Asks a fresh server for its word.
    async fn gives_word(&self, form: &Form, more: &FormMore) -> bool {
        let asked = async {
            let body = encode(form).map_err(CallError::not_sent)?;
            let more = encode(more).map_err(CallError::not_sent)?;
            let answer = self.connection.send(kind::FORM, vec![body, more]).await?;
            let formed: Result<Formed, CallError> =
                answer.decoded(kind::FORMED, ANSWER_WAIT_MAX).await;
            formed
        };
        asked.await.is_ok_and(|formed| formed.agreed)
    }

    fn hello(&self) -> &Hello {
        &self.greeting.hello
    }
}

/// A server as the log has it, from what it says of itself.
fn peer_of(greeting: &Greeting) -> Peer {
    let (server, more) = (&greeting.hello.server, &greeting.more);
    Peer {
        name: server.name.clone(),
        address: server.address.clone(),
        http: more.http.clone(),
        standby: more.standby,
        replaces: more.replaces,
    }
}

/// Whether a server that has given its word to `given` may give it to `to`, who has the word of the
/// servers in `agreed`.
fn may_give(given: Option<u64>, own: u64, to: u64, agreed: &[u64]) -> bool {
    // a promise to itself is nothing that another one could have used
    given.is_none_or(|given| given == to || given == own || agreed.contains(&given))
}

impl Formation {
    /// Reads what was promised before.
    pub fn new(me: Arc<Me>, data_dir: PathBuf) -> Result<Formation, OpenError> {
        Ok(Formation {
            word: AsyncMutex::new(identity::stored_word(&data_dir)?),
            was_member: AtomicBool::new(identity::was_member(&data_dir)?),
            me,
            data_dir,
            said: Mutex::default(),
            drifted: Mutex::default(),
        })
    }

    /// Whether this server has belonged to the cluster once.
    pub fn was_member(&self) -> bool {
        self.was_member.load(Ordering::Relaxed)
    }

    /// Gives this server's word to `from`, if it sees the same servers and nobody else has it.
    pub async fn agree(&self, from: u64, form: &Form, more: &FormMore) -> bool {
        let servers: BTreeSet<u64> = form.servers.iter().copied().collect();
        let sees_them = self.me.stage() == Stage::Fresh && servers == self.me.fresh();
        if !sees_them || !servers.contains(&from) || self.me.standby {
            return false;
        }
        // while this server asks for words itself, nobody gets its own
        let Ok(mut word) = self.word.try_lock() else {
            return false;
        };
        if !may_give(*word, self.me.server.id, from, &more.agreed) {
            let has_it = word.unwrap_or_default();
            self.say_once(
                &format!("word of {has_it}"),
                &Refused {
                    reason: RefusedReason::Unexpected,
                    sentence: format!(
                        "this server has promised number {has_it} to form a cluster with it, and \
                         that one is not here: start it; if it is gone for good, start all of these \
                         servers anew with empty data directories"
                    ),
                },
            );
            return false;
        }
        self.give_word(&mut word, from).await
    }

    /// Puts the word on the disk; `false` when that fails.
    async fn give_word(&self, word: &mut Option<u64>, to: u64) -> bool {
        if *word == Some(to) {
            return true;
        }
        let data_dir = self.data_dir.clone();
        let written = spawn_blocking(move || identity::record_word(&data_dir, to)).await;
        match written {
            Ok(Ok(())) => {
                *word = Some(to);
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "cannot note a promise");
                false
            }
            Err(_) => false,
        }
    }

    /// Takes a server into the cluster, if this one leads.
    pub async fn take_in(
        &self,
        leadership: &Leadership,
        greeting: &Greeting,
    ) -> Result<Joined, Refused> {
        let server = &greeting.hello.server;
        let members = self.me.members();
        let leader = self.me.leader();
        if !leadership.raft.is_leader() {
            let leader = leader.and_then(|id| self.me.others().remove(&id));
            return Ok(Joined::NotLeader { leader });
        }
        if members.contains_key(&server.id) {
            return Ok(Joined::Done);
        }
        let change = self.admission(leadership, greeting).await?;
        match leadership.carry_out(change).await {
            Ok(()) => {
                let (server, name) = (server.id, &server.name);
                tracing::info!(server, name, "a server has joined");
                Ok(Joined::Done)
            }
            Err(Changed::NotLeader { leader }) => {
                let leader = leader.and_then(|id| self.me.others().remove(&id));
                Ok(Joined::NotLeader { leader })
            }
            Err(_) => Ok(Joined::Busy),
        }
    }

    /// What has to change for a server to come in, or why it may not.
    async fn admission(
        &self,
        leadership: &Leadership,
        greeting: &Greeting,
    ) -> Result<ChangeMembers<u64, Peer>, Refused> {
        let refused = |reason, sentence| Err(Refused { reason, sentence });
        let (server, more) = (&greeting.hello.server, &greeting.more);
        let ahead = self.me.clock_ahead(server.id);
        if let Some(apart) = ahead.and_then(|ahead| clocks::apart(ahead, self.clock_skew_max())) {
            return refused(
                RefusedReason::Clock,
                format!(
                    "the clock of {} is {apart} that of the leader, {}: {}, then it joins by itself",
                    server.name,
                    self.me.server.name,
                    clocks::REMEDY,
                ),
            );
        }
        let peers = self.me.peers();
        let replaced = more.replaces.filter(|old| peers.contains_key(old));
        let same_name = |(id, peer): &(&u64, &Peer)| {
            let goes = |old: u64| {
                **id == old
                    || peers
                        .get(&old)
                        .is_some_and(|old| old.replaces == Some(**id))
            };
            peer.name == server.name && !replaced.is_some_and(goes)
        };
        if let Some((id, other)) = peers.iter().find(same_name) {
            return refused(
                RefusedReason::NameTaken,
                format!(
                    "the cluster has a server named {0} already, with number {id} at {1}. If this is \
                     that one without its data: `tidings server remove {0}` on one of the others \
                     lets it join as a new server. If it is another, start it under another name. \
                     (A server whose data is damaged is brought back by `tidings rebuild`, which \
                     keeps its place.)",
                    other.name, other.address
                ),
            );
        }
        let Some(old) = replaced else {
            let peer = Peer {
                replaces: None,
                ..peer_of(greeting)
            };
            return Ok(ChangeMembers::AddNodes(BTreeMap::from([(server.id, peer)])));
        };
        if leadership.is_here(old).await {
            return refused(
                RefusedReason::Alive,
                format!(
                    "{} is to take the place of number {old}, which is still there: stop that one \
                     first",
                    server.name
                ),
            );
        }
        // One that was to take the place of another, and is lost as well before it could.
        let before = peers.get(&old).and_then(|old| old.replaces);
        let had_vote = leadership.votes(before.unwrap_or(old));
        let peer = Peer {
            replaces: Some(before.unwrap_or(old)),
            standby: more.standby && !had_vote,
            ..peer_of(greeting)
        };
        let add = ChangeMembers::AddNodes(BTreeMap::from([(server.id, peer)]));
        Ok(match before {
            Some(_) => {
                let remove = ChangeMembers::RemoveNodes(BTreeSet::from([old]));
                ChangeMembers::Batch(vec![remove, add])
            }
            None => add,
        })
    }

    /// Greets everybody again and again, until this server is in a cluster; then less often.
    pub async fn run(self: Arc<Self>, raft: Raft<Binding, Machine>, join: Vec<String>) {
        loop {
            let met = self.greet(&join).await;
            let is_member = self.me.is_member();
            if is_member {
                self.watch_clocks(&met);
                self.note_member(&raft).await;
            } else if !self.was_member() {
                self.become_member(&raft, met).await;
            }
            let wait = match is_member {
                true => ROUND_INTERVAL_MEMBER,
                false => ROUND_INTERVAL,
            };
            time::sleep(wait).await;
        }
    }

    /// Notes that this server was in the cluster once: it does not come back by itself when somebody
    /// removes it.
    ///
    /// Once that is committed: an admission that only stands in its log goes with the leader that wrote
    /// it, and is asked for again.
    async fn note_member(&self, raft: &Raft<Binding, Machine>) {
        if self.was_member() {
            return;
        }
        let id = self.me.server.id;
        let admitted = raft.with_raft_state(move |state| {
            let committed = state.membership_state.committed();
            committed.membership().get_node(&id).is_some()
        });
        if !admitted.await.unwrap_or(false) {
            return;
        }
        let (data_dir, id) = (self.data_dir.clone(), self.me.server.id);
        let noted = spawn_blocking(move || identity::record_member(&data_dir, id)).await;
        if matches!(noted, Ok(Ok(()))) {
            self.was_member.store(true, Ordering::Relaxed);
        }
    }

    /// Everybody who answers, by number.
    async fn greet(&self, join: &[String]) -> BTreeMap<u64, Met> {
        let others = self.me.others().into_values().map(|other| other.address);
        let mut addresses: BTreeSet<String> = others.chain(join.iter().cloned()).collect();
        addresses.remove("");
        addresses.remove(&self.me.server.address);
        let greetings = addresses.iter().map(|address| async move {
            match Connection::open(&self.me, address).await {
                Ok((connection, greeting)) => Some(Met {
                    greeting,
                    connection,
                }),
                Err(CallError::Refused(refused)) => {
                    self.say_once(address, &refused);
                    None
                }
                Err(error) => {
                    tracing::debug!(address, %error, "no server");
                    None
                }
            }
        });
        let met: BTreeMap<u64, Met> = join_all(greetings)
            .await
            .into_iter()
            .flatten()
            .map(|met| (met.hello().server.id, met))
            .collect();
        for met in met.values() {
            self.me.meet(&met.greeting);
        }
        for met in met.values() {
            let https = &met.greeting.more.known_http;
            for server in &met.hello().known {
                let http = https.iter().find(|(id, _)| *id == server.id);
                self.me.hear_of(server, http.map_or("", |(_, http)| http));
            }
        }
        met
    }

    /// Tells why a server is not talked to, unless that was told before.
    fn say_once(&self, address: &str, refused: &Refused) {
        let sentence = &refused.sentence;
        let before = self
            .said
            .lock()
            .insert(address.to_owned(), sentence.clone());
        if before.as_ref() == Some(sentence) {
            return;
        }
        match refused.reason {
            // most often a server that was told of all of them, itself among them
            RefusedReason::Itself => tracing::info!(address, reason = sentence, "not greeted"),
            _ => tracing::warn!(address, reason = sentence, "refused"),
        }
    }

    async fn become_member(&self, raft: &Raft<Binding, Machine>, met: BTreeMap<u64, Met>) {
        // who waits for a person to promote it begins nothing
        // and who takes the place of another, neither; who only joins others waits until there are some
        let is_fresh = |met: &&Met| {
            let more = &met.greeting.more;
            let begins = met.hello().expects > 0 && !more.standby && more.replaces.is_none();
            met.hello().stage == Stage::Fresh && begins
        };
        let own = (self.me.expects > 0).then_some(self.me.server.id);
        let fresh: BTreeSet<u64> = met
            .values()
            .filter(is_fresh)
            .map(|met| met.hello().server.id)
            .chain(own)
            .collect();
        self.me.set_fresh(fresh.clone());
        let apart = match self.me.stage() {
            Stage::Fresh => fresh.iter().find_map(|id| self.clock_apart(met.get(id)?)),
            Stage::Begun | Stage::Member => None,
        };
        self.me.set_disagreement(apart.clone());
        let has_members = |met: &Met| met.hello().stage == Stage::Member;
        if met.values().any(has_members) {
            self.join(&met).await;
        } else if self.me.stage() == Stage::Fresh && apart.is_none() && self.may_form(&fresh, &met)
        {
            self.form(raft, &fresh, &met).await;
        }
    }

    /// Asks the leader, or who may know it, to be taken in.
    async fn join(&self, met: &BTreeMap<u64, Met>) {
        let leaders: BTreeSet<u64> = met.values().filter_map(|met| met.hello().leader).collect();
        let members = met
            .values()
            .filter(|met| met.hello().stage == Stage::Member);
        let mut members: Vec<&Met> = members.collect();
        members.sort_by_key(|met| !leaders.contains(&met.hello().server.id));
        for met in members {
            let kinds = (kind::JOIN, kind::JOINED);
            let wait_max = TAKE_IN_WAIT_MAX + ANSWER_WAIT_MAX;
            match met.connection.ask(kinds, &Join {}, wait_max).await {
                Ok(Joined::Done | Joined::Busy) => {
                    self.me.set_not_admitted(None);
                    return;
                }
                Ok(Joined::NotLeader { leader }) => {
                    leader.iter().for_each(|leader| self.me.hear_of(leader, ""));
                }
                Err(CallError::Refused(refused)) => {
                    self.say_once(&met.hello().server.address, &refused);
                    self.me.set_not_admitted(Some(refused.sentence));
                    return;
                }
                Err(error) => tracing::debug!(%error, "no answer to the wish to join"),
            }
        }
    }

    fn clock_skew_max(&self) -> Duration {
        self.me.limits.clock_skew_max
    }

    /// Why a server that was met is no company to begin a timeline with: whoever leads first gives it the
    /// time of its clock, and that never goes back.
    fn clock_apart(&self, met: &Met) -> Option<String> {
        let server = &met.hello().server;
        let ahead = self.me.clock_ahead(server.id)?;
        let apart = clocks::apart(ahead, self.clock_skew_max())?;
        Some(format!(
            "the clock of {} is {apart} this server's: {}, then they form one by themselves",
            server.name,
            clocks::REMEDY
        ))
    }

    /// Warns of members whose clocks have drifted, each time that one begins to.
    fn watch_clocks(&self, met: &BTreeMap<u64, Met>) {
        let mut drifted = self.drifted.lock();
        for (&id, met) in met {
            let ahead = self.me.clock_ahead(id);
            let apart = ahead.and_then(|ahead| clocks::apart(ahead, self.clock_skew_max()));
            match apart {
                None => {
                    drifted.remove(&id);
                }
                Some(apart) if drifted.insert(id) => tracing::warn!(
                    server = met.hello().server.name,
                    "its clock is {apart} this server's: {}; frames get the time of whoever leads, and \
                     retention goes by it",
                    clocks::REMEDY
                ),
                Some(_) => {}
            }
        }
    }

    /// Whether it is for this server to form a cluster of `fresh`.
    fn may_form(&self, fresh: &BTreeSet<u64>, met: &BTreeMap<u64, Met>) -> bool {
        let expects = self.me.expects;
        let agrees = |id: &u64| {
            // the server itself is not among those it met
            met.get(id).is_none_or(|met| {
                let sees: BTreeSet<u64> = met.hello().fresh.iter().copied().collect();
                met.hello().expects == expects && sees == *fresh
            })
        };
        expects > 0
            && !self.me.standby
            && self.me.replaces.is_none()
            && fresh.len() >= expects as usize
            && fresh.first() == Some(&self.me.server.id)
            && fresh.iter().all(agrees)
    }

    async fn form(
        &self,
        raft: &Raft<Binding, Machine>,
        fresh: &BTreeSet<u64>,
        met: &BTreeMap<u64, Met>,
    ) {
        let own_id = self.me.server.id;
        let mut word = self.word.lock().await;
        let may_ask = may_give(*word, own_id, own_id, &[]);
        if !may_ask || !self.give_word(&mut word, own_id).await {
            return;
        }
        let form = Form {
            servers: fresh.iter().copied().collect(),
        };
        // Whoever has promised itself to one that agrees now is asked once more, and told.
        let mut agreed = BTreeSet::from([own_id]);
        for _ in 0..2 {
            let more = FormMore {
                agreed: agreed.iter().copied().collect(),
            };
            let missing = fresh.difference(&agreed).filter_map(|id| met.get(id));
            let asked = missing.map(|met| {
                let (form, more) = (&form, &more);
                async move {
                    let gives = met.gives_word(form, more).await;
                    gives.then_some(met.hello().server.id)
                }
            });
            agreed.extend(join_all(asked).await.into_iter().flatten());
        }
        if agreed != *fresh {
            return;
        }
        let own = self.me.greeting();
        let others = fresh.iter().filter_map(|id| met.get(id));
        let greetings = others.map(|met| &met.greeting).chain([&own]);
        let members: BTreeMap<u64, Peer> = greetings
            .map(|greeting| (greeting.hello.server.id, peer_of(greeting)))
            .collect();
        match raft.initialize(members).await {
            Ok(()) => tracing::info!(servers = ?fresh, "a cluster is formed"),
            // somebody else was quicker
            Err(error) => tracing::info!(error = %chain(&error), "no cluster formed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_passes_on_only_when_it_was_not_used() {
        let (own, first, second) = (3, 1, 2);
        assert!(may_give(None, own, first, &[]));
        assert!(may_give(Some(first), own, first, &[]), "again");
        // the first may have begun a cluster and gone
        assert!(!may_give(Some(first), own, second, &[second]));
        // it has not: it gives its own word
        assert!(may_give(Some(first), own, second, &[second, first]));
        assert!(
            may_give(Some(own), own, second, &[]),
            "its own attempt is over"
        );
    }
}
