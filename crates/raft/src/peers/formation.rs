//! How servers that do not know each other become a cluster.
//!
//! ```text
//!            ┌──────────── everybody greets everybody ────────────┐
//! Fresh ─────┤ as many fresh servers as expected, and all of them │──▶ Form ──▶ initialize
//!            │ see the same ones; the smallest number asks        │   (all agree)
//!            └ somebody is a member already ──▶ Join ──▶ learner ─┴──▶ voter, once caught up
//! ```
//!
//! Two clusters must not come of it. A fresh server gives its word to one other at a time, for one
//! set of servers, and only when it sees that very set itself; whoever has the word of all of a set
//! uses it long before it expires, or not at all. The word is kept in memory: a server that starts
//! anew has given none, but must be met again by everybody before another set can be agreed upon.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use openraft::{
    Raft,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};
use parking_lot::Mutex;
use tokio::time::{self, Instant};

use super::{
    connection::{CallError, Connection},
    me::Me,
    message::{Form, Formed, Greeting, Hello, Join, Joined, Refused, RefusedReason, Stage, kind},
};
use crate::{
    binding::{Binding, Peer},
    error::chain,
    machine::Machine,
};

/// How often everybody is greeted while this server is not in a cluster, and afterwards: then it
/// only tells new addresses.
const ROUND_INTERVAL: Duration = Duration::from_millis(200);
const ROUND_INTERVAL_MEMBER: Duration = Duration::from_secs(5);
/// How long an answer to a question may take.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long a word that was given holds. Much longer than asking everybody takes.
const WORD_HOLDS: Duration = Duration::from_secs(30);
/// How long after asking for the first word the last may come, for all of them to be used.
const WORDS_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the leader may take to make a server a learner.
const TAKE_IN_WAIT_MAX: Duration = Duration::from_secs(10);

/// This server's part in forming a cluster, and in taking others into it.
pub(crate) struct Formation {
    me: Arc<Me>,
    word: Mutex<Option<Word>>,
    /// What was last said of each address, so that it is said once.
    said: Mutex<BTreeMap<String, String>>,
}

/// The promise to form a cluster with one server, at its request.
struct Word {
    to: u64,
    until: Instant,
}

/// A server that answered, and the connection to it.
struct Met {
    greeting: Greeting,
    connection: Connection,
}

impl Met {
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

impl Formation {
    pub fn new(me: Arc<Me>) -> Formation {
        Formation {
            me,
            word: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// Gives this server's word to `from`, if it sees the same servers and nobody else has it.
    pub fn agree(&self, from: u64, servers: &[u64]) -> bool {
        let servers: BTreeSet<u64> = servers.iter().copied().collect();
        let sees_them = self.me.stage() == Stage::Fresh && servers == self.me.fresh();
        sees_them && servers.contains(&from) && self.give_word(from)
    }

    fn give_word(&self, to: u64) -> bool {
        let mut word = self.word.lock();
        let now = Instant::now();
        if word
            .as_ref()
            .is_some_and(|word| word.to != to && now < word.until)
        {
            return false;
        }
        *word = Some(Word {
            to,
            until: now + WORD_HOLDS,
        });
        true
    }

    /// Takes a server into the cluster, if this one leads.
    pub async fn take_in(
        &self,
        raft: &Raft<Binding, Machine>,
        greeting: &Greeting,
    ) -> Result<Joined, Refused> {
        let server = &greeting.hello.server;
        let members = self.me.members();
        let leader = self.me.leader();
        if !raft.is_leader() {
            let leader = leader.and_then(|id| self.me.others().remove(&id));
            return Ok(Joined::NotLeader { leader });
        }
        if members.contains_key(&server.id) {
            return Ok(Joined::Done);
        }
        if let Some(other) = members.values().find(|other| other.name == server.name) {
            return Err(Refused {
                reason: RefusedReason::NameTaken,
                sentence: format!(
                    "the cluster has a server named {} already, with number {} at {}: remove that \
                     one first, or start this one under another name",
                    other.name, other.id, other.address
                ),
            });
        }
        let peer = peer_of(greeting);
        let taken = time::timeout(TAKE_IN_WAIT_MAX, raft.add_learner(server.id, peer, false));
        match taken.await {
            Ok(Ok(_)) => {
                tracing::info!(
                    server = server.id,
                    name = server.name,
                    "a server has joined"
                );
                Ok(Joined::Done)
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                let leader = to.leader_id.and_then(|id| self.me.others().remove(&id));
                Ok(Joined::NotLeader { leader })
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            )))) => Ok(Joined::Busy),
            Ok(Err(error)) => {
                tracing::debug!(error = %chain(&error), "cannot take a server in");
                Ok(Joined::Busy)
            }
            Err(_) => Ok(Joined::Busy),
        }
    }

    /// Greets everybody again and again, until this server is in a cluster; then less often.
    pub async fn run(self: Arc<Self>, raft: Raft<Binding, Machine>, join: Vec<String>) {
        loop {
            let met = self.greet(&join).await;
            let is_member = self.me.is_member();
            if !is_member {
                self.become_member(&raft, met).await;
            }
            let wait = match is_member {
                true => ROUND_INTERVAL_MEMBER,
                false => ROUND_INTERVAL,
            };
            time::sleep(wait).await;
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
        let has_members = |met: &Met| met.hello().stage == Stage::Member;
        if met.values().any(has_members) {
            self.join(&met).await;
        } else if self.me.stage() == Stage::Fresh && self.may_form(&fresh, &met) {
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
                Ok(Joined::Done | Joined::Busy) => return,
                Ok(Joined::NotLeader { leader }) => {
                    leader.iter().for_each(|leader| self.me.hear_of(leader, ""));
                }
                Err(CallError::Refused(refused)) => {
                    self.say_once(&met.hello().server.address, &refused);
                    return;
                }
                Err(error) => tracing::debug!(%error, "no answer to the wish to join"),
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
        if !self.give_word(self.me.server.id) {
            return;
        }
        let begun = Instant::now();
        let question = Form {
            servers: fresh.iter().copied().collect(),
        };
        let others = fresh.iter().filter_map(|id| met.get(id));
        let words = join_all(others.map(|met| {
            let kinds = (kind::FORM, kind::FORMED);
            met.connection
                .ask::<_, Formed>(kinds, &question, ANSWER_WAIT_MAX)
        }));
        let all_agree = words
            .await
            .into_iter()
            .all(|word| word.is_ok_and(|word| word.agreed));
        if !all_agree || begun.elapsed() > WORDS_WAIT_MAX {
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
