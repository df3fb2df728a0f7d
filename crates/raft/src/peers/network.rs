use std::{future::Future, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    type_config::alias::SnapshotOf,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    connection::CallError,
    convert,
    link::{Link, Links, Ways},
    message::{Appended, RefusedReason, kind},
    transfer,
};
use crate::{
    binding::{Ballot, Binding, Peer},
    error::chain,
    machine::{MachineShared, SnapshotState},
};

/// Messages with entries that are on their way to one follower at once.
///
/// Enough that one is received while another is brought to the disk and a third comes back. What is
/// proposed meanwhile, and what is committed, goes with the next: a follower that is behind gets
/// fewer and larger messages, each of which costs it one sync at most. A message holds mebibytes,
/// so that a distant follower is kept busy too.
const APPENDS_IN_FLIGHT_MAX: usize = 3;
/// How long a follower may take for entries: it receives them and brings them to its disk.
///
/// The engine's own limit is one for signs of life, which a mebibyte on a busy disk would not keep.
const APPEND_WAIT_MAX: Duration = Duration::from_secs(3);

type Answers<'s> = std::pin::Pin<
    Box<dyn Stream<Item = Result<StreamAppendResult<Binding>, RPCError<Binding>>> + Send + 's>,
>;

impl RaftNetworkFactory<Binding> for Arc<Links> {
    type Network = Way;

    async fn new_client(&mut self, target: u64, _: &Peer) -> Way {
        let ways = self.to(target);
        Way {
            target,
            appends: ways.entries.clone(),
            append_wait_min: APPEND_WAIT_MAX,
            machine: self.me().machine.clone(),
            ways,
        }
    }

    async fn new_heartbeat_client(&mut self, target: u64, _: &Peer) -> Way {
        let ways = self.to(target);
        Way {
            target,
            appends: ways.urgent.clone(),
            append_wait_min: Duration::ZERO,
            machine: self.me().machine.clone(),
            ways,
        }
    }
}

/// The engine's way to one server.
pub(crate) struct Way {
    target: u64,
    ways: Ways,
    /// Where entries or signs of life go.
    appends: Arc<Link>,
    append_wait_min: Duration,
    /// Where snapshots and history come from.
    machine: Arc<MachineShared>,
}

impl Way {
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        kinds: (u8, u8),
        question: &Q,
        option: &RPCOption,
    ) -> Result<A, RPCError<Binding>> {
        let asked = async {
            let connection = self.ways.urgent.connection().await?;
            connection.ask(kinds, question, option.hard_ttl()).await
        };
        asked.await.map_err(|error| rpc_error(self.target, error))
    }

    /// Sends entries and waits for what the follower says.
    fn append(
        &self,
        request: AppendEntriesRequest<Binding>,
        option: &RPCOption,
    ) -> impl Future<Output = Result<StreamAppendResult<Binding>, RPCError<Binding>>> + use<> {
        let (target, link) = (self.target, self.appends.clone());
        let wait_max = option.hard_ttl().max(self.append_wait_min);
        async move {
            let before = request.prev_log_id;
            let last = request.entries.last().map(|entry| entry.log_id).or(before);
            let parts = convert::append_parts(&request)
                .map_err(|error| network_error(target, &chain(&error)))?;
            drop(request);
            let answered = async {
                let answer = link.send(kind::APPEND, parts).await?;
                answer.decoded::<Appended>(kind::APPENDED, wait_max).await
            };
            let answer = answered.await.map_err(|error| rpc_error(target, error))?;
            convert::append_result(answer, before, last)
                .map_err(|error| network_error(target, &chain(&error)))
        }
    }
}

fn network_error(target: u64, reason: &str) -> RPCError<Binding> {
    RPCError::Network(NetworkError::from_string(format!(
        "server {target}: {reason}"
    )))
}

/// Whoever cannot be reached, or does not want to talk, is left alone for a while.
fn rpc_error(target: u64, error: CallError) -> RPCError<Binding> {
    if let CallError::Refused(refused) = &error
        && refused.reason != RefusedReason::Stopped
    {
        tracing::warn!(server = target, reason = refused.sentence, "refused");
    }
    RPCError::Unreachable(Unreachable::from_string(format!(
        "server {target}: {error}"
    )))
}

impl RaftNetworkV2<Binding> for Way {
    type SnapshotData = SnapshotState;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Binding>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Binding>, RPCError<Binding>> {
        Ok(self.append(request, &option).await?.into())
    }

    /// Several messages are underway at once; the answers come in the order of the requests, and
    /// end with the first that is not a success.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> futures_util::future::BoxFuture<'s, Result<Answers<'s>, RPCError<Binding>>>
    where
        S: Stream<Item = AppendEntriesRequest<Binding>> + OptionalSend + Unpin + 'static,
    {
        let way = &*self;
        let answers = input
            .map(move |request| way.append(request, &option))
            .buffered(APPENDS_IN_FLIGHT_MAX);
        let answers = stream::unfold(Some(Box::pin(answers)), |answers| async move {
            let mut answers = answers?;
            let answer = answers.next().await?;
            let goes_on = matches!(answer, Ok(Ok(_)));
            Some((answer, goes_on.then_some(answers)))
        });
        Box::pin(async move { Ok(Box::pin(answers) as Answers<'s>) })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Binding>,
        option: RPCOption,
    ) -> Result<VoteResponse<Binding>, RPCError<Binding>> {
        let kinds = (kind::VOTE, kind::VOTED);
        let voted = self.ask(kinds, &convert::vote(&request), &option).await?;
        convert::voted_of(voted).map_err(|error| network_error(self.target, &chain(&error)))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Binding>,
        option: RPCOption,
    ) -> Result<VoteResponse<Binding>, RPCError<Binding>> {
        let kinds = (kind::PRE_VOTE, kind::VOTED);
        let voted = self.ask(kinds, &convert::vote(&request), &option).await?;
        convert::voted_of(voted).map_err(|error| network_error(self.target, &chain(&error)))
    }

    /// Takes as long as it takes, within limits of its own: what has got there stays there.
    async fn full_snapshot(
        &mut self,
        ballot: Ballot,
        snapshot: SnapshotOf<Binding, SnapshotState>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Binding>, StreamingError<Binding>> {
        let target = self.target;
        let link = self.ways.snapshots.clone();
        let sent = tokio::select! {
            sent = transfer::send(&link, &self.machine, ballot, snapshot) => sent,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        sent.map_err(|error| {
            let reason = chain(&error);
            tracing::warn!(
                server = target,
                reason,
                "a snapshot did not get to a server"
            );
            StreamingError::Unreachable(Unreachable::from_string(format!(
                "server {target}: {reason}"
            )))
        })
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Binding>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Binding>, RPCError<Binding>> {
        let kinds = (kind::TRANSFER, kind::TRANSFERRED);
        let question = convert::transfer(&request);
        let transferred = self.ask(kinds, &question, &option).await?;
        convert::transferred_of(transferred)
            .map_err(|error| network_error(self.target, &chain(&error)))
    }
}
