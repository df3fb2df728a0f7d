//! The forms that consensus facts have on disk. They are ours, so that another version of the
//! engine does not change a file.
//!
//! ```text
//! entry id    term u64 LE | node u64 LE | index u64 LE                      24 bytes
//! ballot      term u64 LE | node u64 LE | committed u8                      17 bytes
//! members     version u8 = 1 | postcard MembersRecord | postcard Details
//! snapshot    version u8 = 1 | postcard SnapshotRecord | postcard Details
//! ```
//!
//! The details came later: who does not know them reads what is before them, and where they are
//! missing they are empty.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidings_event::Index;

use crate::binding::{Ballot, EntryId, LeaderId, Members, Peer, StoredMembers};

/// What kind of payload a record of the log has. Wire value: append only.
pub(crate) mod kind {
    pub const BLANK: u8 = 0;
    pub const BATCH: u8 = 1;
    pub const MEMBERS: u8 = 2;
}

const VERSION: u8 = 1;

/// Bytes in the data directory that are not what this version writes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("{what} takes {expected} bytes, {found} are there")]
    Length {
        what: &'static str,
        expected: usize,
        found: usize,
    },
    #[error("{what} has version {found}, this program knows {VERSION}")]
    Version { what: &'static str, found: u8 },
    #[error("{what} cannot be decoded")]
    Malformed {
        what: &'static str,
        #[source]
        source: postcard::Error,
    },
    #[error("{what} cannot be encoded")]
    Encode {
        what: &'static str,
        #[source]
        source: postcard::Error,
    },
    #[error("the members {voters:?} are not all among the known servers {known:?}")]
    Members {
        voters: Vec<BTreeSet<u64>>,
        known: Vec<u64>,
    },
}

// === entry id ===

pub(crate) const ENTRY_ID_BYTES: usize = 24;

pub(crate) fn encode_entry_id(id: &EntryId) -> [u8; ENTRY_ID_BYTES] {
    let mut out = [0; ENTRY_ID_BYTES];
    out[0..8].copy_from_slice(&id.leader_id.term.to_le_bytes());
    out[8..16].copy_from_slice(&id.leader_id.node_id.to_le_bytes());
    out[16..24].copy_from_slice(&id.index.to_le_bytes());
    out
}

pub(crate) fn decode_entry_id(bytes: &[u8]) -> Result<EntryId, CodecError> {
    expect_length("entry id", bytes, ENTRY_ID_BYTES)?;
    let leader_id = LeaderId {
        term: read_u64(bytes, 0),
        node_id: read_u64(bytes, 8),
    };
    Ok(EntryId {
        leader_id,
        index: read_u64(bytes, 16),
    })
}

/// The store's form of an entry id: what it calls the rest of the id is the node, u64 LE.
pub(crate) fn log_id_of(id: &EntryId) -> tidings_store::LogId {
    tidings_store::LogId {
        index: id.index,
        term: id.leader_id.term,
        leader: id.leader_id.node_id.to_le_bytes().to_vec(),
    }
}

/// The entry id that the store has kept.
pub(crate) fn entry_id_of(id: &tidings_store::LogId) -> Result<EntryId, CodecError> {
    expect_length("leader of an entry", &id.leader, 8)?;
    let leader_id = LeaderId {
        term: id.term,
        node_id: read_u64(&id.leader, 0),
    };
    Ok(EntryId {
        leader_id,
        index: id.index,
    })
}

// === ballot ===

const BALLOT_BYTES: usize = 17;

pub(crate) fn encode_ballot(ballot: &Ballot) -> [u8; BALLOT_BYTES] {
    let mut out = [0; BALLOT_BYTES];
    out[0..8].copy_from_slice(&ballot.leader_id.term.to_le_bytes());
    out[8..16].copy_from_slice(&ballot.leader_id.node_id.to_le_bytes());
    out[16] = u8::from(ballot.committed);
    out
}

pub(crate) fn decode_ballot(bytes: &[u8]) -> Result<Ballot, CodecError> {
    expect_length("ballot", bytes, BALLOT_BYTES)?;
    let leader_id = LeaderId {
        term: read_u64(bytes, 0),
        node_id: read_u64(bytes, 8),
    };
    Ok(Ballot {
        leader_id,
        committed: bytes[16] != 0,
    })
}

// === members ===

