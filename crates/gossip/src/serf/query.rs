//! Queries: asking all members, answering, and passing answers on.
//!
//! A query goes round as events do. An answer goes straight to the one who asked, as a datagram, and,
//! when it asked for that, through a few others as well.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::event_buffer::Taken;
use super::io::SerfOutput;
use super::layer::Layer;
use super::query_buffer::{Running, is_for};
use super::roster::SerfMember;
use crate::name::Name;
use crate::time::Time;
use crate::wire::serf::{
    ConflictResponse, Filter, LamportTime, MemberRecord, MemberStatus, Query, QueryFlags,
    QueryResponse, Relay, SerfMessage, Tags,
};

/// The longest query, encoded (serf: config.go `QuerySizeLimit`).
pub const QUERY_BYTES_MAX: usize = 1024;

/// The longest answer, encoded, with what passes it on (serf: config.go `QueryResponseSizeLimit`).
pub const RESPONSE_BYTES_MAX: usize = 1024;

/// Queries of ours that may run at one time.
const RUNNING_MAX: usize = 1024;

/// Gossip intervals for each tenfold of members that answers are waited for (serf: config.go
/// `QueryTimeoutMult`).
const TIMEOUT_MULT: u32 = 16;

/// Names that begin so are questions of Serf itself.
const INTERNAL: &[u8] = b"_serf_";
const PING: &[u8] = b"_serf_ping";
const CONFLICT: &[u8] = b"_serf_conflict";

/// From this version on a member passes answers on.
const PROTOCOL_WITH_RELAY: u8 = 5;

/// What is asked, and whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// What it is called.
    pub name: Name,
    /// What it says.
    pub payload: Bytes,
    /// Whom it is for: who matches all of them.
    pub filters: Vec<Filter>,
    /// Whether each says at once that it has come.
    pub ack: bool,
    /// Through how many others answers come as well.
    pub relay_factor: u8,
    /// How long answers are waited for; by default as long as they need in a pool of this size.
    pub timeout: Option<Duration>,
}

/// A query that is for us. It is answered once, by giving it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedQuery {
    /// What is asked.
    pub query: Query,
    /// Later answers are not heard.
    pub deadline: Time,
}

/// A question that was not asked. The sentences are those of Serf's agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QueryError {
    /// The name is Serf's own.
    #[error("Queries cannot contain the '_serf_' prefix")]
    Internal,
    /// Encoded it is too long.
    #[error("query exceeds limit of {QUERY_BYTES_MAX} bytes")]
    TooLong,
    /// Too many are running.
    #[error("{RUNNING_MAX} queries are running: wait until one of them is over")]
    TooMany,
}

/// An answer that was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RespondError {
    /// Nobody listens any more.
    #[error("response is past the deadline")]
    TooLate,
    /// Encoded it is too long.
    #[error("response exceeds limit of {RESPONSE_BYTES_MAX} bytes")]
    TooLong,
    /// The one who asked did not say where it is.
    #[error("the query bears no address to answer to")]
    Nowhere,
}

impl Layer {
    /// Asks all; the moment of the question tells its answers.
    pub(super) fn ask(&mut self, asked: &Question, now: Time) -> Result<LamportTime, QueryError> {
        let name = asked.name.as_ref();
        if name.starts_with(INTERNAL) && (name != PING || !asked.payload.is_empty()) {
            return Err(QueryError::Internal);
        }
        self.ask_anything(asked, now)
    }

