use std::future::Future;

use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
    type_config::alias::SnapshotOf,
};

use crate::{
    binding::{Ballot, Binding, Peer},
    machine::SnapshotState,
};

/// Peers of a server that stands alone: there is no way to any of them.
///
/// A cluster of one never asks. A data directory of a larger cluster that is opened here finds no
/// quorum, and says so, instead of going on without the others.
pub(crate) struct NoPeers;

/// The way to one peer, which does not exist.
pub(crate) struct NoWay {
    target: u64,
}

impl RaftNetworkFactory<Binding> for NoPeers {
    type Network = NoWay;

    async fn new_client(&mut self, target: u64, _: &Peer) -> NoWay {
        NoWay { target }
    }
}

impl NoWay {
    fn unreachable(&self) -> Unreachable<Binding> {
        let target = self.target;
        Unreachable::from_string(format!("this server has no connection to server {target}"))
    }
}

impl RaftNetworkV2<Binding> for NoWay {
    type SnapshotData = SnapshotState;

    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<Binding>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Binding>, RPCError<Binding>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _: VoteRequest<Binding>,
        _: RPCOption,
    ) -> Result<VoteResponse<Binding>, RPCError<Binding>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn pre_vote(
        &mut self,
        _: VoteRequest<Binding>,
        _: RPCOption,
    ) -> Result<VoteResponse<Binding>, RPCError<Binding>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _: Ballot,
        _: SnapshotOf<Binding, SnapshotState>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Binding>, StreamingError<Binding>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }
}