#[derive(Serialize, Deserialize)]
struct MembersRecord {
    /// One set of voters, two while the cluster changes from one to the other.
    voters: Vec<BTreeSet<u64>>,
    /// Every server, voter or not: id → (name, address).
    servers: BTreeMap<u64, (String, String)>,
}

/// What else is known of the servers: id → details.
type Details = BTreeMap<u64, DetailsRecord>;

#[derive(Serialize, Deserialize)]
struct DetailsRecord {
    http: String,
    standby: bool,
    replaces: Option<u64>,
}

pub(crate) fn encode_members(members: &Members) -> Result<Vec<u8>, CodecError> {
    encode_with_details("members", &members_record(members), members)
}

pub(crate) fn decode_members(bytes: &[u8]) -> Result<Members, CodecError> {
    let (record, details) = decode_with_details("members", bytes)?;
    members_of(record, details)
}

fn details_of(members: &Members) -> Details {
    let details = |(id, peer): (&u64, &Peer)| {
        let details = DetailsRecord {
            http: peer.http.clone(),
            standby: peer.standby,
            replaces: peer.replaces,
        };
        (*id, details)
    };
    members.nodes().map(details).collect()
}

fn members_record(members: &Members) -> MembersRecord {
    let server = |(id, peer): (&u64, &Peer)| (*id, (peer.name.clone(), peer.address.clone()));
    MembersRecord {
        voters: members.get_joint_config().clone(),
        servers: members.nodes().map(server).collect(),
    }
}

fn members_of(record: MembersRecord, mut details: Details) -> Result<Members, CodecError> {
    if record.voters.is_empty() && record.servers.is_empty() {
        return Ok(Members::default());
    }
    let known = record.servers.keys().copied().collect();
    let servers: BTreeMap<u64, Peer> = record
        .servers
        .into_iter()
        .map(|(id, (name, address))| {
            let details = details.remove(&id);
            let peer = Peer {
                name,
                address,
                standby: details.as_ref().is_some_and(|details| details.standby),
                replaces: details.as_ref().and_then(|details| details.replaces),
                http: details.map(|details| details.http).unwrap_or_default(),
            };
            (id, peer)
        })
        .collect();
    Members::new(record.voters.clone(), servers).map_err(|_| CodecError::Members {
        voters: record.voters,
        known,
    })
}

// === snapshot ===

/// What a snapshot covers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SnapshotHead {
    /// The last entry that is in it.
    pub last: Option<EntryId>,
    /// The members as of that entry.
    pub members: StoredMembers,
    /// The last frame that is in it.
    pub frame: Index,
}

#[derive(Serialize, Deserialize)]
struct SnapshotRecord {
    last: Option<[u8; ENTRY_ID_BYTES]>,
    members_entry: Option<[u8; ENTRY_ID_BYTES]>,
    members: MembersRecord,
    frame: u64,
}

pub(crate) fn encode_snapshot_head(head: &SnapshotHead) -> Result<Vec<u8>, CodecError> {
    let record = SnapshotRecord {
        last: head.last.as_ref().map(encode_entry_id),
        members_entry: head.members.log_id().as_ref().map(encode_entry_id),
        members: members_record(head.members.membership()),
        frame: head.frame.get(),
    };
    encode_with_details("snapshot head", &record, head.members.membership())
}

pub(crate) fn decode_snapshot_head(bytes: &[u8]) -> Result<SnapshotHead, CodecError> {
    let (record, details) = decode_with_details::<SnapshotRecord>("snapshot head", bytes)?;
    let id = |bytes: Option<[u8; ENTRY_ID_BYTES]>| {
        bytes.map(|bytes| decode_entry_id(&bytes)).transpose()
    };
    let members = StoredMembers::new(
        id(record.members_entry)?,
        members_of(record.members, details)?,
    );
    Ok(SnapshotHead {
        last: id(record.last)?,
        members,
        frame: Index(record.frame),
    })
}

// === pieces ===

fn encode_with_details<T: Serialize>(
    what: &'static str,
    value: &T,
    members: &Members,
) -> Result<Vec<u8>, CodecError> {
    let encoded = postcard::to_extend(value, vec![VERSION])
        .and_then(|bytes| postcard::to_extend(&details_of(members), bytes));
    encoded.map_err(|source| CodecError::Encode { what, source })
}

