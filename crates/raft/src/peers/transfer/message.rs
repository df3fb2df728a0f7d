//! What is said about a snapshot that goes from the leader to a server that lacks it.

use serde::{Deserialize, Serialize};
use tidings_event::{Index, Timestamp};
use tidings_store::{IncomingFile, SegmentDigest};

use crate::peers::message::BallotBytes;

/// The leader has a snapshot, and the history that goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub ballot: BallotBytes,
    /// Entry, members and frame, as in the head of a snapshot on disk.
    pub head: Vec<u8>,
    pub state_bytes: u64,
    pub state_crc: u32,
    /// Oldest first.
    pub segments: Vec<SegmentRecord>,
}

/// What a segment of the history holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentRecord {
    pub first: u64,
    pub count: u64,
    pub bytes: u64,
    pub index_crc: u32,
    /// Microseconds since the epoch.
    pub first_time: i64,
    pub last_time: i64,
}

/// What is missing of an offer. Wire value: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wanted {
    Files {
        /// The number under which the rest is to come.
        transfer: u64,
        /// A file each, and what is there of it already.
        missing: Vec<(FileNumber, u64)>,
    },
    HigherBallot(BallotBytes),
}

/// 0 for the state, or the first frame of a segment.
pub(crate) type FileNumber = u64;

/// A piece of a file. Its bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    pub transfer: u64,
    pub file: FileNumber,
    pub offset: u64,
}

/// A piece is where it belongs; when it was the last of its file, that is what was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {}

/// Everything has gone: it may take the place of the old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Install {
    pub transfer: u64,
}

/// It has, or was not needed any more; or the leader is none any more by this ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Installed {
    pub ballot: BallotBytes,
}

impl From<&SegmentDigest> for SegmentRecord {
    fn from(digest: &SegmentDigest) -> SegmentRecord {
        SegmentRecord {
            first: digest.first.get(),
            count: digest.count,
            bytes: digest.bytes,
            index_crc: digest.index_crc,
            first_time: digest.first_time.as_unix_micros(),
            last_time: digest.last_time.as_unix_micros(),
        }
    }
}

impl From<SegmentRecord> for SegmentDigest {
    fn from(record: SegmentRecord) -> SegmentDigest {
        SegmentDigest {
            first: Index(record.first),
            count: record.count,
            bytes: record.bytes,
            index_crc: record.index_crc,
            first_time: Timestamp::from_unix_micros(record.first_time),
            last_time: Timestamp::from_unix_micros(record.last_time),
        }
    }
}

pub(crate) fn number_of(file: IncomingFile) -> FileNumber {
    match file {
        IncomingFile::State => 0,
        IncomingFile::Segment(first) => first.get(),
    }
}

pub(crate) fn file_of(number: FileNumber) -> IncomingFile {
    match number {
        0 => IncomingFile::State,
        first => IncomingFile::Segment(Index(first)),
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::peers::message::{decode, encode};

    fn pinned<T>(message: T, bytes: &[u8])
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let encoded = encode(&message).unwrap();
        assert_eq!(encoded, bytes, "{message:?}");
        assert_eq!(decode::<T>(&encoded).unwrap(), message);
    }

    /// These bytes go between servers of different versions: they may not change.
    #[test]
    fn messages_are_pinned() {
        const BALLOT: BallotBytes = ([7; 16], 1);
        let segment = SegmentRecord {
            first: 1,
            count: 2,
            bytes: 300,
            index_crc: 4,
            first_time: -1,
            last_time: 1,
        };
        let offer = Offer {
            ballot: BALLOT,
            head: vec![9],
            state_bytes: 5,
            state_crc: 6,
            segments: vec![segment],
        };
        let bytes = [1, 1, 9, 5, 6, 1, 1, 2, 0xac, 2, 4, 1, 2];
        pinned(offer, &[&[7; 16], &bytes[..]].concat());
        let files = Wanted::Files {
            transfer: 3,
            missing: vec![(0, 8)],
        };
        pinned(files, &[0, 3, 1, 0, 8]);
        let higher = [&[1], &[7; 16][..], &[1]].concat();
        pinned(Wanted::HigherBallot(BALLOT), &higher);
        let chunk = Chunk {
            transfer: 3,
            file: 1,
            offset: 2,
        };
        pinned(chunk, &[3, 1, 2]);
        pinned(Taken {}, &[]);
        pinned(Install { transfer: 3 }, &[3]);
        pinned(Installed { ballot: BALLOT }, &[&[7; 16], &[1][..]].concat());
        assert_eq!(SegmentRecord::from(&SegmentDigest::from(segment)), segment);
        for number in [0, 1, u64::MAX] {
            assert_eq!(number_of(file_of(number)), number);
        }
    }
}