    fn ask_anything(&mut self, asked: &Question, now: Time) -> Result<LamportTime, QueryError> {
        if self.running.len() >= RUNNING_MAX {
            return Err(QueryError::TooMany);
        }
        let default = self.timing.gossip_interval
            * TIMEOUT_MULT
            * (self.timing.transmits_max(self.nodes) / self.timing.retransmit_mult.max(1));
        let timeout = asked.timeout.unwrap_or(default);
        let query = Query {
            ltime: self.query_clock.now(),
            id: self.chance.number() as u32,
            addr: Some(self.own_addr.ip()),
            port: self.own_addr.port(),
            source_node: self.own.clone(),
            filters: asked.filters.iter().map(Filter::encode).collect(),
            flags: if asked.ack {
                QueryFlags::ACK
            } else {
                QueryFlags::default()
            },
            relay_factor: asked.relay_factor,
            timeout,
            name: asked.name.clone(),
            payload: asked.payload.clone(),
        };
        let bytes = SerfMessage::Query(query.clone()).encode();
        if bytes.len() > QUERY_BYTES_MAX {
            return Err(QueryError::TooLong);
        }
        let ltime = self.query_clock.tick();
        self.running
            .insert(ltime, Running::new(query.id, now + timeout));
        self.query(query, &bytes, now);
        Ok(ltime)
    }

    /// Somebody asks all; passed on as it came.
    pub(super) fn query(&mut self, query: Query, bytes: &Bytes, now: Time) {
        if !self.query_clock.witness(query.ltime) {
            self.counters.messages_refused += 1;
            return;
        }
        match self
            .queries
            .take(query.ltime, query.id, self.query_clock.now())
        {
            Taken::New => {}
            Taken::Again => return,
            Taken::TooOld => {
                self.counters.queries_too_old += 1;
                return;
            }
            Taken::Refused => {
                self.counters.queries_refused += 1;
                return;
            }
        }
        if !query.flags.has(QueryFlags::NO_BROADCAST) {
            self.pass_on_query(bytes.clone());
        }
        let none = Tags::default();
        let tags = self
            .roster
            .get(&self.own)
            .map_or(&none, |member| &member.tags);
        if !is_for(&query.filters, &self.own, tags) {
            return;
        }
        let deadline = now + query.timeout;
        let received = ReceivedQuery { query, deadline };
        if received.query.flags.has(QueryFlags::ACK) {
            // One that asks for it without saying where it is does not get it.
            let _ = self.send_response(&received, QueryFlags::ACK, Bytes::new());
        }
        match received.query.name.as_ref() {
            PING => {}
            CONFLICT => self.say_whom_we_know(&received),
            _ => self.outputs.push(SerfOutput::Query(received)),
        }
    }

    /// Two nodes bear one name, and ask whom the others know. Not those who are asked about.
    fn say_whom_we_know(&mut self, received: &ReceivedQuery) {
        let asked = Name::new(received.query.payload.clone());
        if asked == self.own {
            return;
        }
        let response = ConflictResponse(self.roster.get(&asked).map(record));
        // What is too long for an answer is no answer, as with any.
        let _ = self.send_response(received, QueryFlags::default(), response.encode());
    }

    /// Answers a query.
    pub(super) fn respond(
        &mut self,
        received: &ReceivedQuery,
        payload: Bytes,
        now: Time,
    ) -> Result<(), RespondError> {
        if now > received.deadline {
            return Err(RespondError::TooLate);
        }
        self.send_response(received, QueryFlags::default(), payload)
    }

    fn send_response(
        &mut self,
        received: &ReceivedQuery,
        flags: QueryFlags,
        payload: Bytes,
    ) -> Result<(), RespondError> {
        let query = &received.query;
        let addr = query
            .addr
            .filter(|_| query.port > 0)
            .ok_or(RespondError::Nowhere)?;
        let message = SerfMessage::QueryResponse(QueryResponse {
            ltime: query.ltime,
            id: query.id,
            from: self.own.clone(),
            flags,
            payload,
        })
        .encode();
        let relayed = SerfMessage::Relay(Relay {
            addr: Some(addr),
            port: query.port,
            node: query.source_node.clone(),
            message: message.clone(),
        })
        .encode();
        let longest = if query.relay_factor > 0 {
            &relayed
        } else {
            &message
        };
        if longest.len() > RESPONSE_BYTES_MAX {
            return Err(RespondError::TooLong);
        }
        let to = SocketAddr::new(addr, query.port);
        self.sends.push((to, message));
        for helper in self.helpers(query.relay_factor, &query.source_node) {
            self.sends.push((helper, relayed.clone()));
        }
        Ok(())
    }

