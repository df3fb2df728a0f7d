use bytes::Bytes;
use tidings_store::LogRecord;
use tidings_timeline::{Batch, BatchError};

use crate::{
    binding::{LogEntry, Payload, Proposal},
    codec::{self, CodecError, kind},
};

/// What an entry is counted with in memory; its record is within a few bytes of it.
pub(crate) fn memory(entry: &LogEntry) -> usize {
    const OVERHEAD: usize = 128;
    match &entry.payload {
        Payload::Normal(proposal) => OVERHEAD + proposal.bytes_len(),
        Payload::Blank | Payload::Membership(_) => OVERHEAD,
    }
}

/// An entry as the store keeps it.
pub(crate) fn record_of(entry: &LogEntry) -> Result<LogRecord, CodecError> {
    let (kind, parts) = match &entry.payload {
        Payload::Blank => (kind::BLANK, Vec::new()),
        Payload::Normal(proposal) => (kind::BATCH, proposal.batch.parts()),
        Payload::Membership(members) => (
            kind::MEMBERS,
            vec![Bytes::from(codec::encode_members(members)?)],
        ),
    };
    let tidings_store::LogId {
        index,
        term,
        leader,
    } = codec::log_id_of(&entry.log_id);
    Ok(LogRecord {
        index,
        term,
        leader,
        kind,
        parts,
    })
}

/// Why a record of the log is no entry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the record at {index} has no valid entry id")]
    Id {
        index: u64,
        #[source]
        source: CodecError,
    },
    #[error("the record at {index} holds no valid members")]
    Members {
        index: u64,
        #[source]
        source: CodecError,
    },
    #[error("the record at {index} holds no valid batch")]
    Batch {
        index: u64,
        #[source]
        source: BatchError,
    },
    #[error("the record at {index} is of kind {kind}, which this program does not know")]
    Kind { index: u64, kind: u8 },
}

/// The entry that [`record_of`] gave.
pub(crate) fn entry_of(record: LogRecord) -> Result<LogEntry, RecordError> {
    let index = record.index;
    let log_id =
        codec::entry_id_of(&record.id()).map_err(|source| RecordError::Id { index, source })?;
    let payload = match record.kind {
        kind::BLANK => Payload::Blank,
        kind::BATCH => {
            let batch =
                batch_of(record.parts).map_err(|source| RecordError::Batch { index, source })?;
            Payload::Normal(Proposal::stored(batch))
        }
        kind::MEMBERS => {
            let members = codec::decode_members(&record.parts.concat())
                .map_err(|source| RecordError::Members { index, source })?;
            Payload::Membership(members)
        }
        kind => return Err(RecordError::Kind { index, kind }),
    };
    Ok(LogEntry { log_id, payload })
}

/// The batch that [`Batch::parts`] gave, in one piece from the disk or still in its parts: the
/// header and then the groups, which are not joined again.
fn batch_of(parts: Vec<Bytes>) -> Result<Batch, BatchError> {
    let mut parts = parts.into_iter();
    let mut batch = Batch::decode(parts.next().unwrap_or_default())?;
    batch.groups.extend(parts);
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use tidings_event::Timestamp;

    use super::*;
    use crate::binding::{EntryId, LeaderId, Members, Peer};

    #[test]
    fn entries_are_read_back_whole_or_in_parts() {
        let batch = Batch {
            time: Timestamp::from_unix_micros(1_234_567),
            groups: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
        };
        let members = Members::new(
            vec![BTreeSet::from([3])],
            BTreeMap::from([(
                3,
                Peer {
                    name: "n".into(),
                    ..Peer::default()
                },
            )]),
        );
        let payloads = [
            Payload::Blank,
            Payload::Normal(Proposal::stored(batch.clone())),
            Payload::Membership(members.unwrap()),
        ];
        for (index, payload) in payloads.into_iter().enumerate() {
            let leader_id = LeaderId {
                term: 4,
                node_id: 3,
            };
            let log_id = EntryId {
                leader_id,
                index: index as u64,
            };
            let record = record_of(&LogEntry { log_id, payload }).unwrap();
            let whole = LogRecord {
                parts: vec![record.parts.concat().into()],
                ..record.clone()
            };
            for record in [record, whole] {
                let kind = record.kind;
                let entry = entry_of(record).unwrap();
                assert_eq!(entry.log_id, log_id);
                match entry.payload {
                    Payload::Blank => assert_eq!(kind, kind::BLANK),
                    Payload::Normal(proposal) => {
                        assert_eq!(proposal.batch.time, batch.time);
                        assert_eq!(proposal.batch.groups.concat(), batch.groups.concat());
                    }
                    Payload::Membership(members) => {
                        assert!(members.voter_ids().eq([3]));
                    }
                }
            }
        }
    }

    #[test]
    fn unknown_records_are_refused() {
        let record = |kind, leader: &[u8]| LogRecord {
            index: 1,
            term: 1,
            leader: leader.to_vec(),
            kind,
            parts: vec![Bytes::from_static(&[99])],
        };
        let refused = |record| entry_of(record).unwrap_err();
        assert!(matches!(
            refused(record(9, &[0; 8])),
            RecordError::Kind { kind: 9, .. }
        ));
        assert!(matches!(
            refused(record(0, &[0; 7])),
            RecordError::Id { .. }
        ));
        assert!(matches!(
            refused(record(1, &[0; 8])),
            RecordError::Batch { .. }
        ));
        assert!(matches!(
            refused(record(2, &[0; 8])),
            RecordError::Members { .. }
        ));
    }
}
