use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use openraft::{raft::SnapshotResponse, type_config::alias::SnapshotOf};
use tidings_event::Index;
use tidings_store::{IncomingFile, SnapshotOffer, StoreError};
use tokio::time::{self, Instant};

use super::{
    ATTEMPT_MAX, CHUNK_BYTES_MAX, CHUNK_WAIT_MAX, CHUNKS_IN_FLIGHT_MAX, Chunk, INSTALL_WAIT_MAX,
    Install, Installed, OFFER_WAIT_MAX, Offer, Taken, Wanted,
    message::{FileNumber, file_of},
};
use crate::{
    binding::{Ballot, Binding},
    codec::{self, CodecError, SnapshotHead},
    error::chain,
    machine::{MachineShared, SnapshotState},
    peers::{
        connection::{Answer, CallError, Connection},
        convert,
        link::Link,
        message::{VERSION_SNAPSHOTS, encode_with, kind},
    },
    pinned::{Pinned, PinnedError},
};

/// Why a snapshot did not get to a server. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("it cannot be reached, or does not take the snapshot: {0}")]
    Call(#[from] CallError),
    #[error("the snapshot cannot be put into words")]
    Codec(#[from] CodecError),
    #[error("the snapshot cannot be put into words")]
    Postcard(#[from] postcard::Error),
    #[error(transparent)]
    History(#[from] PinnedError),
    #[error("it asks for a file that was not offered")]
    NotOffered,
    #[error("the attempt took more than {} s; the next one goes on from there", ATTEMPT_MAX.as_secs())]
    TooLong,
}

/// Brings a snapshot and its history to the server at the end of `link`, and waits until they are
/// installed there.
pub(crate) async fn send(
    link: &Arc<Link>,
    machine: &Arc<MachineShared>,
    ballot: Ballot,
    snapshot: SnapshotOf<Binding, SnapshotState>,
) -> Result<SnapshotResponse<Binding>, SendError> {
    let sent = time::timeout(ATTEMPT_MAX, attempt(link, machine, ballot, snapshot)).await;
    let sent = sent.unwrap_or(Err(SendError::TooLong));
    if let Err(SendError::History(PinnedError::Store(error))) = &sent
        && matches!(
            error,
            StoreError::Damaged { .. } | StoreError::Missing { .. }
        )
    {
        // Nobody can be given this history, and this server should not be asked for it either.
        machine.found_damaged(&chain(error));
    }
    sent
}

async fn attempt(
    link: &Arc<Link>,
    machine: &Arc<MachineShared>,
    ballot: Ballot,
    snapshot: SnapshotOf<Binding, SnapshotState>,
) -> Result<SnapshotResponse<Binding>, SendError> {
    let begun = Instant::now();
    let frame = snapshot.snapshot.frame;
    let state = snapshot.snapshot.state;
    let head = codec::encode_snapshot_head(&SnapshotHead {
        last: snapshot.meta.last_log_id,
        members: snapshot.meta.last_membership,
        frame,
    })?;
    let connection = link.connection().await?;
    connection.needs_version(VERSION_SNAPSHOTS)?;
    let pinned = Pinned::new(machine.history.lock().pin(frame));
    let offer = SnapshotOffer {
        state_bytes: state.len() as u64,
        state_crc: crc32fast::hash(&state),
        frame,
        segments: pinned.with(|pinned| pinned.digests()).await?,
    };
    let kinds = (kind::OFFER, kind::WANTED);
    let question = Offer {
        ballot: convert::ballot_bytes(&ballot),
        head,
        state_bytes: offer.state_bytes,
        state_crc: offer.state_crc,
        segments: offer.segments.iter().map(Into::into).collect(),
    };
    let (transfer, missing) = match connection.ask(kinds, &question, OFFER_WAIT_MAX).await? {
        Wanted::Files { transfer, missing } => (transfer, missing),
        Wanted::HigherBallot(higher) => {
            let higher = convert::ballot_of(higher)?;
            return Ok(SnapshotResponse::new(higher));
        }
    };
    let mut sending = Sending {
        machine,
        connection: &connection,
        transfer,
        pinned: &pinned,
        state,
        answers: VecDeque::new(),
        bytes: 0,
    };
    tracing::info!(
        frame = frame.get(),
        segments = offer.segments.len(),
        missing = missing.len(),
        "a server is sent a snapshot"
    );
    for (number, from) in missing {
        sending.file(&offer, number, from).await?;
    }
    sending.take_all(0).await?;
    let bytes = sending.bytes;
    let kinds = (kind::INSTALL, kind::INSTALLED);
    let installed: Installed = connection
        .ask(kinds, &Install { transfer }, INSTALL_WAIT_MAX)
        .await?;
    tracing::info!(
        frame = frame.get(),
        bytes,
        seconds = begun.elapsed().as_secs_f64(),
        "a server has taken a snapshot"
    );
    Ok(SnapshotResponse::new(convert::ballot_of(installed.ballot)?))
}

/// Pieces on their way.
struct Sending<'a> {
    machine: &'a MachineShared,
    connection: &'a Connection,
    transfer: u64,
    pinned: &'a Pinned,
    state: Bytes,
    answers: VecDeque<Answer>,
    bytes: u64,
}

impl Sending<'_> {
    /// Sends a file from `from` on.
    async fn file(
        &mut self,
        offer: &SnapshotOffer,
        number: FileNumber,
        from: u64,
    ) -> Result<(), SendError> {
        let end = match file_of(number) {
            IncomingFile::State => offer.state_bytes,
            IncomingFile::Segment(first) => {
                let at = offer.segments.binary_search_by_key(&first, |s| s.first);
                let at = at.map_err(|_| SendError::NotOffered)?;
                self.pinned.with(move |pinned| pinned.check(first)).await?;
                offer.segments[at].bytes
            }
        };
        if from > end {
            return Err(SendError::NotOffered);
        }
        let mut offset = from;
        while offset < end {
            let bytes = (end - offset).min(CHUNK_BYTES_MAX as u64) as usize;
            let piece = self.piece(file_of(number), offset, bytes).await?;
            let chunk = Chunk {
                transfer: self.transfer,
                file: number,
                offset,
            };
            let parts = encode_with(&chunk, [piece])?;
            self.take_all(CHUNKS_IN_FLIGHT_MAX - 1).await?;
            self.answers
                .push_back(self.connection.send(kind::CHUNK, parts).await?);
            offset += bytes as u64;
            self.bytes += bytes as u64;
            self.machine
                .snapshot_bytes_sent
                .fetch_add(bytes as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn piece(
        &self,
        file: IncomingFile,
        offset: u64,
        bytes: usize,
    ) -> Result<Bytes, SendError> {
        match file {
            IncomingFile::State => Ok(self.state.slice(offset as usize..offset as usize + bytes)),
            IncomingFile::Segment(first) => self.segment_piece(first, offset, bytes).await,
        }
    }

    async fn segment_piece(
        &self,
        first: Index,
        offset: u64,
        bytes: usize,
    ) -> Result<Bytes, SendError> {
        let read = self
            .pinned
            .with(move |pinned| pinned.read(first, offset, bytes));
        Ok(read.await?)
    }

    /// Waits until no more than `left` pieces are on their way.
    async fn take_all(&mut self, left: usize) -> Result<(), SendError> {
        while self.answers.len() > left {
            if let Some(answer) = self.answers.pop_front() {
                answer.decoded::<Taken>(kind::TAKEN, CHUNK_WAIT_MAX).await?;
            }
        }
        Ok(())
    }
}