    /// Random members that pass answers on; none when there are not enough members.
    fn helpers(&mut self, count: u8, not: &Name) -> Vec<SocketAddr> {
        let count = usize::from(count);
        let can = |member: &&SerfMember| {
            member.status == MemberStatus::Alive
                && member.versions.delegate_max >= PROTOCOL_WITH_RELAY
                && member.name != self.own
                && member.name != *not
        };
        if count == 0 || self.roster.iter().count() < count + 1 {
            return Vec::new();
        }
        let mut helpers: Vec<_> = self
            .roster
            .iter()
            .filter(can)
            .map(|member| member.addr)
            .collect();
        self.chance.shuffle(&mut helpers);
        helpers.truncate(count);
        helpers
    }

    /// Somebody answers a query of ours.
    pub(super) fn query_response(&mut self, response: QueryResponse) {
        let members = self.roster.iter().count();
        let Some(running) = self.running.get_mut(&response.ltime) else {
            self.counters.answers_not_asked_for += 1;
            return;
        };
        if running.id != response.id {
            self.counters.answers_not_asked_for += 1;
            return;
        }
        let is_ack = response.flags.has(QueryFlags::ACK);
        if !running.is_first(&response.from, is_ack, members) {
            return;
        }
        if let Some((answers, for_us)) = &mut running.about_our_name {
            if !is_ack
                && let Ok(ConflictResponse(known)) = ConflictResponse::decode(&response.payload)
            {
                *answers += 1;
                let addr = known.and_then(|known| Some(SocketAddr::new(known.addr?, known.port)));
                *for_us += usize::from(addr == Some(self.own_addr));
            }
            return;
        }
        let QueryResponse {
            ltime,
            from,
            payload,
            ..
        } = response;
        self.outputs.push(if is_ack {
            SerfOutput::QueryAck { ltime, from }
        } else {
            SerfOutput::QueryAnswer {
                ltime,
                from,
                payload,
            }
        });
    }

    /// Passes an answer on, as it is.
    pub(super) fn relay(&mut self, relay: Relay) -> bool {
        let Some(addr) = relay.addr.filter(|_| relay.port > 0) else {
            return false;
        };
        self.sends
            .push((SocketAddr::new(addr, relay.port), relay.message));
        true
    }

    /// Another one bears our name: asks all whom they know by it.
    pub(super) fn ask_about_our_name(&mut self, now: Time) {
        if self
            .running
            .values()
            .any(|running| running.about_our_name.is_some())
        {
            return;
        }
        let asked = Question {
            name: Name::new(Bytes::from_static(CONFLICT)),
            payload: self.own.bytes().clone(),
            ..Question::default()
        };
        if let Ok(ltime) = self.ask_anything(&asked, now)
            && let Some(running) = self.running.get_mut(&ltime)
        {
            running.about_our_name = Some((0, 0));
        }
    }

    /// Ends the queries whose time is over.
    pub(super) fn end_queries(&mut self, now: Time) {
        let over: Vec<_> = self
            .running
            .iter()
            .filter(|(_, running)| running.ends <= now)
            .map(|(ltime, _)| *ltime)
            .collect();
        for ltime in over {
            let running = self.running.remove(&ltime);
            self.outputs
                .push(match running.and_then(|running| running.about_our_name) {
                    Some((answers, for_us)) => SerfOutput::NameContested { answers, for_us },
                    None => SerfOutput::QueryDone { ltime },
                });
        }
    }

    /// When the next query of ours is over.
    pub(super) fn queries_end(&self) -> Option<Time> {
        self.running.values().map(|running| running.ends).min()
    }
}

fn record(member: &SerfMember) -> MemberRecord {
    MemberRecord {
        name: member.name.clone(),
        addr: Some(member.addr.ip()),
        port: member.addr.port(),
        tags: member.tags.clone(),
        status: member.status,
        versions: member.versions,
    }
}