fn decode_with_details<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<(T, Details), CodecError> {
    let Some((&version, body)) = bytes.split_first() else {
        return Err(CodecError::Length {
            what,
            expected: 1,
            found: 0,
        });
    };
    if version != VERSION {
        return Err(CodecError::Version {
            what,
            found: version,
        });
    }
    let malformed = |source| CodecError::Malformed { what, source };
    let (value, rest) = postcard::take_from_bytes(body).map_err(malformed)?;
    let details = match rest {
        [] => Details::default(),
        rest => postcard::from_bytes(rest).map_err(malformed)?,
    };
    Ok((value, details))
}

fn expect_length(what: &'static str, bytes: &[u8], expected: usize) -> Result<(), CodecError> {
    if bytes.len() == expected {
        Ok(())
    } else {
        Err(CodecError::Length {
            what,
            expected,
            found: bytes.len(),
        })
    }
}

/// The number at `at`; the caller has checked the length.
fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry_id(term: u64, node: u64, index: u64) -> EntryId {
        EntryId {
            leader_id: LeaderId {
                term,
                node_id: node,
            },
            index,
        }
    }

    fn members() -> Members {
        let peer = |n: u64| Peer {
            name: format!("n{n}"),
            address: format!("127.0.0.1:{n}"),
            http: format!("127.0.0.1:1{n}"),
            standby: n == 4,
            replaces: (n == 3).then_some(9),
        };
        let voters = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])];
        Members::new(
            voters,
            (1..=4).map(|n| (n, peer(n))).collect::<BTreeMap<_, _>>(),
        )
        .unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let id = entry_id(3, 9, 77);
        assert_eq!(decode_entry_id(&encode_entry_id(&id)).unwrap(), id);
        assert_eq!(entry_id_of(&log_id_of(&id)).unwrap(), id);

        for committed in [false, true] {
            let ballot = Ballot {
                leader_id: id.leader_id,
                committed,
            };
            assert_eq!(decode_ballot(&encode_ballot(&ballot)).unwrap(), ballot);
        }

        for members in [members(), Members::default()] {
            assert_eq!(
                decode_members(&encode_members(&members).unwrap()).unwrap(),
                members
            );
        }

        let head = SnapshotHead {
            last: Some(id),
            members: StoredMembers::new(Some(entry_id(1, 9, 5)), members()),
            frame: Index(1234),
        };
        assert_eq!(
            decode_snapshot_head(&encode_snapshot_head(&head).unwrap()).unwrap(),
            head
        );
    }

    /// These bytes are in data directories: they may not change.
    #[test]
    fn forms_are_pinned() {
        let id = entry_id(1, 2, 3);
        let numbers = [1u64, 2, 3].map(u64::to_le_bytes).concat();
        assert_eq!(encode_entry_id(&id).as_slice(), numbers);

        let ballot = Ballot {
            leader_id: id.leader_id,
            committed: true,
        };
        assert_eq!(
            encode_ballot(&ballot).as_slice(),
            [&numbers[..16], &[1]].concat()
        );

        let one = Members::new(
            vec![BTreeSet::from([7])],
            BTreeMap::from([(
                7,
                Peer {
                    name: "n".into(),
                    address: "a".into(),
                    http: "h".into(),
                    standby: true,
                    replaces: Some(8),
                },
            )]),
        );
        let bytes = encode_members(&one.unwrap()).unwrap();
        let first = [1, 1, 1, 7, 1, 7, 1, b'n', 1, b'a'];
        let details = [1, 7, 1, b'h', 1, 1, 8];
        assert_eq!(bytes, [&first[..], &details].concat());
        // as it was before there were details
        let read = decode_members(&first).unwrap();
        let peer = read.get_node(&7).unwrap();
        assert_eq!((peer.name.as_str(), peer.http.as_str()), ("n", ""));
        assert!(!peer.standby && peer.replaces.is_none());
        assert_eq!([kind::BLANK, kind::BATCH, kind::MEMBERS], [0, 1, 2]);
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(decode_entry_id(&[0; 23]).is_err());
        assert!(decode_ballot(&[]).is_err());
        assert!(matches!(
            decode_members(&[9, 0]),
            Err(CodecError::Version { found: 9, .. })
        ));
        assert!(decode_members(&[1, 255]).is_err());
        assert!(decode_snapshot_head(&[]).is_err());
        // a voter that no server is known for
        assert!(matches!(
            decode_members(&[1, 1, 1, 7, 0]),
            Err(CodecError::Members { .. })
        ));
    }
}
