//! Between what the consensus engine says and what goes over the wire.

use std::time::Duration;

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tidings_event::Index;
use tidings_store::LogRecord;
use tidings_timeline::{CommandsError, Outcome, Refusal};

use super::{
    frame::Parts,
    message::{
        Append, Appended, BallotBytes, EntryIdBytes, OutcomeRecord, Proposed, RecordHead, Transfer,
        Transferred, Vote, Voted, decode_with, encode_with,
    },
};
use crate::{
    binding::{Ballot, Binding, EntryId, LogEntry},
    codec::{self, CodecError},
    error::ProposeError,
    record::{self, RecordError},
};

/// Why a message is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("a message cannot be read")]
    Postcard(#[from] postcard::Error),
    #[error("a message holds something that is not of the log")]
    Codec(#[from] CodecError),
    #[error("a message holds an entry that is none")]
    Record(#[from] RecordError),
    #[error("a message announces {announced} bytes of entries and has {found}")]
    Length { announced: u64, found: usize },
    #[error("a log is said to differ before its beginning")]
    Conflict,
    #[error("these are no commands for the log; a server of another version may have sent them")]
    Commands(#[from] CommandsError),
}

pub(crate) fn ballot_bytes(ballot: &Ballot) -> BallotBytes {
    let bytes = codec::encode_ballot(ballot);
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[..16]);
    (id, bytes[16])
}

pub(crate) fn ballot_of((id, committed): BallotBytes) -> Result<Ballot, CodecError> {
    let mut bytes = id.to_vec();
    bytes.push(committed);
    codec::decode_ballot(&bytes)
}

fn id_bytes(id: Option<&EntryId>) -> Option<EntryIdBytes> {
    id.map(codec::encode_entry_id)
}

fn id_of(bytes: Option<EntryIdBytes>) -> Result<Option<EntryId>, CodecError> {
    bytes
        .map(|bytes| codec::decode_entry_id(&bytes))
        .transpose()
}

// === entries ===

pub(crate) fn append_parts(request: &AppendEntriesRequest<Binding>) -> Result<Parts, MessageError> {
    let mut records = Vec::with_capacity(request.entries.len());
    let mut parts = Vec::new();
    for entry in &request.entries {
        let record = record::record_of(entry)?;
        let bytes: usize = record.parts.iter().map(Bytes::len).sum();
        records.push(RecordHead {
            id: codec::encode_entry_id(&entry.log_id),
            kind: record.kind,
            bytes: bytes as u32,
        });
        parts.extend(record.parts);
    }
    let head = Append {
        ballot: ballot_bytes(&request.vote),
        before: id_bytes(request.prev_log_id.as_ref()),
        committed: id_bytes(request.leader_commit.as_ref()),
        records,
    };
    Ok(encode_with(&head, parts)?)
}

pub(crate) fn append_of(body: &Bytes) -> Result<AppendEntriesRequest<Binding>, MessageError> {
    let (head, mut rest) = decode_with::<Append>(body)?;
    let announced: u64 = head.records.iter().map(|r| u64::from(r.bytes)).sum();
    if announced != rest.len() as u64 {
        return Err(MessageError::Length {
            announced,
            found: rest.len(),
        });
    }
    let entries = head
        .records
        .into_iter()
        .map(|record| entry_of(&record, rest.split_to(record.bytes as usize)));
    Ok(AppendEntriesRequest {
        entries: entries.collect::<Result<_, _>>()?,
        vote: ballot_of(head.ballot)?,
        prev_log_id: id_of(head.before)?,
        leader_commit: id_of(head.committed)?,
    })
}

fn entry_of(head: &RecordHead, bytes: Bytes) -> Result<LogEntry, MessageError> {
    let tidings_store::LogId {
        index,
        term,
        leader,
    } = codec::log_id_of(&codec::decode_entry_id(&head.id)?);
    Ok(record::entry_of(LogRecord {
        index,
        term,
        leader,
        kind: head.kind,
        parts: vec![bytes],
    })?)
}

pub(crate) fn appended(response: &AppendEntriesResponse<Binding>) -> Appended {
    match response {
        AppendEntriesResponse::Success => Appended::Done,
        // Part of a message is only taken by a network; a server takes all of it or nothing.
        AppendEntriesResponse::PartialSuccess(_) | AppendEntriesResponse::Conflict => {
            Appended::Conflict
        }
        AppendEntriesResponse::HigherVote(ballot) => Appended::HigherBallot(ballot_bytes(ballot)),
    }
}

/// What an answer says to entries between `before` and `last`.
pub(crate) fn append_result(
    answer: Appended,
    before: Option<EntryId>,
    last: Option<EntryId>,
) -> Result<StreamAppendResult<Binding>, MessageError> {
    Ok(match (answer, before) {
        (Appended::Done, _) => Ok(last),
        (Appended::Conflict, Some(before)) => Err(StreamAppendError::Conflict(before)),
        (Appended::Conflict, None) => return Err(MessageError::Conflict),
        (Appended::HigherBallot(ballot), _) => {
            Err(StreamAppendError::HigherVote(ballot_of(ballot)?))
        }
    })
}

// === votes ===

pub(crate) fn vote(request: &VoteRequest<Binding>) -> Vote {
    Vote {
        ballot: ballot_bytes(&request.vote),
        last: id_bytes(request.last_log_id.as_ref()),
        transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_of(vote: Vote) -> Result<VoteRequest<Binding>, CodecError> {
    let mut request = VoteRequest::new(ballot_of(vote.ballot)?, id_of(vote.last)?);
    request.leadership_transfer = vote.transfer;
    Ok(request)
}

pub(crate) fn voted(response: &VoteResponse<Binding>) -> Voted {
    Voted {
        ballot: ballot_bytes(&response.vote),
        granted: response.vote_granted,
        last: id_bytes(response.last_log_id.as_ref()),
    }
}

pub(crate) fn voted_of(voted: Voted) -> Result<VoteResponse<Binding>, CodecError> {
    let (ballot, last) = (ballot_of(voted.ballot)?, id_of(voted.last)?);
    Ok(VoteResponse::new(ballot, last, voted.granted))
}

pub(crate) fn transfer(request: &TransferLeaderRequest<Binding>) -> Transfer {
    Transfer {
        ballot: ballot_bytes(request.from_leader()),
        to: *request.to_node_id(),
        last: id_bytes(request.last_log_id()),
    }
}

pub(crate) fn transfer_of(
    transfer: Transfer,
) -> Result<TransferLeaderRequest<Binding>, CodecError> {
    let (ballot, last) = (ballot_of(transfer.ballot)?, id_of(transfer.last)?);
    Ok(TransferLeaderRequest::new(ballot, transfer.to, last))
}

pub(crate) fn transferred(response: &TransferLeaderResponse<Binding>) -> Transferred {
    match response {
        Ok(()) => Transferred::Done,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => Transferred::BallotChanged {
            expected: ballot_bytes(expected),
            actual: ballot_bytes(actual),
        },
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => Transferred::NotFlushed {
            expected: id_bytes(expected.as_ref()),
            actual: id_bytes(actual.as_ref()),
        },
    }
}

pub(crate) fn transferred_of(
    transferred: Transferred,
) -> Result<TransferLeaderResponse<Binding>, CodecError> {
    Ok(match transferred {
        Transferred::Done => Ok(()),
        Transferred::BallotChanged { expected, actual } => Err(TransferLeaderError::VoteChanged {
            expected: ballot_of(expected)?,
            actual: ballot_of(actual)?,
        }),
        Transferred::NotFlushed { expected, actual } => Err(TransferLeaderError::LogNotFlushed {
            expected: id_of(expected)?,
            actual: id_of(actual)?,
        }),
    })
}

// === commands ===

/// Checks commands of another server by their content: what is in the log stops every server that
/// cannot apply it.
pub(crate) fn check_commands(announced: u32, commands: &Bytes) -> Result<(), MessageError> {
    Ok(tidings_timeline::check_commands(
        commands,
        announced as usize,
    )?)
}

pub(crate) fn proposed(result: Result<Vec<Outcome>, ProposeError>) -> Proposed {
    match result {
        Ok(outcomes) => Proposed::Outcomes(outcomes.into_iter().map(outcome_record).collect()),
        Err(ProposeError::Overloaded { retry_after }) => Proposed::Overloaded {
            retry_after_ms: u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX),
        },
        Err(ProposeError::DiskFull { free, reserve }) => Proposed::DiskFull { free, reserve },
        Err(ProposeError::TooLarge { bytes, bytes_max }) => Proposed::TooLarge {
            bytes: bytes as u64,
            bytes_max: bytes_max as u64,
        },
        Err(ProposeError::NotLeader { leader }) => Proposed::NotLeader { leader },
        // Nothing was recorded, and the cluster goes on without this server.
        Err(ProposeError::Stopped { .. }) => Proposed::NotLeader { leader: None },
        Err(ProposeError::Unknown { leader }) => Proposed::Unknown { leader },
    }
}

pub(crate) fn propose_result(proposed: Proposed) -> Result<Vec<Outcome>, ProposeError> {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Err(match proposed {
        Proposed::Outcomes(outcomes) => {
            return Ok(outcomes.into_iter().map(outcome_of).collect());
        }
        Proposed::Overloaded { retry_after_ms } => ProposeError::Overloaded {
            retry_after: Duration::from_millis(retry_after_ms),
        },
        Proposed::DiskFull { free, reserve } => ProposeError::DiskFull { free, reserve },
        Proposed::TooLarge {
            bytes: found,
            bytes_max,
        } => ProposeError::TooLarge {
            bytes: bytes(found),
            bytes_max: bytes(bytes_max),
        },
        Proposed::NotLeader { leader } => ProposeError::NotLeader { leader },
        Proposed::Unknown { leader } => ProposeError::Unknown { leader },
    })
}

fn outcome_record(outcome: Outcome) -> OutcomeRecord {
    match outcome {
        Outcome::Published { index } => OutcomeRecord::Published { index: index.get() },
        Outcome::Duplicate { index } => OutcomeRecord::Duplicate { index: index.get() },
        Outcome::Stored { index } => OutcomeRecord::Stored { index: index.get() },
        Outcome::Deleted { index } => OutcomeRecord::Deleted { index: index.get() },
        Outcome::Done => OutcomeRecord::Done,
        Outcome::Refused(refusal) => match *refusal {
            Refusal::CasMismatch { expected, current } => {
                OutcomeRecord::CasMismatch { expected, current }
            }
            Refusal::NoEntry => OutcomeRecord::NoEntry,
            Refusal::PartlyDuplicate { index } => {
                OutcomeRecord::PartlyDuplicate { index: index.get() }
            }
            Refusal::SenderGap { expected, number } => {
                OutcomeRecord::SenderGap { expected, number }
            }
            Refusal::SenderForgotten { epoch } => OutcomeRecord::SenderForgotten { epoch },
            Refusal::SenderAhead { epoch } => OutcomeRecord::SenderAhead { epoch },
            Refusal::TooManySenders { limit } => OutcomeRecord::TooManySenders { limit },
        },
    }
}

fn outcome_of(record: OutcomeRecord) -> Outcome {
    let refused = |refusal| Outcome::Refused(Box::new(refusal));
    match record {
        OutcomeRecord::Published { index } => Outcome::Published {
            index: Index(index),
        },
        OutcomeRecord::Duplicate { index } => Outcome::Duplicate {
            index: Index(index),
        },
        OutcomeRecord::Stored { index } => Outcome::Stored {
            index: Index(index),
        },
        OutcomeRecord::Deleted { index } => Outcome::Deleted {
            index: Index(index),
        },
        OutcomeRecord::Done => Outcome::Done,
        OutcomeRecord::CasMismatch { expected, current } => {
            refused(Refusal::CasMismatch { expected, current })
        }
        OutcomeRecord::NoEntry => refused(Refusal::NoEntry),
        OutcomeRecord::SenderGap { expected, number } => {
            refused(Refusal::SenderGap { expected, number })
        }
        OutcomeRecord::SenderForgotten { epoch } => refused(Refusal::SenderForgotten { epoch }),
        OutcomeRecord::SenderAhead { epoch } => refused(Refusal::SenderAhead { epoch }),
        OutcomeRecord::TooManySenders { limit } => refused(Refusal::TooManySenders { limit }),
        OutcomeRecord::PartlyDuplicate { index } => refused(Refusal::PartlyDuplicate {
            index: Index(index),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use tidings_event::Timestamp;
    use tidings_timeline::{Batch, CommandGroup, TimelineId};

    use super::*;
    use crate::binding::{LeaderId, Members, Payload, Peer, Proposal};

    fn id(index: u64) -> EntryId {
        let leader_id = LeaderId {
            term: 3,
            node_id: u64::MAX,
        };
        EntryId { leader_id, index }
    }

    #[test]
    fn entries_arrive_as_they_lie_in_the_log() {
        let batch = Batch {
            time: Timestamp::from_unix_micros(5),
            groups: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
        };
        let members = Members::new(
            vec![BTreeSet::from([1])],
            BTreeMap::from([(1, Peer::default())]),
        );
        let payloads = [
            Payload::Blank,
            Payload::Normal(Proposal::stored(batch)),
            Payload::Membership(members.unwrap()),
        ];
        let entries = (8..).zip(payloads).map(|(index, payload)| LogEntry {
            log_id: id(index),
            payload,
        });
        let request = AppendEntriesRequest::<Binding> {
            vote: Ballot {
                leader_id: id(0).leader_id,
                committed: true,
            },
            prev_log_id: Some(id(7)),
            entries: entries.collect(),
            leader_commit: Some(id(6)),
        };
        let body = Bytes::from(append_parts(&request).unwrap().concat());
        let read = append_of(&body).unwrap();
        assert_eq!(read.vote, request.vote);
        assert_eq!(read.prev_log_id, request.prev_log_id);
        assert_eq!(read.leader_commit, request.leader_commit);
        let bytes = |entries: &[LogEntry]| -> Vec<_> {
            let record = |entry| record::record_of(entry).unwrap();
            let records = entries.iter().map(record);
            records
                .map(|record| (record.id(), record.kind, record.parts.concat()))
                .collect()
        };
        assert_eq!(bytes(&read.entries), bytes(&request.entries));
        // cut short
        assert!(append_of(&body.slice(..body.len() - 1)).is_err());
    }

    #[test]
    fn commands_are_counted() {
        let mut group = CommandGroup::new();
        group.found(TimelineId(1));
        group.seal();
        let commands = group.into_bytes();
        check_commands(2, &commands).unwrap();
        for (announced, commands) in [
            (1, commands.clone()),
            (3, commands.clone()),
            (0, Bytes::new()),
            (2, commands.slice(..commands.len() - 1)),
            (1, Bytes::from_static(b"\x05\xff\xff\xff\xff")),
        ] {
            assert!(check_commands(announced, &commands).is_err());
        }
    }

    #[test]
    fn answers_come_back_as_they_were() {
        let index = Index(7);
        let outcomes = vec![
            Outcome::Published { index },
            Outcome::Duplicate { index },
            Outcome::Stored { index },
            Outcome::Deleted { index },
            Outcome::Done,
            Outcome::Refused(Box::new(Refusal::CasMismatch {
                expected: 1,
                current: 2,
            })),
            Outcome::Refused(Box::new(Refusal::NoEntry)),
            Outcome::Refused(Box::new(Refusal::PartlyDuplicate { index })),
            Outcome::Refused(Box::new(Refusal::SenderGap {
                expected: 1,
                number: 3,
            })),
            Outcome::Refused(Box::new(Refusal::SenderForgotten { epoch: 4 })),
            Outcome::Refused(Box::new(Refusal::SenderAhead { epoch: 5 })),
            Outcome::Refused(Box::new(Refusal::TooManySenders { limit: 6 })),
        ];
        let results = [
            Ok(outcomes),
            Err(ProposeError::Overloaded {
                retry_after: Duration::from_millis(3),
            }),
            Err(ProposeError::DiskFull {
                free: 1,
                reserve: 2,
            }),
            Err(ProposeError::TooLarge {
                bytes: 2,
                bytes_max: 1,
            }),
            Err(ProposeError::NotLeader { leader: Some(3) }),
            Err(ProposeError::Unknown { leader: None }),
        ];
        for result in results {
            assert_eq!(propose_result(proposed(result.clone())), result);
        }
        let stopped = Err(ProposeError::Stopped {
            reason: "full".into(),
        });
        assert_eq!(
            propose_result(proposed(stopped)),
            Err(ProposeError::NotLeader { leader: None })
        );
    }
}
